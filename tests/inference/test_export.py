"""Exported models: they are the model they were made from, say what they are, and are refused where they are not."""

import datetime
import functools
import importlib.util
import json
import pickle
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export
from PIL import Image
from workdirs import save_random_run

from attnseg_jax import Predictor, load_pretrained
from attnseg_jax.errors import UserError
from attnseg_jax.inference.export import elsewhere, exporting, formats, proof, stablehlo, to_onnx, traced
from attnseg_jax.inference.export.attempts import Attempt
from attnseg_jax.inference.export.card import describe, loads_until, readme
from attnseg_jax.inference.pictures import Picture
from attnseg_jax.ops import platforms


@pytest.fixture(scope="module")
def workdir(make_config, tmp_path_factory):
    return save_random_run(make_config(optimizer__ema_decay=0.0), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def model(workdir):
    return Predictor(workdir, batch_size=1)


def picture(*size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def program_of(predictor, size=None, usual=(24, 32), platforms=("cpu",)):
    made = stablehlo.make(predictor, platforms, size, usual)
    return made, jax_export.deserialize(bytearray(made.content))


def assert_same_masks(exported, predictor, *sizes):
    call = jax.jit(exported.call)
    for size in sizes:
        image = picture(*size)
        outputs, result = call(image[None]), predictor(image, extras=["probabilities"])
        np.testing.assert_array_equal(outputs["mask"][0], result.mask)
        np.testing.assert_allclose(outputs["probabilities"][0], result.probabilities, atol=2e-3)
        assert len(np.unique(result.mask)) > 1 and outputs["finite"].all()


def test_the_command_writes_a_program_that_is_the_model(workdir, model, call, tmp_path):
    """Compared on the validation split and on a part of its first picture, in a process without the project."""
    out = tmp_path / "out"
    code, printed, error = call(
        "attnseg_jax/cli/export.py", f"--model={workdir}", "--format=stablehlo", f"--output={out}"
    )
    assert code == 0, error
    assert "compared on 6 pictures: 0 of 4,236 pixels differ" in printed and "takes pictures of any size" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert {path.name for path in out.iterdir()} == {"model.stablehlo", "card.json", "README.md", "run.py"}
    card = json.loads((out / "card.json").read_text())
    assert card["platforms"] == ["cpu", "cuda", "tpu"] and card["input"] == {
        "size": None,
        "least": [1, 1],
        "batch": None,
    }
    assert [one["name"] for one in card["classes"]] == list(model.info.class_names)
    assert card["classes"][1]["colour"] == list(model.info.palette[1])
    assert card["scores"] == {"miou": 0.5} and card["weights"]["step"] == 7 and card["weights"]["run"] == "run"
    assert card["proof"]["differing"] == 0 and card["proof"]["sizes"] == 2
    assert datetime.date.fromisoformat(card["loads_until"]) == loads_until(datetime.date.today())
    assert str(tmp_path) not in (out / "card.json").read_text() + (out / "README.md").read_text()
    exported = jax_export.deserialize(bytearray((out / "model.stablehlo").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert str(Path(exporting.__file__).parents[3]).encode() not in (out / "model.stablehlo").read_bytes()
    batch = np.stack([picture(26, 19, seed=i) for i in range(3)])
    masks = jax.jit(exported.call)(batch)["mask"]
    np.testing.assert_array_equal(masks, [model(image).mask for image in batch])
    again = Predictor(out)(batch[0], extras=["entropy"])
    np.testing.assert_array_equal(again.mask, masks[0])
    np.testing.assert_allclose(again.entropy, model(batch[0]).entropy, atol=5e-3)
    np.testing.assert_array_equal(again.palette, model.info.palette)
    with pytest.raises(UserError, match="leaves no attention to look at"):
        again.attention()
    with pytest.raises(UserError, match="checkpoint and config are fixed"):
        Predictor(out, checkpoint="best")
    with pytest.raises(UserError, match=r"is a model exported as stablehlo, which runs as it is: see its run\.py"):
        load_pretrained(out)
    # Again is a mistake, and leaves everything.
    before = (out / "model.stablehlo").stat().st_mtime_ns
    code, _, error = call("attnseg_jax/cli/export.py", f"--model={workdir}", "--format=stablehlo", f"--output={out}")
    assert code == 2 and f"--output={out} is there already" in error
    assert (out / "model.stablehlo").stat().st_mtime_ns == before


def test_pictures_of_one_size(workdir, caplog):
    """Resized, in BGR, in windows: what needs to know the size of the pictures."""
    changes = {"eval.mode": "slide", "eval.window": (12, 12), "eval.stride": (8, 8)}
    predictor = Predictor(workdir, batch_size=1, changes=changes)
    predictor.config.data.update(resolution=0.7, shorter_side=18, interpolation="bicubic", channel_order="bgr")
    made, exported = program_of(predictor, size=(29, 35))
    assert made.taken.size == (29, 35) and exported.in_avals[0].shape[1:] == (29, 35, 3)
    assert_same_masks(exported, predictor, (29, 35))
    # Asked for any size it takes the usual one, and says which part wants to know it.
    made, _ = program_of(predictor, usual=(24, 32))
    assert made.taken.size == (24, 32) and "config.data.shorter_side=18 resizes pictures of one size" in caplog.text
    predictor.config.data.shorter_side = 0
    made, _ = program_of(predictor, usual=(24, 32))
    assert made.taken.size == (24, 32) and "pictures of any size: " in made.notes[0]


@pytest.mark.parametrize("platforms, rows", [(("cpu", "tpu"), 8), (("cpu",), 1)])
def test_windows_at_once_are_those_of_the_widest_platform(platforms, rows, workdir, monkeypatch, tmp_path):
    """Not those of the machine that exports; and the card knows them."""
    seen = []

    def write(predictor, wanted, folder):
        seen.append((predictor.forward.args[1]["rows"], predictor.config.eval.windows, predictor.config.eval.window))
        raise UserError("enough")

    monkeypatch.setitem(formats.FORMATS, "stablehlo", replace(formats.FORMATS["stablehlo"], write=write))
    changes = {"eval.mode": "slide", "eval.window": (512, 256)}
    with pytest.raises(UserError, match="enough"):
        exporting.export(
            workdir, "stablehlo", tmp_path / "out", platforms=platforms, compare=str(_saved(tmp_path)), changes=changes
        )
    assert seen == [(rows, rows, (512, 256))]


def test_a_script_that_does_not_end(tmp_path):
    script = tmp_path / "endless.py"
    script.write_text("import time; time.sleep(60)")
    with pytest.raises(UserError, match=r"endless.py was ended after 0.005 minutes without .*--max_minutes=0.01"):
        elsewhere.run_script(sys.executable, script, minutes=0.005)


def test_weights_are_read_back(workdir, model, tmp_path):
    folder, card = exporting.export(workdir, "safetensors", tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "card.json", "README.md"}
    for source in (folder, folder / "model.safetensors"):
        again = Predictor(source)
        for one, other in zip(jax.tree.leaves(again.variables), jax.tree.leaves(model.variables), strict=True):
            np.testing.assert_array_equal(one, other)
        assert again.info.step == 7 and again.info.class_names == model.info.class_names
        assert load_pretrained(source)[2] == again.info
    assert card["proof"]["differing"] == 0
    # What was exported can be exported, and is known by the run's name.
    about = describe(again.info, again.config, again.multiple, folder)
    assert about["weights"]["run"] == "run" and about["scores"] == {"miou": 0.5}
    with pytest.raises(UserError, match="is an exported model, which has no checkpoints"):
        Predictor(folder, checkpoint="best")


def _saved(folder, size=(24, 32)):
    Image.fromarray(picture(*size)).save(path := folder / "photo.png")
    return path


def test_another_model_is_not_kept(workdir, tmp_path, monkeypatch):
    """Weights that change on the way: no folder, and nothing beside it."""

    def write(predictor, folder, real=formats.weights.write):
        predictor.variables = jax.tree.map(lambda x: x + 0.5, before := predictor.variables)
        real(predictor, folder)
        predictor.variables = before

    monkeypatch.setattr(formats.weights, "write", write)
    with pytest.raises(UserError, match=r"the export is not the model, .* of 1,164 pixels differ \(0\.\d+ of them\)"):
        exporting.export(workdir, "safetensors", tmp_path / "out", compare=str(_saved(tmp_path)))
    assert {path.name for path in tmp_path.iterdir()} == {"photo.png"}


def test_sizes_that_a_program_does_not_take(tmp_path, monkeypatch):
    """In the words of the script beside it, and of `Predictor`."""
    script = runpy.run_path(exporting.__file__.replace("exporting.py", "run.py"))
    program = jax_export.export(jax.jit(lambda x: {"mask": x[..., 0], "finite": x[:, 0, 0, 0] >= 0}))
    (tmp_path / "model.stablehlo").write_bytes(program(jax.ShapeDtypeStruct((1, 4, 6, 3), np.uint8)).serialize())
    card = {
        "format": "stablehlo",
        "file": "model.stablehlo",
        "classes": [{"value": i, "name": str(i), "colour": [i, 0, 9]} for i in range(256)],
        "preprocessing": {"mean": [], "std": [], "channel_order": "rgb"},
        "weights": {"step": 3, "licence": None},
    }
    for size, least, words in (
        ([4, 6], [1, 1], "pictures of 4 x 6 pixels, not 5 x 6"),
        (None, [4, 7], "pictures of at least 4 x 7 pixels"),
    ):
        (tmp_path / "card.json").write_text(json.dumps({**card, "input": {"size": size, "least": least}}))
        with pytest.raises(SystemExit, match=words):
            script["check_size"]((5, 6), script["load"](tmp_path)[1], "x.png")
        with pytest.raises(UserError, match=words):
            Predictor(tmp_path)(picture(5, 6))
    (tmp_path / "card.json").write_text(json.dumps({**card, "input": {"size": [4, 6], "least": [1, 1]}}))
    Image.fromarray(image := picture(4, 6)).save(tmp_path / "x.png")
    # Beside its artefact the script is the whole program.
    (tmp_path / "run.py").write_bytes(Path(script["__file__"]).read_bytes())
    monkeypatch.setattr("sys.argv", ["run.py", str(tmp_path / "x.png"), f"--output={tmp_path / 'masks'}"])
    runpy.run_path(str(tmp_path / "run.py"), run_name="__main__")
    mask = Image.open(tmp_path / "masks" / "x.png")
    np.testing.assert_array_equal(np.asarray(mask), image[..., 0])
    assert mask.getpalette()[:6] == [0, 0, 9, 1, 0, 9]
    (tmp_path / "model.stablehlo").write_bytes(b"no program")
    with pytest.raises(
        UserError, match=r"model\.stablehlo cannot be loaded \(.*\): it is damaged, or this jax is too new"
    ):
        Predictor(tmp_path)


@pytest.mark.parametrize("wrong, kept", [(0, True), (1, True), (2, False)])
def test_pixels_that_differ_are_counted(wrong, kept, model, tmp_path):
    """One of 10,000 pixels may differ."""
    pictures = [Picture("one", pixels=picture(100, 80)), Picture("two", _saved(tmp_path, (40, 50)))]

    def run(inputs, outputs):
        outputs.mkdir()
        for path, given in zip(sorted(inputs.iterdir()), pictures, strict=True):
            mask = model(np.asarray(Image.open(path))).mask.copy()
            mask.flat[: wrong if given.name == "one" else 0] += 1
            Image.fromarray(mask).save(outputs / f"{path.stem}.png")

    if kept:
        found = proof.prove(model, pictures, run, tmp_path)
        assert (found.pictures, found.sizes, found.pixels, found.differing) == (2, 2, 10_000, wrong)
        assert (found.gap > 0) == bool(wrong)
    else:
        with pytest.raises(UserError, match=r"2 pictures of 2 sizes: 2 of 10,000 pixels differ \(0.0002 of them\), wh"):
            proof.prove(model, pictures, run, tmp_path)


@pytest.mark.parametrize(
    "statement", ["import attnseg_jax.ops", "import importlib; importlib.import_module('attnseg_jax')"]
)
def test_the_process_has_no_project(statement, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(statement)
    with pytest.raises(UserError, match=r"the export fails in a process without attnseg_jax: .* is kept out"):
        proof.without_project(script, "cpu")(tmp_path, tmp_path)


def test_custom_calls_are_refused():
    exported = jax_export.export(jax.jit(jnp.linalg.qr))(jax.ShapeDtypeStruct((3, 3), jnp.float32))
    with pytest.raises(UserError, match="the program calls lapack_sgeqrf"):
        stablehlo._check_custom_calls(exported)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"model": None}, "--model is missing"),
        ({"model": "nowhere"}, "nowhere"),
        ({"format": None}, "--format is missing"),
        ({"format": "stablehol"}, "--format=stablehol is unknown: did you mean 'stablehlo'"),
        ({"platforms": "cpu,gpu"}, "--platforms=cpu,gpu: 'gpu' is unknown"),
        ({"platforms": "tup"}, "--platforms=tup: 'tup' is unknown: did you mean 'tpu'"),
        ({"platforms": "tpu"}, "--platforms=tpu: this machine has only cpu to compare the export on: add cpu"),
        ({"platforms": "cpu,cpu"}, "--platforms=cpu,cpu: name each of"),
        ({"format": "safetensors", "platforms": "cpu"}, "--platforms is for stablehlo and savedmodel"),
        ({"precision": "int8"}, "--precision=int8: --format=stablehlo is written in float32"),
        ({"format": "savedmodel", "precision": "float16"}, "--format=savedmodel is written in float32"),
        ({"python": "python"}, "--python is for the packages of a format: --format=stablehlo needs none"),
        ({"format": "onnx", "python": "nowhere"}, "--python=nowhere is no interpreter of Python that runs"),
        ({"format": "safetensors", "size": "24x32"}, "--size is for programs"),
        ({"size": "24"}, "--size=24 is no size"),
        ({"size": "0x9"}, "--size=0x9 is no size"),
        ({"size": "31x32"}, "has a size that the export takes, the first has 24 x 32 pixels"),
        ({"checkpoint": "bset"}, "--checkpoint=bset must be"),
        ({"max_minutes": "0"}, "--max_minutes=0 must be above 0"),
        ({"check": "nowhere/*.jpg"}, "nowhere/*.jpg matches no file"),
        ({"check": "test"}, "--check=test: "),
        ({"config.train.steps": 3}, "only --config.eval.* can be changed"),
    ],
)
def test_mistakes_are_one_line(given, words, workdir, call, tmp_path):
    given = {"model": workdir, "format": "stablehlo", "output": tmp_path / "out", "platforms": None, **given}
    code, _, error = call(
        "attnseg_jax/cli/export.py", *(f"--{key}={value}" for key, value in given.items() if value is not None)
    )
    assert code == 2 and words in error.splitlines()[-1] and "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_a_program(workdir, monkeypatch, model, make_config):
    find = importlib.util.find_spec
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None if name == "flatbuffers" else find(name))
        with pytest.raises(UserError, match="needs the package flatbuffers: pip install flatbuffers"):
            exporting.export(workdir, "stablehlo", "out")
    config = make_config(model__kind="rcnn", data__regions__method="slic")
    with pytest.raises(UserError, match=r"'rcnn' takes regions beside .* as stablehlo; --format=safetensors can"):
        formats.check("stablehlo", formats.Wanted(("cpu",), None), config)
    monkeypatch.setitem(formats.FORMATS, "onnx", replace(formats.FORMATS["onnx"], needs=("numpy", "no_such_module")))
    with pytest.raises(UserError, match=r"--format=onnx needs no_such_module, which .* does not have: .*\[onnx\]"):
        exporting.export(workdir, "onnx", "out")


def test_a_traced_program_is_bound_again_without_the_project(model, tmp_path):
    """As plain data: loops and branches, forms for platforms and the project's own primitives, sizes of symbols."""

    def function(image):
        x = image.astype(jnp.float32)
        x = jax.lax.platform_dependent(x, cpu=lambda x: x + 1, default=lambda x: x - 1)
        x = platforms.fence(platforms.unless_on_gpus(jnp.square, jnp.abs)(x))
        x = jax.lax.fori_loop(0, 3, lambda i, x: jax.checkpoint(jnp.maximum)(x + i, 9), x)
        x = jax.lax.cond(x.sum() > 0, jax.nn.relu, jnp.negative, x) / x.shape[1]
        return {"sum": jax.lax.map(jnp.cumsum, x[:, 0]), "border": jnp.pad(x[..., 0], ((0, 0), (2, 1), (0, 0)))}

    for size in (None, (5, 4)):
        attempt = Attempt(size, batch=1 if size else None)
        told = pickle.loads(pickle.dumps(traced.told(function, attempt.image)))
        image = jnp.asarray(picture(5, 4))[None]
        scope = jax_export.SymbolicScope(attempt.constraints)
        bind = functools.partial(to_onnx.evaluate, told, scope)
        shape = to_onnx.rebuilt(told["types"][0][0], scope)
        program = jax_export.export(jax.jit(bind))(jax.ShapeDtypeStruct(shape, jnp.uint8))
        found = dict(zip(told["names"], program.call(image), strict=True))
        assert told["names"] == ["border", "sum"]
        jax.tree.map(np.testing.assert_array_equal, found, function(image))


@pytest.mark.parametrize(
    "form, words", [("onnx", "onnxruntime"), ("tflite", "ai-edge-litert"), ("savedmodel", "tensorf")]
)
def test_a_card_of_every_program(form, words, model, workdir):
    about = {
        "format": form,
        **describe(model.info, model.config, model.multiple, workdir),
        "file": "model.x",
        "precision": "int8",
        "made_with": {"maker": "1.2"},
        "input": {"size": [24, 32], "least": [1, 1], "batch": 1},
        "proof": {"pictures": 1, "sizes": 1, "pixels": 9, "differing": 2, "where": "here"},
    }
    text = readme(about)
    assert "uint8 RGB pictures `[1, h, w, 3]` of 24 x 32 pixels in" in text and "its weights in int8" in text
    assert f"pip install {words}" in text and "made with maker 1.2" in text and "2 of 9 pixels otherwise" in text
