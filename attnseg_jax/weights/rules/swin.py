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

# transformers' SwinBackbone, which normalises every stage: `Swin` with `form="transformers"`, `stage_norms=True`. The
# last norm of the model around it is not used.
TRANSFORMERS_SWIN: Rules = (
    (r"\brelative_position_index$", None),
    (r"^(swin\.)?layernorm\..*", None),
    (r"^swin\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed."),
    (r"^embeddings\.norm\.", "patch_norm."),
    (r"^hidden_states_norms\.stage4\.", "norm."),
    *((rf"^hidden_states_norms\.stage{i}\.", f"map_norm{2 << i}.") for i in (1, 2, 3)),
    *((rf"^encoder\.layers\.{i}\.blocks\.(\d+)\.", rf"stage{i + 1}_\1.") for i in range(4)),
    *((rf"^encoder\.layers\.{i}\.downsample\.", f"merge{i + 1}.") for i in range(3)),
    (r"\blayernorm_before\.", "norm1."),
    (r"\blayernorm_after\.", "norm2."),
    *((rf"\battention\.self\.{name}\.", f"attn.qkv@{i}.") for i, name in enumerate(("query", "key", "value"))),
    (r"\battention\.self\.relative_position_bias_table$", "attn.table"),
    (r"\battention\.output\.dense\.", "attn.proj."),
    (r"\bintermediate\.dense\.", "mlp_in."),
    (r"\boutput\.dense\.", "mlp_out."),
)
