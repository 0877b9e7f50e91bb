"""One of several processes of a run on loopback: `python process.py MODE WORKDIR`; the environment says which one."""

import sys
from pathlib import Path

import jax
import numpy as np

from attnseg_jax.train.checkpoint import Checkpoints
from attnseg_jax.train.parallel import make_parallel
from attnseg_jax.train.processes import initialize_distributed
from attnseg_jax.train.state import eval_variables


def main(mode, workdir):
    initialize_distributed(True)
    initialize_distributed(True)  # again is harmless
    import tiny

    assert (jax.process_count(), jax.device_count(), jax.local_device_count()) == (2, 4, 2)
    mine = jax.process_index()
    first, train_step, eval_step = tiny.setup(tiny.Tiny(), ema_decay=0.9)
    parallel = make_parallel(mode, train_step, eval_step)

    def rows(batch, count):
        return {name: x[mine * count : (mine + 1) * count] for name, x in batch.items()}

    state = parallel.put_state(first)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        for i in range(2):
            state, metrics = parallel.train(state, parallel.shard_batch(rows(tiny.batch(i), 8)))
        checkpoints.save(2, state)
        parallel.train(state, parallel.shard_batch(rows(tiny.batch(7), 8)))  # its buffers are written over meanwhile
        checkpoints.add_metrics(2, {"miou": 0.5})
        checkpoints.save(3, parallel.put_state(first))
        checkpoints.add_metrics(3, {"miou": 0.1})
        checkpoints.wait()
        if mine == 0:
            file = max((workdir / "checkpoints/3").rglob("d/*"), key=lambda path: path.stat().st_size)
            file.write_bytes(file.read_bytes()[:-1])
        jax.experimental.multihost_utils.sync_global_devices("damaged")
        step, restored = checkpoints.restore_latest(jax.eval_shape(lambda: first))
    assert step == 2
    state = parallel.put_state(restored)
    state, metrics = parallel.train(state, parallel.shard_batch(rows(tiny.batch(2), 8)))
    # Three rows on two devices: one of padding.
    confusion, prediction = parallel.evaluate(eval_variables(state), rows(tiny.batch(9, size=6), 3))
    for leaf in jax.tree.leaves(state.params):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(copies) == 2 and np.array_equal(*copies)
    np.savez(
        workdir / f"result{mine}.npz",
        *[np.asarray(x) for x in jax.tree.leaves((state.params, state.batch_stats, state.ema))],
        loss=np.asarray(metrics["loss"]),
        confusion=confusion,
        prediction=prediction,
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
