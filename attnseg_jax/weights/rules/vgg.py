"""Names of published VGGs."""

from attnseg_jax.weights.rename import Rules

# torchvision.models.vgg*: `VGG16`, `VGG16_BN` and others of the family.
TORCHVISION_VGG: Rules = ((r"^classifier\..*", None), (r"^features\.(\d+)\.", r"features\1."))
