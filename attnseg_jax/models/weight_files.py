"""Files of named arrays, by their ending: PyTorch's, safetensors and NumPy's archives."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from attnseg_jax.errors import UserError
from attnseg_jax.models.safetensors_file import read_safetensors, safetensors_bytes
from attnseg_jax.models.torch_file import read_torch, torch_bytes

# NumPy's format knows no types but its own: such an array is stored as unsigned integers, and its type is noted here.
_NOTES = "__types__"
# What `zipfile` raises; a `RuntimeError` where an entry is encrypted or of an unknown form.
_DAMAGE = (zipfile.BadZipFile, EOFError, RuntimeError, struct.error, zlib.error)
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
        # A memory map would keep the file open.
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        notes = dict(note.split("=") for note in arrays.pop(_NOTES, np.zeros(0, str)).tolist())
        foreign = {name: arrays[name].view(_FOREIGN[dtype]) for name, dtype in notes.items()}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (*_DAMAGE, ValueError, LookupError, TypeError, AttributeError, MemoryError) as error:
        raise UserError(f"{path} is no sound NumPy archive ({' '.join(str(error).split())})") from error
    return {**arrays, **foreign}


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a NumPy archive that holds `arrays`; bfloat16 and float8 are noted in an array `__types__`."""
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    foreign = {name: str(array.dtype) for name, array in arrays.items() if str(array.dtype) in _FOREIGN}
    stored = {name: a.view(f"u{a.dtype.itemsize}") if name in foreign else a for name, a in arrays.items()}
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
}


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """The named arrays of a file in one of the `FORMATS`.

    Raises:
      UserError: another ending, or a file that cannot be read.
    """
    return _format(path)[0](path)


def weights_bytes(arrays: Mapping[str, np.ndarray], path: str | Path) -> bytes:
    """The bytes of a file of `arrays` in the format that the ending of `path` names; another raises UserError."""
    return _format(path)[1](arrays)


def _format(path: str | Path) -> tuple[Callable, Callable]:
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"{path}: weights are read from and written to files that end in {', '.join(FORMATS)}")
    return FORMATS[suffix]
