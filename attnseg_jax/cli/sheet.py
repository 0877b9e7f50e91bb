"""Draws the same images through several runs: input, truth and each run's prediction.

    python -m attnseg_jax.cli.sheet --runs="without attention=runs/none,with attention=runs/self" --out=sheet.png

The runs must share their data; split and images are those of the first.
"""

import functools

from absl import flags

from attnseg_jax.cli import entry
from attnseg_jax.errors import UserError
from attnseg_jax.files import target
from attnseg_jax.inference.restore import predict, restore_run
from attnseg_jax.plots.drawing import write_png
from attnseg_jax.plots.segmentation import prediction_picture
from attnseg_jax.train.evaluation import sample_indices


def _flags() -> None:
    flags.DEFINE_string("runs", None, "TITLE=WORKDIR of each run, separated by commas; required")
    flags.DEFINE_string("out", "sheet.png", "PNG to write (default: sheet.png)")
    flags.DEFINE_string("split", "val", "split the images come from (default: val)")
    flags.DEFINE_integer("samples", 4, "number of images, evenly spread over the split (default: 4)")
    flags.DEFINE_string("data_dir", None, "where the data are now (default: where the first run found them)")


def _draw() -> None:
    """Predicts and draws."""
    pairs = [part.rpartition("=") for part in (flags.FLAGS.runs or "").split(",")]
    if not all(title and workdir for title, _, workdir in pairs):
        raise UserError("--runs must be TITLE=WORKDIR[,TITLE=WORKDIR...]")
    titles = [title for title, _, _ in pairs]
    if len({*titles}) < len(titles):
        raise UserError(f"--runs={flags.FLAGS.runs} holds a title twice: give each run its own")
    if flags.FLAGS.samples < 1:
        raise UserError(f"--samples={flags.FLAGS.samples} must be at least 1")
    out = target("--out", flags.FLAGS.out)
    records, columns = [], {}
    for title, _, workdir in pairs:
        restored = restore_run(workdir, split=flags.FLAGS.split, data_dir=flags.FLAGS.data_dir)
        indices = sample_indices(len(restored.source), flags.FLAGS.samples)
        if not records:
            info, resolution = restored.source.info, restored.config.data.resolution
            records = [restored.source[i] for i in indices]
        if restored.source.info.class_names != info.class_names:
            raise UserError(f"{workdir} has other classes than {pairs[0][2]}: compare runs on the same data")
        if restored.config.data.resolution != resolution:
            raise UserError(
                f"{workdir} has config.data.resolution={restored.config.data.resolution:g}, {pairs[0][2]} "
                f"{resolution:g}: compare runs on the same data"
            )
        columns[title] = predict(restored, records)
    picture = prediction_picture(
        [info.shown(record["image"]) for record in records],
        [record["label"] for record in records],
        columns,
        info.class_names,
        info.palette,
        titles=[record["id"] for record in records],
        errors=False,
    )
    write_png(out, picture)
    print(out)


main = functools.partial(entry.run, _draw, _flags, usage=__doc__)

if __name__ == "__main__":
    main()
