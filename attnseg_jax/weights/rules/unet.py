"""Names of LeeJunHyun's U-Nets."""

from attnseg_jax.weights.rename import Rules

# LeeJunHyun/Image_Segmentation, network.py, U_Net and AttU_Net: `UNetEncoder`.
LEEJUNHYUN_UNET: Rules = (
    (r"^Conv(\d)\.conv\.0\.", r"conv\1_1.conv."),
    (r"^Conv(\d)\.conv\.1\.", r"conv\1_1.bn."),
    (r"^Conv(\d)\.conv\.3\.", r"conv\1_2.conv."),
    (r"^Conv(\d)\.conv\.4\.", r"conv\1_2.bn."),
)

# LeeJunHyun/Image_Segmentation, network.py, Attention_block: `Gate.leejunhyun`.
LEEJUNHYUN: Rules = (
    (r"\bW_g\.0\.", "signal_conv."),
    (r"\bW_g\.1\.", "signal_bn."),
    (r"\bW_x\.0\.", "skip_conv."),
    (r"\bW_x\.1\.", "skip_bn."),
    (r"\bpsi\.0\.", "psi_conv."),
    (r"\bpsi\.1\.", "psi_bn."),
)

# LeeJunHyun/Image_Segmentation, network.py, AttU_Net: attention `gate`, `form="leejunhyun"`, and the decoder `unet`,
# `form="leejunhyun"`, `channels=(512, 256, 128, 64)`.
LEEJUNHYUN_ATTUNET: Rules = (
    *((rf"^(Up|Att|Up_conv){i + 2}\.", rf"\g<1>_{1 << i}.") for i in range(4)),
    (r"^Up_(\d)\.up\.1\.", r"decoder.block\1.up.conv."),
    (r"^Up_(\d)\.up\.2\.", r"decoder.block\1.up.bn."),
    (r"^Up_conv_(\d)\.conv\.0\.", r"decoder.block\1.conv1.conv."),
    (r"^Up_conv_(\d)\.conv\.1\.", r"decoder.block\1.conv1.bn."),
    (r"^Up_conv_(\d)\.conv\.3\.", r"decoder.block\1.conv2.conv."),
    (r"^Up_conv_(\d)\.conv\.4\.", r"decoder.block\1.conv2.bn."),
    (r"^Att_(\d)\.", r"attention.gate\1."),
    *LEEJUNHYUN,
    (r"^Conv_1x1\.", "decoder.classifier."),
)
