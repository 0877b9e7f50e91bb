"""Tables for originals of which no file of weights is read: single modules, and classifiers of whole images."""

from attnseg_jax.weights.rename import Rules

# csrhddlam/axial-deeplab, AxialAttention: `AxisAttention`.
AXIAL: Rules = ((r"\bqkv_transform\.", "qkv."),)

# Jongchan/attention-module, MODELS/cbam.py, CBAM: the attention `cbam`.
CBAM_ORIGINAL: Rules = (
    (r"\bChannelGate\.mlp\.1\.", "scores.down."),
    (r"\bChannelGate\.mlp\.3\.", "scores.up."),
    (r"\bSpatialGate\.spatial\.", "spatial_"),
)

# speedinghzl/CCNet: its `CrissCrossAttention` is the method `cross` of ours; its `RCCAModule` is the attention and the
# decoder of a `Segmenter` of `criss_cross` and `fcn` with convs=0.
CCNET: Rules = (
    (r"\b(query|key|value)_conv\.", r"\1."),
    (r"\.0\.", ".conv."),
    (r"\.1\.", ".bn."),
    (r"^bottleneck\.3\.", "decoder.head.classifier."),
    (r"^(conva|convb|bottleneck)\.", r"attention.\1."),
    (r"^cca\.", "attention."),
)

# PAM_Module and CAM_Module of encoding/nn/da_att.py: the methods `position` and `channel` of `DANet`.
DANET_POSITION: Rules = ((r"\b(query|key|value)_conv\.", r"\1."), (r"^gamma$", "position_gamma"))
DANET_CHANNEL: Rules = ((r"^gamma$", "channel_gamma"),)

# junfu1115/DANet, encoding/models/sseg/danet.py, DANetHead: attention `danet` and the decoder `fcn`, `convs=0`.
DANET_HEAD: Rules = (
    (r"^sa\.(query|key|value)_conv\.", r"attention.\1."),
    (r"^sa\.gamma$", "attention.position_gamma"),
    (r"^sc\.gamma$", "attention.channel_gamma"),
    (r"^conv5a\.", "attention.position_in."),
    (r"^conv5c\.", "attention.channel_in."),
    (r"^conv51\.", "attention.position_out."),
    (r"^conv52\.", "attention.channel_out."),
    (r"_(in|out)\.0\.", r"_\1.conv."),
    (r"_(in|out)\.1\.", r"_\1.bn."),
    (r"^conv6\.1\.", "attention.position_classifier."),
    (r"^conv7\.1\.", "attention.channel_classifier."),
    (r"^conv8\.1\.", "decoder.head.classifier."),
)

# EMANet's EMAU: the method `unit` of `ExpectationMaximization`.
EMAU: Rules = (
    (r"\bconv2\.0\.", "conv2.conv."),
    (r"\bconv2\.1\.", "conv2.bn."),
)

# mmsegmentation's and PyTorch-Encoding's layer `Encoding`: `Encoding`, name by name.
ENCODING: Rules = ()

# ozan-oktay/Attention-Gated-Networks, models/layers/grid_attention_layer.py, _GridAttentionBlockND: `Gate.oktay`.
OKTAY: Rules = ((r"\bW\.0\.", "out_conv."), (r"\bW\.1\.", "out_bn."))

# ISA_Module (of one down factor) and ISA_Block of lib/models/modules/isa_block.py: the methods `context` and `stages`
# of `Interlaced`.
ISA: Rules = (
    (r"\bstages\.0\.", ""),
    (r"\blong_range_sa\.", "far."),
    (r"\bshort_range_sa\.", "near."),
    (r"\bf_value\.", "value."),
    (r"\bf_(key|query)\.([01])\.", r"\g<1>0.\2."),
    (r"\bf_(key|query)\.2\.", r"\g<1>1.0."),
    (r"\bf_(key|query)\.3\.", r"\g<1>1.1."),
    (r"\b(W|conv_bn)\.", "out."),
    (r"\b(key0|key1|query0|query1|out)\.0\.", r"\1.conv."),
    (r"\b(key0|key1|query0|query1|out)\.1\.0\.", r"\1.bn."),
)

# NONLocalBlock2D of lib/non_local_*.py: the attention `nonlocal`.
NONLOCAL: Rules = (
    (r"^(g|phi)\.0\.", r"\1."),
    (r"^theta\.", "query."),
    (r"^phi\.", "key."),
    (r"^g\.", "value."),
    (r"^W\.1\.", "norm."),
    (r"^W\.(0\.)?", "out."),
)

# moskomule/senet.pytorch, senet/se_module.py, SELayer: the attention `se`.
SENET: Rules = ((r"\bfc\.0\.", "scores.down."), (r"\bfc\.2\.", "scores.up."))

# torchvision.models.convnext_*, the classifier: `MeanHead` with `norm`.
TORCHVISION_CONVNEXT_HEAD: Rules = (
    (r"^classifier\.0\.", "norm."),
    (r"^classifier\.2\.", "head."),
    (r"^(?!(head|norm)\.).*", None),
)

# timm's convnextv2_*, the classifier: `MeanHead` with `norm`.
TIMM_CONVNEXT_HEAD: Rules = ((r"^head\.norm\.", "norm."), (r"^head\.fc\.", "head."), (r"^(?!(head|norm)\.).*", None))

# timm's tf_efficientnet_lite*, the classifier: `EfficientNetLiteHead`.
TIMM_EFFICIENTNET_LITE_HEAD: Rules = (
    (r"^(?!conv_head|bn2|classifier).*", None),
    (r"^conv_head\.", "conv.conv."),
    (r"^bn2\.", "conv.bn."),
)

# efficientnet-lite-pytorch, the classifier: `EfficientNetLiteHead`.
EFFICIENTNET_LITE_PYTORCH_HEAD: Rules = (
    (r"^(?!_conv_head|_bn1|_fc).*", None),
    (r"^_conv_head\.", "conv.conv."),
    (r"^_bn1\.", "conv.bn."),
    (r"^_fc\.", "classifier."),
)

# torchvision.models.mobilenet_v3_large, the classifier: `MobileNetV3Head`.
TORCHVISION_MOBILENET_V3_HEAD: Rules = (
    (r"^(?!classifier\.).*", None),
    (r"^classifier\.0\.", "hidden."),
    (r"^classifier\.3\.", "classifier."),
)

# torchvision.models.vgg*, the classifier: `VGGHead`.
TORCHVISION_VGG_HEAD: Rules = (
    (r"^features\..*", None),
    (r"^classifier\.(\d+)\.", r"classifier\1."),
)

# The linear classifier of timm's, torchvision's and transformers' models: `MeanHead`, `ViTHead`.
CLASS_HEAD: Rules = ((r"^classifier\.", "head."), (r"^(?!head\.).*", None))
