"""The live page: what its server answers and refuses; in a browser, what it shows."""

import base64
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
from attnseg_jax.errors import UserError
from attnseg_jax.inference.demo import server as demo_server


@pytest.fixture(scope="module")
def served(make_config, tmp_path_factory):
    """(predictor, address) of a server that takes pictures up to 20,000 bytes."""
    workdir = save_random_run(make_config(optimizer__ema_decay=0.0), tmp_path_factory.mktemp("demo") / "run")
    predictor = Predictor(workdir, batch_size=1)
    server = demo_server.make_server(demo_server.Demo(predictor, "run <1>"), 0, 20_000)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield predictor, f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


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


def test_what_is_answered(served, picture):
    predictor, address = served
    assert '<script src="page.js">' in asked(address, "GET", "/")[1]
    model = asked(address, "GET", "/model")[1]
    assert model["name"] == "run <1>" and [one["name"] for one in model["classes"]] == list(predictor.info.class_names)
    status, found = asked(address, "POST", "/predict", picture[1])
    result = predictor(picture[0])
    assert status == 200 and found["size"] == [22, 30]
    np.testing.assert_array_equal(gray(found["mask"]), result.mask)
    sure = result.probabilities.max(-1).astype(np.float32)
    np.testing.assert_allclose(gray(found["confidence"]), 255 * sure, rtol=0, atol=1)
    assert found["shares"] == [count / 660 for count in result.areas().values()]

    looked = asked(address, "GET", f"/look?number={found['number']}&y=5&x=29")[1]
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
        (403, "alone", ("GET", "/model"), {"Host": "evil.example:80"}),
        (403, "alone", ("POST", "/predict", data), {"Origin": "http://evil.example"}),
        (400, "is gone", ("GET", "/look?number=77&y=1&x=1"), {}),
        (400, "y=ROW&x=COLUMN", ("GET", "/look?number=1&y=one"), {}),
    ):
        status, answer = asked(address, *arguments, **headers)
        assert (status, message in answer["error"]) == (wanted, True), (arguments, answer)
    number = asked(address, "POST", "/predict", data)[1]["number"]
    assert "outside the picture" in asked(address, "GET", f"/look?number={number}&y=22&x=0")[1]["error"]
    for _ in range(4):
        asked(address, "POST", "/predict", data)
    assert "is gone" in asked(address, "GET", f"/look?number={number}&y=1&x=1")[1]["error"]
    with pytest.raises(UserError, match=r"--port=.* cannot be used"):
        demo_server.make_server(None, int(address.partition(":")[2]), 1)


PROBE = """addEventListener("load", async () => {
  const pause = () => new Promise((done) => setTimeout(done, 50));
  const wait = async (test) => { for (let i = 0; i < 200 && !test(); i++) await pause(); };
  const file = new File([Uint8Array.from(atob("%s"), (c) => c.charCodeAt(0))], "p.png", {type: "image/png"});
  const transfer = new DataTransfer();
  transfer.items.add(file);
  await wait(() => document.title !== "" && $("title").textContent !== "attnseg_jax");
  document.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true}));
  await wait(() => !$("result").hidden);
  const found = [$("title").textContent, $("classes").children.length, $("said").textContent];
  await wait(() => $("input").complete);
  const box = $("stage").getBoundingClientRect();
  const at = {clientX: box.left + 0.99 * box.width, clientY: box.top + 0.25 * box.height, bubbles: true};
  $("stage").dispatchEvent(new MouseEvent("click", at));
  await wait(() => $("said").textContent.includes("attends"));
  found.push($("said").textContent, document.querySelector("[name=view]:checked").value);
  $("stage").dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft", bubbles: true}));
  await wait(() => $("said").textContent.includes("column 28") && $("said").textContent.includes("attends"));
  found.push($("said").textContent, document.documentElement.scrollWidth <= innerWidth);
  document.title = found.join("|");
});"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(served, picture, tmp_path, width, monkeypatch):
    _, address = served
    shown = tmp_path / "shown"
    shutil.copytree(demo_server._HERE, shown)
    with (shown / "page.js").open("a") as script:
        script.write(PROBE % base64.b64encode(picture[1]).decode())
    monkeypatch.setattr(demo_server, "_HERE", shown)
    assert "DataTransfer" in urllib.request.urlopen(f"http://{address}/page.js").read().decode()
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--window-size={width},900", "--virtual-time-budget=60000", "--dump-dom", f"http://{address}/"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    title = run.stdout.partition("<title>")[2].partition("</title>")[0].split("|")
    assert title[0] == "run &lt;1&gt;" and int(title[1]) > 1 and "% sure" in title[2]
    assert title[3].startswith("row 5, column 29: ") and "self0 attends most to row" in title[3]
    assert title[4] == "look" and title[5].startswith("row 5, column 28: ") and title[6] == "true"
