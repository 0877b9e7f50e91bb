"""Plans: what they say of a program that can be compiled here, how the largest batch is found, what is refused."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from attnseg_jax.configs import default
from attnseg_jax.errors import UserError
from attnseg_jax.planning import chips, hlo
from attnseg_jax.planning.attention import attention_plans
from attnseg_jax.planning.chips import Chip, Slice
from attnseg_jax.planning.largest import largest
from attnseg_jax.planning.plan import Memory, Plan, make_plan
from attnseg_jax.train.state import TrainState

pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method is deprecated:DeprecationWarning")
SCRIPT = "attnseg_jax/cli/plan.py"
# 10 operations, 4 bytes of memory and 2 of links per nanosecond.
CHIP = Chip("toy", "cpu", 2.0**30, 4e9, 1e10, 2e9)


@pytest.fixture(scope="module")
def here():
    return Slice("toy:4", CHIP, 4, jax.devices()[:4])


def config(**changes):
    made = default.get_config()
    small = {"train.batch_size": 8, "data.crop": (16, 24), "model.backbone.tiny.width": 4}
    made.update_from_flattened_dict({**small, **{key.replace("__", "."): value for key, value in changes.items()}})
    return made


def state_bytes(made):
    from attnseg_jax.train.setup import make_run

    abstract: TrainState = make_run(made, 7).abstract
    return sum(int(np.prod(x.shape)) * 4 for x in jax.tree.leaves(abstract)) + 4  # a key is two numbers


@pytest.mark.thorough
@pytest.mark.parametrize("mode", ["pmap", "fsdp"])
def test_a_program_for_devices_that_are_here(here, mode):
    made = config(parallel=mode)
    plan = make_plan(made, here)
    assert (plan.rows, plan.crop, plan.fits) == (2, (16, 24), True)
    batch = 2 * (16 * 24 * (3 + 1) * 4 + 1)
    whole = state_bytes(make_whole := config())
    assert make_whole.parallel == "pmap"
    if mode == "fsdp":
        assert batch + whole / 4 < plan.memory.arguments < batch + 0.7 * whole
        assert plan.taken.collectives["all-gather"][1] > 0
    else:
        # Arrays may be aligned.
        assert batch + whole <= plan.memory.arguments < batch + 1.02 * whole + 512
        # Every gradient is summed.
        assert plan.taken.collectives["all-reduce"][1] > whole / 4
    assert plan.memory.temporaries > 0 and plan.seconds > 0
    # A chip without a clock tells no time of its own.
    assert plan.estimate is None and plan.bounds["arithmetic"] == plan.flops / 1e10


def test_operations_are_those_of_a_chips_share(here):
    few, many = (make_plan(config(), Slice("h100:4", chips.CHIPS["h100"], 4, None), rows=rows) for rows in (2, 6))
    assert few.flops == make_plan(config(), here).flops
    assert 2.5 < many.flops / few.flops < 3
    assert few.taken is None and set(few.bounds) == {"arithmetic"}
    # State and batch exactly; the rest grows with the images.
    assert many.memory.arguments - few.memory.arguments == 4 * (16 * 24 * 16 + 1)
    assert 2 < many.memory.temporaries / few.memory.temporaries < 3.1


def test_links_carry_a_sum_twice_and_a_gather_once():
    taken = hlo.Taken({}, 8e9, {"all-reduce": (1, 6e9), "all-gather": (1, 4e9)})
    plan = Plan(Slice("toy:4", CHIP, 4, None), 2, (16, 24), Memory(1, 2, 3, 4), 5e10, taken)
    # Of four chips each sends three quarters: (2 x 6 + 4) GB x 3/4 at 2 GB/s.
    assert plan.bounds == {"arithmetic": 5.0, "memory": 2.0, "links": 6.0}
    assert plan.link_seconds(1) == 0 and plan.link_seconds(8) == 7.0
    assert plan.memory.total == 10 and plan.fits


def test_parts_share_the_cycles():
    taken = hlo.Taken({
        "jit(step)/transpose(jvp(Segmenter))/Segmenter._call/backbone/stem/conv": 30.0,
        "jit(step)/jvp(Segmenter)/Segmenter._call/attention/attention0.attend/mul": 15.0,
        "jit(step)/add": 5.0,
    })  # fmt: skip
    plan = Plan(Slice("v5e:1x1", chips.CHIPS["v5e"], 1, None), 1, (1, 1), Memory(0, 0, 0, 0), 0.0, taken)
    assert plan.parts == {"backbone": 0.6, "attention": 0.3, "loss, optimizer and the rest": 0.1}
    assert plan.estimate == pytest.approx(50 / 1.5e9)


@pytest.mark.parametrize("bend", [0.0, 3.0])
@pytest.mark.parametrize("start", [1, 7, 64, 5000])
def test_the_largest_that_fits_is_found(start, bend):
    """Of a memory that grows nearly as the batch does, and of one whose growth changes on the way."""
    where, looked_at = Slice("toy:1", CHIP, 1, None), []

    def plan(n):
        looked_at.append(n)
        used = int(2e8 + 1.7e6 * n + bend * 1e5 * max(0, n - 100))
        memory = None if used > 5 * CHIP.memory else Memory(used, 0, 0, 0)
        return Plan(where, n, (8, 8), memory, 1.0, needed="too much")

    best = largest(plan, start, lambda n: n)
    exact = max(n for n in range(1, 1000) if 2e8 + 1.7e6 * n + bend * 1e5 * max(0, n - 100) <= CHIP.memory)
    assert best.fits and len(looked_at) <= 6 and len({*looked_at}) == len(looked_at)
    assert 0.9 * exact <= best.rows <= exact


def test_nothing_fits():
    where = Slice("toy:1", replace(CHIP, memory=10), 1, None)
    with pytest.raises(UserError, match=r"--topology=toy:1: not even 1 images of 8 x 8 .* config.remat='blocks'"):
        largest(lambda n: Plan(where, n, (8, 8), Memory(11, 0, 0, 0), 1.0), 4, lambda n: n)


def test_attention_by_its_forms(here):
    found = {plan.impl: plan for plan in attention_plans(config(), here, 2)}
    assert found["dense"].temporaries > 0 and found["chunked"].temporaries > 0
    assert found["splash"].temporaries is None and "needs a TPU" in found["splash"].reason
    assert attention_plans(config(model__attention__name="se"), here, 2) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--topology is required"),
        (["--topology=v9:2x2"], "--topology=v9:2x2: the chip 'v9' is not known: known: v4"),
        (["--topology=h1000:8"], "did you mean 'h100'"),
        (["--topology=h100"], "give the number of GPUs, such as h100:8"),
        (["--topology=v5e:8"], "give the shape of the slice, such as v5e:2x4"),
        (["--topology=h100:3"], "config.train.batch_size=16 cannot be split evenly over 3 devices: give 15 or 18"),
        (["--topology=h100:8", "--batch=0"], "--batch=0 must be a number of images of at least 1, or auto"),
        (["--topology=h100:8", "--crop=256"], "--crop=256 must be auto; a size is set by --config.data.crop"),
        (["--topology=h100:8", "--crop=auto", "--batch=auto"], "find one after the other"),
        (["--topology=h100:8", "--config.data.dir=nowhere"], "config.data.dir=nowhere: there is no such folder"),
        (["--topology=h100:8", "--config.model.attention.name=slf"], "did you mean 'self'?"),
    ],
)
def test_what_cannot_be_planned(call, arguments, message):
    code, out, err = call(SCRIPT, *arguments)
    assert code == 2 and not out
    assert message in err and "Traceback" not in err


def test_a_plan_of_gpus(call, tmp_path):
    code, out, _ = call(SCRIPT, "--topology=a100:2", "--batch=3", f"--json={tmp_path / 'plan.json'}")
    assert code == 0
    assert "3 images of 64 x 96 a chip, 6 in all" in out and "no compiler for this chip is here" in out
    document = json.loads((tmp_path / "plan.json").read_text())
    assert document["fits"] and not document["compiled"] and document["rows"] == 3
    assert document["memory"]["total"] == sum(document["memory"][name] for name in ("arguments", "temporaries"))


@pytest.mark.slow
def test_a_slice_of_tpus(call):
    """The real step, by the compiler for TPUs (the extra `plan`)."""
    pytest.importorskip("libtpu", reason="needs jax[tpu]")
    code, out, err = call(SCRIPT, "--topology=v5e:2x4")
    assert code == 0, err
    assert "8 chips on 2 hosts" in out and "all-reduce" in out and "nor 3 kernels" in out
