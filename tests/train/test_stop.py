"""Requests to stop: several processes agree on the moment."""

import os
import signal

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


def test_a_time_limit_stops_as_sigterm_does():
    seconds = [100.0]
    stops = StopRequests(0.5, clock=lambda: seconds[0])
    seconds[0] = 129.9
    assert not stops.now()
    seconds[0] = 130.0
    assert stops.now() and stops.now()
    stop = stops.stopped(7)
    assert str(stop) == "by config.train.max_minutes=0.5; step 7 is saved, the same command continues there"
    assert stop.signal == signal.SIGTERM
    assert not StopRequests(0, clock=lambda: 1e9).now()


def test_a_time_limit_tells_the_other_processes(monkeypatch):
    """By a signal, for which jax looks."""
    sent = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(os, "kill", lambda process, number: sent.append((process, number)))
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda _: bool(sent))
    assert StopRequests(1e-9).now()
    assert sent == [(os.getpid(), signal.SIGTERM)]
