#!/usr/bin/env python3
"""The peers of a whole training step on a GPU: two CIFAR networks trained together in PyTorch, as strong as PyTorch gets.

  gpu_step.py --peer eager,compile,graph --models resnet32,resnet32 --method dml --batch 128 --steps 2000

A step is: crop, flip and normalise of a batch of uint8 images that live on the device, both forward passes, the losses, both
backward passes, both SGD steps. Nothing is read back. Peers:
  eager    plain PyTorch: f32, tf32 and bf16 autocast, NCHW and channels-last; foreach and fused SGD
  compile  one compiled step (default, reduce-overhead, max-autotune), bf16 channels-last; start-up time is its own figure
  graph    the whole step captured by hand, bf16 channels-last: eager kernels; compiled networks; the two networks on streams of
           their own. The strongest: the one to beat.
Prints one JSON object per variant: ms per step (median, p20, p80 over blocks of 50 steps), steps/s, peak memory, start-up seconds.
`--device cpu --steps 2 --batch 4` tries the script without a GPU (peer eager only).
"""
import argparse
import time

import torch

from cpu_torch import losses_of
from gpu_timing import copy_ceiling, device_facts, matmul_ceiling, percentiles, say
from networks import build


class Job:
    """Networks, optimisers, resident images and one step."""

    def __init__(self, args, device, precision, channels_last, sgd):
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "f32"
        self.method, self.batch, self.device = args.method, args.batch, device
        self.autocast = precision == "bf16"
        self.channels_last = channels_last
        names = args.models.split(",")
        self.networks = [build(name, 100).to(device).train() for name in names]
        if channels_last:
            self.networks = [n.to(memory_format=torch.channels_last) for n in self.networks]
        options = {"fused": True} if sgd == "fused" else {"foreach": True}
        # A tensor for the rate: it changes every step without a new capture.
        self.rate = torch.tensor(0.05, device=device) if sgd == "fused" and device.type == "cuda" else 0.05
        self.optimizers = [torch.optim.SGD(n.parameters(), lr=self.rate, momentum=0.9, nesterov=True, weight_decay=5e-4,
                                           **options) for n in self.networks]
        images = 50000 if device.type == "cuda" else 256
        self.images = torch.randint(0, 256, (images, 40, 40, 3), dtype=torch.uint8, device=device)  # padded by 4 already
        self.labels = torch.randint(0, 100, (images,), device=device)
        self.mean = torch.tensor([129.3, 124.1, 112.4], device=device)
        self.std = torch.tensor([68.2, 65.4, 70.4], device=device)
        self.range = torch.arange(32, device=device)
        self.indices = torch.randint(0, images, (self.batch,), device=device)
        self.streams = [torch.cuda.Stream() for _ in names] if device.type == "cuda" else []
        self.side_streams = False

    def augment(self):
        draws = torch.rand(3, self.batch, device=self.device)
        rows = (draws[0] * 9).long()[:, None] + self.range
        columns = (draws[1] * 9).long()[:, None] + self.range
        columns = torch.where(draws[2][:, None] < 0.5, columns, columns.flip(1))
        x = self.images[self.indices[:, None, None], rows[:, :, None], columns[:, None, :]]
        x = ((x.float() - self.mean) / self.std).permute(0, 3, 1, 2)
        return x if self.channels_last else x.contiguous()

    def step(self):
        images, labels = self.augment(), self.labels[self.indices]
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            if self.side_streams:
                main, outputs = torch.cuda.current_stream(), []
                for network, stream in zip(self.networks, self.streams):
                    stream.wait_stream(main)
                    with torch.cuda.stream(stream):
                        outputs.append(network(images))
                for stream in self.streams:
                    main.wait_stream(stream)
            else:
                outputs = [network(images) for network in self.networks]
        total, _, _ = losses_of(self.method, outputs, labels, 0)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        sum(total).backward()
        for optimizer in self.optimizers:
            optimizer.step()


def time_steps(device, step, steps, block=50):
    if device.type != "cuda":
        block = 1
    times = []
    for _ in range(max(steps // block, 1)):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(block):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start) / block)
    return percentiles(times)


def report(args, device, variant, make):
    """Builds the variant, warms it up and times it; a variant that cannot run says why and the others go on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    try:
        step = make()
        for _ in range(args.warmup):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        startup = time.perf_counter() - start
        times = time_steps(device, step, args.steps)
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException, AssertionError) as error:
        say({"what": "step", "variant": variant, "error": str(error).splitlines()[0][:300]})
        return
    record = {"what": "step", "variant": variant, "models": args.models, "method": args.method, "batch": args.batch,
              "ms": times, "steps_per_s": 1e3 / times["median"], "images_per_s": args.batch * 1e3 / times["median"],
              "startup_s": round(startup, 2)}
    if device.type == "cuda":
        record["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2 ** 20, 1)
    say(record)


def eager(args, device):
    for precision, channels_last, sgd in [("f32", False, "foreach"), ("tf32", True, "foreach"), ("bf16", False, "foreach"),
                                          ("bf16", True, "foreach"), ("bf16", True, "fused")]:
        layout = "channels-last" if channels_last else "NCHW"
        report(args, device, f"eager {precision} {layout} {sgd}",
               lambda: Job(args, device, precision, channels_last, sgd).step)


def compiled(args, device):
    for mode in ["default", "reduce-overhead", "max-autotune"]:
        def make(mode=mode):
            torch._dynamo.reset()
            return torch.compile(Job(args, device, "bf16", True, "fused").step, mode=mode)
        report(args, device, f"compile {mode} bf16 channels-last fused", make)


def graph(args, device):
    def capture(job):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(11):
                job.step()
        torch.cuda.current_stream().wait_stream(side)
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            job.step()
        return captured.replay

    for kind in ["eager kernels", "eager kernels, two streams", "compiled networks", "compiled networks, two streams"]:
        def make(kind=kind):
            torch._dynamo.reset()
            job = Job(args, device, "bf16", True, "fused")
            job.side_streams = "two streams" in kind
            if "compiled" in kind:
                job.networks = [torch.compile(n, mode="max-autotune-no-cudagraphs") for n in job.networks]
            return capture(job)
        report(args, device, f"graph {kind} bf16 channels-last fused", make)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default="eager,compile,graph")
    parser.add_argument("--models", default="resnet32,resnet32")
    parser.add_argument("--method", default="dml", choices=["independent", "dml"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device; --device cpu --steps 2 --batch 4 --warmup 1 tries the script")
    facts = {"what": "facts", **device_facts(device)}
    if device.type == "cuda":
        facts |= {"copy_bytes_per_s": copy_ceiling(device), "bf16_flops": matmul_ceiling(device)}
    say(facts)
    peers = {"eager": eager, "compile": compiled, "graph": graph}
    for name in args.peer.split(","):
        if name not in peers:
            parser.error(f"no peer '{name}': {', '.join(peers)}")
        if device.type != "cuda" and name == "graph":
            say({"what": "step", "variant": "graph", "error": "needs a CUDA device"})
            continue
        peers[name](args, device)


if __name__ == "__main__":
    main()
