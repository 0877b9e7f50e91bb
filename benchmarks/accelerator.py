"""What an accelerator does with the project: attention, whole train steps, a real training; one JSON file.

    pip install ".[cuda,train]"
    python benchmarks/accelerator.py --output=accelerator.json [--torch=python] [--camvid=path/to/camvid] [--toy]

Every measurement is a process of its own. They compile beside one another and are timed one after another. What the
file holds already is not measured again, so that a run which was stopped goes on. Times are medians of `--repeats`
runs; memory is what the compiled program reserves beside its arguments and results. `--torch` names a Python that has
torch, timm, transformers and segmentation_models_pytorch (`torch_peer.py`). `--toy` shrinks every size, to try the
script on a CPU; it has not run on a GPU yet.
"""

import argparse
import concurrent.futures
import contextlib
import fcntl
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

HEADS, WIDTH = 8, 64
PASSES = ("forward", "gradient")
TOKENS, TOY_TOKENS = (1024, 4096, 16384, 65536), (256, 1024)
# (implementation, type) -> most tokens at which its scores still fit into memory.
ATTENTION = {
    ("dense", "float32"): 16384,
    ("chunked", "float32"): 65536,
    ("dense", "bfloat16"): 16384,
    ("chunked", "bfloat16"): 65536,
    ("cudnn", "bfloat16"): 65536,
}
# Without a word `build_model` puts no attention in.
MODELS = {
    "resnet18_attention": {
        "backbone": {"name": "resnet18", "resnet18": {"output_stride": 8}},
        "attention": {"name": "self", "self": {"heads": 1, "channels": 128}},
        "decoder": {"name": "fcn", "fcn": {"channels": 128}},
    },
    "fpn_resnet18": {"backbone": {"name": "resnet18"}, "decoder": {"name": "fpn"}},
    "unet_resnet18": {"backbone": {"name": "resnet18"}, "decoder": {"name": "unet"}},
    "fpn_efficientnet_lite0": {"backbone": {"name": "efficientnet_lite0"}, "decoder": {"name": "fpn"}},
    "unet_mobilenet_v3_large": {"backbone": {"name": "mobilenet_v3_large"}, "decoder": {"name": "unet"}},
    "segformer_b0": {"backbone": {"name": "mit_b0"}, "decoder": {"name": "segformer"}},
    "segnext_t": {"backbone": {"name": "mscan_t"}, "decoder": {"name": "ham"}},
    "eomt_s": {
        "backbone": {
            "name": "vit_s",
            "vit_s": {"registers": 4, "layer_scale": 1.0, "class_position": False, "position_size": (22, 30)},
        },
        "decoder": {"name": "eomt"},
    },
}
CLASSES = 11


def main() -> None:
    """Measure what the file does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("accelerator.json"))
    parser.add_argument("--parts", nargs="+", default=["attention", "steps", "train"], choices=PARTS)
    parser.add_argument("--torch", metavar="PYTHON", default="", help="a Python that has torch, to compare with")
    parser.add_argument("--camvid", default="", help="folder of CamVid, for the part 'train'")
    parser.add_argument("--steps", type=int, default=2000, help="of the part 'train'")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2), help="compiled at once")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=480.0, help="after these no measurement is begun")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    parser.add_argument("--lock", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        part, *rest = args.one.split(":")
        print(json.dumps(PARTS[part][1](args, *rest)))
        return

    start = time.monotonic()
    results = json.loads(args.output.read_text()) if args.output.exists() else {}
    if "device" not in results:
        results["device"] = run(args, "device")
        save(args.output, results)
    todo = [key for part in args.parts for key in PARTS[part][0](args) if "error" in results.get(key, {"error": ""})]
    with tempfile.NamedTemporaryFile() as lock, concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:

        def measure(key: str) -> dict:
            if time.monotonic() - start > args.seconds:
                return {"error": "out of time"}
            return run(args, key, lock.name)

        futures = {pool.submit(measure, key): key for key in todo}
        for future in concurrent.futures.as_completed(futures):
            results[futures[future]] = future.result()
            print(futures[future], future.result(), flush=True)
            save(args.output, results)
    failed = [key for key in todo if "error" in results[key]]
    if failed:
        sys.exit(f"{len(failed)} of {len(todo)} measurements failed: {', '.join(failed)}")


def save(path: pathlib.Path, results: dict) -> None:
    """Replace the file at once."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    partial.replace(path)


def run(args: argparse.Namespace, key: str, lock: str = "") -> dict:
    """One measurement in a process of its own."""
    flags = [f"--one={key}", f"--lock={lock}", f"--repeats={args.repeats}", *["--toy"] * args.toy]
    flags += [f"--torch={args.torch}", f"--camvid={args.camvid}", f"--steps={args.steps}"]
    # Processes share the device: none may take three quarters of its memory at its start.
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    done = subprocess.run([sys.executable, __file__, *flags], capture_output=True, text=True, env=environment)
    if done.returncode:
        return {"error": "\n".join(done.stderr.strip().splitlines()[-3:])[-600:]}
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def locked(path: str, *, alone: bool) -> Iterator[None]:
    """Compile beside others (`alone=False`), or time while nobody else does anything."""
    if not path:
        yield
        return
    with open(path, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


def timed(function, repeats: int) -> dict:
    """Median and spread of the seconds that `function` takes until its result is there."""
    import jax

    jax.block_until_ready(function())
    seconds = []
    for _ in range(max(repeats, 1)):
        start = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds), "fastest": min(seconds), "slowest": max(seconds)}


def device(args: argparse.Namespace) -> dict:
    """What is measured on."""
    import jax

    return {"device": jax.devices()[0].device_kind, "platform": jax.default_backend(), "jax": jax.__version__}


def attention_keys(args: argparse.Namespace) -> list[str]:
    """All sizes, types and ways that fit."""
    return [
        f"attention:{impl}:{dtype}:{tokens}:{name}"
        for tokens in (TOY_TOKENS if args.toy else TOKENS)
        for (impl, dtype), most in ATTENTION.items()
        for name in PASSES
        if tokens <= most and not (args.toy and impl == "cudnn")
    ]


def attention(args: argparse.Namespace, impl: str, dtype: str, tokens: str, name: str) -> dict:
    """One way to compute attention: time, memory, error of 16 queries of one head against float64."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from attnseg_jax.ops.attention import dot_product_attention

    def attend(q, k, v):
        return dot_product_attention(q, k, v, impl=impl)

    def gradient(q, k, v):
        return jax.grad(lambda *arrays: attend(*arrays).astype(jnp.float32).sum(), argnums=(0, 1, 2))(q, k, v)

    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.standard_normal((1, int(tokens), HEADS, WIDTH)), dtype) for _ in range(3)]
    with locked(args.lock, alone=False):
        compiled = jax.jit({"forward": attend, "gradient": gradient}[name]).lower(*arrays).compile()
    row = {"temp_mib": compiled.memory_analysis().temp_size_in_bytes / 2**20}
    with locked(args.lock, alone=True):
        row |= timed(lambda: compiled(*arrays), args.repeats)
        if name == "forward":
            got = np.asarray(compiled(*arrays)[0, :16, 0], np.float64)
            q, k, v = (np.asarray(x[0, :, 0], np.float64) for x in arrays)
            scores = q[:16] @ k.T / np.sqrt(WIDTH)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            row["max_error"] = float(np.abs(got - weights @ v / weights.sum(-1, keepdims=True)).max())
    return row


def step_keys(args: argparse.Namespace) -> list[str]:
    """Every model and type, then PyTorch's."""
    ours = [f"steps:{model}:{dtype}" for dtype in ("float32", "bfloat16") for model in MODELS]
    return ours + [key.replace("steps:", "steps:torch_") for key in ours if args.torch]


def step(args: argparse.Namespace, model: str, dtype: str) -> dict:
    """One train step of a batch, through the same code as `train.py`."""
    batch, height, width = (2, 64, 96) if args.toy else (16, 352, 480)
    if model.startswith("torch_"):
        command = [args.torch, str(HERE / "torch_peer.py"), model.removeprefix("torch_"), dtype]
        command += [f"{args.repeats}", f"{batch}", f"{height}", f"{width}", *[args.lock] * bool(args.lock)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-600:])
        return json.loads(done.stdout.splitlines()[-1])

    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from attnseg_jax.models import build_model
    from attnseg_jax.train.objective import Supervised
    from attnseg_jax.train.state import create_state
    from attnseg_jax.train.step import train_step

    net = build_model(MODELS[model], CLASSES, dtype=dtype)
    optimizer = optax.sgd(1e-3, momentum=0.9)
    objective = Supervised(CLASSES)
    rng = np.random.default_rng(0)
    data = {
        "image": jnp.asarray(rng.standard_normal((batch, height, width, 3), dtype=np.float32)),
        "label": jnp.asarray(rng.integers(0, CLASSES, (batch, height, width)), jnp.int32),
        "valid": jnp.ones(batch, bool),
    }

    def one(state, data):
        return train_step(
            state, data, model=net, optimizer=optimizer, objective=objective, schedule=lambda step: jnp.float32(1e-3)
        )

    with locked(args.lock, alone=False):
        image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
        state = create_state(net, optimizer, jax.random.key(0), [image])
        start = time.perf_counter()
        compiled = jax.jit(one, donate_argnums=0).lower(state, data).compile()
        row = {"compile_seconds": time.perf_counter() - start}
    row["temp_mib"] = compiled.memory_analysis().temp_size_in_bytes / 2**20
    cost = compiled.cost_analysis() or {}
    row |= {"gflop": cost.get("flops", 0) / 1e9, "gbyte": cost.get("bytes accessed", 0) / 1e9}

    def run_step():
        nonlocal state
        state, metrics = compiled(state, data)
        return metrics["loss"]

    with locked(args.lock, alone=True):
        row |= timed(run_step, args.repeats)
    return row | {"images_per_second": batch / row["seconds"]}


def train_keys(args: argparse.Namespace) -> list[str]:
    """A training for each type, where CamVid is at hand."""
    return ["train:float32", "train:bfloat16"] if args.camvid else []


def train(args: argparse.Namespace, dtype: str) -> dict:
    """`camvid_efficientnet_lite0` from its command line; its own result file."""
    with locked(args.lock, alone=True), tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, str(HERE.parent / "train.py"), "--config=camvid_efficientnet_lite0"]
        command += [f"--workdir={workdir}", f"--config.data.dir={args.camvid}", f"--config.dtype={dtype}"]
        command += [f"--config.train.steps={args.steps}", f"--config.train.eval_every={max(args.steps // 4, 1)}"]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent)
        if done.returncode:
            raise SystemExit((done.stdout + done.stderr)[-600:])
        seconds = time.perf_counter() - start
        result = json.loads((pathlib.Path(workdir) / "result.json").read_text())
    return {"steps": args.steps, "seconds": seconds, "result": result}


# Part -> what there is to measure, and how.
PARTS = {
    "device": (lambda args: [], device),
    "attention": (attention_keys, attention),
    "steps": (step_keys, step),
    "train": (train_keys, train),
}


if __name__ == "__main__":
    main()
