"""Every public function takes and returns what its annotation says, checked by beartype."""

import inspect
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped

from attnseg_jax.ops import (
    attention,
    conv,
    dense,
    depthwise,
    gelu,
    losses,
    mask_classification,
    metrics,
    norm,
    pillow,
    plain,
    points,
    pointwise,
    pool,
    region_maps,
    resize,
    roi,
    rope,
    separable,
    transposed,
    varying,
)
from attnseg_jax.ops.attention import (
    axial,
    criss_cross,
    danet,
    deformable,
    interlaced,
    local,
    non_local,
    ocr,
    psa,
    window,
)
from attnseg_jax.ops.axis import Axis

MODULES = (
    attention,
    non_local,
    axial,
    danet,
    conv,
    dense,
    criss_cross,
    depthwise,
    gelu,
    interlaced,
    local,
    losses,
    mask_classification,
    metrics,
    norm,
    points,
    pointwise,
    psa,
    pillow,
    plain,
    pool,
    region_maps,
    ocr,
    resize,
    roi,
    rope,
    separable,
    transposed,
    varying,
    window,
)
IMAGE, TOKENS, CHANNELS = jnp.ones((2, 7, 5, 4)), jnp.ones((2, 6, 3, 4)), jnp.ones(4)
MAPS = jnp.ones((2, 7, 5, 3, 4))
LABELS = jnp.zeros((2, 7, 5), jnp.int32)
# Six queries of three classes, four segments, points of an image and of each segment.
QUERIES, SEGMENTS, MASKS = jnp.ones((2, 6, 4)), jnp.array([[0, 2, 1, -1], [2, -1, -1, -1]]), jnp.ones((2, 6, 7, 5))
SHARED, EACH, VALUES = jnp.ones((2, 1, 9, 2)), jnp.ones((2, 4, 9, 2)), jnp.ones((2, 4, 9))
AXES = Axis(3, 2, 1, (1, 0), 7), Axis(2, 1, 1, (0, 2), 5)
WEIGHTS = dict.fromkeys(("class_weight", "mask_weight", "dice_weight"), 2.0)
CALLS = {
    attention.dot_product_attention: (
        (TOKENS, TOKENS, TOKENS),
        {"bias": jnp.ones((1, 3, 6, 6)), "mask": jnp.ones((2, 1, 1, 6), bool)},
    ),
    attention.attention_weights: ((TOKENS, TOKENS), {"mask": jnp.ones((2, 1, 1, 6), bool)}),
    attention.check_impl: (
        ("chunked",),
        {"dtype": "float32", "widths": (64, 32), "tokens": (6, 5), "mask_shape": (2, 1, 1, 5)},
    ),
    axial.fit_offsets: ((jnp.ones((4, 5)), 7), {}),
    axial.offset_grid: ((jnp.ones((4, 13)),), {}),
    axial.axial_scores: ((MAPS, MAPS, jnp.ones((4, 7, 7)), jnp.ones((4, 7, 7))), {}),
    axial.axial_average: ((jnp.ones((2, 5, 3, 7, 7)), MAPS, jnp.ones((4, 7, 7))), {}),
    axial.axial_keys: (((7, 5),), {"width": True}),
    conv.conv: ((IMAGE, jnp.ones((3, 3, 2, 6))), {"groups": 2, "stride": (1, 2)}),
    conv.same_padding: ((7, 3, 2), {}),
    conv.conv_transpose: ((IMAGE, jnp.ones((3, 3, 2, 6))), {"groups": 2, "stride": 2}),
    dense.dense_conv: ((IMAGE, jnp.ones((3, 2, 4, 6))), {"stride": (2, 1), "padding": ((1, 0), (0, 2))}),
    plain.plain_conv: ((IMAGE, jnp.ones((3, 2, 2, 6)), AXES, 2), {}),
    plain.plain_input_gradient: ((jnp.ones((3, 2, 2, 6)), jnp.ones((2, 3, 6, 6)), AXES, 2), {}),
    plain.plain_kernel_gradient: ((IMAGE, jnp.ones((2, 3, 6, 6)), AXES, 2), {}),
    transposed.transposed_conv: ((IMAGE, jnp.ones((3, 2, 4, 6)), (2, 1), ((-1, 0), (0, 2))), {}),
    transposed.plain_transposed: ((IMAGE, jnp.ones((3, 2, 2, 6)), (2, 1), ((-1, 0), (0, 2)), 2), {}),
    pointwise.pointwise: ((IMAGE, jnp.ones((4, 6))), {}),
    pointwise.linear: ((jnp.ones((5, 4)), jnp.ones((4, 6))), {}),
    gelu.gelu: ((IMAGE,), {}),
    dense.worth_blocks: ((IMAGE, jnp.ones((3, 2, 4, 6)), (2, 1)), {}),
    depthwise.depthwise_conv: ((IMAGE, jnp.ones((3, 2, 4))), {"stride": (2, 1), "padding": ((1, 0), (0, 2))}),
    criss_cross.criss_cross_attention: ((IMAGE, IMAGE, jnp.ones((2, 7, 5, 6))), {"scale": 0.5}),
    criss_cross.criss_cross_weights: ((IMAGE, IMAGE), {}),
    criss_cross.criss_cross_keys: (((7, 5),), {}),
    local.local_weights: ((MAPS, MAPS), {"kernel": 3, "scale": 0.5}),
    local.local_average: ((jnp.ones((9, 2, 7, 5, 3)), MAPS), {"dilation": 2}),
    local.local_keys: (((7, 5), 3), {"dilation": 2}),
    non_local.dot_product_average: ((TOKENS, TOKENS, TOKENS), {}),
    danet.channel_attention: ((IMAGE, jnp.ones((2, 4, 4))), {}),
    danet.channel_weights: ((IMAGE,), {}),
    attention.em_attention: ((jnp.ones((2, 6, 4)), jnp.ones((1, 4, 3))), {"stages": 2}),
    attention.linear_attention: ((TOKENS, TOKENS, TOKENS), {"form": "elu"}),
    deformable.deformable_attention: (
        (TOKENS[..., :3, :], jnp.ones((2, 7, 3, 2, 5, 2)), jnp.ones((2, 7, 3, 2, 5)), ((1, 2), (4, 1))),
        {"rows": 3},
    ),
    deformable.point_shares: ((jnp.ones((2, 7, 3, 5, 2)), jnp.ones((2, 7, 3, 5)), (4, 6)), {}),
    interlaced.crop_to_size: ((IMAGE, (3, 4)), {}),
    interlaced.join: ((jnp.ones((14, 1, 5, 4)), (7, 5), (1, 5), "near"), {}),
    interlaced.member_positions: (((7, 5), 2, "far"), {}),
    interlaced.pad_to_multiple: ((IMAGE, (2, 3)), {}),
    interlaced.split: ((IMAGE, (7, 1), "far"), {}),
    losses.cross_entropy: ((IMAGE, LABELS), {"class_weights": CHANNELS}),
    losses.presence_cross_entropy: ((jnp.ones((2, 4)), LABELS), {"class_weights": CHANNELS}),
    losses.ohem: ((IMAGE, LABELS), {"class_weights": CHANNELS, "label_smoothing": 0.1, "min_kept": 0.5}),
    losses.focal: ((IMAGE, LABELS), {"class_weights": CHANNELS, "normalized": True}),
    losses.dice: ((IMAGE, LABELS), {"smooth": 1.0, "log": True}),
    losses.jaccard: ((IMAGE, LABELS), {"classes": (1, 3)}),
    losses.tversky: ((IMAGE, LABELS), {"alpha": 0.4, "gamma": 0.75}),
    losses.lovasz: ((IMAGE, LABELS), {}),
    losses.boundary: ((IMAGE, LABELS), {"tolerance": 1}),
    losses.class_edges: ((LABELS,), {"width": 1}),
    losses.edge_cross_entropy: ((IMAGE[..., 0], LABELS == 1, LABELS), {}),
    losses.labels_near_edges: ((LABELS, IMAGE[..., 0]), {"confidence": 0.5}),
    losses.pixel_count: ((LABELS,), {"class_weights": CHANNELS}),
    losses.image_count: ((LABELS,), {}),
    losses.mean: ((jnp.float32(1), jnp.float32(2)), {}),
    losses.median_frequency_weights: ((np.arange(4),), {}),
    losses.weights_of_presence: ((np.arange(4), 5 * np.arange(4)), {}),
    losses.segments: ((LABELS, 3), {"count": 2}),
    losses.segment_count: ((SEGMENTS,), {}),
    losses.matching_costs: (
        (QUERIES, jnp.ones((2, 6, 9)), SEGMENTS, VALUES, VALUES[:, :1]),
        {**WEIGHTS, "focal": True},
    ),
    losses.class_loss: (
        (QUERIES, SEGMENTS, SEGMENTS % 7),
        {"no_object": 0.1, "class_weights": CHANNELS[:3], "images": jnp.ones(2, bool)},
    ),
    losses.mask_losses: ((VALUES, VALUES, SEGMENTS >= 0, VALUES[:, :1]), {"focal": True}),
    losses.uncertain_points: ((SHARED, VALUES, 3, VALUES[:, :1]), {}),
    points.sample: ((MASKS[:, :4], EACH), {}),
    points.corners: ((jnp.ones((2, 9, 5, 2)), (4, 6)), {}),
    points.class_shares: ((LABELS, SEGMENTS, SHARED), {}),
    points.labelled_shares: ((LABELS, EACH), {}),
    mask_classification.semantic_logits: ((QUERIES, jnp.ones((2, 7, 5, 6))), {}),
    mask_classification.resized_semantic_logits: ((QUERIES, MASKS, (9, 4)), {"rows": 2}),
    metrics.confidence: ((jnp.ones((2, 7, 5, 4)),), {}),
    metrics.confidence_counts: ((jnp.ones((*LABELS.shape, 4)), LABELS), {"bins": 7}),
    metrics.confusion_matrix: ((LABELS, LABELS, 4), {}),
    metrics.as_pair: ((jnp.ones((2, 7, 5)),), {}),
    metrics.outcomes: ((np.ones((3, 2, 2), np.int64),), {}),
    metrics.scores: ((np.eye(4, dtype=np.int64),), {}),
    metrics.ratio: ((np.array([3, 0]), np.int64(4)), {}),
    metrics.mean_of_known: ((np.array([0.5, np.nan]),), {}),
    norm.batch_norm: ((IMAGE, *4 * [CHANNELS]), {}),
    norm.batch_norm_inference: ((IMAGE, *4 * [CHANNELS]), {}),
    psa.scores_of_positions: ((jnp.ones((2, 4, 3, 5, 9)),), {}),
    pillow.resize_picture: ((jnp.ones((2, 7, 5, 3), jnp.uint8), (4, 3)), {}),
    pool.pair: ((3,), {}),
    pool.max_pool: ((IMAGE, 2), {}),
    pool.max_pool_with_indices: ((IMAGE, 2), {}),
    pool.max_unpool: ((jnp.ones((2, 3, 2, 4)), jnp.zeros((2, 3, 2, 4), int), (7, 5), 2), {}),
    pool.adaptive_avg_pool: ((IMAGE, 3), {}),
    pool.centred_avg_pool: ((IMAGE, 3, 2), {}),
    region_maps.region_masks: ((jnp.zeros((2, 7, 5, 3), jnp.int32), 6), {}),
    region_maps.mask_boxes: ((jnp.ones((2, 7, 5, 6), bool),), {}),
    region_maps.paint: ((jnp.ones((2, 6, 4)), jnp.zeros((2, 7, 5, 3), jnp.int32)), {}),
    region_maps.level_maximum: ((jnp.ones((2, 7, 5, 3, 4)), jnp.zeros((2, 7, 5, 3), jnp.int32)), {}),
    ocr.region_means: ((IMAGE, jnp.ones((2, 3, 35))), {}),
    ocr.region_weights: ((IMAGE,), {}),
    resize.resize: ((IMAGE, (9, 3)), {"scale": (1.2, 0.7)}),
    resize.antialiased_matrix: ((5, 3, "bicubic"), {}),
    resize.interpolation_matrix: ((3, 4, "bicubic"), {}),
    roi.roi_align: ((IMAGE, jnp.ones((2, 6, 4)), 3), {"inside": jnp.ones((2, 6, 7, 5))}),
    roi.roi_max_pool: ((IMAGE, jnp.ones((2, 6, 4)), (3, 2)), {"inside": jnp.ones((2, 6, 7, 5), bool)}),
    rope.axial_angles: ((2, 3, 8), {}),
    rope.rotated: ((jnp.ones((2, 7, 3, 8)), jnp.ones((6, 8))), {"first": 1}),
    window.partition: ((IMAGE, (3, 2), 1), {}),
    window.merge: ((jnp.ones((2, 9, 6, 4)), (7, 5), (3, 2), (1, 0)), {}),
    window.usable_shift: (((7, 5), 3, 1), {}),
    window.window_mask: (((7, 5), (3, 2), (1, 0)), {}),
    window.relative_index: (((3, 2),), {}),
    window.window_keys: (((7, 5), 3, (1, 0)), {}),
    varying.varying_together: ((IMAGE, None, LABELS), {}),
    separable.exact_product: (("jw,bhwc->bhjc", jnp.ones((3, 5)), IMAGE), {}),
    separable.apply_separable: ((IMAGE, np.ones((3, 7), np.float32), None), {}),
}


def public_functions():
    for module in MODULES:
        for name, function in vars(module).items():
            if (
                inspect.isfunction(function)
                and function.__module__.startswith(module.__name__)
                and not name.startswith("_")
            ):
                yield function


@pytest.mark.parametrize("function", list(public_functions()), ids=lambda f: f.__name__)
def test_annotations(function):
    args, keywords = CALLS[function]
    checked = jaxtyped(typechecker=beartype)(function)
    checked(*args, **keywords)
    assert all(name in typing.get_type_hints(function) for name in [*inspect.signature(function).parameters, "return"])
    assert ">>>" in function.__doc__ or function is pool.pair


def test_the_checker_is_awake():
    with pytest.raises(TypeCheckError):
        jaxtyped(typechecker=beartype)(losses.cross_entropy)(IMAGE, LABELS[:, 1:])


@pytest.mark.parametrize("function", [attention.dot_product_attention, resize.resize, pool.max_pool, conv.conv])
def test_shapes_come_without_computing(function):
    args, keywords = CALLS[function]
    static = {name: value for name, value in keywords.items() if not hasattr(value, "shape")}
    arrays = {name: value for name, value in keywords.items() if hasattr(value, "shape")}
    count = sum(hasattr(arg, "shape") for arg in args)
    traced = jax.eval_shape(lambda *a, **k: function(*a, *args[count:], **static, **k), *args[:count], **arrays)
    assert traced.shape == function(*args, **keywords).shape
