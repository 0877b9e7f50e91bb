"""Batches of an evaluation that the memory does not hold are divided, by what the compiled program says."""

import jax
import numpy as np
import pytest
import tiny
from tiny import setup

from attnseg_jax.data import limits
from attnseg_jax.errors import UserError
from attnseg_jax.train import memory
from attnseg_jax.train.parallel import make_parallel
from attnseg_jax.train.state import eval_variables


@pytest.fixture(params=["pmap", "mesh"])
def evaluation(request):
    """(parallel on two devices, variables, batches of 13 and of 3 images)."""
    state, _, eval_step = setup()
    parallel = make_parallel(request.param, None, eval_step, jax.devices()[:2])
    batches = [tiny.batch(1, size=13), tiny.batch(2, size=3)]
    for number, batch in enumerate(batches):
        batch["index"] = 100 * number + np.arange(len(batch["valid"]), dtype=np.int32)
        batch["id"] = np.array([f"image {index}" for index in batch["index"]])
    return parallel, parallel.put_state(eval_variables(state)), batches


def scored(parallel, variables, batches):
    """(counts of all batches, index -> prediction, rows of each batch)."""
    total, predictions, rows = 0, {}, []
    for batch in batches:
        confusion, found = parallel.evaluate(variables, batch)
        total = total + np.asarray(confusion)
        predictions |= {int(i): row for i, row in zip(batch["index"], np.asarray(found)) if i >= 0}
        rows.append(len(batch["valid"]))
    return total, predictions, rows


def test_the_program_is_compiled_once(evaluation):
    parallel, variables, (batch, _) = evaluation
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: compiled.append(event) if "backend_compile" in event else None
    )
    needed = parallel.evaluation_bytes(variables, batch)
    # Images, labels and predictions of 7 of the 13 rows are there at least.
    assert needed >= 7 * 9 * 11 * (3 * 4 + 4 + 1)
    assert needed > parallel.evaluation_bytes(variables, {name: x[:2] for name, x in batch.items()})
    before = len(compiled)
    assert before >= 2
    np.asarray(parallel.evaluate(variables, batch)[1])
    assert len(compiled) == before


def test_what_does_not_fit_is_divided(evaluation, monkeypatch):
    parallel, variables, batches = evaluation
    total, predictions, rows = scored(parallel, variables, memory.fitting(batches, parallel, variables))
    assert rows == [13, 3]
    parallel.fitting_rows.clear()
    needed = parallel.evaluation_bytes(variables, {name: x[:4] for name, x in batches[0].items()})
    monkeypatch.setattr(memory, "free_bytes", lambda device: needed)
    some, others, rows = scored(parallel, variables, memory.fitting(batches, parallel, variables))
    assert rows == [3] * 5 + [3]
    np.testing.assert_array_equal(some, total)
    assert others.keys() == predictions.keys() and len(others) == 16
    for index in predictions:
        np.testing.assert_array_equal(others[index], predictions[index])


def test_an_image_that_does_not_fit_is_named(evaluation, monkeypatch):
    parallel, variables, batches = evaluation
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    with pytest.raises(UserError, match=r"image of 9 x 11 pixels \(image 0\).*config\.data\.shorter_side"):
        list(memory.fitting(batches, parallel, variables))


def test_the_memory_of_this_machine(tmp_path, monkeypatch):
    assert 1 << 20 < memory.free_bytes(jax.devices()[0]) * jax.local_device_count() <= limits.host_bytes() * 1.5
    files = {"memory.max": "3000000", "memory.current": "1000000", "memory.stat": "file 7\ninactive_file 500000\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(limits, "_CGROUP", tmp_path)
    assert limits.host_bytes() == 2500000
    (tmp_path / "memory.max").write_text("max\n")
    assert limits.host_bytes() > 2500000
