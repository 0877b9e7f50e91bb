"""Configs: resolved form, file, hash, and the words for mistakes in them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from attnseg_jax.configs import default
from attnseg_jax.errors import UserError
from attnseg_jax.train import config as configs
from attnseg_jax.train.optimizer import make_optimizer
from attnseg_jax.train.setup import make_model

ROOT = Path(__file__).parents[2]


DEFAULT = str(ROOT / "configs/default.py")


FILES = sorted(path for path in (ROOT / "configs").rglob("*.py") if "def get_config(" in path.read_text())


def config_of(path):
    return configs.read_file(str(path))


def leaves(config, prefix=""):
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_every_key_can_be_assigned_and_given_as_a_flag():
    """A key called like a method of `ConfigDict` can be neither: attributes are looked up first."""
    keys = {part for key, _ in leaves(default.get_config()) for part in key.split(".")}
    assert len(keys) > 100 and not {key for key in keys if hasattr(ConfigDict, key)}


def test_resolve_keeps_only_the_parts_in_use():
    config = default.get_config()
    model = configs.resolve(config)["model"]
    assert set(model["backbone"]) == {"name", "pretrained", "freeze", "tiny"} and set(model["attention"]) == {
        "name",
        "self",
    }
    assert "resnet18" in config.model.backbone  # resolving left the config as it was
    assert set(configs.resolve(config)["data"]["regions"]) == {"method", "count", "sample", "cache"}
    config.data.regions.method = "slic"
    assert set(configs.resolve(config)["data"]["regions"]) == {"method", "count", "sample", "cache", "slic"}
    config.model.attention.name = "none+self"
    assert set(configs.resolve(config)["model"]["attention"]) == {"name", "none", "self"}
    config.objective.name = "mine.file:Mine"
    assert set(configs.resolve(config)["objective"]) == {"name", "custom"}


def test_an_option_of_a_part_that_is_not_used_does_not_change_the_hash():
    config, other = default.get_config(), default.get_config()
    other.model.backbone.resnet18.output_stride = 8
    assert configs.config_hash(config) == configs.config_hash(other)
    other.model.backbone.name = "resnet18"
    assert configs.config_hash(config) != configs.config_hash(other)


def test_two_folders_are_two_runs():
    """Though both have the default's name of a data set."""
    hashes = set()
    for folder in ("one", "other"):
        config = default.get_config()
        config.data.update(source="folder", dir=folder, classes=("a", "b"))
        hashes.add(configs.config_hash(config))
    assert len(hashes) == 2


def test_a_key_added_later_does_not_change_the_hash(monkeypatch):
    """Once the defaults have it, at the value that does what was done before."""
    config = default.get_config()
    before = configs.config_hash(config)
    with config.unlocked():
        config.train.younger = 3
    assert configs.config_hash(config) != before
    defaults = config.to_dict()
    monkeypatch.setattr(configs, "_defaults", lambda: defaults)
    assert configs.config_hash(config) == before
    config.train.younger = 4
    assert configs.config_hash(config) != before


def test_another_schema_is_another_hash(monkeypatch):
    before = configs.config_hash(default.get_config())
    monkeypatch.setattr(configs, "SCHEMA", configs.SCHEMA + 1)
    assert configs.config_hash(default.get_config()) != before


def test_every_value_that_can_change_the_result_changes_the_hash():
    before = configs.config_hash(default.get_config())
    seen, left_out = {before: "nothing"}, set()
    used = dict(leaves(ConfigDict(configs.resolve(default.get_config()))))
    assert len(used) > 60
    for key, value in used.items():
        config = default.get_config()
        if key == "model.kind":
            changed = "rcnn"
        elif re.fullmatch(r"model\.\w+\.name", key):
            continue  # chooses other parts; see above
        else:
            changed = {bool: lambda v: not v, str: lambda v: v + "x", tuple: lambda v: (*v, 7)}.get(
                type(value), lambda v: v + 1
            )(value)
        config.update_from_flattened_dict({key: changed})
        found = configs.config_hash(config)
        assert re.fullmatch("[0-9a-f]{8}", found)
        if found == before:
            left_out.add(key)
            continue
        assert found not in seen, f"{key} and {seen[found]} have one hash"
        seen[found] = key
    assert left_out == {*configs.UNHASHED}


def test_the_folder_of_data_without_a_name_says_which_they_are():
    config = default.get_config()
    config.data.name = ""
    before = configs.config_hash(config)
    config.data.dir = "elsewhere"
    assert configs.config_hash(config) != before


def test_the_hash_is_the_same_in_another_process():
    code = "from attnseg_jax.configs import default; from attnseg_jax.train.config import config_hash as h; "
    run = subprocess.run(
        [sys.executable, "-c", code + "print(h(default.get_config()))"],
        cwd=ROOT, env={"PYTHONHASHSEED": "3", "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.stdout.strip() == configs.config_hash(default.get_config()), run.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_of_configs(path, tmp_path):
    """Values pass, flags pass, and what is read back from a workdir is the same and builds the same model."""
    config = config_of(path)
    assert config.is_locked
    configs.check_values(config)
    configs.check_flags([f"--config={path}", "--config.train.steps=3"], DEFAULT)
    (tmp_path / "config.json").write_text(configs.to_json(config))
    loaded = configs.load(tmp_path)
    assert loaded.is_locked and configs.resolve(loaded) == configs.resolve(config)
    assert configs.to_json(loaded) == configs.to_json(config)
    assert {type(v) for _, v in leaves(loaded)} <= {int, float, bool, str, tuple}
    assert make_model(loaded, 5) == make_model(config, 5)
    make_optimizer(loaded.optimizer, loaded.train.steps)


def test_tuples_of_tuples_come_back(tmp_path):
    config = default.get_config()
    config.data.palette = ((1, 2, 3), (4, 5, 6))
    (tmp_path / "config.json").write_text(configs.to_json(config))
    assert configs.load(tmp_path).data.palette == ((1, 2, 3), (4, 5, 6))


@pytest.mark.parametrize(
    "text, message",
    [(None, r"config\.json does not exist: --workdir must be"), ('{"seed": ', r"config\.json is not JSON .* restore")],
)
def test_a_workdir_without_a_config(text, message, tmp_path):
    if text:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        configs.load(tmp_path)


def test_a_value_that_json_cannot_hold():
    config = default.get_config()
    with config.unlocked(), config.ignore_type():
        config.data.flip = np.zeros(3)
    with pytest.raises(UserError, match=r"array\(\[0\., 0\., 0\.\]\): only numbers"):
        configs.to_json(config)


def test_differences():
    old, new = {"a": 1, "b": {"c": (1, 2), "d": 3}}, {"b": {"c": (1, 3), "d": 3}, "e": "x"}
    found = configs.differences(old, new)
    assert found == ["config.a: 1 -> None", "config.b.c: (1, 2) -> (1, 3)", "config.e: None -> x"]
    assert configs.differences(old, old) == []


def test_every_key_of_the_default_config_has_a_comment():
    """In the line above, or above the keys of one group of at most four."""
    lines = Path(DEFAULT).read_text().splitlines()
    config = default.get_config()
    keys = [key for key, _ in leaves(config) if not key.startswith("model.")]
    assert len(keys) > 50
    # `eval` is the name of a function, so the group is called `evaluation` in the file.
    names = {"eval": "evaluation"}
    bare = []
    for key in keys:
        group, _, name = key.rpartition(".")
        (at,) = (
            i for i, line in enumerate(lines) if re.match(rf"\s+{names.get(group, group) or 'config'}\.{name} = ", line)
        )
        above = next(line.strip() for line in lines[at - 1 :: -1] if " = " not in line or "#" in line)
        near = any(line.strip().startswith("#") for line in lines[max(0, at - 4) : at])
        if not (near and above.startswith("#")):
            bare.append(key)
    assert not bare


def test_the_default_config_is_what_json_can_hold():
    config = default.get_config()
    assert json.loads(configs.to_json(config))["data"]["crop"] == [64, 96]
    assert jax.tree.leaves(configs.resolve(config))


def test_a_workdir_older_than_a_key_gets_its_default(tmp_path):
    values, before = json.loads(configs.to_json(default.get_config())), configs.config_hash(default.get_config())
    del values["eval"]["size_multiple"], values["init_from"], values["model"]["backbone"]["freeze"]
    del values["data"]["resolution"], values["data"]["regions"], values["objective"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = configs.load(tmp_path)
    assert config.eval.size_multiple == 0
    assert config.init_from == "" and config.model.backbone.freeze == "none"
    assert config.data.resolution == 1.0 and config.data.regions.method == "none"
    configs.check_values(config)
    assert configs.config_hash(config) == before


def test_a_workdir_of_an_older_schema(tmp_path, monkeypatch):
    values = json.loads(configs.to_json(default.get_config()))
    values["train"]["iterations"] = values["train"].pop("steps") - 1
    (tmp_path / "config.json").write_text(json.dumps(values))

    def migrate(values):
        values["train"]["steps"] = values["train"].pop("iterations")

    now = configs.SCHEMA
    monkeypatch.setattr(configs, "SCHEMA", now + 1)
    with pytest.raises(UserError, match=rf"config\.json has schema {now}, and this version reads .*{now + 1}: use"):
        configs.load(tmp_path)
    monkeypatch.setitem(configs.MIGRATIONS, now, migrate)
    config = configs.load(tmp_path)
    assert config.train.steps == default.get_config().train.steps - 1 and "iterations" not in config.train


def test_a_run_of_schema_1_is_scored_as_it_was(tmp_path):
    values = json.loads(configs.to_json(default.get_config())) | {"schema": 1}
    del values["eval"]["size_multiple"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert configs.load(tmp_path).eval.size_multiple == 1


def test_a_free_group_holds_what_it_likes(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from attnseg_jax.configs import default\ndef get_config():\n  config = default.get_config()\n"
        "  config.objective.name = 'mine.file:Mine'\n  config.objective.custom = {'weight': 0.5}\n  return config\n"
    )
    configs.check_flags([f"--config={path}", "--config.objective.custom.weight=0.25"], DEFAULT)
    config = config_of(path)
    before = configs.config_hash(config)
    (tmp_path / "config.json").write_text(configs.to_json(config))
    assert configs.load(tmp_path).objective.custom.weight == 0.5
    config.objective.custom.weight = 0.25
    assert configs.config_hash(config) != before


def test_whole_images_of_a_run_with_windows(make_config):
    """What is asked for beside it counts, and is refused where it does not fit."""
    config = make_config(eval__mode="slide", eval__window=(24, 32), eval__stride=(12, 16))
    configs.apply_changes(config, {"eval.mode": "whole", "eval.flip": True})
    assert (config.eval.mode, config.eval.window, config.eval.stride, config.eval.flip) == ("whole", (), (), True)
    configs.apply_changes(config, {"eval.mode": "whole", "eval.window": (24, 32)})
    assert config.eval.window == (24, 32)
    with pytest.raises(UserError, match=r"config\.eval\.batch_size"):
        configs.apply_changes(config, {"eval.batch_size": 0})
