"""Writes weights in another format, under their own names.

    python -m attnseg_jax.cli.convert --from=model.pth --to=model.safetensors
    python -m attnseg_jax.cli.convert --from=hf://timm/resnet18.a1_in1k/model.safetensors --to=resnet18.pth

Reads PyTorch's files (.pth, .pt, .bin, .ckpt) without PyTorch and runs nothing that they hold; reads and writes
.safetensors, .npz and PyTorch's. Every array keeps its name, its type and its bits.
"""

import functools

from absl import flags

from attnseg_jax.cli import entry
from attnseg_jax.errors import UserError
from attnseg_jax.files import expanded, write_atomically
from attnseg_jax.weights.files import format_of, read_weights
from attnseg_jax.weights.locate import locate


def _flags() -> None:
    flags.DEFINE_string("from", None, "file, hf://owner/name[@revision]/file or name of the catalogue; required")
    flags.DEFINE_string("to", None, "file to write; its ending names the format; required")
    flags.DEFINE_bool("overwrite", False, "write over a file that is there (default: no)")


def _convert() -> None:
    """Reads, writes and prints a summary."""
    # `from` is a word of the language.
    source, target = flags.FLAGS["from"].value, flags.FLAGS.to
    for name, value in (("from", source), ("to", target)):
        if not value:
            raise UserError(f"--{name} is missing: python -m attnseg_jax.cli.convert --from=FILE --to=FILE")
    path = expanded(target)
    if path.exists() and not flags.FLAGS.overwrite:
        raise UserError(f"--to={target} is there already: give another name, or --overwrite")
    # Another ending is refused before anything is fetched.
    _, to_bytes = format_of(path)
    located = locate(source, key="--from")
    arrays = read_weights(located.path)
    content = to_bytes(arrays)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"--to={target} cannot be written ({error.strerror})") from error
    elements = sum(array.size for array in arrays.values())
    print(f"{path}: {len(arrays)} arrays, {elements} elements, {len(content)} bytes")


main = functools.partial(entry.run, _convert, _flags, usage=__doc__)

if __name__ == "__main__":
    main()
