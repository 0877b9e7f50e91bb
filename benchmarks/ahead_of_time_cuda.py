"""Compiles a config's train step and evaluation for an H100 on a machine without a GPU, as XLA compiles them there.

    pip install ".[cuda,train]"
    python benchmarks/ahead_of_time_cuda.py --config=configs/camvid_resnet18_attention.py [--set train.batch_size=4 ...]

It shows aborts of XLA, and what takes long to compile. Nothing runs and nothing is tuned: a real GPU also compiles and
times dozens of variants of each Triton product and times a few of each convolution, much of its time where there are
many. It uses parts of JAX that are not public and was tried with jax 0.12.0.1. With 0.11.2 it may end with "No
supported config", which comes after the pass that aborts.
"""

import argparse
import ast
import collections
import functools
import os
import pathlib
import re
import sys
import time
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
os.environ["JAX_PLATFORMS"] = "cpu"
# Tuning would need the device.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0"

import jax
import numpy as np
from jax._src import xla_bridge
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from attnseg_jax.train import config as configs
from attnseg_jax.train import setup
from attnseg_jax.train.state import eval_variables

# What XLA wants to know of the device, from NVIDIA's data sheet and CUDA's device properties.
H100 = """
platform_name: "CUDA" device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 8 } runtime_version { major: 12 minor: 8 }
gpu_device_info {
  cuda_compute_capability { major: 9 } core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 threads_per_warp: 32
  threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84929347584
}
"""
KINDS = {
    "Triton products": r"__triton_(?:nested_)?gemm",
    "cuBLAS products": r'custom_call_target="__cublas',
    "cuDNN convolutions": r'custom_call_target="__cudnn\$conv',
    "fusions": r" fusion\(",
}


def main() -> None:
    """Compile and print a line for each program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/default.py")
    parser.add_argument("--programs", nargs="+", default=["evaluation", "train"], choices=["evaluation", "train"])
    parser.add_argument("--classes", type=int, default=11)
    parser.add_argument("--size", type=int, nargs=2, help="of the images of the evaluation; the crop's by default")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    config = configs.read_file(args.config)
    for key, _, value in (change.partition("=") for change in args.set):
        config.update_from_flattened_dict({key: _value(value)})
    config = configs.filled(config)

    canonical = xla_bridge.canonicalize_platform
    xla_bridge.canonicalize_platform = lambda name: "cuda" if name == "gpu" else canonical(name)
    devices = topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1").devices
    with mock.patch.object(setup, "make_parallel", functools.partial(setup.make_parallel, devices=devices)):
        run = setup.make_run(config, args.classes)
    whole = NamedSharding(run.parallel._mesh, PartitionSpec())
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), run.abstract)

    def batch(count, size):
        label = np.zeros((count, *size), np.int32)
        fields = {"image": np.zeros((*label.shape, 3), np.float32), "label": label, "valid": np.ones(count, bool)}
        return run.parallel._abstract(fields)

    crop = tuple(config.data.crop)
    lower = {
        "evaluation": lambda: run.parallel._lower_eval(
            eval_variables(state), batch(config.eval.batch_size, args.size or crop)
        ),
        "train": lambda: run.parallel._train.lower(state, batch(config.train.batch_size, crop)),
    }
    for name in args.programs:
        lowered, start, cpu = lower[name](), time.perf_counter(), time.process_time()
        compiled = lowered.compile()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        text, mib = compiled.as_text(), compiled.memory_analysis().temp_size_in_bytes / 2**20
        found = collections.Counter({kind: len(re.findall(pattern, text)) for kind, pattern in KINDS.items()})
        counts = ", ".join(f"{count} {kind}" for kind, count in found.items())
        print(f"{name}: compiled in {seconds:.0f} s ({cpu:.0f} s of CPU): {counts}; {mib:.0f} MiB", flush=True)


def _value(text):
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


if __name__ == "__main__":
    main()
