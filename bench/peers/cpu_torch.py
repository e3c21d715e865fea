#!/usr/bin/python3
"""The peer of Cohort's CPU backend: two CIFAR networks trained together in plain PyTorch.

Debian 12:  apt-get install python3-torch   (PyTorch 1.13.1, which links the same oneDNN as Cohort)

Speed (synthetic images; prints one JSON object per mode with images/s):
  cpu_torch.py --models resnet32,resnet32 --method dml --mode all --threads 1,2 --batch 128 --steps 15 [--compile]
  A step is: both forward passes, the losses, both backward passes, both SGD steps. An image counts once, however many
  networks see it.

Parity (losses of the first steps, to compare with `cohort train` from the same weights):
  cpu_torch.py --parity --init a.safetensors --init b.safetensors --data ROOT --dataset cifar100 --steps 50 \
               --batch 128 --method dml --lr 0.1 --models resnet20,resnet20 [--dtype f64] [--out losses.json]
  --init      one file of initial weights per network (PyTorch's state-dict names)
  --data      folder with the CIFAR binary files (train.bin, or data_batch_1.bin ..), at any depth
  --mean, --std   three numbers each, of pixel values in [0, 1] (default: the usual ones of the data set)
  The images are taken in file order, no augmentation, no shuffling; the last incomplete batch is dropped and the file
  starts again. --dtype f64 is the truth that both f32 runs drift from (10 to 20 s a step).
  Output: {"losses": [[network 1, network 2], ...], "ce": [[..]], "teacher": [..]}, numbers that read back bit by bit.

Methods (per step, KL summed over classes and averaged over the batch, T = 1, targets detached):
  independent  L_k = CE_k
  dml          L_k = CE_k + 1/(M-1) sum_{j != k} KL(p_j || p_k)
  competitive  t = argmin CE; L_t = CE_t; L_k = CE_k + KL(p_t || p_k) + b mse(F_k, F_t), F: last feature map before
               pooling, b: --feature-weight (networks of unequal width have no adapters here: give 0)
"""
import argparse
import json
import os
import platform
import struct
import sys
import time

import torch
import torch.nn.functional as F

from networks import build

STATISTICS = {
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}


def kl(teacher, student):
    return F.kl_div(F.log_softmax(student, 1), F.softmax(teacher.detach(), 1), reduction="batchmean")


def losses_of(method, outputs, labels, feature_weight):
    """Per network: total loss and cross entropy; and the teacher's index (-1: none)."""
    logits = [z if z.dtype == torch.float64 else z.float() for z, _ in outputs]
    ce = [F.cross_entropy(z, labels) for z in logits]
    m = len(ce)
    if method == "independent":
        return ce, ce, -1
    if method == "dml":
        return [ce[k] + sum(kl(logits[j], logits[k]) for j in range(m) if j != k) / (m - 1) for k in range(m)], ce, -1
    t = min(range(m), key=lambda k: float(ce[k]))
    total = []
    for k in range(m):
        loss = ce[k]
        if k != t:
            loss = loss + kl(logits[t], logits[k])
            if feature_weight != 0:
                mine, teachers = outputs[k][1].to(loss.dtype), outputs[t][1].detach().to(loss.dtype)
                if mine.shape != teachers.shape:
                    sys.exit("cpu_torch.py: these networks' feature maps differ in shape: use --feature-weight 0")
                loss = loss + feature_weight * F.mse_loss(mine, teachers)
        total.append(loss)
    return total, ce, t


def train_step(args, networks, optimizers, images, labels, autocast=False):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        outputs = [network(images) for network in networks]
    total, ce, teacher = losses_of(args.method, outputs, labels, args.feature_weight)
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    sum(total).backward()
    for optimizer in optimizers:
        optimizer.step()
    return total, ce, teacher


def make_optimizers(networks, lr):
    return [torch.optim.SGD(n.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4) for n in networks]


def measure(args, mode, threads):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    channels_last = mode != "f32"
    networks = [build(name, 100).train() for name in args.models.split(",")]
    images = torch.randn(args.batch, 3, 32, 32)
    if channels_last:
        networks = [n.to(memory_format=torch.channels_last) for n in networks]
        images = images.contiguous(memory_format=torch.channels_last)
    optimizers = make_optimizers(networks, args.lr)
    if args.compile:
        networks = [torch.compile(n) for n in networks]
    labels = torch.randint(0, 100, (args.batch,))
    seconds, cpu_seconds = [], []
    for step in range(args.steps + 3):
        start, cpu_start = time.perf_counter(), time.process_time()
        train_step(args, networks, optimizers, images, labels, mode == "bf16-cl")
        if step >= 3:
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu_start)
    seconds.sort()
    at = lambda q: args.batch / seconds[min(len(seconds) - 1, int(q * len(seconds)))]
    return {"peer": "pytorch " + torch.__version__, "models": args.models, "method": args.method, "mode": mode,
            "threads": threads, "batch": args.batch, "steps": args.steps, "compile": args.compile,
            "images_per_s": round(at(0.5), 1), "p20": round(at(0.8), 1), "p80": round(at(0.2), 1),
            "best": round(args.batch / seconds[0], 1),
            # Of use where other programs share the cores: with one thread, time the others took does not count.
            "best_per_cpu_s": round(args.batch / min(cpu_seconds), 1),
            "machine": platform.processor() or platform.machine()}


def read_safetensors(path):
    types = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16,
             "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8}
    with open(path, "rb") as file:
        data = file.read()
    (header_bytes,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + header_bytes])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
        values = torch.frombuffer(bytearray(data[begin:end]), dtype=types[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def load(network, path):
    missing, unexpected = network.load_state_dict(read_safetensors(path), strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        sys.exit(f"cpu_torch.py: {path}: missing {missing}, unexpected {unexpected}")


def find(root, name):
    for folder, _, files in sorted(os.walk(root)):
        if name in files:
            return os.path.join(folder, name)
    sys.exit(f"cpu_torch.py: no {name} below {root}")


def read_cifar(root, dataset):
    """(N, 3, 32, 32) pixels and labels, in file order."""
    label_bytes = 2 if dataset == "cifar100" else 1
    names = ["train.bin"] if dataset == "cifar100" else [f"data_batch_{i}.bin" for i in range(1, 6)]
    if dataset == "cifar10":
        present = [n for n in names if any(n in files for _, _, files in os.walk(root))]
        names = present or names
    raw = b"".join(open(find(root, name), "rb").read() for name in names)
    records = torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(-1, label_bytes + 3072)
    return records[:, label_bytes:].reshape(-1, 3, 32, 32), records[:, label_bytes - 1].long()


def numbers(text):
    return [float(value) for value in text.split(",")]


def parity(args):
    torch.set_num_threads(int(args.threads.split(",")[0]))
    names = args.models.split(",")
    if len(args.init) != len(names):
        sys.exit("cpu_torch.py: one --init per network of --models")
    pixels, labels = read_cifar(args.data, args.dataset)
    dtype = torch.float64 if args.dtype == "f64" else torch.float32
    mean, std = STATISTICS[args.dataset]
    mean = torch.tensor(numbers(args.mean) if args.mean else mean, dtype=dtype).reshape(1, 3, 1, 1)
    std = torch.tensor(numbers(args.std) if args.std else std, dtype=dtype).reshape(1, 3, 1, 1)
    networks = []
    for name, path in zip(names, args.init):
        network = build(name, 100 if args.dataset == "cifar100" else 10)
        load(network, path)
        networks.append(network.to(dtype).train())
    optimizers = make_optimizers(networks, args.lr)
    batches = len(labels) // args.batch
    result = {"losses": [], "ce": [], "teacher": []}
    for step in range(args.steps):
        begin = step % batches * args.batch
        images = (pixels[begin:begin + args.batch].to(dtype) / 255 - mean) / std
        total, ce, teacher = train_step(args, networks, optimizers, images, labels[begin:begin + args.batch])
        result["losses"].append([float(loss) for loss in total])
        result["ce"].append([float(loss) for loss in ce])
        result["teacher"].append(teacher)
    text = json.dumps(result)  # repr of a double: shortest text that reads back as the same bits
    if args.out:
        with open(args.out, "w") as file:
            file.write(text + "\n")
    else:
        print(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="resnet32,resnet32")
    parser.add_argument("--method", default="dml", choices=["independent", "dml", "competitive"])
    parser.add_argument("--mode", default="all", choices=["all", "f32", "f32-cl", "bf16-cl"],
                        help="f32: NCHW; -cl: channels last; bf16: autocast")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--feature-weight", type=float, default=1.0, help="of competitive's feature term")
    parser.add_argument("--compile", action="store_true", help="torch.compile (PyTorch 2)")
    parser.add_argument("--parity", action="store_true")
    parser.add_argument("--init", action="append", default=[])
    parser.add_argument("--data")
    parser.add_argument("--dataset", default="cifar100", choices=["cifar10", "cifar100"])
    parser.add_argument("--mean")
    parser.add_argument("--std")
    parser.add_argument("--dtype", default="f32", choices=["f32", "f64"])
    parser.add_argument("--out")
    args = parser.parse_args()
    if args.parity:
        parity(args)
        return
    for threads in args.threads.split(","):
        for mode in ["f32", "f32-cl", "bf16-cl"] if args.mode == "all" else [args.mode]:
            print(json.dumps(measure(args, mode, int(threads))), flush=True)


if __name__ == "__main__":
    main()
