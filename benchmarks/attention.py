"""Time and memory of the ways to compute attention, forward and with gradient, beside PyTorch's on the same machine.

    python benchmarks/attention.py --tokens 4096 16384 --heads 8 --width 64 --torch=path/to/python

Prints a table and, as its last line, the same as JSON. Memory is what the compiled program reserves beside its
arguments and results. Times are medians; everything that is compared takes turns. Ways that need more memory than
`--limit-gib` are compiled only, and all are with `--repeats=0`. `--torch` names a Python that has torch, whose
`scaled_dot_product_attention` gets `[b, a, n, d]`, the order it likes best, where ours get `[b, n, a, d]`.
"""

import argparse
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from timing import beside_torch, timed

from attnseg_jax.ops.attention import IMPLS, dot_product_attention

PASSES = ("forward", "gradient")
# Two products around `jax.nn.softmax`, as it is usually written.
PLAIN = "plain"
TORCH = """
import sys, time, torch
from torch.nn.functional import scaled_dot_product_attention as attend
b, n, a, d, threads = map(int, sys.argv[1:])
torch.set_num_threads(threads)
q, k, v, g = (torch.randn(b, a, n, d) for _ in range(4))
for line in sys.stdin:
    gradient = line.strip() == "gradient"
    for x in (q, k, v):
        x.requires_grad_(gradient)
        x.grad = None
    start = time.perf_counter()
    out = attend(q, k, v)
    if gradient:
        out.backward(g)
    print(time.perf_counter() - start, flush=True)
"""


def main() -> None:
    """Measure every size in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impl", nargs="+", default=[PLAIN, "dense", "chunked"], choices=[PLAIN, *IMPLS])
    parser.add_argument("--tokens", nargs="+", type=int, default=[1024, 4096], help="numbers of queries and of keys")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--width", type=int, default=64, help="of a head")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=5, help="0 measures memory only")
    parser.add_argument("--limit-gib", type=float, default=4.0, help="memory above which a way is not run")
    parser.add_argument("--torch", metavar="PYTHON", default="", help="a Python that has torch, to compare with")
    args = parser.parse_args()
    if args.torch and args.dtype != "float32":
        parser.error("--torch compares float32 only")

    print(f"{'tokens':>7} {'way':10} {'pass':9} {'temp MiB':>9} {'ms':>10}" + " ratio to torch" * bool(args.torch))
    rows = []
    for tokens, name in itertools.product(args.tokens, PASSES):
        rows += [show(row) for row in measure(args, tokens, name)]
    print(json.dumps({"device": jax.devices()[0].device_kind, "cpus": os.cpu_count(), **vars(args), "rows": rows}))


def measure(args: argparse.Namespace, tokens: int, name: str) -> list[dict]:
    """All ways of one size and pass."""
    shape = (args.batch, tokens, args.heads, args.width)
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.standard_normal(shape), args.dtype) for _ in range(4)]
    memory, runs = {}, {}
    for impl in args.impl:
        compiled = jax.jit(program(impl, name)).lower(*arrays).compile()
        memory[impl] = compiled.memory_analysis().temp_size_in_bytes / 2**20
        if args.repeats and memory[impl] <= args.limit_gib * 1024:
            runs[impl] = timed(compiled, arrays)
    arguments = list(map(str, shape))
    times = beside_torch(runs, args.repeats, python=args.torch, script=TORCH, arguments=arguments, way=name)
    rows = []
    for way in [*args.impl, *(["torch"] if args.torch else [])]:
        row = {"tokens": tokens, "way": way, "pass": name, "temp_mib": memory.get(way), "seconds": times.get(way)}
        rows.append(row | {"to_torch": times[way] / times["torch"] if "torch" in times and way in times else None})
    return rows


def program(impl: str, name: str) -> Callable:
    """The function of queries, keys, values and the result's cotangent that is measured."""

    def attend(q, k, v):
        if impl != PLAIN:
            return dot_product_attention(q, k, v, impl=impl)
        scores = jnp.einsum("bnad,bmad->banm", q, k) * q.shape[-1] ** -0.5
        return jnp.einsum("banm,bmad->bnad", jax.nn.softmax(scores), v)

    def forward(q, k, v, g):
        return attend(q, k, v)

    def gradient(q, k, v, g):
        out, pull = jax.vjp(attend, q, k, v)
        return out, pull(g)

    return {"forward": forward, "gradient": gradient}[name]


def show(row: dict) -> dict:
    """Print a row of the table."""
    memory = "-" if row["temp_mib"] is None else f"{row['temp_mib']:.1f}"
    duration = "not run" if row["seconds"] is None else f"{row['seconds'] * 1e3:.1f}"
    ratio = "" if row["to_torch"] is None else f" {row['to_torch']:.2f}"
    print(f"{row['tokens']:7} {row['way']:10} {row['pass']:9} {memory:>9} {duration:>10}{ratio}", flush=True)
    return row


if __name__ == "__main__":
    main()
