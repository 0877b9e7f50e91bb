"""Attacks on runs of `train.py`, a few by default and the table of docs/reliability.md with `-m slow`."""

import pytest
import reliability

FEW = {"kill": 5, "sigterm": 3, "sigint": 3, "files": 10, "full": 1, "inputs": 5}
MANY = {"kill": 50, "sigterm": 20, "sigint": 20, "files": 200, "configs": 500, "full": 5, "inputs": 70}


@pytest.mark.parametrize("counts", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
def test_nothing_is_silent_or_unclear(counts, tmp_path):
    found = reliability.attack(counts, tmp_path)
    print(reliability.table(found))
    assert {name: dict(ends) for name, ends in found.items()} == {n: {"recovered": c} for n, c in counts.items()}
