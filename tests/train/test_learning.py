"""The systems of the comparison, those with published weights aside, can learn four images by heart."""

import functools
import importlib

import jax
import numpy as np
import pytest
from region_oracle import region_oracle

from attnseg_jax.configs import default
from attnseg_jax.data.pipeline import evaluation_sample
from attnseg_jax.data.sources import load_source
from attnseg_jax.evaluation.scores import Scores
from attnseg_jax.ops.labels import IGNORE_LABEL
from attnseg_jax.ops.metrics import confusion_matrix
from attnseg_jax.train.objective import Supervised
from attnseg_jax.train.optimizer import make_optimizer
from attnseg_jax.train.setup import abstract_inputs, make_model
from attnseg_jax.train.state import create_state, eval_variables
from attnseg_jax.train.step import eval_step, train_step

IMAGES = 4
STEPS = {"segnet": 150, "segnet_basic": 150}
# For images of 64 x 96 pixels.
REGIONS = {"felzenszwalb.scales": (20.0, 100.0), "felzenszwalb.min_size": 8, "count": 64, "sample": 0}


@pytest.fixture(autouse=True)
def optimised():
    """These programs run for longer than they compile."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def learn(name, tmp_path):
    """mIoU on the images it was trained on; label and regions of these."""
    config = importlib.import_module(f"configs.compare.{name}").get_config()
    with config.unlocked():
        own = config.data.regions
        config.data = default.get_config().data
        config.data.regions = own
    config.data.regions.cache = str(tmp_path)
    for key, value in REGIONS.items():
        config.update_from_flattened_dict({f"data.regions.{key}": value})
    steps = STEPS.get(name, 200)
    config.train.update(steps=steps, batch_size=IMAGES)
    config.loss.class_weights = "none"
    config.optimizer.update(weight_decay=0.0, warmup_steps=10, learning_rate=2e-3)
    config.model.fast_rcnn.dropout = 0.0
    config.model.rcnn.size = 32
    source = load_source(config.data, "train")
    rows = [evaluation_sample(source[i], config.data) for i in range(IMAGES)]
    batch = {key: np.stack([row[key] for row in rows]) for key in rows[0]} | {"valid": np.ones(IMAGES, bool)}
    classes = source.info.num_classes
    model, (rule, schedule) = make_model(config, classes), make_optimizer(config.optimizer, steps)
    step = functools.partial(train_step, model=model, optimizer=rule, objective=Supervised(classes), schedule=schedule)
    train = jax.jit(step, donate_argnums=0)
    state = create_state(model, rule, jax.random.key(0), abstract_inputs(config))
    for _ in range(steps):
        state, _ = train(state, batch)
    score = functools.partial(eval_step, model=model, num_classes=classes)
    counts, _ = jax.jit(score)(eval_variables(state), batch)
    return Scores.from_confusion(np.asarray(counts["confusion"])).miou, batch, classes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fcn", "self", "local", "nonlocal", "psa", "scse", "segnet", "segnet_basic"])
def test_systems_that_classify_pixels(name, tmp_path):
    assert learn(name, tmp_path)[0] >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rcnn", "fast_rcnn"])
def test_systems_that_classify_regions(name, tmp_path):
    miou, batch, classes = learn(name, tmp_path)
    pairs = zip(batch["label"], batch["regions"], strict=True)
    best = np.stack([region_oracle(label, found, classes) for label, found in pairs])
    # A pixel of no region counts as its first class would.
    confusion = confusion_matrix(np.where(best == IGNORE_LABEL, 0, best), batch["label"], classes)
    allowed = Scores.from_confusion(np.asarray(confusion)).miou
    assert 0.6 < allowed < 1
    assert miou >= 0.95 * allowed, (miou, allowed)
