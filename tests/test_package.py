"""What a wheel brings: metadata, the commands, the configs by name, and a clear word where an extra is missing."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from ml_collections import ConfigDict

import attnseg_jax
from attnseg_jax import configs
from attnseg_jax.errors import UserError
from attnseg_jax.train import config as config_files

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def packages(requirements):
    """Their names, as package indices compare them."""
    found = (re.match(r"[A-Za-z0-9._-]+", line) for line in requirements)
    return {re.sub(r"[-_.]+", "-", match[0]).lower() for match in found if match}


def test_every_command_has_a_script_and_its_name_is_its_module():
    files = (ROOT / "attnseg_jax/cli").glob("[!_]*.py")
    commands = {path.stem for path in files if "\nmain = " in path.read_text()}
    assert PROJECT["scripts"] == {f"attnseg-{name}": f"attnseg_jax.cli.{name}:main" for name in commands}


def test_versions_agree():
    assert PROJECT["version"] == attnseg_jax.__version__
    assert f"version: {attnseg_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert (
        f"## {attnseg_jax.__version__}" in (ROOT / "CHANGELOG.md").read_text()
        or "## Unreleased" in (ROOT / "CHANGELOG.md").read_text()
    )


def test_requirements_have_a_tested_version_of_all_that_is_needed():
    extras = PROJECT["optional-dependencies"]
    tested = ("train", "regions", "tiff", "parquet", "export", "test", "docs")
    needed = packages([*PROJECT["dependencies"], *(line for name in tested for line in extras[name])])
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in line for line in pinned)
    assert packages(pinned) == needed - {"attnseg-jax"}


def test_configs_by_name_and_by_path(tmp_path, monkeypatch):
    path = configs.find("compare/fcn")
    assert Path(path).samefile(ROOT / "configs/compare/fcn.py")
    monkeypatch.chdir(tmp_path)
    assert configs.find("compare/fcn") == path
    assert configs.find(f"{ROOT}/configs/camvid.py") == f"{ROOT}/configs/camvid.py"
    assert configs.find("camvid:17") == f"{configs.FOLDER}/camvid.py:17"
    assert configs.find("camvid.py") == "camvid.py"
    with pytest.raises(UserError, match=r"--config=compare/fnc is neither .* did you mean 'compare/fcn'\?"):
        configs.find("compare/fnc")
    for name in configs.names():
        if not name.startswith("studies/"):
            assert isinstance(config_files.read_file(configs.find(name)), ConfigDict)


WITHOUT = """
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in ("optax", "grain") else real(name, *rest)
import attnseg_jax.cli.{name}
"""


@pytest.mark.parametrize("name", ["train", "convert"])
def test_a_command_without_the_extra(name):
    run = subprocess.run([sys.executable, "-c", WITHOUT.format(name=name)], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("error: the commands need optax, grain: ") and '".[train]"' in run.stderr
    assert run.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_wheel_in_a_folder_of_its_own(tmp_path, blocks, blocks_flags):
    """Installed beside the packages of this interpreter, far from the checkout: scripts, configs by name, a study."""
    pytest.importorskip("hatchling")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", f"--wheel-dir={tmp_path}", str(ROOT)]
    subprocess.run(build, check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("attnseg_jax-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    subprocess.run([*pip, "--python", python, "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    assert (site / "attnseg_jax/py.typed").exists()
    # The packages of this interpreter, and of those that it takes packages from.
    places = {sysconfig.get_path("purelib"), *(path for path in sys.path if path.endswith("site-packages"))}
    (site / "others.pth").write_text("\n".join(places))
    (tmp_path / "away").mkdir()

    def start(command, *argv):
        return subprocess.run(
            [tmp_path / "venv/bin" / command, *argv], cwd=tmp_path / "away", capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": "", "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
        )  # fmt: skip

    shown = start("attnseg-train", "--help")
    assert shown.returncode == 0 and "compare/fcn" in shown.stdout, shown.stderr
    assert "--config.data.dir=" in start("attnseg-train", "--config=camvid_resnet18_attention").stderr
    overrides = {**blocks_flags, "data.dir": str(blocks), "train.steps": 3}
    (tmp_path / "away/mine.py").write_text(
        "from attnseg_jax.study.entries import Entry\n"
        f"def get_study(): return [Entry('one', {overrides!r}, {str(site / 'attnseg_jax/configs/default.py')!r})]\n"
    )
    study = start("attnseg-study", "--study=mine.py", "--workdir=out")
    assert study.returncode == 0, study.stderr
    (run,) = (tmp_path / "away/out/runs").iterdir()
    assert start("attnseg-eval", f"--workdir={run}").returncode == 0
