"""Trains a segmentation model: `python train.py --help`. It is the command `attnseg-train` of a checkout."""

from attnseg_jax.cli.train import main

if __name__ == "__main__":
    main()
