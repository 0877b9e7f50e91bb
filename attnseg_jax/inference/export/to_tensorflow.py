"""A program of StableHLO as a SavedModel or a model of TensorFlow Lite, in a process that has not this project.

python to_tensorflow.py PROGRAM MODEL --format=savedmodel
python to_tensorflow.py PROGRAM MODEL --format=tflite [--precision=float16|int8]
"""

import argparse
import pickle
import re
import sys
import tempfile
from pathlib import Path


def module(told):
    """The program as a function of `image`."""
    import tensorflow as tf
    from tensorflow.compiler.tf2xla.python import xla

    names, outputs = told["names"], told["outputs"]

    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec(told["shape"], tf.uint8, name="image")], autograph=False)
        def __call__(self, image):
            found = xla.call_module(
                [image],
                version=told["version"],
                module=told["module"],
                Tout=[tf.dtypes.as_dtype(dtype) for _, dtype in outputs],
                Sout=[tf.TensorShape(shape) for shape, _ in outputs],
                platforms=[name.upper() for name in told["platforms"]],
            )
            return dict(zip(names, found))

    return Model()


def save(told, folder):
    """Writes a SavedModel; returns the function that it holds."""
    import tensorflow as tf

    model = module(told)
    signature = model.__call__.get_concrete_function()
    tf.saved_model.save(model, str(folder), signatures={"serving_default": signature})


def convert(folder, precision):
    """The bytes of a model of TensorFlow Lite."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--format", choices=["savedmodel", "tflite"], default="savedmodel")
    parser.add_argument("--precision", choices=["float32", "float16", "int8"], default="float32")
    given = parser.parse_args()
    told = pickle.loads(given.program.read_bytes())
    if given.format == "savedmodel":
        return save(told, given.model)
    with tempfile.TemporaryDirectory() as folder:
        save(told, folder)
        try:
            given.model.write_bytes(convert(folder, given.precision))
        # The converter's errors have many pages.
        except Exception as error:
            found = {*re.findall(r"error: loc\(.*\): (.+)", str(error))}
            first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            sys.exit("TensorFlow Lite: " + ("; ".join(sorted(found)) or first))


if __name__ == "__main__":
    main()
