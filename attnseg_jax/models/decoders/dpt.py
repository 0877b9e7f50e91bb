"""Dense prediction transformer (Ranftl et al. 2021), after transformers' `modeling_dpt.py` and smp's `decoders/dpt`."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import OptionError
from attnseg_jax.models.decoders.base import Decoder, Gate, check_named, maps_of
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.blocks import ConvTranspose
from attnseg_jax.models.layers.conv import BatchNorm, Conv, ConvBN, Dense, Dtype, classifier
from attnseg_jax.models.options import option
from attnseg_jax.ops.gelu import gelu
from attnseg_jax.ops.resize import resize

READOUTS = ("project", "add", "ignore")


class ResidualUnit(nn.Module):
    """`x + conv(relu(conv(relu(x))))` of 3x3 convolutions, each normalised or else with a bias.

    Attributes:
      batch_norm: which.
    """

    batch_norm: bool
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        """Adds the unit's branch to its input."""
        y = x
        for i in (1, 2):
            y = Conv(x.shape[-1], 3, use_bias=not self.batch_norm, dtype=self.dtype, name=f"conv{i}")(nn.relu(y))
            y = BatchNorm(dtype=self.dtype, name=f"bn{i}")(y, train=train) if self.batch_norm else y
        return x + y


class Head(nn.Module):
    """3x3 convolution, normalisation, ReLU, dropout, classifier; logits.

    Attributes:
      num_classes: channels of the logits.
      dropout: rate before the classifier, in training.
    """

    num_classes: int
    dropout: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w k"]:
        """Returns logits at the size of `x`."""
        x = ConvBN(x.shape[-1], 3, dtype=self.dtype, name="conv")(x, train=train)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return classifier(self.num_classes, "classifier")(x)


class DPT(Decoder):
    """Maps of four depths, each of another stride, fused from the coarsest to the finest by residual units.

    Ranftl et al. 2021, arXiv:2103.13413; after `DPTForSemanticSegmentation` of github.com/huggingface/transformers and
    `DPT` of github.com/qubvel-org/segmentation_models.pytorch. A plain vision transformer whose option `outputs` names
    four of its blocks hands over what these put out, which is brought to a quarter, a half, once and twice the stride
    of the patches; the maps of other backbones are fused as they are. It gates no skips.

    Every fusion doubles the map, so that the logits are larger than the image where the coarsest map has an odd size;
    they are resized to it.

    Attributes:
      channels: of the fused maps.
      reassembled: channels of the maps of a vision transformer, fine to coarse: (96, 192, 384, 768) in ViT-B,
        (256, 512, 1024, 1024) in DPT-Large.
      readout: what becomes of the class token: `project` (a linear layer on it and every patch together), `add` or
        `ignore`.
      batch_norm: normalises in the residual units; otherwise these have biases.
      first_unit: a residual unit of its own for the coarsest map too, as segmentation_models.pytorch has it.
      auxiliary: a second head, without upsampling, on the finest fused map.
      dropout: rate before the classifier, in training.
      strides: nominal strides of the maps of a backbone that is no vision transformer.
    """

    channels: int = option(256, at_least=1)
    reassembled: tuple[int, ...] = option((96, 192, 384, 768), at_least=1, lengths=(4,))
    readout: str = option("project", choices=READOUTS)
    batch_norm: bool = True
    first_unit: bool = False
    auxiliary: bool = False
    dropout: float = option(0.1, at_least=0, below=1)
    strides: tuple[int, ...] = (4, 8, 16, 32)

    @nn.compact
    def __call__(self, features: Features, *, gate: Gate | None = None, train: bool = False) -> Output:
        """Returns logits at twice the size of the finest map; as `dpt` those of the second head at its size."""
        maps = self._maps(features)
        x = None
        for i in range(len(maps) - 1, -1, -1):
            lateral = Conv(self.channels, 3, dtype=self.dtype, name=f"lateral{i}")(maps[i])
            if x is None:
                x = self._unit(f"skip{i}", lateral, train) if self.first_unit else lateral
            else:
                lateral = resize(lateral, x.shape[1:3])
                x = x + self._unit(f"skip{i}", lateral, train)
            x = self._unit(f"fuse{i}", x, train)
            x = resize(x, (2 * x.shape[1], 2 * x.shape[2]), align_corners=True)
            x = Conv(self.channels, 1, use_bias=True, dtype=self.dtype, name=f"project{i}")(x)
        logits = Head(self.num_classes, self.dropout, self.dtype, name="head")(x, train=train)
        logits = resize(logits, (2 * x.shape[1], 2 * x.shape[2]), align_corners=True)
        if not self.auxiliary:
            return Output(logits)
        auxiliary = Head(self.num_classes, self.dropout, self.dtype, name="auxiliary_head")(x, train=train)
        return Output(logits, {"dpt": auxiliary})

    def _unit(self, name: str, x: Array, train: bool) -> Array:
        return ResidualUnit(self.batch_norm, self.dtype, name=name)(x, train=train)

    def _maps(self, features: Features) -> list[Array]:
        """The maps to be fused, fine to coarse."""
        outputs = features.extras.get("outputs")
        if outputs is None:
            check_named(self.strides)
            hint = "change strides, or, with a vision transformer, set its outputs to four of its blocks"
            return list(maps_of(features, self.strides, "strides", hint).values())
        if len(outputs) != len(self.reassembled):
            hint = f"are those of {len(self.reassembled)} blocks; the backbone's outputs names {len(outputs)}"
            raise OptionError("reassembled", self.reassembled, f"{hint}: name as many")
        return [self._reassembled(i, *output) for i, output in enumerate(outputs)]

    def _reassembled(self, i: int, x: Float[Array, "b h w c"], token: Float[Array, "b c"]) -> Array:
        """The map number `i` of a vision transformer at a stride of its own."""
        token = token[:, None, None]
        if self.readout == "project":
            together = jnp.concatenate([x, jnp.broadcast_to(token, x.shape)], axis=-1)
            dense = Dense(x.shape[-1], dtype=self.dtype, name=f"readout{i}")
            x = gelu(dense(together))
        elif self.readout == "add":
            x = x + token
        width = self.reassembled[i]
        x = Conv(width, 1, use_bias=True, dtype=self.dtype, name=f"narrow{i}")(x)
        if i < 2:
            factor = 4 >> i
            return ConvTranspose(width, factor, factor, dtype=self.dtype, name=f"resize{i}")(x)
        return x if i == 2 else Conv(width, 3, 2, use_bias=True, dtype=self.dtype, name=f"resize{i}")(x)
