"""Names of published vision transformers."""

from attnseg_jax.weights.rename import Rules

# timm's VisionTransformer, and the .pth files of facebookresearch/dinov2 (with `layer_scale`): `ViT`.
TIMM_VIT: Rules = (
    (r"^head\..*", None),
    (r"^mask_token$", None),
    (r"\bcls_token$", "class_token"),
    (r"\breg_token$", "register_tokens"),
    (r"\bpos_embed$", "positions"),
    (r"\bpatch_embed\.proj\.", "patch_embed."),
    (r"\bblocks\.(\d+)\.", r"block\1."),
    (r"(\bblock\d+)\.attn\.qkv\.(weight|bias)$", tuple(rf"\1.attention.{x}.\2" for x in ("query", "key", "value"))),
    (r"(\bblock\d+)\.attn\.proj\.", r"\1.attention.out."),
    (r"(\bblock\d+)\.mlp\.fc1\.", r"\1.mlp_in."),
    (r"(\bblock\d+)\.mlp\.fc2\.", r"\1.mlp_out."),
    (r"(\bblock\d+)\.ls([12])\.gamma$", r"\1.layer_scale\2"),
)

_TRANSFORMERS: Rules = (
    (r"^(vit|dinov2|dinov2_with_registers)\.", ""),
    (r"^(classifier|pooler)\..*", None),
    (r"\bembeddings\.mask_token$", None),
    (r"\bembeddings\.cls_token$", "class_token"),
    (r"\bembeddings\.register_tokens$", "register_tokens"),
    (r"\bembeddings\.position_embeddings$", "positions"),
    (r"\bembeddings\.patch_embeddings\.projection\.", "patch_embed."),
    (r"\bencoder\.layer\.(\d+)\.", r"block\1."),
    (r"(\bblock\d+)\.attention\.attention\.", r"\1.attention."),
    (r"(\bblock\d+)\.attention\.output\.dense\.", r"\1.attention.out."),
    (r"^layernorm\.", "norm."),
)

# transformers' ViTModel and ViTForImageClassification: `ViT`.
TRANSFORMERS_VIT: Rules = (
    *_TRANSFORMERS,
    (r"(\bblock\d+)\.layernorm_before\.", r"\1.norm1."),
    (r"(\bblock\d+)\.layernorm_after\.", r"\1.norm2."),
    (r"(\bblock\d+)\.intermediate\.dense\.", r"\1.mlp_in."),
    (r"(\bblock\d+)\.output\.dense\.", r"\1.mlp_out."),
)

# transformers' Dinov2Model, Dinov2WithRegistersModel and those for classification: `DINOv2`.
TRANSFORMERS_DINOV2: Rules = (
    *_TRANSFORMERS,
    (r"(\bblock\d+)\.layer_scale([12])\.lambda1$", r"\1.layer_scale\2"),
    (r"(\bblock\d+)\.mlp\.fc1\.", r"\1.mlp_in."),
    (r"(\bblock\d+)\.mlp\.fc2\.", r"\1.mlp_out."),
)

_TOKENS: Rules = (
    (r"\bembeddings\.mask_token$", None),
    (r"\bembeddings\.cls_token$", "class_token"),
    (r"\bembeddings\.register_tokens$", "register_tokens"),
    (r"\bembeddings\.patch_embeddings\.(projection\.)?", "patch_embed."),
    (r"\blayers?\.(\d+)\.", r"block\1."),
    (r"(\bblock\d+)\.layer_scale([12])\.lambda1$", r"\1.layer_scale\2"),
    (r"(\bblock\d+)\.attention\.q_proj\.", r"\1.attention.query."),
    (r"(\bblock\d+)\.attention\.k_proj\.", r"\1.attention.key."),
    (r"(\bblock\d+)\.attention\.v_proj\.", r"\1.attention.value."),
    (r"(\bblock\d+)\.attention\.(o|out)_proj\.", r"\1.attention.out."),
    (r"(\bblock\d+)\.mlp\.gate_proj\.", r"\1.mlp_gate."),
    (r"(\bblock\d+)\.mlp\.(up_proj|fc1)\.", r"\1.mlp_in."),
    (r"(\bblock\d+)\.mlp\.(down_proj|fc2)\.", r"\1.mlp_out."),
)

# transformers' DINOv3ViTModel: `DINOv3ViT`.
TRANSFORMERS_DINOV3_VIT: Rules = _TOKENS

# The encoder within transformers' EomtForUniversalSegmentation and EomtDinov3ForUniversalSegmentation: `ViT` with
# `layer_scale` and `class_position=False`, or `DINOv3ViT` with `norm_epsilon=1e-6`.
TRANSFORMERS_EOMT: Rules = (
    *_TOKENS,
    (r"\bembeddings\.position_embeddings\.weight$", "positions"),
    (r"^layernorm\.", "norm."),
)

# All else there: the decoder `eomt`.
TRANSFORMERS_EOMT_HEAD: Rules = (
    (r"^criterion\..*", None),
    (r"^attn_mask_probs$", "decoder.mask_probability"),
    (r"^query\.weight$", "decoder.start.query_tokens"),
    (r"^class_predictor\.", "decoder.mask_module.classes."),
    *((rf"^mask_head\.fc{i + 1}\.", f"decoder.mask_module.mask{i}.") for i in range(3)),
    (r"^upscale_block\.block\.(\d+)\.conv1\.weight$", r"decoder.mask_module.up\1.transposed"),
    (r"^upscale_block\.block\.(\d+)\.conv1\.bias$", r"decoder.mask_module.up\1.bias"),
    (r"^upscale_block\.block\.(\d+)\.conv2\.", r"decoder.mask_module.up_conv\1."),
    (r"^upscale_block\.block\.(\d+)\.layernorm2d\.", r"decoder.mask_module.up_norm\1."),
)

# tue-mps/eomt's own files of EoMT with DINOv3, whose encoder has transformers' modules under other names; those that
# are published hold the encoder's differences from DINOv3.
TUE_DINOV3: Rules = (
    (r"^patch_embed\.(?=cls_token|register_tokens|mask_token|patch_embeddings)", "embeddings."),
    (r"^blocks\.", "layers."),
    (r"^norm\.", "layernorm."),
    *TRANSFORMERS_EOMT,
)
TUE_EOMT: Rules = (
    (r"^network\.encoder\.pixel_(mean|std)$", None),
    (r"^network\.q\.", "query."),
    (r"^network\.class_head\.", "class_predictor."),
    *((rf"^network\.mask_head\.{2 * i}\.", f"mask_head.fc{i + 1}.") for i in range(3)),
    (r"^network\.upscale\.(\d+)\.norm\.", r"upscale_block.block.\1.layernorm2d."),
    (r"^network\.upscale\.", "upscale_block.block."),
    (r"^network\.", ""),
    *TRANSFORMERS_EOMT_HEAD,
)
