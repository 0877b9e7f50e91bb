"""The live page: what its server answers and refuses; in a browser, what it shows."""

import base64
import contextlib
import html
import http.client
import io
import json
import shutil
import subprocess
import threading
import urllib.request

import numpy as np
import pytest
from PIL import Image
from workdirs import save_random_run

from attnseg_jax import Predictor
from attnseg_jax.cli import demo as command
from attnseg_jax.errors import UserError
from attnseg_jax.inference.demo import server as demo_server


@contextlib.contextmanager
def serving(*models):
    """The address of a server that takes pictures up to 20,000 bytes."""
    server = demo_server.make_server(demo_server.Demo(models), 0, 20_000)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def make_model(make_config, tmp_path_factory):
    """A random model of these classes, as `(name, predictor)`."""

    def make(name, classes, layers=1):
        config = make_config(optimizer__ema_decay=0.0, data__classes=classes, model__attention__self__layers=layers)
        workdir = save_random_run(config, tmp_path_factory.mktemp("demo") / "run", len(classes))
        return name, Predictor(workdir, batch_size=1)

    return make


@pytest.fixture(scope="module")
def models(make_model):
    """Two models; the second knows the same classes in another order, and has two attention records."""
    first = make_model("run <1>", ("red", "green", "blue", "white", "black"))
    return [first, make_model("run 2", ("blue", "red", "black", "white", "green"), layers=2)]


@pytest.fixture(scope="module")
def served(models):
    """(predictors, address) of a page that compares them."""
    with serving(*models) as address:
        yield [predictor for _, predictor in models], address


@pytest.fixture(scope="module")
def picture():
    pixels = np.random.default_rng(0).integers(0, 256, (22, 30, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return pixels, file.getvalue()


def asked(address, method, path, body=None, **headers):
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, json.loads(data) if "json" in answer.headers["Content-Type"] else data.decode()


def gray(url):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


@pytest.mark.thorough
def test_what_is_answered(served, picture):
    predictors, address = served
    assert '<script src="page.js">' in asked(address, "GET", "/")[1]
    told = asked(address, "GET", "/models")[1]
    assert [one["name"] for one in told] == ["run <1>", "run 2"]
    status, answer = asked(address, "POST", "/predict", picture[1])
    assert status == 200 and answer["size"] == [22, 30] and len(answer["found"]) == 2
    for model, (predictor, found) in enumerate(zip(predictors, answer["found"])):
        assert [one["name"] for one in told[model]["classes"]] == list(predictor.info.class_names)
        result = predictor(picture[0], extras=["probabilities"])
        np.testing.assert_array_equal(gray(found["mask"]), result.mask)
        sure = result.probabilities.max(-1).astype(np.float32)
        np.testing.assert_allclose(gray(found["confidence"]), 255 * sure, rtol=0, atol=1)
        assert found["shares"] == [count / 660 for count in result.areas().values()]

        looked = asked(address, "GET", f"/look?number={answer['number']}&y=5&x=29&name=self0&model={model}")[1]
        expected = result.attention("self0", at=(5, 29)).mean(0)
        assert looked["name"] == "self0" and looked["cells"] == list(expected.shape)
        np.testing.assert_allclose(gray(looked["map"]), 255 * expected / expected.max(), rtol=0, atol=1)
        padded = predictor.attention(picture[0])[1]
        assert looked["reach"] == [padded[0] / 22, padded[1] / 30]


def test_what_is_refused(served, picture):
    _, address = served
    data = picture[1]
    for wanted, message, arguments, headers in (
        (400, "cannot be decoded", ("POST", "/predict", b"no picture"), {}),
        (413, "at most 1 MiB", ("POST", "/predict", b"x" * 20_001), {}),
        (404, "no such page", ("POST", "/", data), {}),
        (404, "no such page", ("GET", "/../server.py"), {}),
        (403, "alone", ("GET", "/models"), {"Host": "evil.example:80"}),
        (403, "alone", ("POST", "/predict", data), {"Origin": "http://evil.example"}),
        (400, "is gone", ("GET", "/look?number=77&y=1&x=1"), {}),
        (400, "y=ROW&x=COLUMN", ("GET", "/look?number=1&y=one"), {}),
    ):
        status, answer = asked(address, *arguments, **headers)
        assert (status, message in answer["error"]) == (wanted, True), (arguments, answer)
    number = asked(address, "POST", "/predict", data)[1]["number"]
    assert "outside the picture" in asked(address, "GET", f"/look?number={number}&y=22&x=0")[1]["error"]
    assert "no model 2" in asked(address, "GET", f"/look?number={number}&y=2&x=0&model=2")[1]["error"]
    for _ in range(4):
        asked(address, "POST", "/predict", data)
    assert "is gone" in asked(address, "GET", f"/look?number={number}&y=1&x=1")[1]["error"]
    with pytest.raises(UserError, match=r"--port=.* cannot be used"):
        demo_server.make_server(None, int(address.partition(":")[2]), 1)


def test_what_the_command_refuses(call):
    for message, arguments in (
        ("--model is missing", []),
        ("the page compares two models", ["--model=a"] * 3),
        ("give one for all models, or one for each", ["--model=a", "--checkpoint=3", "--checkpoint=best"]),
        ("--max_mb=0.0 must be above 0", ["--model=a", "--max_mb=0"]),
        ("nowhere is no run", ["--model=nowhere", "--model=nowhere"]),
    ):
        code, _, error = call("attnseg_jax/cli/demo.py", *arguments)
        assert code == 2 and message in error.splitlines()[-1] and "Traceback" not in error, error


def test_names_of_models_tell_them_apart(models):
    predictors = [predictor for _, predictor in models]
    assert command._names(["a/run", "b/other"], predictors) == ["run, step 7", "other, step 7"]
    assert command._names(["a/run", "b/run"], predictors) == ["a/run, step 7", "b/run, step 7"]
    assert command._names(["a/run", "a/run"], predictors) == ["run, step 7"] * 2


# What a person does, in a page of one model and of two; what it leads to is the title.
PROBE = """addEventListener("load", async () => {
  const pause = () => new Promise((done) => setTimeout(done, 50));
  const wait = async (test) => { for (let i = 0; i < 200 && !test(); i++) await pause(); };
  const file = new File([Uint8Array.from(atob("%s"), (c) => c.charCodeAt(0))], "p.png", {type: "image/png"});
  const transfer = new DataTransfer();
  transfer.items.add(file);
  await wait(() => document.title !== "" && $("title").textContent !== "attnseg_jax");
  document.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true}));
  await wait(() => !$("result").hidden);
  const found = {title: $("title").textContent, first: $("said").textContent};
  found.classes = [...document.querySelectorAll("#classes button")].map((one) => one.ariaLabel || one.textContent);
  await wait(() => $("input").complete);
  // The colours at the far left and right of a row.
  const shown = () => [0, 29].map((x) => [...$("over").getContext("2d").getImageData(x, 5, 1, 1).data].join());
  const key = (element, key) => element.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
  const box = $("stage").getBoundingClientRect(), divider = $("divider");
  found.masks = [shown()];
  if (!divider.hidden) {
    const drag = (kind, x) => new PointerEvent(kind, {clientX: box.left + x * box.width, pointerId: 1, bubbles: true});
    divider.setPointerCapture = divider.hasPointerCapture = () => true;
    divider.dispatchEvent(drag("pointerdown", 0.5));
    divider.dispatchEvent(drag("pointermove", 0.25));
    divider.dispatchEvent(new MouseEvent("click", {bubbles: true}));
    found.dragged = [divider.ariaValueNow, divider.getAttribute("aria-valuetext"), $("mark").hidden];
    key(divider, "ArrowRight");
    key(divider, "PageUp");
    found.keyed = divider.ariaValueNow;
    for (const end of ["Home", "End"]) { key(divider, end); found.masks.push(shown()); }
    found.wide = document.documentElement.scrollWidth <= innerWidth;
    if (!$("differing").hidden) {
      document.querySelector("[value=difference]").click();
      found.difference = [shown(), divider.hidden];
      document.querySelector("[value=mask]").click();
    }
    document.querySelector("#classes button").focus();
    found.alone = shown();
    document.querySelector("#classes button").blur();
  }
  const at = {clientX: box.left + 0.99 * box.width, clientY: box.top + 0.25 * box.height, bubbles: true};
  $("stage").dispatchEvent(new MouseEvent("click", at));
  await wait(() => $("said").textContent.includes("attends"));
  found.clicked = [$("said").textContent, view(), $("which").querySelectorAll("select").length];
  key($("stage"), "ArrowLeft");
  await wait(() => $("said").textContent.includes("column 28") && $("said").textContent.includes("attends"));
  found.moved = $("said").textContent;
  found.fits = document.documentElement.scrollWidth <= innerWidth;
  found.error = $("error").textContent;
  document.title = JSON.stringify(found);
});"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
@pytest.mark.parametrize("kind, width", [("single", 390), ("alike", 390), ("alike", 1280), ("other classes", 390)])
def test_in_a_browser(models, make_model, picture, tmp_path, kind, width, monkeypatch):
    if kind == "single":
        models = models[:1]
    elif kind == "other classes":
        models = [models[0], make_model("run 2", ("blue", "red", "gray"), layers=2)]
    shown = tmp_path / "shown"
    shutil.copytree(demo_server._HERE, shown)
    with (shown / "page.js").open("a") as script:
        script.write(PROBE % base64.b64encode(picture[1]).decode())
    monkeypatch.setattr(demo_server, "_HERE", shown)
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    browser += [f"--window-size={width},900", "--virtual-time-budget=60000", "--dump-dom"]
    with serving(*models) as address:
        assert "DataTransfer" in urllib.request.urlopen(f"http://{address}/page.js").read().decode()
        run = subprocess.run([*browser, f"http://{address}/"], capture_output=True, text=True, timeout=300)
    found = json.loads(html.unescape(run.stdout.partition("<title>")[2].partition("</title>")[0]))
    assert found["fits"] and found["error"] == "" and found["clicked"][1] == "look"
    masks = [predictor(picture[0]).mask for _, predictor in models]
    names = [predictor.info.class_names for _, predictor in models]
    colours = {}
    for _, predictor in models:
        for one, colour in zip(predictor.info.class_names, predictor.info.palette):
            colours.setdefault(one, ",".join(map(str, colour)))

    def name(model, x):
        return names[model][masks[model][5, x]]

    def drawn(*models):
        """The left and the right end of row 5, in the colours of these models."""
        # At part of the opacity the canvas rounds colours.
        return [colours[name(model, x)] for model, x in zip(models, (0, 29))]

    def rgb(pixels):
        return [near(pixel, colours.values()) for pixel in pixels]

    def near(pixel, known):
        values = np.array(pixel.split(",")[:3], int)
        return min(known, key=lambda text: np.abs(values - np.array(text.split(","), int)).sum())

    assert found["moved"].startswith("row 5, column 28: ")
    if kind == "single":
        assert found["title"] == "run <1>" and found["clicked"][0].startswith(f"row 5, column 29: {name(0, 29)}, ")
        assert "self0 attends most to row" in found["clicked"][0] and rgb(found["masks"][0]) == drawn(0, 0)
        return
    assert found["title"] == "A: run <1> · B: run 2" and found["wide"]
    called = [np.array(n)[mask] for n, mask in zip(names, masks)]
    told = f"they differ in {100 * (called[0] != called[1]).mean():.1f} % of the pixels"
    assert found["first"].endswith(told if kind == "alike" else "sure")
    for label in found["classes"]:
        class_name, _, shares = label.partition(": ")
        expected = [
            f"{100 * (one == class_name).mean():.1f} % with {letter}"
            if class_name in known
            else f"not known to {letter}"
            for letter, one, known in zip("AB", called, names)
        ]
        assert shares == ", ".join(expected)
    assert found["dragged"] == ["25", "A on the left 25 %, B on the right 75 %", True] and found["keyed"] == "37"
    # In the middle, wholly to the left, wholly to the right.
    assert [rgb(pixels) for pixels in found["masks"]] == [drawn(0, 1), drawn(1, 1), drawn(0, 0)]
    assert ("difference" in found) == (kind == "alike")
    if kind == "alike":
        pixels, hidden = found["difference"]
        expected = ["255,0,110" if name(0, x) != name(1, x) else "0,0,0" for x in (0, 29)]
        assert hidden and [near(pixel, ("255,0,110", "0,0,0")) for pixel in pixels] == expected
    alone = found["classes"][0].partition(":")[0]
    seen = [near(pixel, [colours[alone], "0,0,0"]) for pixel in found["alone"]]
    assert seen == [colours[alone] if name(0, x) == alone else "0,0,0" for x in (0, 29)]
    said = found["clicked"][0]
    assert said.startswith(f"row 5, column 29: A says {name(0, 29)}, ") and f"; B says {name(1, 29)}, " in said
    assert "A's self0 attends most to row" in said and "B's self1 attends most to row" in said
    assert found["clicked"][2] == 2
