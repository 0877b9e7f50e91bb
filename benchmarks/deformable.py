"""Time and memory of multi-scale deformable attention, forward and with gradient, beside PyTorch's `grid_sample` form.

    python benchmarks/deformable.py --size 512 512 --torch=path/to/python

Every position of the maps of the strides 32, 16 and 8 of an image looks at 4 points of 8 heads on each, as in
Mask2Former's pixel decoder. Prints a table and, as its last line, the same as JSON. Memory is what the compiled program
reserves beside its arguments and results. Times are medians of turns; `cpu` is processor time, that of both threads,
which other work on the machine disturbs less.
"""

import argparse
import json
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from timing import beside_torch, timed

from attnseg_jax.ops.attention import deformable_attention

PASSES = ("forward", "gradient")
HEADS, WIDTH, POINTS = 8, 32, 4
TORCH = """
import sys, time, torch
from torch.nn.functional import grid_sample
b, height, width, a, d, p, cpu, threads = map(int, sys.argv[1:])
torch.set_num_threads(threads)
clock = time.process_time if cpu else time.perf_counter
sizes = [(-(-height // s), -(-width // s)) for s in (32, 16, 8)]
m = sum(h * w for h, w in sizes)
value, g = torch.randn(b, m, a, d), torch.randn(b, m, a * d)
places, weights = torch.rand(b, m, a, 3, p, 2), torch.randn(b, m, a, 3 * p).softmax(-1)

def attend(value, places, weights):
    found = []
    for i, ((h, w), part) in enumerate(zip(sizes, value.split([h * w for h, w in sizes], 1))):
        maps = part.permute(0, 2, 3, 1).reshape(b * a, d, h, w)
        grid = (2 * places[:, :, :, i] - 1).transpose(1, 2).reshape(b * a, m, p, 2)
        found.append(grid_sample(maps, grid, align_corners=False))
    weights = weights.transpose(1, 2).reshape(b * a, 1, m, 3 * p)
    return (torch.cat(found, -1) * weights).sum(-1).reshape(b, a * d, m).transpose(1, 2)

for line in sys.stdin:
    gradient = line.strip() == "gradient"
    arrays = [x.detach().requires_grad_(gradient) for x in (value, places, weights)]
    start = clock()
    out = attend(*arrays)
    if gradient:
        torch.autograd.grad(out, arrays, g)
    print(clock() - start, flush=True)
"""


def main() -> None:
    """Measure both passes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs=2, type=int, default=[512, 512], help="height and width of the image")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--torch", metavar="PYTHON", default="", help="a Python that has torch, to compare with")
    args = parser.parse_args()
    rows = [measure(args, name) for name in PASSES]
    print(f"{'pass':9} {'temp MiB':>9} {'ms':>8} {'torch ms':>9} {'ratio':>6}")
    for row in rows:
        here, there = row["seconds"]["here"] * 1e3, row["seconds"].get("torch", float("nan")) * 1e3
        print(f"{row['pass']:9} {row['temp_mib']:9.1f} {here:8.1f} {there:9.1f} {here / there:6.2f}")
    print(json.dumps({"device": jax.devices()[0].device_kind, "cpus": os.cpu_count(), **vars(args), "rows": rows}))


def measure(args: argparse.Namespace, name: str) -> dict:
    """Seconds and memory of one pass."""
    sizes = tuple(tuple(-(-n // stride) for n in args.size) for stride in (32, 16, 8))
    m, rng = sum(h * w for h, w in sizes), np.random.default_rng(0)
    values, g = (rng.standard_normal((args.batch, m, HEADS, WIDTH)) for _ in range(2))
    places = rng.random((args.batch, m, HEADS, 3, POINTS, 2))
    weights = rng.dirichlet(np.ones(3 * POINTS), (args.batch, m, HEADS)).reshape(places.shape[:-1])
    arrays = [jnp.asarray(x, jnp.float32) for x in (values, places, weights, g)]

    def attend(values, places, weights):
        return deformable_attention(values, places, weights, sizes)

    def run(*arrays):
        if name == "forward":
            return attend(*arrays[:3])
        out, pull = jax.vjp(attend, *arrays[:3])
        return out, pull(arrays[3])

    compiled = jax.jit(run).lower(*arrays).compile()
    cpu = args.clock == "cpu"
    script = [*map(str, (args.batch, *args.size, HEADS, WIDTH, POINTS, int(cpu)))]
    here = on_processor(compiled, arrays) if cpu else timed(compiled, arrays)
    seconds = beside_torch({"here": here}, args.repeats, python=args.torch, script=TORCH, arguments=script, way=name)
    return {"pass": name, "temp_mib": compiled.memory_analysis().temp_size_in_bytes / 2**20, "seconds": seconds}


def on_processor(compiled, arrays):
    """As `timed`, in seconds of the processor."""

    def run() -> float:
        start = time.process_time()
        jax.block_until_ready(compiled(*arrays))
        return time.process_time() - start

    return run


if __name__ == "__main__":
    main()
