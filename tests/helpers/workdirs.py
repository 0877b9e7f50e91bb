"""What a run left, and whether two runs are the same."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from attnseg_jax.train import config as configs
from attnseg_jax.train import setup
from attnseg_jax.train.checkpoint import Checkpoints


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def final_state(config, workdir):
    """(step, leaves by path) of the newest checkpoint."""
    abstract = setup.make_run(config, 5).abstract
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        step, state = checkpoints.restore_latest(abstract)
    state = state.replace(key=jax.random.key_data(state.key))
    return step, {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}


def assert_same_run(config, one, other):
    """Bit-equal states and the same metrics, letter by letter."""
    (step, state), (other_step, other_state) = final_state(config, one), final_state(config, other)
    assert step == other_step == config.train.steps
    parts = {name.split(".")[1].split("[")[0] for name in state}
    assert parts == {"step", "params", "batch_stats", "opt_state", "ema", "key"}
    assert state.keys() == other_state.keys()
    for name in state:
        np.testing.assert_array_equal(state[name], other_state[name], err_msg=name, strict=True)
    assert (one / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()
    assert (one / "result.json").read_text() == (other / "result.json").read_text()


def save_random_run(config, folder, classes=5, step=7):
    """A workdir with the config and one checkpoint of random numbers, which keep the size of what goes through."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(configs.to_json(config))
    rng, abstract = np.random.default_rng(0), setup.make_run(config, classes).abstract

    def draw(path, x):
        scale = 1.5 / np.sqrt(np.prod(x.shape[:-1])) if len(x.shape) > 1 else 0.2
        around = 1.0 if jax.tree_util.keystr(path).endswith(("['scale']", "['var']")) else 0.0
        return jnp.asarray(around + scale * rng.uniform(-1, 1, x.shape), x.dtype)

    state = jax.tree_util.tree_map_with_path(draw, abstract.replace(key=None)).replace(key=jax.random.key(0))
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(step, state)
        checkpoints.add_metrics(step, {"miou": 0.5})
    return folder
