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
    *((rf"^decoder\.p{i}\.skip_conv\.", f"decoder.lateral{1 << i}.") for i in (4, 3, 2)),
    *((rf"^decoder\.seg_blocks\.{i}\.block\.", f"decoder.block{32 >> i}_") for i in range(4)),
    (r"(decoder\.block\d+_\d)\.block\.0\.", r"\1.conv."),
    (r"(decoder\.block\d+_\d)\.block\.1\.", r"\1.norm."),
)

# segmentation_models_pytorch.Unet of depth 5, with scSE or without: the decoder `unet`.
SMP_UNET: Rules = (
    *SMP,
    (r"^decoder\.blocks\.4\.attention1\..*", None),  # it belongs to a skip, and the last block has none
    *((rf"^decoder\.blocks\.{i}\.", f"decoder.block{16 >> i}.") for i in range(5)),
    (r"^(decoder\.block\d+\.conv\d)\.0\.", r"\1.conv."),
    (r"^(decoder\.block\d+\.conv\d)\.1\.", r"\1.bn."),
    (r"^(decoder\.block\d+)\.attention(\d)\.attention\.", r"\1.scse\2."),
    *SMP_SCSE,
)

# segmentation_models_pytorch.UPerNet: the decoder `uper`, `norm_maps=True`.
SMP_UPERNET: Rules = (
    *SMP,
    *((rf"^decoder\.feature_norms\.{i}\.", f"decoder.norm{4 << i}.") for i in range(4)),
    *((rf"^decoder\.psp\.blocks\.{i}\.1\.", f"decoder.pool.bin{bins}.") for i, bins in enumerate((1, 2, 3, 6))),
    (r"^decoder\.psp\.out_conv\.", "decoder.lateral32."),
    *((rf"^decoder\.fpn_lateral_blocks\.{i}\.conv_norm_relu\.", f"decoder.lateral{16 >> i}.") for i in range(3)),
    *((rf"^decoder\.fpn_conv_blocks\.{i}\.", f"decoder.smooth{16 >> i}.") for i in range(3)),
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

# segmentation_models_pytorch.UnetPlusPlus of depth 5, with scSE or without: the decoder `unetplusplus`.
SMP_UNETPLUSPLUS: Rules = (
    *SMP,
    (r"^decoder\.blocks\.x_0_4\.attention1\..*", None),  # it belongs to a skip, and the last block has none
    *((rf"^decoder\.blocks\.x_(\d)_{i}\.", rf"decoder.node\1_{16 >> i}.") for i in range(5)),
    (r"^(decoder\.node\d_\d+\.conv\d)\.0\.", r"\1.conv."),
    (r"^(decoder\.node\d_\d+\.conv\d)\.1\.", r"\1.bn."),
    (r"^(decoder\.node\d_\d+)\.attention(\d)\.attention\.", r"\1.scse\2."),
    *SMP_SCSE,
)

# segmentation_models_pytorch.MAnet of depth 5: the decoder `manet`.
SMP_MANET: Rules = (
    *SMP,
    (r"^decoder\.center\.center_conv\.", "decoder.attention.query."),
    (r"^decoder\.center\.top_conv\.", "decoder.attention.key."),
    (r"^decoder\.center\.bottom_conv\.", "decoder.attention.value."),
    (r"^decoder\.center\.out_conv\.", "decoder.attention.out."),
    *((rf"^decoder\.blocks\.{i}\.", f"decoder.block{16 >> i}.") for i in range(5)),
    (r"\.hl_conv\.0\.", ".widen."),
    (r"\.hl_conv\.1\.", ".narrow."),
    (r"\.SE_ll\.", ".gate_skip."),
    (r"\.SE_hl\.", ".gate_map."),
    (r"(\.gate_\w+)\.1\.weight$", r"\1.down.linear"),
    (r"(\.gate_\w+)\.3\.weight$", r"\1.up.linear"),
    (r"(\.gate_\w+)\.1\.", r"\1.down."),
    (r"(\.gate_\w+)\.3\.", r"\1.up."),
    (r"\.(conv\d|widen|narrow)\.0\.", r".\1.conv."),
    (r"\.(conv\d|widen|narrow)\.1\.", r".\1.bn."),
)

# segmentation_models_pytorch.Linknet of depth 5: the decoder `linknet`.
SMP_LINKNET: Rules = (
    *SMP,
    *((rf"^decoder\.blocks\.{i}\.block\.", f"decoder.block{16 >> i}.") for i in range(5)),
    (r"^(decoder\.block\d+)\.1\.0\.weight$", r"\1.up.transposed"),
    (r"^(decoder\.block\d+)\.1\.0\.", r"\1.up."),
    (r"^(decoder\.block\d+)\.1\.1\.", r"\1.up_bn."),
    (r"^(decoder\.block\d+)\.0\.", r"\1.narrow."),
    (r"^(decoder\.block\d+)\.2\.", r"\1.widen."),
    (r"\.(narrow|widen)\.0\.", r".\1.conv."),
    (r"\.(narrow|widen)\.1\.", r".\1.bn."),
)

# segmentation_models_pytorch.PAN: the decoder `pan`.
SMP_PAN: Rules = (
    *SMP,
    (r"^decoder\.fpa\.branch1\.1\.", "decoder.attention.mean."),
    (r"^decoder\.fpa\.mid\.0\.", "decoder.attention.middle."),
    (r"^decoder\.fpa\.down1\.1\.", "decoder.attention.down2."),
    (r"^decoder\.fpa\.down2\.1\.", "decoder.attention.down4."),
    (r"^decoder\.fpa\.down3\.1\.", "decoder.attention.down8a."),
    (r"^decoder\.fpa\.down3\.2\.", "decoder.attention.down8b."),
    (r"^decoder\.fpa\.conv2\.", "decoder.attention.lateral4."),
    (r"^decoder\.fpa\.conv1\.", "decoder.attention.lateral2."),
    *((rf"^decoder\.gau{i}\.conv1\.1\.", f"decoder.gate{2 << i}.") for i in (1, 2, 3)),
    *((rf"^decoder\.gau{i}\.conv2\.", f"decoder.low{2 << i}.") for i in (1, 2, 3)),
)
