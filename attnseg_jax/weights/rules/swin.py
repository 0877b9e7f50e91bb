"""Names of published Swin Transformers."""

from attnseg_jax.weights.rename import Rules

# torchvision.models.swin_transformer.SwinTransformerBlock: `SwinBlock`.
SWIN: Rules = ((r"\brelative_position_bias_table$", "table"), (r"\bmlp\.0\.", "mlp_in."), (r"\bmlp\.3\.", "mlp_out."))

# torchvision.models.swin_t, swin_s and swin_b: `Swin`.
TORCHVISION_SWIN: Rules = (
    (r"^head\..*", None),
    (r"\brelative_position_index$", None),
    (r"\bfeatures\.0\.0\.", "patch_embed."),
    (r"\bfeatures\.0\.2\.", "patch_norm."),
    *((rf"\bfeatures\.{2 * i}\.", rf"merge{i}.") for i in (1, 2, 3)),
    *((rf"\bfeatures\.{2 * i - 1}\.(\d+)\.", rf"stage{i}_\1.") for i in (1, 2, 3, 4)),
    *SWIN,
)
