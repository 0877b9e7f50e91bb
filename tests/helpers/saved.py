"""States without a model, saved as checkpoints, and what can happen to their files."""

import jax
import jax.numpy as jnp
import numpy as np

from attnseg_jax.train.checkpoint import Checkpoints


def toy(value=0.0, **more):
    """A state without a model: checkpoints know none."""
    return {
        "params": {"conv": {"kernel": jnp.full((3, 5), float(value)), "bias": jnp.full(5, float(value))}, **more},
        "key": jax.random.key(int(value)),
        "empty": {},
        "nothing": None,
    }


def numbers(state):
    keys = jax.dtypes.prng_key
    leaves = jax.tree.leaves(state)
    return [np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, keys) else x) for x in leaves]


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(numbers(a), numbers(b), strict=True))


def damage(folder, how):
    """Damage the largest data file of one checkpoint."""
    file = max((path for path in folder.rglob("d/*") if path.is_file()), key=lambda path: path.stat().st_size)
    if how == "bit":
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif how == "truncated":
        file.write_bytes(file.read_bytes()[:-7])
    elif how == "deleted":
        file.unlink()
    elif how == "manifest":
        (folder / "manifest.json").unlink()
    return file


def filled(path, values=(1, 2, 3), keep=9):
    checkpoints = Checkpoints(path / "checkpoints", keep=keep)
    for step in values:
        checkpoints.save(step, toy(step))
        checkpoints.add_metrics(step, {"miou": step / 10})
    checkpoints.wait()
    return checkpoints
