"""Scores a run of train.py, or masks on disk, on a split; compares several.

    python eval.py --workdir=runs/camvid
    python eval.py --workdir=runs/camvid --split=test --checkpoint=best --config.eval.batch_size=2
    python eval.py --workdir=runs/camvid --config.eval.scales=0.75,1,1.25 --config.eval.flip=true
    python eval.py --workdir=runs/camvid --report=report
    python eval.py --workdir=segformer_b0-ade20k --data_dir=path/to/ADEChallengeData2016
    python eval.py --predictions=masks --workdir=runs/camvid
    python eval.py --predictions=masks --config=camvid.py --data_dir=path/to/camvid
    python eval.py --compare runs/fcn runs/self
    python eval.py --compare 'runs/fcn_*' 'runs/self_*' masks --split=test

Outside a checkout the command is attnseg-eval. Prints a table and, as the last line, the same as JSON; beside the
picture of samples it draws the confusion of classes and the calibration, and lists the scores of each image. Needs
nothing but the workdir and the data. A name of `attnseg-models`, or NAME=FILE, stands for a workdir.

--predictions scores masks of any tool: pictures named like the images, whose values are classes. --compare scores runs,
or folders of masks, on the same images, and says for each pair by how much it differs and how sure that is; several
folders of one name, by a pattern or with commas, are the seeds of one system.
"""

import functools
from pathlib import Path

from absl import flags

from attnseg_jax import configs
from attnseg_jax.cli import changes, entry
from attnseg_jax.errors import UserError
from attnseg_jax.files import check_folder, expanded
from attnseg_jax.inference import evaluation
from attnseg_jax.inference.evaluation import Result
from attnseg_jax.study import compare, score_report
from attnseg_jax.train import config as config_files


def define_flags() -> None:
    """Defines the flags of this command, and of `cli.report`."""
    flags.DEFINE_string("workdir", None, "folder of the run, or a published model; not for --compare or --config=FILE")
    flags.DEFINE_string("split", "val", "split to score (default: val, the run's validation split)")
    flags.DEFINE_string("checkpoint", "latest", "'latest' (default), 'best' (by validation mIoU) or a step")
    flags.DEFINE_string("data_dir", None, "where the data are now (default: where the run found them)")
    flags.DEFINE_bool("distributed", False, "join the other processes of a pod (default: false)")
    flags.DEFINE_string("picture", None, "PNG to draw samples to (default: WORKDIR/eval/SPLIT_STEP.png)")
    flags.DEFINE_string("report", None, "folder to write a page about the scores to, index.html, and scores.json")
    flags.DEFINE_string("predictions", None, "folder of masks to score in the place of a model's")
    flags.DEFINE_bool("raw_ids", False, "the masks have the values, or colours, of the data set's own (default: false)")
    flags.DEFINE_multi_string("compare", None, "folders of runs or of masks to compare: --compare runs/a runs/b")
    changes.define()


def evaluate() -> None:
    """Evaluates and prints."""
    given = flags.FLAGS
    if given.report:
        check_folder("--report", expanded(given.report))
    if given.compare:
        if given.workdir or given.predictions or given.picture or given.report:
            raise UserError("--compare names all folders: leave out --workdir, --predictions, --picture and --report")
        systems = compare.members(given.compare)
        runs = [folder for folders in systems.values() for folder in folders if _is_run(folder)]
        table, line = compare.compare_systems(systems, lambda folder: _scored(folder, runs))
    else:
        result = _of_masks(given.predictions, given.workdir) if given.predictions else _of_run(given.workdir)
        table, line = result.table, result.json
        if given.report:
            workdir = None if given.predictions else expanded(given.workdir)
            score_report.write_report(result, expanded(given.report), workdir)
    print(table)
    print(line)


def _is_run(folder: Path) -> bool:
    return (folder / "config.json").exists()


def _scored(folder: Path, runs: list[Path]) -> Result:
    """A folder of several to compare; the data of masks are those of the first run, where no config names any."""
    return _of_run(str(folder)) if folder in runs else _of_masks(str(folder), str(runs[0]) if runs else None)


def _of_run(workdir: str | None) -> Result:
    given = flags.FLAGS
    return evaluation.evaluate_run(
        workdir,
        given.split,
        given.checkpoint,
        given.data_dir,
        given.picture,
        given.distributed,
        changes.given(),
        report=bool(given.report),
    )


def _of_masks(folder: str, workdir: str | None) -> Result:
    given = flags.FLAGS
    changed, file = changes.given_with_file()
    if file:
        config = config_files.filled(config_files.read_file(configs.find(file)))
    elif workdir:
        config = config_files.load(expanded(workdir))
    else:
        raise UserError("--predictions needs the data: --workdir of a run on them, or --config=FILE of a config")
    if given.data_dir is not None:
        config.data.dir = given.data_dir
    config_files.apply_changes(config, changed)
    return evaluation.evaluate_predictions(
        folder, config, given.split, given.picture, raw_ids=given.raw_ids, report=bool(given.report)
    )


def spelled_out(argv: list[str]) -> list[str]:
    """The command line as absl takes it, with each folder after `--compare` in a flag of its own."""
    found, comparing = [], False
    for argument in changes.spelled_out(argv):
        comparing = argument == "--compare" or (comparing and not argument.startswith("-"))
        if argument != "--compare":
            found.append(f"--compare={argument}" if comparing else argument)
    return found


main = functools.partial(entry.run, evaluate, define_flags, usage=__doc__, check=spelled_out)

if __name__ == "__main__":
    main()
