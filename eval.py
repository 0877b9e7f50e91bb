"""Scores a run on a split: `python eval.py --help`. It is the command `attnseg-eval` of a checkout."""

from attnseg_jax.cli.eval import main

if __name__ == "__main__":
    main()
