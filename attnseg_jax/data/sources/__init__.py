"""Sources: random access to decoded (image, label) pairs, from folders, from TFDS, or from outside the package."""

from typing import Any

from attnseg_jax.data.sources.counts import Survey, absent_classes, check_classes, survey
from attnseg_jax.data.sources.protocol import ByWindow, Source, check_sample, check_source
from attnseg_jax.data.sources.resized import ResizedSource
from attnseg_jax.parts import check_takes, is_outside, resolve

__all__ = [
    "SOURCES",
    "ByWindow",
    "ResizedSource",
    "Source",
    "Survey",
    "absent_classes",
    "check_classes",
    "check_sample",
    "load_source",
    "survey",
]

SOURCES: dict[str, str] = {
    "folder": "attnseg_jax.data.sources.folder:FolderSource",
    "tfds": "attnseg_jax.data.sources.tfds:TfdsSource",
}
"""Sources by name (`config.data.source`). Classes are named, not imported: what a folder needs is less than TFDS."""

_KEY = "config.data.source"


def load_source(config: Any, split: str) -> Source:
    """The source a `config.data` describes for `split`, whose pixel fields are resized by `config.resolution`.

    Raises:
      UserError: something is missing or does not fit; the message says what to do.
    """
    make = resolve(SOURCES, config.source, _KEY)
    check_takes(make, f"{_KEY}={config.source!r}", config, split)
    source = make(config, split)
    if is_outside(config.source):
        check_source(source, f"{_KEY}={config.source!r}", split)
    return source if config.resolution == 1 else ResizedSource(source, config.resolution)
