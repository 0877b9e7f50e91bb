"""Names of published vision transformers."""

from attnseg_jax.weights.rename import Rules

# timm's VisionTransformer, and the .pth files of facebookresearch/dinov2 (with `layer_scale`): `ViT`.
TIMM_VIT: Rules = (
    (r"^head\..*", None),
    (r"^mask_token$", None),
    (r"\bcls_token$", "class_token"),
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
    (r"^(vit|dinov2)\.", ""),
    (r"^(classifier|pooler)\..*", None),
    (r"\bembeddings\.mask_token$", None),
    (r"\bembeddings\.cls_token$", "class_token"),
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

# transformers' Dinov2Model and Dinov2ForImageClassification: `ViT` with `layer_scale`, patches of 14 pixels and
# `position_antialias=False`.
TRANSFORMERS_DINOV2: Rules = (
    *_TRANSFORMERS,
    (r"(\bblock\d+)\.layer_scale([12])\.lambda1$", r"\1.layer_scale\2"),
    (r"(\bblock\d+)\.mlp\.fc1\.", r"\1.mlp_in."),
    (r"(\bblock\d+)\.mlp\.fc2\.", r"\1.mlp_out."),
)
