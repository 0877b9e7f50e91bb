"""Trains a segmentation model.

    python train.py
    python train.py --config=configs/camvid_resnet18_attention.py --config.data.dir=path/to/camvid --workdir=runs/camvid

Every key of a config can be set as --config.key=value. The same command again continues an interrupted run and
prints the result of a finished one.
"""

from pathlib import Path

from absl import flags
from flax.traverse_util import flatten_dict
from ml_collections import config_flags

from attnseg_jax.cli import entry
from attnseg_jax.files import expanded
from attnseg_jax.train import config as configs
from attnseg_jax.train import loop

DEFAULT = str(Path(__file__).parent / "configs" / "default.py")
# Without a default: one would be read, and fail, while this line runs.
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "config file (default: configs/default.py); --config.key=value sets one of its keys"
)
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run (default: runs/<config name>-<hash of the config>)")


def main() -> None:
    """Trains and prints where everything is."""
    config = CONFIG.value
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    workdir = expanded(WORKDIR.value or f"runs/{name}-{configs.config_hash(config)}")
    result = loop.run(config, workdir)
    miou = "absent" if result["miou"] is None else f"{result['miou']:.4f}"
    print(f"validation mIoU {miou} on {result['split']!r} at step {result['step']}")
    for what, path in (("checkpoints", "checkpoints"), ("curves", "curves.png"), ("pictures", "predictions")):
        print(f"{what}: {workdir / path}")


def keys() -> str:
    """Every key of a config and its default, for `--help`."""
    config = configs.read_file(DEFAULT)
    lines = [f"  --config.{key}={value!r}\n" for key, value in flatten_dict(config.to_dict(), sep=".").items()]
    return "\nkeys of a config, explained in configs/default.py and in the modules of the model's parts:\n" + "".join(
        lines
    )


def with_config(argv: list[str]) -> list[str]:
    """The checked command line, with the default config where none is given."""
    if "--config" in argv[:-1]:
        # `--config FILE` is `--config=FILE`.
        at = argv.index("--config")
        argv = [*argv[:at], f"--config={argv[at + 1]}", *argv[at + 2 :]]
    configs.check_flags(argv, DEFAULT)
    return argv if any(a.startswith(("--config=", "-config=")) for a in argv) else [f"--config={DEFAULT}", *argv]


if __name__ == "__main__":
    entry.run(main, usage=__doc__, help_flags=("config", "workdir"), check=with_config, more_help=keys)
