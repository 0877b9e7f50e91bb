"""Names of published EfficientViTs."""

from attnseg_jax.weights.rename import Rules

# LiteMLA of timm's models/efficientvit_mit.py: `LiteMLA` of one scale, 5.
TIMM_LITE_MLA: Rules = (
    (r"\bqkv\.conv\.", "qkv."),
    (r"\baggreg\.0\.0\.", "around5."),
    (r"\baggreg\.0\.1\.", "mix5."),
    (r"\bproj\.conv\.", "out.conv."),
    (r"\bproj\.norm\.", "out.bn."),
)

# timm's efficientvit_b0 to efficientvit_b3: `EfficientViT`.
TIMM_EFFICIENTVIT: Rules = (
    (r"^head\..*", None),
    (r"^stem\.in_conv\.", "stem."),
    (r"^stem\.res(\d+)\.main\.", r"stem_\1."),
    *((rf"^stages\.{i}\.blocks\.0\.main\.", f"down{i + 1}.") for i in range(4)),
    # Behind the strided block, which is number 0 there.
    *((rf"^stages\.{i}\.blocks\.{j + 1}\.", f"stage{i + 1}_{j}.") for i in range(4) for j in range(9)),
    (r"\.context_module\.main\.", "_attention."),
    (r"^(stage\d_\d)\.(local_module\.)?main\.", r"\1."),
    *TIMM_LITE_MLA,
    (r"\binverted_conv\.", "expand."),
    (r"\bdepth_conv\.", "depthwise."),
    (r"\bpoint_conv\.", "project."),
    # There these two have biases and no norm.
    (r"^((?:down|stage)[34]\w*\.(?:expand|depthwise))\.conv\.", r"\1."),
    (r"^(.*)\.norm\.", r"\1.bn."),
)
