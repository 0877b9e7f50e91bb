"""Shows a model live, or two beside each other, on a page of this machine.

    attnseg-demo --model=runs/camvid
    attnseg-demo --model=runs/camvid --checkpoint=best --port=8001 --max_mb=50
    attnseg-demo --model=runs/camvid --model=runs/other
    attnseg-demo --model=runs/camvid --model=runs/camvid --checkpoint=3000 --checkpoint=best

Open the address that is printed: drop a picture, and see its classes, how sure the model is, and what a point attends
to. Of two models the page shows one to the left of a divider that can be moved, one to the right. A model is that of a
run of train.py, or an exported one; its data are not needed. The page is served to this machine alone, nothing is kept
on disk, and Ctrl-C ends it.
"""

import functools
from collections.abc import Sequence

from absl import flags

from attnseg_jax.cli import changes, entry
from attnseg_jax.errors import UserError
from attnseg_jax.files import expanded
from attnseg_jax.inference.demo.server import Demo, make_server
from attnseg_jax.inference.predictor import Predictor


def _flags() -> None:
    flags.DEFINE_multi_string(
        "model", [], "folder of a run, of one of its checkpoints, or of an export; required, twice to compare"
    )
    flags.DEFINE_multi_string(
        "checkpoint", ["latest"], "'latest' (default), 'best' (by validation mIoU) or a step; one for all, or for each"
    )
    flags.DEFINE_integer("port", 8000, "of the page; 0 takes any that is free (default: 8000)")
    flags.DEFINE_float("max_mb", 20.0, "size of a picture in MiB, at most (default: 20)")
    changes.define()


def _serve() -> None:
    given = flags.FLAGS
    sources, checkpoints = given.model, given.checkpoint
    if not all(sources) or not sources:
        raise UserError("--model is missing: attnseg-demo --model=RUN")
    if len(sources) > 2:
        raise UserError(f"--model is given {len(sources)} times: the page compares two models")
    if len(checkpoints) not in (1, len(sources)):
        raise UserError(f"--checkpoint is given {len(checkpoints)} times: give one for all models, or one for each")
    if not 0 < given.max_mb <= 1024:
        raise UserError(f"--max_mb={given.max_mb} must be above 0 and at most 1024")
    if len(checkpoints) < len(sources):
        checkpoints = checkpoints * len(sources)
    predictors = [
        Predictor(source, checkpoint=checkpoint, batch_size=1, changes=changes.given())
        for source, checkpoint in zip(sources, checkpoints, strict=True)
    ]
    models = list(zip(_names(sources, predictors), predictors))
    server = make_server(Demo(models), given.port, int(given.max_mb * 2**20))
    print(f"http://127.0.0.1:{server.server_address[1]}  (Ctrl-C ends it)", flush=True)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended")


def _names(sources: Sequence[str], predictors: Sequence[Predictor]) -> list[str]:
    """Of the models on the page: their folders, with what is above them where they would be alike."""
    names = [expanded(source).name for source in sources]
    if len(set(names)) < len(set(sources)):
        names = list(sources)
    return [f"{name}, step {predictor.info.step}" for name, predictor in zip(names, predictors, strict=True)]


main = functools.partial(entry.run, _serve, _flags, usage=__doc__, check=changes.spelled_out)

if __name__ == "__main__":
    main()
