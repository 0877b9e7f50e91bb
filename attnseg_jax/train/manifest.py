"""What belongs to a checkpoint, its files and arrays by their digests, so that whatever changed later is found."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnseg_jax.errors import UserError
from attnseg_jax.files import file_sha256, write_atomically

MANIFEST = "manifest.json"
METRICS = "metrics.json"
# Orbax writes its own again while it commits; it holds times and the kind of checkpoint, nothing that is restored.
_UNHASHED = {MANIFEST, METRICS, "_CHECKPOINT_METADATA"}


def describe(array: Any) -> list:
    """Type and shape of an array, as a manifest holds them."""
    return [str(array.dtype), list(array.shape)]


def write_manifest(folder: Path, arrays: Mapping[str, list]) -> None:
    """Writes the digests of the files in `folder`, and the described arrays by name, with a digest of both."""
    content = {"arrays": dict(arrays), "files": _hashes(folder)}
    text = json.dumps({**content, "sha256": _digest(content)}, indent=1, sort_keys=True)
    (folder / MANIFEST).write_text(text)


def read_arrays(folder: Path) -> dict[str, list]:
    """The arrays that a manifest without damage names."""
    return json.loads((folder / MANIFEST).read_text())["arrays"]


def find_damage(folder: Path) -> str:
    """What is wrong with the files of a checkpoint, or nothing; its metrics do not belong to them."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        expected = dict(manifest["files"])
        actual = _hashes(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} or a file cannot be read: {type(error).__name__}"
    if manifest.pop("sha256", None) != _digest(manifest):
        return f"{MANIFEST} has changed since it was written"
    for name in sorted(expected):
        if name not in actual:
            return f"{name} is missing"
        if actual[name] != expected[name]:
            return f"{name} has changed since it was written"
    return ""


def write_metrics(folder: Path, metrics: Mapping[str, float]) -> None:
    """Completes a checkpoint with its metrics; none are written too, so that a file which is gone is missed."""
    content = dict(metrics)
    text = json.dumps({"metrics": content, "sha256": _digest(content)})
    write_atomically(folder / METRICS, text.encode())


def read_metrics(folder: Path) -> dict[str, float]:
    """The metrics of a checkpoint, empty where it has none; UserError names a file of them that is damaged or gone."""
    path = folder / METRICS
    try:
        found = json.loads(path.read_text())
        metrics = {key: float(value) for key, value in found["metrics"].items()}
    except (FileNotFoundError, NotADirectoryError):
        # A checkpoint that is removed meanwhile has none either.
        if folder.is_dir():
            raise UserError(f"{path} is missing") from None
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__})") from None
    if found.get("sha256") != _digest(metrics):
        raise UserError(f"{path} has changed since it was written")
    return metrics


def check_same(saved: Mapping[str, list], wanted: Mapping[str, Any], folder: Path) -> None:
    """Raises UserError where the arrays of a checkpoint are not those of a state; it names a few from both sides."""
    asked = {name: describe(x) for name, x in wanted.items()}
    if saved == asked:
        return

    def some(names: list[str], table: Mapping[str, list]) -> str:
        shown = ", ".join(f"{name} {table[name][0]}{table[name][1]}" for name in names[:4])
        return shown + (f", ... ({len(names)} in all)" if len(names) > 4 else "")

    parts = []
    if only := sorted(saved.keys() - asked.keys()):
        parts.append(f"only in the checkpoint: {some(only, saved)}")
    if only := sorted(asked.keys() - saved.keys()):
        parts.append(f"only in this config: {some(only, asked)}")
    if differing := sorted(name for name in saved.keys() & asked.keys() if saved[name] != asked[name]):
        parts.append(f"in the checkpoint: {some(differing, saved)}; in this config: {some(differing, asked)}")
    raise UserError(
        f"{folder} belongs to another architecture, optimizer or type ({'; '.join(parts)}): "
        "give another --workdir, or the config that it was trained with"
    )


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in _UNHASHED)
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
