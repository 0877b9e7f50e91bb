"""Predictions of pictures without their data set: as they are scored, for any size, file and array."""

import base64
import csv
import io
import json
import os
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from workdirs import save_random_run

from attnseg_jax import Predictor
from attnseg_jax.cli import predict as command
from attnseg_jax.data.pipeline import evaluation_sample
from attnseg_jax.errors import NotFinite, UserError
from attnseg_jax.inference import pictures, programs
from attnseg_jax.inference.pictures import Picture
from attnseg_jax.inference.prediction import Prediction
from attnseg_jax.inference.programs import Programs
from attnseg_jax.inference.restore import predict, restore_run
from attnseg_jax.ops.labels import IGNORE_LABEL
from attnseg_jax.plots import attention_sheet
from attnseg_jax.train import config as configs
from attnseg_jax.train.checkpoint import Checkpoints
from attnseg_jax.train.setup import make_run

# Padded to 24 x 32 three times, and to 28 x 20.
SIZES = [(24, 32), (26, 19), (21, 30), (23, 31)]


@pytest.fixture(scope="module")
def workdir(make_config, tmp_path_factory):
    """Two checkpoints of small random numbers; the older one has the better score."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    config = make_config(optimizer__ema_decay=0.0)
    (folder / "config.json").write_text(configs.to_json(config))
    rng, abstract = np.random.default_rng(0), make_run(config, 5).abstract
    with Checkpoints(folder / "checkpoints") as checkpoints:
        for step, miou in ((3, 0.5), (7, 0.2)):
            state = jax.tree.map(
                lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), abstract.replace(key=None)
            )
            state = state.replace(batch_stats=jax.tree.map(jnp.abs, state.batch_stats), key=jax.random.key(0))
            checkpoints.save(step, state)
            checkpoints.add_metrics(step, {"miou": miou})
    return folder


@pytest.fixture(scope="module")
def model(workdir):
    return Predictor(workdir, batch_size=2)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]


def test_masks_are_those_that_are_scored(workdir, model, images):
    restored = restore_run(str(workdir))
    records = [{"image": x, "label": np.full(x.shape[:2], IGNORE_LABEL, np.uint8), "id": ""} for x in images]
    found = model(images)
    for result, image, scored in zip(found, images, predict(restored, records), strict=True):
        assert result.image is image
        np.testing.assert_array_equal(result.mask, scored)
    assert len(np.unique(found[0].mask)) > 1
    # Rows of a batch: 2 and 1 of the first size, 1 of the other.
    assert sorted((form.padded, rows) for form, rows, _ in model._programs.kept) == [
        ((24, 32), 1),
        ((24, 32), 2),
        ((28, 20), 1),
    ]


@pytest.mark.thorough
@pytest.mark.parametrize("parallel", [pytest.param("pmap", marks=pytest.mark.slow), "mesh"])
def test_windows_and_views_are_those_that_are_scored(parallel, workdir, images):
    """Three windows a side of the padded 24 x 32 pixels, at two scales and mirrored."""
    changes = {"mode": "slide", "window": (12, 16), "stride": (6, 8), "blend": "gaussian", "scales": (1.0, 1.5)}
    changes = {f"eval.{key}": value for key, value in changes.items()} | {"eval.flip": True}
    restored = restore_run(str(workdir), changes={**changes, "parallel": parallel})
    records = [{"image": x, "label": np.full(x.shape[:2], IGNORE_LABEL, np.uint8), "id": ""} for x in images[2:]]
    changed, plain = Predictor(workdir, changes=changes)(images[2:]), Predictor(workdir)(images[2])
    for result, scored in zip(changed, predict(restored, records), strict=True):
        np.testing.assert_array_equal(result.mask, scored)
    assert 0.3 < (changed[0].mask == plain.mask).mean() < 1


def test_probabilities_and_entropy(model, images):
    at_once, later = model(images[1], extras=["probabilities", "entropy"]), model(images[1])
    p = at_once.probabilities.astype(np.float64)
    np.testing.assert_allclose(p.sum(-1), 1, atol=2e-3)
    np.testing.assert_array_equal(p.argmax(-1)[p.max(-1) > 0.51], at_once.mask[p.max(-1) > 0.51])
    np.testing.assert_allclose(at_once.entropy, -(p * np.log(np.maximum(p, 1e-12))).sum(-1) / np.log(5), atol=4e-3)
    np.testing.assert_array_equal(later.probabilities, at_once.probabilities)
    np.testing.assert_array_equal(later.entropy, at_once.entropy)
    assert later.areas() == {name: int((later.mask == k).sum()) for k, name in enumerate(later.names)}
    assert sum(later.areas().values()) == 26 * 19


@pytest.mark.thorough
def test_pictures_of_one_shorter_side(workdir, model, images):
    """As they are scored, at the size of the picture, and as XLA's own interpolation has it."""
    changes = {"data.shorter_side": 17}
    restored, changed = restore_run(str(workdir), changes=changes), Predictor(workdir, changes=changes)
    images = images[:2]
    records = [{"image": x, "label": np.full(x.shape[:2], IGNORE_LABEL, np.uint8), "id": ""} for x in images]
    found, forward = changed(images, extras=["probabilities"]), jax.jit(model.model.apply)
    for result, image, scored in zip(found, images, predict(restored, records), strict=True):
        np.testing.assert_array_equal(result.mask, scored)
        h, w = image.shape[:2]
        size = round(h * 17 / min(h, w)), round(w * 17 / min(h, w))
        small = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
        sample = {"image": small, "label": np.zeros(size, np.uint8), "id": ""}
        logits = forward(model.variables, evaluation_sample(sample, model.config.data, 4)["image"][None]).logits
        full = jax.image.resize(logits[:, : size[0], : size[1]], (1, h, w, 5), "bilinear", precision="highest")
        np.testing.assert_allclose(result.probabilities, jax.nn.softmax(full[0]), atol=2e-3)
        assert (result.mask == np.asarray(full.argmax(-1))[0]).mean() > 0.99
    # 17 x 23 pixels are padded to 20 x 24, all small masks to one size.
    forms = [form for form, *_ in changed._programs.kept]
    assert [(form.padded, form.full) for form in forms] == [((20, 24), (256, 256)), ((24, 20), (256, 256))]
    # A very thin picture would be as long as no memory; it keeps no other from its mask.
    thin, errors = Picture("thin", pixels=np.zeros((1, 2000, 3), np.uint8)), []
    others = changed.stream([thin, Picture("", pixels=images[0])], on_error=lambda *error: errors.append(error))
    assert [np.array_equal(one.mask, found[0].mask) for one in others] == [True]
    assert "thin: 1 x 2000 pixels would be resized to 17 x 34000 by config.data.shorter_side=17" in str(errors[0][1])
    # A picture that has that side is predicted as it is.
    changed(np.zeros((17, 23, 3), np.uint8))
    assert [form.full for form, *_ in changed._programs.kept][-1] is None
    assert found[0].attention().shape[1:] == (5, 6)


@pytest.mark.thorough
def test_masks_of_resized_pictures_have_the_size_of_the_picture(model, images):
    """The logits are resized, not the mask; against XLA's own interpolation."""
    half = Predictor.__new__(Predictor)
    half.__dict__.update(
        model.__dict__, config=model.config.copy_and_resolve_references(), _programs=Programs(), _fitting={}
    )
    half.config.data.resolution = 0.5
    result = half(images[0])
    (result_form,) = {form for form, *_ in half._programs.kept}
    small = np.asarray(Image.fromarray(images[0]).resize((16, 12), Image.Resampling.BILINEAR))
    sample = {"image": small, "label": np.zeros((12, 16), np.uint8), "id": ""}
    logits = model.model.apply(model.variables, evaluation_sample(sample, half.config.data, 4)["image"][None])
    full = jax.image.resize(logits.logits, (1, 24, 32, 5), "bilinear", precision="highest")
    assert result.mask.shape == (24, 32) and (result.mask == np.asarray(full.argmax(-1))[0]).mean() > 0.99
    assert result.attention().shape[1:] == (3, 4)
    # Half a picture, padded to the size that the whole one has.
    half.config.eval.size_multiple, half.multiple = 32, 32
    padded = half(np.resize(images[0], (32, 32, 3)))
    (form,) = {form for form, *_ in half._programs.kept} - {result_form}
    assert form.padded == (32, 32)
    logits = model.model.apply(model.variables, half._prepared(padded.picture)[0][0][None]).logits[:, :16, :16]
    full = jax.image.resize(logits, (1, 32, 32, 5), "bilinear", precision="highest")
    assert (padded.mask == np.asarray(full.argmax(-1))[0]).mean() > 0.99


def test_checkpoints_by_name(workdir, images):
    masks = {name: Predictor(workdir, checkpoint=name)(images[0]).mask for name in ("latest", "best", "3")}
    np.testing.assert_array_equal(masks["best"], masks["3"])
    assert (masks["best"] != masks["latest"]).any()
    assert Predictor(workdir / "checkpoints" / "3").info.source.endswith("step 3")


def test_attention_of_a_point(model, images):
    found = model(images[2]).attention("self0", at=(20, 29))
    # The padded picture of 24 x 32 pixels at stride 4.
    assert found.shape == (model.config.model.attention.self.heads, 6, 8)
    np.testing.assert_allclose(found.sum((1, 2)), 1, rtol=1e-5)
    with pytest.raises(UserError, match="attention 'sefl0' is unknown: did you mean 'self0'"):
        model(images[2]).attention("sefl0")
    with pytest.raises(UserError, match=r"at=\(21, 0\) is outside the picture of 21 x 30 pixels"):
        model(images[2]).attention(at=(21, 0))


@pytest.mark.parametrize("overlapping", [False, True])
def test_what_a_notebook_shows(overlapping, model):
    """Classes by their share of the picture, of those that are there; names are text."""
    mask = np.zeros((4, 5), np.uint8)
    mask[0] = 2
    if overlapping:
        mask = np.stack([mask >= 0, mask < 0, mask == 2], -1).astype(np.uint8)
    options = {"extras": {}, "compute": None, "look": None}
    names, palette = ("sky", "no", "<road>"), np.arange(9, dtype=np.uint8).reshape(3, 3)
    picture = Picture("a & b", pixels=np.zeros((4, 5, 3), np.uint8))
    shown = Prediction(picture, picture.pixels, mask, names, palette, **options)._repr_html_()
    cells = re.findall(r"rgb(\(.*?\)).*?</span> (.*?)</th><td>(.*?)</td>", shown)
    assert cells == [
        ("(0, 1, 2)", "sky", "100.00%" if overlapping else "75.00%"),
        ("(6, 7, 8)", "&lt;road&gt;", "25.00%"),
    ]
    shown_picture = re.search(r'alt="a &amp; b" src="data:image/png;base64,(.*?)"', shown)[1]
    assert Image.open(io.BytesIO(base64.b64decode(shown_picture))).size == (5, 4)
    about = model._repr_html_()
    assert "step 7</td>" in about and all(name in about for name in model.info.class_names)


def test_files_folders_and_patterns(tmp_path, images):
    for name in ("b/two.jpg", "b/two.png", "a/one.PNG", "a/._one.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = {str(p.target) for p in pictures.find(tmp_path)}
    assert found == {"a/one", "b/two.jpg", "b/two.png"}
    assert [str(p.target) for p in pictures.find(f"{tmp_path}/*/t*.jpg")] == ["b/two"]
    assert [str(p.target) for p in pictures.find([tmp_path / "b" / "two.png", images[0]])] == ["two", "picture_1"]
    gray = pictures.find(images[0][..., 0])[0].pixels
    np.testing.assert_array_equal(gray, images[0][..., :1].repeat(3, -1))
    turned = Image.fromarray(images[0])
    turned.getexif()[0x0112] = 6
    np.testing.assert_array_equal(pictures.find(turned)[0].pixels, np.rot90(images[0], -1))


@pytest.mark.parametrize(
    "given, words",
    [
        ("nowhere.jpg", "nowhere.jpg: there is no such file or folder"),
        ("*.jpg", r"\*.jpg matches no file"),
        (".", "holds no pictures"),
        (np.zeros((4, 4, 3)), r"an array of float64 \[4, 4, 3\] is no picture: give uint8"),
        ([np.zeros((4, 4, 4), np.uint8)], r"picture 0: an array of uint8 \[4, 4, 4\]"),
        (["a/x.png", "b/x.png"], "a/x.png and b/x.png have one name"),
        (5, "int is no picture"),
    ],
)
def test_what_is_no_picture(given, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if isinstance(given, list) and isinstance(given[0], str):
        for name in given:
            Path(name).parent.mkdir()
            Path(name).touch()
    with pytest.raises(UserError, match=words):
        pictures.find(given)


@pytest.mark.thorough
def test_batches_that_the_memory_does_not_hold_are_divided(workdir, images, monkeypatch):
    whole = Predictor(workdir, batch_size=4)
    masks = [result.mask for result in whole([images[0]] * 4)]
    (program,) = whole._programs.kept.values()
    monkeypatch.setattr(programs, "free_bytes", lambda _: programs.program_bytes(program) - 1)
    divided = Predictor(workdir, batch_size=4)
    for result, mask in zip(divided([images[0]] * 4), masks, strict=True):
        np.testing.assert_array_equal(result.mask, mask)
    assert {rows for _, rows, _ in divided._programs.kept} <= {1, 2}
    monkeypatch.setattr(programs, "free_bytes", lambda _: 0)
    with pytest.raises(UserError, match=r"picture of 24 x 32 pixels takes about .* GiB on a device that has 0 GiB"):
        Predictor(workdir)(images[0])
    # One that is too large is left out like one that cannot be read.
    told = []
    small = pictures.Picture("small", pixels=np.zeros((8, 8, 3), np.uint8))
    large = pictures.Picture("large", pixels=np.zeros((64, 80, 3), np.uint8))
    limited = Predictor(workdir, batch_size=1)
    monkeypatch.setattr(programs, "free_bytes", lambda _: 1e12)
    assert len(list(limited.stream([small]))) == 1
    (program,) = limited._programs.kept.values()
    monkeypatch.setattr(programs, "free_bytes", lambda _: programs.program_bytes(program))
    found = list(limited.stream([large, small], on_error=lambda one, error: told.append((one.name, str(error)))))
    assert [result.picture.name for result in found] == ["small"]
    assert [name for name, _ in told] == ["large"] and "a picture of 64 x 80 pixels takes about" in told[0][1]


def test_batches_that_xla_has_no_memory_for_are_divided(model, images, monkeypatch):
    """What is free is an estimate; the device itself has the last word."""
    mask, outputs = model(images[0]).mask, Predictor._outputs
    least = 2

    def scarce(self, program, part, extras):
        if len(part[0]) >= least:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes")
        return outputs(self, program, part, extras)

    monkeypatch.setattr(Predictor, "_outputs", scarce)
    monkeypatch.setattr(model, "_fitting", {})
    for result in model([images[0]] * 2):
        np.testing.assert_array_equal(result.mask, mask)
    least = 1
    with pytest.raises(UserError, match=r"24 x 32 pixels takes more memory than .*windows, config.eval.mode='slide'"):
        model(images[0])


def test_a_picture_that_cannot_be_prepared_is_left_out(model, images, monkeypatch):
    """As one of another size than that of an exported program."""
    prepared, told = Predictor._prepared, []

    def only_small(self, picture):
        if picture.pixels.shape[1] == 19:
            raise UserError(f"{picture.name}: another size")
        return prepared(self, picture)

    monkeypatch.setattr(Predictor, "_prepared", only_small)
    wanted = [pictures.Picture(str(i), pixels=pixels) for i, pixels in enumerate(images)]
    found = list(model.stream(wanted, on_error=lambda picture, error: told.append((picture.name, str(error)))))
    assert [result.picture.name for result in found] == ["0", "2", "3"] and told == [("1", "1: another size")]
    with pytest.raises(UserError, match="1: another size"):
        list(model.stream(wanted))


def test_attention_that_the_memory_does_not_hold(model, images, monkeypatch):
    """It is asked for after the picture is predicted, which takes less."""
    result = model(images[0])
    monkeypatch.setattr(programs, "free_bytes", lambda _: 1)
    monkeypatch.delitem(model.__dict__, "_records", raising=False)
    with pytest.raises(UserError, match=r"the attention of a picture of 24 x 32 pixels takes about .* GiB on a device"):
        result.attention()


def test_pictures_of_other_channels_show_their_attention(make_config, tmp_path):
    """The model looks at its channels, not at the three that are shown of them."""
    config = make_config(optimizer__ema_decay=0.0, data__channels=2, data__mean=(9.0, 8.0), data__std=(7.0, 6.0))
    found = Predictor(save_random_run(config, tmp_path / "run"))
    result = found(np.random.default_rng(0).integers(0, 20, (24, 32, 2)).astype(np.uint8))
    command._write(result, tmp_path / "out", ["mask"], "centre")
    assert (tmp_path / "out" / "attention" / "picture" / "sheet.png").exists()


def test_logits_that_are_not_finite(workdir, images):
    ruined = Predictor(workdir)
    ruined.variables = jax.tree.map(lambda x: x * np.nan, ruined.variables)
    with pytest.raises(NotFinite, match="the picture: the logits of the model are not finite"):
        ruined(images[0])


@pytest.fixture
def run(call, workdir):
    def with_flags(*inputs, **given):
        flags = {"model": workdir, "batch_size": 2} | given
        given = [f"--{name}={value}" for name, value in flags.items() if value is not None]
        return call("attnseg_jax/cli/predict.py", *given, *(f"--input={one}" for one in inputs))

    return with_flags


def test_the_command(run, model, images, tmp_path):
    folder, out = tmp_path / "photos", tmp_path / "photos" / "out"
    for i, image in enumerate(images[:3]):
        path = folder / f"street{i}" / "a.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(image).save(path)
    (folder / "broken.png").write_bytes(b"no picture")
    wanted = dict.fromkeys(("probabilities", "probability_maps", "entropy"), True)
    code, printed, error = run(folder, output=out, attention="self0@3,7", **wanted)
    assert code == 2 and "3 pictures predicted" in printed
    assert "error: 1 of 4 pictures cannot be predicted:" in error and "broken.png: cannot be decoded" in error
    for i, image in enumerate(images[:3]):
        mask = Image.open(out / "mask" / f"street{i}" / "a.png")
        np.testing.assert_array_equal(np.asarray(mask), model(image).mask)
        assert mask.getpalette()[:3] == list(model.info.palette[0])
        with np.load(out / "probabilities" / f"street{i}" / "a.npz") as file:
            # Of other numbers of rows at once the last bits differ.
            probabilities = file["probabilities"]
            np.testing.assert_allclose(probabilities, model(image).probabilities, rtol=2e-3)
        for k, name in enumerate(model.info.class_names):
            shown = np.asarray(Image.open(out / "probability_maps" / name / f"street{i}" / "a.png"))
            np.testing.assert_allclose(shown / 255, probabilities[..., k], atol=0.5 / 255 + 1e-6)
        assert (out / "attention" / f"street{i}" / "a" / "self0.png").exists()
        assert np.asarray(Image.open(out / "entropy" / f"street{i}" / "a.png")).shape == image.shape[:2]
        assert (out / "overlay" / f"street{i}" / "a.png").exists()
    with (out / "areas.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["picture"]).parent.name for row in rows] == ["street0", "street1", "street2"]
    for row, image in zip(rows, images):
        areas = model(image).areas()
        assert {name: int(row[f"{name} pixels"]) for name in areas} == areas
        assert float(row["red share"]) == pytest.approx(areas["red"] / image[..., 0].size, abs=1e-6)


def test_the_command_goes_on(run, images, tmp_path):
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(images[0]).save(folder / f"{i}.png")
    assert run(folder, output=out)[0] == 0
    before = (out / "areas.csv").read_text()
    # Stopped while the line of the last picture was written, and before a mask was.
    (out / "areas.csv").write_text(before[:-9])
    (out / "mask" / "0.png").unlink()
    assert "2 pictures predicted" in run(folder, output=out)[1]
    assert (out / "areas.csv").read_text() == before and (out / "mask" / "0.png").exists()
    assert "0 pictures predicted" in run(folder, output=out)[1]
    code, _, error = run(folder, output=out, checkpoint="best")
    assert code == 2 and f"--output={out} holds predictions of" in error and "step 7: give another folder" in error


@pytest.mark.parametrize(
    "given, words",
    [
        ({"model": None}, "--model is missing"),
        ({"output": None}, "--output is missing"),
        ({"model": "nowhere"}, "nowhere"),
        ({"checkpoint": "bset"}, "--checkpoint=bset must be latest, best or a step"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"config.eval.mode": "tiles"}, "config.eval.mode='tiles' is unknown: known: whole, slide"),
        ({"mode": "tiles"}, "--mode=tiles: value should be one of <whole|slide>"),
        ({"mode": "slide", "config.eval.stride": "90,90"}, "config.eval.stride=(90, 90) leaves gaps between windows"),
        ({"config.eval.window": "30,32"}, "config.eval.window=(30, 32) is for windows"),
        ({"config.train.steps": "3"}, "--config.train.steps: only --config.eval.* can be changed"),
        ({"attention": "sefl0"}, "attention 'sefl0' is unknown: did you mean 'self0'"),
        ({"attention": "30,2"}, "--attention=30,2: (30, 2) is outside the image of 24 x 32 pixels"),
        ({"on_error": "raise"}, "broken.png: cannot be decoded"),
    ],
)
def test_mistakes_are_one_line(run, given, words, images, tmp_path):
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    inputs = tmp_path if "on_error" in given else tmp_path / "a.png"
    code, _, error = run(inputs, **{"output": tmp_path / "out"} | given)
    assert code == 2 and words in error.splitlines()[-1] and "Traceback" not in error


@pytest.mark.thorough
def test_pictures_of_one_name_do_not_replace_one_another(run, images, tmp_path):
    for name, image in zip("ab", images):
        (tmp_path / name).mkdir()
        Image.fromarray(image).save(tmp_path / name / "x.png")
    assert "1 pictures predicted" in run(tmp_path / "a" / "x.png", output=tmp_path)[1]
    code, _, error = run(tmp_path / "b" / "x.png", output=tmp_path)
    assert code == 2 and "b/x.png: its outputs would replace those of" in error
    # Another picture under the same path is predicted again, and has one line.
    Image.fromarray(images[1]).save(tmp_path / "a" / "x.png")
    os.utime(tmp_path / "a" / "x.png", (2e9, 2e9))
    assert "1 pictures predicted" in run(tmp_path / "a" / "x.png", output=tmp_path)[1]
    with (tmp_path / "areas.csv").open() as file:
        assert [(row["height"], row["width"]) for row in csv.DictReader(file)] == [("26", "19")]
    # Several inputs may name one file, and outputs are no inputs.
    assert "1 pictures predicted" in run(tmp_path / "b", tmp_path / "b" / "x.png", output=tmp_path / "out")[1]
    assert "holds only what was written" in run(tmp_path / "mask", output=tmp_path)[2]


def test_sheets_of_resized_pictures_cover_the_picture(workdir, images, tmp_path, monkeypatch, run):
    """24 x 32 pixels are padded for a model that gets half of them: the maps cover what they did in the picture."""
    config = json.loads((workdir / "config.json").read_text())
    half = tmp_path / "half"
    shutil.copytree(workdir, half)
    config["data"]["resolution"] = 0.5
    (half / "config.json").write_text(json.dumps(config))
    Image.fromarray(images[2]).save(tmp_path / "a.png")
    scenes = []
    monkeypatch.setattr(attention_sheet, "attention_sheet", lambda scene, records, folder: scenes.append(scene))
    code, _, error = run(tmp_path / "a.png", model=half, output=tmp_path / "out", attention="20,29")
    # 21 x 30 pixels become 10 x 15 (of 10.5), padded to 12 x 16.
    assert code == 0, error
    assert scenes[0].padded_size == (26, 32) and scenes[0].points == [(20, 29)]


def test_areas_of_other_classes_are_refused(tmp_path):
    (tmp_path / "areas.csv").write_text("picture,output,height,width,sky pixels,sky share\n")
    with pytest.raises(UserError, match="has the columns of other classes"):
        command.Areas(tmp_path / "areas.csv", ["road"])
