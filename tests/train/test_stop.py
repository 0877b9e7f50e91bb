"""Requests to stop: several processes agree on the moment."""

import jax
import pytest
from jax.experimental import multihost_utils

from attnseg_jax.errors import Stopped
from attnseg_jax.train.stop import StopRequests


def test_several_processes_number_their_questions_through_steps_and_batches(monkeypatch):
    asked = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda i: asked.append(i) or i == 4)
    stops = StopRequests()
    assert not stops.now()
    stops.within(10)
    assert not stops.now()
    with pytest.raises(Stopped, match=r"SIGTERM.*step 20 is saved"):
        stops.within(20)
    assert asked == [1, 2, 3, 4]
