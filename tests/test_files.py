"""Files: whole or absent, read as far as they go, known by their bytes."""

import hashlib

import pytest

from attnseg_jax.errors import UserError
from attnseg_jax.files import file_sha256, read_series, write_atomically


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_series_names_the_file_that_is_missing_or_broken(tmp_path):
    with pytest.raises(UserError, match=r"metrics\.jsonl: no such file"):
        read_series(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\noops\n{"step": 2}\n')
    with pytest.raises(UserError, match="line 2 is not JSON"):
        read_series(tmp_path / "metrics.jsonl")


def test_the_digest_is_that_of_the_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"weights")
    assert file_sha256(tmp_path / "file") == hashlib.sha256(b"weights").hexdigest()
