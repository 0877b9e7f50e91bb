"""The command that writes weights in another format."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from weight_files import weights_bytes

from attnseg_jax.weights.files import read_weights

RNG = np.random.default_rng(0)
# Every bit pattern of 16 bits is one of bfloat16, not-a-number and infinities too.
STATE = {
    "conv.weight": RNG.normal(size=(4, 3, 5, 2)).astype(np.float32),
    "conv.half": RNG.normal(size=7).astype(np.float16),
    "norm.brain": np.arange(2**16, dtype=np.uint16).view(jnp.bfloat16),
    "norm.eight": np.arange(256, dtype=np.uint8).view(jnp.float8_e4m3fn).reshape(16, 16),
    "norm.num_batches_tracked": np.array(2**40 + 1),
    "index": np.array([[0, -1], [5, 2**31 - 1]], np.int32),
    "mask": np.array([True, False, True]),
    "none": np.zeros((0, 3), np.float32),
    "file": np.array([1.5, np.nan, -0.0]),
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
}
FORMATS = (".pth", ".safetensors", ".npz")


@pytest.fixture
def convert(call):
    """Runs the command; returns (exit code, standard output, standard error)."""
    return functools.partial(call, "attnseg_jax/cli/convert.py")


def assert_same(found, expected):
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert np.ascontiguousarray(found[name]).tobytes() == np.ascontiguousarray(array).tobytes(), name


@pytest.mark.parametrize("there", FORMATS)
def test_there_and_back_bit_for_bit(there, convert, tmp_path):
    for back in FORMATS:
        first, second, third = (tmp_path / f"{name}{end}" for name, end in zip("abc", (back, there, back)))
        for path in (first, second, third):
            path.unlink(missing_ok=True)
        first.write_bytes(weights_bytes(STATE, first))
        for source, target in ((first, second), (second, third)):
            code, out, err = convert(f"--from={source}", f"--to={target}")
            assert code == 0, err
            assert out == f"{target}: 10 arrays, 65936 elements, {target.stat().st_size} bytes\n"
        assert_same(read_weights(second), STATE)
        # Equal weights make equal files.
        assert first.read_bytes() == third.read_bytes()


def test_a_file_that_is_there_stays_unless_told(convert, tmp_path):
    source, target = tmp_path / "a.npz", tmp_path / "deeper" / "b.pth"
    source.write_bytes(weights_bytes(STATE, source))
    assert convert(f"--from={source}", f"--to={target}")[0] == 0
    whole = target.read_bytes()
    target.write_text("mine")
    code, out, err = convert(f"--from={source}", f"--to={target}")
    assert code == 2 and out == "" and f"--to={target} is there already" in err
    assert target.read_text() == "mine"
    assert convert(f"--from={source}", f"--to={target}", "--overwrite")[0] == 0
    assert target.read_bytes() == whole
    assert [path.name for path in target.parent.iterdir()] == ["b.pth"]


@pytest.mark.parametrize(
    "argv, words",
    [
        ([], ["--from is missing"]),
        (["--from={source}"], ["--to is missing"]),
        (["--from=nowhere.pth", "--to=b.npz"], ["--from=nowhere.pth", "no such file", "catalogue"]),
        (["--from=resnet18-imagenet1k", "--to=b.npz"], ["did you mean 'resnet18-imagenet'?"]),
        (["--from={source}", "--to=b.onnx"], ["b.onnx", ".safetensors"]),
        (["--from=nowhere.pth", "--to=b"], ["b: weights are", ".safetensors"]),
        (["--from={source}", "--to={source}/b.npz"], ["cannot be written"]),
        (["--from={damaged}", "--to=b.npz"], ["damaged.pth is not read as a PyTorch file"]),
        (["--from={complex}", "--to=b.safetensors"], ["w has the type complex128", ".npz or .pth"]),
        (["--form=a", "--to=b.npz"], ["unknown flag --form", "'from'"]),
    ],
    ids=lambda x: " ".join(x),
)
def test_mistakes_are_one_line_and_write_nothing(argv, words, convert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = {"source": tmp_path / "a.npz", "damaged": tmp_path / "damaged.pth", "complex": tmp_path / "c.npz"}
    paths["source"].write_bytes(weights_bytes(STATE, paths["source"]))
    paths["complex"].write_bytes(weights_bytes({"w": np.ones(2, np.complex128)}, paths["complex"]))
    paths["damaged"].write_bytes(weights_bytes(STATE, paths["damaged"])[:-90])
    before = sorted(tmp_path.iterdir())
    code, out, err = convert(*(argument.format(**paths) for argument in argv))
    assert code == 2 and out == "" and "Traceback" not in err, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and all(word in lines[0] for word in words), err
    assert sorted(tmp_path.iterdir()) == before


def test_help(convert):
    code, out, _ = convert("--help")
    assert code == 0 and all(f"  --{name}: " in out for name in ("from", "to", "overwrite"))
