"""Files of named arrays, by their ending: PyTorch's, safetensors, NumPy's archives and pickles of its arrays."""

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from attnseg_jax.errors import UserError
from attnseg_jax.weights.numpy_pickle import no_pickle, read_numpy_pickle
from attnseg_jax.weights.safetensors_file import read_safetensors, safetensors_bytes
from attnseg_jax.weights.torch_file import read_torch, torch_bytes
from attnseg_jax.weights.torch_values import describe

# NumPy's format knows no types but its own: such an array is stored as unsigned integers, and its type is noted here.
_NOTES = "__types__"
# Weights hardly compress.
_MOST_INFLATED = 100
# The parts of a name become groups within groups.
_MOST_PARTS = 100
_FOREIGN = {
    str(np.dtype(t)): np.dtype(t)
    for t in (jnp.bfloat16, jnp.float8_e4m3fn, jnp.float8_e4m3fnuz, jnp.float8_e5m2, jnp.float8_e5m2fnuz)
}


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a NumPy archive by name.

    Raises:
      UserError: there is no such file, it is damaged, or holds Python objects.
    """
    try:
        arrays = {}
        # Not by `np.load`, which confuses `w` with `w.npy` and offers to read Python objects.
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            if len(entries) < len(archive.infolist()):
                raise ValueError("a name twice")
            if sum(entry.file_size for entry in entries.values()) > _MOST_INFLATED * Path(path).stat().st_size:
                raise ValueError(f"more than {_MOST_INFLATED} times as large as the file")
            for name, entry in entries.items():
                with archive.open(entry) as file:
                    arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
        notes = dict(note.rsplit("=", 1) for note in arrays.pop(_NOTES, np.zeros(0, str)).tolist())
        foreign = {name: arrays[name].view(_FOREIGN[dtype]) for name, dtype in notes.items()}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    # What parsers of zip archives and of NumPy's headers raise has no common class.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is no sound NumPy archive ({reason[:200]})") from error
    return {**arrays, **foreign}


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a NumPy archive that holds `arrays`; bfloat16 and float8 are noted in an array `__types__`."""
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    foreign = {name: str(array.dtype) for name, array in arrays.items() if str(array.dtype) in _FOREIGN}
    stored = {name: a.view(f"u{a.dtype.itemsize}") if name in foreign else a for name, a in arrays.items()}
    if _NOTES in arrays:
        raise UserError(f"an array of a NumPy archive cannot be called {_NOTES} here")
    if foreign:
        stored[_NOTES] = np.array([f"{name}={dtype}" for name, dtype in foreign.items()])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in stored.items():
            # `np.savez` takes no array called `file`, and puts the time in.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return buffer.getvalue()


_TORCH = (read_torch, torch_bytes)
FORMATS: dict[str, tuple[Callable, Callable]] = {
    ".safetensors": (read_safetensors, safetensors_bytes),
    ".npz": (read_npz, npz_bytes),
    **dict.fromkeys((".pth", ".pt", ".bin", ".ckpt"), _TORCH),
    ".pkl": (read_numpy_pickle, no_pickle),
}


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """The named arrays of a file in one of the `FORMATS`.

    Raises:
      UserError: another ending, a file that cannot be read, or an unprintable name in it.
    """
    arrays = format_of(path)[0](path)
    # Names go into messages, onto the screen and into other files.
    if odd := [name for name in arrays if not name.isprintable()]:
        raise UserError(f"{path} has an array with an unprintable name: {describe(odd[0])}")
    if deep := [name for name in arrays if name.count(".") > _MOST_PARTS]:
        raise UserError(f"{path} has an array with a name of more than {_MOST_PARTS} parts: {describe(deep[0])}")
    return arrays


def format_of(path: str | Path) -> tuple[Callable, Callable]:
    """The reader and the writer for the ending of `path`; one that is not in `FORMATS` raises UserError."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"{path}: weights are read from and written to files that end in {', '.join(FORMATS)}")
    return FORMATS[suffix]
