"""Images a second in windows: a batch of windows in one program, beside one window at a time.

    python benchmarks/windows.py --height 720 --width 960

The model is that of `configs/camvid_efficientnet_lite0.py`; what is in the images does not matter, since all shapes are
fixed. One window at a time is a compiled program for one window in a loop of Python that sums the logits in NumPy. All
ways take turns, and their logits are compared first. Prints a table and, as its last line, the same as JSON.
"""

import argparse
import json
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import numpy as np
from timing import alternate, timed

from attnseg_jax.configs import camvid_efficientnet_lite0
from attnseg_jax.models import build_model
from attnseg_jax.ops.sliding import importance, slide, starts

CLASSES = 11


def main() -> None:
    """Compile, compare, and time in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--width", type=int, default=960)
    parser.add_argument("--window", nargs=2, type=int, default=[128, 128])
    parser.add_argument("--stride", nargs=2, type=int, default=[96, 96])
    parser.add_argument("--windows", nargs="+", type=int, default=[1, 8, 32], help="windows of a batch")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    model = build_model(camvid_efficientnet_lite0.get_config().model, CLASSES)
    image = np.random.default_rng(0).normal(size=(1, args.height, args.width, 3)).astype(np.float32)
    rng, part = np.random.default_rng(1), image[:, : args.window[0], : args.window[1]]
    shapes = jax.eval_shape(model.init, jax.random.key(0), part)
    variables = jax.tree.map(lambda x: rng.uniform(0, 0.1, x.shape).astype(x.dtype), shapes)
    runs, found = {}, {}
    one = jax.jit(lambda v, x: model.apply(v, x, train=False).logits)
    runs["one at a time"], found["one at a time"] = loop(one, variables, image, args)
    for rows in args.windows:

        def batched(v, x, rows=rows):
            options = {"window": tuple(args.window), "stride": tuple(args.stride), "rows": rows}
            return slide(lambda patches: model.apply(v, patches, train=False).logits, x, blend="gaussian", **options)

        program = jax.jit(batched).lower(variables, image).compile()
        found[f"{rows} at once"] = np.asarray(program(variables, image))
        runs[f"{rows} at once"] = timed(program, (variables, image))
    largest = max(float(np.abs(x - found["one at a time"]).max()) for x in found.values())
    seconds = alternate(runs, args.repeats)
    print(f"{'way':15} {'images/s':>9} {'to one at a time':>17}")
    for way, value in seconds.items():
        print(f"{way:15} {1 / value:9.3f} {seconds['one at a time'] / value:17.2f}")
    values = {"seconds": seconds, "largest_difference": largest, "load": os.getloadavg()[0], "cpus": os.cpu_count()}
    print(json.dumps({**vars(args), **values}))


def loop(program, variables, image, args):
    """(what takes the seconds of an image, its logits) by one window at a time."""
    weights = importance(tuple(args.window), "gaussian")
    tops, lefts = (starts(n, m, s) for n, m, s in zip(image.shape[1:3], args.window, args.stride))
    h, w = args.window

    def run():
        total = np.zeros((*image.shape[:3], CLASSES), np.float32)
        weight = np.zeros(image.shape[1:3], np.float32)
        for y in tops:
            for x in lefts:
                logits = np.asarray(program(variables, image[:, y : y + h, x : x + w]))
                total[:, y : y + h, x : x + w] += logits * weights[..., None]
                weight[y : y + h, x : x + w] += weights
        return total / weight[..., None]

    def seconds():
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return seconds, run()


if __name__ == "__main__":
    main()
