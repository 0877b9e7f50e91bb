"""Processor seconds to trace and to compile the train step of `step.py`'s models on the CPU, and its programs.

    python benchmarks/compile.py [--models fpn_resnet18 ...] [--options xla_backend_optimization_level=1 ...]

XLA compiles each fused loop to a program of its own; loops that are alike, shapes included, share one. So the number of
different ones, the last column, is what compiling takes time for: FPN with ResNet-18 has 349, which took 18.5 processor
seconds on two cores. Sums and products that a library computes do not count. Nothing is run, and nothing is read from
the cache of compiled programs.
"""

import argparse
import re
import resource

import jax
import jax.numpy as jnp
import optax
from accelerator import CLASSES, MODELS

from attnseg_jax.models import build_model
from attnseg_jax.ops.norm import DATA_AXIS
from attnseg_jax.train.objective import Supervised
from attnseg_jax.train.state import create_state
from attnseg_jax.train.step import train_step


def main() -> None:
    """Trace and compile every model in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, default=(352, 480), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--options", nargs="*", default=[], metavar="NAME=VALUE", help="of XLA's compiler")
    args = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    options = dict(option.split("=", 1) for option in args.options)
    print(f"{'model':24} {'trace':>6} {'compile':>8} {'loops':>6} {'different':>10}")
    for model in args.models:
        start = seconds()
        lowered = lower(model, args.batch, *args.size)
        traced = seconds()
        compiled = lowered.compile({name: parse(value) for name, value in options.items()})
        done = seconds()
        loops = programs(compiled.as_text())
        print(f"{model:24} {traced - start:6.1f} {done - traced:8.1f} {len(loops):6} {len(set(loops)):10}", flush=True)


def lower(model: str, batch: int, height: int, width: int) -> jax.stages.Lowered:
    """The train step by `jax.pmap`, not compiled yet."""
    net, optimizer = build_model(MODELS[model], CLASSES), optax.sgd(1e-3, momentum=0.9)

    def step(state, batch):
        return train_step(
            state, batch, model=net, optimizer=optimizer, objective=Supervised(CLASSES),
            schedule=lambda step: jnp.float32(1e-3), axis_name=DATA_AXIS,
        )  # fmt: skip

    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    state = jax.eval_shape(lambda: create_state(net, optimizer, jax.random.key(0), [image]))
    fields = {
        "image": jax.ShapeDtypeStruct((1, batch, height, width, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct((1, batch, height, width), jnp.int32),
        "valid": jax.ShapeDtypeStruct((1, batch), bool),
    }
    mapped = jax.pmap(step, DATA_AXIS, in_axes=(None, 0), out_axes=(None, None), donate_argnums=0)
    return mapped.lower(state, fields)


def programs(text: str) -> list[str]:
    """What each fused loop of a compiled module computes, with its numbers renamed in order."""
    text = re.sub(r", metadata=\{[^}]*\}|, backend_config=\{.*\}", "", text)
    parts = {part.split("(", 1)[0].split()[-1].lstrip("%"): part for part in text.strip().split("\n\n") if "(" in part}

    def normal(name: str) -> str:
        names: dict[str, str] = {}
        body = re.sub(r"calls=%([\w.-]+)", lambda call: normal(call[1]), parts[name].split("\n", 1)[1])
        return re.sub(r"%[\w.-]+", lambda found: names.setdefault(found[0], f"%{len(names)}"), body)

    return [normal(name) for name in re.findall(r"kind=k(?!Custom)\w+, calls=%([\w.-]+)", text)]


def parse(value: str) -> bool | int | str:
    """The value of an option: a truth value, a number or a word."""
    return {"true": True, "false": False}.get(value, int(value) if value.lstrip("-").isdigit() else value)


def seconds() -> float:
    """Processor seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
