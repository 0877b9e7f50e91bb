"""`Predictor` of a model that was exported as a program."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from absl import logging
from jax import export
from jaxtyping import UInt8

from attnseg_jax.errors import UserError
from attnseg_jax.files import expanded, file_sha256
from attnseg_jax.inference.batching import checked_batch_size
from attnseg_jax.inference.pictures import Picture
from attnseg_jax.inference.prediction import Look
from attnseg_jax.inference.predictor import Predictor
from attnseg_jax.inference.pretrained import Info, read_card
from attnseg_jax.inference.programs import Form, Programs
from attnseg_jax.ops.decision import SOFTMAX


class ExportedPredictor(Predictor):
    """What `Predictor` makes of a folder that `attnseg-export --format=stablehlo` wrote.

    It has no `model`, `variables` and `config`: all of that is in the program.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        checkpoint: str = "latest",
        batch_size: int | None = None,
        changes: Mapping[str, Any] = MappingProxyType({}),
    ):
        folder = expanded(source)
        card = read_card(folder)
        if checkpoint != "latest" or changes:
            raise UserError(
                f"{source} is an exported program, in which checkpoint and config are fixed: leave them out, or export "
                "the run again"
            )
        self.batch_size = checked_batch_size(batch_size, 1)
        self._input, self.decision = card["input"], SOFTMAX
        self._program, self._programs, self._fitting = _read(folder / card["file"]), Programs(), {}
        weights, prepared, classes = card["weights"], card["preprocessing"], card["classes"]
        self.info = Info(
            tuple(one["name"] for one in classes),
            tuple(tuple(one["colour"]) for one in classes),
            tuple(prepared["mean"]),
            tuple(prepared["std"]),
            prepared["channel_order"],
            licence=weights["licence"] or "",
            source=f"{folder.absolute()}, step {weights['step']}",
            sha256=file_sha256(folder / card["file"]),
            step=weights["step"],
        )

    def attention(self, image: UInt8[np.ndarray, "h w 3"]) -> Look:
        """Raises UserError: a program has none to look at."""
        raise UserError(
            f"{self.info.source} is an exported program, which leaves no attention to look at: take the run"
        )

    def _prepared(self, picture: Picture) -> tuple[tuple[np.ndarray, ...], Form]:
        size, fixed, least = picture.pixels.shape[:2], self._input["size"], self._input["least"]
        if fixed and list(size) != fixed:
            raise UserError(
                f"{picture.name}: the exported program takes pictures of {fixed[0]} x {fixed[1]} pixels, not "
                f"{size[0]} x {size[1]}: export the run again with that --size"
            )
        if any(n < m for n, m in zip(size, least)):
            raise UserError(
                f"{picture.name}: the exported program takes pictures of at least {least[0]} x {least[1]} pixels, not "
                f"{size[0]} x {size[1]}"
            )
        return (picture.pixels,), Form(size)

    def _lowered(
        self, inputs: Sequence[np.ndarray], rows: int, form: Form, extras: tuple[str, ...]
    ) -> jax.stages.Lowered:
        logging.info("predict: compiling for %d x %d pixels, %d at once", *form.padded, rows)
        return self._program.lower(jax.ShapeDtypeStruct((rows, *inputs[0].shape[1:]), inputs[0].dtype))

    def _outputs(self, program: Callable, part: Sequence[np.ndarray], extras: tuple[str, ...]) -> dict[str, np.ndarray]:
        outputs = jax.device_get(program(*part))
        if "entropy" in extras:
            p = outputs["probabilities"].astype(np.float32)
            outputs["entropy"] = -(p * np.log(np.maximum(p, 1e-12))).sum(-1) / math.log(max(p.shape[-1], 2))
        return {name: outputs[name] for name in ("mask", "finite", *extras)}

    def _smaller(self) -> str:
        return "cut it into smaller ones"


def _read(path: Path) -> Any:
    try:
        return jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    except ModuleNotFoundError as error:
        raise UserError(f"{path} needs the package {error.name}: pip install {error.name}") from None
    # What a parser of damaged bytes raises has no common class.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{path} cannot be loaded ({reason}): it is damaged, or this jax is too new for it: export the run again"
        ) from error
