"""Time and memory of R-CNN, by the size of its windows, beside Fast R-CNN's with the same backbone and regions.

    python benchmarks/regions.py --windows 48 96 227

The models are those of `configs/compare/`, in evaluation; what is in the images and where their regions are does not
matter, since all shapes are fixed. Finding the regions is not measured. Prints a table and, as its last line, the same
as JSON. Times are medians; all that is compared takes turns. Programs that need more memory than `--limit-gib` are
compiled only.
"""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from attnseg_jax.configs.compare import fast_rcnn, rcnn
from ml_collections import ConfigDict
from timing import alternate, timed

from attnseg_jax.cost import Cost, program_cost
from attnseg_jax.models import build_model

CLASSES = 11
FAST = "fast_rcnn"


def main() -> None:
    """Build Fast R-CNN and R-CNN with every size of window, then time them in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", nargs="+", type=int, default=[48, 96], help="sides of R-CNN's windows")
    parser.add_argument("--regions", type=int, default=128, help="of an image")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--height", type=int, default=180)
    parser.add_argument("--width", type=int, default=240)
    parser.add_argument("--repeats", type=int, default=3, help="0 measures memory only")
    parser.add_argument("--limit-gib", type=float, default=8.0, help="memory above which a program is not run")
    args = parser.parse_args()
    if args.regions < 2 or min(*args.windows, args.batch, args.height, args.width) < 1 or args.repeats < 0:
        parser.error("--regions must be at least 2, --repeats at least 0, all other sizes at least 1")

    configs = {FAST: fast_rcnn.get_config().model}
    for size in args.windows:
        config = rcnn.get_config().model
        config.rcnn.size = size
        configs[f"rcnn {size}"] = config
    costs, runs = {}, {}
    for name, config in configs.items():
        costs[name], run = prepare(args, config)
        if costs[name].temp_bytes <= args.limit_gib * 2**30:
            runs[name] = run
    seconds = alternate(runs, args.repeats)

    print(f"{'system':10} {'GFLOP':>9} {'temp MiB':>9} {'ms an image':>12} {'to Fast R-CNN':>14}")
    rows = [show(args, name, costs[name], seconds) for name in configs]
    cpus = len(os.sched_getaffinity(0))
    print(json.dumps({"device": jax.devices()[0].device_kind, "cpus": cpus, **vars(args), "rows": rows}))


def prepare(args: argparse.Namespace, config: ConfigDict) -> tuple[Cost, Callable[[], float]]:
    """What a batch costs in the model of a config, and a function that runs it and returns the seconds it took."""
    model = build_model(config, CLASSES, num_regions=args.regions)
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.standard_normal((args.batch, args.height, args.width, 3)), jnp.float32)
    # Stripes, half of them in each of two levels.
    across, down = args.regions - args.regions // 2, args.regions // 2
    levels = [
        np.broadcast_to(np.arange(args.width) * across // args.width, image.shape[:3]),
        np.broadcast_to(across + np.arange(args.height)[:, None] * down // args.height, image.shape[:3]),
    ]
    regions = jnp.asarray(np.stack(levels, axis=-1), jnp.int32)
    variables = jax.jit(model.init)(jax.random.key(0), image, regions)
    arrays = (variables, image, regions)

    def predict(*inputs):
        return model.apply(*inputs).logits

    run = timed(jax.jit(predict).lower(*arrays).compile(), arrays)
    return program_cost(predict, *arrays), run


def show(args: argparse.Namespace, name: str, cost: Cost, seconds: dict[str, float]) -> dict:
    """Print a row of the table and return it; FLOPs and time are those of one image, memory that of the batch."""
    row = {
        "system": name,
        "flops": cost.flops / args.batch,
        "temp_bytes": cost.temp_bytes,
        "seconds": None,
        "ratio": None,
    }
    print(f"{name:10} {row['flops'] * 1e-9:9.1f} {cost.temp_bytes * 2**-20:9.1f}", end="")
    if name in seconds:
        row["seconds"] = seconds[name] / args.batch
        row["ratio"] = seconds[name] / seconds[FAST] if FAST in seconds else None
        print(f" {row['seconds'] * 1e3:12.1f}", f"{row['ratio']:14.2f}" if row["ratio"] else "", end="")
    print(flush=True)
    return row


if __name__ == "__main__":
    main()
