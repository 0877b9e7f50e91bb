"""Compiled programs that commands keep for their next start."""

import os

import jax
import pytest
from absl import flags

from attnseg_jax.cli import compiled
from attnseg_jax.errors import UserError

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture
def keep(monkeypatch, tmp_path):
    """`keep_programs` of a command that was given these arguments; a call returns where the programs go, or None."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    jax.config.update("jax_compilation_cache_dir", None)

    def call(*arguments):
        monkeypatch.setattr(compiled.flags, "FLAGS", flags.FlagValues())
        flags.DEFINE_string(compiled.FLAG, None, "", flag_values=compiled.flags.FLAGS)
        compiled.flags.FLAGS(["command", *arguments])
        compiled.keep_programs()
        return jax.config.jax_compilation_cache_dir if jax.config.jax_enable_compilation_cache else None

    yield call
    for name, value in before.items():
        jax.config.update(name, value)


def test_they_go_to_the_cache_of_the_user_or_where_the_flag_says(keep, tmp_path):
    assert keep().startswith(f"{tmp_path}/user/attnseg_jax/xla/")
    assert keep(f"--compilation_cache={tmp_path}/mine").startswith(f"{tmp_path}/mine/")
    assert keep("--compilation_cache=") is None


def test_a_setting_of_jax_goes_before_the_default(keep, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    assert keep() is None
    assert not (tmp_path / "user").exists()
    assert keep(f"--compilation_cache={tmp_path}/mine").startswith(f"{tmp_path}/mine/")


def test_a_folder_that_others_may_write_into_is_not_trusted(keep, tmp_path, caplog):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    theirs.chmod(0o777)
    with pytest.raises(UserError, match=f"--compilation_cache={theirs}: others may write.*chmod go-w"):
        keep(f"--compilation_cache={theirs}")
    (tmp_path / "user" / "attnseg_jax").mkdir(parents=True)
    os.symlink(theirs, tmp_path / "user" / "attnseg_jax" / "xla")
    assert keep() is None
    assert "compiled programs are not kept" in caplog.text


def test_a_file_is_no_folder(keep, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"--compilation_cache={tmp_path}/file: File exists"):
        keep(f"--compilation_cache={tmp_path}/file")


def test_the_oldest_programs_make_room(keep, monkeypatch, tmp_path):
    monkeypatch.setattr(compiled, "LARGEST", 25)
    folder = tmp_path / "mine" / compiled._processor()
    folder.mkdir(parents=True)
    for age, name in enumerate(["new", "middle", "old"]):
        (folder / name).write_bytes(bytes(10))
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    keep(f"--compilation_cache={tmp_path}/mine")
    assert {path.name for path in folder.iterdir()} == {"new", "middle"}
