"""A train step of PyTorch's models for `accelerator.py`: seconds and peak memory, eager and compiled, as JSON.

    python benchmarks/torch_peer.py MODEL float32|bfloat16 REPEATS BATCH HEIGHT WIDTH [LOCK]

Channels-last, TF32 products in float32, autocast in bfloat16, SGD with momentum: what the other side does. Needs torch,
timm and segmentation_models_pytorch; weights are drawn, nothing is downloaded.
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
