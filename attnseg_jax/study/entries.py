"""What a study trains: a list of configs and seeds, each trained by `cli.train` in a process of its own.

A file of `configs/studies/` has a function `get_study()` that returns a list of `Entry`; `plan` makes the runs of it.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ml_collections import ConfigDict

from attnseg_jax.errors import UserError
from attnseg_jax.train import config as configs
from attnseg_jax.train.setup import make_model

# The command that trains a run, and where its process finds this package.
TRAIN = (sys.executable, "-m", "attnseg_jax.cli.train")
_ROOT = str(Path(__file__).parents[2])


@dataclass(frozen=True)
class Entry:
    """One system of a study: a config, trained once for each of its seeds.

    Attributes:
      label: its name in tables.
      overrides: dotted config key -> value that replaces the one of the config file.
      config: config file, relative to the study's file.
      seeds: seeds, one for each run.
    """

    label: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    config: str = "../default.py"
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True, eq=False)
class PlannedRun:
    """One run of a study: an entry with one of its seeds, whose config was read from `file` and checked.

    Attributes:
      changes: dotted config key -> value: all differences of `config` from the file, seed and place of the data too.
      key: hash of the config, by which its record is found; it does not depend on where the data are.
    """

    entry: Entry
    seed: int
    file: Path
    changes: dict[str, Any]
    config: ConfigDict
    key: str

    def __str__(self) -> str:
        return f"{self.entry.label} seed {self.seed}"

    @property
    def name(self) -> str:
        """Name of its folder, which is no other run's."""
        return f"{file_name(self.entry.label)}-{self.seed}-{self.key}"

    def command(self, workdir: Path) -> list[str]:
        """The command line that trains it."""
        values = [f"--config.{key}={value}" for key, value in self.changes.items()]
        return [*TRAIN, f"--config={self.file}", *values, f"--workdir={workdir}"]


def file_name(label: str) -> str:
    """A label as part of a file's name.

    >>> file_name("criss_cross R=2")
    'criss_cross_R_2'
    """
    return re.sub(r"[^A-Za-z0-9+.-]+", "_", label)


def load_study(path: str | Path) -> list[Entry]:
    """The entries that `get_study()` of a file returns.

    Raises:
      UserError: there is no such file or function, or it returns something else.
    """
    entries = configs.call_in_file(f"--study={path}", path, "get_study")
    if not (isinstance(entries, Sequence) and entries and all(isinstance(entry, Entry) for entry in entries)):
        raise UserError(f"--study={path}: get_study() must return a list of attnseg_jax.study.entries.Entry")
    return list(entries)


def plan(entries: Sequence[Entry], folder: Path, data_dir: str | None = None) -> list[PlannedRun]:
    """The runs of a study, in order; every config is checked and its model built, and nothing is compiled.

    Args:
      entries: the study.
      folder: folder that the entries' config files are relative to.
      data_dir: replaces `config.data.dir` of all configs, without changing their hash.

    Raises:
      UserError: an entry whose config cannot be read or built, two entries of one label, two runs of one config.
    """
    runs: dict[str, PlannedRun] = {}
    labels: dict[str, str] = {}
    for entry in entries:
        other = labels.setdefault(file_name(entry.label), entry.label)
        if other != entry.label:
            raise UserError(f"files of {other!r} and {entry.label!r} would have the same names: rename one of them")
        if sum(entry.label == one.label for one in entries) > 1:
            raise UserError(f"two entries of the study are called {entry.label!r}: seeds of one config are one entry")
        for seed in entry.seeds:
            try:
                run = _plan(entry, seed, folder, data_dir)
            except (UserError, TypeError, ValueError) as error:
                raise UserError(f"entry {entry.label!r}: {error}") from error
            if run.key in runs:
                raise UserError(f"'{runs[run.key]}' and '{run}' have the same config {run.key}: remove one of them")
            runs[run.key] = run
    return list(runs.values())


def _plan(entry: Entry, seed: int, folder: Path, data_dir: str | None) -> PlannedRun:
    file = Path(os.path.normpath(folder / entry.config))
    config = configs.read_file(str(file))
    if "seed" in entry.overrides:
        raise UserError("config.seed is set by seeds, not by overrides")
    changes = {**entry.overrides, "seed": seed}
    for key, value in changes.items():
        configs.check_key(config, key)
        config.update_from_flattened_dict({key: value})
    configs.check_values(config)
    make_model(config, 2)
    key = configs.config_hash(config)
    if data_dir is not None:
        changes["data.dir"] = config.data.dir = data_dir
    return PlannedRun(entry, seed, file, changes, config, key)


def train(
    run: PlannedRun, workdir: Path, log: Path, held: BinaryIO, on_wait: Callable[[], None] = lambda: None
) -> tuple[bool, str]:
    """Trains or continues a run in a process of its own and waits for it.

    If this process is told to stop meanwhile, the run saves its step and stops too.

    Args:
      run: the run.
      workdir: its folder.
      log: file that its output is appended to.
      held: the open file that locks the study's folder; the run inherits it, so that the lock outlives this process.
      on_wait: called about once a second.

    Returns:
      Whether it trained now (False: it had finished before), and what went wrong ("": nothing).
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    result = workdir / "result.json"
    before = result.stat().st_mtime_ns if result.exists() else None
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), _ROOT]))}
    with log.open("ab") as output:
        # In a session of its own it is not reached by the keyboard's interrupt, which would lose the steps since its
        # last save.
        child = subprocess.Popen(
            run.command(workdir), stdout=output, stderr=output, pass_fds=[held.fileno()], start_new_session=True,
            env=environment,
        )  # fmt: skip
        try:
            while child.poll() is None:
                on_wait()
                try:
                    child.wait(1.0)
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:
            child.terminate()
            child.wait()
            raise
        finally:
            if child.poll() is None:
                child.kill()
    if child.returncode:
        return True, _reason(child.returncode, log)
    if (workdir / "config.json").read_text() != configs.to_json(run.config):
        return True, f"the values on its command line became another config, see {workdir / 'config.json'}"
    # A finished run is left as it is.
    return result.stat().st_mtime_ns != before, ""


def _reason(code: int, log: Path) -> str:
    if code < 0:
        # The process could not log a reason; signal 9 mostly means that the system ran out of memory.
        return f"killed by {signal.Signals(-code).name}"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else f"ended with code {code}"
