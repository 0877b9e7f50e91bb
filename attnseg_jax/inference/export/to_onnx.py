"""A traced program as a model of ONNX, in a process that has jax2onnx and not this project.

python to_onnx.py PROGRAM MODEL [--precision=float16|int8]
"""

import argparse
import pickle
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export, lax
from jax.extend.core import Primitive

PRIMITIVES = {x.name: x for x in vars(lax).values() if isinstance(x, Primitive)}


def evaluate(program, scope, *inputs):
    """What a program of `traced.told` computes; `scope` is that of the symbols in the shapes of `inputs`."""
    values = dict(program["constants"])
    values.update(zip(program["inputs"], inputs, strict=True))

    def value(x):
        return values[x] if isinstance(x, int) else x

    for name, arguments, results, params in program["equations"]:
        params = {key: rebuilt(x, scope) for key, x in params.items()}
        values.update(zip(results, bound(name, map(value, arguments), params), strict=True))
    return [value(x) for x in program["outputs"]]


def bound(name, inputs, params):
    """What a primitive makes of its inputs."""
    if name == "dim_as_value":
        return [jnp.asarray(params["dim"])]
    if name == "pad":
        return [padded(*inputs, **params)]
    if name not in PRIMITIVES:
        raise NotImplementedError(f"{name} is no primitive of jax.lax")
    found = PRIMITIVES[name].bind(*inputs, **params)
    return found if PRIMITIVES[name].multiple_results else [found]


def padded(x, value, padding_config):
    """`lax.pad`, of shapes with symbols as a concatenation: jax2onnx pads none."""
    borders = [n for low, high, _ in padding_config for n in (low, high)]
    cut = any(inner for *_, inner in padding_config) or any(isinstance(n, int) and n < 0 for n in borders)
    if cut or all(isinstance(n, int) for n in (*x.shape, *borders)):
        return lax.pad_p.bind(x, value, padding_config=padding_config)
    for axis, (low, high, _) in enumerate(padding_config):
        before, after = (
            [] if isinstance(n, int) and n == 0 else [lax.broadcast(value, (*x.shape[:axis], n, *x.shape[axis + 1 :]))]
            for n in (low, high)
        )
        x = lax.concatenate([*before, x, *after], axis) if before or after else x
    return x


def rebuilt(x, scope):
    """A parameter as jax has it."""
    if isinstance(x, tuple) and x[:1] == ("size",):
        return size(x[1], scope)
    if isinstance(x, tuple) and x[:1] == ("program",):
        _, closed, program = x
        types = [jax.ShapeDtypeStruct(rebuilt(shape, scope), dtype) for shape, dtype in program["types"]]
        made = jax.make_jaxpr(lambda *inputs: evaluate(program, scope, *inputs))(*types)
        if not closed and made.consts:
            raise NotImplementedError("constants in a program that has no place for them")
        return made if closed else made.jaxpr
    if isinstance(x, (tuple, list)):
        parts = [rebuilt(part, scope) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    return x


def size(text, scope):
    """A size from its name, such as `b` or `floordiv(h + 7, 8)`."""
    return export.symbolic_shape(text, scope=scope)[0]


def convert(told):
    """The model."""
    import onnx
    from jax2onnx import to_onnx

    scope = export.SymbolicScope(told["constraints"])
    (shape, dtype), *_ = told["types"]
    image = jax.ShapeDtypeStruct(rebuilt(shape, scope), dtype)
    model = to_onnx(
        lambda image: tuple(evaluate(told, scope, image)),
        [image],
        model_name="attnseg_jax",
        input_names=["image"],
        output_names=told["names"],
        opset=21,
    )
    onnx.checker.check_model(model)
    return model


def reduced(model, precision):
    """The model in another precision."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.float16 import convert_float_to_float16

    if precision == "float16":
        return convert_float_to_float16(model, keep_io_types=True)
    if precision == "int8":
        with tempfile.TemporaryDirectory() as folder:
            onnx.save_model(model, f"{folder}/float32.onnx")
            quantize_dynamic(f"{folder}/float32.onnx", f"{folder}/int8.onnx", weight_type=QuantType.QUInt8)
            return onnx.load(f"{folder}/int8.onnx")
    return model


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--precision", choices=["float32", "float16", "int8"], default="float32")
    given = parser.parse_args()
    import onnx
    import onnxruntime

    try:
        model = reduced(convert(pickle.loads(given.program.read_bytes())), given.precision)
        onnx.save_model(model, given.model)
        onnxruntime.InferenceSession(given.model, providers=["CPUExecutionProvider"])
    # What cannot be translated is told in whatever class a plugin has.
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
        sys.exit(f"{type(error).__name__}: {reason}")


if __name__ == "__main__":
    main()
