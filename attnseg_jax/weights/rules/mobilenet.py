"""Names of published MobileNets."""

from attnseg_jax.weights.rename import Rules

# torchvision.models.mobilenet_v3_large: `MobileNetV3Large`.
TORCHVISION_MOBILENET_V3: Rules = (
    (r"^classifier\.[03]\.(weight|bias)$", None),
    (r"^features\.", ""),
    (r"^0\.", "stem."),
    (r"^16\.", "last."),
    (r"^(\d+)\.block\.", r"block\1."),
    (r"\bblock1\.0\.", "block1.depthwise."),
    (r"\bblock1\.1\.", "block1.project."),
    (r"\b(block\d+)\.0\.", r"\1.expand."),
    (r"\b(block\d+)\.1\.", r"\1.depthwise."),
    (r"\b(block\d+)\.2\.fc1\.", r"\1.squeeze.reduce."),
    (r"\b(block\d+)\.2\.fc2\.", r"\1.squeeze.expand."),
    (r"\b(block\d+)\.[23]\.", r"\1.project."),
    (r"\b(stem|last|expand|depthwise|project)\.0\.", r"\1.conv."),
    (r"\b(stem|last|expand|depthwise|project)\.1\.", r"\1.bn."),
)
