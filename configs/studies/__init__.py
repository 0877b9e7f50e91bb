"""Studies for `python -m attnseg_jax.cli.study`: each file's `get_study()` lists configs, overrides and seeds."""
