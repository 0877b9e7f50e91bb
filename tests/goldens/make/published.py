"""Builds originals of the catalogue's whole models, without their weights, for `tests/weights/test_originals.py`.

python published.py shapes OUT.json NAME ...     # names and shapes of the parameters in their files
python published.py files OUT NAME ...           # files of generated weights, and the scores of OUT/photo*.npy, and
                                                 # of OUT/large*.npy processed as by their authors
"""

import functools
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
import transformers as tf
from PIL import Image
from torchvision.transforms._presets import SemanticSegmentation
from transformers.core_model_loading import revert_weight_conversion

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[2] / "helpers"))
from detectron2_names import as_authors
from weights import weight

MIT = {
    0: ([32, 64, 160, 256], [2, 2, 2, 2]),
    1: ([64, 128, 320, 512], [2, 2, 2, 2]),
    2: ([64, 128, 320, 512], [3, 4, 6, 3]),
    3: ([64, 128, 320, 512], [3, 4, 18, 3]),
    4: ([64, 128, 320, 512], [3, 8, 27, 3]),
    5: ([64, 128, 320, 512], [3, 6, 40, 3]),
}
SWIN = {
    "t": (96, [2, 2, 6, 2], [3, 6, 12, 24], 7),
    "s": (96, [2, 2, 18, 2], [3, 6, 12, 24], 7),
    "b": (128, [2, 2, 18, 2], [4, 8, 16, 32], 12),
    "l": (192, [2, 2, 18, 2], [6, 12, 24, 48], 12),
}
CONVNEXT = {
    "t": ([96, 192, 384, 768], [3, 3, 9, 3]),
    "s": ([96, 192, 384, 768], [3, 3, 27, 3]),
    "b": ([128, 256, 512, 1024], [3, 3, 27, 3]),
}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def swin(size):
    width, depths, heads, window = SWIN[size]
    return tf.SwinConfig(embed_dim=width, depths=depths, num_heads=heads, window_size=window, out_features=STAGES)


def build(name):
    """The original of a name of `MODELS`."""
    model, _, data = name.partition("-")
    classes, size = {"ade20k": 150, "cityscapes": 19, "voc": 21}[data], model[-1]
    if model.startswith("segformer"):
        widths, depths = MIT[int(size)]
        head = 256 if int(size) < 2 else 768
        config = tf.SegformerConfig(hidden_sizes=widths, depths=depths, decoder_hidden_size=head, num_labels=classes)
        return tf.SegformerForSemanticSegmentation(config)
    if model.startswith("upernet"):
        if "swin" in model:
            encoder, third = swin(size), 4 * SWIN[size][0]
        else:
            widths, depths = CONVNEXT[size]
            encoder, third = tf.ConvNextConfig(hidden_sizes=widths, depths=depths, out_features=STAGES), widths[2]
        config = tf.UperNetConfig(backbone_config=encoder, auxiliary_in_channels=third, num_labels=classes)
        return tf.UperNetForSemanticSegmentation(config)
    if model.startswith("mask2former"):
        encoder = tf.ResNetConfig(out_features=STAGES) if "resnet50" in model else swin(size)
        return tf.Mask2FormerForUniversalSegmentation(tf.Mask2FormerConfig(backbone_config=encoder, num_labels=classes))
    if model == "eomt_l":
        side = 512 if data == "ade20k" else 1024
        return tf.EomtForUniversalSegmentation(tf.EomtConfig(num_labels=classes, image_size=side, num_queries=100))
    if model == "eomt_dinov3_l":
        config = tf.EomtDinov3Config(num_labels=classes, image_size=512, num_queries=100)
        return tf.EomtDinov3ForUniversalSegmentation(config)
    if model == "dpt_l":
        sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
        neck = {"backbone_out_indices": [5, 11, 17, 23], "neck_hidden_sizes": [256, 512, 1024, 1024]}
        config = tf.DPTConfig(**sizes, **neck, use_batch_norm_in_fusion_residual=True, num_labels=classes)
        return tf.DPTForSemanticSegmentation(config)
    options = {} if model.startswith("lraspp") else {"aux_loss": True}
    make = getattr(torchvision.models.segmentation, model)
    return make(weights=None, weights_backbone=None, num_classes=classes, **options)


def shapes(out, names):
    found = {}
    with torch.device("meta"):
        for name in names:
            module = build(name)
            state = module.state_dict()
            if name.startswith("mask2former_resnet"):
                state = as_authors(state, torch.cat)
            elif hasattr(module, "save_pretrained"):
                state = revert_weight_conversion(module, state)
            found[name] = [[key, list(x.shape)] for key, x in state.items()]
    Path(out).write_text(json.dumps(found))


def scores(module, picture):
    """Scores of every pixel, at the size of the picture."""
    # DPT's hub has 0.5 for both, the others' ImageNet's.
    mean, std = (np.float32(0.5),) * 2 if isinstance(module, tf.DPTForSemanticSegmentation) else (MEAN, STD)
    x = torch.from_numpy(((picture / np.float32(255) - mean) / std).astype(np.float32).transpose(2, 0, 1)[None])
    found = module(x)
    if "masks_queries_logits" in found:
        return semantic(found, picture.shape[:2])
    logits = found["out"] if isinstance(found, dict) and "out" in found else found.logits
    return F.interpolate(logits, picture.shape[:2], mode="bilinear", align_corners=False).softmax(1)


def processed(module, name, picture):
    """The scores of a picture, processed as by the authors."""
    size = picture.shape[:2]
    resized = functools.partial(F.interpolate, mode="bilinear", align_corners=False)
    if isinstance(module, tf.EomtForUniversalSegmentation):
        processor = tf.EomtImageProcessorPil(size={"shortest_edge": 512, "longest_edge": None}, do_split_image=True)
        inputs = processor(picture, return_tensors="pt")
        found = processor.post_process_semantic_segmentation(module(**inputs), [size], return_segmentation_scores=True)
        return found[0].segmentation_scores
    if isinstance(module, tf.DPTForSemanticSegmentation):
        own = {"size": {"height": 480, "width": 480}, "keep_aspect_ratio": True, "ensure_multiple_of": 32}
        processor = tf.DPTImageProcessorPil(**own, image_mean=[0.5] * 3, image_std=[0.5] * 3)
        image = processor(picture, return_tensors="pt")["pixel_values"]
    elif isinstance(module, tf.Mask2FormerForUniversalSegmentation):
        processor = tf.Mask2FormerImageProcessorPil(size={"shortest_edge": 512, "longest_edge": 2048})
        image = processor(picture, return_tensors="pt")["pixel_values"]
    else:
        # Of mmsegmentation's models, which no package here processes, too.
        side = 520 if name.endswith("voc") else 512
        image = SemanticSegmentation(resize_size=side)(Image.fromarray(picture))[None]
    found = module(image)
    # To the size of what the model saw first, as mmsegmentation and detectron2 do.
    if "masks_queries_logits" in found:
        scores = semantic(found, image.shape[2:])
    else:
        logits = found["out"] if isinstance(found, dict) and "out" in found else found.logits
        scores = resized(logits, image.shape[2:])
    scores = resized(scores, size)[0]
    return scores if "masks_queries_logits" in found else scores.softmax(0)


def semantic(found, size):
    """Scores of queries, of every pixel."""
    classes = found.class_queries_logits.softmax(-1)[..., :-1]
    # As transformers' post-processing, but for its resizing to 384 x 384 on the way.
    masks = F.interpolate(found.masks_queries_logits, size, mode="bilinear", align_corners=False)
    return torch.einsum("bqc,bqhw->bchw", classes, masks.sigmoid())


def files(out, names):
    pictures = {path.stem: np.load(path) for path in sorted(Path(out).glob("photo*.npy"))}
    for name in names:
        module = build(name).eval()
        state = {
            key: torch.from_numpy(weight(key, x.shape)) if x.dtype == torch.float32 else x
            for key, x in module.state_dict().items()
        }
        if "attn_mask_probs" in state:
            # As a training ends. In between, transformers' model draws at random whose attention is masked.
            state["attn_mask_probs"] = torch.zeros_like(state["attn_mask_probs"])
        module.load_state_dict(state)
        folder = Path(out) / name
        if name.startswith("mask2former_resnet"):
            folder.mkdir()
            arrays = {key: x.numpy() for key, x in as_authors(module.state_dict(), torch.cat).items()}
            (folder / "model.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "Mask2Former"}, 3))
        elif hasattr(module, "save_pretrained"):
            module.save_pretrained(folder)
        else:
            folder.mkdir()
            torch.save(module.state_dict(), folder / "model.pth")
        with torch.no_grad():
            np.savez(folder / "scores.npz", **{key: scores(module, x)[0].numpy() for key, x in pictures.items()})
            for path in Path(out).glob("large*.npy"):
                found = processed(module, name, np.load(path)).numpy()
                # Of the scores some.
                np.savez(folder / f"{path.stem}.npz", mask=found.argmax(0), scores=found[:, ::8, ::8])


if __name__ == "__main__":
    {"shapes": shapes, "files": files}[sys.argv[1]](sys.argv[2], sys.argv[3:])
