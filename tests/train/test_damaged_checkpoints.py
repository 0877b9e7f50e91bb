"""Checkpoints whose files changed, are cut short or gone: none is used, and another one is."""

import json
import shutil

import numpy as np
import pytest
from saved import damage, equal, filled, toy

from attnseg_jax.errors import UserError
from attnseg_jax.train.checkpoint import Checkpoints


@pytest.mark.parametrize("how", ["bit", "truncated", "deleted", "manifest"])
def test_falls_back_from_a_damaged_checkpoint(how, tmp_path, caplog):
    with filled(tmp_path) as checkpoints:
        file = damage(tmp_path / "checkpoints/3", how)
        step, state = checkpoints.restore_latest(toy())
        assert step == 2 and equal(state, toy(2))
        (warning,) = [r.getMessage() for r in caplog.records if "damaged" in r.getMessage()]
        assert "checkpoints/3" in warning and ("manifest.json" if how == "manifest" else file.name) in warning
        assert checkpoints.restore_best(toy())[0] == 2
        with pytest.raises(UserError, match="3 is damaged"):
            checkpoints.restore(3, toy())
        # The run comes to the damaged step again and must leave an intact one behind.
        checkpoints.save(3, toy(33))
        checkpoints.add_metrics(3, {"miou": 0.0})
        checkpoints.wait()
        step, state = checkpoints.restore_latest(toy())
        assert step == 3 and equal(state, toy(33))


def test_a_damaged_later_step_does_not_stop_an_earlier_save(tmp_path):
    filled(tmp_path, (10, 20)).close()
    damage(tmp_path / "checkpoints/20", "bit")
    with Checkpoints(tmp_path / "checkpoints", keep=9) as checkpoints:
        assert checkpoints.restore_latest(toy())[0] == 10
        checkpoints.save(15, toy(15))
        checkpoints.add_metrics(15, {"miou": 0.1})
        checkpoints.wait()
        assert sorted(checkpoints.steps()) == [10, 15]
        assert checkpoints.restore_latest(toy())[0] == 15


def test_none_intact_and_none_at_all(tmp_path):
    with filled(tmp_path, (1, 2)) as checkpoints:
        for step in (1, 2):
            damage(tmp_path / f"checkpoints/{step}", "bit")
        with pytest.raises(UserError, match="no checkpoint is intact"):
            checkpoints.restore_latest(toy())
    with Checkpoints(tmp_path / "empty") as checkpoints:
        assert checkpoints.restore_latest(toy()) is None
        assert checkpoints.latest_step() is None and checkpoints.best_step() is None
    with pytest.raises(UserError, match="no checkpoints here"):
        Checkpoints(tmp_path / "missing", read_only=True)
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b'{"metrics": {"miou": 0.9}, "sha256": "1"}', b'{"metrics": {"miou": "x"}}', b"\xff"]
)
def test_damaged_metrics_leave_the_checkpoints_alone(content, tmp_path, caplog):
    filled(tmp_path).close()
    file = tmp_path / "checkpoints/2/metrics.json"
    file.write_bytes(content)
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        step, state = checkpoints.restore_latest(toy())
        assert step == 3 and equal(state, toy(3))
        assert checkpoints.metrics(2) == {} and checkpoints.best_step() == 3
        assert equal(checkpoints.restore(2, toy()), toy(2))
    (warning,) = [r.getMessage() for r in caplog.records if str(file) in r.getMessage()]
    assert "score of this checkpoint is unknown" in warning


def test_only_metrics_that_are_gone_are_missed(tmp_path, caplog):
    with filled(tmp_path) as checkpoints:
        checkpoints.save(9, toy(9))
        assert checkpoints.metrics(9) == {}
    assert "unknown" not in caplog.text
    (tmp_path / "checkpoints/2/metrics.json").unlink()
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.best_step() == 3
    assert "checkpoints/2/metrics.json is missing: the score of this checkpoint is unknown" in caplog.text


def test_another_architecture_is_said_only_where_the_manifest_is_intact(tmp_path, caplog):
    """Every fourth byte of it is flipped, one after another."""
    filled(tmp_path, (1, 2)).close()
    file = tmp_path / "checkpoints/2/manifest.json"
    content = file.read_bytes()
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        for at in range(0, len(content), 4):
            flipped = bytearray(content)
            flipped[at] ^= 1
            file.write_bytes(flipped)
            # Spaces between the values tell nothing.
            if json_or_none(flipped) != json.loads(content):
                assert checkpoints._verify(2).startswith("manifest.json"), at
        assert checkpoints.restore_latest(toy())[0] == 1


def json_or_none(content):
    try:
        return json.loads(content)
    except ValueError:
        return None


@pytest.mark.parametrize("count", [20, pytest.param(400, marks=pytest.mark.slow)])
def test_any_damaged_file_falls_back(count, tmp_path):
    """Emptied, cut, flipped or deleted: never another architecture, a traceback, or other numbers."""
    filled(tmp_path, (1, 2)).close()
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "checkpoints/2", whole)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    rng = np.random.default_rng(0)
    for number in range(count):
        file = tmp_path / "checkpoints/2" / files[number % len(files)]
        content = bytearray(file.read_bytes())
        how = number // len(files) % 4
        if how == 0:
            file.write_bytes(b"")
        elif how == 1:
            file.write_bytes(content[: rng.integers(len(content))])
        elif how == 2:
            content[rng.integers(len(content))] ^= 1 << rng.integers(8)
            file.write_bytes(content)
        else:
            file.unlink()
        with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
            step, state = checkpoints.restore_latest(toy())
        assert equal(state, toy(step)), file
        shutil.rmtree(tmp_path / "checkpoints/2")
        shutil.copytree(whole, tmp_path / "checkpoints/2")
