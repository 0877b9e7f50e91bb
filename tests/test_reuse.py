"""The package from another project: what the name alone brings in, and its lazy names."""

import pathlib
import subprocess
import sys

import pytest

import attnseg_jax

ROOT = pathlib.Path(__file__).parents[1]
HEAVY = {"optax", "orbax", "tensorflow", "tensorflow_datasets", "grain", "ml_collections", "PIL", "matplotlib", "torch"}
CODE = """
import sys
sys.path.append({root!r})
loaded = lambda: print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
import attnseg_jax
loaded()
from attnseg_jax.ops import attention, losses
loaded()
model = attnseg_jax.build_model({{}}, num_classes=7)
import attnseg_jax.weights.rename
loaded()
"""


def test_each_step_brings_in_no_more_than_it_needs(tmp_path):
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE.format(root=str(ROOT))], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    name, ops, models = (set(line.split()) for line in run.stdout.splitlines())
    assert not name & {"jax", "flax", "numpy"} | name & HEAVY
    assert "jax" in ops and not ops & {"flax", *HEAVY}
    assert {"jax", "flax"} <= models and not models & HEAVY


def test_lazy_names_are_those_of_their_modules():
    from attnseg_jax import models
    from attnseg_jax.inference import predictor, pretrained

    homes = {"load_pretrained": pretrained, "Predictor": predictor}
    for name in attnseg_jax.__all__:
        assert getattr(attnseg_jax, name) is getattr(homes.get(name, models), name)
    with pytest.raises(AttributeError, match="has no attribute 'build_modle'"):
        attnseg_jax.build_modle  # noqa: B018


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "attnseg_jax.inference.pretrained", None)
    with pytest.raises(ImportError, match=r"load_pretrained needs the package .*: pip install 'attnseg_jax\[train\]'"):
        attnseg_jax.load_pretrained  # noqa: B018
