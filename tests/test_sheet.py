"""The command that draws the same images through several runs."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["--runs must be TITLE=WORKDIR"]),
        (["--runs=nowhere"], ["--runs must be TITLE=WORKDIR"]),
        (["--runs=a=nowhere"], ["nowhere", "config.json does not exist"]),
        (["--runs=a=x,b=y,a=z"], ["a title twice"]),
        (["--runs=a=x", "--samples=0"], ["--samples=0 must be at least 1"]),
        (["--runs=a=x", "--out=/dev/null/sheet.png"], ["--out=/dev/null/sheet.png cannot be used"]),
    ],
)
def test_mistakes_are_one_line(flags, words, tmp_path):
    command = [sys.executable, "-m", "attnseg_jax.cli.sheet", f"--out={tmp_path / 'sheet.png'}", *flags]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    lines = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and all(word in lines[0] for word in words), run.stderr
    assert "Traceback" not in run.stderr and not (tmp_path / "sheet.png").exists()
