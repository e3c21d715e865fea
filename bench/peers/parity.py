#!/usr/bin/env python3
"""Losses of the first steps, Cohort beside PyTorch, from the same weights and batches.

  bench/peers/parity.py --cohort build/cpu-release/bin/cohort --data DATA_ROOT [--steps 50] [--lr 0.0001]

Trains two ResNet-20 on CIFAR-100 by dml and by competitive (no perturbation) in f32, without augmentation and in file order,
and prints the largest relative difference over all steps and both networks; beside it the same figure for PyTorch on two
threads against PyTorch on one, which is what rounding alone does. Needs Debian's python3-torch (/usr/bin/python3).

The learning rate decides what the figure means: at 0.01 and above PyTorch no longer agrees with itself to 1e-4 after five
steps, because every rounding is amplified by the next update.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

PEER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cpu_torch.py")


def run_cohort(args, method, out, extra):
    command = [args.cohort, "train", "--method", method, "--net", "resnet20", "--net", "resnet20", "--data", "cifar100",
               "--data-root", args.data, "--val-fraction", "0", "--set", "data.augment=none", "--set", "data.shuffle=false",
               "--schedule", "constant", "--set", "optim.nesterov=true", "--set", "log.every_steps=1", "--out", out, *extra]
    if method == "competitive":
        command += ["--set", "cd.perturb=false"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def cohort_losses(run):
    steps = {}
    with open(os.path.join(run, "metrics.jsonl")) as file:
        for line in file:
            record = json.loads(line)
            if record["kind"] == "step":
                steps.setdefault(record["step"], []).append(record["loss"])
    return [steps[step] for step in sorted(steps)]


def torch_losses(args, method, weights, threads, out):
    subprocess.run(["/usr/bin/python3", PEER, "--parity", "--init", weights + "/a.safetensors", "--init",
                    weights + "/b.safetensors", "--data", args.data, "--dataset", "cifar100", "--steps", str(args.steps),
                    "--batch", "128", "--method", method, "--lr", str(args.lr), "--models", "resnet20,resnet20",
                    "--feature-weight", "1", "--threads", str(threads), "--out", out], check=True)
    with open(out) as file:
        return json.load(file)["losses"]


def worst(a, b):
    assert len(a) == len(b)
    return max(abs(x - y) / abs(x) for p, q in zip(a, b) for x, y in zip(p, q))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--lr", type=float, default=0.0001)
    args = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        # One step at no learning rate leaves the weights that a run starts from in a checkpoint.
        run_cohort(args, "dml", folder + "/start",
                   ["--lr", "1e-30", "--set", "optim.weight_decay=0", "--max-steps", "1"])
        weights = folder + "/start/checkpoints/step-00000001"
        for method in ("dml", "competitive"):
            run_cohort(args, method, f"{folder}/{method}",
                       ["--init", f"a={weights}/a.safetensors", "--init", f"b={weights}/b.safetensors", "--lr", str(args.lr),
                        "--max-steps", str(args.steps)])
            one, two = (torch_losses(args, method, weights, n, f"{folder}/{method}{n}.json") for n in (1, 2))
            difference = worst(two, cohort_losses(f"{folder}/{method}"))
            failed = failed or difference > 1e-4
            print(f"{method:12} {args.steps} steps, lr {args.lr:g}: cohort vs torch {difference:.2e}, "
                  f"torch 2 threads vs 1 {worst(two, one):.2e}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
