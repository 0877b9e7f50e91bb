"""Attacks on runs of `train.py`: a few, and with `-m slow` the whole table of docs/reliability.md."""

import pytest
import reliability
from reliability.runs import SHORT, Runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"), **SHORT)


@pytest.mark.thorough
@pytest.mark.parametrize(("attack", "tries"), [("kill", 2), ("full", 1), ("files", 5), ("inputs", 3)])
def test_nothing_is_silent_or_unclear(attack, tries, runs):
    assert reliability.count({attack: tries}, lambda: runs) == {attack: {"recovered": tries}}


@pytest.mark.slow
def test_the_whole_table(tmp_path):
    tries = {name: number for name, (_, number, _) in reliability.ATTACKS.items()}
    found = reliability.count(tries, lambda: Runs(tmp_path))
    print(reliability.table(found))
    assert found == {name: {"recovered": number} for name, number in tries.items()}
