"""Names of DDRNet and PIDNet in mmsegmentation, encoders and whole models."""

from attnseg_jax.weights.rename import Rules

_STEM: Rules = (
    (r"^stem\.0\.", "stem1."),
    (r"^stem\.1\.", "stem2."),
    (r"^stem\.2\.", "stem_layer1."),
    (r"^stem\.4\.", "stem_layer2."),
)
# DAPPM and PAPPM of mmseg/models/utils/ppm.py: `ContextPyramid`.
MMSEG_PPM: Rules = (
    (r"\bscales\.0\.", "branch0."),
    (r"\bscales\.([1-4])\.1\.", r"branch\1."),
    *((rf"\bprocesses\.{i}\.(?=conv|bn)", f"process{i + 1}.") for i in range(4)),
    (r"\bprocesses\.", "process."),
    (r"\bcompression\.", "compress."),
)
_BLOCKS: Rules = (
    (r"^((?:stem_layer|context|spatial|detail|boundary)\d)\.(\d)\.", r"\1.block\2."),
    (r"\.downsample\.0\.", ".downsample.conv."),
    (r"\.downsample\.1\.", ".downsample.bn."),
)

# mmseg/models/backbones/ddrnet.py: `DDRNet`.
MMSEG_DDRNET: Rules = (
    *_STEM,
    *((rf"^context_branch_layers\.{i}\.", f"context{i + 1}.") for i in range(3)),
    *((rf"^spatial_branch_layers\.{i}\.", f"spatial{i + 1}.") for i in range(3)),
    (r"^compression_(\d)\.", r"compress\1."),
    (r"^down_1\.", "down1."),
    (r"^down_2\.0\.", "down2a."),
    (r"^down_2\.1\.", "down2b."),
    (r"^spp\.", "pyramid."),
    *MMSEG_PPM,
    *_BLOCKS,
)

# mmseg/models/backbones/pidnet.py: `PIDNet`.
MMSEG_PIDNET: Rules = (
    *_STEM,
    *((rf"^i_branch_layers\.{i}\.", f"context{i + 1}.") for i in range(3)),
    *((rf"^p_branch_layers\.{i}\.", f"detail{i + 1}.") for i in range(3)),
    # A layer of one block in the smaller models, a block in the large one.
    (r"^d_branch_layers\.0\.", "boundary1."),
    (r"^d_branch_layers\.1\.(0\.)?", "boundary2."),
    (r"^d_branch_layers\.2\.", "boundary3."),
    (r"^compression_(\d)\.", r"compress\1."),
    (r"^diff_(\d)\.", r"difference\1."),
    (r"^pag_(\d)\.f_p\.", r"fuse\1.fine."),
    (r"^pag_(\d)\.f_i\.", r"fuse\1.coarse."),
    (r"^dfm\.f_p\.", "last_fine."),
    (r"^dfm\.f_i\.", "last_context."),
    (r"^dfm\.conv\.", "last."),
    (r"^spp\.", "pyramid."),
    *MMSEG_PPM,
    *_BLOCKS,
)

# mmseg/models/decode_heads/ddr_head.py: the decoder `ddr`; with the head of its training `auxiliary=True`.
MMSEG_DDR: Rules = (
    (r"^decode_head\.conv_seg\.", "decoder.head.classifier."),
    (r"^decode_head\.aux_cls_seg\.", "decoder.auxiliary_head.classifier."),
    (r"^decode_head\.head\.0\.", "decoder.head.conv."),
    (r"^decode_head\.head\.1\.", "decoder.head.bn."),
    (r"^decode_head\.aux_head\.0\.", "decoder.auxiliary_head.conv."),
    (r"^decode_head\.aux_head\.1\.", "decoder.auxiliary_head.bn."),
)

# mmseg/models/decode_heads/pid_head.py: likewise, and with its head of boundaries `boundary=True`.
MMSEG_PID: Rules = (
    (r"^decode_head\.d_cls_seg\.", "decoder.boundary_head.classifier."),
    (r"^decode_head\.d_head\.conv\.", "decoder.boundary_head.conv."),
    (r"^decode_head\.d_head\.norm\.", "decoder.boundary_head.bn."),
    (r"^decode_head\.conv_seg\.", "decoder.head.classifier."),
    (r"^decode_head\.p_cls_seg\.", "decoder.auxiliary_head.classifier."),
    (r"^decode_head\.i_head\.conv\.", "decoder.head.conv."),
    (r"^decode_head\.i_head\.norm\.", "decoder.head.bn."),
    (r"^decode_head\.p_head\.conv\.", "decoder.auxiliary_head.conv."),
    (r"^decode_head\.p_head\.norm\.", "decoder.auxiliary_head.bn."),
)
