"""Which mechanism sees the key patch at the other end of a `context` picture, and at what cost?

python -m attnseg_jax.cli.study --study=configs/studies/reach.py --workdir=runs/reach
"""

from absl import logging

from attnseg_jax.models import ATTENTION, DECODERS
from attnseg_jax.study.entries import Entry

# The six best of the first pass, by label.
BEST = ("nonlocal", "linear", "scse", "psa", "encnet", "danet")
THREE_SEEDS = ("none", "self", "criss_cross R=1", "criss_cross R=2", *BEST)
# Decoders that attend.
ATTENDING = ("mask_transformer", "masked_attention")


def get_study() -> list[Entry]:
    """Returns every mechanism by name, and the decoders that attend by theirs."""
    overrides = {name: {"model.attention.name": name} for name in ATTENTION}
    if "criss_cross" in overrides:
        del overrides["criss_cross"]
        for r in (1, 2):
            key = "model.attention.criss_cross.recurrence"
            overrides[f"criss_cross R={r}"] = {"model.attention.name": "criss_cross", key: r}
    if "gate" in overrides:
        overrides["gate"]["model.decoder.fcn.skips"] = (2,)
    for name in ATTENDING:
        if name in DECODERS:
            overrides[name] = {"model.attention.name": "none", "model.decoder.name": name}
    for label in ("gate", "criss_cross R=1", *ATTENDING, *BEST):
        if label not in overrides:
            logging.warning("left out, not known yet: %s", label)
    return [
        Entry(label, changes, seeds=(0, 1, 2) if label in THREE_SEEDS else (0,)) for label, changes in overrides.items()
    ]
