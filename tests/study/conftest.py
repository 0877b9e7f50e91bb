"""The study command where train.py is another script: quick, and as obedient or as broken as a test needs it."""

import json
import sys
from pathlib import Path

import pytest

from attnseg_jax import cost
from attnseg_jax.study import entries, timing
from attnseg_jax.train import config as configs

SCRIPT = "attnseg_jax/cli/study.py"
DEFAULT = str(Path(__file__).parents[2] / "configs/default.py")

STUB = """
import json, os, pathlib, signal, sys, time
workdir = pathlib.Path(next(a for a in sys.argv if a.startswith("--workdir=")).partition("=")[2])
seed = int(next(a for a in sys.argv if a.startswith("--config.seed=")).partition("=")[2])
width = int(next(a for a in sys.argv if ".tiny.width=" in a).partition(".tiny.width=")[2])
workdir.mkdir(parents=True, exist_ok=True)
result, metrics = workdir / "result.json", workdir / "metrics.jsonl"
if width == 3:
    print("error: the loss is not finite", file=sys.stderr)
    sys.exit(2)
if width == 7:
    print("step 2/6")
    os.kill(os.getpid(), signal.SIGKILL)
if width == 5 and not (workdir / "saved").exists():
    def stop(*_):
        (workdir / "saved").touch()
        print("stopped by a signal", file=sys.stderr)
        sys.exit(143)
    signal.signal(signal.SIGTERM, stop)
    metrics.write_text('{"step": 2, "loss": 1}\\n')
    time.sleep(30)
if not result.exists():
    metrics.write_text('{"step": 3, "val_miou": 0.25}\\n{"step": 6, "val_miou": %g}\\n' % (0.5 + seed / 8))
    iou = {name: 0.5 for name in ("red", "green", "blue", "white", "black")}
    miou = 0.5 + seed / 8
    result.write_text(json.dumps({"split": "val", "step": 6, "miou": miou, "pixel_accuracy": 0.75, "iou": iou}))
if "--config.train.steps=12" in sys.argv:
    if width == 9 and not (workdir.parent / "mended").exists():
        print("error: no memory", file=sys.stderr)
        sys.exit(2)
    timing = workdir / "timing.jsonl"
    timing.write_text('{"step": 4, "step_seconds": %d}\\n{"step": 12, "image_seconds": 0.5}\\n' % width)
(workdir / "config.json").write_text((pathlib.Path(__file__).parent / f"{workdir.name}.json").read_text())
with (pathlib.Path(__file__).parent / "calls").open("a") as file:
    file.write(workdir.name + "\\n")
"""


@pytest.fixture
def stub(call, monkeypatch, tmp_path, blocks_flags):
    """Writes a study and runs the command on it; returns (exit code, output, errors, results)."""
    (tmp_path / "train.py").write_text(STUB)
    monkeypatch.setattr(entries, "TRAIN", (sys.executable, str(tmp_path / "train.py")))
    one = cost.Cost(2.5e6, 3e6, 2**20)
    monkeypatch.setattr(cost, "module_cost", lambda model, *_, **__: cost.ModuleCost(model.backbone.width, one, one))

    def run(widths, *argv, seeds=(0,)):
        lines = [f"E('w{w}', {{**C, 'model.backbone.tiny.width': {w}}}, {DEFAULT!r}, {seeds})" for w in widths]
        path = tmp_path / "list.py"
        path.write_text(
            "from attnseg_jax.study.entries import Entry as E\n"
            f"C = {blocks_flags!r}\ndef get_study(): return [{', '.join(lines)}]\n"
        )
        for planned in entries.plan(entries.load_study(path), tmp_path):
            for one_of in (planned, timing.shortened(planned)):
                (tmp_path / f"{one_of.name}.json").write_text(configs.to_json(one_of.config))
        outcome = call(SCRIPT, f"--study={path}", f"--workdir={tmp_path / 'out'}", *argv)
        results = tmp_path / "out/results.json"
        return *outcome, json.loads(results.read_text()) if results.exists() else None

    run.calls = lambda: (tmp_path / "calls").read_text().split() if (tmp_path / "calls").exists() else []
    return run
