"""What a process finds out about the others, without any."""

import json

import jax
import pytest

from attnseg_jax.errors import UserError
from attnseg_jax.train import processes, watch


def test_a_difference_names_process_key_and_both_values():
    first = json.dumps({"config.seed": 0, "config.data.crop": (8, 9), "the version of jax": "1"})
    assert watch.difference(first, first, 1) == ""
    other = json.dumps({"config.seed": 5, "config.data.crop": (8, 9)})
    assert watch.difference(first, other, 3) == (
        "the processes differ: config.seed is 5 in process 3 and 0 in process 0; the version of jax is None in process "
        "3 and '1' in process 0: give all the same command, data and packages"
    )


def test_many_differences_are_counted():
    words = watch.difference(json.dumps(dict.fromkeys("abcdef", 1)), json.dumps(dict.fromkeys("abcdef", 2)), 1)
    assert "c is 2" in words and "d is 2" not in words and "and 3 more differ" in words


def test_a_process_is_lost_once_after_so_many_looks_at_the_same_sign():
    lost = watch.Lost({1, 2})
    found = [lost.look({1: str(min(i, 5)), 2: str(i)}) for i in range(watch._LOOKS + 12)]
    # The first look at the sign that stays is number 5.
    assert [i for i, lost in enumerate(found) if lost] == [5 + watch._LOOKS]
    assert found[5 + watch._LOOKS] == [1] and lost.found == {1}


def test_a_process_that_never_gave_a_sign_is_lost():
    lost = watch.Lost({1})
    assert [bool(lost.look({})) for _ in range(watch._LOOKS)] == [False] * (watch._LOOKS - 1) + [True]


@pytest.mark.parametrize(
    ("error", "echo"),
    [
        (ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer"), True),
        (jax.errors.JaxRuntimeError("INTERNAL: device lost"), True),
        (UserError("socket.png is broken"), False),
        (ZeroDivisionError("division by zero"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_which_errors_may_be_the_end_of_another_process(error, echo):
    assert watch._is_echo(error) == echo


def test_one_process_is_left_alone(make_config, tmp_path):
    processes.check_same_run(make_config(), tmp_path)
    processes.check_same_inputs({"training": None})
    assert processes.naming_process("seed") == "seed"
    with pytest.raises(ZeroDivisionError), processes.leaving_together(), processes.failing_together():
        raise ZeroDivisionError
