"""Names of published dense prediction transformers, beside those of their encoders."""

from attnseg_jax.weights.rename import Rules

# The neck and heads of transformers' DPTForSemanticSegmentation: the decoder `dpt` after four `outputs`; with a second
# head `auxiliary=True`. The first fusion has a residual unit that nothing goes through.
TRANSFORMERS_DPT: Rules = (
    (r"^neck\.fusion_stage\.layers\.0\.residual_layer1\..*", None),
    (r"^neck\.reassemble_stage\.readout_projects\.(\d)\.0\.", r"decoder.readout\1."),
    (r"^neck\.reassemble_stage\.layers\.(\d)\.projection\.", r"decoder.narrow\1."),
    (r"^neck\.reassemble_stage\.layers\.([01])\.resize\.weight$", r"decoder.resize\1.transposed"),
    (r"^neck\.reassemble_stage\.layers\.(\d)\.resize\.", r"decoder.resize\1."),
    (r"^neck\.convs\.(\d)\.", r"decoder.lateral\1."),
    # Counted there from the coarsest map.
    *((rf"^neck\.fusion_stage\.layers\.{i}\.residual_layer1\.", f"decoder.skip{3 - i}.") for i in range(4)),
    *((rf"^neck\.fusion_stage\.layers\.{i}\.residual_layer2\.", f"decoder.fuse{3 - i}.") for i in range(4)),
    *((rf"^neck\.fusion_stage\.layers\.{i}\.projection\.", f"decoder.project{3 - i}.") for i in range(4)),
    (r"^(decoder\.(?:skip|fuse)\d)\.convolution([12])\.", r"\1.conv\2."),
    (r"^(decoder\.(?:skip|fuse)\d)\.batch_norm([12])\.", r"\1.bn\2."),
    (r"^(head|auxiliary_head)\.head\.0\.", r"decoder.\1.conv.conv."),
    (r"^(head|auxiliary_head)\.head\.1\.", r"decoder.\1.conv.bn."),
    (r"^(head|auxiliary_head)\.head\.4\.", r"decoder.\1.classifier."),
)

# segmentation_models_pytorch.DPT of a vision transformer of timm: likewise with `first_unit=True`.
SMP_DPT: Rules = (
    (r"^decoder\.projection_blocks\.(\d)\.project\.0\.", r"decoder.readout\1."),
    (r"^decoder\.reassemble_blocks\.(\d)\.project_to_out_channel\.", r"decoder.narrow\1."),
    (r"^decoder\.reassemble_blocks\.([01])\.upsample\.weight$", r"decoder.resize\1.transposed"),
    (r"^decoder\.reassemble_blocks\.(\d)\.upsample\.", r"decoder.resize\1."),
    (r"^decoder\.reassemble_blocks\.(\d)\.project_to_feature_dim\.", r"decoder.lateral\1."),
    # Counted there from the coarsest map.
    *((rf"^decoder\.fusion_blocks\.{i}\.residual_conv_block1\.", f"decoder.skip{3 - i}.") for i in range(4)),
    *((rf"^decoder\.fusion_blocks\.{i}\.residual_conv_block2\.", f"decoder.fuse{3 - i}.") for i in range(4)),
    *((rf"^decoder\.fusion_blocks\.{i}\.project\.", f"decoder.project{3 - i}.") for i in range(4)),
    (r"^(decoder\.(?:skip|fuse)\d)\.conv_([12])\.", r"\1.conv\2."),
    (r"^(decoder\.(?:skip|fuse)\d)\.batch_norm_([12])\.", r"\1.bn\2."),
    (r"^segmentation_head\.head\.0\.", "decoder.head.conv.conv."),
    (r"^segmentation_head\.head\.1\.", "decoder.head.conv.bn."),
    (r"^segmentation_head\.head\.4\.", "decoder.head.classifier."),
)
