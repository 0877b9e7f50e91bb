"""Plans a training on a machine that is not here: memory of each chip, time of a step, communication.

    attnseg-plan --topology=v5e:2x4 --config=camvid_resnet18_attention
    attnseg-plan --topology=v4:2x2x2 --config=camvid_efficientnet_lite0 --batch=auto --config.dtype=bfloat16
    attnseg-plan --topology=h100:8 --crop=auto

The training step itself is compiled for a slice of TPUs (v4, v5e, v5p, v6e), which takes the package's extra `plan` and
for a large model minutes. Of GPUs (a100, h100, h200) there is no compiler here: their figures are estimates from the
shapes alone. No data are read.
"""

import functools
import json
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from attnseg_jax.cli import config_flag, entry
from attnseg_jax.errors import UserError
from attnseg_jax.evaluation.tables import short, text_table
from attnseg_jax.files import target, write_atomically
from attnseg_jax.planning import chips
from attnseg_jax.planning.attention import AttentionPlan, attention_plans
from attnseg_jax.planning.largest import largest_batch, largest_crop
from attnseg_jax.planning.plan import Plan, make_plan
from attnseg_jax.train import config as configs
from attnseg_jax.weights import catalogue

_CHIPS = (8, 16, 32, 64, 128, 256)


def _flags() -> None:
    config_flag.define_flag()
    flags.DEFINE_string("topology", None, "chips: v5e:2x4, a shape of TPUs, or h100:8, a number of GPUs; required")
    flags.DEFINE_string("batch", None, "images on each chip; auto: as many as fit (default: config.train.batch_size's)")
    flags.DEFINE_string("crop", None, "auto: the largest crop that fits (default: config.data.crop)")
    flags.DEFINE_string("json", None, "JSON to write (default: none)")


def _plan() -> None:
    """Plans and prints."""
    values = flags.FLAGS
    if not values.topology:
        raise UserError("--topology is required, such as --topology=v5e:2x4, or h100:8 for GPUs")
    if values.crop not in (None, "auto"):
        raise UserError(f"--crop={values.crop} must be auto; a size is set by --config.data.crop")
    if values.crop and values.batch == "auto":
        raise UserError("--batch=auto and --crop=auto: find one after the other")
    path = target("--json", values.json) if values.json else None
    where = chips.read(values.topology)
    config = catalogue.apply(configs.with_folder(config_flag.given()))
    configs.check_values(config)
    plan = _made(config, where, values.batch, bool(values.crop))
    forms = attention_plans(config, where, plan.rows) if plan.fits else []
    print("\n".join(lines(plan, config, forms)), flush=True)
    if path:
        write_atomically(path, (json.dumps(document(plan, config, forms), indent=1, allow_nan=False) + "\n").encode())
        print(path)


def _made(config: ConfigDict, where: chips.Slice, batch: str | None, crop: bool) -> Plan:
    if batch == "auto":
        return largest_batch(config, where)
    rows = None
    if batch is not None:
        if not (batch.isascii() and batch.isdecimal() and int(batch)):
            raise UserError(f"--batch={batch} must be a number of images of at least 1, or auto")
        rows = int(batch)
    if crop:
        if rows is not None:
            with config.unlocked():
                config.train.batch_size = rows * where.count
        return largest_crop(config, where)
    return make_plan(config, where, rows=rows)


def lines(plan: Plan, config: ConfigDict, forms: list[AttentionPlan]) -> list[str]:
    """What a plan says, for people."""
    chip, (height, width) = plan.slice.chip, plan.crop
    hosts = f" on {plan.slice.hosts} hosts" if plan.slice.hosts > 1 else ""
    text = [
        f"{plan.slice.name}: {plan.slice.count} chips{hosts}; each has {_bytes(chip.memory)}, "
        f"{short(chip.flops / 1e12)} TFLOP/s in bfloat16, {short(chip.bandwidth / 1e9)} GB/s",
        f"a training step by {config.parallel}: {plan.rows} images of {height} x {width} a chip, "
        f"{plan.rows * plan.slice.count} in all, {config.dtype}",
    ]
    if plan.memory is None:
        return [*text, f"does not fit: it needs {plan.needed}; try --batch=auto, or config.remat='blocks'"]
    if plan.taken is None:
        text.append("no compiler for this chip is here: memory is estimated from the shapes, time is a lower bound")
    else:
        text.append(f"compiled in {short(plan.seconds)} s")
    text += ["", *_memory(plan), "", *_time(plan)]
    if plan.parts:
        shares = ", ".join(f"{part} {share:.0%}" for part, share in plan.parts.items())
        text.append(f"of the compiler's estimate: {shares}")
    if forms:
        rows = [
            [form.impl, short(form.temporaries / 2**20), short(form.milliseconds)] if form.temporaries is not None
            else [form.impl, form.reason]
            for form in forms
        ]  # fmt: skip
        text += ["", *text_table(["attention alone, with gradients", "MiB temp", "ms"], rows)]
    if plan.taken is not None:
        text += ["", *_scaling(plan)]
    return text


def _memory(plan: Plan) -> list[str]:
    memory, whole = plan.memory, plan.slice.chip.memory
    rows = [
        ["state and batch", _bytes(memory.arguments)],
        ["results beside them", _bytes(memory.results)],
        ["temporaries at the peak", _bytes(memory.temporaries)],
        ["program", _bytes(memory.program)],
        ["in all", _bytes(memory.total)],
        ["free" if plan.fits else "missing", _bytes(abs(whole - memory.total))],
    ]
    return text_table(["memory of a chip", ""], rows)


def _time(plan: Plan) -> list[str]:
    taken = plan.taken
    because = {"arithmetic": f"{short(plan.flops / 1e9)} GFLOP"}
    if taken is not None:
        because["memory"] = f"{short(taken.bytes / 2**20)} MiB read and written"
        because["links"] = ", ".join(
            f"{count} {kind} of {short(size / 2**20)} MiB" for kind, (count, size) in sorted(taken.collectives.items())
        )
    largest = max(plan.bounds, key=lambda name: plan.bounds[name])
    rows = [
        [name, short(1e3 * seconds), because[name] + (" <- what bounds it" if name == largest else "")]
        for name, seconds in plan.bounds.items()
    ]
    if plan.estimate is not None:
        without = "communication not counted"
        if taken.kernels:
            without += f", nor {sum(taken.kernels.values())} kernels that it does not look into"
        if taken.unknown_loops:
            without += f"; {taken.unknown_loops} loops of unknown length count once"
        rows.append(["the compiler's own estimate", short(1e3 * plan.estimate), without])
    names = max(len(row[0]) for row in rows)
    numbers = max(len(row[1]) for row in rows)
    return [
        f"{'time of a step, at least'.ljust(names)}  {'ms'.rjust(numbers)}",
        *(f"{name.ljust(names)}  {value.rjust(numbers)}  {reason}".rstrip() for name, value, reason in rows),
    ]


def _scaling(plan: Plan) -> list[str]:
    """More chips with as many images each; the communication is that of one ring, not hidden behind anything."""
    alone = plan.estimate or max(plan.bounds["arithmetic"], plan.bounds["memory"])
    rows = []
    for count in _CHIPS:
        seconds = alone + plan.link_seconds(count)
        images = plan.rows * count
        rows.append([str(count), str(images), short(1e3 * seconds), short(images / seconds), f"{alone / seconds:.0%}"])
    return text_table(["chips", "batch", "ms a step", "images/s", "efficiency"], rows)


def document(plan: Plan, config: ConfigDict, forms: list[AttentionPlan]) -> dict[str, Any]:
    """The same for programs: bytes, seconds, operations."""
    memory = plan.memory
    return {
        "topology": plan.slice.name,
        "chips": plan.slice.count,
        "hosts": plan.slice.hosts,
        "parallel": config.parallel,
        "dtype": config.dtype,
        "rows": plan.rows,
        "crop": list(plan.crop),
        "fits": plan.fits,
        "compiled": plan.taken is not None,
        "compile_seconds": plan.seconds,
        "memory": memory and {**vars(memory), "total": memory.total, "of": plan.slice.chip.memory},
        "flops": plan.flops,
        "bounds": plan.bounds if memory else {},
        "estimate": plan.estimate if memory else None,
        "parts": plan.parts,
        "collectives": {} if plan.taken is None else plan.taken.collectives,
        "attention": [vars(form) for form in forms],
    }


def _bytes(count: float) -> str:
    return f"{short(count / 2**30)} GiB" if count >= 2**30 else f"{short(count / 2**20)} MiB"


main = functools.partial(entry.run, _plan, _flags, usage=__doc__, check=config_flag.check, more_help=config_flag.keys)

if __name__ == "__main__":
    main()
