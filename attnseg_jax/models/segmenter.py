"""The composition: backbone, attention, decoder."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict
from jaxtyping import Array, Float

from attnseg_jax.errors import OptionError, option_path
from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.features import Features, Output, check_returned
from attnseg_jax.ops.mask_classification import resized_semantic_logits, semantic_logits
from attnseg_jax.ops.resize import resize


class Segmenter(nn.Module):
    """An image through a backbone, an attention mechanism and a decoder into the logits of every pixel.

    Attributes:
      backbone: image -> `Features`.
      attention: `Features` -> `Features`; may gate the decoder's skips and refine its logits.
      decoder: `Features` -> `Output` at the size of its maps.
      aux_head: map -> auxiliary logits of the map of stride `aux_stride`; None for no such head.
      aux_stride: its nominal stride.
      align_corners: resizes logits to the image with aligned corners instead of half-pixel centres.
      paths: part -> where in a config its options stand, for messages.
    """

    backbone: nn.Module
    attention: Attention
    decoder: nn.Module
    aux_head: nn.Module | None = None
    aux_stride: int = 16
    align_corners: bool = False
    # Hashable, as a module must be.
    paths: Mapping[str, str] = FrozenDict()

    @property
    def size_multiple(self) -> int:
        """As in `Backbone`: decoders and mechanisms take maps of any size."""
        return self.backbone.size_multiple

    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Output:
        """Returns float32 logits at the size of `image` (float, normalised), and auxiliary logits.

        Raises:
          OptionError: the parts do not fit together, such as a mechanism that gates skips and a decoder without any.
        """
        features = self._call("backbone", Features, image, train=train, **self._visitor(train))
        if features.hint:
            features = features.replace(hint=".".join(filter(None, [self.paths.get("backbone"), features.hint])))
        features = self._call("attention", Features, features, train=train)
        decoded = self._decode(features, train)
        h, w = image.shape[1:3]
        size = features.padded_size or (h, w)

        def full(x: Array) -> Array:
            return resize(x.astype(jnp.float32), size, align_corners=self.align_corners)[:, :h, :w]

        aux = {**features.aux, **self._auxiliary(features, train), **decoded.aux}
        presence = {**features.presence, **decoded.presence}
        return Output(
            self._logits(decoded, features, size, full)[:, :h, :w],
            {name: full(x) for name, x in aux.items()},
            {name: x.astype(jnp.float32) for name, x in presence.items()},
            decoded.queries and decoded.queries.replace(size=size),
            {name: queries.replace(size=size) for name, queries in decoded.aux_queries.items()},
            None if decoded.edges is None else full(decoded.edges),
        )

    def _logits(self, decoded: Output, features: Features, size: tuple[int, int], full: Callable) -> Array:
        """The decoder's logits, refined by the mechanism, at full size."""
        queries, logits = decoded.queries, decoded.logits
        if logits is None:
            logits = semantic_logits(queries.classes, jnp.moveaxis(queries.masks, 1, 3))
        refined = self._call("attention", Array, logits, features, method="refine", channels=logits.shape[-1])
        # What a mechanism refines is at the size of the masks; otherwise these are resized first.
        if decoded.logits is None and refined is logits:
            return resized_semantic_logits(queries.classes, queries.masks, size, align_corners=self.align_corners)
        return full(refined)

    def scheduled(self, batch_stats: Mapping[str, Any], done: Float[Array, ""]) -> Mapping[str, Any]:
        """The statistics when this share of the training is done: those of a decoder with a schedule follow it.

        Raises:
          OptionError: an option of the schedule that does not fit the others.
        """
        if not hasattr(self.decoder, "scheduled") or "decoder" not in batch_stats:
            return batch_stats
        with option_path(self.paths.get("decoder", "")):
            return {**batch_stats, "decoder": self.decoder.scheduled(batch_stats["decoder"], done)}

    def _visitor(self, train: bool) -> dict[str, Callable]:
        """What the backbone calls before its blocks, where the decoder has tokens in them."""
        if not getattr(self.decoder, "visits", False):
            return {}
        if not getattr(self.backbone, "takes_visitors", False):
            hint = (
                "puts its queries into the last blocks of a plain vision transformer, and this backbone has none: "
                "choose a backbone vit_*, dinov2_vit_* or dinov3_vit_*, or the decoder masked_attention"
            )
            raise OptionError("", type(self.decoder).__name__, hint, self.paths.get("decoder", ""))

        def visit(*args: Any, **keywords: Any) -> tuple:
            with option_path(self.paths.get("decoder", "")):
                return self.decoder.visit(*args, train=train, **keywords)

        return {"visit": visit}

    def _call(
        self, part: str, kind: type, *args: Any, method: str = "__call__", channels: int = 0, **keywords: Any
    ) -> Any:
        """What a method of a part returns, checked to be of `kind`; errors of its options name where they stand."""
        module = getattr(self, part)
        with option_path(self.paths.get(part, "")):
            found = getattr(module, method)(*args, **keywords)
        who = type(module).__name__ + ("" if method == "__call__" else f".{method}")
        check_returned(found, kind, who, channels=channels)
        return found

    def _decode(self, features: Features, train: bool) -> Output:
        """The decoder's output, its skips gated by the mechanism."""
        gated = []

        # The mechanism trains as ever, in a frozen decoder too: what the decoder says of `train` is not asked.
        def gate(skip, signal, *, stride, **_):
            gated.append(stride)
            return self._call("attention", Array, skip, signal, method="gate", stride=stride, train=train)

        options = {"gate": gate if self.attention.has_gate else None, "train": train}
        channels = getattr(self.decoder, "num_classes", 0)
        decoded = self._call("decoder", Output, features, channels=channels, **options)
        if self.attention.has_gate and not gated:
            hint = (
                "weights a decoder's skips, and this decoder has none: choose another mechanism, or a decoder that has "
                f"some, such as fcn with skips=({min(features.maps)},)"
            ) + (f", or set {features.hint}" if features.hint else "")
            path = getattr(self.attention, "gate_path", self.paths.get("attention", ""))
            raise OptionError("", type(self.attention).__name__, hint, path)
        return decoded

    def _auxiliary(self, features: Features, train: bool) -> dict[str, Array]:
        if self.aux_head is None:
            return {}
        with option_path(self.paths.get("aux_head", "")):
            x = features.at(self.aux_stride, "aux_stride", self.aux_stride, "change aux_stride, or set aux=False")
        return {"fcn": self.aux_head(x, train=train)}
