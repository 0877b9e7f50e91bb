"""Programs for maps of any size compute what those for known sizes do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from attnseg_jax.models.layers.attention import sincos_positions, sine_positions
from attnseg_jax.models.layers.deformable import centres
from attnseg_jax.ops.attention.deformable import deformable_attention
from attnseg_jax.ops.attention.dispatch import dot_product_attention
from attnseg_jax.ops.attention.interlaced import crop_to_size, pad_to_multiple
from attnseg_jax.ops.attention.window import window_mask
from attnseg_jax.ops.conv import conv
from attnseg_jax.ops.mask_classification import resized_semantic_logits
from attnseg_jax.ops.platforms import portable
from attnseg_jax.ops.pool import adaptive_avg_pool
from attnseg_jax.ops.resize import resize

RESIZES = [
    ("nearest", False),
    ("nearest-exact", False),
    ("bilinear", False),
    ("bilinear", True),
    ("bicubic", False),
    ("bicubic", True),
]


def outputs(x):
    _, h, w, c = x.shape
    found = {f"{m} {a}": resize(x, (3 * h, w + 5), m, align_corners=a) for m, a in RESIZES}
    found["smaller"] = resize(x, (h, 3))
    found["larger"] = resize(x[:, :4, :3], (h, w), "bicubic")
    found["pooled"] = adaptive_avg_pool(x, (3, 2))
    found["convolved"] = conv(x, jnp.ones((9, 9, c, 2)), padding=4)
    found["padded"] = pad_to_multiple(x, (4, 3))
    found["cropped"] = crop_to_size(found["padded"], (h, w))
    found["mask"] = window_mask((h, w), (2, 3), (1, 1))
    found["positions"] = sincos_positions(h, w, 6) + jnp.zeros((h, w, 6))
    found["fractions"] = sine_positions(h, w, 6) + jnp.zeros((h, w, 6))
    tokens = x.reshape(1, h * w, 2, c // 2)
    places = jnp.broadcast_to(centres([(h, w)])[None, :, None, None, None] + 0.1, (1, h * w, 2, 1, 3, 2))
    found["sampled"] = deformable_attention(tokens, places, jnp.full(places.shape[:-1], 0.1), ((h, w),))
    masks = jnp.moveaxis(x[..., :3], 3, 1)
    found["scores"] = resized_semantic_logits(x[:, 0, :3], masks, (2 * h, w + 5))
    found["attended"] = dot_product_attention(tokens, 2 * tokens, tokens)
    found["masked"] = dot_product_attention(tokens, tokens, tokens, mask=(tokens[..., :1, 0] > 0)[:, None, None, :, 0])
    return found


@pytest.mark.thorough
def test_maps_of_any_size():
    """Fewer positions than a chunk of attention has, and more."""
    scope = export.SymbolicScope(["h >= 4", "w >= 3"])
    h, w = export.symbolic_shape("h, w", scope=scope)
    with portable():
        program = export.export(jax.jit(outputs))(jax.ShapeDtypeStruct((1, h, w, 4), jnp.float32))
    for size in ((5, 7), (17, 19)):
        x = jnp.asarray(np.random.default_rng(0).standard_normal((1, *size, 4)), jnp.float32)
        found, known = jax.jit(program.call)(x), jax.jit(outputs)(x)
        for name in known:
            np.testing.assert_allclose(found[name], known[name], rtol=1e-5, atol=3e-6, err_msg=name)
