"""A model as one StableHLO program, with all that is done to a picture inside."""

import importlib.util
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import jax
from jax import export
from ml_collections import ConfigDict

from attnseg_jax.errors import UserError, nearest
from attnseg_jax.inference.export.attempts import Attempt, attempts, first_that_works, program_of
from attnseg_jax.inference.export.traced import Forms, plain
from attnseg_jax.inference.predictor import Predictor
from attnseg_jax.models.build import takes_regions

FILE = "model.stablehlo"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
# Checks of sizes where the program is called; what else is a custom call another version need not know.
_HARMLESS = {"shape_assertion"}


@dataclass(frozen=True)
class Program:
    """An exported model.

    Attributes:
      exported: as jax has it.
      taken: the pictures that it takes.
      notes: what is fixed, and why.
    """

    exported: export.Exported
    taken: Attempt
    notes: tuple[str, ...]

    @property
    def content(self) -> bytes:
        """Of the file."""
        return bytes(self.exported.serialize())


def check_platforms(platforms: Sequence[str]) -> None:
    """Raises UserError for a platform that is unknown or stands twice."""
    for name in platforms:
        if name not in PLATFORMS:
            raise UserError(f"--platforms={','.join(platforms)}: {name!r} is unknown: {nearest(name, PLATFORMS)}")
    if not platforms or len({*platforms}) < len(platforms):
        raise UserError(f"--platforms={','.join(platforms)}: name each of {', '.join(PLATFORMS)} once at most")


def check_regions(config: ConfigDict, form: str) -> None:
    """Raises UserError for a model that takes more than a picture."""
    if takes_regions(kind := config.model.kind):
        raise UserError(
            f"config.model.kind={kind!r} takes regions beside the picture, which no program of the model computes: it "
            f"cannot be exported as {form}; --format=safetensors can"
        )


def check_packages() -> None:
    """Raises UserError where `Program.content` cannot be made."""
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError("--format=stablehlo needs the package flatbuffers: pip install flatbuffers")


def make(
    predictor: Predictor, platforms: Sequence[str], size: tuple[int, int] | None, usual: tuple[int, int]
) -> Program:
    """The program of a model.

    Args:
      predictor: the model with all that is done around it.
      platforms: of `PLATFORMS`.
      size: height and width of the pictures; None for any size if the model allows it.
      usual: that of the pictures where it does not.

    Raises:
      UserError: the model cannot be exported for these sizes.
    """
    return _made(predictor, platforms, attempts(predictor, size, usual, {"mapped": True}))


def make_for_one(predictor: Predictor, platform: str, size: tuple[int, int], forms: Forms) -> Program:
    """The program for one picture of a size at a time, of `plain` primitives in the given forms."""
    return _made(predictor, (platform,), [Attempt(size, batch=1)], forms)


def _made(
    predictor: Predictor, platforms: Sequence[str], wanted: Iterable[Attempt], forms: Forms | None = None
) -> Program:
    def export_attempt(attempt: Attempt) -> export.Exported:
        program = program_of(predictor, attempt)
        if forms is not None:
            program = plain(program, attempt.image, forms)
        with _without_paths():
            return export.export(jax.jit(program), platforms=tuple(platforms))(attempt.image)

    exported, taken, notes = first_that_works(wanted, export_attempt)
    _check_custom_calls(exported)
    return Program(exported, taken, tuple(notes))


@contextmanager
def _without_paths() -> Iterator[None]:
    """Leaves the source lines out of programs, which would tell the folders of this machine."""
    before = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def _check_custom_calls(exported: export.Exported) -> None:
    calls = {*re.findall(r'custom_call @"?([^"\s(]+)', exported.mlir_module())} - _HARMLESS
    if calls:
        raise UserError(f"the program calls {', '.join(sorted(calls))}, which other versions need not know")
