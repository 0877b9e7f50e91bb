"""The command that draws what a trained model attends to."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from attnseg_jax.cli import attention
from attnseg_jax.inference import restore
from attnseg_jax.inference.restore import predict, predict_with_records, restore_run
from attnseg_jax.models.records import GateMap
from attnseg_jax.train import config as configs
from attnseg_jax.train.checkpoint import Checkpoints
from attnseg_jax.train.setup import make_run
from attnseg_jax.train.state import eval_variables


def _state(run):
    """A state of small random numbers, which spares compiling its initialisation."""
    rng = np.random.default_rng(0)

    def some(x):
        return jnp.asarray(rng.uniform(0.1, 0.5, x.shape), x.dtype)

    return jax.tree.map(some, run.abstract.replace(key=None)).replace(key=jax.random.key(0))


@pytest.fixture(scope="module")
def workdir(make_config, tmp_path_factory):
    config = make_config(optimizer__ema_decay=0.0)
    workdir = tmp_path_factory.mktemp("runs") / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text(configs.to_json(config))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(0, _state(make_run(config, 5)))
        checkpoints.add_metrics(0, {"miou": 0.1})
    return workdir


@pytest.fixture(scope="module")
def restored(workdir):
    return restore_run(str(workdir))


@pytest.fixture
def draw(call):
    """Runs the command with flags by name; returns (exit code, standard output, standard error)."""

    def run(**given):
        return call("attnseg_jax/cli/attention.py", *(f"--{name}={value}" for name, value in given.items()))

    return run


def test_a_numbered_image_and_several_points(draw, workdir):
    code, out, err = draw(workdir=workdir, image=4, at="0,0; 23,31")
    assert code == 0, err
    folder = workdir / "attention" / "val_4"
    assert out.split() == [str(folder / "self0.png"), str(folder / "sheet.png")]
    assert np.asarray(Image.open(folder / "sheet.png")).shape[0] > np.asarray(Image.open(folder / "self0.png")).shape[0]


def test_an_image_of_any_size_that_is_no_part_of_the_data(draw, workdir, tmp_path):
    path = tmp_path / "street.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (37, 22), np.uint8)).save(path)
    code, out, err = draw(workdir=workdir, image=path, at="36,21", out=tmp_path / "drawn", checkpoint="best")
    assert code == 0, err
    assert out.split()[-1] == str(tmp_path / "drawn" / "sheet.png")
    code, _, err = draw(workdir=workdir, image=path, at="37,0")
    assert code == 2 and "(37, 0) is outside the image of 37 x 22 pixels (height x width)" in err


def test_an_image_is_resized_as_the_data_were(restored, tmp_path):
    path = tmp_path / "street.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (37, 22), np.uint8)).save(path)
    config = restored.config.copy_and_resolve_references()
    config.data.resolution = 0.5
    image, name, _ = attention._image(str(path), replace(restored, config=config))
    assert image.shape == (18, 11, 3) and name == "street.png"


def test_maps_belong_to_the_model_and_its_prediction(restored):
    sample = restored.source[1]
    prediction, record, covered = predict_with_records(restored, sample["image"])
    np.testing.assert_array_equal(prediction, predict(restored, [sample])[0])
    assert list(record) == ["self0"] and covered == prediction.shape == (24, 32)
    assert record["self0"].query_size == record["self0"].key_size == (6, 8)
    assert not isinstance(record["self0"], GateMap)
    np.testing.assert_allclose(record["self0"].weights.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"image": 0, "workdir": ""}, ["--workdir is missing"]),
        ({"image": 0, "workdir": "nowhere"}, ["nowhere", "config.json does not exist"]),
        ({}, ["--image is missing"]),
        ({"image": "lost.png"}, ["--image=lost.png", "no such file"]),
        ({"image": 5}, ["--image=5", "'val' has the images 0 to 4"]),
        ({"image": -1}, ["--image=-1"]),
        ({"image": "{damaged}"}, ["damaged.png", "cannot be decoded"]),
        ({"image": 0, "out": "{damaged}"}, ["damaged.png", "cannot be written", "--out"]),
        ({"image": 0, "at": "24,0"}, ["--at=24,0", "24 x 32 pixels"]),
        ({"image": 0, "at": "1,2;0,32"}, ["(0, 32)", "24 x 32 pixels"]),
        ({"image": 0, "at": "-1,2"}, ["--at=-1,2", "y,x"]),
        ({"image": 0, "at": "1"}, ["--at=1", "y,x"]),
        ({"image": 0, "at": "1,2;"}, ["--at=1,2;", "y,x"]),
        ({"image": 0, "split": "tset"}, ["no split 'tset'"]),
        ({"image": 0, "checkpoint": 7}, ["no checkpoint of step 7"]),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(draw, workdir, given, words, tmp_path):
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    given = {key: str(value).format(damaged=damaged) for key, value in given.items()}
    code, out, err = draw(**{"workdir": workdir, "out": tmp_path / "drawn", **given})
    assert code == 2 and out == "" and "Traceback" not in err, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and all(word in lines[0] for word in words), err
    assert not (tmp_path / "drawn").exists()


def test_a_model_without_attention_says_what_it_has(draw, workdir, restored, make_config, monkeypatch, tmp_path):
    config = make_config(model__attention__name="none")
    run = make_run(config, 5)
    plain = replace(restored, config=config, model=run.model, variables=eval_variables(_state(run)))
    monkeypatch.setattr(restore, "restore_run", lambda *_, **__: plain)
    code, out, err = draw(workdir=workdir, image=0, out=tmp_path / "drawn")
    assert code == 2 and out == ""
    assert "backbone 'tiny', attention 'none', decoder 'fcn'" in err and "config.model.attention.name" in err
    assert not (tmp_path / "drawn").exists()
