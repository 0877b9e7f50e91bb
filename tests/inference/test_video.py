"""Videos: frame by frame as pictures; needs PyAV, an extra, where the package is there."""

import sys

import numpy as np
import pytest
from workdirs import save_random_run

from attnseg_jax.errors import UserError
from attnseg_jax.inference.pictures import Picture
from attnseg_jax.inference.video import Film, frames, is_video


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"clip\.mp4: a video needs the package av \(PyAV\): pip install av"):
        next(frames(Picture("clip.mp4", tmp_path / "clip.mp4")))


def test_frames_are_predicted(call, make_config, tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "clip.mkv"
    grays = [40, 120, 200]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = 24, 32, "yuv420p"
        for gray in grays:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((24, 32, 3), gray, np.uint8), "rgb24")))
        container.mux(stream.encode())
    found = list(frames(Picture("clip.mkv", path, path.__class__("clip"))))
    assert [frame.target.as_posix() for frame in found] == ["clip/000000", "clip/000001", "clip/000002"]
    assert all(abs(int(frame.pixels.mean()) - gray) < 3 for frame, gray in zip(found, grays, strict=True))
    assert is_video(path)

    run = save_random_run(make_config(optimizer__ema_decay=0.0), tmp_path / "run")
    command = ("attnseg_jax/cli/predict.py", f"--model={run}", "--input=clip.mkv", "--output=out")
    code, _, err = call(*command)
    assert code == 0, err
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    masks = {f"mask/clip/00000{i}.png" for i in range(3)}
    assert files == {*masks, "overlay/clip.mp4", "areas.csv", "classes.csv", "predict.json"}
    with av.open(str(tmp_path / "out/overlay/clip.mp4")) as container:
        assert container.streams.video[0].average_rate == 10
        assert sum(1 for _ in container.decode(video=0)) == 3
    rows = (tmp_path / "out/areas.csv").read_text().splitlines()
    assert sum(map(int, rows[1].split(",")[4::2])) == 3 * 24 * 32
    assert ": 0 pictures predicted" in call(*command)[1]

    path.write_bytes(path.read_bytes()[:200])
    code, _, err = call(*command[:-1], "--output=other")
    assert code == 2 and "clip.mkv: cannot be decoded" in err and not (tmp_path / "other/overlay").is_dir()


def test_a_film_that_fails_is_not_there(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "in.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24")))
        container.mux(stream.encode())
    with pytest.raises(KeyError), Film(tmp_path / "out.mp4", tmp_path / "in.avi") as film:
        film.add(np.zeros((15, 17, 3), np.uint8))
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["in.avi"]
