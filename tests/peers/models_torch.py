#!/usr/bin/env python3
"""Every architecture against PyTorch: logits of `cohort predict` from one state dict, on random images, in f32.

    tests/peers/models_torch.py --cohort build/release/bin/cohort [--only vgg8] [--seed 0]

A PyTorch network (bench/peers/networks.py) gets random weights, running statistics included, and is written as safetensors; the
images are PPM files. Demanded: 1e-5 of the largest logit. Prints a line per model; exit status 1 if any disagrees. Needs torch
and numpy; without them it says so and ends with 77.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import torch
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench", "peers"))
from networks import build  # noqa: E402

MODELS = ("resnet20", "wrn_16_2", "vgg8", "vgg13", "mobilenet_v1", "mobilenet_v2_half", "shufflenet_v1", "shufflenet_v2")
TOLERANCE = 1e-5
CLASSES, IMAGES = 7, 5
DTYPES = {torch.float32: "F32", torch.int64: "I64"}


def randomize(network, generator):
    """Nothing may hide behind means of 0, variances of 1, or signals that have faded."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            shape = module.weight.shape
            module.weight.data = torch.rand(shape, generator=generator) + 0.5
            module.bias.data = torch.randn(shape, generator=generator) * 0.3
            module.running_mean = torch.randn(shape, generator=generator) * 0.1
            module.running_var = torch.rand(shape, generator=generator) + 0.5
        elif isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            # Initialisations of some networks are so small that little but the last bias would reach the logits.
            fan_in = module.weight[0].numel()
            module.weight.data = torch.randn(module.weight.shape, generator=generator) * (2 / fan_in) ** 0.5


def write_safetensors(path, state):
    header, blob = {}, b""
    for name, tensor in state.items():
        data = tensor.contiguous().numpy().tobytes()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [len(blob), len(blob) + len(data)]}
        blob += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + blob)


def difference(args, name, folder):
    generator = torch.Generator().manual_seed(args.seed)
    torch.manual_seed(args.seed)
    network = build(name, CLASSES).eval()
    randomize(network, generator)
    write_safetensors(f"{folder}/{name}.safetensors", network.state_dict())
    images = np.random.default_rng(args.seed).integers(0, 256, (IMAGES, 32, 32, 3), np.uint8)
    files = [f"{folder}/{i}.ppm" for i in range(IMAGES)]
    for file, image in zip(files, images):
        with open(file, "wb") as out:
            out.write(b"P6\n32 32\n255\n" + image.tobytes())
    subprocess.run([args.cohort, "predict", f"{folder}/{name}.safetensors", *files, "--model", name, "--mean", "0.5,0.5,0.5",
                    "--std", "0.25,0.25,0.25", "--device", "cpu", "--npy", f"{folder}/logits.npy"],
                   check=True, stdout=subprocess.DEVNULL)
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        expected = network(x)[0].numpy()
    logits = np.load(f"{folder}/logits.npy")[0]
    return np.abs(logits - expected).max() / np.abs(expected).max()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", required=True)
    parser.add_argument("--only", choices=MODELS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name in [args.only] if args.only else MODELS:
            worst = difference(args, name, folder)
            failed = failed or not worst < TOLERANCE
            print(f"{name:18} {worst:.1e}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
