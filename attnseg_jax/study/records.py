"""The results of a study: one JSON file with a record for each run, and a few predictions beside it."""

import datetime
import importlib.metadata
import json
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnseg_jax.data import regions
from attnseg_jax.errors import UserError
from attnseg_jax.files import read_series, write_atomically
from attnseg_jax.study.entries import PlannedRun, file_name


class Results:
    """The records of runs in a JSON file, `{hash of the config: record}`; every method that changes them writes it.

    A record holds `label`, `config`, `overrides`, `seed`, `steps`, `seconds` (of its processes, null where unknown),
    `versions` and `date`. That of a failed run also holds `error`, that of a finished run

    - `result`, the scores (see `evaluation.tables.to_json`),
    - `curve`, points of step and validation mIoU,
    - `timing` (see `read_timing`); its `together` is the day on which all systems were timed one after another, if so,
    - `counts`, the pixel counts of every image (see `evaluation.counts.ImageCounts.encode`),
    - `cost`, once measured (a `cost.ModuleCost` of one training crop).

    Older records lack `timing` and `counts`, or have a third number in the points of the curve: seconds.

    The predictions that the first seed of an entry leaves in `WORKDIR/maps` are copied to
    `STEM_predictions/LABEL-HASH-PLACE.png` beside the file `STEM.json`, where the place is that of the image in the
    split.

    Args:
      path: the JSON file, which need not exist yet.

    Raises:
      UserError: the name does not end in .json, or the file holds something else.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if self.path.suffix != ".json":
            # The tables and plots beside it differ from it by their suffix only.
            raise UserError(f"--results={self.path} must end in .json")
        self.records = self._read()

    def beside(self, suffix: str) -> Path:
        """The path beside the file whose name is the file's stem and a suffix."""
        return self.path.with_name(self.path.stem + suffix)

    def finished(self, run: PlannedRun) -> dict[str, Any] | None:
        """The record of a finished run, else None."""
        record = self.records.get(run.key, {})
        return record if "result" in record else None

    def predictions(self, run: PlannedRun) -> dict[int, Path]:
        """The copied predictions of a run: place of the image in the split -> file."""
        prefix = f"{file_name(run.entry.label)}-{run.key}-"
        found = self.beside("_predictions").glob(f"{prefix}*.png")
        places = {path.stem.removeprefix(prefix): path for path in found}
        return {int(place): path for place, path in sorted(places.items()) if place.isdecimal()}

    def add_failure(self, run: PlannedRun, seconds: float, error: str) -> None:
        """Records that a run failed after some seconds, which are added to those of earlier attempts."""
        self._put(run, seconds=self._seconds(run) + seconds, error=error)

    def add_result(self, run: PlannedRun, workdir: Path, seconds: float | None) -> None:
        """Records what a finished run left in its workdir; `seconds` is None where it did not train now."""
        known = self._seconds(run) + (seconds or 0.0)
        if run.seed == run.entry.seeds[0]:
            for path in sorted((workdir / "maps").glob("*.png")):
                self._copy(path, f"{file_name(run.entry.label)}-{run.key}-{path.name}")
        self._put(
            run, seconds=known or None, result=json.loads((workdir / "result.json").read_text()), **_measured(workdir)
        )

    def add_cost(self, run: PlannedRun, cost: dict[str, Any]) -> None:
        """Records what the model of a finished run costs (a `cost.ModuleCost` as a dict)."""
        self.records = self._read()
        self.records[run.key]["cost"] = cost
        self.write()

    def add_timing(self, runs: Sequence[PlannedRun], timing: dict[str, Any]) -> None:
        """Records times for the finished ones of some runs; the keys of their `timing` that are not given stay."""
        self.records = self._read()
        for run in runs:
            if self.finished(run):
                self.records[run.key].setdefault("timing", {}).update(timing)
        self.write()

    def _seconds(self, run: PlannedRun) -> float:
        return self.records.get(run.key, {}).get("seconds") or 0.0

    def _copy(self, path: Path, name: str) -> None:
        target = self.beside("_predictions") / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        except OSError as error:
            raise UserError(f"--results={self.path}: {target} cannot be written ({error.strerror})") from None

    def _put(self, run: PlannedRun, **entries: Any) -> None:
        # Another study may have added records meanwhile.
        self.records = self._read()
        packages = ["jax", "flax", *(["scikit-image"] if regions.used(run.config.data.regions) else [])]
        self.records[run.key] = {
            "label": run.entry.label,
            "config": run.entry.config,
            "overrides": dict(run.entry.overrides),
            "seed": run.seed,
            "steps": run.config.train.steps,
            **entries,
            "versions": {name: importlib.metadata.version(name) for name in packages},
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        self.write()

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            records = json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise UserError(f"--results={self.path} cannot be read ({error.strerror}): name another file") from None
        except ValueError as error:
            raise UserError(f"--results={self.path} is not JSON ({error}): restore it, or name another file") from None
        if not (isinstance(records, dict) and all(isinstance(record, dict) for record in records.values())):
            raise UserError(f"--results={self.path} does not hold the results of a study: name another file")
        return records

    def write(self) -> None:
        """Writes the file; UserError where that cannot be."""
        text = json.dumps(self.records, indent=1, ensure_ascii=False, allow_nan=False)
        try:
            write_atomically(self.path, (text + "\n").encode())
        except OSError as error:
            raise UserError(f"--results={self.path} cannot be written ({error.strerror}): name another file") from None


def read_timing(workdir: Path) -> dict[str, float]:
    """The medians `step_seconds` and `image_seconds` and the largest `peak_bytes` of a run, if it logged them."""
    path = workdir / "timing.jsonl"
    found = read_series(path) if path.exists() else {}
    series = {name: found[name][1] for name in ("step_seconds", "image_seconds", "peak_bytes") if name in found}
    return {name: max(v) if name == "peak_bytes" else statistics.median(v) for name, v in series.items()}


def _measured(workdir: Path) -> dict[str, Any]:
    """Curve, timing and counts of a finished run; an older version may have left only some of them."""
    metrics = read_series(workdir / "metrics.jsonl")
    steps, mious = metrics.get("val_miou", ([], []))
    medians = read_timing(workdir)
    found: dict[str, Any] = {"curve": [list(point) for point in zip(steps, mious)]}
    if medians:
        found["timing"] = medians
    if (workdir / "counts.json").exists():
        found["counts"] = json.loads((workdir / "counts.json").read_text())
    return found
