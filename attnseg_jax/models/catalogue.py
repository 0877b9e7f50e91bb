"""Published weights by name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Weights that others published.

    Attributes:
      source: `hf://owner/name/file` (see `sources`), or `package:NAME/FILE` of an installed Python package.
      layout: the name in `layouts.LAYOUTS` of what the file holds.
      licence: of the weights.
    """

    source: str
    layout: str
    licence: str


CATALOGUE = {
    "resnet18-imagenet": Published("hf://timm/resnet18.a1_in1k/model.safetensors", "torchvision_resnet", "Apache-2.0"),
    "resnet34-imagenet": Published("hf://timm/resnet34.a1_in1k/model.safetensors", "torchvision_resnet", "Apache-2.0"),
    "resnet50-imagenet": Published("hf://timm/resnet50.a1_in1k/model.safetensors", "torchvision_resnet", "Apache-2.0"),
}
