"""Shows a model live, on a page of this machine.

    attnseg-demo --model=runs/camvid
    attnseg-demo --model=runs/camvid --checkpoint=best --port=8001 --max_mb=50

Open the address that is printed: drop a picture, and see its classes, how sure the model is, and what a point attends
to. The model is that of a run of train.py, or an exported one; its data are not needed. The page is served to this
machine alone, nothing is kept on disk, and Ctrl-C ends it.
"""

import functools

from absl import flags

from attnseg_jax.cli import changes, entry
from attnseg_jax.errors import UserError
from attnseg_jax.files import expanded
from attnseg_jax.inference.demo.server import Demo, make_server
from attnseg_jax.inference.predictor import Predictor


def _flags() -> None:
    flags.DEFINE_string("model", None, "folder of a run, of one of its checkpoints, or of an export; required")
    flags.DEFINE_string("checkpoint", "latest", "'latest' (default), 'best' (by validation mIoU) or a step")
    flags.DEFINE_integer("port", 8000, "of the page; 0 takes any that is free (default: 8000)")
    flags.DEFINE_float("max_mb", 20.0, "size of a picture in MiB, at most (default: 20)")
    changes.define()


def _serve() -> None:
    given = flags.FLAGS
    if not given.model:
        raise UserError("--model is missing: attnseg-demo --model=RUN")
    if not 0 < given.max_mb <= 1024:
        raise UserError(f"--max_mb={given.max_mb} must be above 0 and at most 1024")
    predictor = Predictor(given.model, checkpoint=given.checkpoint, batch_size=1, changes=changes.given())
    name = f"{expanded(given.model).name}, step {predictor.info.step}"
    server = make_server(Demo(predictor, name), given.port, int(given.max_mb * 2**20))
    print(f"http://127.0.0.1:{server.server_address[1]}  (Ctrl-C ends it)", flush=True)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended")


main = functools.partial(entry.run, _serve, _flags, usage=__doc__, check=changes.spelled_out)

if __name__ == "__main__":
    main()
