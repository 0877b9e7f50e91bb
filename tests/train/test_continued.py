"""What a run is told when it goes on; its configs are compared in test_loop.py, where there is a finished run."""

import json
import shutil

from attnseg_jax.data.sources import load_source
from attnseg_jax.train import continued


def test_data_that_changed_between_two_parts_are_told_of(make_config, blocks, tmp_path, caplog):
    root = shutil.copytree(blocks, tmp_path / "data")
    data = make_config(data__dir=str(root)).data
    train, val = (load_source(data, split) for split in ("train", "val"))
    continued.check_data(tmp_path, 18, training=train, validation=val)
    assert not caplog.text
    for kind in ("images", "masks"):
        (root / kind / "val/b3.png").unlink()
    continued.check_data(tmp_path, 18, training=train, validation=load_source(data, "val"))
    assert caplog.messages == [
        "the validation data have changed since the last part of this run: 2 files removed (images/val/b3.png, "
        "masks/val/b3.png)"
    ]
    # Said once, and never of a run that begins.
    continued.check_data(tmp_path, 18, training=train, validation=load_source(data, "val"))
    continued.check_data(tmp_path, 0, training=train, validation=train)
    assert len(caplog.messages) == 1
    assert {*json.loads((tmp_path / continued.DATA).read_text())["sha256"]} == {"training", "validation"}


def test_a_listing_that_cannot_be_read_is_no_harm(make_config, tmp_path, caplog):
    source = load_source(make_config().data, "val")
    for text in ("", "{}", '{"files": 3}', '{"files": {"validation": {"b.png": [1]}}}'):
        (tmp_path / continued.DATA).write_text(text)
        continued.check_data(tmp_path, 18, validation=source)
    assert not caplog.text
