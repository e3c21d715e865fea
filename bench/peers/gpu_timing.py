"""How the GPU peers are timed, the same for all of them.

A figure is the median of at least 30 repeats, with p20 and p80, by device events. Two states of the cache: hot (one set of
buffers) and cold (sets in turn, together larger than the L2). What is timed is warmed up first. `--device cpu` runs the same
code with a wall clock, to try a script where there is no GPU: its figures mean nothing.
"""
import json
import platform
import subprocess
import sys
import time

import torch

if not hasattr(torch, "compile"):
    sys.exit(f"the GPU peers need PyTorch 2 or newer, this is {torch.__version__}")


def percentiles(values):
    values = sorted(values)
    at = lambda q: values[min(len(values) - 1, int(q * len(values)))]
    return {"median": at(0.5), "p20": at(0.2), "p80": at(0.8), "repeats": len(values)}


def device_facts(device):
    facts = {"torch": torch.__version__, "python": platform.python_version(), "device": platform.processor()}
    if device.type == "cuda":
        facts["device"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
        facts["cudnn"] = torch.backends.cudnn.version()
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem,power.draw", "--format=csv,noheader"]
        try:
            facts["driver, clocks, power"] = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip()
        except OSError:
            facts["driver, clocks, power"] = "nvidia-smi not found"
    return facts


def microseconds(device, call, sets=(None,), calls=100, repeats=30, warmup=10):
    """Time of one call(set), sets in turn. With several sets, together larger than the L2, the time is a cold one."""
    for i in range(max(warmup, len(sets))):
        call(sets[i % len(sets)])
    times = []
    if device.type != "cuda":
        for r in range(repeats):
            start = time.perf_counter()
            call(sets[r % len(sets)])
            times.append(1e6 * (time.perf_counter() - start))
        return percentiles(times)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    for _ in range(repeats):
        begin.record()
        for i in range(calls):
            call(sets[i % len(sets)])
        end.record()
        end.synchronize()
        times.append(1e3 * begin.elapsed_time(end) / calls)
    return percentiles(times)


def captured(call, sets=(None,), calls=20):
    """A function that replays one graph holding `calls` calls, and the number of calls in it: GPU time without the host's."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for one in sets:
            call(one)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(calls):
            call(sets[i % len(sets)])
    return lambda _: graph.replay(), calls


def copy_ceiling(device, mib=1024):
    """Bytes per second of a large copy on the device, read and write counted."""
    a = torch.empty(mib << 20, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    time_us = microseconds(device, lambda _: b.copy_(a), calls=10)["median"]
    return 2 * a.numel() / (time_us * 1e-6)


def matmul_ceiling(device, n=8192):
    """FLOP per second of a bf16 product of random square matrices."""
    a = torch.randn(n, n, dtype=torch.bfloat16, device=device)
    b = torch.randn(n, n, dtype=torch.bfloat16, device=device)
    return 2 * n ** 3 / (microseconds(device, lambda _: a @ b, calls=10)["median"] * 1e-6)


def say(record):
    print(json.dumps(record), flush=True)
