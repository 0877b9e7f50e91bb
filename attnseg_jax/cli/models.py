"""Lists the published weights that are known by name: whole models, then backbones.

    attnseg-models
    attnseg-models --match=ade20k

`attnseg-predict --model=NAME` and `load_pretrained(NAME)` take a whole model, `config.model.backbone.pretrained=NAME`
takes a backbone; in NAME=PATH stands the path of a copy of the file. mIoU is in percent, as it was published, at one
scale; none was measured again here.
"""

import functools

from absl import flags

from attnseg_jax.cli import entry
from attnseg_jax.errors import UserError
from attnseg_jax.evaluation import tables
from attnseg_jax.weights.catalogue import CATALOGUE, MODELS


def _flags() -> None:
    flags.DEFINE_string("match", "", "list only lines that have this text in them (default: all)")


def _list() -> None:
    """Prints both tables."""
    text = flags.FLAGS.match
    models = [
        [name, x.data, "-" if x.miou is None else str(x.miou), x.scored_on, x.licence, x.source]
        for name, x in MODELS.items()
    ]
    backbones = [[name, x.licence, x.source] for name, x in CATALOGUE.items()]
    titles = (
        ["whole model", "classes", "mIoU", "published for", "licence", "source"],
        ["backbone", "licence", "source"],
    )
    chosen = [[row for row in rows if text in " ".join(row)] for rows in (models, backbones)]
    if not any(chosen):
        raise UserError(f"--match={text}: no published weights have that in their line")
    print("\n\n".join("\n".join(tables.text_table(*table)) for table in zip(titles, chosen) if table[1]))


main = functools.partial(entry.run, _list, _flags, usage=__doc__)

if __name__ == "__main__":
    main()
