"""What a run is told when it goes on; its configs are compared in test_loop.py, where there is a finished run."""

import json
import shutil

from attnseg_jax.data import listing as listings
from attnseg_jax.data.listing import adding_to
from attnseg_jax.data.sources import load_source, survey
from attnseg_jax.train import continued


def test_data_that_changed_between_two_parts_are_told_of(make_config, blocks, tmp_path, caplog):
    root = shutil.copytree(blocks, tmp_path / "data")
    data = make_config(data__dir=str(root)).data
    train = load_source(data, "train")

    def look(start):
        continued.check_data(
            tmp_path, start, {"training": train, "validation": load_source(data, "val")}, {}, hashed=True
        )

    look(18)
    assert not caplog.text
    for kind in ("images", "masks"):
        (root / kind / "val/b3.png").unlink()
    look(18)
    assert caplog.messages == [
        "the validation data have changed since the last part of this run: 2 files removed (images/val/b3.png, "
        "masks/val/b3.png)"
    ]
    # Said once, and never of a run that begins.
    look(18)
    (root / "images/val/b2.png").touch()
    (root / "images/train/b0.png").write_bytes(b"")
    look(0)
    assert len(caplog.messages) == 1
    assert {*json.loads((tmp_path / continued.DATA).read_text())["sha256"]} == {"training", "validation"}


def test_a_listing_that_cannot_be_read_is_no_harm(make_config, tmp_path, caplog):
    source = load_source(make_config().data, "val")
    for text in ("", "{}", '{"files": 3}', '{"files": {"validation": {"b.png": [1]}}}'):
        (tmp_path / continued.DATA).write_text(text)
        continued.check_data(tmp_path, 18, {"validation": source}, {}, hashed=True)
    assert not caplog.text


def test_files_are_read_once(make_config, blocks, tmp_path, caplog, monkeypatch):
    """A survey sums up what it reads; without one or a part before, nothing is read, and sizes still tell."""
    root = shutil.copytree(blocks, tmp_path / "data")
    source = load_source(make_config(data__dir=str(root)).data, "val")
    surveyed = {}
    survey(source, on_read=adding_to(surveyed, source))
    assert surveyed == listings.listing(source)
    monkeypatch.setattr(listings, "file_sha256", None)
    continued.check_data(tmp_path, 0, {"validation": source}, {"validation": surveyed}, hashed=True)
    files = json.loads((tmp_path / continued.DATA).read_text())["files"]["validation"]
    assert {name: tuple(entry) for name, entry in files.items()} == surveyed
    # Sums that are known stay known.
    continued.check_data(tmp_path, 18, {"validation": source}, {}, hashed=False)
    assert json.loads((tmp_path / continued.DATA).read_text())["files"]["validation"] == files
    (tmp_path / continued.DATA).unlink()
    continued.check_data(tmp_path, 0, {"validation": source}, {}, hashed=False)
    assert not caplog.text
    with (root / "masks/val/b1.png").open("ab") as file:
        file.write(b"0")
    continued.check_data(tmp_path, 18, {"validation": source}, {}, hashed=False)
    assert caplog.messages == [
        "the validation data have changed since the last part of this run: 1 file changed (masks/val/b1.png)"
    ]
