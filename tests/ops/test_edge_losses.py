"""Losses of borders between classes: mmsegmentation's numbers, borders by hand, devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from golden import Golden
from layout import assert_golden, nchw, nhwc
from sown import FAST_COMPILE

from attnseg_jax.models.features import Output
from attnseg_jax.ops import losses
from attnseg_jax.ops.resize import resize
from attnseg_jax.train.losses import make_losses
from attnseg_jax.train.objective import Supervised


def test_the_original():
    """Its edges are given, and it divides by the ignored pixels too; its choice of hard pixels has no minimum here."""
    case = Golden("loss_pidnet")
    inputs = case.inputs()
    labels, edges = jnp.asarray(inputs["labels"]), jnp.asarray(inputs["edges"])
    void = jnp.where(edges == 255, 255, 0)

    def full(x):
        return resize(x, labels.shape[1:], align_corners=True)

    def hard(logits, labels):
        return losses.mean(*losses.ohem(logits, labels, threshold=0.9, min_kept=0.0))

    def terms(i, d):
        z = full(d)[..., 0]
        loss_sum, count = losses.edge_cross_entropy(z, edges == 1, void)
        near = losses.labels_near_edges(labels, z)
        found = {"loss_bd": 20 * loss_sum / edges.size, "loss_sem_bd": hard(full(i), near)}
        found["loss_sem_i"] = hard(full(i), labels)
        return sum(found.values()), (found, count)

    i, d = nhwc(inputs["i"]), nhwc(inputs["d"])
    (_, (found, count)), gradients = FAST_COMPILE(jax.value_and_grad(terms, (0, 1), has_aux=True))(i, d)
    assert count == (inputs["edges"] != 255).sum() < edges.size
    for name, value in found.items():
        assert_golden(case, name, value)
    for name, value in zip(("grad/i", "grad/d"), gradients):
        assert_golden(case, name, nchw(value))


def test_borders_by_loops():
    labels = np.random.default_rng(0).choice([0, 1, 2, 255], (2, 7, 9), p=[0.7, 0.1, 0.1, 0.1])
    expected = np.zeros(labels.shape, bool)
    for b, i, j in np.ndindex(labels.shape):
        near = labels[b, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
        expected[b, i, j] = labels[b, i, j] != 255 and len({*near.ravel()} - {255}) > 1
    found = FAST_COMPILE(functools.partial(losses.class_edges, width=1))(jnp.asarray(labels))
    np.testing.assert_array_equal(found, expected)
    assert expected.any() and not expected.all()


def test_what_training_minimises():
    """Logits, borders and logits near borders, with their weights; the same on two devices."""
    rng = np.random.default_rng(0)
    labels = jnp.asarray(rng.choice([0, 1, 2, 255], (4, 6, 8)))
    logits, edges = (jnp.asarray(3 * rng.normal(size=(4, 6, 8, c)), jnp.float32) for c in (3, 1))
    objective = Supervised(3, make_losses("cross_entropy", num_classes=3))

    def minimised(sums, counts):
        return objective.metrics({name: x / counts[name] if name in counts else x for name, x in sums.items()})

    def terms(output, labels):
        return objective(output, {"label": labels}, axis_name="device")

    @FAST_COMPILE
    def run(output, labels):
        found = minimised(*objective(output, {"label": labels}))
        z = output.edges[..., 0]
        main = losses.mean(*losses.cross_entropy(output.logits, labels))
        borders = losses.mean(*losses.edge_cross_entropy(z, losses.class_edges(labels), labels))
        aware = losses.mean(*losses.cross_entropy(output.logits, losses.labels_near_edges(labels, z)))
        halves = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), (output, labels))
        apart = minimised(*jax.tree.map(lambda x: x.sum(0), jax.vmap(terms, axis_name="device")(*halves)))
        return found, apart, {"edges": borders, "edge_aware": aware, "loss": main + 20 * borders + aware}

    found, apart, expected = run(Output(logits, edges=edges), labels)
    for name, value in expected.items():
        np.testing.assert_allclose([found[name], apart[name]], value, rtol=1e-5)
