"""Writes a page about the scores of a run, or of masks on disk: where the model errs, and why.

    attnseg-report --workdir=runs/camvid
    attnseg-report --workdir=runs/camvid --split=test --checkpoint=best --report=page --config.eval.worst=8
    attnseg-report --predictions=masks --workdir=runs/camvid --report=page

The page is index.html in the folder --report, needs no network, and can be sent to others; scores.json beside it has
the numbers. By default the folder is WORKDIR/report, of masks and published models `report`. It is what attnseg-eval
writes with --report, whose other flags hold here, too.
"""

import functools

from absl import flags

from attnseg_jax.cli import entry
from attnseg_jax.cli import eval as scoring
from attnseg_jax.errors import UserError
from attnseg_jax.files import expanded


def _report() -> None:
    """Evaluates, prints the table, and writes the page."""
    given = flags.FLAGS
    if given.compare:
        raise UserError("--compare is for attnseg-eval: a page is of one run, or of one folder of masks")
    if not given.report:
        of_run = given.workdir and not given.predictions and expanded(given.workdir).is_dir()
        given.report = str(expanded(given.workdir) / "report") if of_run else "report"
    scoring.evaluate()


main = functools.partial(entry.run, _report, scoring.define_flags, usage=__doc__, check=scoring.spelled_out)

if __name__ == "__main__":
    main()
