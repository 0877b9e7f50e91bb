"""Trains a segmentation model.

    python train.py
    python train.py --config=camvid_resnet18_attention --config.data.dir=path/to/camvid --workdir=runs/camvid

Outside a checkout the command is attnseg-train. Every key of a config can be set as --config.key=value. The same
command again continues an interrupted run and prints the result of a finished one.
"""

import functools
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from attnseg_jax.cli import config_flag, entry
from attnseg_jax.evaluation import tables
from attnseg_jax.files import expanded
from attnseg_jax.train import config as config_files
from attnseg_jax.train import loop


def _flags() -> None:
    config_flag.define_flag()
    flags.DEFINE_string("workdir", None, "folder of the run (default: runs/<config name>-<hash of the config>)")


def _train() -> None:
    """Trains, and prints the scores and where everything is."""
    config = config_flag.given()
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    workdir = expanded(flags.FLAGS.workdir or f"runs/{name}-{config_files.config_hash(config)}")
    result = loop.run(config, workdir)
    miou = tables.mean_iou(result["miou"], result.get("iou", {}), result.get("left_out", ()))
    print(f"validation mIoU {miou} on {result['split']!r} at step {result['step']}")
    # Of a run of an older version, or on another machine than the first process, it is not there.
    if (table := workdir / "result.txt").exists():
        print(table.read_text(), end="")
    for what, path in (("checkpoints", "checkpoints"), ("curves", "curves.png"), ("pictures", "predictions")):
        print(f"{what}: {workdir / path}")


main = functools.partial(entry.run, _train, _flags, usage=__doc__, check=config_flag.check, more_help=config_flag.keys)

if __name__ == "__main__":
    main()
