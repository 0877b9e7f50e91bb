"""Writes a trained model in a format for others, and proves that it is the same model.

    attnseg-export --model=runs/camvid --format=stablehlo
    attnseg-export --model=runs/camvid --checkpoint=best --format=stablehlo --size=720x960 "--check=photos/*.jpg"
    attnseg-export --model=runs/camvid --format=onnx --python=onnx/bin/python
    attnseg-export --model=runs/camvid --format=tflite --size=360x480 --precision=int8
    attnseg-export --model=runs/camvid --format=safetensors --output=weights

stablehlo     one program with weights and all preprocessing inside, for jax without this project; run.py beside it
              makes masks with it
onnx          the same for onnxruntime; needs jax2onnx in an environment of its own, whose interpreter is --python
tflite        the same for the interpreter of TensorFlow Lite; needs tensorflow and ai-edge-litert
savedmodel    the same for TensorFlow; needs tensorflow
safetensors   the weights under their names, and the config: what `Predictor` and `load_pretrained` read

OUTPUT gets its name once the masks of pictures are those of the model: of the validation split, or of --check. A
program is run for that in a process that cannot import this project. More than 0.01 % of other pixels are an error.
card.json and README.md beside it say what it is.
"""

import functools
import re

from absl import flags

from attnseg_jax.cli import changes, entry
from attnseg_jax.errors import UserError
from attnseg_jax.inference.export.card import taken
from attnseg_jax.inference.export.exporting import export
from attnseg_jax.inference.export.formats import FORMATS, PRECISIONS

_USE = "attnseg-export --model=RUN --format=" + "|".join(FORMATS)


def _flags() -> None:
    flags.DEFINE_string("model", None, "folder of a run, or of one of its checkpoints; required")
    flags.DEFINE_string("format", None, f"{' or '.join(FORMATS)}; required")
    flags.DEFINE_string("output", None, "folder to make (default: export/FORMAT in the run)")
    flags.DEFINE_string("checkpoint", "latest", "'latest' (default), 'best' (by validation mIoU) or a step")
    flags.DEFINE_list("platforms", None, "where a program is to run (default: cpu,cuda,tpu)")
    flags.DEFINE_string("size", None, "HxW of the pictures of a program (default: any, if the model allows it)")
    flags.DEFINE_enum(
        "precision", "float32", PRECISIONS, "of the numbers in the file: float16 and int8 for onnx and tflite"
    )
    flags.DEFINE_string("python", None, "interpreter with the packages of the format (default: this one)")
    flags.DEFINE_float("max_minutes", 30.0, "that this interpreter may take to write the file (default: 30)")
    flags.DEFINE_string("check", "val", "pictures to compare on: a split, a folder or a pattern (default: val)")
    changes.define()


def _export() -> None:
    """Exports and prints where to and how it compares."""
    given = flags.FLAGS
    for name in ("model", "format"):
        if not given[name].value:
            raise UserError(f"--{name} is missing: {_USE}")
    known = FORMATS.get(given.format)
    if known and not known.platforms and given.platforms:
        raise UserError(f"--platforms is for stablehlo and savedmodel: a file of --format={given.format} knows of none")
    if known and not known.needs and given.python:
        raise UserError(f"--python is for the packages of a format: --format={given.format} needs none but this one's")
    options = {name: given[name].value for name in ("platforms", "python") if given[name].value is not None}
    folder, card = export(
        given.model,
        given.format,
        given.output,
        checkpoint=given.checkpoint,
        size=_size(given.size),
        precision=given.precision,
        minutes=given.max_minutes,
        compare=given.check,
        changes=changes.given(),
        **options,
    )
    proof, path = card["proof"], folder / card["file"]
    held = sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file())
    print(f"{path}: {held:,} bytes")
    if "input" in card:
        print(f"takes pictures {taken(card['input'])}")
    print(f"compared on {proof['pictures']} pictures: {proof['differing']} of {proof['pixels']:,} pixels differ")
    if "input" in card:
        print(f"masks: python {folder / 'run.py'} PICTURE --output=masks")


def _size(given: str | None) -> tuple[int, int] | None:
    """Height and width of `HxW`.

    >>> _size("360x480")
    (360, 480)
    """
    if given is None:
        return None
    match = re.fullmatch(r"(\d+)\s*x\s*(\d+)", given)
    if not match or not all(map(int, match.groups())):
        raise UserError(f"--size={given} is no size: give height and width, such as 360x480")
    return int(match[1]), int(match[2])


main = functools.partial(entry.run, _export, _flags, usage=__doc__, check=changes.spelled_out)

if __name__ == "__main__":
    main()
