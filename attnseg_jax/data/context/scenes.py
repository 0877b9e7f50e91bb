"""The embedded data set: scenes in which a shape's class depends on a key patch far away from it.

Every scene holds two or three textured shapes (disc, triangle, cross) in one end of the picture and one vivid key patch
in the other, at least 30 pixels from every shape pixel in x.  The class of a shape is 1 + form + 3 * key, and 0 is the
background; only the patch's colour shows the key.  A model whose receptive field reaches less than 30 pixels to each
side can see the form, never the key: between the two classes of a form it can only guess.
"""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from attnseg_jax.ops.labels import IGNORE_LABEL

HEIGHT, WIDTH = 64, 96
FORMS = ("disc", "triangle", "cross")
KEY_COLOURS = ((250, 70, 20), (20, 90, 250))
"""The patch's colour for key 0 (orange) and key 1 (blue); nothing else in a scene is vivid."""
KEY_DISTANCE = 30
"""Least distance in pixels, along x, between a pixel of the key patch and one of a shape."""

SPLITS = ("train", "val", "test")
_KEY_SIZE = (13, 16)
_SHAPE_SIZE = (18, 25)
_OVERSAMPLE = 4


@dataclasses.dataclass(frozen=True)
class Scene:
    """A drawn scene: image, train ids (255 on the rims), the key (0 or 1) and its patch (top, left, bottom, right).

    `shapes` are the drawn shapes (bool [h, w] each, rims included) with their forms.
    """

    image: UInt8[np.ndarray, "h w 3"]
    label: UInt8[np.ndarray, "h w"]
    key: int
    key_box: tuple[int, int, int, int]
    shapes: tuple[tuple[int, Bool[np.ndarray, "h w"]], ...]


def draw_scene(split: str, index: int, key: int | None = None) -> Scene:
    """Scene `index` of `split`, always the same one; `key` overrides the drawn key and changes nothing else.

    >>> scene = draw_scene("val", 0)
    >>> scene.image.shape, scene.label.shape, scene.key in (0, 1)
    ((64, 96, 3), (64, 96), True)
    """
    # The key has a generator of its own: nothing else in the scene can depend on it.
    place = [SPLITS.index(split), index]
    rng = np.random.default_rng([*place, 0])
    if key is None:
        key = int(np.random.default_rng([*place, 1]).integers(2))
    side, box, left = _layout(rng)
    image = _texture(rng, luma=rng.uniform(55, 90))
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    shapes = _place_shapes(rng, left)
    for form, mask in shapes:
        texture = _texture(rng, luma=rng.uniform(150, 200), waves=form)
        soft = mask[..., None]
        image = image * (1 - soft) + texture * soft
    noise = rng.normal(0, 5, image.shape)
    top, x0, bottom, x1 = box
    image[top:bottom, x0:x1] = KEY_COLOURS[key]
    image = (image + noise).clip(0, 255).astype(np.uint8)
    drawn = tuple((form, mask > 0) for form, mask in shapes)
    for (form, mask), (_, cover) in zip(drawn, shapes):
        # Two pixels of rim: the blended one and one outside.
        label[_grow(mask, 1)] = IGNORE_LABEL
        label[cover > 0.99] = 1 + form + 3 * key
    rim = np.zeros((HEIGHT, WIDTH), bool)
    rim[top:bottom, x0:x1] = True
    label[_grow(rim, 1) & ~rim] = IGNORE_LABEL
    if side:
        image, label = image[:, ::-1], label[:, ::-1]
        box = (top, WIDTH - x1, bottom, WIDTH - x0)
        drawn = tuple((form, mask[:, ::-1]) for form, mask in drawn)
    return Scene(np.ascontiguousarray(image), np.ascontiguousarray(label), key, box, drawn)


def _layout(rng: np.random.Generator) -> tuple[bool, tuple[int, int, int, int], int]:
    """Side of the key (False: left), its box as if on the left, and the first column that shapes may use."""
    side = bool(rng.integers(2))
    h, w = (int(v) for v in rng.integers(*_KEY_SIZE, 2, endpoint=True))
    top, left = int(rng.integers(1, HEIGHT - h)), int(rng.integers(1, 5))
    return side, (top, left, top + h, left + w), left + w - 1 + KEY_DISTANCE


def _place_shapes(rng: np.random.Generator, left: int) -> list[tuple[int, np.ndarray]]:
    """Two or three shapes right of column `left`, at least 2 pixels apart: (form, coverage float [h, w])."""
    forms = [int(form) for form in rng.integers(3, size=rng.integers(2, 3, endpoint=True))]
    circles: list[tuple[float, float, float]] = []
    shapes: list[tuple[int, np.ndarray]] = []
    for attempt in itertools.count(1):
        form = forms[len(shapes)]
        size = int(rng.integers(*_SHAPE_SIZE, endpoint=True)) + 3 * (form == 1)  # a triangle fills its circle less
        y, x = int(rng.integers(1, HEIGHT - size)), int(rng.integers(left, WIDTH - size))
        circle = y + size / 2, x + size / 2, size / 2
        if all(np.hypot(circle[0] - v, circle[1] - u) > circle[2] + r + 2 for v, u, r in circles):
            circles.append(circle)
            shapes.append((form, _shape(form, size, y, x, rng.uniform(0, 2 * np.pi))))
        if len(shapes) == len(forms):
            break
        if attempt % 100 == 0:  # no room for the next one
            if len(shapes) == 2:
                break
            circles, shapes = [], []
    return shapes


def _shape(form: int, size: int, y: int, x: int, angle: float) -> np.ndarray:
    """Coverage (0..1) of a shape inside the square at (y, x) with sides `size`, smooth at its rim."""
    scale = _OVERSAMPLE
    canvas = Image.new("L", (size * scale, size * scale))
    pen, centre, r = ImageDraw.Draw(canvas), size * scale / 2, size * scale / 2 - scale
    if form == 0:
        pen.ellipse((centre - r, centre - r, centre + r, centre + r), fill=255)
    elif form == 1:
        corners = [angle + 2 * np.pi * i / 3 for i in range(3)]
        pen.polygon([(centre + r * np.cos(a), centre + r * np.sin(a)) for a in corners], fill=255)
    else:
        for turn in (angle, angle + np.pi / 2):
            u, v = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
            ends = [u * a * r * 0.93 + v * b * r * 0.36 for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))]
            pen.polygon([tuple(centre + e) for e in ends], fill=255)
    mask = np.zeros((HEIGHT, WIDTH))
    mask[y : y + size, x : x + size] = np.asarray(canvas.resize((size, size), Image.Resampling.BOX)) / 255
    return mask


def _texture(rng: np.random.Generator, luma: float, waves: int = 0) -> np.ndarray:
    """A dull random colour of about that luma with soft blobs and, for `waves` 1 and 2, stripes or a checker pattern.

    Angle, period and phase are random; the result is float [h, w, 3].
    """
    colour = luma + rng.uniform(-22, 22, 3)
    coarse = Image.fromarray(rng.normal(0, 12, (5, 7)).astype(np.float32))
    field = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    angle = rng.uniform(0, np.pi)
    pattern = 30.0
    for turn in (angle, angle + np.pi / 2)[:waves]:
        frequency, phase = 2 * np.pi / rng.uniform(5, 7), rng.uniform(0, 2 * np.pi)
        pattern = pattern * np.sin(frequency * (x * np.cos(turn) + y * np.sin(turn)) + phase)
    if waves:
        field = field + pattern
    return colour + field[..., None]


def _grow(mask: np.ndarray, by: int) -> np.ndarray:
    """`mask` and all pixels within `by` pixels (Chebyshev) of it."""
    padded = np.pad(mask, by)
    h, w = mask.shape
    rows = np.logical_or.reduce([padded[i : i + h] for i in range(2 * by + 1)])
    return np.logical_or.reduce([rows[:, i : i + w] for i in range(2 * by + 1)])
