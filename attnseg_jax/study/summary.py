"""The records of a study as Markdown tables: means over seeds, IoU of every class, which system is better."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from attnseg_jax.evaluation.counts import ImageCounts
from attnseg_jax.evaluation.tables import fewer_classes, markdown_table, short
from attnseg_jax.study.bootstrap import Comparison, Interval, compare
from attnseg_jax.study.entries import PlannedRun
from attnseg_jax.study.records import Results

Row = dict[str, Any]

# Key of a row, title, how a value is written; the columns of `OPTIONAL` are left out where no row has a value.
COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("miou", "mIoU", "{:.4f}".format),
    ("spread", "spread", "{:.4f}".format),
    ("pixel_accuracy", "pixel accuracy", "{:.4f}".format),
    ("boundary_miou", "boundary mIoU", "{:.4f}".format),
    ("parameters", "parameters", "{:,.0f}".format),
    ("flops", "GFLOP", lambda flops: short(flops * 1e-9)),
    ("temp_bytes", "MiB", lambda size: short(size * 2**-20)),
    ("peak_bytes", "peak MiB", lambda size: short(size * 2**-20)),
    ("step_seconds", "s a step", short),
    ("image_seconds", "s an image", short),
    ("seconds", "seconds", "{:,.0f}".format),
)
OPTIONAL = {
    "boundary_miou": "Boundary mIoU: of the pixels within 2 % of the diagonal of a contour.",
    "peak_bytes": "Peak MiB: of the process that trained and evaluated.",
    "step_seconds": "S a step: of training, without compilation (median).",
    "image_seconds": "S an image: of the evaluation after its first batch, reading included; regions are read too.",
}


def summarize(runs: Sequence[PlannedRun], results: Results) -> list[Row]:
    """A row for each label that has a finished run, the best mean mIoU first.

    A row is a dict of

    - `label`; `seeds`, the finished ones; `mious`, the mIoU of each,
    - the keys of `COLUMNS`: means over the seeds, None where unknown; but `spread` is the largest mIoU minus the
      smallest, None for one seed,
    - `curve`, points of step and mean validation mIoU; `clock`, the same with the seconds of training for the step,
    - `together`, the day on which the times were taken together with those of other systems; None: in the runs,
    - `ious`, class -> mean IoU,
    - `counts`, the encoded counts of the seeds that have them; `left_out`, the classes that count in no mean.
    """
    return _rows((run.entry.label, record) for run in runs if (record := results.finished(run)))


def summarize_records(results: Results) -> list[Row]:
    """The same of all finished runs that have a record, whatever the study of today says."""
    return _rows((record["label"], record) for record in results.records.values() if "result" in record)


def _rows(finished: Iterable[tuple[str, dict[str, Any]]]) -> list[Row]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for label, record in finished:
        groups.setdefault(label, []).append(record)
    return sorted((row_of(label, records) for label, records in groups.items()), key=lambda row: -row["miou"])


def row_of(label: str, records: Sequence[Mapping[str, Any]]) -> Row:
    """The row of a label (see `summarize`) from the records of its finished runs, of which there is at least one."""
    mious = [record["result"]["miou"] or 0.0 for record in records]
    costs = [record["cost"] for record in records if "cost" in record]
    timings = [record.get("timing", {}) for record in records]
    together = max((timing["together"] for timing in timings if "together" in timing), default=None)
    # A mean over times of different machines or days would mean nothing.
    comparable = [timing for timing in timings if timing.get("together") == together]
    times = {key: _mean(timing.get(key) for timing in comparable) for key in ("step_seconds", "image_seconds")}
    curves = [{step: miou for step, miou, *_ in record["curve"]} for record in records]
    steps = sorted(set.intersection(*map(set, curves)))
    curve = [(step, _mean(curve[step] for curve in curves)) for step in steps]
    ious = [record["result"].get("iou", {}) for record in records]
    return {
        "label": label,
        "seeds": [record["seed"] for record in records],
        "mious": mious,
        "miou": statistics.fmean(mious),
        "spread": max(mious) - min(mious) if len(mious) > 1 else None,
        "pixel_accuracy": statistics.fmean(record["result"]["pixel_accuracy"] or 0.0 for record in records),
        "boundary_miou": _mean(record["result"].get("boundary_miou") for record in records),
        "parameters": costs[0]["parameters"] if costs else None,
        "flops": costs[0]["forward"]["flops"] if costs else None,
        "temp_bytes": costs[0]["gradient"]["temp_bytes"] if costs else None,
        "peak_bytes": _mean(timing.get("peak_bytes") for timing in timings),
        **times,
        "together": together,
        "seconds": _mean(record["seconds"] or None for record in records),
        "curve": curve,
        "clock": [(step * pace, miou) for step, miou in curve] if (pace := times["step_seconds"]) else [],
        "ious": {name: _mean(iou.get(name) for iou in ious) for name in dict.fromkeys(n for iou in ious for n in iou)},
        "counts": [record["counts"] for record in records if "counts" in record],
        "left_out": [*dict.fromkeys(name for record in records for name in record["result"].get("left_out", ()))],
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def comparisons(rows: Sequence[Row]) -> dict[tuple[str, str], Comparison]:
    """The comparisons of the labels whose images were counted (see `study.bootstrap.compare`)."""
    return compare({row["label"]: [*map(_counted(row), row["counts"])] for row in rows if row["counts"]})


def _counted(row: Row) -> Callable[[dict[str, Any]], np.ndarray]:
    """Encoded counts -> those of every image for the classes that count in the row's mIoU."""
    left_out = [[*row["ious"]].index(name) for name in row.get("left_out", ())]
    return lambda record: np.delete(ImageCounts.decode(record).everywhere, left_out, axis=1)


def to_markdown(rows: Sequence[Row], failures: Sequence[tuple[str, str]] = ()) -> str:
    """A table of the rows of `summarize`, what its columns mean, and the runs that failed (name, reason).

    >>> print(to_markdown([{"label": "self", "seeds": [0, 1], "miou": 0.5, "spread": 0.25, "pixel_accuracy": 0.75,
    ...     "parameters": 164000, "flops": 2.5e9, "temp_bytes": None, "seconds": 120.4}]))
    | label | seeds | mIoU | spread | pixel accuracy | parameters | GFLOP | MiB | seconds |
    |---|---|---|---|---|---|---|---|---|
    | self | 2 | 0.5000 | 0.2500 | 0.7500 | 164,000 | 2.5 | - | 120 |
    <BLANKLINE>
    Means over the seeds; spread: largest minus smallest mIoU. GFLOP: a crop forward in evaluation; MiB: memory
    of its gradient on a CPU. Seconds: of a run's processes, compilation included.
    """
    known = {key for row in rows for key in OPTIONAL if row.get(key) is not None}
    columns = [column for column in COLUMNS if column[0] not in OPTIONAL or column[0] in known]
    cells = [
        [row["label"], str(len(row["seeds"])), *(_cell(row.get(key), write) for key, _, write in columns)]
        for row in rows
    ]
    lines = [
        *markdown_table(["label", "seeds", *(title for _, title, _ in columns)], cells),
        "",
        "Means over the seeds; spread: largest minus smallest mIoU. GFLOP: a crop forward in evaluation; MiB: memory",
        "of its gradient on a CPU. Seconds: of a run's processes, compilation included.",
        *(meaning for key, meaning in OPTIONAL.items() if key in known),
        *_when(rows, known),
        *_of_fewer_classes(rows),
    ]
    if failures:
        lines += ["", "Not finished:", "", *(f"- {name}: {error}" for name, error in failures)]
    return "\n".join(lines)


def _of_fewer_classes(rows: Sequence[Row]) -> list[str]:
    """A sentence on the rows whose mIoU is not that of all classes."""
    fewer = {row["label"]: fewer_classes(row.get("ious", {}), row.get("left_out", ())) for row in rows}
    texts = [f"{label} {words}" for label, words in fewer.items() if words]
    return [f"Classes in the mIoU: {'; '.join(texts)}."] if texts else []


def _when(rows: Sequence[Row], known: set[str]) -> list[str]:
    """A sentence on when and where the times were taken, since only times taken together can be compared."""
    if not known & {"step_seconds", "image_seconds"}:
        return []
    days: dict[str | None, list[str]] = {}
    for row in rows:
        days.setdefault(row.get("together"), []).append(row["label"])
    texts = []
    # Systems that were not timed together come last.
    for day, labels in sorted(days.items(), key=lambda item: (item[0] is None, item[0])):
        how = f"one after another on one machine, {day}" if day else "those of the runs, each on the machine of its day"
        texts.append(f"of {'all systems' if len(days) == 1 else ', '.join(labels)} {how}")
    return [f"These times: {'; '.join(texts)}."]


def classes_to_markdown(rows: Sequence[Row]) -> str:
    """A table of the IoU of every class, means over the seeds; a label in each row.

    >>> print(classes_to_markdown([{"label": "self", "ious": {"sky": 0.91234, "tram": None}}]))
    | IoU | sky | tram |
    |---|---|---|
    | self | 0.912 | - |
    """
    names = list(dict.fromkeys(name for row in rows for name in row["ious"]))
    cells = [[row["label"], *(_cell(row["ious"].get(name), "{:.3f}".format) for name in names)] for row in rows]
    return "\n".join(markdown_table(["IoU", *names], cells))


def confidences(pairs: Mapping[tuple[str, str], Comparison]) -> dict[str, dict[tuple[str, str], float]]:
    """What else could have been (other images, other seeds) -> pair -> confidence that its first system is better."""
    seeds = {pair: found.seeds.confidence for pair, found in pairs.items() if found.seeds}
    return {
        "other images": {pair: found.images.confidence for pair, found in pairs.items()},
        **({"other images and seeds": seeds} if seeds else {}),
    }


def comparisons_to_markdown(pairs: Mapping[tuple[str, str], Comparison]) -> str:
    """Tables of the confidence, in per cent, that a row's system is better than a column's; a list of the differences.

    >>> pair = Comparison(0.0612, Interval(0.031, 0.0914, 0.9987), None)
    >>> print(comparisons_to_markdown({("self", "fcn"): pair, ("fcn", "self"): Comparison(-0.0612,
    ...     Interval(-0.0914, -0.031, 0.0013), None)}))
    | better than, %: other images | self | fcn |
    |---|---|---|
    | self |  | 99.9 |
    | fcn | 0.1 |  |
    <BLANKLINE>
    | A | B | mIoU of A - B | other images: from | to | A better, % | and other seeds: from | to | A better, % |
    |---|---|---|---|---|---|---|---|---|
    | self | fcn | +0.0612 | +0.0310 | +0.0914 | 99.9 | - | - | - |
    """
    labels = list(dict.fromkeys(label for pair in pairs for label in pair))
    lines = []
    for others, shares in confidences(pairs).items():
        matrix = [[a, *("" if a == b else _cell(shares.get((a, b)), _percent) for b in labels)] for a in labels]
        lines += [*markdown_table([f"better than, %: {others}", *labels], matrix), ""]
    listed = [
        [a, b, _signed(pair.difference), *_ends(pair.images), *_ends(pair.seeds)]
        for (a, b), pair in pairs.items()
        if labels.index(a) < labels.index(b)
    ]
    titles = ["A", "B", "mIoU of A - B"]
    for others in ("other images", "and other seeds"):
        titles += [f"{others}: from", "to", "A better, %"]
    return "\n".join([*lines, *markdown_table(titles, listed)])


def _ends(interval: Interval | None) -> list[str]:
    if interval is None:
        return ["-"] * 3
    return [_signed(interval.low), _signed(interval.high), _percent(interval.confidence)]


def _signed(value: float) -> str:
    return f"{value:+.4f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _cell(value: float | None, write: Callable[[float], str]) -> str:
    return "-" if value is None else write(value)
