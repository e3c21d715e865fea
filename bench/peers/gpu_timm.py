#!/usr/bin/env python3
"""ImageNet-size peers: ResNet-18/34/50 of timm, alone and in pairs under DML, bf16 autocast, channels-last, synthetic 224 px.

  gpu_timm.py [--pairs resnet18,resnet18+resnet18,resnet18+resnet34,resnet34+resnet50] [--peer eager,compile,graph]

Prints one JSON object per figure: ms per step, images/s, peak memory. A step: forward, losses, backward, fused SGD.
"""
import argparse

import torch

from cpu_torch import losses_of
from gpu_step import time_steps
from gpu_timing import device_facts, say


def make_step(names, batch, size, device, peer):
    import timm
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    networks = [timm.create_model(name).to(device, memory_format=torch.channels_last).train() for name in names]
    optimizers = [torch.optim.SGD(n.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4,
                                  fused=device.type == "cuda") for n in networks]
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (batch,), device=device)
    if peer != "eager":
        networks = [torch.compile(n, mode="max-autotune-no-cudagraphs" if peer == "graph" else "default") for n in networks]

    def step():
        with torch.autocast(device.type, dtype=torch.bfloat16):
            outputs = [(network(images), None) for network in networks]
        total, _, _ = losses_of("dml" if len(networks) > 1 else "independent", outputs, labels, 0)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        sum(total).backward()
        for optimizer in optimizers:
            optimizer.step()

    if peer != "graph":
        return step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(5):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", default="resnet18,resnet18+resnet18,resnet18+resnet34,resnet34+resnet50")
    parser.add_argument("--peer", default="eager,compile,graph")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device; --device cpu --peer eager --pairs resnet18 --batch 2 --steps 1 tries the script")
    say({"what": "facts", **device_facts(device)})
    for pair in args.pairs.split(","):
        for peer in args.peer.split(","):
            record = {"what": "timm", "networks": pair, "peer": peer, "batch": args.batch, "size": args.size}
            try:
                if device.type == "cuda":
                    torch._dynamo.reset()
                    torch.cuda.reset_peak_memory_stats()
                step = make_step(pair.split("+"), args.batch, args.size, device, peer)
                for _ in range(10 if device.type == "cuda" else 1):
                    step()
                record["ms"] = time_steps(device, step, args.steps, block=10)
                record["images_per_s"] = args.batch * 1e3 / record["ms"]["median"]
                if device.type == "cuda":
                    record["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2 ** 20, 1)
            except (RuntimeError, ImportError) as error:
                record["error"] = str(error).splitlines()[0][:300]
            say(record)


if __name__ == "__main__":
    main()
