"""Names of SegNeXt's encoders and of the whole model in mmsegmentation."""

from attnseg_jax.weights.rename import Rules

# MSCAASpatialAttention of mmseg/models/backbones/mscan.py: `ConvAttention` of the published strips.
MMSEG_CONV_ATTENTION: Rules = (
    (r"\bproj_1\.", "in."),
    (r"\bproj_2\.", "out."),
    (r"\bspatial_gating_unit\.conv0\.", "square."),
    (r"\bspatial_gating_unit\.conv3\.", "mix."),
    *((rf"\bspatial_gating_unit\.conv{i}_1\.", f"row{n}.") for i, n in enumerate((7, 11, 21))),
    *((rf"\bspatial_gating_unit\.conv{i}_2\.", f"column{n}.") for i, n in enumerate((7, 11, 21))),
)

# mmseg/models/backbones/mscan.py, MSCAN: `MSCAN`. The files of its training for ImageNet have a classifier, `head`.
MMSEG_MSCAN: Rules = (
    (r"^head\..*", None),
    (r"^patch_embed1\.proj\.0\.", "stem1.conv."),
    (r"^patch_embed1\.proj\.1\.", "stem1.bn."),
    (r"^patch_embed1\.proj\.3\.", "stem2.conv."),
    (r"^patch_embed1\.proj\.4\.", "stem2.bn."),
    (r"^patch_embed([234])\.proj\.", r"down\1.conv."),
    (r"^patch_embed([234])\.norm\.", r"down\1.bn."),
    (r"^block(\d)\.(\d+)\.", r"block\1_\2."),
    (r"^(block\d_\d+)\.layer_scale_([12])$", r"\1.layer_scale\2"),
    (r"^(block\d_\d+)\.attn\.", r"\1.attention."),
    *MMSEG_CONV_ATTENTION,
    (r"\bmlp\.fc1\.weight$", "mlp_in.linear"),
    (r"\bmlp\.fc1\.", "mlp_in."),
    (r"\bmlp\.dwconv\.(dwconv\.)?", "mlp_conv."),
    (r"\bmlp\.fc2\.weight$", "mlp_out.linear"),
    (r"\bmlp\.fc2\.", "mlp_out."),
)

# mmseg/models/decode_heads/ham_head.py, LightHamHead: the decoder `ham`.
MMSEG_HAM: Rules = (
    (r"^decode_head\.conv_seg\.", "decoder.classifier."),
    (r"^decode_head\.(squeeze|align)\.", r"decoder.\1."),
    (r"^decode_head\.hamburger\.ham_in\.conv\.", "decoder.hamburger.in."),
    (r"^decode_head\.hamburger\.ham_out\.", "decoder.hamburger.out."),
    (r"^(decoder\..*)\.gn\.", r"\1.norm."),
)
