"""What a run that goes on in its workdir is told: that nothing is left to train, what jumps, which data changed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from attnseg_jax.data.listing import Listing, difference, listing, listing_hash
from attnseg_jax.data.sources import Source
from attnseg_jax.errors import UserError
from attnseg_jax.files import write_atomically
from attnseg_jax.train import config as configs
from attnseg_jax.train.optimizer import make_schedule

DATA = "data.json"
"""File of a workdir: the data of the run, by split; see `data.listing`."""

# Where these differ a run without a step to train gives the result that is asked for.
_WITHOUT_EFFECT = {f"config.{key}" for key in (*configs.UNHASHED, "train.steps")}


def check_config(config: ConfigDict, workdir: Path, start: int) -> None:
    """Looks at what differs from the config that the workdir was trained with, before anything is written.

    Args:
      config: the run's.
      workdir: with the `config.json` of the part before, if there was one.
      start: the step that the run goes on from.

    Raises:
      UserError: no step is left to train, so that the differences would do nothing.
    """
    if not start or not (workdir / "config.json").exists():
        return
    old = configs.load(workdir)
    lines = configs.differences(configs.resolve(old), configs.resolve(config))
    lines = [line for line in lines if line.partition(": ")[0] not in _WITHOUT_EFFECT]
    if start >= config.train.steps and lines:
        raise UserError(
            f"{workdir} has trained {start} steps already, so that this would change nothing: {'; '.join(lines)}: "
            f"another --workdir starts anew, config.train.steps above {start} goes on from there"
        )
    before, after = (float(make_schedule(c.optimizer, c.train.steps)(start)) for c in (old, config))
    if abs(after - before) > 1e-6 * max(abs(after), abs(before)):
        logging.warning(
            "the learning rate jumps at step %d: %.3g by the schedule of %d steps before, %.3g by that of %d steps now",
            start, before, old.train.steps, after, config.train.steps,
        )  # fmt: skip


def check_data(
    workdir: Path, start: int, sources: Mapping[str, Source], read: Mapping[str, Listing], *, hashed: bool
) -> None:
    """Writes the listings of a run's splits to `DATA` and warns where they are not those of the part before.

    Args:
      workdir: of the run.
      start: the step that the run goes on from; a run that begins has no part before.
      sources: by the names of their splits.
      read: split -> the files that were read today.
      hashed: whether the others are read too, where the part before does not know them.
    """
    if jax.process_index() != 0:
        return
    path = workdir / DATA
    old = _read(path)
    new = {
        split: listing(source, old.get(split, {}) | read.get(split, {}), hashed=hashed)
        for split, source in sources.items()
    }
    for split, found in new.items():
        if start and split in old and (words := difference(old[split], found)):
            logging.warning("the %s data have changed since the last part of this run: %s", split, words)
    values: dict[str, Any] = {"sha256": {split: listing_hash(found) for split, found in new.items()}, "files": new}
    write_atomically(path, (json.dumps(values) + "\n").encode())


def _read(path: Path) -> dict[str, Listing]:
    """The listings of `DATA`; none where there is no file or one that cannot be read, which is no harm."""
    try:
        files = json.loads(path.read_text())["files"]
        return {
            split: {name: (int(size), int(time), str(digest)) for name, (size, time, digest) in found.items()}
            for split, found in files.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
