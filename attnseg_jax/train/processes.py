"""Several processes of one run: they begin with the same inputs, and where one fails all end, each with the reason.

By itself jax lets the others wait for minutes, in a collective or at their exit, and then aborts them without a reason.
All of this does nothing in a run of one process.
"""

import os
import platform
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from attnseg_jax.data.listing import listing, listing_hash
from attnseg_jax.data.sources import Source
from attnseg_jax.errors import Stopped, UserError
from attnseg_jax.train import config as configs
from attnseg_jax.train import watch

# Of jax's own heartbeats: it ends a process that has missed another's for this many seconds, or for half of them. They
# come after the watch, and tell of a process 0 that hangs.
_HEARTBEAT = 58
# Keys of a config in which processes may differ: they belong to a host.
_OF_A_HOST = ("data.dir", "data.threads", "data.regions.cache")
_PACKAGES = ("attnseg_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")

_watch: watch.Watch | None = None


def initialize_distributed(enabled: bool) -> None:
    """Join the other processes of the run when `config.distributed` asks for it; before anything else uses a device.

    On Cloud TPU, Slurm and Open MPI jax finds the others itself; elsewhere JAX_COORDINATOR_ADDRESS (host:port),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID say so. From then on the processes look after each other.
    """
    global _watch
    if not enabled or jax.distributed.is_initialized():
        return
    given = {"num_processes": os.environ.get("JAX_NUM_PROCESSES"), "process_id": os.environ.get("JAX_PROCESS_ID")}
    try:
        numbers = {name: int(value) for name, value in given.items() if value}
        jax.distributed.initialize(**numbers, heartbeat_timeout_seconds=_HEARTBEAT)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            "config.distributed=True, but the processes cannot be joined: set JAX_COORDINATOR_ADDRESS, "
            f"JAX_NUM_PROCESSES and JAX_PROCESS_ID, or config.distributed=False ({str(error).splitlines()[0]})"
        ) from error
    _watch = watch.start()


@contextmanager
def failing_together() -> Iterator[None]:
    """Tells the other processes of an error as soon as it leaves this context, before what follows can wait for them.

    An error that may be due to the end of another process waits for that one's reason, with which this one then ends.
    """
    try:
        yield
    except Stopped:
        # All stop at the same step.
        raise
    except BaseException as error:
        if _watch:
            _watch.failed(error)
        raise


@contextmanager
def leaving_together() -> Iterator[None]:
    """Around all of a command: after a failure the process ends at once, without jax's wait for the others."""
    try:
        yield
    except BaseException as error:
        if not _watch or not _watch.failure:
            raise
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        _watch.leave(error.code if isinstance(error, SystemExit) else 1)


def naming_process(message: str) -> str:
    """`message` with the process that says it, if there are several."""
    return _watch.named(message) if _watch else message


def check_same_run(config: ConfigDict, workdir: Path, **given: Any) -> None:
    """Refuses processes with different configs, versions, workdirs or `given` values, in all of them."""
    if not _watch:
        return
    values = {f"config.{key}": value for key, value in flatten_dict(configs.resolve(config), sep=".").items()}
    for key in _OF_A_HOST:
        values.pop(f"config.{key}", None)
    values["the version of python"] = ".".join(platform.python_version_tuple()[:2])
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            values[f"the version of {name}"] = metadata.version(name)
    # Another one where the workdir is not on a file system that all processes share.
    names = [path.name for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal()]
    values["the list of checkpoints in --workdir"] = sorted(map(int, names))
    values["whether --workdir has a result"] = (workdir / "result.json").exists()
    _watch.check_same({**values, **given})


def check_same_inputs(sources: Mapping[str, Source], weights: Mapping[str, Any] | None = None) -> None:
    """Refuses processes whose data are not of the same files (names and sizes), or whose first weights differ, in all.

    Args:
      sources: by what they are for.
      weights: the record of the weights that the run starts from, see `initial.Given`.
    """
    if not _watch:
        return
    values: dict[str, Any] = {f"the {name} data": _listing(source) for name, source in sources.items()}
    for name in ("sha256", "manifest_sha256"):
        values[f"the {name} of the initial weights"] = (weights or {}).get(name)
    _watch.check_same(values)


def _listing(source: Source) -> str:
    found = listing(source, hashed=False)
    size = sum(size for size, *_ in found.values())
    return f"{len(source)} images in {len(found)} files of {size} bytes (listing {listing_hash(found)[:8]})"
