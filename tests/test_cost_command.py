"""The command that compares what mechanisms cost."""

import json

import pytest

from attnseg_jax.models import ATTENTION
from attnseg_jax.models.attention import SelfAttention

SCRIPT = "attnseg_jax/cli/cost.py"


class Broken(SelfAttention):
    """Fails in a way nobody foresaw."""

    def __call__(self, features, *, train=False):
        raise KeyError("stride\n16")


@pytest.mark.thorough
def test_a_sweep(call, tmp_path, monkeypatch):
    """Figures, a mechanism that refuses the size, and one with a defect."""
    monkeypatch.setitem(ATTENTION, "broken", Broken)
    files = [f"--json={tmp_path / 'cost.json'}", f"--plot={tmp_path / 'cost.png'}"]
    command = ["--only=none,self,broken", "--channels=5", "--sweep=3x4,5x4", "--repeats=0", *files]
    code, out, _ = call(SCRIPT, *command)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("[1, 3, 4, 5] on ") and lines[5].startswith("[1, 5, 4, 5] on ")
    assert lines[1].split()[:3] == ["mechanism", "parameters", "GFLOP"]
    assert lines[2].split()[:3] == ["none", "0", "0"] and lines[2].endswith(" -")
    assert lines[3].startswith("self       config.model.attention.self.heads=2 does not divide 5 channels")
    assert lines[4] == "broken     KeyError: 'stride\\n16'"
    document = json.loads((tmp_path / "cost.json").read_text())
    assert document["channels"] == 5 and document["versions"].keys() == {"jax", "flax"}
    assert [(row["name"], row["height"], "reason" in row) for row in document["rows"]] == [
        (name, height, name != "none") for height in (3, 5) for name in ("none", "self", "broken")
    ]
    assert (tmp_path / "cost.png").read_bytes()[1:4] == b"PNG"


def test_times_and_one_size(call):
    code, out, _ = call(SCRIPT, "--only=self", "--height=3", "--width=4", "--channels=6", "--repeats=1")
    header, row = (line.split("  ") for line in out.splitlines()[1:])
    header, row = ([word.strip() for word in line if word.strip()] for line in (header, row))
    assert code == 0 and len(header) == len(row) == 10
    figures = dict(zip(header, row))
    assert figures["mechanism"] == "self" and figures["parameters"] == str(4 * 42 + 12)
    assert float(figures["ms"]) > 0 and float(figures["ms grad"]) > 0 and float(figures["GFLOP"]) > 0


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--only=none,slef"], ["--only names 'slef'", "did you mean 'self'?"]),
        (["--sweep=8x16,8"], ["--sweep holds '8'", "HEIGHTxWIDTH"]),
        (["--sweep=0x16"], ["--sweep holds '0x16'"]),
        (["--height=0"], ["--height=0 must be at least 1"]),
        (["--classes=1"], ["--classes=1 must be at least 2"]),
        (["--json=."], ["--json=. is a folder"]),
        (["--plot=/dev/null/cost.png"], ["--plot=/dev/null/cost.png cannot be used"]),
        (["--channels=many"], ["--channels", "many"]),
        (["--chanels=3"], ["unknown flag --chanels", "'channels'"]),
    ],
    ids=lambda x: " ".join(x),
)
def test_mistakes_are_one_line(argv, words, call):
    code, out, err = call(SCRIPT, *argv)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and all(word in err for word in words), err
