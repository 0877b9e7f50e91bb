"""The arrays of weights that were located, whole ones and differences."""

from collections.abc import Mapping

import numpy as np
from absl import logging
from flax.traverse_util import flatten_dict

from attnseg_jax.errors import UserError
from attnseg_jax.weights import catalogue
from attnseg_jax.weights.files import read_weights
from attnseg_jax.weights.layouts import rules_of
from attnseg_jax.weights.locate import Located, locate
from attnseg_jax.weights.rename import from_torch, listed


def read_located(located: Located, *, key: str) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of a file, and the layout of their names where it is known.

    Of weights that are published as differences from others, these are located too, and added: the sums then have this
    package's names, of which the layout is told by `fit`.

    Args:
      located: the file.
      key: of the config or command that named it, for messages.

    Raises:
      UserError: a file cannot be read, or those that it is a difference from cannot be had.
    """
    arrays, known = read_weights(located.path), catalogue.entry(located.given)
    if known is None:
        return arrays, ""
    _, published = known
    base = getattr(published, "base", "")
    if not base:
        return arrays, published.layout
    whole = read_weights(locate(base, key=key).path)
    logging.info("%s: differences, which are added to %s", located.given, base)
    given = _named(arrays, published.layout)
    try:
        return added(given, _named(whole, catalogue.CATALOGUE[base].layout)), ""
    except UserError as error:
        raise UserError(f"{key}={located.given}: {error}") from None


def added(differences: Mapping[str, np.ndarray], whole: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`differences`, those of the backbone added to `whole`, whose names are the backbone's.

    Raises:
      UserError: one side has a parameter of the backbone that the other has not, or has it in another shape.

    >>> one = np.ones(1)
    >>> added({"params.backbone.a": one, "params.decoder.b": one}, {"params.backbone.a": one})
    {'params.backbone.a': array([2.]), 'params.decoder.b': array([1.])}
    """
    own = {name for name in differences if name.startswith("params.backbone.")}
    if unlike := own ^ set(whole) | {n for n in own & set(whole) if differences[n].shape != whole[n].shape}:
        raise UserError(f"the differences are not from these weights: {listed(sorted(unlike))}")
    return {name: x + whole[name] if name in own else x for name, x in differences.items()}


def _named(arrays: Mapping[str, np.ndarray], layout: str) -> dict[str, np.ndarray]:
    return flatten_dict(from_torch(arrays, rules_of(layout)), sep=".")
