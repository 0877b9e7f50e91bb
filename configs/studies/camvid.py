"""Does attention help? Attention, FCN, SegNet and R-CNN on CamVid at half resolution (docs/comparison.md).

python -m attnseg_jax.cli.study --study=configs/studies/camvid.py --workdir=runs/comparison \
    --data_dir=path/to/camvid --results=docs/comparison/results.json
"""

from attnseg_jax.study.entries import Entry

SYSTEMS = (
    "fcn",
    "self",
    "local",
    "nonlocal",
    "psa",
    "scse",
    "fcn_lite0",
    "self_lite0",
    "local_lite0",
    "fast_rcnn",
    "segnet_basic",
    "rcnn",
    "segnet",
)


def get_study() -> list[Entry]:
    """Returns an entry for each system, called as its config."""
    return [Entry(name, config=f"../compare/{name}.py", seeds=(0, 1, 2)) for name in SYSTEMS]
