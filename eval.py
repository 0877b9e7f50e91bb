"""Scores a run of train.py on a split.

    python eval.py --workdir=runs/camvid
    python eval.py --workdir=runs/camvid --split=test --checkpoint=best

Prints a table and, as the last line, the same as JSON. Needs nothing but the workdir and the data.
"""

from absl import flags

from attnseg_jax.cli import entry
from attnseg_jax.inference import evaluation

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; required")
SPLIT = flags.DEFINE_string("split", "val", "split to score (default: val, the run's validation split)")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "'latest' (default), 'best' (by validation mIoU) or a step")
DATA_DIR = flags.DEFINE_string("data_dir", None, "where the data are now (default: where the run found them)")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "join the other processes of a pod (default: false)")
PICTURE = flags.DEFINE_string("picture", None, "PNG to draw samples to (default: WORKDIR/eval/SPLIT_STEP.png)")


def main() -> None:
    """Evaluates and prints."""
    result = evaluation.evaluate_run(
        WORKDIR.value, SPLIT.value, CHECKPOINT.value, DATA_DIR.value, PICTURE.value, DISTRIBUTED.value
    )
    print(result.table)
    print(result.json)


if __name__ == "__main__":
    entry.run(main, usage=__doc__, help_flags=("workdir", "split", "checkpoint", "data_dir", "distributed", "picture"))
