"""Bilinear resizing on a CPU: by the neighbours of each pixel, by products with matrices, and PyTorch's.

    python benchmarks/resize.py --torch=path/to/python

The first is what predictions do, the second what a train step does, beside whose gradient it stands. Prints a table of
milliseconds, medians of turns, and as its last line the same as JSON.
"""

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from timing import beside_torch, timed

from attnseg_jax.ops.platforms import portable
from attnseg_jax.ops.resize import resize

# Shape of the maps, and height and width of the result.
CASES = (
    ((2, 88, 120, 11), (352, 480)),
    ((2, 88, 120, 150), (352, 480)),
    ((2, 44, 60, 256), (88, 120)),
    ((2, 22, 30, 512), (44, 60)),
    ((1, 128, 256, 19), (1024, 2048)),
)
TORCH = """
import sys, time, torch
b, h, w, c, i, j, threads = map(int, sys.argv[1:])
torch.set_num_threads(threads)
x = torch.randn(b, c, h, w).contiguous(memory_format=torch.channels_last)
for line in sys.stdin:
    start = time.perf_counter()
    with torch.inference_mode():
        torch.nn.functional.interpolate(x, (i, j), mode="bilinear", align_corners=False)
    print(time.perf_counter() - start, flush=True)
"""


def main() -> None:
    """Measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default="", metavar="PYTHON", help="a Python that has PyTorch")
    parser.add_argument("--repeats", type=int, default=15, help="turns")
    options = parser.parse_args()
    found = []
    for shape, size in CASES:
        x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
        neighbours = jax.jit(lambda x, size=size: resize(x, size)).lower(x).compile()
        with portable():
            product = jax.jit(lambda x, size=size: resize(x, size)).lower(x).compile()
        runs = {"neighbours": timed(neighbours, [x]), "product": timed(product, [x])}
        arguments = [str(n) for n in (*shape, *size)]
        times = beside_torch(
            runs, options.repeats, python=options.torch, script=TORCH, arguments=arguments, way="forward"
        )
        times = {way: round(1e3 * seconds, 2) for way, seconds in times.items()}
        print(f"{shape} to {size}: {times}", flush=True)
        found.append({"shape": shape, "size": size, **times})
    print(json.dumps({"device": jax.devices()[0].device_kind, "milliseconds": found}))


if __name__ == "__main__":
    main()
