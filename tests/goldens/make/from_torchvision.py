"""Goldens of torchvision: backbones, segmentation models, Swin's block, operators on regions, a training step."""

from functools import partial

import torch
import torchvision
from common import Case, filled, hooked, main, of, places
from torchvision.models import segmentation
from torchvision.models.swin_transformer import SwinTransformerBlock

STAGES = {"stem": "relu", "layer1": "layer1", "layer2": "layer2", "layer3": "layer3", "layer4": "layer4"}
POOLS = (6, 13, 23, 33, 43)


def resnet(name, dilate=(False, False, False)):
    make = getattr(torchvision.models, name)
    return Case(of(partial(make, weights=None, replace_stride_with_dilation=list(dilate))), places(STAGES))


def vgg(state):
    module = torchvision.models.vgg16_bn(weights=None)
    module.avgpool = module.classifier = torch.nn.Identity()
    return filled(module, state)


def vgg_maps(module, inputs):
    names = {f"conv{i}": f"features.{pool - 1}" for i, pool in enumerate(POOLS, 1)}
    return hooked(module, names | {f"pool{i}": f"features.{pool}" for i, pool in enumerate(POOLS, 1)}, inputs["x"])[0]


def channels_first(maps):
    return {name: x.permute(0, 3, 1, 2) for name, x in maps.items()}


def swin(state):
    module = torchvision.models.swin_t(weights=None)
    module.head = torch.nn.Identity()
    return filled(module, {name: x for name, x in state.items() if not name.startswith("head.")})


def swin_maps(module, inputs):
    names = {f"stage{i}": f"features.{2 * i - 1}" for i in (1, 2, 3, 4)}
    return channels_first(hooked(module, names | {"norm": "norm"}, inputs["x"])[0])


def swin_block(shift):
    def run(module, inputs):
        x = inputs["x"].permute(0, 2, 3, 1)
        return channels_first({"y": module(x), "attn": module.attn(x)})

    return Case(of(lambda: SwinTransformerBlock(64, 4, [7, 7], [shift, shift], mlp_ratio=4.0)), run)


def segmenter(name, outputs, **options):
    make = partial(getattr(segmentation, name), weights=None, weights_backbone=None, num_classes=21, **options)

    def run(module, inputs):
        found = module(inputs["x"])
        return {output: found[output] for output in outputs}

    return Case(of(make), run)


def regions(_, inputs):
    align, pool = torchvision.ops.roi_align, torchvision.ops.roi_pool
    x, boxes = inputs["x"], inputs["boxes"]
    found = {
        f"roi_align_aligned{int(aligned)}_sr{ratio}": align(x, boxes, 7, 0.25, ratio, aligned)
        for aligned in (False, True)
        for ratio in (2, -1)
    }
    return found | {"roi_align_3x5": align(x, boxes, (3, 5), 0.25, 2, True), "roi_pool": pool(x, boxes, 7, 0.25)}


def training_step(module, inputs):
    logits = module(inputs["x"])
    loss = torch.nn.functional.cross_entropy(logits, inputs["labels"].long())
    loss.backward()
    found = {"logits": logits, "loss": loss}
    found |= {f"grad/{name}": parameter.grad for name, parameter in module.named_parameters()}
    return found | {f"updated/{name}": x for name, x in module.named_buffers() if x.is_floating_point()}


CONVNEXT = {"stem": "features.0", **{f"stage{i}": f"features.{2 * i - 1}" for i in (1, 2, 3, 4)}}
CASES = {
    "backbone_resnet18": resnet("resnet18"),
    "backbone_resnet50_os32": resnet("resnet50"),
    "backbone_resnet50_os8": resnet("resnet50", (False, True, True)),
    "backbone_convnext_t": Case(
        of(partial(torchvision.models.convnext_tiny, weights=None)), places(CONVNEXT, "logits")
    ),
    "backbone_swin_t": Case(swin, swin_maps),
    "backbone_vgg16_bn": Case(vgg, vgg_maps),
    "attn_swin_block_13x17": swin_block(0),
    "attn_swin_block_shift_13x17": swin_block(3),
    "model_fcn_resnet50": segmenter("fcn_resnet50", ("out", "aux"), aux_loss=True),
    "model_deeplabv3_resnet50": segmenter("deeplabv3_resnet50", ("out", "aux"), aux_loss=True),
    "model_lraspp_mobilenet_v3_large": segmenter("lraspp_mobilenet_v3_large", ("out",)),
    "op_roi": Case(lambda _: None, regions),
    "train_resnet18": Case(of(partial(torchvision.models.resnet18, weights=None, num_classes=10)), training_step),
}

if __name__ == "__main__":
    main(CASES, "torchvision")
