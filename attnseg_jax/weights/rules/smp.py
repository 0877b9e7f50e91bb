"""Names of segmentation_models_pytorch, beside those of the encoders."""

from attnseg_jax.weights.rename import Rules

# What all models of segmentation_models_pytorch have in common.
SMP: Rules = ((r"^segmentation_head\.0\.", "decoder.classifier."),)

# segmentation_models_pytorch, base/modules.py, SCSEModule: `SCSE`.
SMP_SCSE: Rules = ((r"\bcSE\.1\.", "down."), (r"\bcSE\.3\.", "up."), (r"\bsSE\.0\.", "spatial."))

# segmentation_models_pytorch.FPN: the decoder `fpn`.
SMP_FPN: Rules = (
    *SMP,
    (r"^decoder\.p5\.", "decoder.lateral32."),
    (r"^decoder\.p4\.skip_conv\.", "decoder.lateral16."),
    (r"^decoder\.p3\.skip_conv\.", "decoder.lateral8."),
    (r"^decoder\.p2\.skip_conv\.", "decoder.lateral4."),
    (r"^decoder\.seg_blocks\.0\.block\.", "decoder.block32_"),
    (r"^decoder\.seg_blocks\.1\.block\.", "decoder.block16_"),
    (r"^decoder\.seg_blocks\.2\.block\.", "decoder.block8_"),
    (r"^decoder\.seg_blocks\.3\.block\.", "decoder.block4_"),
    (r"(decoder\.block\d+_\d)\.block\.0\.", r"\1.conv."),
    (r"(decoder\.block\d+_\d)\.block\.1\.", r"\1.norm."),
)

# segmentation_models_pytorch.Unet of depth 5, with scSE or without: the decoder `unet`.
SMP_UNET: Rules = (
    *SMP,
    (r"^decoder\.blocks\.4\.attention1\..*", None),  # it belongs to a skip, and the last block has none
    (r"^decoder\.blocks\.0\.", "decoder.block16."),
    (r"^decoder\.blocks\.1\.", "decoder.block8."),
    (r"^decoder\.blocks\.2\.", "decoder.block4."),
    (r"^decoder\.blocks\.3\.", "decoder.block2."),
    (r"^decoder\.blocks\.4\.", "decoder.block1."),
    (r"^(decoder\.block\d+\.conv\d)\.0\.", r"\1.conv."),
    (r"^(decoder\.block\d+\.conv\d)\.1\.", r"\1.bn."),
    (r"^(decoder\.block\d+)\.attention(\d)\.attention\.", r"\1.scse\2."),
    *SMP_SCSE,
)

# segmentation_models_pytorch.UPerNet: the decoder `uper`, `norm_maps=True`.
SMP_UPERNET: Rules = (
    *SMP,
    (r"^decoder\.feature_norms\.0\.", "decoder.norm4."),
    (r"^decoder\.feature_norms\.1\.", "decoder.norm8."),
    (r"^decoder\.feature_norms\.2\.", "decoder.norm16."),
    (r"^decoder\.feature_norms\.3\.", "decoder.norm32."),
    (r"^decoder\.psp\.blocks\.0\.1\.", "decoder.pool.bin1."),
    (r"^decoder\.psp\.blocks\.1\.1\.", "decoder.pool.bin2."),
    (r"^decoder\.psp\.blocks\.2\.1\.", "decoder.pool.bin3."),
    (r"^decoder\.psp\.blocks\.3\.1\.", "decoder.pool.bin6."),
    (r"^decoder\.psp\.out_conv\.", "decoder.lateral32."),
    (r"^decoder\.fpn_lateral_blocks\.0\.conv_norm_relu\.", "decoder.lateral16."),
    (r"^decoder\.fpn_lateral_blocks\.1\.conv_norm_relu\.", "decoder.lateral8."),
    (r"^decoder\.fpn_lateral_blocks\.2\.conv_norm_relu\.", "decoder.lateral4."),
    (r"^decoder\.fpn_conv_blocks\.0\.", "decoder.smooth16."),
    (r"^decoder\.fpn_conv_blocks\.1\.", "decoder.smooth8."),
    (r"^decoder\.fpn_conv_blocks\.2\.", "decoder.smooth4."),
    (r"^decoder\.fusion_block\.", "decoder.fuse."),
    (r"^(decoder\.(?:pool\.bin\d|lateral\d+|smooth\d+|fuse))\.0\.", r"\1.conv."),
    (r"^(decoder\.(?:pool\.bin\d|lateral\d+|smooth\d+|fuse))\.1\.", r"\1.bn."),
)

# segmentation_models_pytorch.DeepLabV3Plus: the decoder `deeplabv3plus`, `rates=(12, 24, 36)`.
SMP_DEEPLABV3PLUS: Rules = (
    *SMP,
    (r"^decoder\.aspp\.0\.convs\.4\.1\.", "decoder.aspp.pool.conv."),
    (r"^decoder\.aspp\.0\.convs\.4\.2\.", "decoder.aspp.pool.bn."),
    (r"^decoder\.aspp\.0\.convs\.0\.0\.", "decoder.aspp.branch0.conv."),
    (r"^decoder\.aspp\.0\.convs\.(\d)\.1\.", r"decoder.aspp.branch\1.bn."),
    (r"^decoder\.aspp\.0\.convs\.(\d)\.0\.0\.", r"decoder.aspp.branch\1.depthwise."),
    (r"^decoder\.aspp\.0\.convs\.(\d)\.0\.1\.", r"decoder.aspp.branch\1.pointwise."),
    (r"^decoder\.aspp\.0\.project\.0\.", "decoder.aspp.project.conv."),
    (r"^decoder\.aspp\.0\.project\.1\.", "decoder.aspp.project.bn."),
    (r"^decoder\.aspp\.1\.0\.", "decoder.smooth.depthwise."),
    (r"^decoder\.aspp\.1\.1\.", "decoder.smooth.pointwise."),
    (r"^decoder\.aspp\.2\.", "decoder.smooth.bn."),
    (r"^decoder\.block1\.0\.", "decoder.low.conv."),
    (r"^decoder\.block1\.1\.", "decoder.low.bn."),
    (r"^decoder\.block2\.0\.0\.", "decoder.fuse.depthwise."),
    (r"^decoder\.block2\.0\.1\.", "decoder.fuse.pointwise."),
    (r"^decoder\.block2\.1\.", "decoder.fuse.bn."),
)
