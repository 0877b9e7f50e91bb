"""Goldens of PyTorch itself: layers, resizing, pooling, attention, cross-entropy, optimizers."""

import itertools

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from common import Case, main, of
from torch import nn

CONVOLUTIONS = {
    "stem": lambda: nn.Conv2d(8, 12, 7, 2, 3),
    "even": lambda: nn.Conv2d(8, 12, 2, 2),
    "dilated": lambda: nn.Conv2d(8, 12, 3, 1, 6, 6),
    "grouped": lambda: nn.Conv2d(8, 12, 3, 2, 1, groups=4, bias=False),
    "depthwise": lambda: nn.Conv2d(8, 16, 5, 1, 2, groups=8),
    "asym": lambda: nn.Conv2d(8, 12, (1, 7), padding=(0, 3)),
    "up4": lambda: nn.ConvTranspose2d(8, 6, 4, 2, 1),
    "up3": lambda: nn.ConvTranspose2d(8, 6, 3, 2, 1, 1),
    "up2": lambda: nn.ConvTranspose2d(8, 6, 2, 2),
    "up16": lambda: nn.ConvTranspose2d(8, 4, 16, 8, 4, bias=False),
    "upg": lambda: nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=8, bias=False),
}
NORMS = {
    "ln": lambda: nn.LayerNorm(24, eps=1e-5),
    "ln6": lambda: nn.LayerNorm(24, eps=1e-6),
    "gn": lambda: nn.GroupNorm(6, 24),
    "inorm": lambda: nn.InstanceNorm2d(24, affine=True),
    "bn": lambda: nn.BatchNorm2d(24, eps=1e-5),
    "bn3": lambda: nn.BatchNorm2d(24, eps=1e-3),
    "prelu": lambda: nn.PReLU(24),
}
ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    **{
        name: getattr(F, name)
        for name in ("relu6", "hardswish", "hardsigmoid", "silu", "elu", "leaky_relu", "softplus")
    },
    "mish": F.mish,
}


def layers(table):
    return of(lambda: nn.ModuleDict({name: make() for name, make in table.items()}))


def norm_act(module, inputs):
    x = inputs["x"]

    def normed(name, x):
        if name.startswith("ln"):
            return module[name](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return module[name](x)

    found = {name: normed(name, x) for name in NORMS if name != "prelu"} | {"prelu": module["prelu"](x)}
    found |= {f"{name}_small": normed(name, 0.001 * x) for name in ("ln", "ln6", "gn", "inorm")}
    found |= {name: function(4 * x) for name, function in ACTIVATIONS.items()}
    return found | {
        "l2_normalize": F.normalize(x, dim=1),
        "pixel_shuffle2": F.pixel_shuffle(x, 2),
        "unfold3": F.unfold(x, 3, padding=1),
    }


def pooling(_, inputs):
    x = inputs["x"]
    found = {f"adaptive_avg_{size}": F.adaptive_avg_pool2d(x, size) for size in (1, 2, 3, 6)}
    return found | {
        "adaptive_avg_4x5": F.adaptive_avg_pool2d(x, (4, 5)),
        "adaptive_avg_20x25": F.adaptive_avg_pool2d(x, (20, 25)),
        "max_3_2_1": F.max_pool2d(x, 3, 2, 1),
        "max_3_2_1_ceil": F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
        "max_2_2_ceil": F.max_pool2d(x, 2, 2, ceil_mode=True),
    }


def resize(_, inputs):
    x, found = inputs["x"], {}
    for size in ((26, 34), (31, 45), (7, 9), (1, 1), (13, 34), (20, 5)):
        label = f"{size[0]}x{size[1]}"
        for mode in ("nearest", "nearest-exact", "area", "bilinear", "bicubic"):
            found[f"{mode}_{label}"] = F.interpolate(x, size, mode=mode)
            if mode in ("bilinear", "bicubic"):
                found[f"{mode}_ac_{label}"] = F.interpolate(x, size, mode=mode, align_corners=True)
                found[f"{mode}_aa_{label}"] = F.interpolate(x, size, mode=mode, antialias=True)
    for scale, mode, again in itertools.product((2.0, 1.7, 0.6), ("nearest", "bilinear"), (False, True)):
        name = f"{mode}_scale{scale}" + ("_recompute" if again else "")
        found[name] = F.interpolate(x, scale_factor=scale, mode=mode, recompute_scale_factor=again or None)
    return found


def segnet_pool(relu):
    def run(_, inputs):
        x = inputs["x"].requires_grad_()
        pooled, indices = F.max_pool2d(F.relu(x) if relu else x, 2, 2, return_indices=True)
        unpooled = F.max_unpool2d(pooled * inputs["scale"], indices, 2, 2, output_size=x.shape)
        (gradient,) = torch.autograd.grad((unpooled * inputs["g"]).sum(), x)
        return {"pooled": pooled, "indices": indices.int(), "unpooled": unpooled, "input_grad": gradient}

    return Case(lambda _: None, run)


def attention(**options):
    def run(module, inputs):
        keys = inputs.get("kv", inputs["x"])
        mask = inputs["key_padding_mask"].bool() if "key_padding_mask" in inputs else None
        y, weights = module(inputs["x"], keys, keys, mask, average_attn_weights=False)
        return {"y": y, "weights": weights}

    return Case(of(lambda: nn.MultiheadAttention(64, 4, batch_first=True, **options)), run)


def cross_entropy(_, inputs):
    x = inputs.pop("x").requires_grad_()
    weights = torch.tensor([0.5, 0.7, 0.9, 1.1, 1.3], dtype=torch.float32).to(x.dtype)
    variants = {
        "mean": {},
        "sum": {"reduction": "sum"},
        "weighted": {"weight": weights},
        "smooth0.1": {"label_smoothing": 0.1},
        "weighted_smooth0.1": {"weight": weights, "label_smoothing": 0.1},
    }
    losses = {
        name: lambda y, more=more: F.cross_entropy(x, y, ignore_index=255, **more) for name, more in variants.items()
    }
    soft = smp.losses.SoftCrossEntropyLoss(smooth_factor=0.1, ignore_index=255)
    losses["smp_soft_ce0.1"] = lambda y: soft(x, y)
    found = {}
    for (name, loss), (labels, y) in itertools.product(losses.items(), inputs.items()):
        value = loss(y.long())
        found |= {f"loss/{name}/{labels}": value, f"grad/{name}/{labels}": torch.autograd.grad(value, x)[0]}
    return found


def batch_norm(module, inputs):
    x = inputs["x"].requires_grad_()
    y = module(x)
    (y * inputs["g"]).sum().backward()
    found = {"y": y, "input_grad": x.grad, "weight_grad": module.weight.grad, "bias_grad": module.bias.grad}
    return found | {f"updated/{name}": getattr(module, name) for name in ("running_mean", "running_var")}


SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
OPTIMIZERS = {
    "sgd": (SGD, {"lr": 0.01}),
    "sgd_mom_wd": (SGD, {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-2}),
    "sgd_nesterov_wd": (SGD, {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-2, "nesterov": True}),
    "adam_wd": (ADAM, {"lr": 0.02, "weight_decay": 1e-2}),
    "adamw": (ADAMW, {"lr": 0.02, "weight_decay": 0.1}),
    "adamw_eps": (ADAMW, {"lr": 0.02, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-3}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.02, "alpha": 0.9, "momentum": 0.5}),
    "sgd_poly0.9": (SGD, {"lr": 0.02, "momentum": 0.9}),
    "sgd_clip1": (SGD, {"lr": 0.05, "momentum": 0.9}),
}


def optimizers(_, inputs):
    found = {}
    for name, (kind, options) in OPTIMIZERS.items():
        x, b = (nn.Parameter(inputs[key].clone()) for key in ("x", "b"))
        optimizer = kind([x, b], **options)
        for step in range(5):
            if "poly" in name:
                optimizer.param_groups[0]["lr"] = options["lr"] * (1 - step / 10) ** 0.9
            optimizer.zero_grad()
            (0.5 * ((x * inputs["a"] + b) ** 2).sum() * (1 + 0.5 * step)).backward()
            if "clip" in name:
                found[f"{name}/norm{step}"] = nn.utils.clip_grad_norm_([x, b], 1.0)
            optimizer.step()
        found |= {f"{name}/x": x, f"{name}/b": b}
    return found


CASES = {
    "op_conv": Case(layers(CONVOLUTIONS), lambda module, inputs: {n: f(inputs["x"]) for n, f in module.items()}),
    "op_norm_act": Case(layers(NORMS), norm_act),
    "op_pooling": Case(lambda _: None, pooling),
    "op_resize": Case(lambda _: None, resize),
    "op_segnet_pool": segnet_pool(relu=False),
    "op_segnet_pool_relu_ties": segnet_pool(relu=True),
    "attn_mha_self": attention(),
    "attn_mha_cross_masked": attention(kdim=40, vdim=40),
    "loss_ce": Case(lambda _: None, cross_entropy),
    "train_batchnorm": Case(of(lambda: nn.BatchNorm2d(16)), batch_norm),
    "train_optimizers": Case(lambda _: None, optimizers),
}

if __name__ == "__main__":
    main(CASES, "torch")
