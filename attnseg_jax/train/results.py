"""What the runs of a study gave: one JSON file, keyed by the hash of the config, and a table of means over seeds."""

import datetime
import importlib.metadata
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnseg_jax.errors import UserError
from attnseg_jax.infer import report
from attnseg_jax.infer.files import write_atomically
from attnseg_jax.infer.visualize import read_series
from attnseg_jax.train.study import PlannedRun

# Key of a row, title, how it is written.
COLUMNS = (
    ("miou", "mIoU", "{:.4f}".format),
    ("spread", "spread", "{:.4f}".format),
    ("pixel_accuracy", "pixel accuracy", "{:.4f}".format),
    ("parameters", "parameters", "{:,.0f}".format),
    ("flops", "GFLOP", lambda flops: report.short(flops * 1e-9)),
    ("temp_bytes", "MiB", lambda size: report.short(size * 2**-20)),
    ("seconds", "seconds", "{:,.0f}".format),
)


class Results:
    """The records of runs in a JSON file, `{config hash: record}`; every change is on disk when it returns.

    A record holds `label`, `config`, `overrides`, `seed`, `steps`, `seconds` (of its processes, null where unknown),
    `versions` and `date`; a finished run's also `result` (see `infer.report.to_json`), `curve` (step and validation
    mIoU) and, once measured, `cost` (`infer.cost.ModuleCost` of one training crop); a broken one's `error`.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.records = self._read()

    def finished(self, run: PlannedRun) -> dict[str, Any] | None:
        """The record of a finished run, else None."""
        record = self.records.get(run.key, {})
        return record if "result" in record else None

    def add_failure(self, run: PlannedRun, seconds: float, error: str) -> None:
        """Notes that a run broke after so many seconds, beside those of earlier attempts."""
        self._put(run, seconds=self._before(run) + seconds, error=error)

    def add_result(self, run: PlannedRun, workdir: Path, seconds: float | None) -> None:
        """Notes the result in a finished run's workdir; `seconds` None: it did not train now."""
        known = self._before(run) + (seconds or 0.0)
        curve = read_series(workdir / "metrics.jsonl").get("val_miou", ([], []))
        self._put(
            run,
            seconds=known or None,
            result=json.loads((workdir / "result.json").read_text()),
            curve=[list(point) for point in zip(*curve)],
        )

    def add_cost(self, run: PlannedRun, cost: dict[str, Any]) -> None:
        """Notes what the model of a finished run costs."""
        self.records = self._read()
        self.records[run.key]["cost"] = cost
        self.write()

    def _before(self, run: PlannedRun) -> float:
        return self.records.get(run.key, {}).get("seconds") or 0.0

    def _put(self, run: PlannedRun, **more: Any) -> None:
        # Another study may have added to the file in the meantime.
        self.records = self._read()
        self.records[run.key] = {
            "label": run.entry.label,
            "config": run.entry.config,
            "overrides": dict(run.entry.overrides),
            "seed": run.seed,
            "steps": run.config.train.steps,
            **more,
            "versions": {name: importlib.metadata.version(name) for name in ("jax", "flax")},
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


def summary(runs: Sequence[PlannedRun], results: Results) -> list[dict[str, Any]]:
    """A row for each label with a finished run, by mean mIoU: `label`, `seeds`, means, `mious`, `spread`, `curve`.

    `spread` is the largest less the smallest mIoU, None for one seed; costs not measured are None.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        if record := results.finished(run):
            groups.setdefault(run.entry.label, []).append(record)
    rows = []
    for label, records in groups.items():
        mious = [record["result"]["miou"] or 0.0 for record in records]
        costs = [record["cost"] for record in records if "cost" in record]
        seconds = [record["seconds"] for record in records if record["seconds"]]
        curves = [dict(record["curve"]) for record in records]
        steps = sorted(set.intersection(*map(set, curves)))
        rows.append({
            "label": label,
            "seeds": [record["seed"] for record in records],
            "mious": mious,
            "miou": statistics.fmean(mious),
            "spread": max(mious) - min(mious) if len(mious) > 1 else None,
            "pixel_accuracy": statistics.fmean(record["result"]["pixel_accuracy"] or 0.0 for record in records),
            "parameters": costs[0]["parameters"] if costs else None,
            "flops": costs[0]["forward"]["flops"] if costs else None,
            "temp_bytes": costs[0]["gradient"]["temp_bytes"] if costs else None,
            "seconds": statistics.fmean(seconds) if seconds else None,
            "curve": [(step, statistics.fmean(curve[step] for curve in curves)) for step in steps],
        })  # fmt: skip
    return sorted(rows, key=lambda row: -row["miou"])


def to_markdown(rows: Sequence[dict[str, Any]], failures: Sequence[tuple[str, str]] = ()) -> str:
    """A table of `summary`, what its columns mean, and the runs that broke with their reasons.

    >>> print(to_markdown([{"label": "self", "seeds": [0, 1], "miou": 0.5, "spread": 0.25, "pixel_accuracy": 0.75,
    ...     "parameters": 164000, "flops": 2.5e9, "temp_bytes": None, "seconds": 120.4}]))
    | label | seeds | mIoU | spread | pixel accuracy | parameters | GFLOP | MiB | seconds |
    |---|---|---|---|---|---|---|---|---|
    | self | 2 | 0.5000 | 0.2500 | 0.7500 | 164,000 | 2.5 | - | 120 |
    <BLANKLINE>
    Means over the seeds; spread: largest less smallest mIoU. GFLOP: one training crop forward; MiB: memory of
    its gradient on a CPU. Seconds: of a run's processes, compilation included.
    """
    lines = [
        "| " + " | ".join(["label", "seeds", *(title for _, title, _ in COLUMNS)]) + " |",
        "|---" * (2 + len(COLUMNS)) + "|",
    ]
    for row in rows:
        cells = ["-" if row[key] is None else write(row[key]) for key, _, write in COLUMNS]
        lines.append(f"| {row['label']} | {len(row['seeds'])} | {' | '.join(cells)} |")
    lines += [
        "",
        "Means over the seeds; spread: largest less smallest mIoU. GFLOP: one training crop forward; MiB: memory of",
        "its gradient on a CPU. Seconds: of a run's processes, compilation included.",
    ]
    if failures:
        lines += ["", "Not finished:", "", *(f"- {name}: {error}" for name, error in failures)]
    return "\n".join(lines)
