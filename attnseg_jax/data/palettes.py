"""Colours of classes."""

import colorsys
import math

Colour = tuple[int, int, int]

_FIRST_COLOURS: tuple[Colour, ...] = (
    *((44, 48, 58), (250, 200, 70), (86, 180, 115), (150, 110, 220), (240, 140, 60), (60, 115, 200)),
    *((230, 130, 180), (165, 215, 60), (150, 100, 60), (60, 170, 170), (205, 205, 210), (120, 60, 130)),
)


def default_palette(count: int) -> tuple[Colour, ...]:
    """Colours of the first `count` classes: a dark one, since class 0 is mostly the background, then vivid ones.

    None is near the colours of errors in pictures. From the thirteenth class on, hues are a golden angle apart.

    >>> default_palette(3)
    ((44, 48, 58), (250, 200, 70), (86, 180, 115))
    """
    return (*_FIRST_COLOURS, *map(_further_colour, range(len(_FIRST_COLOURS), count)))[:count]


def _further_colour(i: int) -> Colour:
    saturation, value = ((0.55, 0.9), (0.8, 0.6), (0.35, 0.75))[i % 3]
    # Hues from yellow over green and violet to pink: the red ones are those of errors.
    hue = 0.1 + 0.8 * (i * (math.sqrt(5) - 1) / 2 % 1)
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, saturation, value))


def voc_palette(count: int) -> tuple[Colour, ...]:
    """The colours of PASCAL VOC: the bits of the number, three by three, make the highest bits of the channels.

    >>> voc_palette(4)
    ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    """
    return tuple(
        tuple(sum((k >> 3 * place + channel & 1) << 7 - place for place in range(3)) for channel in range(3))
        for k in range(count)
    )
