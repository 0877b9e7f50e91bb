"""The command that draws the same images through several runs."""

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
def test_mistakes_are_one_line(flags, words, call, tmp_path):
    code, out, err = call("attnseg_jax/cli/sheet.py", f"--out={tmp_path / 'sheet.png'}", *flags)
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and all(word in lines[0] for word in words), err
    assert "Traceback" not in err and not (tmp_path / "sheet.png").exists()
