"""Scores a run of train.py on a split.

    python eval.py --workdir=runs/camvid
    python eval.py --workdir=runs/camvid --split=test --checkpoint=best --config.eval.batch_size=2
    python eval.py --workdir=runs/camvid --config.eval.scales=0.75,1,1.25 --config.eval.flip=true

Outside a checkout the command is attnseg-eval. Prints a table and, as the last line, the same as JSON. Needs nothing
but the workdir and the data.
"""

import functools

from absl import flags

from attnseg_jax.cli import changes, entry
from attnseg_jax.inference import evaluation


def _flags() -> None:
    flags.DEFINE_string("workdir", None, "folder of the run; required")
    flags.DEFINE_string("split", "val", "split to score (default: val, the run's validation split)")
    flags.DEFINE_string("checkpoint", "latest", "'latest' (default), 'best' (by validation mIoU) or a step")
    flags.DEFINE_string("data_dir", None, "where the data are now (default: where the run found them)")
    flags.DEFINE_bool("distributed", False, "join the other processes of a pod (default: false)")
    flags.DEFINE_string("picture", None, "PNG to draw samples to (default: WORKDIR/eval/SPLIT_STEP.png)")
    changes.define()


def _evaluate() -> None:
    """Evaluates and prints."""
    given = flags.FLAGS
    result = evaluation.evaluate_run(
        given.workdir,
        given.split,
        given.checkpoint,
        given.data_dir,
        given.picture,
        given.distributed,
        changes.given(),
    )
    print(result.table)
    print(result.json)


main = functools.partial(entry.run, _evaluate, _flags, usage=__doc__, check=changes.spelled_out)

if __name__ == "__main__":
    main()
