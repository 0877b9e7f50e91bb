"""What is predicted stands where it is in the image, through every door, for sizes that no stride divides."""

import functools
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from attnseg_jax.configs import default
from attnseg_jax.data.sources import Source
from attnseg_jax.inference.restore import Restored, predict, predict_with_records
from attnseg_jax.models.attention import ATTENTION
from attnseg_jax.models.backbones.base import Backbone
from attnseg_jax.models.decoders.base import Decoder
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.records import GateMap, sow_record
from attnseg_jax.models.segmenter import Segmenter
from attnseg_jax.plots.attention_sheet import Scene
from attnseg_jax.train.evaluation import evaluate_split
from attnseg_jax.train.parallel import make_parallel
from attnseg_jax.train.step import eval_step

# 57 rows are 4 cells of 16, or 3 with the last ones dropped; 75 columns 5 or 4. The bright part ends with a cell.
SIZE, ROWS, COLUMNS = (57, 75), 32, 48


class Means(Backbone):
    """The mean of every 16x16 pixels; those that are left over make a cell, or none."""

    rounding: str = "up"

    @nn.compact
    def __call__(self, image, *, train=False):
        if self.rounding == "up":
            image = jnp.pad(image, [(0, 0), *((0, -n % 16) for n in image.shape[1:3]), (0, 0)])
        return Features({16: nn.avg_pool(image, (16, 16), (16, 16))})


class Brightness(Decoder):
    """Class 1 where the map is above 0."""

    @nn.compact
    def __call__(self, features, *, gate=None, train=False):
        x = features.deepest[..., :1]
        sow_record(self, "brightness", GateMap(x))
        return Output(jnp.concatenate([-x, x], axis=-1))


class Halves(Source):
    """Images that are bright above, left, and above again, the last of a size that needs no padding."""

    info = SimpleNamespace(num_classes=2, class_names=("dark", "bright"))

    def __len__(self):
        return 3

    def size(self, index):
        return SIZE if index < 2 else (64, 80)

    def __getitem__(self, index):
        label = np.zeros(self.size(index), np.uint8)
        if index == 1:
            label[:, :COLUMNS] = 1
        else:
            label[:ROWS] = 1
        return {"image": np.stack([40 + 150 * label] * 3, -1), "label": label, "id": str(index)}


@pytest.fixture(scope="module", params=["up", "down"])
def restored(request):
    config = default.get_config().unlock()
    config.data.update(mean=(115.0,) * 3, std=(60.0,) * 3)
    model = Segmenter(Means(rounding=request.param), ATTENTION["none"](), Brightness(num_classes=2))
    parallel = make_parallel("pmap", None, functools.partial(eval_step, model=model, num_classes=2))
    return Restored(config, "val", Halves(), model, parallel, parallel.put_state({}), 0)


def evaluated(restored):
    found = evaluate_split(restored.config, restored.model, restored.parallel, restored.variables, restored.source)
    return found, [found.samples[i] for i in range(3)]


def test_scores_and_predictions_are_exact(restored):
    found, samples = evaluated(restored)
    assert found.scores.miou == 1.0
    records = [restored.source[i] for i in range(3)]
    looked = [predict_with_records(restored, record["image"])[0] for record in records]
    for record, *doors in zip(records, samples, predict(restored, records), looked):
        for prediction in doors:
            np.testing.assert_array_equal(prediction, record["label"])


def test_without_padding_it_is_shifted(restored):
    """The test above can fail: what ends at row 32 is drawn to row 32 * 57 / 64, or 32 * 57 / 48."""
    rounding = restored.model.backbone.rounding
    with restored.config.unlocked():
        restored.config.eval.size_multiple = 1
    try:
        found, (above, left, fitting) = evaluated(restored)
    finally:
        restored.config.eval.size_multiple = 0
    assert found.scores.miou < 0.95
    cells = {"up": (4, 5), "down": (3, 4)}[rounding]
    assert abs(above[:, 0].sum() - ROWS * SIZE[0] / (16 * cells[0])) <= 0.5
    assert abs(left[0].sum() - COLUMNS * SIZE[1] / (16 * cells[1])) <= 0.5
    # Where the stride divides the size nothing is padded, and every bit is the same.
    np.testing.assert_array_equal(fitting, evaluated(restored)[1][2])


def test_points_of_an_attention_sheet(restored):
    """The position on the map that a pixel belongs to is the cell that it was averaged into."""
    image = restored.source[0]["image"]
    prediction, records, covered = predict_with_records(restored, image)
    assert covered == (64, 80)
    assert records["brightness0"].values.shape == (1, 4, 5, 1)
    scene = Scene(image, [(15, 16), (47, 47), (56, 74)], prediction, ("dark", "bright"), None, "", covered)
    assert scene.positions((4, 5)).tolist() == [1, 2 * 5 + 2, 3 * 5 + 4]
