"""Seconds of a forward pass and a train step on a CPU, beside PyTorch's, for eight models; float32, SGD with momentum.

    python benchmarks/step.py --torch=path/to/python [--models fpn_resnet18 ...] [--remat blocks]

Each model runs in a process of its own, and PyTorch's (channels-last, eager) in another; they take turns, a forward
pass or a step each. A line shows median seconds an image, the ratio of ours to PyTorch's, seconds to the end of the
first step, and the largest memory of the process, compiler included. The last line is the same as JSON. `--torch` names
a Python that has torch, timm, segmentation_models_pytorch and, for `eomt_s`, transformers; SegNeXt's other side is
written out in `torch_peer.py`.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time

from accelerator import CLASSES, MODELS

HERE = pathlib.Path(__file__).resolve().parent
PASSES = ("forward", "step")
TORCH = """
import json, resource, sys, time, torch
import torch.nn.functional as F
from torch_peer import CLASSES, MODELS
batch, height, width, threads = map(int, sys.argv[2:])
torch.set_num_threads(threads)
torch.manual_seed(0)
net = MODELS[sys.argv[1]]().to(memory_format=torch.channels_last)
image = torch.randn(batch, 3, height, width).contiguous(memory_format=torch.channels_last)
label = torch.randint(0, CLASSES, (batch, height, width))
optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9)

def step():
    net.train()
    optimizer.zero_grad(set_to_none=True)
    F.cross_entropy(net(image), label).backward()
    optimizer.step()

def forward():
    net.eval()
    with torch.inference_mode():
        net(image)

start = time.perf_counter()
step()
facts = {"first": time.perf_counter() - start, "version": torch.__version__}
print(json.dumps(facts | {"parameters": sum(p.numel() for p in net.parameters())}), flush=True)
for line in sys.stdin:
    start = time.perf_counter()
    {"step": step, "forward": forward}[line.strip()]()
    print(time.perf_counter() - start, flush=True)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)
"""


def main() -> None:
    """Measure every model in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--torch", metavar="PYTHON", default="", help="a Python that has torch, to compare with")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, default=(352, 480), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--repeats", type=int, default=5, help="turns of each pass")
    parser.add_argument("--remat", default="none", help="as config.remat")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    rows = []
    print(f"{'model':24} {'pass':8} {'ours':>8} {'torch':>8} {'ratio':>6} {'first':>12} {'MiB':>12}")
    for model in args.models:
        rows.append(measured(args, model))
        show(rows[-1])
    facts = {"jax": importlib.metadata.version("jax"), "cpus": os.cpu_count(), "machine": platform.processor()}
    print(json.dumps({**facts, "batch": args.batch, "size": args.size, "rows": rows}))


def measured(args: argparse.Namespace, model: str) -> dict:
    """Seconds an image of each pass and side, and what the processes say of themselves."""
    numbers = [str(n) for n in (args.batch, *args.size)]
    ours = [sys.executable, str(HERE / "step.py"), "--worker", model, "--batch", numbers[0], "--size", *numbers[1:]]
    commands = {"ours": [*ours, "--remat", args.remat]}
    if args.torch:
        commands["torch"] = [args.torch, "-c", TORCH, model, *numbers, str(os.cpu_count())]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE)
    # One after another: each compiles alone.
    row, workers = {"model": model}, {}
    for side, command in commands.items():
        workers[side] = subprocess.Popen(command, **pipes)
        row[side] = json.loads(workers[side].stdout.readline())

    def ask(side: str, name: str) -> float:
        print(name, file=workers[side].stdin, flush=True)
        return float(workers[side].stdout.readline())

    for name in PASSES:
        # The first turn meets a cold cache.
        rounds = [{side: ask(side, name) for side in workers} for _ in range(args.repeats + 1)][1:]
        for side in workers:
            row[side][name] = statistics.median(times[side] for times in rounds) / args.batch
    for side, worker in workers.items():
        worker.stdin.close()
        row[side]["mib"] = float(worker.stdout.readline())
        worker.wait()
    return row


def work(args: argparse.Namespace) -> None:
    """One side: answers each line of the input with the seconds that this pass took."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from attnseg_jax.models import build_model
    from attnseg_jax.train.objective import Supervised
    from attnseg_jax.train.parallel import make_parallel
    from attnseg_jax.train.state import create_state, eval_variables
    from attnseg_jax.train.step import eval_step, train_step

    net, optimizer = build_model(MODELS[args.worker], CLASSES), optax.sgd(1e-3, momentum=0.9)

    def one(state, batch, *, axis_name=None):
        return train_step(
            state, batch, model=net, optimizer=optimizer, objective=Supervised(CLASSES),
            schedule=lambda step: jnp.float32(1e-3), remat=args.remat, axis_name=axis_name,
        )  # fmt: skip

    rng, shape = np.random.default_rng(0), (args.batch, *args.size)
    batch = {
        "image": rng.standard_normal((*shape, 3), dtype=np.float32),
        "label": rng.integers(0, CLASSES, shape).astype(np.int32),
        "valid": np.ones(args.batch, bool),
    }
    start = time.perf_counter()
    parallel = make_parallel("pmap", one, eval_step)
    image = jax.ShapeDtypeStruct((1, *args.size, 3), jnp.float32)
    state = parallel.put_state(create_state(net, optimizer, jax.random.key(0), [image]))
    given = parallel.shard_batch(batch)
    predict = jax.jit(lambda variables, image: net.apply(variables, image, train=False).logits)

    def step():
        nonlocal state
        state, metrics = parallel.train(state, given)
        jax.block_until_ready(metrics)

    def forward():
        jax.block_until_ready(predict(eval_variables(state), batch["image"]))

    step()
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    print(json.dumps({"first": time.perf_counter() - start, "parameters": parameters}), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        {"step": step, "forward": forward}[line.strip()]()
        print(time.perf_counter() - start, flush=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)


def show(row: dict) -> None:
    """Print the lines of a model."""
    sides = [row[side] for side in ("ours", "torch") if side in row]
    for name in PASSES:
        times = " ".join(f"{side[name]:8.3f}" for side in sides)
        ratio = f"{sides[0][name] / sides[1][name]:6.2f}" if len(sides) > 1 else ""
        once = "" if name == "forward" else " ".join(
            [" / ".join(f"{side['first']:.1f}" for side in sides).rjust(12),
             " / ".join(f"{side['mib']:.0f}" for side in sides).rjust(12)]
        )  # fmt: skip
        print(f"{row['model']:24} {name:8} {times:17} {ratio:6} {once}", flush=True)


if __name__ == "__main__":
    main()
