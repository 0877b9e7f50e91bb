"""Pairs of the images that a JSON file of COCO lists; the file stands for the mask of each."""

import os

from attnseg_jax.data.annotations import coco_file
from attnseg_jax.data.layouts.pairing import Pair, Pairing
from attnseg_jax.data.layouts.templates import Form, fixed_folder, matches
from attnseg_jax.data.layouts.tree import Tree


def coco_pairs(tree: Tree, form: Form) -> Pairing:
    """The pairs of a form of one split (see `Form.of_split`), whose `masks` are the name of the file.

    Raises:
      UserError: it cannot be read, or is none of COCO.
    """
    if not tree.has(form.masks):
        return Pairing([], 0, [], [], [], [])
    folder = fixed_folder(form.images)
    pairs, missing = [], []
    for name in coco_file(tree.root / form.masks).images:
        places = [f"{folder}/{part}" if folder else part for part in (name, os.path.basename(name))]
        image = next((place for place in places if tree.has(place)), None)
        if image is None:
            missing.append(places[0])
        else:
            pairs.append(Pair(os.path.splitext(name)[0], image, form.masks))
    listed = {pair.image for pair in pairs}
    without = [(path, f"images of {form.masks}") for path, _ in matches(tree, form.images) if path not in listed]
    pairs.sort(key=lambda pair: pair.name)
    return Pairing(pairs, len(pairs) + len(without), without, [], [], missing)
