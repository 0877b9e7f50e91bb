"""Time and memory of R-CNN, by the size of its windows, beside Fast R-CNN's with the same backbone and regions.

    python benchmarks/regions.py --windows 48 227

The models are those of `configs/compare/`, evaluating one image; what is in it and where its regions are does not
matter, since all shapes are fixed. Finding the regions is not measured. Prints a table and, as its last line, the same
as JSON. Times are medians; programs that need more memory than `--limit-gib` are compiled only.
"""

import argparse
import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from attnseg_jax.infer.cost import Cost, program_cost
from attnseg_jax.models import build_model
from configs.compare import fast_rcnn, rcnn

CLASSES = 11


def main() -> None:
    """Measure Fast R-CNN and every size of window in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", nargs="+", type=int, default=[48, 96], help="sides of R-CNN's windows")
    parser.add_argument("--regions", type=int, default=128, help="of an image")
    parser.add_argument("--height", type=int, default=180)
    parser.add_argument("--width", type=int, default=240)
    parser.add_argument("--repeats", type=int, default=5, help="0 measures memory only")
    parser.add_argument("--limit-gib", type=float, default=8.0, help="memory above which a program is not run")
    args = parser.parse_args()

    print(f"{'system':10} {'window':>6} {'GFLOP':>8} {'temp MiB':>9} {'ms':>9} {'to Fast R-CNN':>14}")
    fast = measure(args, fast_rcnn.get_config().model)
    rows = [show("fast_rcnn", None, fast, fast)]
    for size in args.windows:
        config = rcnn.get_config().model
        config.rcnn.size = size
        rows.append(show("rcnn", size, measure(args, config), fast))
    print(json.dumps({"device": jax.devices()[0].device_kind, "cpus": os.cpu_count(), **vars(args), "rows": rows}))


def measure(args: argparse.Namespace, config) -> Cost:
    """The cost of one image through the model of a config."""
    model = build_model(config, CLASSES, num_regions=args.regions)
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.standard_normal((1, args.height, args.width, 3)), jnp.float32)
    # Stripes, half of them in each of two levels.
    across, down = args.regions - args.regions // 2, args.regions // 2
    levels = [
        np.broadcast_to(np.arange(args.width) * across // args.width, image.shape[1:3]),
        np.broadcast_to(across + np.arange(args.height)[:, None] * down // args.height, image.shape[1:3]),
    ]
    regions = jnp.asarray(np.stack(levels, axis=-1)[None], jnp.int32)
    variables = jax.jit(model.init)(jax.random.key(0), image, regions)
    return program_cost(
        lambda *inputs: model.apply(*inputs).logits,
        variables,
        image,
        regions,
        repeats=args.repeats,
        max_bytes=args.limit_gib * 2**30,
    )


def show(system: str, window: int | None, cost: Cost, fast: Cost) -> dict:
    """Print a row of the table and return it."""
    ms, against = cost.milliseconds, fast.milliseconds
    ratio = ms / against if ms and against else None
    print(f"{system:10} {window or '-':>6} {cost.flops * 1e-9:8.1f} {cost.temp_bytes * 2**-20:9.1f}", end="")
    print(" ".join(["", f"{ms:9.1f}" if ms else f"{'-':>9}", f"{ratio:14.2f}" if ratio else f"{'-':>14}"]), flush=True)
    return {
        "system": system,
        "window": window,
        "flops": cost.flops,
        "temp_bytes": cost.temp_bytes,
        "milliseconds": ms,
        "ratio": ratio,
    }


if __name__ == "__main__":
    main()
