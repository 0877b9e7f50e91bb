"""More attacks of tests/test_reliability.py, in a file of their own, which another worker can take."""

import pytest
import reliability
from reliability.runs import SHORT, Runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"), **SHORT)


@pytest.mark.thorough
@pytest.mark.parametrize(("attack", "tries"), [("sigterm", 2), ("sigint", 1)])
def test_nothing_is_silent_or_unclear(attack, tries, runs):
    assert reliability.count({attack: tries}, lambda: runs) == {attack: {"recovered": tries}}
