"""Compiled programs that are kept: how many, which, and what is too large."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from attnseg_jax.inference import batching, programs
from attnseg_jax.inference.pictures import Picture


def lowered(size, compiled):
    """What compiles to a program of `size` bytes, and tells so."""

    def compile():
        compiled.append(size)
        return SimpleNamespace(
            memory_analysis=lambda: SimpleNamespace(temp_size_in_bytes=size - 1, output_size_in_bytes=1)
        )

    return lambda: SimpleNamespace(compile=compile)


def test_the_programs_that_were_asked_for_last_are_kept(monkeypatch):
    monkeypatch.setattr(programs, "_KEPT", 2)
    kept, compiled = programs.Programs(), []
    for key in (1, 2, 1, 3, 1, 2):
        kept(key, lowered(key, compiled))
    assert compiled == [1, 2, 3, 2] and list(kept.kept) == [1, 2]


def test_what_is_too_large_is_compiled_once(monkeypatch):
    free, compiled = [99], []
    monkeypatch.setattr(programs, "free_bytes", lambda _: free[0])
    kept = programs.Programs()
    for _ in range(2):
        with pytest.raises(programs.TooLarge, match=r"about 9\.31e-08 GiB on a device that has 9\.22e-08 GiB left"):
            kept("a", lowered(100, compiled))
    free[0] = 100
    assert kept("a", lowered(100, compiled)).memory_analysis().temp_size_in_bytes == 99
    assert compiled == [100, 100]


def test_other_errors_of_xla_stay_what_they_are():
    def fail(words):
        raise jax.errors.JaxRuntimeError(words)

    with pytest.raises(programs.TooLarge, match="more memory than a device has left"):
        programs.within_memory(lambda: fail("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        programs.within_memory(lambda: fail("INTERNAL: no"))


def test_pictures_that_wait_and_their_outputs_take_a_bounded_memory(monkeypatch):
    """Of 4 x 5 pixels: 60 bytes as they are, 240 for the model, and those of the outputs."""
    pixels = np.zeros((4, 5, 3), np.uint8)
    mask = programs.output_bytes(150, ())
    both = programs.output_bytes(150, ("entropy", "probabilities"))
    assert (mask, both, programs.output_bytes(300, ("probabilities",))) == (1, 305, 602)

    def runs(held, predicted):
        monkeypatch.setattr(batching, "_HELD", held)
        items = iter([(Picture(str(i)), pixels) for i in range(5)])
        return [len(window) for window in batching.windows(items, 4, predicted)]

    assert runs(10_000, mask) == [4, 1]
    assert runs(2 * (300 + 20 * both), both) == [2, 2, 1] and runs(2 * (300 + 20 * both) - 1, both) == [1] * 5
    assert runs(100, mask) == [1] * 5
