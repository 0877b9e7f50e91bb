"""Cycles of convolutions on a TPU that need not be here, by its compiler: forms of this project beside XLA's own.

    python benchmarks/tpu.py --topology=v5e:1x1 --dtype=bfloat16

Needs the extra `plan`. Prints microseconds by the compiler's own estimate: forward, by image and by kernel, each as
shifted slices (depthwise) or matrix products (transposed) and, after the comma, as XLA's own.
`attnseg_jax/ops/depthwise.py` and `transposed.py` take what is faster.
"""

import argparse
import pathlib
import sys
from functools import partial

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax

from attnseg_jax.ops import depthwise, transposed
from attnseg_jax.planning import chips, hlo

# Window, stride, images.
CASES = (
    (3, 1, (1, 128, 256, 128)),
    (3, 1, (1, 64, 128, 1024)),
    (3, 1, (1, 288, 384, 32)),
    (3, 1, (2, 16, 24, 64)),
    (3, 2, (2, 256, 512, 96)),
    (3, 2, (1, 288, 384, 32)),
    (5, 1, (2, 64, 128, 240)),
    (5, 2, (2, 64, 128, 240)),
    (7, 1, (1, 128, 256, 96)),
    # Those of EfficientNet-Lite0 on a crop of CamVid.
    (3, 1, (1, 72, 96, 144)),
    (5, 2, (1, 72, 96, 144)),
    (5, 1, (1, 36, 48, 240)),
    (5, 1, (1, 18, 24, 672)),
    (3, 1, (1, 18, 24, 1152)),
)


# Of transposed convolutions: window, stride, images, channels of the result.
TRANSPOSED = (
    (2, 2, (2, 32, 64, 1024), 1024),
    (2, 2, (4, 32, 32, 768), 768),
    (4, 4, (2, 32, 64, 256), 256),
    (4, 2, (2, 64, 128, 128), 64),
)


def microseconds(where, dtype, function, *shapes):
    """The compiler's estimate of a function of arrays of such shapes on one chip."""
    compiled = where.jit(function).lower(*(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes)).compile()
    return 1e6 * hlo.taken(compiled.as_text()).all_cycles / where.chip.clock


def programs(window, stride, images):
    """(form as slices, form of XLA, shapes of their arguments) of the convolution and its gradients."""
    sides = (window // 2, window // 2)
    axes = tuple(depthwise._Axis(window, stride, 1, sides, size) for size in images[1:3])
    results, kernels = (images[0], *(axis.out for axis in axes), images[3]), (window, window, images[3])

    for form, own, shapes in (
        (depthwise._product, depthwise._plain_product, (images, kernels)),
        (depthwise._input_gradient, depthwise._plain_input_gradient, (kernels, results)),
        (depthwise._kernel_gradient, depthwise._plain_kernel_gradient, (images, results)),
    ):
        yield partial(form, axes), partial(own, axes), shapes


def transposed_programs(window, stride, images, channels):
    """As `programs`."""
    cut = (stride - window) // 2
    given = {"strides": (stride, stride), "sides": ((cut, cut), (cut, cut))}
    forms = partial(transposed._products, *given.values()), partial(transposed.plain_transposed, groups=1, **given)
    kernels, size = (window, window, images[3], channels), (window + 2 * cut - stride)
    results = (images[0], *(n * stride + size for n in images[1:3]), channels)

    def gradient(form, place):
        return lambda x, kernel, g: jax.vjp(form, x, kernel)[1](g)[place]

    yield *forms, (images, kernels)
    for place in (0, 1):
        yield *(gradient(form, place) for form in forms), (images, kernels, results)


def main():
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:1x1", help="one chip, such as v5e:1x1 (default)")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="default: bfloat16")
    arguments = parser.parse_args()
    where = chips.read(arguments.topology)
    print("| window, images | forward | by image | by kernel |\n|---|---|---|---|")
    for window, stride, images, *channels in (*CASES, *TRANSPOSED):
        cells = [
            ", ".join(f"{microseconds(where, arguments.dtype, form, *shapes):.0f}" for form in (ours, own))
            for ours, own, shapes in (transposed_programs if channels else programs)(window, stride, images, *channels)
        ]
        name = f"{'transposed ' * bool(channels)}{window}x{window}" + (f", stride {stride}" if stride > 1 else "")
        print(f"| {name}, {images} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
