"""What a command that refuses something looks like."""


def assert_refused(outcome, *words):
    """Exit code 2 and one line `error: ...` that holds the words, with nothing on standard output."""
    code, out, err = outcome
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and err.endswith(errors[0] + "\n")
    for word in words:
        assert str(word) in errors[0]
