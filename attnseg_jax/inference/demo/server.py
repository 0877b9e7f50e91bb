"""A small server on this machine alone: pictures in, masks, confidence and attention out, as JSON for a page."""

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from absl import logging
from PIL import Image

from attnseg_jax.data.decode import decode_image
from attnseg_jax.data.palettes import default_palette
from attnseg_jax.errors import UserError
from attnseg_jax.inference.pictures import Picture
from attnseg_jax.inference.prediction import Look
from attnseg_jax.inference.predictor import Predictor
from attnseg_jax.inference.pretrained import Info
from attnseg_jax.plots.attention_maps import heat_maps, position
from attnseg_jax.plots.drawing import data_uri, png_bytes
from attnseg_jax.plots.look import pixel_records

_HERE = Path(__file__).parent
_PAGE = {"/": ("page.html", "text/html"), "/page.js": ("page.js", "text/javascript")}
_KEPT = 4


class Demo:
    """What the page asks for.

    Args:
      models: by the names that the page shows; of two the page shows one to the left of a divider, one to the right.

    Raises:
      UserError: there are more classes than the page shows, or it shows no pictures of the kind that a model takes.
    """

    def __init__(self, models: Sequence[tuple[str, Predictor]]):
        for name, predictor in models:
            if predictor.channels:
                raise UserError(
                    f"{name} takes pictures of config.data.channels={predictor.channels}, which a browser does not "
                    "show: attnseg-predict takes their files"
                )
            if len(predictor.info.class_names) > 256:
                raise UserError(f"{name} has {len(predictor.info.class_names)} classes: the page shows at most 256")
        self._models = list(models)
        # A model takes one picture at a time; the newest few can be looked at.
        self._lock, self._count = threading.Lock(), 0
        self._pictures: OrderedDict[str, np.ndarray] = OrderedDict()
        self._looks: dict[tuple[str, int], Look] = {}

    def models(self) -> list[dict[str, Any]]:
        """Names and classes of the models."""
        shown = _colours([predictor.info for _, predictor in self._models])
        return [
            {"name": name, "classes": [{"name": one, "colour": shown[one]} for one in predictor.info.class_names]}
            for name, predictor in self._models
        ]

    def predict(self, data: bytes) -> dict[str, Any]:
        """What the models predict of an encoded picture: its size, a number to look at it, and for each model the class
        of each pixel, confidence and shares.

        Raises:
          UserError: it is no picture, or it does not fit a model or the memory.
        """
        pixels = decode_image(data, "the picture")
        with self._lock:
            found = [self._predicted(name, predictor, pixels) for name, predictor in self._models]
            self._count += 1
            number = str(self._count)
            self._pictures[number] = pixels
            if len(self._pictures) > _KEPT:
                gone, _ = self._pictures.popitem(last=False)
                self._looks = {key: look for key, look in self._looks.items() if key[0] != gone}
        return {"number": number, "size": list(pixels.shape[:2]), "found": found}

    def _predicted(self, name: str, predictor: Predictor, pixels: np.ndarray) -> dict[str, Any]:
        try:
            (found,) = predictor.stream([Picture("the picture", pixels=pixels)], extras=["probabilities"])
        except UserError as error:
            # Of one model everybody knows which it is.
            raise UserError(f"{name}: {error}" if len(self._models) > 1 else str(error)) from None
        sure = np.round(255 * found.probabilities.max(-1).astype(np.float32)).astype(np.uint8)
        return {
            "mask": _png(found.mask.astype(np.uint8)),
            "confidence": _png(sure),
            "shares": [count / found.mask.size for count in found.areas().values()],
            "mean_confidence": float(sure.mean() / 255),
        }

    def look(self, number: str, y: int, x: int, name: str = "", model: int = 0) -> dict[str, Any]:
        """What a pixel attends to, as the mean over the heads: a map from 0 to 255, and how much of the picture it has.

        Raises:
          UserError: there is no such picture any more, no such point or model, or nothing to look at.
        """
        with self._lock:
            if number not in self._pictures:
                raise UserError("this picture is gone: drop it again")
            pixels = self._pictures[number]
            h, w = pixels.shape[:2]
            if not (0 <= y < h and 0 <= x < w):
                raise UserError(f"the point {y},{x} is outside the picture of {h} x {w} pixels")
            if not 0 <= model < len(self._models):
                raise UserError(f"there is no model {model}")
            if (number, model) not in self._looks:
                self._looks[number, model] = self._models[model][1].attention(pixels)
            records, padded, scaled = self._looks[number, model]
            shown = pixel_records(records)
            if not shown:
                raise UserError("the model has attention, but none between pixels")
            name = name if name in shown else list(shown)[-1]
            record = shown[name]
            place = position((y * scaled[0] // h, x * scaled[1] // w), padded, record.query_size)
            weights = np.abs(heat_maps(record, np.array([place]))[0, :, 0]).mean(0)
        top = max(float(weights.max()), np.finfo(np.float32).tiny)
        return {
            "name": name,
            "names": list(shown),
            "map": _png(np.round(255 * weights / top).astype(np.uint8)),
            "cells": list(weights.shape),
            "reach": [p / s for p, s in zip(padded, scaled)],
        }


def _colours(models: Sequence[Info]) -> dict[str, list[int]]:
    """A colour for every class: that of the first model that knows it, another where it is a class's of a model before.

    >>> one, other = (Info(names, palette=((1, 2, 3), (4, 5, 6))) for names in (("sky", "road"), ("road", "cat")))
    >>> _colours([one, other])
    {'sky': [1, 2, 3], 'road': [4, 5, 6], 'cat': [44, 48, 58]}
    """
    shown: dict[str, list[int]] = {}
    for info in models:
        taken = {tuple(colour) for colour in shown.values()}
        own = {name: tuple(map(int, colour)) for name, colour in zip(info.class_names, info.palette, strict=True)}
        further = (colour for colour in default_palette(1024) if colour not in taken | {*own.values()})
        for name, colour in own.items():
            if name not in shown:
                shown[name] = list(next(further) if colour in taken else colour)
    return shown


def make_server(demo: Demo, port: int, largest: int) -> ThreadingHTTPServer:
    """A server on the loopback interface.

    Args:
      demo: answers.
      port: 0 takes any that is free.
      largest: bytes of a picture.

    Raises:
      UserError: the port cannot be used.
    """

    class Handler(_Handler):
        pass

    Handler.demo, Handler.largest = demo, largest
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        raise UserError(f"--port={port} cannot be used ({error}): choose another one") from error


class _Handler(BaseHTTPRequestHandler):
    demo: Demo
    largest: int
    timeout = 60

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if not self._is_ours():
            return
        if url.path in _PAGE:
            name, kind = _PAGE[url.path]
            self._send(HTTPStatus.OK, (_HERE / name).read_bytes(), kind)
        elif url.path == "/models":
            self._answer(self.demo.models)
        elif url.path == "/look":
            asked = {key: values[0] for key, values in parse_qs(url.query).items()}
            self._answer(lambda: self._look(asked))
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")

    def do_POST(self) -> None:
        if not self._is_ours():
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "the size of the picture is missing")
        elif int(length) > self.largest:
            limit = math.ceil(self.largest / 2**20)
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the picture is too large: at most {limit} MiB")
        elif urlsplit(self.path).path != "/predict":
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")
        else:
            data = self.rfile.read(int(length))
            self._answer(lambda: self.demo.predict(data))

    def _look(self, asked: dict[str, str]) -> dict[str, Any]:
        try:
            y, x, model = int(asked["y"]), int(asked["x"]), int(asked.get("model", 0))
        except (KeyError, ValueError):
            raise UserError("a point is y=ROW&x=COLUMN, of the second model model=1") from None
        return self.demo.look(asked.get("number", ""), y, x, asked.get("name", ""), model)

    def _is_ours(self) -> bool:
        """Whether the page itself asks: pages of other sites, which a browser has open too, do not."""
        port = self.server.server_address[1]
        hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
        origin = self.headers.get("Origin")
        if self.headers.get("Host") in hosts and (origin is None or urlsplit(origin).netloc in hosts):
            return True
        self._refuse(HTTPStatus.FORBIDDEN, f"this page is at http://127.0.0.1:{port} alone")
        return False

    def _answer(self, ask: Callable[[], Any]) -> None:
        try:
            found = ask()
        except UserError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        else:
            self._send(HTTPStatus.OK, json.dumps(found).encode(), "application/json")

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        # What is left of a request that was not read would be taken for the next one.
        self.close_connection = True
        self._send(status, json.dumps({"error": why}).encode(), "application/json")

    def _send(self, status: HTTPStatus, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Security-Policy", "default-src 'self' 'unsafe-inline' data: blob:")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        logging.debug(format, *arguments)


def _png(values: np.ndarray) -> str:
    return data_uri(png_bytes(Image.fromarray(values)))
