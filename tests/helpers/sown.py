"""Applying a module and reading what it recorded."""

import functools

import jax

from attnseg_jax.models.records import RECORDS, attention_records

# Nearly everything here takes longer to compile than to run.
FAST_COMPILE = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def recorded(model, *, transform=lambda function: function, **options):
    """A function (variables, *inputs) -> (result, records by name).

    `options` as of `model.apply`, which `transform` may change, so that records keep their order: what JAX returns has
    its names sorted.
    """
    apply = transform(functools.partial(model.apply, mutable=[RECORDS, "batch_stats"], **options))

    def run(variables, *inputs):
        result, state = apply(variables, *inputs)
        return result, attention_records(state.get(RECORDS, {}))

    return run


# Compiled, and traced only.
with_records = functools.partial(recorded, transform=FAST_COMPILE)
traced_records = functools.partial(recorded, transform=lambda apply: functools.partial(jax.eval_shape, apply))
