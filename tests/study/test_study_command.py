"""The study command: what is trained, repeated, continued and written."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest
from pair import listening_to_interrupts

from attnseg_jax.errors import UserError
from attnseg_jax.files import locked_workdir
from attnseg_jax.study import entries

ROOT = Path(__file__).parents[2]
SCRIPT = "attnseg_jax/cli/study.py"
DEFAULT = str(ROOT / "configs/default.py")
# ml_collections reads config files that way.
pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method is deprecated:DeprecationWarning")


@pytest.mark.thorough
def test_results_table_and_plot(stub, tmp_path):
    code, out, _, records = stub([4, 8], seeds=(0, 2))
    assert code == 0
    assert sorted((r["label"], r["seed"], r["result"]["miou"]) for r in records.values()) == [
        ("w4", 0, 0.5), ("w4", 2, 0.75), ("w8", 0, 0.5), ("w8", 2, 0.75),
    ]  # fmt: skip
    record = next(r for r in records.values() if r["label"] == "w4" and r["seed"] == 2)
    assert record["curve"] == [[3, 0.25], [6, 0.75]] and record["steps"] == 6
    assert record["overrides"]["data.crop"] == [24, 32] and record["overrides"]["model.backbone.tiny.width"] == 4
    assert record["result"]["iou"]["red"] == 0.5 and record["versions"]["jax"] == jax.__version__
    assert 0 < record["seconds"] < 20
    assert record["cost"]["forward"]["flops"] == 2.5e6
    row = next(line for line in out.splitlines() if line.startswith("| w4 "))
    assert row.startswith("| w4 | 2 | 0.6250 | 0.2500 | 0.7500 | 4 | 0.0025 | 1 | ")
    assert (tmp_path / "out/results.md").read_text() == out
    assert (tmp_path / "out/results.png").read_bytes()[1:4] == b"PNG"


def test_a_finished_run_is_never_repeated(stub, tmp_path):
    stub([4, 6], "--only=w4")
    assert len(stub.calls()) == 1
    before = (tmp_path / "out/results.json").read_text()
    os.rename(tmp_path / "out/runs", tmp_path / "gone")
    _, _, _, records = stub([4, 6])
    assert [name.split("-")[0] for name in stub.calls()] == ["w4", "w6"]
    assert records.items() >= json.loads(before).items()
    # Another results file knows nothing; the run itself does, but not how long it took.
    code, _, _, _ = stub([6], f"--results={tmp_path / 'other.json'}")
    (record,) = json.loads((tmp_path / "other.json").read_text()).values()
    assert code == 0 and record["result"]["miou"] == 0.5 and record["seconds"] is None
    assert (tmp_path / "other.md").exists()


def test_tables_and_plots_are_drawn_from_records_alone(stub, call, tmp_path):
    _, text, _, _ = stub([4, 3])
    before = stub.calls()
    results = tmp_path / "out/results.json"
    (tmp_path / "out/results.png").unlink()
    code, out, _ = call(SCRIPT, "--draw", f"--results={results}")
    assert (code, out, stub.calls()) == (0, text, before) and "w3 seed 0" in out
    assert (tmp_path / "out/results.png").read_bytes()[1:4] == b"PNG"
    for given, word in (([], "--draw needs --results"), ([f"--results={tmp_path / 'none.json'}"], "no finished run")):
        code, _, err = call(SCRIPT, "--draw", *given)
        assert code == 2 and word in err
    assert not (tmp_path / "none.md").exists()


def test_a_crash_does_not_end_the_study(stub, tmp_path):
    code, out, err, records = stub([3, 4])
    assert code == 2
    assert err.splitlines()[-1] == "error: 1 of 2 runs failed, the first: w3 seed 0: the loss is not finite"
    assert {r["label"]: "result" in r for r in records.values()} == {"w3": False, "w4": True}
    assert "- w3 seed 0: the loss is not finite" in out and "| w4 | 1 | 0.5000 | - |" in out
    first = next(r["seconds"] for r in records.values() if r["label"] == "w3")
    assert first > 0
    # It is tried again, and its seconds add up.
    _, _, _, records = stub([3, 4])
    assert next(r["seconds"] for r in records.values() if r["label"] == "w3") > first
    assert len(stub.calls()) == 1


def test_results_that_cannot_be_written(stub, tmp_path):
    (tmp_path / "file").touch()
    code, _, err, _ = stub([4], f"--results={tmp_path / 'file' / 'r.json'}")
    assert code == 2 and "r.json cannot be written" in err.splitlines()[-1] and stub.calls() == []


def test_a_run_that_is_killed(stub):
    _, _, _, records = stub([7])
    assert [record["error"] for record in records.values()] == ["killed by SIGKILL"]


def test_another_config_than_planned_is_no_result(stub, tmp_path):
    stub([4])
    (run,) = entries.plan(entries.load_study(tmp_path / "list.py"), tmp_path)
    (tmp_path / f"{run.name}.json").write_text("{}")
    with locked_workdir(tmp_path / "other", "another study") as held:
        trained, error = entries.train(run, tmp_path / "other" / run.name, tmp_path / "log", held)
    assert trained and "became another config" in error


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_told_to_stop(stub, tmp_path, number, code):
    """The run saves and stops, the study ends, the same command continues the run."""

    def stop():
        while not list((tmp_path / "out/runs").glob("w5-*/metrics.jsonl")):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop)
    with listening_to_interrupts():
        thread.start()
        try:
            found, out, err, records = stub([5, 4])
        finally:
            thread.join()
    assert (found, out) == (code, "")
    assert err.splitlines()[-1].startswith("stopped by a signal" if number == signal.SIGTERM else "interrupted")
    ((key, record),) = records.items()
    assert record["error"] == "stopped" and "result" not in record
    assert (tmp_path / "out/runs" / f"w5-0-{key}" / "saved").exists()
    found, _, _, records = stub([5, 4])
    assert found == 0 and records[key]["seconds"] > record["seconds"] and "error" not in records[key]
    assert [name.split("-")[0] for name in stub.calls()] == ["w5", "w4"]


def test_stretches(stub, caplog):
    code, out, _, records = stub([4, 6], "--max_minutes=0")
    assert code == 0 and records == {} and stub.calls() == []
    assert "--max_minutes=0 are over: 2 runs are left" in caplog.text and "- 2 more: not trained yet" in out


def test_dry_run(stub, tmp_path):
    code, out, _, records = stub([4, 6], "--dry_run", seeds=(0, 1))
    lines = out.splitlines()
    assert code == 0 and records is None and not (tmp_path / "out").exists()
    assert [line.split()[:4] for line in lines[:4]] == [
        ["train", label, "seed", str(seed)] for label in ("w4", "w6") for seed in (0, 1)
    ]
    assert "model.backbone.tiny.width=4" in lines[0]
    assert lines[4:] == ["4 of 4 runs to train, 24 steps", "no finished run to estimate the time from"]
    stub([4, 6], "--only=4", seeds=(0, 1))
    lines = stub([4, 6], "--dry_run", seeds=(0, 1))[1].splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["finished", "finished", "train", "train"]
    assert lines[4] == "2 of 4 runs to train, 12 steps" and "minutes, by the median of the finished ones" in lines[5]


def test_the_estimate_takes_a_label_by_itself(stub, tmp_path):
    """One seed of two labels is finished, 6 steps each in 60 and 600 s; a third label takes what lies between."""
    stub([4, 6], seeds=(0,))
    path = tmp_path / "out/results.json"
    records = json.loads(path.read_text())
    for record in records.values():
        record["seconds"] = {"w4": 60, "w6": 600}[record["label"]]
    path.write_text(json.dumps(records))
    last = stub([4, 6, 8], "--dry_run", seeds=(0, 1))[1].splitlines()[-1]
    # 1 and 10 minutes for the second seeds, twice 5.5 for the third label.
    assert last.startswith("about 22 minutes")


def test_a_folder_in_use(stub, tmp_path):
    with locked_workdir(tmp_path / "out", "another study") as held:
        code, _, err, _ = stub([4])
        assert code == 2 and "is in use by another study" in err.splitlines()[-1] and stub.calls() == []
        # A run that is left behind holds on to it.
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[held.fileno()])
    with pytest.raises(UserError, match="another study"), locked_workdir(tmp_path / "out", "another study"):
        pass
    code, _, err, _ = stub([4])
    assert code == 2 and "left behind" in err.splitlines()[-1] and stub.calls() == []
    child.communicate(b"\n")
    assert stub([4])[0] == 0


@pytest.mark.parametrize(
    "argv, words",
    [
        ([], ["--study is missing"]),
        (["--study=nix.py", "--workdir=out"], ["--study=nix.py: the file nix.py does not exist"]),
        (["--study=empty.py", "--workdir=out"], ["--study=empty.py", "get_study"]),
        (["--study=wrong.py", "--workdir=out"], ["--study=wrong.py", "must return a list", "Entry"]),
        (["--study=right.py"], ["--workdir is missing"]),
        (["--study=right.py", "--workdir=right.py"], ["--workdir=right.py cannot be used"]),
        (["--study=right.py", "--workdir=out", "--only=("], ["--only=( is no regular expression"]),
        (["--study=right.py", "--workdir=out", "--only=self"], ["--only=self is in no label: none"]),
        (["--study=right.py", "--workdir=out", "--results=right.py"], ["--results=right.py must end in .json"]),
        (["--study=right.py", "--workdir=out", "--results=list.json"], ["--results=list.json does not hold"]),
        (["--study=right.py", "--workdir=out", "--results=empty.json"], ["--results=empty.json is not JSON"]),
        (["--study=right.py", "--workdir=out", "--results=folder.json"], ["--results=folder.json cannot be read"]),
        (["--study=right.py", "--workdir=out", "--max_minutes=soon"], ["max_minutes", "soon"]),
        (["--study=right.py", "--workdir=out", "--max_minutes=-3"], ["max_minutes=-3", "non-negative"]),
    ],
    ids=lambda x: " ".join(x),
)
def test_mistakes_are_one_line(argv, words, call, tmp_path):
    head = "from attnseg_jax.study.entries import Entry\n"
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "wrong.py").write_text("def get_study(): return ['none']")
    (tmp_path / "right.py").write_text(head + f"def get_study(): return [Entry('none', {{}}, {DEFAULT!r})]")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "folder.json").mkdir()
    code, out, err = call(SCRIPT, *argv)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and all(word in err for word in words), err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_real_study(blocks, blocks_flags, tmp_path):
    """Stopped in its second run, then finished: results as of one stretch."""
    changes = {key: value for key, value in blocks_flags.items() if key != "data.dir"}
    path = tmp_path / "list.py"
    path.write_text(
        "from attnseg_jax.study.entries import Entry\n"
        f"C = {changes!r}\n"
        f"def get_study():\n    return [Entry('none', {{**C, 'model.attention.name': 'none'}}, {DEFAULT!r}),\n"
        f"            Entry('self', {{**C, 'train.steps': 60}}, {DEFAULT!r})]\n"
    )

    def start(workdir, *more):
        command = [sys.executable, "-m", "attnseg_jax.cli.study", f"--study={path}", f"--workdir={tmp_path / workdir}"]
        command += [f"--data_dir={blocks}", *more]
        return subprocess.Popen(
            command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=dict(os.environ, XLA_FLAGS="", JAX_PLATFORMS="cpu"),
        )  # fmt: skip

    process = start("a")
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("a/runs/self-*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.terminate()
    _, err = process.communicate(timeout=200)
    assert process.returncode == 143, err
    assert not list(tmp_path.glob("a/runs/self-*/result.json"))
    for workdir in ("a", "b"):
        out, err = start(workdir).communicate(timeout=400)
        assert out.split("\n\n")[0].count("\n| ") == 2, err
        assert out.count("| better than, %: other images |") == 1
    found, expected = (json.loads((tmp_path / name / "results.json").read_text()) for name in "ab")
    assert found.keys() == expected.keys() and len(found) == 2
    for key, record in found.items():
        for name in ("result", "counts", "cost"):
            assert record[name] == expected[key][name]
        assert record["curve"] == expected[key]["curve"]
    out, err = start("b", "--time").communicate(timeout=400)
    assert "one after another on one machine" in out, err
    timed = json.loads((tmp_path / "b/results.json").read_text())
    for key, record in timed.items():
        # One batch of images is not timed: it has the compilation.
        assert {"step_seconds", "peak_bytes", "together"} == record["timing"].keys()
        assert {**record, "timing": 0} == {**expected[key], "timing": 0}
        assert record["timing"]["peak_bytes"] > 2**26
    names = {"results.json", "results.md", "results.png", "results_bootstrap.png", "results_sheet.png", "sheet.png"}
    assert names == {path.name for path in (tmp_path / "a").iterdir() if path.is_file()} - {".lock"}
    assert len(list((tmp_path / "a/results_predictions").iterdir())) == 4
