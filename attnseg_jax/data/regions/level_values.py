"""The check of an option that has one value for each level."""

import itertools
from typing import Any

from attnseg_jax.errors import UserError


def check_levels(key: str, values: tuple[Any, ...], *, kind: Any, rising: bool, wanted: str) -> None:
    """Raises UserError unless `values` are some numbers of a `kind` above 0 that rise strictly, or fall.

    Args:
      key: the option's full config key, for the message.
      values: one for each level, from fine to coarse.
      kind: type of each.
      rising: whether they rise; otherwise they fall.
      wanted: what they must be, for the message.
    """
    good = all(isinstance(v, kind) and v > 0 for v in values)
    ordered = values if rising else values[::-1]
    if not (values and good and all(a < b for a, b in itertools.pairwise(ordered))):
        raise UserError(f"{key}={values} must be {wanted}")
