"""The losses beside cross-entropy in float64, pixel by pixel as they are defined, and labels and logits for them."""

import functools
import itertools

import numpy as np

B, H, W, K = 3, 6, 9, 5
WEIGHTS = np.array([0.5, 2.0, 0.0, 1.0, 3.0])
PLACES = [*itertools.product(range(B), range(H), range(W))]


@functools.cache
def draw():
    """Regions of 3 x 3 pixels, of which a pixel here and there is ignored, more in the second image; a padding row."""
    rng = np.random.default_rng(3)
    # The last class occurs in one image, the one before in none.
    classes = np.stack([rng.integers(0, 3, (2, 3)), np.where(rng.random((2, 3)) < 0.4, 4, rng.integers(0, 3, (2, 3)))])
    labels = np.kron(classes, np.ones((1, 3, 3), int))
    labels = np.where(rng.random(labels.shape) < np.array([0.15, 0.4]).reshape(2, 1, 1), 255, labels)
    labels = np.concatenate([labels, np.full((1, H, W), 255)])
    assert labels.shape == (B, H, W) and (labels[1] == 4).any() and not (labels == 3).any()
    logits = 1.5 * rng.standard_normal((B, H, W, K)) + 1.5 * (labels[..., None] == np.arange(K))
    return logits.astype(np.float32), labels.astype(np.int32)


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def valid_pixels(logits, labels):
    return [(z, y) for z, y in zip(logits.reshape(-1, K), labels.ravel()) if y != 255]


def overlap(logits, labels, alpha, beta, *, smooth=0.0, log=False, classes=range(K), gamma=1.0):
    total = 0.0
    for k in classes:
        hit = false_alarm = miss = 0.0
        for z, y in valid_pixels(logits, labels):
            p = softmax(z)[k]
            hit, miss, false_alarm = (hit + p, miss + 1 - p, false_alarm) if y == k else (hit, miss, false_alarm + p)
        if (labels == k).any():
            score = (hit + smooth) / (hit + alpha * false_alarm + beta * miss + smooth)
            total += -np.log(score) if log else 1 - score
    return (total / len(classes)) ** gamma


def focal(logits, labels, gamma=2.0, alpha=None, normalized=False, weights=None):
    weights = np.ones(K) if weights is None else weights
    pixels = valid_pixels(logits, labels)
    total = 0.0
    for k in range(K):
        sum_k = factors = 0.0
        for z, y in pixels:
            p = 1 / (1 + np.exp(-z[k]))
            q, share = (p, alpha) if y == k else (1 - p, None if alpha is None else 1 - alpha)
            sum_k += (1 if share is None else share) * (1 - q) ** gamma * -np.log(q)
            factors += (1 - q) ** gamma
        total += weights[k] * sum_k / (factors if normalized else len(pixels))
    return total / weights.sum()


def ohem(logits, labels, threshold=0.7, min_kept=0.1, weights=None, smoothing=0.0):
    weights = np.ones(K) if weights is None else weights
    pixels = sorted(valid_pixels(logits, labels), key=lambda zy: softmax(zy[0])[zy[1]])
    least = round(min_kept * len(pixels))
    total = count = 0.0
    for i, (z, y) in enumerate(pixels):
        p = softmax(z)
        if i < least or p[y] < threshold:
            total += -(1 - smoothing) * weights[y] * np.log(p[y]) - smoothing * np.mean(weights * np.log(p))
            count += weights[y]
    return total / count


def lovasz(logits, labels):
    """The Lovasz extension of the Jaccard loss, by its definition on sets of wrong pixels."""
    images = []
    for image, truth in zip(logits, labels):
        pixels = valid_pixels(image, truth)
        by_class = []
        for k in {y for _, y in pixels}:
            errors = [abs(float(y == k) - softmax(z)[k]) for z, y in pixels]
            own = {i for i, (_, y) in enumerate(pixels) if y == k}
            wrong, before, total = set(), 0.0, 0.0
            for i in sorted(range(len(pixels)), key=lambda i: -errors[i]):
                wrong.add(i)
                loss = 1 - len(own - wrong) / len(own | wrong)
                total += errors[i] * (loss - before)
                before = loss
            by_class.append(total)
        if pixels:
            images.append(np.mean(by_class))
    return np.mean(images)


def boundary(logits, labels, tolerance=2, width=1):
    p = np.apply_along_axis(softmax, -1, logits)
    truth = (labels[..., None] == np.arange(K)).astype(float)

    def around(place, reach):
        b, i, j = place
        for y, x in itertools.product(range(i - reach, i + reach + 1), range(j - reach, j + reach + 1)):
            if 0 <= y < H and 0 <= x < W and labels[b, y, x] != 255:
                yield b, y, x

    seen = [place for place in PLACES if labels[place] != 255]
    scores = []
    for k in range(K):
        edges = []
        for region in (p[..., k], truth[..., k]):
            edges.append({s: max(1 - region[n] for n in around(s, width)) - (1 - region[s]) for s in seen})
        # The tolerance reaches over the same pixels, so that an ignored one may lie between.
        predicted, true = edges
        if sum(true.values()) == 0:
            continue
        near = [{s: max(e[n] for n in around(s, tolerance)) for s in seen} for e in edges]
        precision = sum(predicted[s] * near[1][s] for s in seen) / sum(predicted.values())
        recall = sum(true[s] * near[0][s] for s in seen) / sum(true.values())
        scores.append(1 - 2 * precision * recall / (precision + recall))
    return np.mean(scores)
