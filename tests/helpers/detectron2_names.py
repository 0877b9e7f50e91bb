"""The names in detectron2's files of Mask2Former, from transformers'."""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

# As modules are called in github.com/facebookresearch/Mask2Former and in detectron2.
NAMES = (
    (r"^model\.pixel_level_module\.encoder\.embedder\.embedder\.convolution\.", "backbone.stem.conv1."),
    (r"^model\.pixel_level_module\.encoder\.embedder\.embedder\.normalization\.", "backbone.stem.conv1.norm."),
    *(
        (rf"^model\.pixel_level_module\.encoder\.encoder\.stages\.{i}\.layers\.(\d+)\.", rf"backbone.res{i + 2}.\1.")
        for i in range(4)
    ),
    *((rf"\blayer\.{i}\.convolution\.", f"conv{i + 1}.") for i in range(3)),
    *((rf"\blayer\.{i}\.normalization\.", f"conv{i + 1}.norm.") for i in range(3)),
    (r"\bshortcut\.convolution\.", "shortcut."),
    (r"\bshortcut\.normalization\.", "shortcut.norm."),
    (r"^model\.pixel_level_module\.decoder\.", "sem_seg_head.pixel_decoder."),
    (r"\bpixel_decoder\.(adapter|layer)_1\.0\.", r"pixel_decoder.\1_1."),
    (r"\bpixel_decoder\.(adapter|layer)_1\.1\.", r"pixel_decoder.\1_1.norm."),
    (r"\binput_projections\.", "input_proj."),
    (r"\bpixel_decoder\.level_embed$", "pixel_decoder.transformer.level_embed"),
    (r"\bmask_projection\.", "mask_features."),
    (r"\bencoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"transformer.encoder.layers.\1.norm1."),
    (r"\bencoder\.layers\.(\d+)\.final_layer_norm\.", r"transformer.encoder.layers.\1.norm2."),
    (r"\bencoder\.layers\.(\d+)\.fc(\d)\.", r"transformer.encoder.layers.\1.linear\2."),
    (r"\bpixel_decoder\.encoder\.layers\.", "pixel_decoder.transformer.encoder.layers."),
    (r"^model\.transformer_module\.(decoder\.)?", "sem_seg_head.predictor."),
    (r"\bqueries_embedder\.", "query_embed."),
    (r"\bqueries_features\.", "query_feat."),
    (r"\bpredictor\.layernorm\.", "predictor.decoder_norm."),
    (r"\bmask_predictor\.mask_embedder\.(\d)\.0\.", r"mask_embed.layers.\1."),
    (r"\bpredictor\.layers\.(\d+)\.fc(\d)\.", r"predictor.transformer_ffn_layers.\1.linear\2."),
    (r"\bpredictor\.layers\.(\d+)\.final_layer_norm\.", r"predictor.transformer_ffn_layers.\1.norm."),
    (r"\bpredictor\.layers\.(\d+)\.(\w+)_attn_layer_norm\.", r"predictor.transformer_\2_attention_layers.\1.norm."),
    (r"\bpredictor\.layers\.(\d+)\.self_attn\.", r"predictor.transformer_self_attention_layers.\1.self_attn."),
    (r"\bpredictor\.layers\.(\d+)\.cross_attn\.", r"predictor.transformer_cross_attention_layers.\1.multihead_attn."),
    (r"^class_predictor\.", "sem_seg_head.predictor.class_embed."),
    (r"^criterion\.empty_weight", "criterion.empty_weight"),
)


def as_authors(state: Mapping[str, Any], concatenate: Callable) -> dict[str, Any]:
    """A state dict of transformers' Mask2Former with a ResNet under the names of its authors.

    Query, key and value of a self-attention are one array there, which `concatenate` makes of a list; batch
    normalisation counts no batches.
    """
    state = {name: x for name, x in state.items() if not name.endswith("num_batches_tracked")}
    found = {functools.reduce(lambda n, rule: re.sub(*rule, n), NAMES, name): x for name, x in state.items()}
    for name in [n for n in found if "q_proj" in n]:
        parts = [found.pop(name.replace("q_proj", f"{letter}_proj")) for letter in "qkv"]
        found[name.replace("q_proj.", "in_proj_")] = concatenate(parts)
    return found
