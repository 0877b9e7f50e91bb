"""Time of convolutions of `attnseg_jax.ops.conv`, forward and both gradients, beside XLA's own and PyTorch's.

    python benchmarks/conv.py --torch=path/to/python

Prints a table and, as its last line, the same as JSON. `plain` is `jax.lax.conv_general_dilated` and its gradients as
JAX derives them. Gradients are timed alone, without the pass forward. Times are medians; everything that is compared
takes turns. `--torch` names a Python that has torch, whose `conv2d` and `conv_transpose2d` get channels-last images.
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
from jax import lax
from timing import beside_torch, timed

from attnseg_jax.ops.conv import conv, conv_transpose
from attnseg_jax.ops.transposed import plain_transposed

# name: images [b, h, w, c], output channels, window, stride, dilation, groups
CASES = {
    "depthwise3": ((2, 90, 120, 144), 144, 3, 1, 1, 144),
    "depthwise3/2": ((2, 90, 120, 144), 144, 3, 2, 1, 144),
    "depthwise5": ((2, 45, 60, 240), 240, 5, 1, 1, 240),
    "depthwise5/2": ((2, 90, 120, 144), 144, 5, 2, 1, 144),
    "depthwise3*2": ((2, 45, 60, 240), 240, 3, 1, 2, 240),
    "depthwise5low": ((8, 9, 12, 1152), 1152, 5, 1, 1, 1152),
    "pointwise": ((2, 45, 60, 256), 512, 1, 1, 1, 1),
    "pointwise/2": ((2, 90, 120, 256), 512, 1, 2, 1, 1),
    "dense3": ((2, 45, 60, 128), 128, 3, 1, 1, 1),
    "dense3/2": ((2, 90, 120, 64), 128, 3, 2, 1, 1),
    "dense3 of 16": ((2, 352, 480, 16), 16, 3, 1, 1, 1),
    "dense3 of 32": ((2, 176, 240, 32), 32, 3, 1, 1, 1),
    "dense3 of 64": ((2, 88, 120, 64), 64, 3, 1, 1, 1),
    "dense3 of 128": ((2, 44, 60, 128), 128, 3, 1, 1, 1),
    "dense3 of 256": ((2, 22, 30, 256), 256, 3, 1, 1, 1),
    "dense3/2 of 64": ((2, 88, 120, 64), 128, 3, 2, 1, 1),
    "dense7/2 of 3": ((2, 352, 480, 3), 64, 7, 2, 1, 1),
    "dense3tiny": ((512, 2, 2, 256), 256, 3, 1, 1, 1),
    "dense3*2tiny": ((512, 3, 3, 512), 512, 3, 1, 2, 1),
    "transposed2/2": ((2, 22, 30, 384), 384, 2, 2, 1, 1),
    "transposed4/2": ((2, 44, 60, 64), 64, 4, 2, 1, 1),
    "transposed4/4": ((2, 22, 30, 256), 256, 4, 4, 1, 1),
}
PASSES = ("forward", "input", "kernel")
WAYS = ("plain", "conv")
TORCH = """
import json, sys, time, torch
from torch.nn.functional import conv2d, conv_transpose2d
(b, h, w, c), o, k, stride, dilation, groups, transposed = json.loads(sys.argv[1])
torch.set_num_threads(int(sys.argv[2]))
x = torch.randn(b, c, h, w).to(memory_format=torch.channels_last)
sizes = (c, o) if transposed else (o, c // groups)
kernel = torch.randn(*sizes, k, k).to(memory_format=torch.channels_last)
g = None
for line in sys.stdin:
    name = line.strip()
    x.requires_grad_(name == "input")
    kernel.requires_grad_(name == "kernel")
    start = time.perf_counter()
    if transposed:
        out = conv_transpose2d(x, kernel, None, stride, (k - stride) // 2)
    else:
        out = conv2d(x, kernel, None, stride, dilation * (k // 2), dilation, groups)
    if name != "forward":
        g = torch.randn_like(out) if g is None else g
        start = time.perf_counter()
        torch.autograd.grad(out, x if name == "input" else kernel, g)
    print(time.perf_counter() - start, flush=True)
"""


def main() -> None:
    """Measure every case in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--passes", nargs="+", default=list(PASSES), choices=PASSES)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--torch", metavar="PYTHON", default="", help="a Python that has torch, to compare with")
    args = parser.parse_args()
    if args.torch and args.dtype != "float32":
        parser.error("--torch compares float32 only")

    print(f"{'case':14} {'pass':8} {'GFLOP':>6} {'plain ms':>9} {'conv ms':>9} {'to plain':>9}", end="")
    print(f" {'torch ms':>9} {'to torch':>9}" if args.torch else "")
    rows = []
    for case in args.cases:
        rows += [show(row) for row in measure(args, case)]
    print(json.dumps({"device": jax.devices()[0].device_kind, "cpus": os.cpu_count(), **vars(args), "rows": rows}))


def measure(args: argparse.Namespace, case: str) -> list[dict]:
    """All passes of one case."""
    shape, o, k, _, _, groups = CASES[case]
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.standard_normal(s), args.dtype) for s in (shape, (k, k, shape[-1] // groups, o)))
    out = jax.eval_shape(program("plain", "forward", case), x, kernel, None)
    arrays = (x, kernel, jnp.asarray(rng.standard_normal(out.shape), args.dtype))
    rows = []
    for name in args.passes:
        runs = {way: timed(jax.jit(program(way, name, case)).lower(*arrays).compile(), arrays) for way in WAYS}
        arguments = [json.dumps([*CASES[case], case.startswith("transposed")])]
        times = beside_torch(runs, args.repeats, python=args.torch, script=TORCH, arguments=arguments, way=name)
        rows.append({"case": case, "pass": name, "gflop": 2e-9 * out.size * kernel.size / o, "seconds": times})
    return rows


def program(way: str, name: str, case: str) -> Callable:
    """The function of images, kernel and the result's cotangent that is measured."""
    _, _, k, stride, dilation, groups = CASES[case]
    padding = dilation * (k // 2)

    def convolve(x, kernel):
        if case.startswith("transposed"):
            cut = (k - stride) // 2
            if way == "conv":
                return conv_transpose(x, kernel, stride=stride, padding=cut)
            return plain_transposed(x, kernel, (stride, stride), ((-cut, -cut), (-cut, -cut)), 1)
        if way == "conv":
            return conv(x, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(stride, stride),
            padding=2 * [(padding, padding)],
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    def gradient(x, kernel, g):
        return jax.vjp(convolve, x, kernel)[1](g)[PASSES.index(name) - 1]

    return gradient if name != "forward" else lambda x, kernel, g: convolve(x, kernel)


def show(row: dict) -> dict:
    """Print a row of the table."""
    times = row["seconds"]
    print(f"{row['case']:14} {row['pass']:8} {row['gflop']:6.2f}", end="")
    print(f" {times['plain'] * 1e3:9.2f} {times['conv'] * 1e3:9.2f} {times['conv'] / times['plain']:9.2f}", end="")
    print(f" {times['torch'] * 1e3:9.2f} {times['conv'] / times['torch']:9.2f}" if "torch" in times else "", flush=True)
    return row


if __name__ == "__main__":
    main()
