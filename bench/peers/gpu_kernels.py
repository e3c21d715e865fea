#!/usr/bin/env python3
"""The peers of the smaller kernels: per-pixel cosine similarity with re-weighting, augmentation with perturbation, optimiser.

  gpu_kernels.py [--what features,images,sgd]

features   cosine similarity of two maps per pixel, softmax over the pixels, re-weighted and pooled features, mean squared
           difference of the two, with gradients: eager and compiled, 8x8x256, 7x7x512, 7x7x2048, batch 128, bf16
images     crop, flip, normalise of uint8 images, and the same with additive noise: eager and compiled, 32 and 224 pixels
sgd        momentum, Nesterov, weight decay: foreach, fused and compiled, for the tensors of ResNet-32 x2 and of ResNet-18 + 34
Prints one JSON object per figure: microseconds per call, cold, hot and inside a graph. `--device cpu` tries the script.
"""
import argparse

import torch
import torch.nn.functional as F

from gpu_timing import captured, device_facts, microseconds, say
from networks import build


def figures(device, record, call, sets):
    record["cold_us"] = microseconds(device, call, sets, calls=50, repeats=30)
    record["hot_us"] = microseconds(device, call, sets[:1], calls=50, repeats=30)
    if device.type == "cuda":
        try:
            replay, inside = captured(call, sets)
            times = microseconds(device, replay, calls=5)
            record["graph_us"] = {key: times[key] / inside for key in ("median", "p20", "p80")}
        except RuntimeError as error:
            record["graph_error"] = str(error).splitlines()[0][:200]
    say(record)


def compiled(device, function):
    variants = [("eager", function)]
    if device.type == "cuda":
        torch._dynamo.reset()
        variants.append(("compile max-autotune", torch.compile(function, mode="max-autotune-no-cudagraphs")))
    return variants


def reweighted(a, b):
    """Loss of two maps (N, HW, C): pooled features weighted by the softmax over pixels of their cosine similarity."""
    attention = F.softmax(F.cosine_similarity(a.float(), b.float(), dim=2, eps=1e-8), dim=1)[:, :, None]
    return F.mse_loss((a.float() * attention).sum(1), (b.float() * attention).sum(1))


def features(device):
    for pixels, channels in [(64, 256), (49, 512), (49, 2048)]:
        batch = 128 if device.type == "cuda" else 4
        sets = [tuple(torch.randn(batch, pixels, channels, device=device, dtype=torch.bfloat16).requires_grad_() for _ in range(2))
                for _ in range(4 if device.type == "cuda" else 1)]
        for name, function in compiled(device, reweighted):
            figures(device, {"what": "features", "variant": name, "batch": batch, "pixels": pixels, "channels": channels},
                    lambda s: torch.autograd.grad(function(*s), s), sets)


def images(device):
    for size, padding in [(32, 4), (224, 16)]:
        batch = 128 if device.type == "cuda" else 2
        stored = torch.randint(0, 256, (1024 if device.type == "cuda" else 4, size + 2 * padding, size + 2 * padding, 3),
                               dtype=torch.uint8, device=device)
        mean, std = torch.tensor([124.0, 116.0, 104.0], device=device), torch.tensor([58.0, 57.0, 57.0], device=device)
        steps = torch.arange(size, device=device)

        def crop_flip(indices):
            draws = torch.rand(3, batch, device=device)
            rows = (draws[0] * (2 * padding + 1)).long()[:, None] + steps
            columns = (draws[1] * (2 * padding + 1)).long()[:, None] + steps
            columns = torch.where(draws[2][:, None] < 0.5, columns, columns.flip(1))
            x = stored[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
            return ((x.float() - mean) / std).to(torch.bfloat16)

        def noisy(indices):
            x = crop_flip(indices)
            return x + 0.1 * torch.randn_like(x)

        sets = [torch.randint(0, stored.shape[0], (batch,), device=device) for _ in range(4)]
        for label, function in [("crop flip normalise", crop_flip), ("with noise", noisy)]:
            for name, call in compiled(device, function):
                figures(device, {"what": "images", "operation": label, "variant": name, "batch": batch, "size": size}, call, sets)


def timm_shapes(names):
    """Parameter shapes of ImageNet ResNets; None where timm is not installed."""
    try:
        import timm
    except ImportError:
        return None
    return [p.shape for name in names for p in timm.create_model(name).parameters()]


def sgd(device):
    lists = {"resnet32 x2": [p.shape for _ in range(2) for p in build("resnet32", 100).parameters()],
             "resnet18 + resnet34": timm_shapes(["resnet18", "resnet34"])}
    for label, shapes in lists.items():
        if shapes is None:
            say({"what": "sgd", "parameters": label, "error": "timm is not installed"})
            continue
        for name in ["foreach", "fused", "compile"]:
            parameters = [torch.randn(shape, device=device, requires_grad=True) for shape in shapes]
            for p in parameters:
                p.grad = torch.randn_like(p)
            if device.type != "cuda" and name != "foreach":
                continue
            options = {"fused": True} if name == "fused" else {"foreach": True}
            optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, **options)
            step = optimizer.step
            if name == "compile":
                torch._dynamo.reset()
                step = torch.compile(optimizer.step)
            figures(device, {"what": "sgd", "parameters": label, "count": sum(s.numel() for s in shapes), "variant": name},
                    lambda _: step(), [None])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", default="features,images,sgd")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device; --device cpu tries the script")
    say({"what": "facts", **device_facts(device)})
    parts = {"features": features, "images": images, "sgd": sgd}
    for name in args.what.split(","):
        if name not in parts:
            parser.error(f"no part '{name}': {', '.join(parts)}")
        parts[name](device)


if __name__ == "__main__":
    main()
