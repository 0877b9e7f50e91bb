"""Names of transformers' UPerNet, beside those of its encoders."""

from attnseg_jax.weights.rename import Rules

# transformers' UperNetForSemanticSegmentation: the decoder `uper` with `channels=512`, of maps of the strides 4, 8, 16
# and 32. Its auxiliary head, which only its training uses, is not read.
TRANSFORMERS_UPERNET: Rules = (
    (r"^auxiliary_head\..*", None),
    *((rf"^decode_head\.psp_modules\.{i}\.1\.", f"decoder.pool.bin{bins}.") for i, bins in enumerate((1, 2, 3, 6))),
    (r"^decode_head\.bottleneck\.", "decoder.lateral32."),
    *((rf"^decode_head\.lateral_convs\.{i}\.", f"decoder.lateral{4 << i}.") for i in range(3)),
    *((rf"^decode_head\.fpn_convs\.{i}\.", f"decoder.smooth{4 << i}.") for i in range(3)),
    (r"^decode_head\.fpn_bottleneck\.", "decoder.fuse."),
    (r"^decode_head\.classifier\.", "decoder.classifier."),
    (r"\.batch_norm\.", ".bn."),
)
