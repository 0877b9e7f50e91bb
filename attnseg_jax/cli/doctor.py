"""Looks at a folder of images and masks as it is, says what is in it, and writes a config that trains on it.

    python -m attnseg_jax.cli.doctor path/to/data
    python -m attnseg_jax.cli.doctor --data=path/to/data --output=mine.py --report=report
    python -m attnseg_jax.cli.doctor --browse=sheet.png --config=mine.py

Images and masks are only read. With --config nothing is looked for: training samples of that config are drawn before
and after each of its transforms.
"""

import functools
import json
import re
from pathlib import Path

from absl import flags

from attnseg_jax.cli import entry
from attnseg_jax.data.doctor import examine, text
from attnseg_jax.data.doctor.config_text import config_text
from attnseg_jax.data.doctor.examine import Diagnosis
from attnseg_jax.data.sources import Source, load_source
from attnseg_jax.errors import UserError
from attnseg_jax.files import check_folder, expanded, target, write_atomically
from attnseg_jax.train import config as config_files

_SAMPLES = 6


def _flags() -> None:
    flags.DEFINE_string("data", None, "folder of the data")
    flags.DEFINE_string("output", None, "config to write, a .py file (default: the name of the folder, here)")
    flags.DEFINE_string("report", None, "folder for report.html and report.json (default: none)")
    flags.DEFINE_string("browse", None, "PNG to draw training samples to, before and after each transform")
    flags.DEFINE_string("config", None, "config to browse (default: the one that is written)")
    flags.DEFINE_bool("overwrite", False, "write over a config that is there already (default: False)")
    flags.DEFINE_bool("duplicates", True, "look for images of the same bytes (default: True)")
    flags.DEFINE_bool("nearduplicates", None, "look for images that look alike too (default: of up to 2000 pairs)")
    flags.DEFINE_integer("threads", 0, "reading threads (default: one for each core)")


def _with_data(argv: list[str]) -> list[str]:
    """`attnseg-doctor DIR` is `--data=DIR`."""
    given = [i for i, argument in enumerate(argv) if not argument.startswith("-")]
    # `--data DIR` has a value without a dash too.
    alone = [i for i in given if i == 0 or "=" in argv[i - 1] or not argv[i - 1].startswith("-")]
    if len(alone) == 1 and not any(argument.lstrip("-").partition("=")[0] == "data" for argument in argv):
        argv = [*argv[: alone[0]], f"--data={argv[alone[0]]}", *argv[alone[0] + 1 :]]
    return argv


def _diagnose() -> None:
    values = flags.FLAGS
    sheet = target("--browse", expanded(values.browse)) if values.browse else None
    if values.config:
        if values.data or values.report or sheet is None:
            raise UserError("--config is drawn by --browse=sheet.png, without a folder to look at and without --report")
        _browse(values.config, sheet)
        return
    if not values.data:
        raise UserError("which folder? attnseg-doctor path/to/data, or --data=path/to/data")
    if values.threads < 0:
        raise UserError(f"--threads={values.threads} must be at least 0")
    root = expanded(values.data).absolute()
    output = _output(root)
    report = expanded(values.report) if values.report else None
    examine.check_root(root)
    if report:
        check_folder("--report", report)
    # The names alone take seconds where there are many.
    print(root, flush=True)
    plan = examine.make_plan(root)
    if plan.root != root:
        print(f"data: {plan.root}")
    print(*text.plan_lines(plan), text.pair_line(examine.first_pair(plan)), sep="\n", flush=True)
    diagnosis = examine.examine(
        plan,
        threads=values.threads or None,
        duplicates=values.duplicates,
        near_duplicates=values.nearduplicates if values.duplicates else False,
    )
    print(*text.lines(diagnosis), sep="\n")
    name = re.sub(r"\W+", "_", output.stem).strip("_") or "data"
    program = "python train.py" if Path("train.py").is_file() else "attnseg-train"
    command = f"{program} --config={output} --workdir=runs/{name}"
    written, sources = "", {}
    if diagnosis.decisions:
        written = config_text(_title(root), command, _summary(diagnosis), diagnosis.decisions, diagnosis.findings)
        write_atomically(output, written.encode())
        sources = _sources(output, diagnosis)
    if report:
        for path in _report(report, diagnosis, sources, written, command):
            print(f"report: {path}")
    if sheet and written:
        _browse(str(output), sheet)
    if not written:
        errors = [finding.text for finding in diagnosis.findings if finding.level == "error"]
        raise UserError(f"no config is written: {'; '.join(errors) or 'nothing can be trained on'}")
    print(f"config: {output}\ntrain: {command}")


def _browse(config: str, sheet: Path) -> None:
    # What reads samples for training takes seconds to import.
    from attnseg_jax.train import browse

    print(f"transforms: {browse.draw(config, sheet)}")


def _output(root: Path) -> Path:
    """Where the config is written; refused before anything is read."""
    given = flags.FLAGS.output or f"{re.sub(r'[^A-Za-z0-9_]+', '_', root.name).strip('_') or 'data'}.py"
    if not given.endswith(".py"):
        raise UserError(f"--output={given} must end in .py, as a config does")
    path = expanded(given)
    if path.exists() and not path.is_dir() and not flags.FLAGS.overwrite:
        raise UserError(f"--output={given} is there already: choose another name, or --overwrite")
    return target("--output", path)


def _title(root: Path) -> str:
    return f"The pictures of {root.name}, as they were found."


def _summary(diagnosis: Diagnosis) -> str:
    splits, usable = diagnosis.plan.splits, diagnosis.summary.pairs
    left = len(diagnosis.summary.unusable)
    found = f"{usable[splits.train]} pairs to train on, {usable[splits.validation]} to validate on"
    return f"{found}; {left} could not be used." if left else f"{found}."


def _sources(output: Path, diagnosis: Diagnosis) -> dict[str, Source]:
    """The splits as a training will read them, by the config that was written."""
    data = config_files.with_folder(config_files.read_file(str(output))).data
    splits = diagnosis.plan.splits
    return {split: load_source(data, split) for split in (splits.train, splits.validation)}


def _report(
    folder: Path, diagnosis: Diagnosis, sources: dict[str, Source], written: str, command: str
) -> tuple[Path, Path]:
    """Writes the page and the JSON."""
    # Matplotlib takes a second to import.
    from attnseg_jax.plots import doctor_page
    from attnseg_jax.plots.sheet import as_one_map

    found = text.as_values(diagnosis)
    samples, classes = [], []
    for split, source in sources.items():
        info = source.info
        classes = list(zip(info.class_names, map(tuple, info.palette.tolist())))
        count = _SAMPLES if split == diagnosis.plan.splits.train else _SAMPLES // 2
        for index in sorted({i * len(source) // count for i in range(count)}):
            try:
                record = source[index]
            except UserError:
                # Of a picture that is too large to be decoded windows alone are read.
                continue
            label, palette = as_one_map(record["label"], info.palette)
            picture = doctor_page.sample_picture(info.shown(record["image"]), label, palette)
            samples.append((f"{split}: {record['id']}", picture))
    page, plain = folder / "report.html", folder / "report.json"
    write_atomically(page, doctor_page.page(found, samples, classes, written, command).encode())
    write_atomically(plain, (json.dumps(found, indent=1) + "\n").encode())
    return page, plain


main = functools.partial(entry.run, _diagnose, _flags, usage=__doc__, check=_with_data)

if __name__ == "__main__":
    main()
