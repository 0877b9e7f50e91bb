"""Pickles of NumPy arrays: as NumPy writes them, what is refused, and the names in those of detectron2."""

import collections
import os
import pickle

import jax
import numpy as np
import pytest
from detectron2_names import as_authors
from golden import Golden

from attnseg_jax.errors import UserError
from attnseg_jax.weights.files import read_weights
from attnseg_jax.weights.fit import fit
from attnseg_jax.weights.layouts import rules_of
from attnseg_jax.weights.rename import from_torch

SIX = np.arange(6, dtype=np.float32).reshape(2, 3)


def written(tmp_path, content, protocol=3):
    path = tmp_path / "w.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(protocol, tmp_path):
    """Of any order, of no axes, without elements; what is no array is left out."""
    arrays = {
        "a.weight": SIX, "turned": SIX.T, "one": np.array(7, np.int64), "none": np.zeros((0, 4), np.float16),
        "sliced": SIX[:, ::2], "flags": SIX > 2, "bytes": np.arange(200, 256, dtype=np.uint8),
    }  # fmt: skip
    content = {"model": collections.OrderedDict(arrays, note="x"), "__author__": "Mask2Former", "matching": True}
    for kept in (content, content["model"]):
        found = read_weights(written(tmp_path, kept, protocol))
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype and not found[name].flags.writeable


class Calls:
    def __reduce__(self):
        return os.system, ("echo run > ran",)


class Zeros:
    def __reduce__(self):
        return bytes, (1 << 50,)


class Decoded:
    """The same text many times."""

    def __init__(self, text):
        self.text = text

    def __reduce__(self):
        return __import__("_codecs").encode, (self.text, "latin1")


WRONG_SIZE = pickle.dumps({"w": SIX}, 3).replace(b"K\x02K\x03\x86", b"K\x02K\x07\x86")


@pytest.mark.parametrize(
    "content, words",
    [
        ({"w": Calls()}, "it asks for posix.system, which arrays do not need"),
        ({"w": Zeros()}, "takes 0 positional arguments but 1 was given"),
        ({"w": np.array([{}], object)}, "it has an array of the type O8"),
        ({"w": SIX.astype(">f4")}, "its byte order is not little-endian"),
        ({"w": np.array("text")}, "it has an array of the type U4"),
        (WRONG_SIZE, r"it has an array of the shape \(2, 7\) in 24 bytes"),
        ({1: SIX}, "it has the name 1, which is no text"),
        ([SIX], "a list in the place of Mapping"),
        ({"model": [SIX]}, "a list in the place of Mapping"),
        ({"model": {"note": "x"}, "w": SIX}, "holds no NumPy arrays, at its top or under 'model'"),
        (pickle.dumps({"w": SIX}, 3)[:-20], "is not read as a pickle of NumPy arrays"),
        (b"", "pickle exhausted before seeing STOP"),
        (b"\x80\x03}r\xff\xff\xff\xff.", "it remembers a value under an impossible number"),
        (b"PK\x03\x04", "is not read as a pickle"),
        ([Decoded("x" * 1000)] * 1 + [Decoded(t) for t in ["y" * 1000] * 40], "its arrays are larger than the file"),
    ],
)
def test_what_is_refused(content, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        read_weights(written(tmp_path, content))
    assert [path.name for path in tmp_path.iterdir()] == ["w.pkl"]


def test_damaged_anywhere(tmp_path):
    """One message, whatever byte is changed, or the same arrays in another number."""
    sound = pickle.dumps({"model": {"w": SIX, "v": SIX.T}}, 3)
    rng = np.random.default_rng(0)
    for place in range(len(sound)):
        damaged = bytearray(sound)
        damaged[place] = rng.integers(256)
        try:
            read_weights(written(tmp_path, bytes(damaged)))
        except UserError as error:
            assert str(error).isprintable()


@pytest.mark.parametrize("query", ["query_feat", "static_query"])
def test_detectron2s_names_of_mask2former(query, tmp_path):
    """The same variables as by transformers' names; query, key and value of an attention lie in one array there."""
    state = Golden("model_mask2former_resnet_tiny").state_dict()
    state = {name: x for name, x in state.items() if not name.endswith("num_batches_tracked")}
    given = {name.replace("query_feat", query): x for name, x in as_authors(state, np.concatenate).items()}
    path = written(tmp_path, {"model": given, "__author__": "third_party", "matching_heuristics": True})
    layout = "mask2former+detectron2_resnet"
    found = from_torch(read_weights(path), rules_of(layout))
    expected = from_torch(state, rules_of("transformers_mask2former+transformers_resnet"))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert fit(given, expected, part="model").layout == layout
