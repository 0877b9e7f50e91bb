"""Masks of pictures by the exported model beside this file, without the project that trained it.

    python run.py street.jpg photos --output=masks

README.md names the packages that it needs. What is in here may be copied into a program of your own.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp")


def stablehlo(path: Path):
    """A program of `jax.export`."""
    import jax
    from jax import export

    # Compiled for each size of picture.
    call = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    return lambda image: call(image)


def onnx(path: Path):
    """A model of ONNX, on the first device that onnxruntime has."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())
    names = [one.name for one in session.get_outputs()]
    return lambda image: dict(zip(names, session.run(names, {"image": image})))


def savedmodel(path: Path):
    """A SavedModel of TensorFlow, compiled for each size of picture."""
    import tensorflow as tf

    model = tf.saved_model.load(str(path))

    def call(image):
        # A signature alone would not keep its model.
        return {name: x.numpy() for name, x in model.signatures["serving_default"](image=tf.constant(image)).items()}

    return call


def tflite(path: Path):
    """A model of TensorFlow Lite."""
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_path=str(path)).get_signature_runner()


def load(folder: Path):
    """The model of a folder, uint8 `[b, h, w, 3]` -> its outputs by name, and what the card says of it."""
    card = json.loads((folder / "card.json").read_text())
    return globals()[card["format"]](folder / card["file"]), card


def read(path: Path) -> np.ndarray:
    """A picture as uint8 `[h, w, 3]`, turned upright as its file says."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def check_size(size: tuple[int, int], card: dict, path: Path) -> None:
    """Ends with a message for a picture that the model does not take."""
    wanted, least = card["input"]["size"], card["input"]["least"]
    if wanted and list(size) != wanted:
        sys.exit(f"{path}: this model takes pictures of {wanted[0]} x {wanted[1]} pixels, not {size[0]} x {size[1]}")
    if any(n < m for n, m in zip(size, least)):
        sys.exit(f"{path}: this model takes pictures of at least {least[0]} x {least[1]} pixels")


def write(mask: np.ndarray, card: dict, path: Path) -> None:
    """A PNG whose values are the classes, shown in their colours; of 16 bits and gray beyond 256 classes."""
    image = Image.fromarray(mask)
    if mask.dtype == np.uint8:
        image.putpalette([value for one in card["classes"] for value in one["colour"]])
    image.save(path)


def main() -> None:
    """Reads the command line, writes `OUTPUT/NAME.png` for every picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", type=Path, help="files or folders")
    parser.add_argument("--output", type=Path, default=Path("masks"), help="folder to write to (default: masks)")
    given = parser.parse_args()
    model, card = load(Path(__file__).resolve().parent)
    given.output.mkdir(parents=True, exist_ok=True)
    for place in given.pictures:
        files = sorted(p for p in place.iterdir() if p.suffix.lower() in SUFFIXES) if place.is_dir() else [place]
        for path in files:
            image = read(path)
            check_size(image.shape[:2], card, path)
            outputs = model(image=image[None])
            if not outputs["finite"][0]:
                sys.exit(f"{path}: the numbers of the model are not finite")
            mask = np.asarray(outputs["mask"][0])
            write(mask, card, given.output / f"{path.stem}.png")
            shares = np.bincount(mask.ravel(), minlength=len(card["classes"])) / mask.size
            found = (f"{card['classes'][k]['name']} {shares[k]:.1%}" for k in np.argsort(-shares)[:3] if shares[k])
            print(f"{path}: {', '.join(found)}", flush=True)


if __name__ == "__main__":
    main()
