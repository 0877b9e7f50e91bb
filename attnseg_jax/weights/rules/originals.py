"""Names of the heads in authors' own repositories: PSPNet, PSANet, EMANet, OCRNet, Segmenter."""

from attnseg_jax.weights.rename import Rules
from attnseg_jax.weights.rules.torchvision import TORCHVISION_AUX

# The auxiliary head in hszhao/semseg, by the same numbers.
SEMSEG_AUX: Rules = ((r"^aux\.", "aux_classifier."), *TORCHVISION_AUX)

# hszhao/semseg, model/pspnet.py, PSPNet: the decoder `psp`.
SEMSEG_PSPNET: Rules = (
    *SEMSEG_AUX,
    *((rf"^ppm\.features\.{i}\.", f"decoder.pool.bin{bins}.") for i, bins in enumerate((1, 2, 3, 6))),
    (r"(\.pool\.bin\d)\.1\.", r"\1.conv."),
    (r"(\.pool\.bin\d)\.2\.", r"\1.bn."),
    (r"^cls\.0\.", "decoder.conv.conv."),
    (r"^cls\.1\.", "decoder.conv.bn."),
    (r"^cls\.4\.", "decoder.classifier."),
)

# hszhao/semseg, model/psanet.py, PSANet: attention `psa` and the decoder `fcn`, `channels=512`, behind the encoder of
# its PSPNet. The file has one row for each plane, the model a kernel of rows and columns of them (see `fit`).
PSA: Rules = (
    (r"\b(reduce|attention)_p\.", r"branch1.\1."),
    (r"(?<!branch1\.)\b(reduce|attention)\.(?=[013]\.)", r"branch0.\1."),
    (r"\battention\.3\.weight$", "planes"),
    (r"\b(reduce|attention|proj)\.0\.", r"\1.conv."),
    (r"\b(reduce|attention|proj)\.1\.", r"\1.bn."),
)
SEMSEG_PSANET: Rules = (
    *SEMSEG_AUX,
    (r"^psa\.", "attention."),
    (r"^cls\.0\.", "decoder.head.conv.conv."),
    (r"^cls\.1\.", "decoder.head.conv.bn."),
    (r"^cls\.4\.", "decoder.head.classifier."),
    *PSA,
)

# XiaLiPKU/EMANet, network.py, EMANet: attention `ema` and the decoder `fcn`, `channels=256`.
EMANET_HEAD: Rules = (
    (r"^fc0\.", "attention.lead."),
    (r"^emau\.", "attention."),
    (r"^fc1\.0\.", "decoder.head.conv."),
    (r"^fc2\.", "decoder.head.classifier."),
    (r"^(attention\.conv2)\.0\.", r"\1.conv."),
    (r"^(attention\.conv2)\.1\.", r"\1.bn."),
)

# openseg.pytorch, lib/models/modules/spatial_ocr_block.py, SpatialOCR_Module and ObjectAttentionBlock2D:
# the methods `context` and `gather` of `OCR`.
OCR_MODULES: Rules = (
    (r"\bobject_context_block\.", ""),
    (r"\bconv_bn_dropout\.", "out."),
    (r"\bf_(pixel|object)\.([01])\.", r"\g<1>0.\2."),
    (r"\bf_(pixel|object)\.2\.", r"\g<1>1.0."),
    (r"\bf_(pixel|object)\.3\.", r"\g<1>1.1."),
    (r"\bf_(down|up)\.", r"\1."),
    (r"\b(pixel0|pixel1|object0|object1|down|up|out)\.0\.", r"\1.conv."),
    (r"\b(pixel0|pixel1|object0|object1|down|up|out)\.1\.0\.", r"\1.bn."),
)

# openseg.pytorch, lib/models/nets/ocrnet.py, SpatialOCRNet: attention `ocr`, `aux_stride=16`, and the decoder `fcn`,
# `convs=0`.
OCRNET_HEAD: Rules = (
    (r"^spatial_ocr_head\.", "attention."),
    (r"^conv_3x3\.0\.", "attention.lead_in.conv."),
    (r"^conv_3x3\.1\.0\.", "attention.lead_in.bn."),
    (r"^dsn_head\.0\.", "attention.aux_conv.conv."),
    (r"^dsn_head\.1\.0\.", "attention.aux_conv.bn."),
    (r"^dsn_head\.3\.", "attention.aux_classifier."),
    (r"^head\.", "decoder.head.classifier."),
    *OCR_MODULES,
)

# rstrudel/segmenter, MaskTransformer: `MaskTransformer`.
SEGMENTER_MASK: Rules = (
    (r"\bcls_emb$", "class_tokens"),
    (r"\bblocks\.(\d+)\.", r"layer\1."),
    (r"(\blayer\d+)\.attn\.qkv\.(weight|bias)$", tuple(rf"\1.{x}.\2" for x in ("query", "key", "value"))),
    (r"(\blayer\d+)\.attn\.proj\.", r"\1.out."),
    (r"(\blayer\d+)\.mlp\.fc1\.", r"\1.mlp_in."),
    (r"(\blayer\d+)\.mlp\.fc2\.", r"\1.mlp_out."),
)

# rstrudel/segmenter, Segmenter: the decoder `mask_transformer`, or `fcn` with `convs=0` for the linear one, behind a
# backbone `vit_*` with `norm_epsilon=1e-5`, `position_resize="bilinear"`, `position_antialias=False`.
SEGMENTER: Rules = (
    *SEGMENTER_MASK,
    (r"^decoder\.head\.weight$", "decoder.head.classifier.pointwise"),
    (r"^decoder\.head\.bias$", "decoder.head.classifier.bias"),
)
