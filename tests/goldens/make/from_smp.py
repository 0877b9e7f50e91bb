"""Goldens of segmentation_models_pytorch: models, the scSE module, losses with their gradients."""

import segmentation_models_pytorch as smp
import torch
from common import Case, main, of
from segmentation_models_pytorch.base.modules import SCSEModule

LOSSES = smp.losses


def model(name, encoder="resnet18", inputs=None, **options):
    make = lambda: getattr(smp, name)(encoder, encoder_weights=None, classes=19, **options)  # noqa: E731
    return Case(of(make), lambda module, inputs: {"logits": module(inputs["x"])}, inputs or {})


def losses(make, **options):
    """A case of several losses, by name, on all label sets; a loss that the original refuses has no output."""

    def run(_, inputs):
        x, found = inputs.pop("x").requires_grad_(), {}
        for labels, y in inputs.items():
            for name, more in options.items():
                try:
                    loss = make(mode="multiclass", ignore_index=255, **more)(x, y.long())
                except RuntimeError:
                    continue
                found[f"shape_note/{name}/{labels}"] = torch.tensor(loss.numel(), dtype=torch.int32)
                found[f"loss/{name}/{labels}"] = loss.sum()
                found[f"grad/{name}/{labels}"] = torch.autograd.grad(loss.sum(), x)[0]
        return found

    return Case(lambda _: None, run)


def lovasz(mode, ignore_index, per_image):
    return LOSSES.LovaszLoss(mode, per_image=per_image, ignore_index=ignore_index)


WEIGHTS = torch.tensor([0.5, 0.7, 0.9, 1.1, 1.3])
IMAGE = {"x": (1, 3, 64, 96)}
CASES = {
    "model_smp_fpn_resnet18": model("FPN"),
    "model_smp_unet_resnet18": model("Unet"),
    "model_smp_unet_scse_resnet18": model("Unet", decoder_attention_type="scse"),
    "model_smp_upernet_resnet18": model("UPerNet"),
    "model_smp_deeplabv3plus_resnet18": model("DeepLabV3Plus"),
    "model_smp_fpn_mit_b0": model("FPN", "mit_b0", IMAGE),
    "model_smp_unet_efficientnet_lite0": model("Unet", "tu-tf_efficientnet_lite0", IMAGE),
    "attn_scse_13x17": Case(of(lambda: SCSEModule(64, 16)), lambda module, inputs: {"y": module(inputs["x"])}),
    "loss_dice": losses(
        LOSSES.DiceLoss, plain={}, smooth1={"smooth": 1.0}, log={"log_loss": True}, classes13={"classes": [1, 3]}
    ),
    "loss_jaccard": losses(LOSSES.JaccardLoss, plain={}, smooth1={"smooth": 1.0}, log={"log_loss": True}),
    "loss_tversky": losses(
        LOSSES.TverskyLoss,
        **{
            "a0.5_b0.5": {"alpha": 0.5, "beta": 0.5},
            "a0.3_b0.7": {"alpha": 0.3, "beta": 0.7},
            "a0.3_b0.7_g0.75": {"alpha": 0.3, "beta": 0.7, "gamma": 0.75},
        },
    ),
    "loss_focal": losses(
        LOSSES.FocalLoss,
        **{
            "g2": {"gamma": 2.0},
            "g2_a0.25": {"gamma": 2.0, "alpha": 0.25},
            "g1.5_norm": {"gamma": 1.5, "normalized": True},
            "g2_weights": {"gamma": 2.0, "class_weights": WEIGHTS},
        },
    ),
    "loss_lovasz": losses(lovasz, batch={"per_image": False}, per_image={"per_image": True}),
}

if __name__ == "__main__":
    main(CASES, "segmentation_models_pytorch")
