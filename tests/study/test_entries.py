"""Studies: every file of configs/studies, what a study refuses, and the command line of a run."""

import re
import sys
from pathlib import Path

import jax
import pytest

from attnseg_jax.errors import UserError
from attnseg_jax.study import entries
from attnseg_jax.study.entries import Entry
from attnseg_jax.train import config as configs
from attnseg_jax.train import loop
from attnseg_jax.train.setup import abstract_inputs, make_model

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "configs/studies").glob("[!_]*.py"))
DEFAULT = str(ROOT / "configs/default.py")
# ml_collections reads config files that way.
pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method is deprecated:DeprecationWarning")


def planned(path):
    """One run of each entry; the seeds of an entry build the same model."""
    runs = entries.plan(entries.load_study(path), path.parent)
    return list({run.entry.label: run for run in runs}.values())


@pytest.mark.thorough
@pytest.mark.parametrize(
    "run", [pytest.param(run, id=f"{path.stem}-{run.entry.label}") for path in STUDIES for run in planned(path)]
)
def test_every_entry_of_every_study_builds(run):
    model = make_model(run.config, 7)
    inputs = abstract_inputs(run.config, batch_size=2)

    def training(key, *inputs):
        # One trace for variables and output: tracing is all that this test costs.
        return model.init_with_output({"params": key, "dropout": key}, *inputs, train=True)[0]

    assert jax.eval_shape(training, jax.random.key(0), *inputs).logits.shape == (*inputs[0].shape[:3], 7)


def test_reach_has_every_mechanism_and_the_seeds_it_promises():
    from attnseg_jax.configs.studies import reach

    systems = {entry.label: entry for entry in reach.get_study()}
    names = {entry.overrides["model.attention.name"] for entry in systems.values()}
    assert names == set(reach.ATTENTION)
    assert {label for label, entry in systems.items() if entry.seeds == (0, 1, 2)} == systems.keys() & {
        *reach.THREE_SEEDS
    }
    assert all(entry.seeds in ((0,), (0, 1, 2)) for entry in systems.values())


def test_the_systems_of_the_comparison_share_all_but_the_model():
    from attnseg_jax.configs.compare import base
    from attnseg_jax.configs.studies import camvid

    expected = configs.resolve(base.get_config())
    folder = ROOT / "configs/compare"
    assert {*camvid.SYSTEMS} == {path.stem for path in folder.glob("[!_]*.py")} - {"base"}
    runs = entries.plan(camvid.get_study(), ROOT / "configs/studies")
    assert [run.seed for run in runs] == [0, 1, 2] * len(camvid.SYSTEMS)
    rates = {"fast_rcnn": ("fc[12]/.*=0.2",)}
    rates |= {f"{name}_lite0": ("backbone/.*=0.2",) for name in ("fcn", "self", "local")}
    for run in runs:
        found = configs.resolve(run.config)
        multipliers = found["optimizer"].pop("lr_multipliers")
        assert bool(run.config.model.backbone.pretrained) == run.entry.label.endswith("_lite0")
        assert multipliers == rates.get(run.entry.label, ())
        wanted = {**expected, "seed": run.seed, "model": found["model"], "optimizer": {**expected["optimizer"]}}
        del wanted["optimizer"]["lr_multipliers"]
        if run.config.model.backbone.pretrained:
            # Images as in the training of these weights.
            wanted["data"] = {**wanted["data"], "mean": (127.0,) * 3, "std": (128.0,) * 3}
        if run.config.model.kind != "segmenter":
            wanted["data"] = {**wanted["data"], "regions": found["data"]["regions"]}
        assert found == wanted, configs.differences(wanted, found)


def entry(label="a", seeds=(0,), config=DEFAULT, **overrides):
    return Entry(label, {key.replace("__", "."): value for key, value in overrides.items()}, config, seeds)


@pytest.mark.parametrize(
    "systems, words",
    [
        ([entry(train__stesp=3)], ["entry 'a'", "config.train.stesp is unknown", "did you mean 'steps'?"]),
        ([entry(train=3)], ["entry 'a'", "config.train is a group"]),
        ([entry(train__steps="many")], ["entry 'a'", "steps"]),
        ([entry(train__steps=0)], ["config.train.steps=0 must be at least 1"]),
        ([entry(model__attention__name="slef")], ["config.model.attention.name='slef'", "did you mean 'self'?"]),
        ([entry(seed=3)], ["config.seed is set by seeds"]),
        ([entry(config="nix.py")], ["entry 'a'", "nix.py does not exist"]),
        ([entry(seeds=(-1,))], ["config.seed=-1"]),
        ([entry(), entry("b")], ["'a seed 0' and 'b seed 0' have the same config"]),
        ([entry(seeds=(1, 1))], ["'a seed 1' and 'a seed 1' have the same config"]),
        ([entry(), entry(model__attention__name="none")], ["two entries of the study are called 'a'"]),
    ],
    ids=lambda x: x[0] if isinstance(x[0], str) else "",
)
def test_entries_that_cannot_be(systems, words, tmp_path):
    with pytest.raises(UserError) as error:
        entries.plan(systems, tmp_path)
    assert all(word in str(error.value) for word in words), error.value


def test_the_place_of_the_data_is_not_part_of_the_hash(tmp_path):
    here, there = (entries.plan([entry(data__source="folder")], tmp_path, place)[0] for place in (None, "/there"))
    assert here.key == there.key == configs.config_hash(here.config) and here.name == there.name
    assert there.config.data.dir == "/there" and "--config.data.dir=/there" in there.command(tmp_path)


def test_the_command_line_of_a_run_says_the_same_config(call, monkeypatch, blocks_flags, tmp_path):
    seen = []
    monkeypatch.setattr(
        loop, "run", lambda config, workdir: seen.append((config, workdir)) or {"step": 1, "miou": 0.5, "split": ""}
    )
    changes = {
        **blocks_flags,
        "data.scale": (1, 2),
        "optimizer.lr_multipliers": ("backbone/.*=0.1",),
        "data.check": False,
    }
    (run,) = entries.plan([Entry("a b/c", changes, DEFAULT, (3,))], tmp_path, "da ta")
    assert re.fullmatch(r"a_b_c-3-[0-9a-f]{8}", run.name)
    command = run.command(tmp_path / "run")
    assert command[:3] == [sys.executable, "-m", "attnseg_jax.cli.train"]
    code, _, err = call("attnseg_jax/cli/train.py", *command[3:])
    assert code == 0, err
    assert configs.to_json(seen[0][0]) == configs.to_json(run.config) and seen[0][1] == tmp_path / "run"
