"""Names of torchvision's segmentation models, beside those of their encoders."""

from attnseg_jax.weights.rename import Rules

# The auxiliary head of torchvision.models.segmentation's models: `config.model.decoder.aux=True`.
TORCHVISION_AUX: Rules = (
    (r"^aux_classifier\.0\.", "aux_head.conv.conv."),
    (r"^aux_classifier\.1\.", "aux_head.conv.bn."),
    (r"^aux_classifier\.4\.", "aux_head.classifier."),
)

# torchvision.models.segmentation.fcn_*: the decoder `fcn`.
TORCHVISION_FCN: Rules = (
    *TORCHVISION_AUX,
    (r"^classifier\.0\.", "decoder.head.conv.conv."),
    (r"^classifier\.1\.", "decoder.head.conv.bn."),
    (r"^classifier\.4\.", "decoder.head.classifier."),
)

# torchvision.models.segmentation.deeplabv3_*: the decoder `deeplabv3`.
TORCHVISION_DEEPLABV3: Rules = (
    *TORCHVISION_AUX,
    (r"^classifier\.0\.convs\.4\.1\.", "decoder.aspp.pool.conv."),
    (r"^classifier\.0\.convs\.4\.2\.", "decoder.aspp.pool.bn."),
    (r"^classifier\.0\.convs\.(\d)\.0\.", r"decoder.aspp.branch\1.conv."),
    (r"^classifier\.0\.convs\.(\d)\.1\.", r"decoder.aspp.branch\1.bn."),
    (r"^classifier\.0\.project\.0\.", "decoder.aspp.project.conv."),
    (r"^classifier\.0\.project\.1\.", "decoder.aspp.project.bn."),
    (r"^classifier\.1\.", "decoder.conv.conv."),
    (r"^classifier\.2\.", "decoder.conv.bn."),
    (r"^classifier\.4\.", "decoder.classifier."),
)

# torchvision.models.segmentation.lraspp_*: the decoder `lraspp`.
TORCHVISION_LRASPP: Rules = (
    (r"^classifier\.cbr\.0\.", "decoder.conv.conv."),
    (r"^classifier\.cbr\.1\.", "decoder.conv.bn."),
    (r"^classifier\.scale\.1\.", "decoder.scale."),
    (r"^classifier\.low_classifier\.", "decoder.low_classifier."),
    (r"^classifier\.high_classifier\.", "decoder.high_classifier."),
)
