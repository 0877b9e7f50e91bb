"""Predicts the class of every pixel of pictures.

    attnseg-predict --model=runs/camvid --input=street.jpg --output=masks
    attnseg-predict --model=runs/camvid --checkpoint=best "--input=photos/**/*.jpg" --input=more --output=masks
    attnseg-predict --model=runs/camvid --input=photos --output=masks --probabilities --attention=120,200
    attnseg-predict --model=runs/camvid --input=aerial --output=masks --mode=slide
    attnseg-predict --model=segformer_b0-ade20k --input=photos --output=masks
    attnseg-predict --model=segformer_b0-ade20k=path/to/pytorch_model.bin --input=photos --output=masks

The model is that of a run of train.py, whose data are not needed, or a published one (`attnseg-models` lists them), the
file of which is fetched, or given after its name. Below OUTPUT, with the names and subfolders of the
pictures:

    mask/           palette PNGs, whose values are the classes; of classes that may overlap mask/CLASS/, of 0 and 1
    overlay/        the picture with the colours of the classes over it, and their names
    probabilities/  those of the classes, float16 [h, w, k] as `probabilities` in .npz files
    probability_maps/CLASS/  the same as PNGs of 8 bits, 255 for 1
    entropy/        how unsure the model is, as PNGs: 0 sure, 255 all classes alike
    polygons/       GeoJSON: a polygon, with its holes, for each connected region of a class
    attention/      what points of the picture look at, a folder each
    areas.csv       pixels and share of each class in each picture
    classes.csv     value, name and colour of the classes

Of a GeoTIFF file the mask is one, too; of a very large TIFF file in windows there is nothing but that. A video (PyAV)
becomes a folder of frames, and one video of overlays; a TIFF file of several pictures a folder of its pages.

The same command again goes on where it was stopped. A picture that cannot be read is left out and named at the end.
"""

import contextlib
import functools
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags, logging

from attnseg_jax.cli import changes, entry
from attnseg_jax.cli.attention import points_of
from attnseg_jax.data.limits import MAX_PIXELS
from attnseg_jax.errors import UserError, UserErrors
from attnseg_jax.files import check_folder, expanded, write_atomically
from attnseg_jax.inference import pictures
from attnseg_jax.inference.areas import Areas, csv_bytes
from attnseg_jax.inference.attention import covered_by
from attnseg_jax.inference.geotiff import is_large, size_of
from attnseg_jax.inference.large import predict_large
from attnseg_jax.inference.prediction import KINDS, Prediction, outputs, record_of
from attnseg_jax.inference.predictor import EXTRAS, Predictor
from attnseg_jax.inference.video import Film, frames, is_video
from attnseg_jax.plots.attention_sheet import Scene, attention_sheet
from attnseg_jax.train.forward import MODES
from attnseg_jax.train.logging import ImageBar

# What the outputs of a folder were made with.
_RECORD = "predict.json"
# Keys of `config.eval` that change no mask.
_FREE = ("eval.batch_size", "eval.windows", "eval.samples", "eval.worst")
# Larger than any picture, to look at the form of points alone.
_ANY_SIZE = (1 << 31, 1 << 31)


def _flags() -> None:
    flags.DEFINE_string("model", None, "folder of a run, or of one of its checkpoints; a published model; required")
    flags.DEFINE_multi_string("input", None, "picture, folder or pattern 'photos/**/*.jpg'; repeatable, required")
    flags.DEFINE_string("output", None, "folder to write to; required")
    flags.DEFINE_string("checkpoint", "latest", "'latest' (default), 'best' (by validation mIoU) or a step")
    flags.DEFINE_bool("overlay", True, "draw the classes over the pictures (default: true)")
    flags.DEFINE_bool("probabilities", False, "write the probabilities of the classes (default: false)")
    flags.DEFINE_bool("probability_maps", False, "write them as a PNG for each class (default: false)")
    flags.DEFINE_bool("entropy", False, "write how unsure the model is (default: false)")
    flags.DEFINE_bool("polygons", False, "write the regions of the classes as GeoJSON (default: false)")
    flags.DEFINE_string(
        "attention", None, "draw what 'y,x', 'y,x;y,x' or 'centre' looks at; 'self0' or 'self0@y,x': in one part alone"
    )
    flags.DEFINE_integer("batch_size", None, "pictures at once (default: config.eval.batch_size of the run)")
    flags.DEFINE_enum("mode", None, MODES, "whole pictures or windows, --config.eval.mode (default: that of the run)")
    changes.define()
    flags.DEFINE_enum("on_error", "skip", ["skip", "raise"], "of a picture that cannot be read (default: skip)")


def _predict() -> None:
    """Predicts and writes; what cannot be read is an error at the end."""
    given = flags.FLAGS
    for name in ("model", "input", "output"):
        if not given[name].value:
            raise UserError(f"--{name} is missing: attnseg-predict --model=RUN --input=PICTURES --output=FOLDER")
    folder = expanded(given.output)
    inputs = given.input if len(given.input) > 1 else given.input[0]
    # What an earlier command wrote may lie below a folder of pictures.
    written = {(folder / name).resolve() for name in (*KINDS, "attention")}
    found = [p for p in pictures.find(inputs) if not written.intersection(p.path.resolve().parents)]
    if not found:
        raise UserError(f"--input={inputs} holds only what was written to --output={folder}: name other pictures")
    if given.attention:
        _asked(given.attention, _ANY_SIZE)
    changed = changes.given() | ({"eval.mode": given.mode} if given.mode else {})
    predictor = Predictor(given.model, checkpoint=given.checkpoint, batch_size=given.batch_size, changes=changed)
    found = predictor.by_page(found)
    kinds = [kind for kind in KINDS if kind == "mask" or given[kind].value]
    check_folder("--output", folder)
    try:
        _predict_all(found, predictor, folder, kinds, changed)
    except OSError as error:
        raise UserError(f"--output={folder} cannot be written ({error.strerror}): the same command goes on") from error


def _predict_all(
    found: Sequence[pictures.Picture],
    predictor: Predictor,
    folder: Path,
    kinds: Sequence[str],
    changed: Mapping[str, Any],
) -> None:
    given = flags.FLAGS
    _check_record(folder, predictor, changed)
    areas = Areas(folder / "areas.csv", predictor.info.class_names)
    for picture in found:
        areas.check_free(picture)
    large = {p for p in found if _by_bands(p, predictor)}
    of_classes = {"names": predictor.info.class_names, "overlapping": predictor.decision.multilabel}

    def is_written(picture: pictures.Picture) -> bool:
        return _is_written(picture, picture in large, folder, kinds, given.attention, of_classes)

    todo = [p for p in found if not (p in areas and is_written(p))]
    if len(todo) < len(found):
        logging.info("%d of %d pictures are done already", len(found) - len(todo), len(found))
    write_atomically(folder / "classes.csv", _classes(predictor))

    failed: list[str] = []

    def on_error(picture: pictures.Picture, error: UserError) -> None:
        if given.on_error == "raise":
            raise error
        logging.warning("%s", error)
        failed.append(str(error))

    start = time.monotonic()
    extras = _extras(kinds)
    with ImageBar("predict", len(todo)) as bar:
        for picture in todo:
            if picture in large or is_video(picture.path):
                try:
                    if picture in large:
                        _predict_large(picture, predictor, folder, areas)
                    else:
                        _predict_video(picture, predictor, folder, kinds, areas)
                except UserError as error:
                    on_error(picture, error)
                bar({"valid": [True]}, None)
        others = (picture for picture in todo if not (picture in large or is_video(picture.path)))
        for result in predictor.stream(others, extras=extras, on_error=on_error):
            try:
                _write(result, folder, kinds, given.attention)
            except UserError as error:
                # The point of --attention lies outside this picture.
                on_error(result.picture, error)
            else:
                h, w = result.mask.shape[:2]
                areas.add(result.picture, (h, w), list(result.areas().values()), h * w)
            bar({"valid": [True]}, None)
    done, seconds = len(todo) - len(failed), time.monotonic() - start
    pace = f" in {seconds:.1f} s, {done / seconds:.2f} a second" if done else ""
    print(f"{folder}: {done} pictures predicted{pace}")
    if failed:
        raise UserErrors(f"{len(failed)} of {len(found)} pictures cannot be predicted:", failed)


def _by_bands(picture: pictures.Picture, predictor: Predictor) -> bool:
    """Whether a picture is predicted by bands of rows: a large TIFF file in windows, or one that nothing else reads."""
    if picture.page is not None or not is_large(picture.path):
        return False
    config = getattr(predictor, "config", None)
    return (config is not None and config.eval.mode == "slide") or math.prod(size_of(picture.path)) > MAX_PIXELS


def _predict_large(picture: pictures.Picture, predictor: Predictor, folder: Path, areas: Areas) -> None:
    """The mask and the areas of a very large TIFF file, which has no other outputs."""
    logging.info("%s: too large for anything but its mask, which is predicted in windows", picture.name)
    counts = predict_large(
        predictor, picture.path, outputs(picture, folder, ["mask"], predictor.info.class_names)["mask"]
    )
    areas.add(picture, size_of(picture.path), counts.tolist())


def _predict_video(
    video: pictures.Picture, predictor: Predictor, folder: Path, kinds: Sequence[str], areas: Areas
) -> None:
    """The frames of a video as pictures in a folder of its name, and one video of their overlays."""
    extras, single = _extras(kinds), [kind for kind in kinds if kind != "overlay"]
    total, size, count = np.zeros(len(predictor.info.class_names), np.int64), (0, 0), 0
    with contextlib.ExitStack() as stack:
        film = stack.enter_context(Film(_film(folder, video), video.path)) if "overlay" in kinds else None
        for result in predictor.stream(frames(video), extras=extras):
            result.save(folder, single)
            total, size, count = total + list(result.areas().values()), result.mask.shape[:2], count + 1
            if film:
                film.add(result.overlay())
    areas.add(video, size, total.tolist(), count * math.prod(size))


def _extras(kinds: Sequence[str]) -> list[str]:
    """What a model computes for the kinds of output."""
    return [name for name in EXTRAS if name in kinds or (name == "probabilities" and "probability_maps" in kinds)]


def _film(folder: Path, video: pictures.Picture) -> Path:
    return folder / "overlay" / f"{video.target}.mp4"


def _is_written(
    picture: pictures.Picture,
    large: bool,
    folder: Path,
    kinds: Sequence[str],
    attention: str | None,
    of_classes: Mapping[str, Any],
) -> bool:
    """Whether all its outputs are there and newer than the picture."""
    if is_video(picture.path):
        single = [kind for kind in kinds if kind != "overlay"]
        paths = [path.with_suffix("") for path in outputs(picture, folder, single, **of_classes).values()]
        paths += [_film(folder, picture)] * ("overlay" in kinds)
        return all(p.exists() and p.stat().st_mtime >= picture.path.stat().st_mtime for p in paths)
    if large:
        kinds, attention = ["mask"], None
    paths = [
        *outputs(picture, folder, kinds, **of_classes).values(),
        *[_sheets(folder, picture) / "sheet.png"] * bool(attention),
    ]
    return all(path.exists() and path.stat().st_mtime >= picture.path.stat().st_mtime for path in paths)


def _sheets(folder: Path, picture: pictures.Picture) -> Path:
    return folder / "attention" / picture.target


def _write(result: Prediction, folder: Path, kinds: Sequence[str], attention: str | None) -> None:
    name, points = _asked(attention, result.mask.shape[:2]) if attention else ("", [])
    result.save(folder, kinds)
    if points:
        records, padded, scaled = result.look()
        if name:
            records = {name: record_of(records, name)}
        # In pixels of the picture, which may have been resized on its way to the model.
        covered = covered_by(padded, scaled, result.mask.shape[:2])
        scene = Scene(result.image, points, result.mask, result.names, result.palette, result.picture.name, covered)
        attention_sheet(scene, records, _sheets(folder, result.picture))


def _asked(attention: str, size: tuple[int, int]) -> tuple[str, list[tuple[int, int]]]:
    """The name of an attention record, "" for all, and points of a picture.

    >>> _asked("self0", (64, 96)), _asked("centre", (64, 96)), _asked("self0@1,2", (64, 96))
    (('self0', [(32, 48)]), ('', [(32, 48)]), ('self0', [(1, 2)]))
    """
    name, _, at = attention.rpartition("@")
    if not name and at != "centre" and at.isidentifier():
        name, at = at, "centre"
    return name, points_of(None if at == "centre" else at, size, "--attention")


def _check_record(folder: Path, predictor: Predictor, changed: Mapping[str, Any]) -> None:
    """Refuses a folder with outputs of another model; says in the folder what its outputs are of."""
    # JSON knows no tuples.
    options = {
        key: list(value) if isinstance(value, tuple) else value for key, value in changed.items() if key not in _FREE
    }
    record = {"model": predictor.info.source, "sha256": predictor.info.sha256, "config": options}
    path = folder / _RECORD
    try:
        before = json.loads(path.read_text())
    except (OSError, ValueError):
        before = None
    if before is not None and before != record:
        known = before if isinstance(before, dict) else {}
        of = " with ".join(str(known[key]) for key in ("model", "config") if known.get(key))
        raise UserError(f"--output={folder} holds predictions of {of}: give another folder, or remove it")
    write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())


def _classes(predictor: Predictor) -> bytes:
    rows = zip(predictor.info.class_names, np.asarray(predictor.info.palette).tolist(), strict=True)
    # Where classes may overlap each is 1 in its own mask.
    values = ((1 if predictor.decision.multilabel else i, name, *rgb) for i, (name, rgb) in enumerate(rows))
    return csv_bytes([["value", "name", "red", "green", "blue"], *values])


main = functools.partial(entry.run, _predict, _flags, usage=__doc__, check=changes.spelled_out)

if __name__ == "__main__":
    main()
