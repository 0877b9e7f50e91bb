"""Models that classify regions: one device as eight, a run from its config to its scores, what does not fit."""

import functools
import json

import jax
import numpy as np
import pytest
from tiny import largest_difference, optimizer_config

from attnseg_jax import Predictor, build_model
from attnseg_jax.errors import UserError
from attnseg_jax.inference import evaluation, restore
from attnseg_jax.train import loop
from attnseg_jax.train.config import config_hash
from attnseg_jax.train.objective import Supervised
from attnseg_jax.train.optimizer import make_optimizer
from attnseg_jax.train.parallel import make_parallel
from attnseg_jax.train.setup import make_run
from attnseg_jax.train.state import create_state, eval_variables
from attnseg_jax.train.step import eval_step, model_inputs, train_step

SIZE, LEVELS, SLOTS = (8, 10), 2, 5
KINDS = {"rcnn": {"size": 6}, "fast_rcnn": {"bins": 2, "channels": 6, "dropout": 0.0}}


def batch(size):
    rng = np.random.default_rng(size)
    label = rng.integers(0, 3, (size, *SIZE)).astype(np.int32)
    label[rng.random(label.shape) < 0.4] = 255
    regions = rng.integers(-1, SLOTS, (size, *SIZE, 1)).astype(np.int32)
    # Each region at one level only.
    regions = np.where(regions % LEVELS == np.arange(LEVELS), regions, -1).astype(np.int32)
    image = rng.standard_normal((size, *SIZE, 3)).astype(np.float32)
    return {"image": image, "label": label, "valid": np.ones(size, bool), "regions": regions}


@pytest.mark.thorough
@pytest.mark.parametrize("kind, mode", [("rcnn", "mesh"), ("fast_rcnn", "pmap")])
def test_eight_devices_equal_one(kind, mode):
    config = {"kind": kind, kind: KINDS[kind], "backbone": {"name": "tiny", "tiny": {"width": 8}}}
    model = build_model(config, 3, num_regions=SLOTS)
    rule, schedule = make_optimizer(optimizer_config(), 4)
    inputs = [jax.ShapeDtypeStruct((1, *SIZE, 3), np.float32), jax.ShapeDtypeStruct((1, *SIZE, LEVELS), np.int32)]
    start = create_state(model, rule, jax.random.key(0), inputs)
    train = functools.partial(train_step, model=model, optimizer=rule, objective=Supervised(3), schedule=schedule)
    steps = train, functools.partial(eval_step, model=model, num_classes=3)
    fields = {**model_inputs(model), **Supervised.fields, "valid": False}

    def run(count):
        parallel = make_parallel(mode, *steps, jax.devices()[:count], fields=fields)
        state, metrics = parallel.train(parallel.put_state(start), parallel.shard_batch(batch(8)))
        # Five rows are filled up to eight.
        confusion, prediction = parallel.evaluate(eval_variables(state), batch(5))
        params = jax.device_get(state.params)
        _, void = parallel.train(state, parallel.shard_batch({**batch(8), "label": np.full((8, *SIZE), 255, np.int32)}))
        assert float(void["loss"]) == float(void["grad_norm"]) == 0
        return params, float(metrics["loss"]), np.asarray(confusion), np.asarray(prediction)

    one, eight = run(1), run(8)
    assert largest_difference(one[0], eight[0]) < 1e-5 < largest_difference(one[0], start.params)
    assert one[1] == pytest.approx(eight[1], rel=1e-5)
    assert one[2].sum() == (batch(5)["label"] != 255).sum()
    np.testing.assert_array_equal(one[2], eight[2])
    np.testing.assert_array_equal(one[3], eight[3])


def settings(tmp_path):
    return {
        "model__kind": "fast_rcnn",
        "model__fast_rcnn__bins": 2,
        "model__fast_rcnn__channels": 6,
        "data__regions__method": "slic",
        "data__regions__slic__segments": (12, 4),
        "data__regions__count": 16,
        "data__regions__cache": str(tmp_path / "regions"),
    }


@pytest.mark.thorough
def test_a_run_and_its_evaluation(make_config, tmp_path, monkeypatch):
    config = make_config(**settings(tmp_path), train__steps=2, train__eval_every=2)
    result = loop.run(config, tmp_path / "run")
    assert len(list((tmp_path / "regions").iterdir())) == 17
    restored = restore.restore_run(tmp_path / "run")
    # One compilation serves the evaluation and the predictions.
    monkeypatch.setattr(evaluation, "restore_run", lambda *_, **__: restored)
    found = evaluation.evaluate_run(tmp_path / "run")
    assert json.loads(found.json) == result
    confusion = np.zeros((5, 5), int)
    records = [restored.source[i] for i in range(len(restored.source))]
    for record, prediction in zip(records, restore.predict(restored, records), strict=True):
        valid = record["label"] != 255
        np.add.at(confusion, (record["label"][valid], prediction[valid]), 1)
    assert np.trace(confusion) / confusion.sum() == pytest.approx(result["pixel_accuracy"])
    with pytest.raises(UserError, match=r"config\.model\.kind='fast_rcnn' leaves no attention to look at"):
        restore.predict_with_records(restored, records[0]["image"])
    # Where the run kept its maps nothing can be kept any more, as on another machine.
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "file").touch()
    stored["data"]["regions"]["cache"] = str(tmp_path / "file" / "regions")
    (tmp_path / "run" / "config.json").write_text(json.dumps(stored))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    found = Predictor(tmp_path / "run")(records[0]["image"])
    np.testing.assert_array_equal(found.mask, restore.predict(restored, records[:1])[0])
    assert len(list((tmp_path / "user" / "attnseg_jax" / "regions").iterdir())) == 1
    with pytest.raises(UserError, match=r"config\.model\.kind='fast_rcnn' leaves no attention to look at"):
        found.attention()


def test_where_regions_are_kept_does_not_change_the_hash(make_config, tmp_path):
    config = make_config(**settings(tmp_path))
    before = config_hash(config)
    config.data.regions.cache = ""
    assert config_hash(config) == before
    config.data.regions.count = 17
    assert config_hash(config) != before


def test_what_does_not_fit_is_refused_before_anything_is_compiled(make_config, tmp_path):
    with pytest.raises(
        UserError, match=r"kind='rcnn' classifies regions and there are none: set config\.data\.regions"
    ):
        make_run(make_config(model__kind="rcnn"), 5)
    given = settings(tmp_path)
    del given["model__kind"]
    with pytest.raises(UserError, match=r"kind='segmenter' has no use for regions: set config\.data\.regions\.method"):
        make_run(make_config(**given), 5)
