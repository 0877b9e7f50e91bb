"""Names of published ConvNeXts."""

from attnseg_jax.weights.rename import Rules

# torchvision.models.convnext_tiny, convnext_small and convnext_base: `ConvNeXt`.
TORCHVISION_CONVNEXT: Rules = (
    (r"^classifier\..*", None),
    (r"\bfeatures\.0\.0\.", "down1_conv."),
    (r"\bfeatures\.0\.1\.", "down1_norm."),
    *((rf"\bfeatures\.{2 * i - 2}\.0\.", rf"down{i}_norm.") for i in (2, 3, 4)),
    *((rf"\bfeatures\.{2 * i - 2}\.1\.", rf"down{i}_conv.") for i in (2, 3, 4)),
    *((rf"\bfeatures\.{2 * i - 1}\.(\d+)\.", rf"stage{i}_\1.") for i in (1, 2, 3, 4)),
    (r"\bblock\.0\.", "conv."),
    (r"\bblock\.2\.", "norm."),
    (r"\bblock\.3\.", "mlp_in."),
    (r"\bblock\.5\.", "mlp_out."),
)

# timm's convnextv2_*: `ConvNeXtV2`. The smaller ones write the layers of the MLP as 1x1 convolutions.
TIMM_CONVNEXT: Rules = (
    (r"^(head|norm_pre)\..*", None),
    (r"^stem\.0\.", "down1_conv."),
    (r"^stem\.1\.", "down1_norm."),
    *((rf"^stages\.{i - 1}\.downsample\.0\.", f"down{i}_norm.") for i in (2, 3, 4)),
    *((rf"^stages\.{i - 1}\.downsample\.1\.", f"down{i}_conv.") for i in (2, 3, 4)),
    *((rf"^stages\.{i - 1}\.blocks\.(\d+)\.", rf"stage{i}_\1.") for i in (1, 2, 3, 4)),
    (r"\bconv_dw\.", "conv."),
    (r"\bmlp\.grn\.", "grn."),
    (r"\bmlp\.fc1\.weight$", "mlp_in.linear"),
    (r"\bmlp\.fc2\.weight$", "mlp_out.linear"),
    (r"\bmlp\.fc1\.", "mlp_in."),
    (r"\bmlp\.fc2\.", "mlp_out."),
)

# transformers' DINOv3ConvNextModel: `DINOv3ConvNeXt`.
TRANSFORMERS_DINOV3_CONVNEXT: Rules = (
    (r"^layer_norm\.", "norm."),
    *((rf"^stages\.{i}\.downsample_layers\.{int(i > 0)}\.", f"down{i + 1}_conv.") for i in range(4)),
    *((rf"^stages\.{i}\.downsample_layers\.{int(i == 0)}\.", f"down{i + 1}_norm.") for i in range(4)),
    *((rf"^stages\.{i}\.layers\.(\d+)\.", rf"stage{i + 1}_\1.") for i in range(4)),
    (r"\.depthwise_conv\.", ".conv."),
    (r"\.layer_norm\.", ".norm."),
    (r"\.pointwise_conv1\.", ".mlp_in."),
    (r"\.pointwise_conv2\.", ".mlp_out."),
    (r"\.gamma$", ".layer_scale"),
)

# transformers' ConvNextBackbone, which normalises every stage: `ConvNeXt` with `stage_norms=True`.
TRANSFORMERS_CONVNEXT: Rules = (
    (r"^(classifier|layernorm)\..*", None),
    (r"^convnext\.", ""),
    (r"^embeddings\.patch_embeddings\.", "down1_conv."),
    (r"^embeddings\.layernorm\.", "down1_norm."),
    *((rf"^hidden_states_norms\.stage{i}\.", f"map_norm{2 << i}.") for i in (1, 2, 3, 4)),
    *((rf"^encoder\.stages\.{i - 1}\.downsampling_layer\.0\.", f"down{i}_norm.") for i in (2, 3, 4)),
    *((rf"^encoder\.stages\.{i - 1}\.downsampling_layer\.1\.", f"down{i}_conv.") for i in (2, 3, 4)),
    *((rf"^encoder\.stages\.{i - 1}\.layers\.(\d+)\.", rf"stage{i}_\1.") for i in (1, 2, 3, 4)),
    (r"\.dwconv\.", ".conv."),
    (r"\.layernorm\.", ".norm."),
    (r"\.pwconv1\.", ".mlp_in."),
    (r"\.pwconv2\.", ".mlp_out."),
    (r"\.layer_scale_parameter$", ".layer_scale"),
)
