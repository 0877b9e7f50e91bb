"""Names of SegFormer's encoders and of the whole model."""

from attnseg_jax.weights.rename import Rules

# SegformerAttention: `reduced_multi_head`.
SEGFORMER_ATTENTION: Rules = (
    (r"\bself\.sr\.", "reduce."),
    (r"\bself\.layer_norm\.", "norm."),
    (r"\bself\.(query|key|value)\.", r"\1."),
    (r"\boutput\.dense\.", "out."),
)

# transformers' SegformerModel, and the encoder of its SegformerForImageClassification: `MiT`.
TRANSFORMERS_SEGFORMER: Rules = (
    (r"^classifier\..*", None),
    (r"^segformer\.", ""),
    (r"\bencoder\.patch_embeddings\.(\d)\.proj\.", r"patch_embed\1."),
    (r"\bencoder\.patch_embeddings\.(\d)\.layer_norm\.", r"patch_norm\1."),
    (r"\bencoder\.layer_norm\.(\d)\.", r"norm\1."),
    (r"\bencoder\.block\.(\d)\.(\d+)\.", r"block\1_\2."),
    (r"(\bblock\d_\d+)\.layer_norm_([12])\.", r"\1.norm\2."),
    (r"(\bblock\d_\d+)\.mlp\.dense1\.", r"\1.mlp_in."),
    (r"(\bblock\d_\d+)\.mlp\.dwconv\.dwconv\.", r"\1.mlp_conv."),
    (r"(\bblock\d_\d+)\.mlp\.dense2\.", r"\1.mlp_out."),
    (r"(\bblock\d_\d+)\.attention\.", r"\1."),
    *SEGFORMER_ATTENTION,
)

# NVlabs/SegFormer, also as an encoder of segmentation_models_pytorch: `MiT`.
NVLABS_SEGFORMER: Rules = (
    (r"^head\..*", None),
    *((rf"^patch_embed{i + 1}\.proj\.", f"patch_embed{i}.") for i in range(4)),
    *((rf"^patch_embed{i + 1}\.norm\.", f"patch_norm{i}.") for i in range(4)),
    *((rf"^norm{i + 1}\.", f"norm{i}.") for i in range(4)),
    *((rf"^block{i + 1}\.(\d+)\.", rf"block{i}_\1.") for i in range(4)),
    (r"\.attn\.sr\.", ".reduce."),
    (r"\.attn\.norm\.", ".norm."),
    (r"\.attn\.q\.", ".query."),
    (r"\.attn\.kv\.(weight|bias)$", (r".key.\1", r".value.\1")),
    (r"\.attn\.proj\.", ".out."),
    (r"\.mlp\.fc1\.", ".mlp_in."),
    (r"\.mlp\.dwconv\.dwconv\.", ".mlp_conv."),
    (r"\.mlp\.fc2\.", ".mlp_out."),
)

# The head of transformers' SegformerForSemanticSegmentation: the decoder `segformer` (`channels=768` from B2 on).
TRANSFORMERS_SEGFORMER_HEAD: Rules = (
    *((rf"^decode_head\.linear_c\.{i}\.proj\.", f"decoder.linear{4 << i}.") for i in range(4)),
    (r"^decode_head\.linear_fuse\.", "decoder.fuse.conv."),
    (r"^decode_head\.batch_norm\.", "decoder.fuse.bn."),
    (r"^decode_head\.classifier\.", "decoder.classifier."),
)
