"""Files of weights in any format."""

from attnseg_jax.weights.files import format_of


def weights_bytes(arrays, path):
    """The bytes of a file of arrays in the format that the ending of its path names."""
    return format_of(path)[1](arrays)
