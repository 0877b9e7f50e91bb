"""From logits to what is predicted: the most probable class of each pixel, or each class by itself."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnseg_jax.ops.metrics import as_pair, confidence


def class_logits(logits: Float[Array, "*b _"]) -> Float[Array, "*b _"]:
    """The logits of two classes where there is a single one, of the second against the first; others as they are.

    >>> class_logits(jnp.array([[2.0]])).tolist(), class_logits(jnp.array([[2.0, 1.0]])).tolist()
    ([[0.0, 2.0]], [[2.0, 1.0]])
    """
    return as_pair(logits[..., 0]) if logits.shape[-1] == 1 else logits


@dataclass(frozen=True)
class Decision:
    """How the logits of classes are read.

    Attributes:
      multilabel: whether each class is there or not whatever the others are, by the sigmoid of its logit; otherwise one
        of them is, by the softmax of all.
      threshold: the probability from which on a class is there; of two that exclude one another, the second. Of more of
        these the most probable one is there.
      log_scores: whether the logits are logarithms of scores, such as those of queries, so that scores are what is
        averaged and resized, as MaskFormer and EoMT do.
    """

    multilabel: bool = False
    threshold: float = 0.5
    log_scores: bool = False

    def to_linear(self, logits: Float[Array, "*b k"]) -> Float[Array, "*b k"]:
        """What is averaged over windows and resized: the logits themselves, or scores."""
        return jnp.exp(logits) if self.log_scores else logits

    def from_linear(self, values: Float[Array, "*b k"]) -> Float[Array, "*b k"]:
        """The logits of such averages, finite where a score is 0.

        >>> Decision(log_scores=True).from_linear(jnp.array([1.0, 0.0])).round(1).tolist()
        [0.0, -87.30000305175781]
        """
        return jnp.log(jnp.maximum(values, jnp.finfo(jnp.float32).tiny)) if self.log_scores else values

    def classes(self, logits: Float[Array, "*b k"]) -> Int[Array, "..."]:
        """The class of each pixel `[*b]`, or whether each class is there, 1 or 0, `[*b, k]`.

        >>> logits = jnp.array([[0.0, 1.0], [0.0, -1.0]])
        >>> Decision().classes(logits).tolist(), Decision(threshold=0.8).classes(logits).tolist()
        ([1, 0], [0, 0])
        >>> Decision(multilabel=True, threshold=0.2).classes(logits).tolist()
        [[1, 1], [1, 1]]
        """
        least = math.log(self.threshold / (1 - self.threshold))
        if self.multilabel:
            return (logits >= least).astype("int32")
        if self.threshold != 0.5 and logits.shape[-1] == 2:
            return (logits[..., 1] - logits[..., 0] >= least).astype("int32")
        return logits.argmax(-1)

    def probabilities(self, logits: Float[Array, "*b k"]) -> Float[Array, "*b k"]:
        """Those of the classes."""
        return jax.nn.sigmoid(logits) if self.multilabel else jax.nn.softmax(logits)

    def logits(self, probabilities: Float[Array, "*b k"]) -> Float[Array, "*b k"]:
        """Logits of such probabilities, finite where these are 0."""
        least = jnp.finfo(jnp.float32).tiny
        logits = jnp.log(jnp.maximum(probabilities, least))
        return logits - jnp.log(jnp.maximum(1 - probabilities, least)) if self.multilabel else logits

    def sure(self, logits: Float[Array, "*b k"]) -> Float[Array, "*b"]:
        """The probability of the most probable class; of independent classes that of the least sure answer."""
        if self.multilabel:
            return jax.nn.sigmoid(jnp.abs(logits)).min(-1)
        return confidence(logits)

    def entropy(self, logits: Float[Array, "*b k"]) -> Float[Array, "*b"]:
        """That of the probabilities, from 0 (sure) to 1 (all alike); of independent classes the mean of theirs."""
        if self.multilabel:
            pair = as_pair(logits)
            return -(jax.nn.softmax(pair) * jax.nn.log_softmax(pair)).sum(-1).mean(-1) / math.log(2)
        terms = jax.nn.softmax(logits) * jax.nn.log_softmax(logits)
        return -terms.sum(-1) / math.log(max(logits.shape[-1], 2))


SOFTMAX = Decision()
"""The most probable of classes that exclude one another."""
