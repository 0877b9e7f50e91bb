"""The documents: their commands name keys and configs that exist, their links lead somewhere, their examples work."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

from attnseg_jax import configs
from attnseg_jax.train import config as config_files

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = re.compile(r'^```python(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$', re.S | re.M)


def page_ids(path):
    return str(path.relative_to(ROOT))


def commands(text):
    """The indented lines, continued ones joined, and what stands in backticks."""
    lines = re.findall(r"^ {4}\S.*$", text.replace("\\\n", " "), re.M)
    return [*lines, *re.findall(r"`([^`]+)`", text)]


@pytest.fixture(scope="module")
def default():
    return config_files.read_file(configs.find("default"))


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_keys_and_names_in_commands_exist(page, default):
    for command in commands(page.read_text()):
        for key in re.findall(r"--config\.([\w.]+)", command):
            if key != "key":
                config_files.check_key(default, key)
        for flag, name in re.findall(r"--(config|study)=([\w./]+)", command):
            if not name.startswith(("path/", "...")):
                assert name in configs.names() or (ROOT / name).is_file(), f"--{flag}={name}"
        for name in re.findall(r"(?:-m attnseg_jax\.cli\.|attnseg-)(\w+)", command):
            assert name == "NAME" or (ROOT / f"attnseg_jax/cli/{name}.py").is_file(), name


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_links_to_files_lead_somewhere(page):
    # `mkdocs build --strict` looks at those of the site; README and CONTRIBUTING.md are read elsewhere too.
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" not in link and not link.startswith("#"):
            target = page.parent / link.partition("#")[0]
            assert target.exists() or target == ROOT / "docs/reference/index.md", link


def test_one_section_for_each_mechanism():
    from attnseg_jax.models import ATTENTION

    described = re.findall(r"^\*\*`(\w+)`\*\*", (ROOT / "docs/attention.md").read_text(), re.M)
    assert {*ATTENTION} - {"none"} <= {*described} and len(described) == len({*described})


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_examples_are_python(page):
    for match in CODE.finditer(page.read_text()):
        compile(match["text"], str(page), "exec")


@pytest.fixture(scope="module")
def my_parts(tmp_path_factory):
    """A folder with the package `my_parts` of the how-to pages, on the path."""
    folder = tmp_path_factory.mktemp("outside")
    for page in (ROOT / "docs/howto").glob("*.md"):
        for match in CODE.finditer(page.read_text()):
            if match["title"]:
                (folder / match["title"]).parent.mkdir(exist_ok=True)
                (folder / match["title"]).write_text(match["text"])
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_parts"]:
        del sys.modules[name]


def howto_flags(page):
    """The flags of the page's commands that train with a part of `my_parts`."""
    return [
        [word for word in shlex.split(command) if word.startswith("--config.")]
        for command in commands(page.read_text())
        if "my_parts" in command and "train.py" in command
    ]


HOWTO = [page for page in sorted((ROOT / "docs/howto").glob("*.md")) if howto_flags(page)]


@pytest.mark.slow
@pytest.mark.parametrize("page", HOWTO, ids=lambda page: page.stem)
@pytest.mark.filterwarnings(r"ignore:the load_module\(\) method is deprecated:DeprecationWarning")
def test_following_a_recipe(page, my_parts, blocks_flags, call, tmp_path):
    """Its file and its command, on the small data set, two steps; then `eval.py` of that run."""
    # Libraries define flags when they are imported, which `call` would delete.
    importlib.import_module("attnseg_jax.inference.evaluation")
    for i, flags in enumerate(howto_flags(page)):
        small = {**blocks_flags, "train.steps": 2, "train.eval_every": 2, "train.accumulate": 1, "eval.samples": 1}
        chosen = {flag.partition("=")[0] for flag in flags}
        rest = [f"--config.{key}={value}" for key, value in small.items() if f"--config.{key}" not in chosen]
        workdir = tmp_path / f"run{i}"
        code, _, err = call("train.py", *rest, *flags, f"--workdir={workdir}")
        assert code == 0, err
        assert call("eval.py", f"--workdir={workdir}")[0] == 0


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    """Every cell of the tutorial, in a folder of its own."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "")
    notebook = nbformat.read(ROOT / "docs/tutorial.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") for cell in notebook.cells), "clear the outputs before you commit"
    client = nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(output.get("text", "") for output in shown)
    assert "validation mIoU" in text and "boundary mIoU" in text
    assert sum("image/png" in output.get("data", {}) for output in shown) == 3
    assert (tmp_path / "sheet.png").exists()
