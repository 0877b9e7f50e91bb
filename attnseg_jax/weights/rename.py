"""Published PyTorch weights -> variables of this package's modules, by tables of name rules.

A table is a tuple of rules `(regex, replacement)`. Each name of a state dict goes through all of them in order
(`re.sub`); the dotted result is the path of the parameter here, except for its last word, which says what the array is
and is translated for all tables alike (see `from_torch`). A replacement is

- a string: the new spelling;
- a tuple of strings: the array is cut into as many equal pieces along its first axis, one for each spelling;
  the other way round, a word that ends in `@` and a number is a piece, which is joined with the others along that axis;
- None: the array is not used.

A rule can also be a `Part`: names of one part of a model, which go through a table of their own. Another layout is
another table, no code; `match` tells what a table forgot.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from attnseg_jax.errors import UserError


@dataclass(frozen=True)
class Part:
    """A rule for the names of one part of a model; the rules after it do not see these names.

    Attributes:
      prefix: regex that matches the beginning of these names, and no others; what it matches is cut off.
      rules: the table that the rest of a name goes through.
      path: put in front of the result.
    """

    prefix: str
    rules: "Rules"
    path: str = ""


Rules = Sequence[tuple[str, str | tuple[str, ...] | None] | Part]

# Last word and number of axes -> collection, name here, order of the axes; None is a new one, and one that is left out
# has a single element. A table calls the weight of a linear layer that is a 1x1 convolution here `pointwise`, and that
# of a 1x1 convolution that is a linear layer here `linear`, that of a transposed convolution, `[i, o, kh, kw]`,
# `transposed`.
_LEAVES = {
    ("weight", 1): ("params", "scale", (0,)),
    ("weight", 2): ("params", "kernel", (1, 0)),
    ("weight", 3): ("params", "kernel", (2, 1, 0)),
    ("weight", 4): ("params", "kernel", (2, 3, 1, 0)),
    ("pointwise", 2): ("params", "kernel", (None, None, 1, 0)),
    ("transposed", 4): ("params", "kernel", (2, 3, 0, 1)),
    ("linear", 2): ("params", "kernel", (1, 0)),
    ("linear", 4): ("params", "kernel", (1, 0)),
    ("layer_scale", 3): ("params", "layer_scale", (0,)),
    ("running_mean", 1): ("batch_stats", "mean", (0,)),
    ("running_var", 1): ("batch_stats", "var", (0,)),
    ("positions", 2): ("params", "positions", (None, 0, 1)),
    ("query_tokens", 2): ("params", "query_tokens", (None, 0, 1)),
    ("query_positions", 2): ("params", "query_positions", (None, 0, 1)),
    ("mask_probability", 1): ("batch_stats", "mask_probability", (0,)),
    ("mu", 3): ("batch_stats", "mu", (0, 1, 2)),
}
_PIECE = re.compile(r"@(\d+)(?=\.)")
_UNUSED = ("num_batches_tracked",)
_SHOWN = 8


def from_torch(state_dict: Mapping[str, np.ndarray], rules: Rules) -> dict[str, dict[str, Any]]:
    """Variables `{'params': ..., 'batch_stats': ...}` from a PyTorch state dict of NumPy arrays.

    The last word of a name is translated by the number of axes: a `weight` of 4 or 3 (convolution, `[o, i, kh, kw]` or
    `[o, i, n]`) or 2 (linear, `[o, i]`) becomes a `kernel` `[kh, kw, i, o]`, `[n, i, o]` or `[i, o]`, one of 1 a norm's
    `scale`; a `pointwise` of 2 becomes a `kernel` `[1, 1, i, o]`, a `linear` one of `[i, o]`, a `transposed` of 4 one
    of `[kh, kw, i, o]`; a `layer_scale` of 3 loses its last two, tables and tokens of 2 get a first; the `running_mean`
    and `running_var` become the `mean` and `var` of `batch_stats`, and a `mu` of 3 (bases) and a `mask_probability` lie
    there too; any other word stays, with its array as it is.

    Args:
      state_dict: PyTorch names -> arrays.
      rules: a table, such as those in `weights/rules/`.

    Raises:
      UserError: two names of the state dict become one, or an array does not divide into its pieces.

    >>> from_torch({"k.bias": np.ones(1), "q.bias": np.zeros(1)}, ((r"^q", "qk@0"), (r"^k", "qk@1")))["params"]["qk"]
    {'bias': array([0., 1.])}
    >>> rules = ((r"^in_proj_bias$", ("query.bias", "key.bias", "value.bias")),)
    >>> from_torch({"in_proj_bias": np.arange(6.0)}, rules)["params"]["key"]
    {'bias': array([2., 3.])}
    """
    variables: dict[str, dict[str, Any]] = {"params": {}, "batch_stats": {}}
    for source, name, array in _joined(state_dict, rules):
        *path, leaf = name.split(".")
        if leaf in _UNUSED:
            continue
        collection, leaf, axes = _LEAVES.get((leaf, array.ndim), ("params", leaf, tuple(range(array.ndim))))
        node = variables[collection]
        for word in path:
            node = node.setdefault(word, {})
            if not isinstance(node, dict):
                raise UserError(f"{source}: another name became a part of {name}; the rules do not fit")
        if leaf in node:
            raise UserError(f"{source}: another name became {'.'.join([*path, leaf])} too; the rules do not fit")
        node[leaf] = _arrange(array, axes)
    return variables


def match(variables: Mapping[str, Any], loaded: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns `loaded` if it has exactly the names and shapes of `variables` (arrays or `jax.eval_shape`'s).

    Raises:
      UserError: lists the names that only one side has and those of another shape.

    >>> match({"params": {"a": np.ones(2)}}, {"params": {"b": np.ones(2)}})
    Traceback (most recent call last):
    attnseg_jax.errors.UserError: the weights are not this model's; missing: params.a; unused: params.b
    """
    target, given = flatten_dict(variables, sep="."), flatten_dict(loaded, sep=".")
    faults = {
        "missing": [name for name in target if name not in given],
        "unused": [name for name in given if name not in target],
        "other shape": [
            f"{name} {given[name].shape} instead of {target[name].shape}"
            for name in target
            if name in given and given[name].shape != target[name].shape
        ],
    }
    if any(faults.values()):
        parts = [f"{what}: {listed(names)}" for what, names in faults.items() if names]
        raise UserError(f"the weights are not this model's; {'; '.join(parts)}")
    return loaded


def _joined(state_dict, rules):
    """The triples (source, new name, array) of a state dict, of several pieces one."""
    wholes = {}
    for source, array in state_dict.items():
        for name, piece in _rename(source, np.asarray(array), rules):
            if not (place := _PIECE.search(name)):
                yield source, name, piece
                continue
            pieces = wholes.setdefault(_PIECE.sub("", name), {})
            if int(place[1]) in pieces:
                raise UserError(f"{source}: another name became {name} too; the rules do not fit")
            pieces[int(place[1])] = source, piece
    for name, pieces in wholes.items():
        sources, arrays = zip(*(pieces[i] for i in sorted(pieces)))
        if len({array.shape[1:] for array in arrays}) > 1 or not arrays[0].ndim:
            raise UserError(f"{listed(sources)} cannot be joined: {', '.join(str(x.shape) for x in arrays)}")
        yield sources[0], name, np.concatenate(arrays)


def _rename(name, array, rules):
    """The pairs (new name, array) one entry of a state dict becomes."""
    for i, rule in enumerate(rules):
        if isinstance(rule, Part):
            if re.match(rule.prefix, name):
                inner = _rename(re.sub(rule.prefix, "", name, count=1), array, rule.rules)
                yield from ((rule.path + new, piece) for new, piece in inner)
                return
            continue
        pattern, replacement = rule
        if not re.search(pattern, name):
            continue
        if replacement is None:
            return
        if isinstance(replacement, tuple):
            if not array.ndim or array.shape[0] % len(replacement):
                raise UserError(f"{name} of shape {array.shape} does not divide into {len(replacement)} pieces")
            for spelling, piece in zip(replacement, np.split(array, len(replacement))):
                yield from _rename(re.sub(pattern, spelling, name), piece, rules[i + 1 :])
            return
        name = re.sub(pattern, replacement, name)
    yield name, array


def _arrange(array, axes):
    kept = [axis for axis in axes if axis is not None]
    single = [axis for axis in range(array.ndim) if axis not in kept]
    return array.transpose(*kept, *single).reshape([1 if axis is None else array.shape[axis] for axis in axes])


def folded(names: Sequence[str]) -> str:
    """The names where they are few, else how many there are in each part of the model.

    >>> folded(["params.head.kernel", "params.head.bias"])
    'params.head.kernel, params.head.bias'
    >>> folded([f"params.decoder.conv{i}.kernel" for i in range(9)] + ["params.head.bias"])
    '9 of params.decoder, 1 of params.head'
    """
    if len(names) <= _SHOWN:
        return listed(names)
    for depth in (2, 1):
        counts = Counter(".".join(name.split(".")[:depth]) for name in names)
        if len(counts) <= _SHOWN:
            break
    return listed([f"{count} of {part}" for part, count in counts.items()])


def listed(names: Sequence[str], shown: int = _SHOWN) -> str:
    """The first few names, and how many there are beside them."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")
