"""The formats of models for others: what each can be asked, and how it is written."""

import datetime
import pickle
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from attnseg_jax.errors import UserError
from attnseg_jax.inference import pictures
from attnseg_jax.inference.export import card, stablehlo, weights
from attnseg_jax.inference.export.attempts import Attempt, first_that_works, program_of
from attnseg_jax.inference.export.elsewhere import run_script, versions
from attnseg_jax.inference.export.lite import FORMS
from attnseg_jax.inference.export.proof import Runner, without_project
from attnseg_jax.inference.export.traced import told
from attnseg_jax.inference.predictor import Predictor
from attnseg_jax.inference.pretrained import WEIGHTS

SCRIPT = "run.py"
PRECISIONS = ("float32", "float16", "int8")
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Attributes:
      platforms: where the export is to run.
      size: height and width of the pictures; None for any.
      usual: what to take where any will not do.
      precision: of the numbers in the file.
      python: the interpreter that has the packages of the format.
      packages: their versions there, from `check`.
      minutes: that it may take to write the file.
    """

    platforms: tuple[str, ...]
    size: tuple[int, int] | None
    usual: tuple[int, int] = (0, 0)
    precision: str = "float32"
    python: str = sys.executable
    packages: Mapping[str, str] = field(default_factory=dict)
    minutes: float = 30.0

    @property
    def platform(self) -> str:
        """Where the comparison runs: the CPU if it may, since an accelerator rounds otherwise and is not shared.

        Raises:
          UserError: this machine has none of the platforms.
        """
        if "cpu" in self.platforms:
            return "cpu"
        here = {"gpu": "cuda"}.get(name := jax.default_backend(), name)
        if here not in self.platforms:
            raise UserError(
                f"--platforms={','.join(self.platforms)}: this machine has only {here} to compare the export on: add "
                "cpu"
            )
        return here

    def accelerator(self, form: str) -> str:
        """What a file of a format is made for beside the CPU, in the words of `jax.default_backend`; else `cpu`."""
        others = [name for name in self.platforms if name != "cpu"] if FORMATS[form].platforms else []
        return {"cuda": "gpu", "rocm": "gpu"}.get(others[0], others[0]) if others else "cpu"


@dataclass(frozen=True)
class Written:
    """A file that was written.

    Attributes:
      card: what the card has to say of it.
      run: how masks are made with it.
      takes: whether it takes pictures of a height and width.
    """

    card: Mapping[str, Any]
    run: Runner
    takes: Callable[[tuple[int, int]], bool] = lambda size: True


@dataclass(frozen=True)
class Format:
    """A line of `FORMATS`.

    Attributes:
      write: writes into a folder.
      program: whether it holds a program, of pictures alone and perhaps of one size, and no weights under names.
      platforms: whether it is lowered for some.
      precisions: that it can have.
      needs: modules of the interpreter that writes and runs it.
      extra: of this project, which brings them.
    """

    write: Callable[[Predictor, Wanted, Path], Written]
    program: bool = True
    platforms: bool = False
    precisions: tuple[str, ...] = ("float32",)
    needs: tuple[str, ...] = ()
    extra: str = ""


def check(form: str, wanted: Wanted, config: ConfigDict) -> Mapping[str, str]:
    """Refuses what cannot be, before any work; returns the versions of the packages that the format needs.

    Raises:
      UserError: a model that takes more than a picture, a package that is missing, what the format does not have.
    """
    asked = FORMATS[form]
    if wanted.size and not asked.program:
        raise UserError(f"--size is for programs: --format={form} holds weights, for pictures of any size")
    if wanted.precision not in asked.precisions:
        raise UserError(
            f"--precision={wanted.precision}: --format={form} is written in {' or '.join(asked.precisions)}"
        )
    if not 0 < wanted.minutes <= 10_000:
        raise UserError(f"--max_minutes={wanted.minutes:g} must be above 0 and at most 10000")
    if asked.needs and asked.platforms and "cpu" not in wanted.platforms:
        raise UserError(f"--platforms={','.join(wanted.platforms)}: --format={form} is compared on the CPU: add cpu")
    if form == "stablehlo":
        stablehlo.check_packages()
    found = versions(wanted.python, form, asked.needs, asked.extra) if asked.needs else {}
    # What is handed over has the types and parameters of a version.
    if (there := found.get("jax", jax.__version__)) != jax.__version__:
        raise UserError(f"--python={wanted.python} has jax {there}: install there that of this one, {jax.__version__}")
    if asked.program:
        stablehlo.check_regions(config, form)
    return found


def _write_stablehlo(predictor: Predictor, wanted: Wanted, folder: Path) -> Written:
    made = stablehlo.make(predictor, wanted.platforms, wanted.size, wanted.usual)
    (folder / stablehlo.FILE).write_bytes(made.content)
    about = {
        "platforms": list(wanted.platforms),
        "loads_until": card.loads_until(datetime.date.today()).isoformat(),
    }
    return _program(folder, stablehlo.FILE, made.taken, made.notes, wanted, about)


def _write_safetensors(predictor: Predictor, wanted: Wanted, folder: Path) -> Written:
    weights.write(predictor, folder)

    def run(inputs: Path, outputs: Path) -> None:
        again = Predictor(folder, batch_size=1)
        for result in again.stream(pictures.find(inputs)):
            result.save(outputs, ["mask"])
        for path in (outputs / "mask").iterdir():
            path.rename(outputs / path.name)

    return Written({"file": WEIGHTS}, run)


def _write_onnx(predictor: Predictor, wanted: Wanted, folder: Path) -> Written:
    scratch, path = folder / "told", folder / "model.onnx"

    def make(attempt: Attempt) -> None:
        about = told(program_of(predictor, attempt), attempt.image)
        scratch.write_bytes(pickle.dumps({**about, "constraints": attempt.constraints}))
        arguments = (scratch, path, f"--precision={wanted.precision}")
        run_script(wanted.python, _HERE / "to_onnx.py", *arguments, minutes=wanted.minutes)

    size = wanted.size or wanted.usual
    _, taken, notes = first_that_works([Attempt(size), Attempt(size, batch=1)], make)
    scratch.unlink()
    notes = ("pictures of one size: jax2onnx has no form for padding that depends on it", *notes)
    return _program(folder, path.name, taken, notes, wanted, _elsewhere(wanted))


def _write_savedmodel(predictor: Predictor, wanted: Wanted, folder: Path) -> Written:
    made = stablehlo.make(predictor, wanted.platforms, wanted.size, wanted.usual)
    _to_tensorflow(made, "savedmodel", wanted, folder, "model")
    about = {"platforms": list(wanted.platforms), **_elsewhere(wanted)}
    return _program(folder, "model", made.taken, made.notes, wanted, about)


def _write_tflite(predictor: Predictor, wanted: Wanted, folder: Path) -> Written:
    made = stablehlo.make_for_one(predictor, "cpu", wanted.size or wanted.usual, FORMS)
    notes = ("one picture of one size at a time: all that TensorFlow Lite takes of a program",)
    _to_tensorflow(made, "tflite", wanted, folder, "model.tflite")
    return _program(folder, "model.tflite", made.taken, notes, wanted, _elsewhere(wanted))


def _to_tensorflow(made: stablehlo.Program, form: str, wanted: Wanted, folder: Path, name: str) -> None:
    exported, scratch = made.exported, folder / "told"
    about = {
        "module": exported.mlir_module_serialized,
        "version": exported.calling_convention_version,
        "platforms": exported.platforms,
        "shape": _shape(exported.in_avals[0].shape),
        "names": sorted(jax.tree.unflatten(exported.out_tree, exported.out_avals)),
        "outputs": [(_shape(x.shape), x.dtype.name) for x in exported.out_avals],
    }
    scratch.write_bytes(pickle.dumps(about))
    arguments = (scratch, folder / name, f"--format={form}", f"--precision={wanted.precision}")
    run_script(wanted.python, _HERE / "to_tensorflow.py", *arguments, minutes=wanted.minutes)
    scratch.unlink()


def _shape(sizes: Sequence[Any]) -> list[int | None]:
    """As TensorFlow has it."""
    return [n if isinstance(n, int) else None for n in sizes]


def _elsewhere(wanted: Wanted) -> dict[str, Any]:
    return {"precision": wanted.precision, "made_with": dict(wanted.packages)}


def _program(
    folder: Path, name: str, taken: Attempt, notes: Sequence[str], wanted: Wanted, about: Mapping[str, Any]
) -> Written:
    """What is known of a program that was written, and the script that runs it."""
    shutil.copyfile(_HERE / SCRIPT, folder / SCRIPT)
    told_of = {
        "file": name,
        **about,
        "input": {"size": taken.size and list(taken.size), "least": list(taken.least), "batch": taken.batch},
        "fixed": list(notes),
    }
    return Written(told_of, without_project(folder / SCRIPT, wanted.platform, wanted.python), taken.takes)


FORMATS: dict[str, Format] = {
    "stablehlo": Format(_write_stablehlo, platforms=True),
    "onnx": Format(_write_onnx, precisions=PRECISIONS, needs=("jax", "jax2onnx", "onnxruntime", "PIL"), extra="onnx"),
    "tflite": Format(
        _write_tflite, precisions=PRECISIONS, needs=("tensorflow", "ai_edge_litert", "PIL"), extra="tensorflow"
    ),
    "savedmodel": Format(_write_savedmodel, platforms=True, needs=("tensorflow", "PIL"), extra="tensorflow"),
    "safetensors": Format(_write_safetensors, program=False),
}
