"""A model with weights in one line: published ones, those of a file, or those of a run."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from jaxtyping import PyTree
from ml_collections import ConfigDict

from attnseg_jax.data import datasets
from attnseg_jax.errors import UserError
from attnseg_jax.files import expanded, file_sha256
from attnseg_jax.models import build_model
from attnseg_jax.models.backbones import BACKBONES
from attnseg_jax.parts import resolve
from attnseg_jax.train import config as configs
from attnseg_jax.train.initial import read_record, read_run, workdir_of
from attnseg_jax.train.setup import abstract_inputs, make_model
from attnseg_jax.weights import catalogue
from attnseg_jax.weights.files import read_weights
from attnseg_jax.weights.fit import OWN, Fitted, fit
from attnseg_jax.weights.locate import Located, locate
from attnseg_jax.weights.preprocessing import of_layout
from attnseg_jax.weights.published import Published, PublishedModel
from attnseg_jax.weights.reading import read_located
from attnseg_jax.weights.rename import listed, match

# Of an exported model, beside its config.
WEIGHTS = "model.safetensors"
CARD = "card.json"
# Any that a backbone takes; shapes of parameters do not depend on it.
_SIZE = (64, 64)


@dataclass(frozen=True)
class Info:
    """What is known of weights; empty where it is not.

    Attributes:
      class_names: of the logits' channels, in order.
      palette: one (red, green, blue) for each class.
      mean: of red, green and blue, on the scale 0..255: the model takes `(image - mean) / std`.
      std: deviation likewise.
      channel_order: 'rgb', or 'bgr' where the model takes that with its channels reversed, `[..., ::-1]`.
      input_size: height and width of the images of the training.
      interpolation: by which these were resized to it.
      licence: of the weights.
      source: where they come from.
      sha256: of the file, or of the manifest of a checkpoint.
      layout: of the names in the file.
      step: of the training, where they are a run's.
    """

    class_names: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    channel_order: str = ""
    input_size: tuple[int, ...] = ()
    interpolation: str = ""
    licence: str = ""
    source: str = ""
    sha256: str = ""
    layout: str = ""
    step: int | None = None


def load_pretrained(
    source: str | Path, config: str | Mapping[str, Any] | None = None, num_classes: int = 0
) -> tuple[nn.Module, PyTree, Info]:
    """A model and its variables, ready for `model.apply(variables, image, train=False)`.

        backbone, variables, info = load_pretrained("resnet50-imagenet")
        model, variables, info = load_pretrained("segformer_b0-ade20k")
        model, variables, info = load_pretrained("runs/camvid")
        model, variables, info = load_pretrained("fpn.pth", {"backbone": {"name": "resnet18"}, ...}, num_classes=19)
        backbone, variables, info = load_pretrained("hf://timm/resnet18.a1_in1k/model.safetensors", "resnet18")

    Args:
      source: a name of `weights.catalogue`: of `CATALOGUE`, which gives a backbone (image -> `Features`), or of
        `MODELS`, which gives a whole model (image -> `Output`), or `NAME=PATH` with a copy of its file; the workdir of
        a run, or the folder of one of its checkpoints, which gives the run's model without its data set, as does what
        `attnseg-export --format=safetensors` wrote; a file, or `hf://owner/name[@revision]/file`.
      config: for a file: the name of a backbone, or the `model` part of a config for a whole model, as `build_model`
        takes it.
      num_classes: for a file of a whole model.

    Raises:
      UserError: there is no such source, it has nothing to load, or it does not fit the model.
    """
    source = str(source)
    if known := catalogue.entry(source):
        if config is not None:
            raise UserError(f"source={source} is of the catalogue, which knows what it is of: leave config out")
        return _load_published(source, *known)
    located = locate(source, key="source")
    if located.path.is_dir() or (config is None and read_card(located.path.parent)):
        if config is not None:
            raise UserError(f"source={source} is a run, which has its own config: leave config out")
        return read_back(source)[:3]
    if config is None:
        raise UserError(
            f"source={source} is a file, which does not say what model it is of: give the name of a backbone, or the "
            "model part of a config and num_classes"
        )
    if isinstance(config, str):
        backbone = resolve(BACKBONES, config, "config")()
        return backbone, *_fit_backbone(located, backbone)
    model = build_model(config, num_classes)
    fitted = _fit(located, model, model.backbone, part="model")
    return model, _arrays(fitted.variables), _info(located, fitted)


def _load_published(source: str, name: str, published: Published) -> tuple[nn.Module, PyTree, Info]:
    if isinstance(published, PublishedModel):
        return _published_model(source, published)[:3]
    backbone = BACKBONES[name.split("-")[0]](**published.options)
    variables, info = _fit_backbone(locate(source, key="source"), backbone)
    return backbone, variables, replace(info, **_known(published))


def _published_model(source: str, published: PublishedModel) -> tuple[nn.Module, PyTree, Info, ConfigDict]:
    """A whole model of the catalogue, as `read_back` gives a run's."""
    located = locate(source, key="source")
    config = configs.published(located.given)
    data = datasets.from_config(config.data)
    model = make_model(config, len(data.class_names))
    fitted = _fit(located, model, model.backbone, part="model", size=config.data.crop)
    info = replace(_info(located, fitted), class_names=data.class_names, palette=data.palette, **_known(published))
    return model, _arrays(fitted.variables), info, config


def _known(published: Published) -> dict[str, Any]:
    names = ("mean", "std", "channel_order", "input_size", "interpolation", "licence", "source")
    return {name: getattr(published, name) for name in names}


def _fit_backbone(located: Located, backbone: nn.Module) -> tuple[PyTree, Info]:
    fitted = _fit(located, _Alone(backbone), backbone, part="backbone")
    return _arrays({name: tree["backbone"] for name, tree in fitted.variables.items() if tree}), _info(located, fitted)


class _Alone(nn.Module):
    """A backbone as a whole model has it: its variables in `backbone`."""

    backbone: nn.Module

    def __call__(self, image):
        return self.backbone(image)


def _fit(
    located: Located, model: nn.Module, backbone: nn.Module, *, part: str, size: tuple[int, int] = _SIZE
) -> Fitted:
    target = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size, 3)))
    with _source(located.given):
        arrays, layout = read_located(located, key="source")
        fitted = fit(arrays, target, backbone=backbone, part=part, layout=layout)
        if fitted.unfilled:
            raise UserError(f"it has nothing for {listed(fitted.unfilled)}: give the config of the model it is of")
    return fitted


def read_back(source: str | Path, checkpoint: str = "latest") -> tuple[nn.Module, PyTree, Info, ConfigDict]:
    """Model, variables, what is known of them and config of a run; its data set is not needed.

    Args:
      source: the run's workdir, or the folder of one of its checkpoints; an exported model, or the file in it; a whole
        model of the catalogue, as in `load_pretrained`.
      checkpoint: `latest`, `best` (by validation mIoU) or a step.

    Raises:
      UserError: there is no such run or checkpoint, or it is damaged.
    """
    if known := catalogue.entry(str(source)):
        name, published = known
        if not isinstance(published, PublishedModel):
            raise UserError(f"{name} is a backbone, which segments nothing: train a model that starts from it")
        if checkpoint != "latest":
            raise UserError(f"{name} is a published model, which has no checkpoints: leave checkpoint out")
        return _published_model(str(source), published)
    folder = expanded(source)
    if folder.is_file() and read_card(folder.parent):
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(
            f"{source} is no run: name the workdir of one, or the folder of one of its checkpoints, or a whole model "
            "that attnseg-models lists"
        )
    if card := read_card(folder):
        return _load_exported(folder, str(source), card, checkpoint)
    workdir = workdir_of(folder) or folder
    config = configs.load(workdir)
    arrays, record = read_run(folder, "source", checkpoint)
    known = {
        "licence": read_record(workdir).get("licence", ""),
        "source": f"{workdir.absolute()}, step {record['step']}",
        "sha256": record["manifest_sha256"],
        "step": record["step"],
    }
    return _build(config, arrays, str(source), known)


def read_card(folder: Path) -> dict[str, Any] | None:
    """What is known of an exported model; None where there is none in the folder."""
    try:
        card = json.loads((folder / CARD).read_text())
        return card if isinstance(card["format"], str) and isinstance(card["weights"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _load_exported(
    folder: Path, source: str, card: Mapping[str, Any], checkpoint: str
) -> tuple[nn.Module, PyTree, Info, ConfigDict]:
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"source={source} is a model exported as {card['format']}, which runs as it is: see its run.py")
    if checkpoint != "latest":
        raise UserError(f"source={source} is an exported model, which has no checkpoints: leave checkpoint out")
    weights = card["weights"]
    known = {
        "licence": weights.get("licence") or "",
        "source": f"{folder.absolute()}, step {weights.get('step')}",
        "sha256": file_sha256(path),
        "step": weights.get("step"),
    }
    return _build(configs.load(folder), read_weights(path), source, known)


def _build(
    config: ConfigDict, arrays: Mapping[str, Any], source: str, known: Mapping[str, Any]
) -> tuple[nn.Module, PyTree, Info, ConfigDict]:
    """The model of a config with these arrays, and what is known of it."""
    data = datasets.from_config(config.data)
    model = make_model(config, len(data.class_names))
    target = jax.eval_shape(model.init, jax.random.key(0), *abstract_inputs(config))
    with _source(source):
        match({name: target[name] for name in ("params", "batch_stats") if name in target}, arrays)
    info = Info(
        data.class_names,
        data.palette,
        config.data.mean,
        config.data.std,
        config.data.channel_order or "rgb",
        config.data.crop,
        layout=OWN,
        **known,
    )
    return model, _arrays(traverse_util.unflatten_dict(arrays, sep=".")), info, config


def _info(located: Located, fitted: Fitted) -> Info:
    known = {key.removeprefix("data."): value for key, value in of_layout(fitted.layout).items()}
    return Info(source=located.given, sha256=located.sha256(), layout=fitted.layout, **known)


def _arrays(variables: PyTree) -> PyTree:
    return jax.tree.map(jnp.asarray, {name: tree for name, tree in variables.items() if tree})


@contextmanager
def _source(source: str) -> Iterator[None]:
    """Names the source in errors about what it holds."""
    try:
        yield
    except UserError as error:
        raise UserError(f"source={source}: {error}") from None
