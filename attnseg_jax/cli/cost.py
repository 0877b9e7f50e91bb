"""Compares what the attention mechanisms cost: parameters, FLOPs, memory and time, forward and with gradient.

    python -m attnseg_jax.cli.cost --height=64 --width=128 --channels=512
    python -m attnseg_jax.cli.cost --only=none,self --sweep=8x16,16x32,32x64 --plot=cost.png --json=cost.json

Each mechanism runs alone, with its default options, on one float32 map [1, height, width, channels].
"""

import datetime
import functools
import importlib.metadata
import json
import re
from dataclasses import asdict
from typing import Any

import jax
from absl import flags, logging

from attnseg_jax import cost
from attnseg_jax.cli import entry
from attnseg_jax.errors import UserError, nearest, option_path
from attnseg_jax.evaluation import tables
from attnseg_jax.files import target, write_atomically
from attnseg_jax.models import ATTENTION
from attnseg_jax.models.build import build_attention
from attnseg_jax.plots import charts

# Key of a row, title, unit's factor.
COLUMNS = (
    ("forward", "flops", "GFLOP", 1e-9),
    ("gradient", "flops", "GFLOP grad", 1e-9),
    ("forward", "bytes_accessed", "MiB moved", 2**-20),
    ("gradient", "bytes_accessed", "MiB moved grad", 2**-20),
    ("forward", "temp_bytes", "MiB temp", 2**-20),
    ("gradient", "temp_bytes", "MiB temp grad", 2**-20),
    ("forward", "milliseconds", "ms", 1.0),
    ("gradient", "milliseconds", "ms grad", 1.0),
)


def _flags() -> None:
    flags.DEFINE_integer("height", 64, "height of the map (default: 64)")
    flags.DEFINE_integer("width", 128, "width of the map (default: 128)")
    flags.DEFINE_integer("channels", 512, "channels of the map (default: 512)")
    flags.DEFINE_integer("classes", 19, "classes, for mechanisms that predict (default: 19)")
    flags.DEFINE_list("only", [], "names of the mechanisms, separated by commas (default: all)")
    flags.DEFINE_list("sweep", [], "HEIGHTxWIDTH of several maps, separated by commas, instead of --height and --width")
    flags.DEFINE_integer("repeats", 5, "timed calls of each program, fewer where they are slow; 0: none (default: 5)")
    flags.DEFINE_float("max_gib", 4.0, "programs with more temporary memory are compiled, not run (default: 4)")
    flags.DEFINE_string("json", None, "JSON to write (default: none)")
    flags.DEFINE_string("plot", None, "PNG of the costs against the size of the map to write (default: none)")


def _measure_all() -> None:
    """Measures and prints."""
    values = flags.FLAGS
    names = values.only or list(ATTENTION)
    for name in names:
        if name not in ATTENTION:
            raise UserError(f"--only names {name!r}, which is unknown: {nearest(name, ATTENTION)}")
    for flag, least in (("height", 1), ("width", 1), ("channels", 1), ("classes", 2), ("repeats", 0)):
        if values[flag].value < least:
            raise UserError(f"--{flag}={values[flag].value} must be at least {least}")
    targets = {flag: target(f"--{flag}", values[flag].value) for flag in ("json", "plot") if values[flag].value}
    sizes = [_size(text) for text in values.sweep] or [(values.height, values.width)]
    rows = []
    for height, width in sizes:
        for name in names:
            logging.info("%s at %dx%d", name, height, width)
            rows.append(_measure(name, height, width))
        print(f"[1, {height}, {width}, {values.channels}] on {jax.default_backend()}")
        print(table([row for row in rows if (row["height"], row["width"]) == (height, width)]), flush=True)
    if path := targets.get("json"):
        write_atomically(path, (json.dumps(_document(rows), indent=1, allow_nan=False) + "\n").encode())
        print(path)
    if path := targets.get("plot"):
        charts.cost_against_size(panels(rows), path)
        print(path)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text.strip())
    if not match:
        raise UserError(f"--sweep holds {text!r}: sizes are written HEIGHTxWIDTH, such as 16x32")
    return int(match[1]), int(match[2])


def _measure(name: str, height: int, width: int) -> dict[str, Any]:
    """A row: the costs, or the reason why there are none."""
    values = flags.FLAGS
    row = {"name": name, "height": height, "width": width}
    try:
        mechanism = build_attention(name, {}, values.classes)
        with option_path(f"config.model.attention.{name}"):
            found = cost.attention_cost(
                mechanism, height, width, values.channels, num_classes=values.classes, repeats=values.repeats,
                max_bytes=values.max_gib * 2**30,
            )  # fmt: skip
        return {**row, **asdict(found)}
    except Exception as error:
        # One mechanism's trouble must not cost the figures of the others.
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        return {**row, "reason": kind + " ".join(str(error).split())}
    finally:
        jax.clear_caches()


def table(rows: list[dict[str, Any]]) -> str:
    """Plain text: a line per row, with the reason instead of figures where there are none; `-` where nothing ran."""
    cells = []
    for row in rows:
        if "reason" in row:
            cells.append([row["name"], row["reason"]])
            continue
        values = [(row[program][key], factor) for program, key, _, factor in COLUMNS]
        figures = [tables.short(None if value is None else value * factor) for value, factor in values]
        cells.append([row["name"], f"{row['parameters']:,}", *figures])
    return "\n".join(tables.text_table(["mechanism", "parameters", *(title for *_, title, _ in COLUMNS)], cells))


def panels(rows: list[dict[str, Any]]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """The points of `charts.cost_against_size`, without the bytes, which hardly differ from the time."""
    measured = [row for row in rows if "reason" not in row]
    names = dict.fromkeys(row["name"] for row in measured)
    result: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for program, key, title, factor in COLUMNS:
        if key == "bytes_accessed":
            continue
        result[title] = {name: [] for name in names}
        for row in measured:
            if row[program][key] is not None:
                result[title][row["name"]].append((row["height"] * row["width"], row[program][key] * factor))
    return {title: lines for title, lines in result.items() if any(lines.values())}


def _document(rows: list[dict[str, Any]]) -> dict[str, Any]:
    values = flags.FLAGS
    return {
        "channels": values.channels,
        "classes": values.classes,
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "flax")},
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "rows": rows,
    }


main = functools.partial(entry.run, _measure_all, _flags, usage=__doc__)

if __name__ == "__main__":
    main()
