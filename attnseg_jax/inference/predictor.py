"""Pictures in, masks out: a trained model as one object."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree, UInt8
from PIL import Image

from attnseg_jax.data import datasets
from attnseg_jax.data.pipeline import evaluation_sample, unlabelled
from attnseg_jax.data.regions import cache as region_cache
from attnseg_jax.data.transforms import scale_image
from attnseg_jax.data.transforms.fields import SIZES, canvas
from attnseg_jax.errors import NotFinite, UserError
from attnseg_jax.files import expanded
from attnseg_jax.inference import batching, pictures
from attnseg_jax.inference.attention import make_records
from attnseg_jax.inference.pictures import Picture
from attnseg_jax.inference.prediction import Look, Prediction
from attnseg_jax.inference.pretrained import read_back, read_card
from attnseg_jax.inference.programs import Form, Programs, TooLarge, model_outputs, output_bytes, within_memory
from attnseg_jax.plots import html
from attnseg_jax.train import config as configs
from attnseg_jax.train.forward import decision, make_forward
from attnseg_jax.train.sizes import evaluation_multiple
from attnseg_jax.train.step import model_inputs

EXTRAS = ("probabilities", "entropy")
"""What a prediction may hold beside the mask."""


class Predictor:
    """A trained model that turns any picture into a mask; needs neither its data set nor its optimizer.

        predictor = Predictor("runs/camvid")
        result = predictor("street.jpg")
        result.mask, result.probabilities, result.overlay()

    Pictures are prepared as those of the run's evaluation, so that masks are what was scored.

    Args:
      source: the workdir of a run, or the folder of one of its checkpoints; or what `attnseg-export` wrote.
      checkpoint: `latest`, `best` (by validation mIoU) or a step.
      batch_size: pictures of one padded size that are predicted at once, at most; by default
        `config.eval.batch_size` of the run.
      changes: keys of the config, such as `eval.mode`, and values that stand for the run's.

    Attributes:
      model: image -> `Output`.
      variables: its parameters and statistics.
      info: class names, colours, normalisation, where the weights come from.
      config: of the run.
      forward: (variables, inputs of the model) -> logits of the classes, as `config.eval` says.
      decision: how these are read.
      multiple: of which height and width are once the pictures are padded.
      mesh: the devices that share the windows of a picture; None where one does everything.

    Raises:
      UserError: there is no such run or checkpoint, or it is damaged.
    """

    # What an exported program takes.
    _data = datasets.DatasetInfo("", (), np.zeros((0, 3), np.uint8))

    def __new__(cls, source: str | Path | None = None, **options: Any) -> "Predictor":
        """Of an exported program an `ExportedPredictor`."""
        # A copy is made without a source.
        card = read_card(expanded(source)) if cls is Predictor and source is not None else None
        if card and card["format"] == "stablehlo":
            from attnseg_jax.inference.exported import ExportedPredictor

            cls = ExportedPredictor
        return super().__new__(cls)

    def __init__(
        self,
        source: str | Path,
        *,
        checkpoint: str = "latest",
        batch_size: int | None = None,
        changes: Mapping[str, Any] = MappingProxyType({}),
    ):
        self.model, self.variables, self.info, self.config = read_back(source, checkpoint=checkpoint)
        region_cache.settle(self.config.data.regions)
        configs.apply_changes(self.config, changes)
        self.batch_size = batching.checked_batch_size(batch_size, self.config.eval.batch_size)
        self.forward = make_forward(self.config, self.model)
        self.decision = decision(self.config, self.model, len(self.info.class_names))
        self._forward, self.mesh = self.forward, _mesh() if self.config.eval.mode == "slide" else None
        if self.mesh:
            self._forward = make_forward(self.config, self.model, self.mesh)
            self._spread = jax.device_put(self.variables, NamedSharding(self.mesh, PartitionSpec()))
        self.multiple = evaluation_multiple(self.config, self.model)
        self._data = datasets.info(self.config.data)
        self._programs = Programs()
        # How many pictures of a form are predicted at once, by how many there were.
        self._fitting: dict[tuple, int] = {}

    def _repr_html_(self) -> str:
        """Where the weights are from, and the classes; notebooks show it."""
        known = {"weights": self.info.source, "licence": self.info.licence}
        rows = [(html.text(name), html.text(value)) for name, value in known.items() if value]
        return html.table(("", ""), rows) + html.legend(self.info.class_names, self.info.palette)

    @property
    def placed(self) -> PyTree:
        """The variables where the programs of pictures take them: on all devices of the mesh, where there is one."""
        return self._spread if self.mesh else self.variables

    @property
    def channels(self) -> int:
        """Of the pictures, as `config.data.channels`; 0 for 8-bit RGB."""
        return self._data.channels

    def __call__(
        self, images: str | Path | np.ndarray | Image.Image | Sequence[Any], *, extras: Sequence[str] = ()
    ) -> Prediction | list[Prediction]:
        """The prediction of one picture; the list of those of several.

        Args:
          images: a file, an array uint8 `[h, w, 3]` or `[h, w]` (of a model with `config.data.channels`, of these), or
            a PIL picture; for several a folder, a pattern
            such as `photos/**/*.jpg`, or a list of any of them. A TIFF file of several pictures counts as several.
          extras: of `EXTRAS`, what to compute in the same pass; what is not is computed when it is asked for.

        Raises:
          UserError: there is no such file, or it is no picture; a picture does not fit into the memory.
          NotFinite: the logits of a picture are not finite.
        """
        asked = self.by_page(pictures.find(images, self.channels))
        found = list(self.stream(asked, extras=extras))
        return found[0] if pictures.is_single(images) and len(asked) == 1 else found

    def by_page(self, found: list[Picture]) -> list[Picture]:
        """Pictures, those of TIFF files of several pages one by one, unless the pages are the model's channels."""
        are_channels = self.channels and self.config.data.layout != "stacks"
        return found if are_channels else pictures.by_page(found)

    def stream(
        self,
        images: Iterable[Picture],
        *,
        extras: Sequence[str] = (),
        on_error: Callable[[Picture, UserError], None] | None = None,
    ) -> Iterator[Prediction]:
        """Predictions one after another, in the order of the pictures, of which few are held at a time.

        `on_error` is told of a picture that cannot be read or that the memory does not hold, which is left out; without
        it the error is raised.
        """
        if unknown := set(extras) - set(EXTRAS):
            raise UserError(f"extras={tuple(extras)}: {min(unknown)!r} is none of {', '.join(EXTRAS)}")
        extras = tuple(sorted(set(extras)))
        decoded = batching.read(images, self.channels, on_error)
        predicted = output_bytes(len(self.info.class_names), extras)
        for window in batching.windows(decoded, 4 * self.batch_size, predicted):
            yield from self._predict(window, extras, on_error)

    def attention(self, image: UInt8[np.ndarray, "h w 3"]) -> Look:
        """What the model attends to in a picture.

        Raises:
          UserError: no part of the model leaves anything to look at.
        """
        (padded, *sizes), form = self._prepared(Picture("the picture", pixels=image))
        _, _, records = self._records(padded)
        return records, form.padded, tuple(sizes[0][0].tolist()) if sizes else image.shape[:2]

    @functools.cached_property
    def _records(self) -> Callable:
        return make_records(self.model, self.variables, self.config)

    def _predict(
        self,
        window: list[tuple[Picture, np.ndarray]],
        extras: tuple[str, ...],
        on_error: Callable[[Picture, UserError], None] | None,
    ) -> Iterator[Prediction]:
        """Predictions of decoded pictures, those of one form in batches."""

        def refused(picture: Picture, error: UserError) -> None:
            if on_error is None:
                raise error
            on_error(picture, error)

        prepared, groups = {}, {}
        for place, (picture, pixels) in enumerate(window):
            try:
                prepared[place], form = self._prepared(replace(picture, pixels=pixels))
            except UserError as error:
                refused(picture, error)
            else:
                groups.setdefault(form, []).append(place)
        found: dict[int, Prediction] = {}
        for form, places in groups.items():
            for start in range(0, len(places), self.batch_size):
                part = places[start : start + self.batch_size]
                try:
                    rows = self._run([prepared[place] for place in part], form, extras)
                except UserError as error:
                    for place in part:
                        refused(window[place][0], error)
                    continue
                for place, row in zip(part, rows, strict=True):
                    found[place] = self._prediction(*window[place], row)
        # What the caller is done with is held no longer.
        yield from (found.pop(place) for place in sorted(found))

    def _prediction(self, picture: Picture, pixels: np.ndarray, row: Mapping[str, np.ndarray]) -> Prediction:
        if not row["finite"]:
            raise NotFinite(
                f"{picture.name}: the logits of the model are not finite; the weights are ruined ({self.info.source}): "
                "take another checkpoint"
            )
        h, w = pixels.shape[:2]
        arrays = {name: x[:h, :w] for name, x in row.items() if name != "finite"}
        return Prediction(
            picture,
            self._data.shown(pixels),
            arrays.pop("mask"),
            self.info.class_names,
            np.asarray(self.info.palette, np.uint8),
            extras=arrays,
            compute=functools.partial(self._again, pixels),
            look=functools.partial(self.attention, pixels),
        )

    def _again(self, pixels: np.ndarray, extra: str) -> np.ndarray:
        """An extra of a picture that was predicted without."""
        sample, form = self._prepared(Picture("the picture", pixels=pixels))
        h, w = pixels.shape[:2]
        return self._run([sample], form, (extra,))[0][extra][:h, :w]

    def _prepared(self, picture: Picture) -> tuple[tuple[np.ndarray, ...], Form]:
        """What `model_outputs` takes for a picture, without an axis for the batch, and its form."""
        data, full = self.config.data, picture.pixels.shape[:2]
        sample = unlabelled(scale_image(picture.pixels, data.resolution), picture.name, data)
        fields = evaluation_sample(sample, data, self.multiple, self.config.eval.padding)
        inputs, padded = tuple(fields[name] for name in model_inputs(self.model)), fields["image"].shape[:2]
        inside = tuple(fields[SIZES][0].tolist()) if SIZES in fields else sample["image"].shape[:2]
        # Masks are cut on the host, so that pictures of several sizes share a batch.
        if inside == full:
            return inputs, Form(padded)
        return (*inputs, np.int32([inside, full])), Form(padded, canvas(full))

    def _run(
        self, samples: Sequence[tuple[np.ndarray, ...]], form: Form, extras: tuple[str, ...]
    ) -> list[dict[str, np.ndarray]]:
        """Outputs of samples of one form; a batch that the memory does not hold is divided."""
        # Few numbers of rows, each of which is compiled: 1, 2, 4 ... and the batch size.
        wanted = min(1 << (len(samples) - 1).bit_length(), self.batch_size)
        inputs = [np.stack([sample[i] for sample in samples]) for i in range(len(samples[0]))]
        rows = self._fitting.get((form, wanted, extras), wanted)
        while True:
            try:
                found = self._in_parts(inputs, rows, form, extras)
            except TooLarge as error:
                if rows == 1:
                    size = "{} x {} pixels".format(*(form.full or form.padded))
                    raise UserError(f"a picture of {size} takes {error}: {self._smaller()}") from None
                rows //= 2
            else:
                # For the next batch as large as this one, too.
                self._fitting[form, wanted, extras] = rows
                return found

    def _in_parts(
        self, inputs: Sequence[np.ndarray], rows: int, form: Form, extras: tuple[str, ...]
    ) -> list[dict[str, np.ndarray]]:
        """Outputs of samples, of `rows` at once."""
        program = self._programs((form, rows, extras), lambda: self._lowered(inputs, rows, form, extras))
        found: list[dict[str, np.ndarray]] = []
        for start in range(0, len(inputs[0]), rows):
            part = [batching.filled(x[start : start + rows], rows) for x in inputs]
            outputs = within_memory(lambda part=part: jax.device_get(self._outputs(program, part, extras)))
            count = min(rows, len(inputs[0]) - start)
            found += [{name: x[row] for name, x in outputs.items()} for row in range(count)]
        return found

    def _outputs(self, program: Callable, part: Sequence[np.ndarray], extras: tuple[str, ...]) -> dict[str, jax.Array]:
        return program(self.placed, *part)

    def _smaller(self) -> str:
        """What to do with a picture that is too large."""
        whole = self.config.eval.mode == "whole" and len(model_inputs(self.model)) == 1
        return "cut it into smaller ones" + " or predict in windows, config.eval.mode='slide'" * whole

    def _lowered(
        self, inputs: Sequence[np.ndarray], rows: int, form: Form, extras: tuple[str, ...]
    ) -> jax.stages.Lowered:
        logging.info("predict: compiling for %d x %d pixels, %d at once", *form.padded, rows)
        abstract = [jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype) for x in inputs]
        outputs = functools.partial(model_outputs, self._forward, self.decision, form, extras)
        # The mesh is what a kernel that needs one device learns from how to spread itself.
        with jax.set_mesh(self.mesh) if self.mesh else contextlib.nullcontext():
            return jax.jit(outputs).lower(self.placed, *abstract)


def _mesh() -> Mesh | None:
    """The devices of this process, where there are several."""
    devices = jax.local_devices()
    return Mesh(np.array(devices), ("windows",), axis_types=(AxisType.Auto,)) if len(devices) > 1 else None
