"""A split by a hash of names, for data sets that come without a validation split."""

import hashlib
import re
from collections.abc import Collection, Sequence

from attnseg_jax.errors import UserError

_WANTED = "() or ('hash', share of the validation pictures), with a third value a pattern that finds groups in names"


def check_split(split: Sequence) -> None:
    """Raises UserError for a `config.data.split` that cannot be.

    >>> check_split(("hash", 2.0))
    Traceback (most recent call last):
    attnseg_jax.errors.UserError: config.data.split=('hash', 2.0) must be () or ('hash', share of the validation ...
    """
    fits = isinstance(split, tuple) and (
        not split
        or (
            len(split) in (2, 3)
            and split[0] == "hash"
            and isinstance(split[1], float | int)
            and 0 < split[1] < 1
            and all(isinstance(pattern, str) for pattern in split[2:])
        )
    )
    if not fits:
        raise UserError(f"config.data.split={split!r} must be {_WANTED}")
    for pattern in split[2:]:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"config.data.split={split!r}: the pattern is no regular expression ({error})") from None


def held_out(names: Collection[str], split: Sequence) -> set[str]:
    """The names that belong to validation by `config.data.split`.

    Each by a hash of itself, or of the group that the pattern finds in it, such as the video that a frame is of: more
    files do not move any other to another side. Neither side stays empty where there are two groups.

    >>> sorted(held_out([f"video{i % 4}_{i}" for i in range(12)], ("hash", 0.3, "(.*)_")))
    ['video0_0', 'video0_4', 'video0_8', 'video3_11', 'video3_3', 'video3_7']
    """
    _, share, *patterns = split
    places: dict[str, float] = {}
    group_of = {name: _group(name, patterns[0]) if patterns else name for name in names}
    for group in group_of.values():
        if group not in places:
            digest = hashlib.sha256(group.encode("utf-8", "surrogateescape")).digest()
            places[group] = int.from_bytes(digest[:8], "big") / 2**64
    order = sorted(places, key=places.__getitem__)
    chosen = {group for group in order if places[group] < share}
    if len(order) > 1:
        chosen |= {order[0]}
        chosen -= {order[-1]}
    return {name for name, group in group_of.items() if group in chosen}


def _group(name: str, pattern: str) -> str:
    match = re.search(pattern, name)
    if not match:
        return name
    return match[1] if match.re.groups and match[1] is not None else match[0]
