"""Masks a second in windows: a batch of windows in one program, beside one window at a time.

    python benchmarks/windows.py --model tiny resnet18 --height 1024 --width 2048

What is in the image does not matter, since all shapes are fixed. Each way goes from an image to its mask:

    one at a time  a compiled program for one window, in a loop of Python that adds the logits in NumPy where the window
                   lies
    padded         the same, but as MMSegmentation's `slide_inference` adds them: padded to the size of the image
    8 at once      `attnseg_jax.ops.sliding.slide` and the choice of the class, in one program
    2 devices      the same with one window on each of two devices, with --devices 2: those of the machine, or its CPU
                   taken for two

Logits are compared first. All ways take turns on the same machine. Prints a table for each model and, as its last line,
the same as JSON.
"""

import argparse
import json
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

if "--devices" in sys.argv:
    # Before JAX looks for them.
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={sys.argv[sys.argv.index('--devices') + 1]}"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from timing import alternate, timed

from attnseg_jax.configs import camvid_efficientnet_lite0, camvid_resnet18_attention, default
from attnseg_jax.models import build_model
from attnseg_jax.ops.sliding import slide, starts

MODELS = {"tiny": default, "resnet18": camvid_resnet18_attention, "efficientnet_lite0": camvid_efficientnet_lite0}


def main() -> None:
    """Compile, compare, and time in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=MODELS, default=["tiny", "resnet18"], help="as in its config")
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--window", nargs=2, type=int, default=[256, 256])
    parser.add_argument("--stride", nargs=2, type=int, default=[170, 170])
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8], help="windows of a batch")
    parser.add_argument("--devices", type=int, default=1, help="that share the windows, in a way of its own")
    parser.add_argument("--repeats", type=int, default=3, help="turns, of which the median counts")
    args = parser.parse_args()
    found = {name: measure(name, args) for name in args.model}
    print(json.dumps({**vars(args), "found": found, "load": os.getloadavg()[0], "cpus": os.cpu_count()}))


def measure(name, args):
    """Seconds an image of every way, how far their logits differ, and the seconds of the model alone in a window."""
    model = build_model(MODELS[name].get_config().model, args.classes)
    image = np.random.default_rng(0).normal(size=(1, args.height, args.width, 3)).astype(np.float32)
    variables = drawn(jax.eval_shape(model.init, jax.random.key(0), image[:, : args.window[0], : args.window[1]]))

    def forward(variables, windows):
        return model.apply(variables, windows, train=False).logits

    h, w = args.window
    one = jax.jit(forward).lower(variables, image[:, :h, :w]).compile()
    runs, logits = {}, {}
    for way, padded in (("one at a time", False), ("padded", True)):
        runs[way], logits[way] = loop(one, variables, image, args, padded)
    ways = {f"{rows} at once": (rows, None) for rows in args.rows}
    if args.devices > 1:
        mesh = Mesh(np.array(jax.devices()[: args.devices]), ("windows",), axis_types=(AxisType.Auto,))
        ways[f"{args.devices} devices"] = (args.devices, NamedSharding(mesh, PartitionSpec("windows")))
    for way, (rows, sharding) in ways.items():
        options = {"window": tuple(args.window), "stride": tuple(args.stride), "rows": rows, "sharding": sharding}

        def batched(variables, image, options=options):
            found = slide(lambda windows: forward(variables, windows), image, **options)
            return found, found.argmax(-1).astype(jnp.uint8)

        given = variables, image
        if sharding:
            given = jax.device_put(given, NamedSharding(sharding.mesh, PartitionSpec()))
        program = jax.jit(batched).lower(*given).compile()
        runs[way], logits[way] = timed(program, given), np.asarray(program(*given)[0])
    scale = float(np.abs(logits["one at a time"]).max())
    largest = max(float(np.abs(x - logits["one at a time"]).max()) for x in logits.values()) / scale
    logits.clear()
    seconds = alternate({**runs, "a window": timed(one, (variables, image[:, :h, :w]))}, args.repeats)
    alone = seconds.pop("a window")
    print(f"{name}: {alone:.4f} s a window; logits differ by {largest:.1e} of the largest")
    print(f"{'way':15} {'masks/s':>9} {'to one at a time':>17} {'to padded':>10}")
    for way, value in seconds.items():
        print(f"{way:15} {1 / value:9.3f} {seconds['one at a time'] / value:17.2f} {seconds['padded'] / value:10.2f}")
    return {"seconds": seconds, "seconds_of_a_window": alone, "largest_difference": largest}


def drawn(shapes):
    """Variables that keep the size of what goes through."""
    rng = np.random.default_rng(1)

    def draw(path, x):
        around = 1.0 if jax.tree_util.keystr(path).endswith(("['scale']", "['var']")) else 0.0
        spread = 1.7 / np.sqrt(np.prod(x.shape[:-1])) if len(x.shape) > 1 else 0.1
        return (around + spread * rng.uniform(-1, 1, x.shape)).astype(x.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def loop(program, variables, image, args, padded):
    """(what takes the seconds of an image, its logits) by one window at a time."""
    (height, width), (h, w) = image.shape[1:3], args.window
    tops, lefts = (starts(n, m, s) for n, m, s in zip((height, width), args.window, args.stride))

    def run():
        total = np.zeros((*image.shape[:3], args.classes), np.float32)
        count = np.zeros((height, width, 1), np.float32)
        for y in tops:
            for x in lefts:
                logits = np.asarray(program(variables, image[:, y : y + h, x : x + w]))
                if padded:
                    around = [(0, 0), (y, height - y - h), (x, width - x - w), (0, 0)]
                    total += np.pad(logits, around)
                else:
                    total[:, y : y + h, x : x + w] += logits
                count[y : y + h, x : x + w] += 1
        total /= count
        return total, total.argmax(-1).astype(np.uint8)

    def seconds():
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return seconds, run()[0]


if __name__ == "__main__":
    main()
