"""EoMT (Kerssies et al. 2025, arXiv:2503.19108; github.com/tue-mps/eomt): queries inside a plain vision transformer."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from attnseg_jax.errors import OptionError
from attnseg_jax.models.decoders.base import Decoder, Gate
from attnseg_jax.models.features import Features, Output, Place, Queries
from attnseg_jax.models.layers.blocks import ConvTranspose
from attnseg_jax.models.layers.conv import Conv, Dense, Dtype, layer_norm
from attnseg_jax.models.options import option
from attnseg_jax.models.records import DotProductMap
from attnseg_jax.ops.gelu import gelu
from attnseg_jax.ops.resize import resize


class QueryTokens(nn.Module):
    """The queries that are learned, the same for every image.

    Attributes:
      count: how many.
    """

    count: int
    dtype: Dtype

    @nn.compact
    def __call__(self, batch: int, channels: int) -> Float[Array, "b q c"]:
        """Returns the queries of a batch."""
        tokens = self.param("query_tokens", nn.initializers.normal(1.0), (1, self.count, channels), jnp.float32)
        return jnp.broadcast_to(tokens.astype(self.dtype), (batch, self.count, channels))


class MaskModule(nn.Module):
    """Normalised tokens of queries and patches -> the classes and masks of the queries, O(4^u h w (c^2 + q c)).

    A mask is the product of a query after an MLP of three layers with the patches after `u = upsamplings` times a
    transposed 2x2 convolution, GELU, a depthwise 3x3 convolution and a normalisation.

    Attributes:
      num_classes: of the data.
      upsamplings: how often the patches' map is doubled.
    """

    num_classes: int
    upsamplings: int
    dtype: Dtype

    @nn.compact
    def __call__(self, queries: Float[Array, "b q c"], patches: Float[Array, "b h w c"]) -> Queries:
        """Returns the prediction."""
        c = queries.shape[-1]
        x, y = patches, queries.astype(self.dtype)
        for i in range(self.upsamplings):
            x = gelu(ConvTranspose(c, dtype=self.dtype, name=f"up{i}")(x))
            x = Conv(c, 3, groups=c, dtype=self.dtype, name=f"up_conv{i}")(x)
            x = layer_norm(f"up_norm{i}")(x).astype(self.dtype)
        for i in range(3):
            y = gelu(y) if i else y
            y = Dense(c, dtype=self.dtype, name=f"mask{i}")(y)
        masks = jnp.einsum("bqc,bhwc->bqhw", y, x, preferred_element_type=jnp.float32)
        return Queries(Dense(self.num_classes + 1, dtype=jnp.float32, name="classes")(queries), masks)


class EoMT(Decoder):
    """Queries that are tokens of the backbone's last blocks, a plain vision transformer; no decoder otherwise.

    They attend with the patches, and the patches with them, O(blocks (h w + q)^2 c). Before each of these blocks they
    predict classes and masks, which are trained too, and each looks only at the patches that its mask covers. That is
    annealed away over the training, block after block: where the probability of masking is p, a query of an image is
    masked in this block of this step with probability p, and in evaluation where p is at least 1/2. Without masks,
    at the end of the training, the model is its backbone with a few more tokens.

    The probabilities are statistics of the model, `mask_probability`; files of trained models have them.

    Attributes:
      queries: number of queries.
      blocks: of the backbone, its last, that see them.
      upsamplings: how often the patches' map is doubled for the masks: 2 for patches of 16 pixels gives the stride 4.
      masked: masked attention, and predictions before the blocks.
      anneal: `blocks + 1` shares of the training between which the blocks are annealed, one after another; () divides
        it into `blocks + 2` parts, of which the first and the last change nothing. All 1 never anneals.
      anneal_power: the probability falls as `(1 - progress)^anneal_power`.
    """

    visits: ClassVar[bool] = True
    exclusive: ClassVar[bool] = True
    log_scores: ClassVar[bool] = True

    queries: int = option(100, at_least=1, at_most=4096)
    blocks: int = option(4, at_least=1, at_most=100)
    upsamplings: int = option(2, at_least=0, at_most=5)
    masked: bool = True
    anneal: tuple[float, ...] = option((), at_least=0, at_most=1)
    anneal_power: float = option(0.9, at_least=0, at_most=100)

    def setup(self):
        """Makes what all blocks share."""
        self.start = QueryTokens(self.queries, self.dtype)
        self.mask_module = MaskModule(self.num_classes, self.upsamplings, self.dtype)
        if self.masked:
            self.mask_probability = self.variable(
                "batch_stats", "mask_probability", jnp.ones, (self.blocks,), jnp.float32
            )

    def visit(
        self, tokens: Float[Array, "b n c"], place: Place, *, left: int, train: bool = False
    ) -> tuple[Float[Array, "b m c"], dict[str, Any], Queries | None]:
        """The tokens that enter the backbone's block before the end by `left`, its arguments, what the queries predict.

        Raises:
          OptionError: the backbone has fewer blocks than the queries are to see.
        """
        number = self.blocks - left
        if number < 0:
            return tokens, {}, None
        if tokens.shape[1] == place.last:
            queries = self.start(tokens.shape[0], tokens.shape[2])
            tokens = jnp.concatenate([tokens, queries.astype(tokens.dtype)], axis=1)
            if number:
                hint = f"is more than the {left} blocks of the backbone: choose at most that"
                raise OptionError("blocks", self.blocks, hint)
        options = {"record": lambda seen: _of_patches(seen, place, tokens.shape[1])}
        if not self.masked:
            return tokens, options, None
        if train or self.is_initializing():
            prediction = self._predict(tokens, place)
            mask = self._mask(prediction, place, number, train)
        else:
            prediction, masked = None, self.mask_probability.value[number] >= 0.5
            # Only one of them is computed: what is deployed after the annealing needs no masks.
            mask = jax.lax.cond(
                masked,
                lambda: self._mask(self._predict(tokens, place), place, number, train),
                lambda: jnp.ones((tokens.shape[0], 1, self.queries, tokens.shape[1]), bool),
            )
        return tokens, {**options, "tail_mask": mask}, prediction

    def __call__(self, features: Features, *, gate: Gate | None = None, train: bool = False) -> Output:
        """Returns the queries at the end, and those before each block in training; it gates no skips.

        What they attend to among the patches is recorded as `queries`.

        Raises:
          OptionError: what came from the backbone is not the map of its patches any more.
        """
        queries, found = features.extras["visitors"], features.deepest.shape[-1]
        if len(features.maps) > 1 or found != queries.shape[-1]:
            hint = (
                f"compares queries with the map of the patches, of {queries.shape[-1]} channels, and got "
                f"{len(features.maps)} maps, the last of {found}: set the backbone's pyramid=False, and "
                "choose an attention mechanism that keeps the channels, such as none"
            )
            raise OptionError("", type(self).__name__, hint)
        earlier = {f"eomt{i}": prediction for i, prediction in enumerate(features.extras["notes"])}
        return Output(None, queries=self.mask_module(queries, features.deepest), aux_queries=earlier)

    def scheduled(self, statistics: Mapping[str, Any], done: Float[Array, ""]) -> Mapping[str, Any]:
        """The statistics of this decoder when this share of the training is done.

        Raises:
          OptionError: shares that do not fit the blocks, or fall.
        """
        if not self.masked:
            return statistics
        at = self.anneal or tuple((i + 1) / (self.blocks + 2) for i in range(self.blocks + 1))
        if len(at) != self.blocks + 1 or list(at) != sorted(at):
            hint = f"must be {self.blocks + 1} shares of the training that do not fall, or () to divide it evenly"
            raise OptionError("anneal", self.anneal, hint)
        start, end = (jnp.array(x, jnp.float32) for x in (at[:-1], at[1:]))
        # A block whose shares are one falls at once.
        progress = jnp.clip((done - start) / jnp.maximum(end - start, 1e-9), 0.0, 1.0)
        return {**statistics, "mask_probability": (1.0 - progress) ** self.anneal_power}

    def _predict(self, tokens: Array, place: Place) -> Queries:
        normed = place.norm(tokens).astype(self.dtype)
        patches = normed[:, place.first : place.last]
        return self.mask_module(normed[:, place.last :], patches.reshape(tokens.shape[0], *place.grid, -1))

    def _mask(self, prediction: Queries, place: Place, number: int, train: bool) -> Bool[Array, "b 1 q n"]:
        """Where each query may look: all tokens beside the patches, and the patches that its mask covers, or all."""
        b, q = prediction.masks.shape[:2]
        masks = jnp.moveaxis(resize(jnp.moveaxis(prediction.masks, 1, 3), place.grid), 3, 1)
        covered = masks.reshape(b, q, -1) > 0
        if train:
            p = self.mask_probability.value[number]
            covered |= (uniform(self.make_rng("dropout"), (b, q)) > p)[..., None]
        before, behind = (jnp.ones((b, q, n), bool) for n in (place.first, q))
        return jnp.concatenate([before, covered, behind], axis=2)[:, None]


def uniform(key: Array, shape: tuple[int, int]) -> Float[Array, "b q"]:
    """What decides which queries are masked."""
    return jax.random.uniform(key, shape)


def _of_patches(seen: DotProductMap, place: Place, count: int) -> DotProductMap:
    """What the queries, the tokens behind the patches, give to these, without their shares for other tokens."""
    mask = None if seen.mask is None else seen.mask[..., place.first : place.last]
    q = seen.q[:, place.last - count :]
    return DotProductMap(q, seen.k[:, place.first : place.last], mask=mask, key_size=place.grid)
