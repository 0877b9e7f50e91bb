"""The embedded data set: its scenes, and `builder` with the TFDS data set made of them."""

from attnseg_jax.data.context.scenes import FORMS, HEIGHT, KEY_COLOURS, KEY_DISTANCE, WIDTH, Scene, draw_scene

__all__ = ["FORMS", "HEIGHT", "KEY_COLOURS", "KEY_DISTANCE", "WIDTH", "Scene", "draw_scene"]
