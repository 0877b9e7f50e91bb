"""One of two processes that join, agree and wait: `python meeting.py`; a signal or an error of process 1 ends both."""

import sys

import jax
from jax.experimental import multihost_utils

from attnseg_jax.cli import entry
from attnseg_jax.errors import UserError
from attnseg_jax.train import processes


def _meet():
    processes.initialize_distributed(True)
    if jax.process_index() == 1:
        raise UserError("b3.png is broken")
    # For ever: the other one does not come.
    multihost_utils.sync_global_devices("never")


if __name__ == "__main__":
    sys.exit(entry.run(_meet, lambda: None, usage=__doc__))
