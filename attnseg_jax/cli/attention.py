"""Draws what a trained model attends to in one image.

    python -m attnseg_jax.cli.attention --workdir=runs/self --image=street.png --at=120,200
    python -m attnseg_jax.cli.attention --workdir=runs/self --image=17 "--at=10,20;30,40"

Writes a PNG for each attention of the model and `sheet.png` with all of them: where the points look, what regions and
gates do, how widely each position looks.
"""

import functools
from pathlib import Path

import numpy as np
from absl import flags

from attnseg_jax.cli import entry
from attnseg_jax.data.bands import decode_bands
from attnseg_jax.data.decode import decode_image
from attnseg_jax.data.transforms import scale_image
from attnseg_jax.data.transforms.fields import shortened
from attnseg_jax.errors import UserError
from attnseg_jax.files import expanded
from attnseg_jax.inference.restore import Restored, predict_with_records, restore_run
from attnseg_jax.plots.attention_sheet import Scene, attention_sheet


def _flags() -> None:
    flags.DEFINE_string("workdir", None, "folder of the run; required")
    flags.DEFINE_string("image", None, "image file, or number of an image of the split, from 0; required")
    flags.DEFINE_string(
        "at", None, "y,x in pixels of the (resized) image, or several as 'y,x;y,x' (default: its centre)"
    )
    flags.DEFINE_string("out", None, "folder to write to (default: WORKDIR/attention/IMAGE)")
    flags.DEFINE_string("split", "val", "split of a numbered image (default: val)")
    flags.DEFINE_string("checkpoint", "latest", "'latest' (default), 'best' (by validation mIoU) or a step")
    flags.DEFINE_string("data_dir", None, "where the data are now (default: where the run found them)")


def _draw() -> None:
    """Restores, looks and draws."""
    given = flags.FLAGS
    if not given.image:
        raise UserError("--image is missing: name an image file, or give the number of an image of the split")
    restored = restore_run(given.workdir, split=given.split, checkpoint=given.checkpoint, data_dir=given.data_dir)
    image, name, stem = _image(given.image, restored)
    points = points_of(given.at, image.shape[:2])
    prediction, attention, covered = predict_with_records(restored, image)
    info = restored.source.info
    title = f"{name}, step {restored.step} of {given.workdir}"
    scene = Scene(info.shown(image), points, prediction, info.class_names, info.palette, title, covered)
    folder = expanded(given.out or Path(given.workdir) / "attention" / stem)
    try:
        paths = attention_sheet(scene, attention, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); give another folder as --out") from error
    print(*paths, sep="\n")


def _image(which: str, restored: Restored) -> tuple[np.ndarray, str, str]:
    """Pixels as of a source, a title, and a name for the folder."""
    path, data = expanded(which), restored.config.data

    def sized(image: np.ndarray) -> np.ndarray:
        return shortened(image.shape[:2], data, f"--image={which}").cut_field("image", image)

    if path.is_file():
        image = decode_bands([path], channels) if (channels := data.channels) else decode_image(path, which)
        return sized(scale_image(image, data.resolution)), path.name, path.stem
    if not which.isdecimal():
        raise UserError(f"--image={which}: there is no such file, and it is no number of an image")
    if int(which) >= (count := len(restored.source)):
        raise UserError(f"--image={which}: split {restored.split!r} has the images 0 to {count - 1}")
    record = restored.source[int(which)]
    return sized(record["image"]), record["id"], f"{restored.split}_{which}"


def points_of(text: str | None, size: tuple[int, int], flag: str = "--at") -> list[tuple[int, int]]:
    """The points that a flag gives, inside an image of `size`; without any its centre.

    >>> points_of(None, (64, 96)), points_of("10,20;30,40", (64, 96))
    ([(32, 48)], [(10, 20), (30, 40)])
    """
    if text is None:
        return [(size[0] // 2, size[1] // 2)]
    points = []
    for part in text.split(";"):
        numbers = [number.strip() for number in part.split(",")]
        if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
            raise UserError(f"{flag}={text} must be y,x in whole pixels, or several points as 'y,x;y,x'")
        y, x = map(int, numbers)
        if y >= size[0] or x >= size[1]:
            raise UserError(
                f"{flag}={text}: ({y}, {x}) is outside the image of {size[0]} x {size[1]} pixels (height x width)"
            )
        points.append((y, x))
    return points


main = functools.partial(entry.run, _draw, _flags, usage=__doc__)

if __name__ == "__main__":
    main()
