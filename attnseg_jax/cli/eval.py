"""Scores a run of train.py on a split.

    python eval.py --workdir=runs/camvid
    python eval.py --workdir=runs/camvid --split=test --checkpoint=best --config.eval.batch_size=2

Outside a checkout the command is attnseg-eval. Prints a table and, as the last line, the same as JSON. Needs nothing
but the workdir and the data.
"""

import functools
import re

from absl import flags

from attnseg_jax.cli import entry
from attnseg_jax.errors import UserError
from attnseg_jax.inference import evaluation
from attnseg_jax.train import config as config_files


def _flags() -> None:
    flags.DEFINE_string("workdir", None, "folder of the run; required")
    flags.DEFINE_string("split", "val", "split to score (default: val, the run's validation split)")
    flags.DEFINE_string("checkpoint", "latest", "'latest' (default), 'best' (by validation mIoU) or a step")
    flags.DEFINE_string("data_dir", None, "where the data are now (default: where the run found them)")
    flags.DEFINE_bool("distributed", False, "join the other processes of a pod (default: false)")
    flags.DEFINE_string("picture", None, "PNG to draw samples to (default: WORKDIR/eval/SPLIT_STEP.png)")
    flags.DEFINE_multi_string(
        "config", [], "--config.eval.KEY=VALUE takes the place of the run's: batch_size, size_multiple, samples"
    )


def _check(argv: list[str]) -> list[str]:
    """The command line, with `--config.eval.KEY=VALUE` as absl takes it, `--config=eval.KEY=VALUE`."""
    return [re.sub(r"^--?config\.", "--config=", argument) for argument in argv]


def _change(given: str) -> tuple[str, int]:
    """The key and value of `eval.KEY=VALUE`, all of which are whole numbers.

    >>> _change("eval.batch_size=3")
    ('eval.batch_size', 3)
    """
    key, _, value = given.partition("=")
    if not key.startswith("eval."):
        raise UserError(f"--config.{key}: an evaluation takes --config.eval.*; the rest is the run's")
    config_files.check_key(config_files.read_file(str(config_files.DEFAULT)), key)
    try:
        return key, int(value)
    except ValueError:
        raise UserError(f"--config.{given}: {value!r} is no whole number") from None


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
        dict(map(_change, given.config)),
    )
    print(result.table)
    print(result.json)


main = functools.partial(entry.run, _evaluate, _flags, usage=__doc__, check=_check)

if __name__ == "__main__":
    main()
