"""Settings of every test (full-precision products, no silent rank promotion); a small data set, its config."""

import atexit
import os
import runpy
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("TQDM_DISABLE", "1")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Compiled programs of this session, which its processes share.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp()
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax
import numpy as np
import pytest
from absl import app, flags, logging
from PIL import Image

jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Of machine code, not of programs: nearly everything here takes longer to compile than to run.
jax.config.update("jax_disable_most_optimizations", True)

BLOCK_CLASSES = ("red", "green", "blue", "white", "black")
BLOCK_COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (220, 220, 220), (20, 20, 20))


def write_blocks(root, split, count, seed=0):
    """Images of 24 x 32 pixels in which colour tells the class of each 12 x 16 block; a margin is ignored."""
    rng = np.random.default_rng(seed)
    (root / "images" / split).mkdir(parents=True, exist_ok=True)
    (root / "masks" / split).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        label = np.kron(rng.integers(0, len(BLOCK_CLASSES), (2, 2)), np.ones((12, 16), int)).astype(np.uint8)
        image = np.array(BLOCK_COLOURS)[label] + rng.normal(0, 8, (24, 32, 3))
        label[:, :2] = 255
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / "images" / split / f"b{i}.png")
        Image.fromarray(label).save(root / "masks" / split / f"b{i}.png")
    return root


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Modules share few programs, and a process that keeps those of all is up to twice as slow at the end."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def blocks(tmp_path_factory):
    """A folder of 12 training and 5 validation images that a few steps suffice for."""
    root = tmp_path_factory.mktemp("blocks")
    write_blocks(root, "train", 12)
    return write_blocks(root, "val", 5, seed=1)


@pytest.fixture(scope="session")
def blocks_flags(blocks):
    """The config of a tiny model on `blocks` as command-line values `key: value` beside the default config."""
    return {
        "data.source": "folder",
        "data.name": "",
        "data.dir": str(blocks),
        "data.classes": BLOCK_CLASSES,
        "data.crop": (24, 32),
        "data.threads": 2,
        "model.backbone.tiny.width": 8,
        "model.attention.self.channels": 8,
        "model.attention.self.dropout": 0.1,
        "model.decoder.fcn.channels": 8,
        "optimizer.learning_rate": 0.05,
        "optimizer.warmup_steps": 2,
        "optimizer.ema_decay": 0.8,
        "train.batch_size": 16,
        "train.accumulate": 2,
        "train.steps": 6,
        "train.log_every": 2,
        "train.eval_every": 3,
        "eval.batch_size": 8,
        "eval.samples": 2,
    }


@pytest.fixture(scope="session")
def make_config(blocks_flags):
    """Makes that config, as a run begins with it; keyword `train__steps=3` sets `config.train.steps`."""
    from attnseg_jax.configs import default
    from attnseg_jax.weights import catalogue

    def make(**changes):
        config = default.get_config()
        config.update_from_flattened_dict({**blocks_flags, **{k.replace("__", "."): v for k, v in changes.items()}})
        return catalogue.apply(config)

    return make


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Runs a command in this process; returns (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(script, *argv):
        monkeypatch.setattr(sys, "argv", [script, *map(str, argv)])
        # `app` defines flags of its own when it is imported.
        known, filters = set(app.FLAGS), list(logging.get_absl_handler().filters)
        verbosity = logging.get_verbosity()
        code = 0
        try:
            runpy.run_path(str(Path(__file__).parents[1] / script), run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            # Flags belong to the process; the next command defines its own.
            flags.FLAGS.unparse_flags()
            for name in set(flags.FLAGS) - known:
                delattr(flags.FLAGS, name)
            logging.get_absl_handler().filters[:] = filters
            logging.set_verbosity(verbosity)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def train(call, blocks_flags):
    """Runs train.py on the small data set with `key=value` differences."""

    def run(workdir, **changes):
        values = {**blocks_flags, **{key.replace("__", "."): value for key, value in changes.items()}}
        return call("train.py", f"--workdir={workdir}", *(f"--config.{key}={v}" for key, v in values.items()))

    return run
