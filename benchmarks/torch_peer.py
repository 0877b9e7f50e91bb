"""A train step of PyTorch's models for `accelerator.py`: seconds and peak memory, eager and compiled, as JSON.

    python benchmarks/torch_peer.py MODEL float32|bfloat16 REPEATS BATCH HEIGHT WIDTH [LOCK]

Channels-last, TF32 products in float32, autocast in bfloat16, SGD with momentum: what the other side does. Needs torch,
timm, segmentation_models_pytorch and transformers; weights are drawn, nothing is downloaded.
"""

import fcntl
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

CLASSES = 11


class ResNet18Attention(nn.Module):
    """ResNet-18 at output stride 8, a 3x3 convolution to 128 channels, one attention head, a classifier."""

    def __init__(self):
        super().__init__()
        import timm

        self.backbone = timm.create_model("resnet18", features_only=True, output_stride=8, out_indices=(4,))
        self.reduce = nn.Sequential(nn.Conv2d(512, 128, 3, padding=1, bias=False), nn.BatchNorm2d(128), nn.ReLU())
        self.qkv, self.out, self.norm = nn.Conv2d(128, 3 * 128, 1), nn.Conv2d(128, 128, 1), nn.BatchNorm2d(128)
        self.last = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1, bias=False), nn.BatchNorm2d(128), nn.ReLU())
        self.head = nn.Conv2d(128, CLASSES, 1)

    def forward(self, image):
        """Logits `[b, k, h, w]`."""
        x = self.reduce(self.backbone(image)[-1])
        b, c, h, w = x.shape
        q, k, v = self.qkv(x).flatten(2).transpose(1, 2)[:, None].chunk(3, -1)
        y = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(b, c, h, w)
        x = self.last(x + self.norm(self.out(y)))
        return F.interpolate(self.head(x), image.shape[-2:], mode="bilinear", align_corners=False)


class Branches(nn.Module):
    """What SegNeXt adds to a map twice in each block: convolutional attention, then an MLP, after a BatchNorm each."""

    def __init__(self, width, ratio):
        super().__init__()

        def depthwise(channels, height, width):
            padding = (height // 2, width // 2)
            return nn.Conv2d(channels, channels, (height, width), padding=padding, groups=channels)

        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.scale1, self.scale2 = (nn.Parameter(torch.full((width, 1, 1), 1e-2)) for _ in range(2))
        self.inside, self.mix, self.out = (nn.Conv2d(width, width, 1) for _ in range(3))
        self.square = depthwise(width, 5, 5)
        strips = [nn.Sequential(depthwise(width, 1, n), depthwise(width, n, 1)) for n in (7, 11, 21)]
        self.strips = nn.ModuleList(strips)
        hidden = ratio * width
        self.mlp = nn.Sequential(
            nn.Conv2d(width, hidden, 1), depthwise(hidden, 3, 3), nn.GELU(), nn.Conv2d(hidden, width, 1)
        )

    def forward(self, x):
        """The map after both."""
        y = self.norm1(x)
        u = F.gelu(self.inside(y))
        square = self.square(u)
        factors = self.mix(square + sum(strip(square) for strip in self.strips))
        x = x + self.scale1 * (y + self.out(u * factors))
        return x + self.scale2 * self.mlp(self.norm2(x))


class SegNeXtT(nn.Module):
    """MSCAN-T with the light Hamburger head (Guo et al. 2022, arXiv:2209.08575)."""

    def __init__(self, channels=256, bases=16, steps=(7, 6)):
        super().__init__()
        self.bases, self.steps = bases, steps
        stages, given = [], 3
        for width, depth, ratio in ((32, 3, 8), (64, 3, 8), (160, 5, 4), (256, 2, 4)):
            halve = [nn.Conv2d(given, width, 3, 2, 1), nn.BatchNorm2d(width)]
            if given == 3:
                first = [nn.Conv2d(3, width // 2, 3, 2, 1), nn.BatchNorm2d(width // 2), nn.GELU()]
                halve = [*first, nn.Conv2d(width // 2, width, 3, 2, 1), nn.BatchNorm2d(width)]
            blocks = [Branches(width, ratio) for _ in range(depth)]
            stages.append(nn.ModuleDict({"body": nn.Sequential(*halve, *blocks), "norm": nn.LayerNorm(width)}))
            given = width
        self.stages = nn.ModuleList(stages)

        def normed(given, relu=True):
            layers = [nn.Conv2d(given, channels, 1, bias=False), nn.GroupNorm(32, channels)]
            return nn.Sequential(*layers, *[nn.ReLU()] * relu)

        self.squeeze, self.align, self.out = normed(64 + 160 + 256), normed(channels), normed(channels, False)
        self.inside, self.head = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, CLASSES, 1)

    def forward(self, image):
        """Logits `[b, k, h, w]`."""
        x, maps = image, []
        for stage in self.stages:
            x = stage["norm"](stage["body"](x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            maps.append(x)
        size = maps[1].shape[-2:]
        x = torch.cat([F.interpolate(y, size, mode="bilinear", align_corners=False) for y in maps[1:]], 1)
        x = self.squeeze(x)
        x = F.relu(x + self.out(self.rebuilt(F.relu(self.inside(x)))))
        x = F.dropout2d(self.align(x), 0.1, self.training)
        return F.interpolate(self.head(x), image.shape[-2:], mode="bilinear", align_corners=False)

    def rebuilt(self, x):
        """The map by a few bases that are fitted to it, none of them negative."""
        y = x.flatten(2)
        bases = F.normalize(torch.rand(*y.shape[:2], self.bases, device=y.device), dim=1)
        shares = (y.transpose(1, 2) @ bases).softmax(-1)

        def closer(left, product, right):
            return left * product / (left @ (right.transpose(1, 2) @ right) + 1e-6)

        for _ in range(self.steps[self.training]):
            shares = closer(shares, y.transpose(1, 2) @ bases, bases)
            bases = closer(bases, y @ shares, shares)
        shares = closer(shares, y.transpose(1, 2) @ bases, bases)
        return (bases @ shares.transpose(1, 2)).reshape(x.shape)


class EoMTS(nn.Module):
    """transformers' EoMT on a ViT-S with four registers; scores of every pixel as the other side has them."""

    def __init__(self, patches=660):
        super().__init__()
        import transformers as tf

        config = tf.EomtConfig(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, num_labels=CLASSES)
        config.num_queries = 100
        self.net = tf.EomtForUniversalSegmentation(config)
        self.patch = config.patch_size
        # Its configuration knows squares only: a table for 352 x 480 pixels instead.
        self.net.embeddings.position_embeddings = nn.Embedding(patches, config.hidden_size)

    def forward(self, image):
        """Logarithms of the scores `[b, k, h, w]` of images that have no more patches than the table."""
        h, w = (n // self.patch for n in image.shape[-2:])
        self.net.grid_size = (h, w)
        self.net.embeddings.position_ids = torch.arange(h * w, device=image.device)[None]
        found = self.net(pixel_values=image)
        masks = F.interpolate(found.masks_queries_logits, image.shape[-2:], mode="bilinear", align_corners=False)
        classes = found.class_queries_logits.softmax(-1)[..., :-1]
        scores = torch.einsum("bqk,bqhw->bkhw", classes, masks.sigmoid())
        return scores.clamp(min=1e-9).log()


def smp_model(architecture, encoder):
    """A model of segmentation_models_pytorch."""
    import segmentation_models_pytorch as smp

    return getattr(smp, architecture)(encoder, encoder_weights=None, classes=CLASSES)


MODELS = {
    "resnet18_attention": ResNet18Attention,
    "fpn_resnet18": lambda: smp_model("FPN", "resnet18"),
    "unet_resnet18": lambda: smp_model("Unet", "resnet18"),
    "fpn_efficientnet_lite0": lambda: smp_model("FPN", "tu-tf_efficientnet_lite0"),
    "unet_mobilenet_v3_large": lambda: smp_model("Unet", "tu-mobilenetv3_large_100"),
    "segnext_t": SegNeXtT,
    "eomt_s": EoMTS,
    "segformer_b0": lambda: smp_model("Segformer", "mit_b0"),
}


def main():
    """Measure what the command line names."""
    name, dtype, *numbers = sys.argv[1:7]
    repeats, batch, height, width = map(int, numbers)
    # Held until this process ends.
    lock = open(sys.argv[7], "r+") if len(sys.argv) > 7 else None  # noqa: SIM115
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    net = MODELS[name]().to(device, memory_format=torch.channels_last).train()
    image = torch.randn(batch, 3, height, width, device=device).contiguous(memory_format=torch.channels_last)
    label = torch.randint(0, CLASSES, (batch, height, width), device=device)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9)

    def step(model):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = F.cross_entropy(model(image).float(), label)
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    def timed(model):
        step(model)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            step(model)
            seconds.append(time.perf_counter() - start)
        peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else None
        return {"seconds": statistics.median(seconds), "peak_mib": peak}

    # As in accelerator.py: compile beside others, time alone.
    if lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
    compiled, error = torch.compile(net), ""
    step(net)
    try:
        step(compiled)
    except Exception as caught:
        error = str(caught).strip().splitlines()[0][:200]
    if lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    row = {"torch": torch.__version__, **timed(net)}
    row["compiled"] = {"error": error} if error else timed(compiled)
    print(json.dumps(row | {"images_per_second": batch / row["seconds"]}))


if __name__ == "__main__":
    main()
