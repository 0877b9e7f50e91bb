"""Ways to compute attention: memory, many devices, the choice between them, the kernels of accelerators."""

import functools
import json
import logging
import os
import pathlib
import re
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from attnseg_jax.errors import OptionError
from attnseg_jax.ops import attention
from attnseg_jax.ops.attention import accelerators, dispatch
from attnseg_jax.ops.attention.chunked import chunked
from attnseg_jax.ops.attention.dense import dense
from attnseg_jax.ops.platforms import tracing_for

ROOT = pathlib.Path(__file__).parents[3]
MIB = 2**20
COLLECTIVES = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def loss(q, k, v, bias=None, mask=None):
    return (chunked(q, k, v, bias, mask) ** 2).sum()


def memory(function, tokens, bias=False):
    """Bytes that the compiled function needs beside arguments and results: 8 heads of width 64; nothing is run."""
    shapes = [(1, tokens, 8, 64)] * 3 + [(1, 8, 1, tokens)] * bias
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arrays).compile().memory_analysis().temp_size_in_bytes


def test_memory_of_16384_tokens():
    assert memory(chunked, 16384) <= 128 * MIB
    # A bias per head and key must not be spread over the queries (8 GiB), nor its gradient.
    assert memory(jax.grad(loss, argnums=(0, 1, 2, 3)), 16384, bias=True) <= 512 * MIB


def test_memory_grows_linearly():
    gradient = jax.grad(loss, argnums=(0, 1, 2))
    assert memory(gradient, 65536) <= 17 * memory(gradient, 4096)


def test_a_batch_stays_on_its_devices():
    """The gradient of a bias that all devices share must be summed; nothing else may travel."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())

    def collectives(argnums):
        shapes = [((8, n, 3, 16), split) for n in (70, 50, 50)] + [((1, 3, 70, 50), whole), ((8, 1, 1, 50), split)]
        arrays = [jax.ShapeDtypeStruct(s, jnp.float32, sharding=place) for s, place in shapes[:4]]
        arrays.append(jax.ShapeDtypeStruct(shapes[4][0], jnp.bool_, sharding=split))
        compiled = jax.jit(jax.grad(loss, argnums)).lower(*arrays).compile()
        return set(re.findall(rf"({COLLECTIVES})\(", compiled.as_text()))

    assert collectives((0, 1, 2)) == set()
    assert collectives((0, 1, 2, 3)) == {"all-reduce"}


@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map_equals_one_device(check_vma):
    """Keys, values and bias are the same on all devices, queries are not."""
    q, k, v, bias = draw(8, 7, 2, 4), draw(1, 5, 2, 4, seed=1), draw(1, 5, 2, 3, seed=2), draw(1, 2, 7, 1, seed=3)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def gradients(q, k, v, bias):
        return jax.grad(loss, argnums=(0, 1, 2, 3))(q, k, v, bias)

    def spread(*arrays):
        d_q, *shared = gradients(*arrays)
        return d_q, *(shared if check_vma else jax.lax.psum(shared, "data"))

    specs = (P("data"), P(), P(), P())
    mapped = jax.shard_map(spread, mesh=mesh, in_specs=specs, out_specs=specs, check_vma=check_vma)
    wide = [jnp.broadcast_to(x, (8, *x.shape[1:])) for x in (k, v)]
    d_q, d_k, d_v, d_bias = jax.jit(gradients)(q, *wide, bias)
    expected = d_q, d_k.sum(0, keepdims=True), d_v.sum(0, keepdims=True), d_bias
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=3e-5), jax.jit(mapped)(q, k, v, bias), expected)


def pretend(monkeypatch, backend, devices=1):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    client = types.SimpleNamespace(platform_version={"gpu": "cuda 12090", "rocm": "rocm 7"}.get(backend, backend))
    monkeypatch.setattr(jax, "local_devices", lambda: [types.SimpleNamespace(client=client)])


@pytest.mark.parametrize(
    ("backend", "devices", "dtype", "n", "width", "mask", "expected"),
    [
        ("cpu", 1, "float32", 300, 32, None, "dense"),
        ("cpu", 1, "float32", 900, 32, None, "chunked"),
        ("gpu", 1, "bfloat16", 900, 32, None, "cudnn"),
        ("gpu", 4, "bfloat16", 900, 32, (2, 1, 1, 900), "cudnn"),
        ("gpu", 1, "bfloat16", 901, 32, (2, 1, 1, 901), "dense"),
        ("gpu", 1, "bfloat16", 900, 30, None, "dense"),
        ("gpu", 1, "bfloat16", 49, 32, None, "dense"),
        ("gpu", 1, "float32", 9000, 32, None, "chunked"),
        ("tpu", 1, "float32", 900, 30, None, "splash"),
        ("tpu", 1, "float32", 900, 30, (2, 1, 1, 900), "splash"),
        ("tpu", 1, "float32", 9000, 30, (2, 1, 9000, 1), "chunked"),
        ("tpu", 4, "bfloat16", 9000, 32, None, "chunked"),  # no mesh says how the batch is split
    ],
)
def test_auto_chooses(monkeypatch, backend, devices, dtype, n, width, mask, expected):
    pretend(monkeypatch, backend, devices)
    q = jax.ShapeDtypeStruct((2, n, 3, width), dtype)
    mask = None if mask is None else jax.ShapeDtypeStruct(mask, bool)
    assert dispatch._choose(q, q, q, None, mask) == expected


@pytest.mark.parametrize(
    ("platform", "devices", "dtype", "expected"),
    [
        ("tpu", 1, "float32", "splash"),
        ("tpu", 8, "float32", "dense"),  # no mesh says how the batch is split
        ("gpu", 8, "bfloat16", "cudnn"),
        ("cpu", 8, "float32", "chunked"),
    ],
)
def test_auto_chooses_for_a_machine_that_is_not_here(platform, devices, dtype, expected):
    q = jax.ShapeDtypeStruct((2, 900, 3, 32), dtype)
    with tracing_for(platform, devices):
        assert dispatch._choose(q, q, q, None, None) == expected
    assert dispatch._choose(q, q, q, None, None) == "chunked"


@pytest.mark.parametrize(("check_vma", "expected"), [(False, "splash"), (True, "dense")])
def test_auto_inside_shard_map_on_tpu(monkeypatch, check_vma, expected):
    """The kernel serves a device's own rows, unless jax insists on types that Pallas does not give."""
    pretend(monkeypatch, "tpu", 8)
    chosen = []

    def function(q):
        chosen.append(dispatch._choose(q, q, q, None, None))
        return q

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=check_vma)
    jax.eval_shape(mapped, jax.ShapeDtypeStruct((8, 200, 2, 16), jnp.float32))
    assert set(chosen) == {expected}


def test_a_choice_is_reported_once(caplog, monkeypatch):
    monkeypatch.setattr(dispatch, "_REPORTED", set())
    caplog.set_level(logging.INFO, logger="attnseg_jax.ops.attention")
    for tokens in (300, 310, 1500, 1510):
        q = jax.ShapeDtypeStruct((1, tokens, 2, 8), jnp.float32)
        jax.eval_shape(attention.dot_product_attention, q, q, q)
    jax.eval_shape(lambda q: attention.dot_product_attention(q, q, q, impl="dense"), q)
    lines = [record.getMessage() for record in caplog.records]
    assert [re.findall("dense|chunked|1500|300", line) for line in lines] == [
        ["dense", "300", "300"],
        ["chunked", "1500", "1500"],
    ]


@pytest.mark.parametrize(
    ("backend", "impl", "facts", "message"),
    [
        ("cpu", "online", {}, "known: auto, dense, chunked, cudnn, splash"),
        ("cpu", "chunks", {}, "did you mean 'chunked'"),
        ("cpu", "cudnn", {}, "NVIDIA GPU, and this process runs on cpu: choose 'auto' or 'chunked'"),
        ("rocm", "cudnn", {}, "NVIDIA GPU"),
        ("tpu", "cudnn", {"dtype": jnp.bfloat16}, "NVIDIA GPU"),
        ("gpu", "cudnn", {"dtype": jnp.float32}, "half precision only, not float32"),
        ("gpu", "cudnn", {"dtype": jnp.bfloat16, "widths": (64, 32)}, "not 64 and 32"),
        ("gpu", "cudnn", {"widths": (20, 20)}, "multiple of 8"),
        ("gpu", "cudnn", {"bias": True, "tokens": (5, 4)}, "even numbers"),
        ("gpu", "splash", {}, "needs a TPU, and this process runs on gpu"),
        ("tpu", "splash", {"bias": True}, "no bias"),
        ("tpu", "splash", {"mask_shape": (2, 1, 5, 4)}, "masks of keys"),
    ],
)
def test_refusals(monkeypatch, backend, impl, facts, message):
    pretend(monkeypatch, backend)
    with pytest.raises(OptionError, match=message) as error:
        attention.check_impl(impl, **facts)
    assert str(error.value).startswith(f"impl={impl!r}") and "\n" not in str(error.value)


@pytest.mark.parametrize("impl", ["cudnn", "splash", "flash"])
def test_refused_while_tracing(impl):
    q = jax.ShapeDtypeStruct((1, 6, 2, 8), jnp.float32)
    with pytest.raises(OptionError, match=f"impl='{impl}'"):
        jax.eval_shape(lambda q: attention.dot_product_attention(q, q, q, impl=impl), q)


@pytest.mark.thorough
def test_splash_equals_dense():
    """The kernel interpreted: keys and queries are padded, the second image has no key that may be attended to."""
    q, k, v, direction = draw(2, 37, 2, 8), draw(2, 50, 2, 8, seed=1), draw(2, 50, 2, 6, seed=2), draw(2, 37, 2, 6)
    mask = jnp.asarray(np.random.default_rng(3).random((2, 1, 1, 50)) < 0.6).at[1].set(False)

    def both(function, **keywords):
        out, pull = jax.vjp(lambda *x: function(*x, None, mask, 0.3, **keywords), q, k, v)
        return out, pull(direction)

    ours = jax.jit(lambda: both(accelerators.splash, interpret=True))()
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), ours, jax.jit(lambda: both(dense))())
    assert (ours[0][1] == 0).all()


def test_splash_splits_a_batch_over_the_mesh():
    """Under `jax.set_mesh` each device runs the kernel on its rows: nothing travels, and `auto` may choose it."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, P("data"))
    q, k, mask = draw(8, 20, 1, 8), draw(8, 30, 1, 8, seed=1), jnp.arange(30).reshape(1, 1, 1, 30) < 25

    def gradient(function):
        return jax.jit(jax.grad(lambda q, k: (function(q, k, k, None, mask) ** 2).sum()), in_shardings=split)

    expected = gradient(dense)(q, k)
    assert not accelerators.knows_its_device(q)
    with jax.set_mesh(mesh):
        assert accelerators.knows_its_device(q) and not accelerators.knows_its_device(q[:7])
        compiled = gradient(functools.partial(accelerators.splash, interpret=True)).lower(q, k).compile()
        found = compiled(*(jax.device_put(x, split) for x in (q, k)))
        lowered = gradient(accelerators.splash).trace(q, k).lower(lowering_platforms=("tpu",)).as_text()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)
    assert not re.search(rf"({COLLECTIVES})\(", compiled.as_text())
    assert lowered.count("tpu_custom_call") == 3  # forward, gradient of queries, of keys and values


SLICE = """
import json, jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from attnseg_jax.ops.attention.accelerators import splash
mesh = Mesh(topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices, ("data",))
one = jax.shard_map(lambda q, k, v, mask: splash(q, k, v, None, mask), mesh=mesh, in_specs=P("data"),
                    out_specs=P("data"), check_vma=False)
loss = lambda *x: (one(*x).astype(jnp.float32) ** 2).sum()
for n, m, d, e, dtype in [(4096, 4096, 64, 64, "bfloat16"), (600, 333, 40, 24, "float32")]:
    arrays = [((8, n, 4, d), dtype), ((8, m, 4, d), dtype), ((8, m, 4, e), dtype), ((8, 1, 1, m), "bool")]
    arrays = [jax.ShapeDtypeStruct(*x, sharding=NamedSharding(mesh, P("data"))) for x in arrays]
    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*arrays).compile()
    print(json.dumps([compiled.memory_analysis().temp_size_in_bytes, compiled.as_text()]))
"""


@pytest.mark.slow
def test_splash_compiles_for_a_tpu_slice():
    """Ahead of time for a v5e slice of 8 chips, forward and backward, in sizes that divide the tiles and not."""
    pytest.importorskip("libtpu", reason='needs the TPU compiler: pip install "jax[tpu]"')
    settings = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", SLICE], env={**os.environ, **settings}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    programs = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(programs) == 2
    for temp, text in programs:
        assert temp <= 64 * MIB
        assert text.count("tpu_custom_call") >= 3  # forward, gradient of queries, of keys and values
        assert not re.search(rf"({COLLECTIVES})\(", text)
