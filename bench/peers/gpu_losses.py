#!/usr/bin/env python3
"""The peers of the fused loss kernel: values and gradients of a cohort's losses from given logits.

  gpu_losses.py [--rows 128,1024,8192,65536] [--classes 100,1000] [--members 2,3,4] [--methods dml,kdcl-minlogit,competitive]

Per size and method: eager, torch.compile (default and max-autotune) and, captured in a graph, both; and for `dml` two Triton
variants. They are written here after published schemes and are not anybody's package: "row kernels" has one program per row for
CE (gradient in place of a copy) and one for KL on log-softmaxes made outside, as Liger-Kernel's losses are laid out; "one pass"
reads the logits of two networks once and writes all values and gradients, as the fused JSD of its later versions does.
Every variant is checked against float64 before it is timed (relative norm of the gradients below 1e-4). Prints one JSON object
per figure: microseconds per call (host-driven and inside a graph), bytes of the formula M B C (e_in + e_grad), and GB/s.
`--device cpu --rows 8` tries the eager variant; with TRITON_INTERPRET=1 the Triton ones too.
"""
import argparse
import os

import torch
import torch.nn.functional as F

from gpu_timing import captured, copy_ceiling, device_facts, microseconds, say

try:
    import triton
    import triton.language as tl
except ImportError:  # PyTorch's CPU wheels come without it
    triton = None

L2_BYTES = 50 << 20


def dml(logits, labels):
    """Sum over networks of CE + mean KL from the others, targets detached."""
    logs = [F.log_softmax(z, 1) for z in logits]
    total = 0
    for i, log in enumerate(logs):
        total = total + F.nll_loss(log, labels)
        for j, other in enumerate(logs):
            if i != j:
                total = total + F.kl_div(log, other.detach(), reduction="batchmean", log_target=True) / (len(logs) - 1)
    return total


def kdcl_minlogit(logits, labels):
    """CE + 4 KL_T(min over networks of the logits less the label's -> z), T = 2."""
    with torch.no_grad():
        own = torch.stack([z - z.gather(1, labels[:, None]) for z in logits])
        target = F.log_softmax(own.amin(0) / 2, 1)
    total = 0
    for z in logits:
        total = total + F.cross_entropy(z, labels)
        total = total + 4 * F.kl_div(F.log_softmax(z / 2, 1), target, reduction="batchmean", log_target=True)
    return total


def competitive(logits, labels):
    """The network of least CE in the batch teaches the others; chosen on the device."""
    logs = torch.stack([F.log_softmax(z, 1) for z in logits])
    ce = torch.stack([F.nll_loss(log, labels) for log in logs])
    teacher = ce.detach().argmin()
    target = logs.detach().index_select(0, teacher[None])[0]
    kl = (target.exp() * (target - logs)).sum((1, 2)) / logs.shape[1]
    return ce.sum() + kl.sum()  # the teacher's own KL is 0, and so is its gradient


METHODS = {"dml": dml, "kdcl-minlogit": kdcl_minlogit, "competitive": competitive}

if triton is not None:

    @triton.jit
    def ce_row(z, grad, loss, labels, columns, rows, BLOCK: tl.constexpr):
        row = tl.program_id(0)
        c = tl.arange(0, BLOCK)
        x = tl.load(z + row * columns + c, mask=c < columns, other=float("-inf"))
        label = tl.load(labels + row)
        peak = tl.max(x, 0)
        e = tl.exp(x - peak)
        total = tl.sum(e, 0)
        own = tl.sum(tl.where(c == label, x, 0.0), 0)
        tl.store(loss + row, (tl.log(total) + peak - own) / rows)
        g = (e / total - tl.where(c == label, 1.0, 0.0)) / rows
        tl.store(grad + row * columns + c, g, mask=c < columns)

    @triton.jit
    def kl_row(log_student, log_teacher, grad, loss, columns, rows, BLOCK: tl.constexpr):
        row = tl.program_id(0)
        c = tl.arange(0, BLOCK)
        s = tl.load(log_student + row * columns + c, mask=c < columns, other=0.0)
        t = tl.load(log_teacher + row * columns + c, mask=c < columns, other=float("-inf"))
        p = tl.exp(t)
        tl.store(loss + row, tl.sum(tl.where(c < columns, p * (t - s), 0.0), 0) / rows)
        tl.store(grad + row * columns + c, -p / rows, mask=c < columns)

    @triton.jit
    def dml_pair(z0, z1, grad0, grad1, loss, labels, columns, rows, BLOCK: tl.constexpr):
        row = tl.program_id(0)
        c = tl.arange(0, BLOCK)
        inside = c < columns
        a = tl.load(z0 + row * columns + c, mask=inside, other=float("-inf"))
        b = tl.load(z1 + row * columns + c, mask=inside, other=float("-inf"))
        label = tl.load(labels + row)
        peak_a, peak_b = tl.max(a, 0), tl.max(b, 0)
        log_a = a - peak_a - tl.log(tl.sum(tl.exp(a - peak_a), 0))
        log_b = b - peak_b - tl.log(tl.sum(tl.exp(b - peak_b), 0))
        p, q = tl.exp(log_a), tl.exp(log_b)
        own = tl.sum(tl.where(c == label, log_a + log_b, 0.0), 0)
        pairs = tl.sum(tl.where(inside, (p - q) * (log_a - log_b), 0.0), 0)  # KL(p, q) + KL(q, p)
        tl.store(loss + row, (pairs - own) / rows)
        one = tl.where(c == label, 1.0, 0.0)
        tl.store(grad0 + row * columns + c, (2 * p - q - one) / rows, mask=inside)
        tl.store(grad1 + row * columns + c, (2 * q - p - one) / rows, mask=inside)


def triton_rows(logits, labels):
    rows, columns = logits[0].shape
    block = triton.next_power_of_2(columns)
    loss = torch.empty(rows, device=logits[0].device)
    logs = [F.log_softmax(z, 1) for z in logits]
    grads, losses = [], []
    for i, z in enumerate(logits):
        grad = torch.empty_like(z)
        ce_row[(rows,)](z, grad, loss, labels, columns, rows, BLOCK=block)
        losses.append(loss.sum())
        for j in range(len(logits)):
            if i == j:
                continue
            grad_log = torch.empty_like(z)
            kl_row[(rows,)](logs[i], logs[j], grad_log, loss, columns, rows, BLOCK=block)
            losses.append(loss.sum() / (len(logits) - 1))
            through = grad_log - logs[i].exp() * grad_log.sum(1, keepdim=True)  # the gradient of log-softmax
            grad = grad + through / (len(logits) - 1)
        grads.append(grad)
    return sum(losses), grads


def triton_one_pass(logits, labels):
    rows, columns = logits[0].shape
    loss = torch.empty(rows, device=logits[0].device)
    grads = [torch.empty_like(z) for z in logits]
    dml_pair[(rows,)](*logits, *grads, loss, labels, columns, rows, BLOCK=triton.next_power_of_2(columns))
    return loss.sum(), grads


def with_gradients(loss):
    def call(logits, labels):
        leaves = [z.detach().requires_grad_() for z in logits]
        value = loss(leaves, labels)
        return value.detach(), list(torch.autograd.grad(value, leaves))
    return call


def check(name, call, method, logits, labels):
    truth = with_gradients(METHODS[method])([z.double() for z in logits], labels)
    value, grads = call(logits, labels)
    for got, want in zip([value] + grads, [truth[0]] + truth[1]):
        error = float((got.double() - want).norm() / want.norm())
        if not error < 1e-4:
            raise SystemExit(f"gpu_losses.py: {name}, {method}: relative error {error:.1e}: not timed")


def variants(method, members, device):
    yield "eager", lambda: with_gradients(METHODS[method])
    if device.type == "cuda":
        for mode in ["default", "max-autotune-no-cudagraphs"]:
            yield f"compile {mode}", lambda mode=mode: with_gradients(torch.compile(METHODS[method], mode=mode))
    if triton is not None and method == "dml" and (device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"):
        yield "triton row kernels", lambda: triton_rows
        if members == 2:
            yield "triton one pass", lambda: triton_one_pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="128,1024,8192,65536")
    parser.add_argument("--classes", default="100,1000")
    parser.add_argument("--members", default="2,3,4")
    parser.add_argument("--methods", default="dml,kdcl-minlogit,competitive")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device; --device cpu --rows 8 tries the script")
    facts = {"what": "facts", **device_facts(device)}
    if device.type == "cuda":
        facts["copy_bytes_per_s"] = copy_ceiling(device)
    say(facts)
    numbers = lambda text: [int(value) for value in text.split(",")]
    for rows in numbers(args.rows):
        for classes in numbers(args.classes):
            for members in numbers(args.members):
                torch.manual_seed(rows + classes + members)
                size = members * rows * classes * 8
                count = 1 if device.type != "cuda" else min(max(2, 2 * L2_BYTES // size + 1), 64)
                sets = [([3 * torch.randn(rows, classes, device=device) for _ in range(members)],
                         torch.randint(0, classes, (rows,), device=device)) for _ in range(count)]
                for method in args.methods.split(","):
                    for name, make in variants(method, members, device):
                        torch._dynamo.reset()
                        call = make()
                        check(name, call, method, *sets[0])
                        one = lambda s: call(*s)
                        calls = 100 if rows <= 8192 else 20
                        record = {"what": "losses", "method": method, "variant": name, "rows": rows, "classes": classes,
                                  "members": members, "bytes": size,
                                  "cold_us": microseconds(device, one, sets, calls=calls),
                                  "hot_us": microseconds(device, one, sets[:1], calls=calls)}
                        if device.type == "cuda":
                            replay, inside = captured(one, sets)
                            times = microseconds(device, replay, calls=5)
                            record["graph_us"] = {key: times[key] / inside for key in ("median", "p20", "p80")}
                            record["gb_per_s"] = size / record["graph_us"]["median"] / 1e3
                        say(record)


if __name__ == "__main__":
    main()
