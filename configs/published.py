"""Whole models that others published, each with the data set whose classes it knows.

    python eval.py --workdir=segformer_b0-ade20k --data_dir=path/to/ADEChallengeData2016
    python train.py --config=published:segformer_b0-ade20k --config.data.dir=path/to/ADEChallengeData2016 \
        --workdir=runs/mine

`attnseg-models` lists the names. The first command scores the published weights, the second one goes on training from
them, with the optimizer of configs/default.py at a tenth of its learning rate, which is a beginning and no recipe.
"""

from ml_collections import ConfigDict

from attnseg_jax.configs import known
from attnseg_jax.errors import UserError, nearest
from attnseg_jax.weights.catalogue import MODELS


def get_config(name: str = "segformer_b0-ade20k") -> ConfigDict:
    """Returns the config of a model of `weights.catalogue.MODELS`."""
    if name not in MODELS:
        raise UserError(f"--config=published:{name}: this is no whole model of the catalogue ({nearest(name, MODELS)})")
    model = MODELS[name]
    config = known.get_config(model.data)
    with config.unlocked():
        config.update_from_flattened_dict(dict(model.config))
        config.init_from = name
        config.data.crop = model.input_size
        # Pictures of one shorter side have few sizes, and padding is not what these models have learnt.
        config.eval.size_multiple = 0
        queries = model.config["model.decoder.name"] in ("eomt", "mask2former")
        config.loss.name = "mask_classification" if queries else "cross_entropy"
        config.optimizer.learning_rate = 1e-4
    return config
