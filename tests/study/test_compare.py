"""Systems compared: in words, as JSON, and by the command on masks, which needs no model."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from attnseg_jax.errors import UserError
from attnseg_jax.evaluation.counts import ImageCounts
from attnseg_jax.evaluation.scores import Scores
from attnseg_jax.study import bootstrap
from attnseg_jax.study.compare import compare_systems, members

N, K = 30, 3
TRUTH = np.random.default_rng(0).integers(40, 60, (N, K))


def result(right, names=("a", "b", "c")):
    """A system that finds that share of each image's pixels, and takes the others for the next class."""
    hits = (right * TRUTH).astype(int)
    missed = TRUTH - hits
    counts = np.stack([hits, np.roll(missed, 1, -1), missed], -1)
    confusion = np.diag(hits.sum(0)) + np.roll(np.diag(missed.sum(0)), 1, 1)
    scores = Scores.from_confusion(confusion)
    object.__setattr__(scores, "images", ImageCounts(counts, counts))
    source = SimpleNamespace(info=SimpleNamespace(class_names=names), __len__=None)
    source = type("S", (), {"info": source.info, "__len__": lambda self: N})()
    return SimpleNamespace(evaluation=SimpleNamespace(scores=scores), source=source, split="val")


def test_a_better_system_is_called_better_with_its_interval():
    systems = {"x": [Path("0.5")], "y": [Path("0.75")], "z": [Path("0.8")]}
    text, line = compare_systems(systems, lambda path: result(float(path.name)))
    values = json.loads(line)
    assert list(values["systems"]) == ["z", "y", "x"]
    assert [(pair["a"], pair["b"]) for pair in values["pairs"]] == [("z", "y"), ("z", "x"), ("y", "x")]
    counts = {
        name: [result(float(paths[0].name)).evaluation.scores.images.everywhere] for name, paths in systems.items()
    }
    expected = bootstrap.compare(counts)["y", "x"]
    last = values["pairs"][-1]
    assert last["images"] == {"low": expected.images.low, "high": expected.images.high, "confidence": 1.0}
    assert last["seeds"] is None and last["difference"] == expected.difference
    sentence = text.splitlines()[-1]
    assert sentence.startswith("On the 30 images of val y is better than x: mIoU ")
    assert f"a difference of {expected.difference:+.4f} (95 % interval {expected.images.low:+.4f} to " in sentence
    assert "what other seeds would give is not known" in sentence


def test_equal_systems_and_seeds():
    systems = {"x": [Path("0.5"), Path("0.7")], "y": [Path("0.6"), Path("0.61")]}
    text, line = compare_systems(systems, lambda path: result(float(path.name)))
    pair = json.loads(line)["pairs"][0]
    assert pair["seeds"]["low"] < 0 < pair["seeds"]["high"]
    assert "do not differ clearly" in text and "2 and 2 seeds" in text


def test_systems_of_other_classes_or_images():
    with pytest.raises(UserError, match="y has other classes than x"):
        compare_systems({"x": [Path("0.5")], "y": [Path("q")]}, lambda p: result(0.5, ("a", "b", p.name)))
    other = result(0.5)
    other.evaluation.scores.images.everywhere[0, 0, 0] += 1
    found = iter([result(0.5), other])
    with pytest.raises(UserError, match="'y' was counted on other images than 'x'"):
        compare_systems({"x": [Path("0.5")], "y": [Path("0.5")]}, lambda _: next(found))


def test_folders_by_name_pattern_and_list(tmp_path):
    for name in ("a_0", "a_1", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a_2").write_text("a file")
    names = [f"{tmp_path}/a_*", f"{tmp_path}/b,{tmp_path}/a_0"]
    found = [[path.name for path in paths] for paths in members(names).values()]
    assert found == [["a_0", "a_1"], ["b", "a_0"]]
    for systems, message in (
        (names[:1], "needs two systems or more"),
        ([names[0], names[0]], "twice"),
        ([names[0], f"{tmp_path}/c"], "there is no folder .*/c"),
    ):
        with pytest.raises(UserError, match=message):
            members(systems)


def test_the_command_compares_folders_of_masks(call, make_config, tmp_path):
    config = make_config()
    (tmp_path / "data.py").write_text(
        "from attnseg_jax.configs import default\n"
        "def get_config():\n    config = default.get_config()\n"
        f"    config.data.update({config.data.to_dict()!r})\n    return config\n"
    )
    for path in sorted((Path(config.data.dir) / "masks/val").iterdir()):
        truth = np.asarray(Image.open(path))
        ids = np.where(truth == 255, 0, truth)
        for name, shift in (("good", 0), ("bad", 4)):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(np.roll(ids, shift, 1)).save(tmp_path / name / path.name)
    common = ("--config=data.py", "--config.eval.samples=0", "--config.eval.worst=0")
    code, out, err = call("eval.py", "--compare", "bad", "good", *common)
    assert code == 0, err
    assert "good is better than bad: mIoU 1.0000 against" in out.splitlines()[-2]
    assert json.loads(out.splitlines()[-1])["systems"]["good"] == [1.0]
    assert {path.name for path in tmp_path.iterdir()} == {"data.py", "good", "bad"}

    for argv, message in (
        (("--compare", "bad", "good", "--workdir=bad"), "--compare names all folders: leave out"),
        (("--compare", "bad", "good"), "--predictions needs the data: --workdir of a run on them, or --config=FILE"),
        (("--workdir=bad", "--config=data.py"), "--config=data.py: a run has its own config"),
        (("--predictions=bad", "--config=dat"), "--config=dat is neither a file whose name ends in .py nor a name"),
    ):
        code, _, err = call("eval.py", *argv)
        assert (code, err.count("error:")) == (2, 1) and message in err
