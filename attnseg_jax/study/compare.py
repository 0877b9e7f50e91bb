"""Which of several systems is better on a split, and by how much: in words, and as JSON."""

import glob
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from attnseg_jax.errors import UserError
from attnseg_jax.evaluation.tables import finite, text_table
from attnseg_jax.files import expanded
from attnseg_jax.inference.evaluation import Result
from attnseg_jax.ops.metrics import mean_of_known
from attnseg_jax.study.bootstrap import RESAMPLES, Comparison, Interval, compare


def members(systems: Sequence[str]) -> dict[str, list[Path]]:
    """The folders of each system: several, its seeds, where the name is a pattern or has commas.

    Raises:
      UserError: there are fewer than two systems, two of one name, or a folder is not there.
    """
    if len(systems) < 2:
        raise UserError("--compare needs two systems or more: --compare runs/a runs/b")
    found: dict[str, list[Path]] = {}
    for name in systems:
        if name in found:
            raise UserError(f"--compare names {name} twice")
        paths = [path for part in name.split(",") for path in sorted(glob.glob(str(expanded(part))))]
        found[name] = [Path(path) for path in dict.fromkeys(paths) if Path(path).is_dir()]
        if not found[name]:
            raise UserError(f"--compare: there is no folder {name}")
    return found


def compare_systems(systems: Mapping[str, Sequence[Path]], evaluate: Callable[[Path], Result]) -> tuple[str, str]:
    """Scores all systems on one split and compares each with each; see `bootstrap.compare` for the statistics.

    Args:
      systems: name -> a folder for each seed.
      evaluate: scores a folder.

    Returns:
      A table and a sentence for each pair, and the same as one line of JSON.

    Raises:
      UserError: the systems were not scored on the same images and classes.
    """
    results: dict[str, list[Result]] = {}
    for name, folders in systems.items():
        for folder in folders:
            logging.info("scoring %s", folder)
            found = evaluate(folder)
            results.setdefault(name, []).append(found)
            first = next(iter(results.values()))[0]
            if tuple(found.source.info.class_names) != tuple(first.source.info.class_names):
                raise UserError(f"--compare: {name} has other classes than {next(iter(results))}")
    try:
        pairs = compare({name: [r.evaluation.scores.counted for r in found] for name, found in results.items()})
    except ValueError as error:
        raise UserError(f"--compare: {error}") from None
    mious = {name: [result.evaluation.scores.miou for result in found] for name, found in results.items()}
    best_first = sorted(mious, key=lambda name: -mean_of_known(np.array(mious[name])))
    shown = [(a, b) for i, a in enumerate(best_first) for b in best_first[i + 1 :]]
    rows = [[name, f"{np.mean(mious[name]):.4f}", str(len(mious[name]))] for name in best_first]
    lines = text_table(["system", "mIoU", "seeds"], rows)
    images, split = len(first.source), first.split
    sentences = [_sentence(a, b, mious, pairs[a, b], f"the {images} images of {split}") for a, b in shown]
    values = {
        "split": split,
        "images": images,
        "systems": {name: [finite(value) for value in mious[name]] for name in best_first},
        "pairs": [
            {
                **{"a": a, "b": b, "difference": finite(pairs[a, b].difference)},
                **{"images": _as_json(pairs[a, b].images), "seeds": _as_json(pairs[a, b].seeds)},
            }
            for a, b in shown
        ],
    }
    return "\n".join([*lines, "", *sentences]), json.dumps(values, ensure_ascii=False)


def _sentence(a: str, b: str, mious: Mapping[str, Sequence[float]], found: Comparison, where: str) -> str:
    """What a paper would say of a pair."""
    means = [np.mean(mious[name]) for name in (a, b)]
    interval = found.seeds or found.images
    if found.seeds:
        seeds = f"{len(mious[a])} and {len(mious[b])} seeds"
        method = f"Welch's t over {seeds} with the variance of a paired bootstrap over images"
    else:
        method = f"paired bootstrap over images, {RESAMPLES:,} resamples; what other seeds would give is not known"
    clear = interval.low > 0 or interval.high < 0
    verdict = f"{a} is better than {b}" if clear else f"{a} and {b} do not differ clearly"
    return (
        f"On {where} {verdict}: mIoU {means[0]:.4f} against {means[1]:.4f}, a difference of {found.difference:+.4f} "
        f"(95 % interval {interval.low:+.4f} to {interval.high:+.4f}; {method})."
    )


def _as_json(interval: Interval | None) -> dict[str, float | None] | None:
    if interval is None:
        return None
    return {name: finite(getattr(interval, name)) for name in ("low", "high", "confidence")}
