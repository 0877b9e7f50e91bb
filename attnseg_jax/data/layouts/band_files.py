"""Images of several files, such as one for each band of a satellite: `{band}` in the template of the images."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from attnseg_jax.data.layouts.pairing import Pair, name_of
from attnseg_jax.data.layouts.templates import matches
from attnseg_jax.data.layouts.tree import Tree
from attnseg_jax.errors import UserError

BAND = "{band}"


def of_first_band(config: Any) -> str:
    """The template of the images of a `config.data`, that of the first of its `bands` where it has some.

    Raises:
      UserError: `bands` and `images` do not go together.
    """
    if bool(config.bands) != (BAND in config.images):
        raise UserError(
            f"config.data.bands={config.bands} and config.data.images={config.images!r} do not go together: "
            f"{BAND} in the template stands for each of the bands"
        )
    return config.images.replace(BAND, config.bands[0]) if config.bands else config.images


def with_bands(tree: Tree, images: str, bands: Sequence[str], pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs of the first band with the files of the others.

    Args:
      tree: the files of the set.
      images: template of one split, with `{band}`.
      bands: names of all.
      pairs: whose images are those of the first.

    Raises:
      UserError: a file is missing.
    """
    others = [images.replace(BAND, band) for band in bands[1:]]
    found = [{name_of(values): path for path, values in matches(tree, template)} for template in others]
    for pair in pairs:
        if lacking := [template for template, files in zip(others, found) if pair.name not in files]:
            raise UserError(
                f"{tree.root / pair.image}: a band of the picture is missing, one of {lacking[0]}: restore it, or name "
                "the image in config.data.leave_out"
            )
    return [replace(pair, bands=tuple(files[pair.name] for files in found)) for pair in pairs]
