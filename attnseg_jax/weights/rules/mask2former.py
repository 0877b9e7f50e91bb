"""Names of Mask2Former, as transformers and its authors have them."""

from attnseg_jax.weights.rename import Part, Rules

# torch.nn.MultiheadAttention: `MultiHeadAttention`.
MULTI_HEAD_ATTENTION: Rules = (
    (r"\bin_proj_(weight|bias)$", (r"query.\1", r"key.\1", r"value.\1")),
    (r"\bq_proj_weight$", "query.weight"),
    (r"\bk_proj_weight$", "key.weight"),
    (r"\bv_proj_weight$", "value.weight"),
    (r"\bout_proj\.", "out."),
)

# transformers, Mask2FormerMaskedAttentionDecoderLayer: `MaskedAttentionLayer`.
MASK2FORMER_LAYER: Rules = (
    *MULTI_HEAD_ATTENTION,
    (r"\bq_proj\.", "query."),
    (r"\bk_proj\.", "key."),
    (r"\bv_proj\.", "value."),
    (r"\b(self|cross)_attn_layer_norm\.", r"\1_norm."),
    (r"\b(self|cross)_attn\.", r"\1_attention."),
    (r"\bfc([12])\.", r"mlp\1."),
    (r"\bfinal_layer_norm\.", "mlp_norm."),
)

_PIXELS = r"^model\.pixel_level_module\.decoder\."
_QUERIES = r"^model\.transformer_module\."

# transformers, Mask2FormerPixelDecoder: `PixelDecoder` of maps of the strides 4, 8, 16 and 32.
MASK2FORMER_PIXEL_DECODER: Rules = (
    (r"\blevel_embed$", "level_tokens"),
    *((rf"\binput_projections\.{i}\.", f"input{32 >> i}.") for i in range(3)),
    (r"\badapter_1\.", "lateral."),
    (r"\blayer_1\.", "smooth."),
    (r"\bmask_projection\.", "pixels."),
    (r"\b(input\d+|lateral|smooth)\.0\.", r"\1.conv."),
    (r"\b(input\d+|lateral|smooth)\.1\.", r"\1.norm."),
    (r"\bencoder\.layers\.(\d+)\.", r"layer\1."),
    (r"\bself_attn\.sampling_offsets\.", "attention.offsets."),
    (r"\bself_attn\.attention_weights\.", "attention.weights."),
    (r"\bself_attn\.(value|output)_proj\.", r"attention.\1."),
    (r"\battention\.output\.", "attention.out."),
    (r"\bself_attn_layer_norm\.", "attention_norm."),
    (r"\bfc([12])\.", r"mlp\1."),
    (r"\bfinal_layer_norm\.", "mlp_norm."),
)

# github.com/facebookresearch/Mask2Former: the names within its pixel decoder that differ from those.
_AUTHORS_PIXEL_DECODER: Rules = (
    (r"^transformer\.", ""),
    (r"^input_proj\.", "input_projections."),
    (r"^mask_features\.", "mask_projection."),
    (r"\bnorm1\.", "self_attn_layer_norm."),
    (r"\bnorm2\.", "final_layer_norm."),
    (r"\blinear([12])\.", r"fc\1."),
    (r"^(adapter|layer)_1\.norm\.", r"\1_1.1."),
    (r"^(adapter|layer)_1\.weight$", r"\1_1.0.weight"),
    *MASK2FORMER_PIXEL_DECODER,
)

_LAYERS = r"^decoder\.transformer_"

# The rest of the authors' model, with any backbone of detectron2: the decoder `mask2former`.
AUTHORS_MASK2FORMER: Rules = (
    (r"^criterion\..*", None),
    Part(r"^sem_seg_head\.pixel_decoder\.", _AUTHORS_PIXEL_DECODER, "decoder.pixel_decoder."),
    (r"^sem_seg_head\.predictor\.", "decoder."),
    # As it was called at first.
    (r"^decoder\.static_query\.", "decoder.query_feat."),
    (r"^decoder\.query_feat\.weight$", "decoder.query_tokens"),
    (r"^decoder\.query_embed\.weight$", "decoder.query_positions"),
    (r"^decoder\.level_embed\.weight$", "decoder.level_tokens"),
    (r"^decoder\.input_proj\.(\d)\.", r"decoder.memory\1."),
    (r"^decoder\.class_embed\.", "decoder.classes."),
    (r"^decoder\.decoder_norm\.", "decoder.norm."),
    (r"^decoder\.mask_embed\.layers\.(\d)\.", r"decoder.mask\1."),
    (_LAYERS + r"ffn_layers\.(\d+)\.norm\.", r"decoder.layer\1.mlp_norm."),
    (_LAYERS + r"ffn_layers\.(\d+)\.linear([12])\.", r"decoder.layer\1.mlp\2."),
    (_LAYERS + r"(self|cross)_attention_layers\.(\d+)\.norm\.", r"decoder.layer\2.\1_norm."),
    (_LAYERS + r"(self|cross)_attention_layers\.(\d+)\.(self|multihead)_attn\.", r"decoder.layer\2.\1_attention."),
    *MULTI_HEAD_ATTENTION,
)

# The rest of transformers' Mask2FormerForUniversalSegmentation: the decoder `mask2former`, with `queries` and `layers`
# of its config.
MASK2FORMER: Rules = (
    (r"^criterion\..*", None),
    Part(_PIXELS, MASK2FORMER_PIXEL_DECODER, "decoder.pixel_decoder."),
    (r"^class_predictor\.", "decoder.classes."),
    (_QUERIES, "decoder."),
    (r"^decoder\.queries_features\.weight$", "decoder.query_tokens"),
    (r"^decoder\.queries_embedder\.weight$", "decoder.query_positions"),
    (r"^decoder\.level_embed\.weight$", "decoder.level_tokens"),
    (r"^decoder\.input_projections\.(\d)\.", r"decoder.memory\1."),
    (r"^decoder\.decoder\.layernorm\.", "decoder.norm."),
    (r"^decoder\.decoder\.mask_predictor\.mask_embedder\.(\d)\.0\.", r"decoder.mask\1."),
    (r"^decoder\.decoder\.layers\.(\d+)\.", r"decoder.layer\1."),
    *MASK2FORMER_LAYER,
)
