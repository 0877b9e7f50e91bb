"""Runs that share what they compile."""

import dataclasses
import functools

import pytest

from attnseg_jax.train import config as configs
from attnseg_jax.train import loop, setup


@pytest.fixture(scope="module")
def shared_steps():
    """Runs of one config share their compiled steps."""
    runs, make_run = {}, setup.make_run
    states = {}

    def shared(config, num_classes, weights=lambda: None, **options):
        given = weights()
        key = configs.to_json(config), num_classes, str(given), str(options)
        if key not in runs:
            run = make_run(config, num_classes, lambda: given, **options)
            # None of the states that are made here hangs on anything else.
            create = states.setdefault((config.seed, config.model.attention.name), functools.cache(run.create))
            runs[key] = dataclasses.replace(run, create=create)
        return runs[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_run", shared)
        yield
