"""From a run to an exported model: written, proven, and only then given its name."""

import glob
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
from absl import logging
from PIL import Image

from attnseg_jax.data.decode import decode_image, decode_size
from attnseg_jax.data.sources import load_source
from attnseg_jax.errors import UserError, nearest
from attnseg_jax.files import check_folder, expanded, write_atomically
from attnseg_jax.inference import pictures
from attnseg_jax.inference.export import card, stablehlo
from attnseg_jax.inference.export.formats import FORMATS, Wanted, Written, check
from attnseg_jax.inference.export.proof import LIMITS, prove
from attnseg_jax.inference.pictures import Picture
from attnseg_jax.inference.predictor import Predictor
from attnseg_jax.inference.pretrained import CARD
from attnseg_jax.ops.platforms import portable, tracing_for
from attnseg_jax.train.forward import window_and_stride, windows_at_once
from attnseg_jax.train.initial import workdir_of


def export(
    source: str | Path,
    form: str,
    output: str | Path | None = None,
    *,
    checkpoint: str = "latest",
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    size: tuple[int, int] | None = None,
    precision: str = "float32",
    python: str = sys.executable,
    minutes: float = 30.0,
    compare: str = "val",
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Path, Mapping[str, Any]]:
    """Writes a model in a format for others, once pictures have shown that it is the same model.

    Args:
      source: as of `Predictor`.
      form: of `FORMATS`.
      output: folder to make; by default `export/FORM` in the run.
      checkpoint: `latest`, `best` or a step.
      platforms: where a program is to run.
      size: height and width of the pictures that a program takes; None for any if the model allows it.
      precision: of the numbers in the file, `float32`, `float16` or `int8`; float32 is what was trained.
      python: the interpreter with the packages of the format, where this one has them not.
      minutes: that this interpreter may take to write the file.
      compare: a split of the run's data, or pictures as `Predictor` takes them: a file, a folder, a pattern.
      changes: keys of the config, such as `eval.mode`, and values that stand for the run's.

    Returns:
      The folder, and its card.

    Raises:
      UserError: something is not there, cannot be exported, or makes other masks than the model.
    """
    if form not in FORMATS:
        raise UserError(f"--format={form} is unknown: {nearest(form, FORMATS)}")
    stablehlo.check_platforms(platforms)
    wanted = Wanted(tuple(platforms), size, precision=precision, python=python, minutes=minutes)
    with portable(), _on(wanted.platform):
        # One at a time, as a program is run in the comparison; as many windows as the widest of its platforms takes.
        with tracing_for(wanted.accelerator(form), 1):
            predictor = Predictor(source, checkpoint=checkpoint, batch_size=1, changes=changes)
            if FORMATS[form].program:
                _settle_windows(predictor)
        if channels := predictor.config.data.channels:
            raise UserError(f"{source}: models of config.data.channels={channels} are not exported: hand the run on")
        if predictor.config.data.mode == "multilabel":
            raise UserError(
                f"{source}: models of config.data.mode='multilabel', which have a mask for each class, are not "
                "exported: hand the run on"
            )
        wanted = replace(wanted, packages=check(form, wanted, predictor.config))
        folder = _free(output, source, form)
        with tempfile.TemporaryDirectory() as scratch, _until_proven(folder) as unproven:
            found = _pictures(predictor, compare, Path(scratch))
            wanted = replace(wanted, usual=size or _size(found[0]))
            written = FORMATS[form].write(predictor, wanted, unproven)
            about = card.describe(predictor.info, predictor.config, predictor.multiple, source)
            about = {"format": form, **about, **written.card}
            write_atomically(unproven / CARD, _json(about))
            proof = prove(predictor, _fitting(found, written, compare), written.run, Path(scratch), LIMITS[precision])
            logging.info("export: %s", proof)
            where = f"on {wanted.platform}, in a process without the project"
            about["proof"] = {**asdict(proof), "where": where if FORMATS[form].program else "read back"}
            write_atomically(unproven / CARD, _json(about))
            write_atomically(unproven / card.README, card.readme(about).encode())
    return folder, about


def _settle_windows(predictor: Predictor) -> None:
    """Writes the windows of a program into its config in place of what stands for a default, for the card."""
    config = predictor.config
    if config.eval.mode == "slide":
        sizes = window_and_stride(config, predictor.multiple)
        config.eval.update(windows=windows_at_once(config, sizes["window"]), **sizes)


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()


@contextmanager
def _on(platform: str) -> Iterator[None]:
    device = jax.local_devices(backend=platform)[0]
    with jax.default_device(device):
        yield


def _free(output: str | Path | None, source: str | Path, form: str) -> Path:
    run = expanded(source)
    folder = expanded(output) if output else (workdir_of(run) or run) / "export" / form
    if folder.exists():
        raise UserError(f"--output={folder} is there already: give another name, or remove it")
    check_folder("--output", folder.absolute().parent, given=folder)
    # The programs that prove it run in other folders.
    return folder.absolute()


@contextmanager
def _until_proven(folder: Path) -> Iterator[Path]:
    """A folder that gets its name at the end, and is removed after an error."""
    unproven = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    unproven.mkdir()
    try:
        yield unproven
        unproven.rename(folder)
    except OSError as error:
        raise UserError(f"--output={folder} cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(unproven, ignore_errors=True)


def _pictures(predictor: Predictor, compare: str, scratch: Path) -> list[Picture]:
    data = predictor.config.data.copy_and_resolve_references()
    known = ("val", data.eval_split, data.train_split)
    if os.sep in compare or glob.has_magic(compare) or (compare not in known and expanded(compare).exists()):
        return pictures.find(compare)
    # As they are: the model resizes them.
    data.resolution = 1.0
    try:
        source = load_source(data, data.eval_split if compare == "val" else compare)
        if not len(source):
            raise UserError("it holds no pictures")
        folder, found = scratch / "split", []
        folder.mkdir()
        for number in range(len(source)):
            record = source[number]
            Image.fromarray(record["image"]).save(path := folder / f"{number}.png", compress_level=1)
            found.append(Picture(str(record["id"]), path))
    except UserError as error:
        raise UserError(f"--check={compare}: {error}; or compare on pictures, --check='photos/*.jpg'") from None
    return found


def _size(picture: Picture) -> tuple[int, int]:
    return decode_size(picture.path, picture.name)


def _fitting(found: Sequence[Picture], written: Written, compare: str) -> list[Picture]:
    """The pictures that an export takes; where all have one size and it takes others, a part of the first, too."""
    sizes = [_size(picture) for picture in found]
    fitting = [picture for picture, size in zip(found, sizes) if written.takes(size)]
    if not fitting:
        raise UserError(
            f"--check={compare}: none of {len(found)} pictures has a size that the export takes, the first has "
            f"{sizes[0][0]} x {sizes[0][1]} pixels: give others, or that as --size"
        )
    if len(fitting) < len(found):
        logging.info(
            "export: %d of %d pictures have other sizes and are left out", len(found) - len(fitting), len(found)
        )
    h, w = _size(fitting[0])
    part = (h - h // 4, w - w // 3)
    if len({*sizes}) == 1 and part != (h, w) and written.takes(part):
        pixels = decode_image(fitting[0].path, fitting[0].name)[: part[0], : part[1]]
        fitting.append(Picture(f"a part of {fitting[0].name}", pixels=pixels.copy()))
    return fitting
