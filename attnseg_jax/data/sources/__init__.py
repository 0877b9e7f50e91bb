"""Sources: random access to decoded (image, label) pairs, from folders, from TFDS, or from outside the package."""

from typing import Any

from attnseg_jax.data.sources.counts import Survey, absent_classes, check_classes, survey
from attnseg_jax.data.sources.protocol import Source, check_sample
from attnseg_jax.data.sources.resized import ResizedSource
from attnseg_jax.errors import UserError
from attnseg_jax.parts import resolve

__all__ = [
    "SOURCES",
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
    place = resolve(SOURCES, config.source, _KEY)
    source = (resolve({}, place, _KEY) if isinstance(place, str) else place)(config, split)
    missing = [name for name in ("info", "size", "__len__", "__getitem__") if not hasattr(source, name)]
    if missing:
        raise UserError(
            f"{_KEY}={config.source!r} has no {', '.join(missing)}: see attnseg_jax.data.sources.Source for what a "
            "source needs"
        )
    return source if config.resolution == 1 else ResizedSource(source, config.resolution)
