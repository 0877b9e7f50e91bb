"""What an import brings in, and which room may import which."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "attnseg_jax"
TRAINING = {"optax", "orbax", "tensorflow", "tensorflow_datasets", "grain"}

LOAD = """
import importlib, pkgutil, sys
room = importlib.import_module({room!r})
for module in pkgutil.walk_packages(room.__path__, {room!r} + "."):
    importlib.import_module(module.name)
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


@pytest.mark.parametrize(
    "room, forbidden",
    [
        ("attnseg_jax.ops", {*TRAINING, "flax", "ml_collections", "PIL", "matplotlib", "tensorboardX"}),
        ("attnseg_jax.models", TRAINING),
    ],
)
def test_a_room_brings_in_only_what_it_needs(room, forbidden):
    """All submodules of the room, in a fresh process."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOAD.format(room=room)], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    loaded = set(run.stdout.split())
    assert "jax" in loaded  # the list is not empty
    assert not loaded & forbidden


# What each part of the package may import from the package, besides itself. Parts of one name are directories.
MAY_IMPORT = {
    "errors": set(),
    "files": {"errors"},
    "parts": {"errors"},
    "configs": {"errors"},
    "ops": {"errors"},
    "data": {"ops.labels", "files", "parts", "errors"},
    "models": {"ops", "parts", "errors"},
    "evaluation": {"ops", "files", "parts", "errors"},
    "plots": {"evaluation", "models", "data", "ops", "files", "parts", "errors"},
    "cost": {"models", "ops", "errors"},
    "weights": {"models", "ops", "files", "parts", "errors"},
    "train.checkpoint": {"train.manifest", "train.orbax_arrays", "files", "errors"},
    "train": {"configs", "weights", "plots", "evaluation", "models", "data", "ops", "files", "parts", "errors"},
    "inference": {
        *("train", "weights", "plots", "evaluation", "models", "data", "ops", "files", "parts", "errors"),
        # Exported models say by which version.
        "__version__",
    },
    "planning": {"cost", "train", "models", "data", "ops", "errors"},
    "study": {"inference", "train", "cost", "plots", "evaluation", "models", "data", "ops", "files", "parts", "errors"},
    "cli": {
        *("study", "planning", "inference", "train", "cost", "weights", "plots", "evaluation"),
        *("models", "data", "ops", "configs", "files", "parts", "errors"),
    },
}


def sources():
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def part_of(path):
    """`attnseg_jax/train/checkpoint.py` -> 'train.checkpoint' if that has its own rule, else 'train'."""
    names = path.relative_to(PACKAGE).with_suffix("").parts
    own = ".".join(names[:2])
    return own if own in MAY_IMPORT else names[0]


def imports(path):
    """Absolute names of all the package's modules that a file imports, wherever in the file."""
    package = ["attnseg_jax", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from a import b` may name a module b or a thing in a; both spellings are given.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def allowed(name, part):
    inner = name.removeprefix("attnseg_jax.")
    known = MAY_IMPORT[part] | {part} | ({"train"} if part == "train" else set())
    return any(inner == other or inner.startswith(other + ".") for other in known)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    part = part_of(path)
    assert part in MAY_IMPORT, f"{part} has no rule yet: add one"
    for name in imports(path):
        if name.split(".")[0] == "attnseg_jax":
            assert allowed(name, part), f"{path.relative_to(ROOT)} may not import {name}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_escape_by_type_checking(path):
    assert "TYPE_CHECKING" not in path.read_text()


@pytest.mark.parametrize("path", sorted((PACKAGE / "ops").rglob("*.py")), ids=lambda path: path.name)
def test_ops_import_three_packages_only(path):
    outside = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names)
    assert outside <= {"jax", "numpy", "jaxtyping", "attnseg_jax"}


@pytest.mark.parametrize(
    "line, expected",
    [
        ("import attnseg_jax.models.segmenter", False),
        ("from attnseg_jax import models", False),
        ("from attnseg_jax.models import build_model", False),
        ("from ..models import features", False),
        ("def f():\n    from attnseg_jax.train import loop", False),
        ("from attnseg_jax.errors import UserError", True),
        ("from . import labels", True),
    ],
)
def test_the_walk_sees_every_form_of_import(tmp_path, monkeypatch, line, expected):
    """The rule above can fail: each forbidden form is caught in an imaginary file of `ops`."""
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "ops").mkdir()
    path = tmp_path / "ops" / "new.py"
    path.write_text(line)
    assert all(allowed(name, part_of(path)) for name in imports(path)) is expected
