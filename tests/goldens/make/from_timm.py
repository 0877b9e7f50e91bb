"""Goldens of timm: vision transformers, EfficientNet-Lite."""

from functools import partial

import timm
from common import Case, hooked, main, of

VIT = of(partial(timm.create_model, "vit_tiny_patch16_224", pretrained=False, dynamic_img_size=True))
# The last block at each stride.
LITE = {"feat2": "blocks.0", "feat4": "blocks.1", "feat8": "blocks.2", "feat16": "blocks.4", "feat32": "blocks.6"}


def vit(module, inputs):
    x, blocks = inputs["x"], (2, 5, 8, 11)
    size = (x.shape[2] // 16, x.shape[3] // 16)
    names = {f"block{i}": f"blocks.{i}" for i in blocks} | {"tokens": "norm"}
    found, logits = hooked(module, names, x)
    maps = {f"block{i}": found[f"block{i}"][:, 1:].transpose(1, 2).unflatten(2, size) for i in blocks}
    return {**maps, "tokens": found["tokens"], "logits": logits}


def lite(module, inputs):
    found, logits = hooked(module, LITE, inputs["x"])
    return {**found, "logits": logits}


CASES = {
    "backbone_vit_tiny_224": Case(VIT, vit),
    "backbone_vit_tiny_96x160": Case(VIT, vit),
    "backbone_tf_effnet_lite0": Case(of(partial(timm.create_model, "tf_efficientnet_lite0", pretrained=False)), lite),
}

if __name__ == "__main__":
    main(CASES, "timm")
