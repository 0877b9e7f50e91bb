"""Writes a trained model in a format for others, and proves that it is the same model.

    attnseg-export --model=runs/camvid --format=stablehlo
    attnseg-export --model=runs/camvid --checkpoint=best --format=stablehlo --size=720x960 "--check=photos/*.jpg"
    attnseg-export --model=runs/camvid --format=safetensors --output=weights

stablehlo     one program with weights and all preprocessing inside, for jax without this project; run.py beside it
              makes masks with it
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
from attnseg_jax.inference.export.exporting import FORMATS, export

_USE = "attnseg-export --model=RUN --format=" + "|".join(FORMATS)


def _flags() -> None:
    flags.DEFINE_string("model", None, "folder of a run, or of one of its checkpoints; required")
    flags.DEFINE_string("format", None, f"{' or '.join(FORMATS)}; required")
    flags.DEFINE_string("output", None, "folder to make (default: export/FORMAT in the run)")
    flags.DEFINE_string("checkpoint", "latest", "'latest' (default), 'best' (by validation mIoU) or a step")
    flags.DEFINE_list("platforms", None, "where a program is to run (default: cpu,cuda,tpu)")
    flags.DEFINE_string("size", None, "HxW of the pictures of a program (default: any, if the model allows it)")
    flags.DEFINE_string("check", "val", "pictures to compare on: a split, a folder or a pattern (default: val)")
    changes.define()


def _export() -> None:
    """Exports and prints where to and how it compares."""
    given = flags.FLAGS
    for name in ("model", "format"):
        if not given[name].value:
            raise UserError(f"--{name} is missing: {_USE}")
    if given.format == "safetensors" and given.platforms:
        raise UserError("--platforms is for programs: --format=safetensors holds weights, for any of them")
    options = {"platforms": given.platforms} if given.platforms is not None else {}
    folder, card = export(
        given.model,
        given.format,
        given.output,
        checkpoint=given.checkpoint,
        size=_size(given.size),
        compare=given.check,
        changes=changes.given(),
        **options,
    )
    proof, path = card["proof"], folder / card["file"]
    print(f"{path}: {path.stat().st_size:,} bytes")
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
