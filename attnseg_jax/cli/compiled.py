"""Compiled programs that are kept on the disk, so that the next start of the same config compiles nothing."""

import hashlib
import os
import platform
from pathlib import Path

import jax
from absl import flags, logging

from attnseg_jax.errors import UserError
from attnseg_jax.files import expanded, make_folder, user_cache

FLAG = "compilation_cache"
# Bytes of programs that are kept.
LARGEST = 1 << 30


def define_flag() -> None:
    """Defines `--compilation_cache`, which every command has."""
    flags.DEFINE_string(
        FLAG, None, "folder of compiled programs, '' keeps none (default: ~/.cache/attnseg_jax/xla, at most 1 GiB)"
    )


def keep_programs() -> None:
    """Makes jax keep its compiled programs where the flag says.

    Without the flag they go to the user's cache; `JAX_COMPILATION_CACHE_DIR`, jax's own way to say where, goes before
    that. The oldest programs are removed from a folder of more than `LARGEST` bytes. Machines of other processors that
    share a folder do not see each other's programs.

    Raises:
      UserError: the folder that was given cannot be used, or others may write into it: what lies there is run. The
        default folder is then not used, with a warning.
    """
    given = flags.FLAGS[FLAG].value
    if given is None and os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    if given == "":
        jax.config.update("jax_enable_compilation_cache", False)
        return
    try:
        folder = _own_folder(user_cache() / "attnseg_jax" / "xla" if given is None else expanded(given))
    except UserError as error:
        if given is not None:
            raise
        logging.warning("compiled programs are not kept for the next start: %s", error)
        return
    _remove_oldest(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _own_folder(base: Path) -> Path:
    """The folder below `base` for processors like this one, made if it is not there."""
    try:
        make_folder(base)
        found = base.stat()
        folder = base / _processor()
        folder.mkdir(mode=0o700, exist_ok=True)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--{FLAG}={base}: {reason}: give a folder of your own, or --{FLAG}= to keep none") from error
    # Whoever may write here could have this process run code of theirs.
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise UserError(
            f"--{FLAG}={base}: others may write into this folder, and what lies in it is run: give a folder of your "
            f"own (chmod go-w), or --{FLAG}= to keep none"
        )
    return folder


def _processor() -> str:
    """A name that processors share which run the same machine code."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [f"flags: {platform.processor()}"]
    features = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:12]}"


def _remove_oldest(folder: Path) -> None:
    found = []
    for path in folder.iterdir():
        try:
            found.append((path.stat().st_mtime, path.stat().st_size, path))
        except OSError:
            # Another process has removed it.
            continue
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= LARGEST:
            return
        path.unlink(missing_ok=True)
        total -= size
