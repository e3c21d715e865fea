#!/usr/bin/env python3
"""Every method against PyTorch's autograd: losses and gradients of `cohort loss` on random arrays, in double.

    tests/peers/methods_torch.py --cohort build/release/bin/cohort [--cases 50] [--only dml] [--seed 0]

Each case draws members (2 to 5), classes (2 to 1000), odd batch sizes, maps of different channels and sizes, and the method's
options. The losses are written here from the papers' formulas, with PyTorch's own log_softmax and cross_entropy; what a method
detaches is detached, and the gradients are autograd's of the sum of all losses. Demanded: 1e-9 of the largest entry of an
array. Prints a line per method; exit status 1 if any case disagrees. Needs torch and numpy; without them it says so and ends
with 77.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

TOLERANCE = 1e-9


# --- the formulas -------------------------------------------------------------------------------------------------------------

def ce(case, k):
    return F.cross_entropy(case.z[k], case.y)


def kl(target_probabilities, z, T):
    """T^2 KL(target || softmax(z / T)), summed over classes, averaged over the batch; the target is a constant."""
    p = target_probabilities.detach()
    log_q = F.log_softmax(z / T, 1)
    return T * T * (torch.xlogy(p, p) - p * log_q).sum(1).mean()


def soft(z, T):
    return F.softmax(z / T, 1)


def independent(case, option):
    return [ce(case, k) for k in case.members]


def dml(case, option):
    T, lam = option("dml.T"), option("dml.lambda")
    n = 1 / (case.m - 1) if option("dml.norm") == "mean" else 1
    losses = []
    for k in case.members:
        terms = [kl(soft(case.z[j], T), case.z[k], T) for j in case.members if j != k]
        losses.append(ce(case, k) + lam * n * sum(terms))
    return losses


def kd(case, option):
    a, b, T = option("kd.a"), option("kd.b"), option("kd.T")
    case.frozen = {0}
    return [ce(case, 0)] + [a * ce(case, k) + b * kl(soft(case.z[0], T), case.z[k], T) for k in case.members[1:]]


def kdcl(case, option, target_logits):
    T, lam = option("kdcl.T"), option("kdcl.lambda")
    return [ce(case, k) + lam * kl(soft(target_logits, T), case.z[k], T) for k in case.members]


def kdcl_naive(case, option):
    rows = torch.stack([F.cross_entropy(z, case.y, reduction="none") for z in case.z])
    stacked = torch.stack(case.z)
    if option("naive.scope") == "batch":
        return kdcl(case, option, stacked[rows.mean(1).argmin()])
    return kdcl(case, option, stacked[rows.argmin(0), torch.arange(case.rows)])


def kdcl_minlogit(case, option):
    centred = torch.stack([z - z.gather(1, case.y[:, None]) for z in case.z])
    return kdcl(case, option, centred.min(0).values)


def to_shared(case, option, target, weight=1):
    """Everybody learns from the labels and from one target of probabilities."""
    T, lam = option("kdcl.T"), option("kdcl.lambda")
    return [weight * ce(case, k) + lam * kl(target, case.z[k], T) for k in case.members]


def kdcl_mean(case, option):
    return to_shared(case, option, soft(sum(case.z) / case.m, option("kdcl.T")), option("mean.a"))


def best_mixture(first, second, labels):
    """By bisection: the a in [0, 1] for which a first + (1 - a) second fits the labels best."""
    def slope(a):
        mixed = F.softmax(a * first + (1 - a) * second, 1) - F.one_hot(labels, first.shape[1])
        return float((mixed * (first - second)).sum(1).mean())
    low, high = 0.0, 1.0
    if slope(low) >= 0:
        return low
    if slope(high) <= 0:
        return high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return (low + high) / 2


def kdcl_linear(case, option):
    z = [x.detach() for x in case.z]
    if option("linear.scope") == "batch":
        a = torch.full((case.rows, 1), best_mixture(z[0], z[1], case.y))
    else:
        rows = [slice(b, b + 1) for b in range(case.rows)]
        a = torch.tensor([[best_mixture(z[0][r], z[1][r], case.y[r])] for r in rows])
    return to_shared(case, option, soft(a * z[0] + (1 - a) * z[1], option("kdcl.T")))


def kdcl_general(case, option):
    z = [x.detach().float().double() for x in case.z]  # held-out logits are f32
    errors = torch.stack([F.cross_entropy(x, case.y, reduction="none") for x in z])
    if option("general.loss") == "probability":
        errors = torch.expm1(-errors)
    c = (errors @ errors.T / case.rows).numpy()
    m, mean = case.m, np.trace(c) / case.m
    eigenvalues = np.linalg.eigvalsh(c)
    case.doubtful = eigenvalues[0] < 1e-6 * mean  # ill-conditioned: both answers are right
    best = None
    for face in range(1, 1 << m):
        of = [i for i in range(m) if face >> i & 1]
        x = np.linalg.solve(c[np.ix_(of, of)], np.ones(len(of))) if not case.doubtful else np.ones(len(of))
        if x.min() >= 0 and (best is None or x.sum() > best[0]):
            best = (x.sum(), of, x / x.sum())
    w = np.zeros(m)
    w[best[1]] = best[2]
    return to_shared(case, option, sum(float(v) * soft(x, option("kdcl.T")) for v, x in zip(w, case.z)))


def switokd(case, option):
    """Pairs, 1T2S and 2T1S; the published code's slips too."""
    p = [soft(x.detach(), option("swit.tau")) for x in case.z]
    y = F.one_hot(case.y, case.classes)
    far = [float((q - y).abs().sum(1).mean()) for q in p]

    def expert(t, s, t_eps, s_eps):
        eps = np.exp(-far[t_eps] / (far[s_eps] + far[t_eps]))
        gap = float((p[s] - p[t]).abs().sum(1).mean())
        return gap > far[s] - eps * far[t] and (not option("swit.guard") or far[t] < far[s])

    def term(teacher, k):
        return kl(soft(case.z[teacher], 1), case.z[k], 1)
    compat, three = option("swit.code_compat"), case.m == 3
    losses = [ce(case, k) + sum(term(j, k) for j in case.members if j != k) for k in case.members]
    zero = 0 * case.z[0].sum()
    if three and option("swit.roles") == "2t1s":
        for x in (0, 1):
            if expert(x, 2, 0 if compat else x, 2):
                losses[x] = zero
    else:
        paused = [expert(0, i, 0, 2 if compat and three else i) for i in case.members[1:]]
        taught = [term(i, 0) for i, pause in zip(case.members[1:], paused) if not pause]
        losses[0] = zero if all(paused) else ce(case, 0) + sum(taught)
    return losses


def dkd(case, option):
    T, alpha, beta = option("dkd.T"), option("dkd.alpha"), option("dkd.beta")
    case.frozen = {0}
    label = F.one_hot(case.y, case.classes).bool()

    def split(z):
        rest = z.masked_fill(label, -1e9)
        parts = torch.stack([z[label] / T, torch.logsumexp(rest / T, 1)], 1)
        return F.log_softmax(parts, 1), rest
    own, others = split(case.z[0])
    losses = [ce(case, 0)]
    for k in case.members[1:]:
        own_k, others_k = split(case.z[k])
        tckd = T * T * (own.detach().exp() * (own.detach() - own_k)).sum(1).mean()
        losses.append(ce(case, k) + alpha * tckd + beta * kl(soft(others, T), others_k, T))
    return losses


def normalised(case, member, name, x):
    """relu(batch norm) in training mode, with Cohort's parameters."""
    weight, bias = (case.parameter(member, f"{name}.{part}") for part in ("weight", "bias"))
    return torch.relu(F.batch_norm(x, None, None, weight, bias, training=True))


def fitnet(case, option):
    case.frozen = {0}
    losses = [ce(case, 0)]
    hint = lambda k: case.stages[k][2] if case.stages[k] else case.f[k]
    for k in case.members[1:]:
        x, target = hint(k), hint(0).detach()
        if option("fitnet.regressor") != "identity":
            size, goal = x.shape[2], target.shape[2]
            weight, bias = (case.parameter(k, f"regressor.conv.{part}") for part in ("weight", "bias"))
            if size == 2 * goal:
                x = F.conv2d(x, weight, bias, stride=2, padding=1)
            elif goal == 2 * size:
                x = F.conv_transpose2d(x, weight, stride=2, padding=1)
            else:
                x = F.conv2d(x, weight, bias)
            x = normalised(case, k, "regressor.bn", x)
        losses.append(ce(case, k) + option("fitnet.weight") * ((x - target) ** 2).mean())
    return losses


def shake(case, option):
    case.frozen = {0}
    g, a, b, T = (option(f"shake.{key}") for key in "gabT")

    def ln(z):
        if not option("shake.ln"):
            return z
        return 3.1415 * (z - z.mean(1, keepdim=True)) / torch.sqrt(z.var(1, keepdim=True, unbiased=False) + 1e-7)

    def head(k):
        block = lambda number, x, **how: normalised(
            case, k, f"shadow.c{number}.bn", F.conv2d(x, case.parameter(k, f"shadow.c{number}.conv.weight"), **how))
        maps = [x.detach() for x in [*case.stages[0], case.f[0]]][-3:]
        x, number = maps[0], 2 * (3 - len(maps)) + 1
        for before, now in zip(maps, maps[1:]):
            x = block(number, x, stride=before.shape[2] // now.shape[2], padding=1) + block(number + 1, now)
            number += 2
        return block(5, x, padding=1).mean((2, 3)) @ case.w[0].detach().T + case.b[0].detach()
    net = option("shake.shadow") == "net"
    t, losses = ln(case.z[0]).detach(), [ce(case, 0)]
    for k in case.members[1:2 if net else None]:
        s, h = ln(case.z[k]), ln(case.z[2] if net else head(k))
        own = g * F.cross_entropy(s, case.y) + a * kl(soft(t, T), s, T) + b * kl(soft(h, T), s, T)
        shadow = b * (F.cross_entropy(h, case.y) + kl(soft(s, T), h, T) + ((h - t) ** 2).mean())
        losses += [own, shadow] if net else [own + shadow]
    return losses


def diswot(case, option):
    case.frozen = {0}
    a, b, T, l1, l2 = (option(f"diswot.{key}") for key in ("a", "b", "T", "l1", "l2"))

    def relations(f):
        flat = f.flatten(1)
        return F.normalize(flat @ flat.T, dim=1)

    def semantics(z, pooled):
        residual = (F.softmax(z, 1) - F.one_hot(case.y, case.classes)) / case.rows
        g = residual.T @ pooled
        return F.normalize(g[:, :, None] * g[:, None, :], dim=2, eps=0)
    g_size = case.classes * case.f[0].shape[1]
    losses, teacher, t_pooled = [ce(case, 0)], case.f[0].detach(), case.f[0].detach().mean((2, 3))
    for k in case.members[1:]:
        pooled, adapter = case.f[k].mean((2, 3)), case.parameter(k, "adapter.0.0.weight")
        pooled = pooled if adapter is None else pooled @ adapter[:, :, 0, 0].T
        r = ((relations(teacher) - relations(case.f[k])) ** 2).sum() / case.rows ** 2
        distance = semantics(case.z[0].detach(), t_pooled) - semantics(case.z[k], pooled)
        losses.append(a * ce(case, k) + b * kl(soft(case.z[0], T), case.z[k], T) + l1 * r + l2 * (distance ** 2).sum() / g_size)
    return losses


def norm(case, option):
    N, g, a, b, T = (option("norm." + key) for key in ("N", "g", "a", "b", "T"))
    case.frozen = {0}

    def seen(z):
        if not option("norm.ln"):
            return z
        return 2.5 * (z - z.mean(1, keepdim=True)) / torch.sqrt(z.var(1, unbiased=False, keepdim=True) + 1e-7)
    losses = [F.cross_entropy(seen(case.z[0]), case.y)]
    for k in case.members[1:]:
        of = lambda name: case.parameter(k, "norm.expand." + name)
        wide = F.conv2d(case.f[k], of("conv.weight"))
        wide = F.batch_norm(wide, None, None, of("bn.weight"), of("bn.bias"), training=True, eps=1e-5)
        teacher, ratio = case.f[0].detach(), case.f[0].shape[2] / case.f[k].shape[2]
        if ratio > 1:
            teacher = F.max_pool2d(teacher, int(ratio))
        if ratio < 1:
            wide = F.max_pool2d(wide, int(1 / ratio))
        z = seen(case.z[k])
        losses.append(g * F.cross_entropy(z, case.y) + a * kl(soft(seen(case.z[0]), T), z, T)
                      + b * N * F.mse_loss(wide, teacher.repeat(1, N, 1, 1)))
    return losses


def one(case, option):
    """The gate is an array of its own, or computed from the first network's map, which stands for the shared one."""
    T, lam = option("one.T"), option("one.lambda")
    if case.gate is not None:
        gate = case.gate
    else:
        bias = torch.tensor(case.answer["parameter_0.gate.fc.bias"])  # taken off again: its gradient is rounding
        scores = F.linear(case.f[0].mean((2, 3)), case.parameter(0, "gate.fc.weight"), bias)
        scores = F.batch_norm(scores, None, None, case.parameter(0, "gate.bn.weight"), case.parameter(0, "gate.bn.bias"),
                              training=True, eps=1e-5)
        gate = F.softmax(torch.relu(scores), 1)
    ensemble = sum(gate[:, k:k + 1] * case.z[k] for k in case.members)
    losses = [ce(case, k) + lam * kl(soft(ensemble, T), case.z[k], T) for k in case.members]
    losses[0] = losses[0] + F.cross_entropy(ensemble, case.y)
    return losses


def afid(case, option):
    """The fusion's logits are an array of their own, or computed from both maps."""
    T, lam = option("afid.T"), option("afid.lambda")
    if case.fused is not None:
        fused = case.fused
    else:
        own = lambda name: case.parameter(0, f"fusion.{name}")
        x = torch.cat(case.f, 1)
        x = F.conv2d(x, own("conv1.weight"), padding=1, groups=x.shape[1])
        x = torch.relu(F.batch_norm(x, None, None, own("bn1.weight"), own("bn1.bias"), training=True, eps=1e-5))
        x = F.conv2d(x, own("conv2.weight"))
        x = torch.relu(F.batch_norm(x, None, None, own("bn2.weight"), own("bn2.bias"), training=True, eps=1e-5))
        fused = F.linear(x.mean((2, 3)), own("fc.weight"), own("fc.bias"))
    losses = [ce(case, k) + lam * kl(soft(fused, T), case.z[k], T) for k in case.members]
    mean = (case.z[0] + case.z[1]) / 2
    losses[0] = losses[0] + F.cross_entropy(fused, case.y) + lam * kl(soft(mean, T), fused, T)
    return losses


def clnn(case, option):
    T, beta = option("clnn.T"), option("clnn.beta")
    scale = T * T if option("clnn.t2") else 1
    losses = []
    for k in case.members:
        q = soft(sum(case.z[j] for j in case.members if j != k) / (case.m - 1), T).detach()
        if option("clnn.form") == "okddip":
            losses.append(ce(case, k) + scale / (T * T) * kl(q, case.z[k], T))
        else:
            soft_ce = -(q * F.log_softmax(case.z[k] / T, 1)).sum(1).mean()
            losses.append(beta * ce(case, k) + (1 - beta) * scale * soft_ce)
    return losses


def afd(case, option, of=lambda k: ""):
    """`of`: what stands before the names of a member's parts. Discriminators learn from maps that are constants."""
    T, lam, summed = option("afd.T"), option("afd.lambda"), option("afd.summed")
    share = 0.5 if summed else 1
    size = [min(f.shape[axis] for f in case.f) for axis in (2, 3)]

    def transferred(k, learns):
        x = case.f[k] if learns else case.f[k].detach()
        x = F.adaptive_avg_pool2d(x, size) if list(x.shape[2:]) != size else x
        weight = case.parameter(k, of(k) + "transfer.weight")
        return x if weight is None else F.conv2d(x, weight if learns else weight.detach())

    def verdict(k, x, learns):
        def layer(number, part):
            p = case.parameter(k, f"{of(k)}discriminator.{number}.{part}")
            return p if learns or p is None else p.detach()
        number = 0
        while True:
            padding = 1 if max(x.shape[2:]) > 4 or min(x.shape[2:]) < 3 else 0
            stride = 2 if max(x.shape[2:]) > 4 else 1
            weight, gamma = layer(number, "conv.weight"), layer(number, "bn.weight")
            if gamma is None:
                return torch.sigmoid(F.conv2d(x, weight, layer(number, "conv.bias"), stride=2))
            x = F.conv2d(x, weight, stride=stride, padding=padding)
            x = F.leaky_relu(F.batch_norm(x, None, None, gamma, layer(number, "bn.bias"), training=True), 0.01)
            number += 1

    losses = []
    for k in case.members:
        teachers = [soft(case.z[j], T) for j in case.members if j != k]
        if summed:  # targets are attached
            terms = [T * T * (p * (p.log() - F.log_softmax(case.z[k] / T, 1))).sum(1).mean() for p in teachers]
        else:
            terms = [kl(p, case.z[k], T) for p in teachers]
        losses.append(ce(case, k) + lam / (case.m - 1) * sum(terms)
                      + share * ((1 - verdict(k, transferred(k, True), False)) ** 2).mean())
        other, own = transferred((k + 1) % case.m, False), transferred(k, False)
        case.besides.append(share * (((1 - verdict(k, other, True)) ** 2).mean() + (verdict(k, own, True) ** 2).mean()))
    return losses


def match(case, student, teacher, of=""):
    """Both maps at the smaller size, the student's through the adapter where channels differ."""
    s, t = case.f[student], case.f[teacher].detach()
    size = [min(s.shape[2], t.shape[2]), min(s.shape[3], t.shape[3])]
    s, t = (F.adaptive_avg_pool2d(x, size) if list(x.shape[2:]) != size else x for x in (s, t))
    adapter = case.parameter(student, f"{of}adapter.{teacher}.0.weight")
    return (F.conv2d(s, adapter) if adapter is not None else s), t


def competitive(case, option):
    a, b, T = option("cd.a"), option("cd.b"), option("cd.T")
    means = torch.stack([ce(case, k) for k in case.members]).detach()
    losses = []
    for k in case.members:
        if option("cd.rule") == "argmin":
            teachers = [int(means.argmin())]
            teachers = [] if teachers == [k] else teachers
        else:
            teachers = [j for j in case.members if means[j] < means[k]]
        loss = ce(case, k)
        for t in teachers:
            loss = loss + a / len(teachers) * kl(soft(case.z[t], T), case.z[k], T)
            if option("cd.lf") == "off":
                continue
            s_map, t_map = match(case, k, t)
            squares = (s_map - t_map) ** 2
            reduced = {"mse": squares.mean(), "sum": squares.sum(), "sum_over_batch": squares.sum() / case.rows}
            loss = loss + b / len(teachers) * reduced[option("cd.lf")]
        losses.append(loss)
    return losses


def weight_maps(similarity, size):
    if list(similarity.shape[1:]) != list(size):
        similarity = F.interpolate(similarity[:, None], size=tuple(size), mode="nearest")[:, 0]

    def normalised(x):
        mean = x.mean((1, 2), keepdim=True)
        return torch.where(mean < 1e-4, torch.ones_like(x), x / (mean + 1e-5))
    return normalised(1 + similarity), normalised(1 - similarity)


def answers(rng, case, options):
    """What every teacher said of the samples an epoch ago, of some nothing; or what the teacher of then says of them now."""
    case.answers = {}
    if options["adm.di_form"] != "kd":
        return {}
    if options["adm.q"] == "frozen":
        former = {t: 3 * rng.standard_normal((case.rows, case.classes)) for t in map(int, str(options["adm.teachers"]).split(","))}
        case.answers = {t: soft(torch.tensor(z), 1) for t, z in former.items()}
        return {f"former_{t}": z for t, z in former.items()}
    for t in str(options["adm.teachers"]).split(","):
        table = rng.dirichlet(np.ones(case.classes), case.rows)
        table[rng.random(case.rows) < 0.3] = 0
        case.answers[int(t)] = torch.tensor(table)
    return {f"parameter_{t}.adm.predictions": table.numpy() for t, table in case.answers.items()}


def temporal(case, t, option):
    q = case.answers[t]
    d = option("adm.delta_last") * (q.sum(1, keepdim=True) > 0)
    return (1 - d) * F.one_hot(case.y, case.classes) + d * q


def feature_term(x, y, form, per_sample):
    if form == "relu":
        x, y = torch.relu(x), torch.relu(y)
    if form == "norm":
        x, y = (m / m.flatten(2).norm(dim=2).clamp_min(1e-12)[..., None, None] for m in (x, y))
    squares = (x - y) ** 2
    if form == "drop":
        squares = squares.reshape(len(x) if per_sample else 1, -1)
        size = squares.shape[1]
        squares = squares.topk(size - size // 3, dim=1, largest=False).values
    return squares.mean()


def adm_terms(case, option, losses, frozen=frozenset(), of=""):
    """`of`: "2." where the method has parts of its own before those of the addition."""
    preact, form, T = option("adm.preact"), option("adm.co_form"), option("adm.T")
    offline = bool(frozen)
    setting = (1, 0, 0) if offline else (0.01, 0.01, 1)
    alpha, beta, gamma = (s if option(key) == -1 else option(key)
                          for key, s in zip(("adm.alpha", "adm.beta", "adm.gamma"), setting))
    beta = 0 if offline else beta
    teachers = [int(t) for t in str(option("adm.teachers")).split(",")]
    students = [k for k in case.members if k not in teachers]
    act = torch.relu if preact else (lambda x: x)

    def logits(k, weights, detach=False):
        f, w, b = (x.detach() for x in (case.f[k], case.w[k], case.b[k])) if detach else (case.f[k], case.w[k], case.b[k])
        return (weights[:, None] * act(f)).mean((2, 3)) @ w.T + b

    losses = list(losses)
    for s in students:
        for t in teachers:
            s_map, t_map = match(case, s, t, of)
            dots = (s_map * t_map).sum(1)
            norms = (s_map.norm(dim=1) * t_map.norm(dim=1)).clamp_min(1e-8)
            similarity = (dots / norms).detach()
            s_co, _ = weight_maps(similarity, case.f[s].shape[2:])
            t_co, t_di = weight_maps(similarity, case.f[t].shape[2:])
            z_co = logits(s, s_co)
            co = F.cross_entropy(z_co, case.y) if form == "ce" else kl(soft(logits(t, t_co, detach=True), T), z_co, T)
            losses[s] = losses[s] + alpha / len(teachers) * co
            if gamma > 0:
                share = 1 if option("adm.feat") == "last" else 0.5
                term = feature_term(s_map, t_map, option("adm.feat_form"), option("adm.drop") == "sample")
                losses[s] = losses[s] + gamma * share / len(teachers) * term
            if beta > 0:
                z_di = logits(t, t_di)
                di = F.cross_entropy(z_di, case.y) if option("adm.di_form") != "kd" else kl(temporal(case, t, option), z_di, T)
                losses[t] = losses[t] + beta / len(students) * di
    return losses


def adm(case, option):
    return adm_terms(case, option, dml(case, option))


def kd_with_adm(case, option):
    losses = kd(case, option)
    return adm_terms(case, option, losses, frozen=case.frozen)


def shake_with_adm(case, option):
    return adm_terms(case, option, shake(case, option), frozen=case.frozen, of="2.")


def diswot_with_adm(case, option):
    return adm_terms(case, option, diswot(case, option), frozen=case.frozen, of="2.")


def afd_with_adm(case, option):
    # A network's sets of parameters are numbered, ADM's adapters and answers before the discriminator.
    def of(k):
        return next((n for n in ("2.", "3.") if case.parameter(k, n + "discriminator.0.conv.weight") is not None), "")
    return adm_terms(case, option, afd(case, option, of=of))


# --- what each method is given ------------------------------------------------------------------------------------------------

def pick(*values):
    return lambda rng, case: values[rng.integers(len(values))]


def between(low, high):
    return lambda rng, case: round(float(rng.uniform(low, high)), 3)


def roles(rng, case):
    number = int(rng.integers(1, case.m))
    return ",".join(str(t) for t in sorted(rng.choice(case.m, number, replace=False)))


def hints(rng, case):
    """The teacher's hint of any size, the students' of every ratio that has a regressor."""
    side, shapes = int(rng.integers(1, 7)), []
    sizes = [side, 2 * side, side + int(rng.integers(0, 4))] + ([side // 2] if side % 2 == 0 else [])
    for k in case.members:
        own = side if k == 0 else int(rng.choice(sizes))
        shapes.append([(1, 2), (2, 2), (int(rng.integers(1, 20)), own), (3, 1)])
    if rng.integers(2):  # the hint alone
        shapes = [[maps[2]] for maps in shapes]
    return shapes


def alike(rng, case):
    """Last maps of one size."""
    side = int(rng.integers(1, 5))
    return [[(int(rng.integers(1, 20)), side)] for _ in case.members]


def halving(rng, case):
    """Of every member as many maps as the teacher has."""
    number, side = int(rng.integers(1, 5)), int(rng.integers(1, 3))
    sides = [side]
    while len(sides) < number:
        sides.insert(0, sides[0] * int(rng.integers(1, 3)))
    return [[(int(rng.integers(1, 12)), s) for s in sides] for _ in case.members]


def wide(rng, case):
    return [[(int(rng.integers(2, 20)), 2 ** int(rng.integers(0, 3)))] for _ in case.members]


KDCL = {"kdcl.T": between(0.5, 5), "kdcl.lambda": between(0, 3)}
ADM = {"adm.alpha": between(0.01, 2), "adm.beta": between(0.01, 2), "adm.gamma": between(0, 2), "adm.T": between(0.5, 4),
       "adm.co_form": pick("ce", "kd"), "adm.feat": pick("stages", "last"), "adm.feat_form": pick("mse", "relu", "norm", "drop"),
       "adm.drop": pick("batch", "sample"), "adm.di_form": pick("ce", "kd"), "adm.q": pick("table", "frozen"), "adm.delta_last": between(0, 1), "adm.preact": pick(True, False), "adm.teachers": roles}
DML = {"dml.norm": pick("mean", "sum"), "dml.T": between(0.5, 5), "dml.lambda": between(0, 3)}
OFFLINE_ADM = {**{k: v for k, v in ADM.items() if k != "adm.teachers"}, "adm.gamma": between(0.1, 2)}
SHAKE = {"shake.g": between(0, 2), "shake.a": between(0, 2), "shake.b": between(0, 2), "shake.T": between(0.5, 6),
         "shake.ln": pick(True, False)}
DISWOT = {"diswot.a": between(0, 2), "diswot.b": between(0, 2), "diswot.T": between(0.5, 6), "diswot.l1": between(0.01, 2),
          "diswot.l2": between(0.01, 2)}
AFD = {"afd.T": between(0.5, 5), "afd.lambda": between(0, 3), "afd.summed": pick(True, False)}
METHODS = {
    "independent": dict(losses=independent, options={}),
    "kd": dict(losses=kd, options={"kd.a": between(0, 1), "kd.b": between(0, 1), "kd.T": between(0.5, 6)}),
    "dml": dict(losses=dml, options=DML),
    "kdcl-naive": dict(losses=kdcl_naive, options={**KDCL, "naive.scope": pick("sample", "batch")}),
    "kdcl-minlogit": dict(losses=kdcl_minlogit, options=KDCL),
    "kdcl-mean": dict(losses=kdcl_mean, options={**KDCL, "mean.a": between(0, 2)}),
    "kdcl-linear": dict(losses=kdcl_linear, members=(2, 2), options={**KDCL, "linear.scope": pick("sample", "batch")}),
    "kdcl-general": dict(losses=kdcl_general, rows=(12, 20), options={**KDCL, "general.loss": pick("probability", "ce")}),
    "switokd": dict(losses=switokd, members=(2, 3),
                    options={"swit.roles": pick("1t2s", "2t1s"), "swit.guard": pick(True, False), "swit.tau": between(0.3, 3),
                             "swit.code_compat": pick(True, False)}),
    "dkd": dict(losses=dkd, options={"dkd.alpha": between(0, 2), "dkd.beta": between(0, 8), "dkd.T": between(3, 6)}),
    "fitnet": dict(losses=fitnet, rows=(2, 19), shapes=hints, options={"fitnet.weight": between(0, 100)}),
    # Of two classes standardised logits are constants, their gradients the rest of a cancellation.
    "shake": dict(losses=shake, rows=(2, 19), classes=3, shapes=halving, classifiers=True, options=SHAKE),
    "shake (net)": dict(losses=shake, members=(3, 3), classes=3, fixed={"shake.shadow": "net"}, options=SHAKE),
    # One sample or one channel: directions are all the same, and gradients the rest of a cancellation.
    "diswot": dict(losses=diswot, rows=(2, 19), shapes=wide, most_classes=60, options=DISWOT),
    "norm": dict(losses=norm, maps=True, rows=(2, 19), classes=3,
                 options={"norm.N": pick(1, 2, 3, 5, 8), "norm.g": between(0, 1), "norm.a": between(0, 2), "norm.b": between(0, 2),
                          "norm.T": between(0.5, 6), "norm.ln": pick(True, False)}),
    "one": dict(losses=one, maps=True, rows=(3, 19), options={"one.T": between(0.5, 5), "one.lambda": between(0, 2)}),
    "one (gate)": dict(losses=one, gate=True, options={"one.T": between(0.5, 5), "one.lambda": between(0, 2)}),
    "clnn": dict(losses=clnn, options={"clnn.T": between(0.5, 5), "clnn.beta": between(0, 1), "clnn.t2": pick(True, False),
                                       "clnn.form": pick("beta", "okddip")}),
    "afid": dict(losses=afid, members=(2, 2), rows=(3, 19), shapes=alike,
                 options={"afid.T": between(0.5, 5), "afid.lambda": between(0, 2)}),
    "afid (fused)": dict(losses=afid, members=(2, 2), fused=True, options={"afid.T": between(0.5, 5), "afid.lambda": between(0, 2)}),
    "afd": dict(losses=afd, maps=True, rows=(3, 19), options=AFD),
    "competitive": dict(losses=competitive, maps=True, fixed={"cd.perturb": False},
                        options={"cd.rule": pick("argmin", "all_better"), "cd.a": between(0, 2), "cd.b": between(0.1, 2),
                                 "cd.T": between(0.5, 4), "cd.lf": pick("mse", "sum", "sum_over_batch", "off")}),
    "adm": dict(losses=adm, maps=True, classifiers=True, more=answers, options={**DML, **ADM}),
    "kd+adm": dict(losses=kd_with_adm, maps=True, classifiers=True, add="adm",
                   options={"kd.a": between(0, 1), "kd.b": between(0, 1), "kd.T": between(0.5, 6), **OFFLINE_ADM}),
    "shake+adm": dict(losses=shake_with_adm, rows=(2, 19), classes=3, maps=True, classifiers=True, add="adm",
                      options={**SHAKE, **OFFLINE_ADM}),
    "afd+adm": dict(losses=afd_with_adm, rows=(3, 19), maps=True, classifiers=True, add="adm", more=answers, options={**AFD, **ADM}),
    "diswot+adm": dict(losses=diswot_with_adm, rows=(2, 19), shapes=wide, most_classes=60, classifiers=True, add="adm",
                       options={**DISWOT, **OFFLINE_ADM}),
}


class Case:
    def __init__(self, rng, spec):
        low, high = spec.get("members", (2, 5))
        self.m = int(rng.integers(low, high + 1))
        self.members = list(range(self.m))
        low, high = spec.get("rows", (1, 19))
        self.rows = int(rng.integers(low, high + 1))
        self.classes = int(np.exp(rng.uniform(np.log(spec.get("classes", 2)), np.log(spec.get("most_classes", 1000) + 1))))
        self.frozen = set()
        self.answer = None
        self.besides = []  # a rule may put losses here that no network's own loss holds
        self.doubtful = False  # a rule may set it: the answer depends on the last digits
        scale = float(np.exp(rng.uniform(np.log(0.1), np.log(8))))
        leaf = lambda *shape, size=1.0: torch.tensor(size * rng.standard_normal(shape), requires_grad=True)
        self.z = [leaf(self.rows, self.classes, size=scale) for _ in self.members]
        self.y = torch.tensor(rng.integers(self.classes, size=self.rows))
        self.f, self.w, self.b = [], [], []
        self.stages = [[] for _ in self.members]  # the maps before the last
        if "shapes" in spec:
            for k, maps in enumerate(spec["shapes"](rng, self)):
                *earlier, last = [leaf(self.rows, channels, side, side) for channels, side in maps]
                self.stages[k] = earlier
                self.f.append(last)
        if spec.get("maps"):
            # Sides are a power of two times one odd number: the larger map is a whole multiple of the smaller.
            odd = int(rng.integers(1, 4))
            for _ in self.members:
                channels, side = int(rng.integers(1, 20)), odd * 2 ** int(rng.integers(0, 3))
                self.f.append(leaf(self.rows, channels, side, side))
        if spec.get("classifiers"):
            self.w = [leaf(self.classes, f.shape[1]) for f in self.f]
            self.b = [leaf(self.classes) for _ in self.f]
        self.gate = None
        if spec.get("gate"):
            self.gate = torch.tensor(rng.dirichlet(np.ones(self.m), self.rows), requires_grad=True)
        self.fused = leaf(self.rows, self.classes, size=scale) if spec.get("fused") else None
        self.parameters = {}

    def arrays(self):
        named = {"labels": self.y.numpy()}
        if self.gate is not None:
            named["gate"] = self.gate.detach().numpy()
        if self.fused is not None:
            named["fused"] = self.fused.detach().numpy()
        for name, list_ in (("logits", self.z), ("features", self.f), ("weight", self.w), ("bias", self.b)):
            for k, value in enumerate(list_):
                named[f"{name}_{k}"] = value.detach().numpy()
        for k, maps in enumerate(self.stages):
            for i, value in enumerate(maps):
                named[f"stage_{k}_{i}"] = value.detach().numpy()
        return named

    def parameter(self, member, name):
        """The method's own tensor with the values that Cohort drew, or None."""
        key = f"{member}.{name}"
        if f"parameter_{key}" not in self.answer:
            return None
        if key not in self.parameters:
            self.parameters[key] = torch.tensor(self.answer[f"parameter_{key}"], requires_grad=True)
        return self.parameters[key]


def run_cohort(binary, method, add, options, arrays, folder):
    source, result = os.path.join(folder, "in.npz"), os.path.join(folder, "out.npz")
    np.savez(source, **arrays)
    command = [binary, "loss", "--method", method, "--in", source, "--out", result]
    if add:
        command += ["--add", add]
    for key, value in options.items():
        command += ["--set", f"{key}={str(value).lower() if isinstance(value, bool) else value}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(" ".join(command) + "\n" + done.stderr)
    with np.load(result) as file:
        return {name: file[name] for name in file.files}


def difference(ours, theirs):
    theirs = np.zeros_like(ours) if theirs is None else theirs
    scale = max(np.abs(theirs).max(), np.abs(ours).max(), 1e-300)
    if scale < 1e-13:  # zero, where one of the two sums what cancels
        return 0.0
    return float(np.abs(ours - theirs).max() / max(scale, 1e-12))


def check(binary, name, spec, rng, folder):
    """The worst relative difference of one case, and where."""
    case = Case(rng, spec)
    options = {**spec.get("fixed", {}), **{key: draw(rng, case) for key, draw in spec["options"].items()}}
    case.answer = run_cohort(binary, re.split(r"[+ ]", name)[0], spec.get("add"), options,
                             {**case.arrays(), **(spec["more"](rng, case, options) if "more" in spec else {})}, folder)
    defaults = {"adm.teachers": 0}
    losses = spec["losses"](case, lambda key: options.get(key, defaults.get(key)))
    if case.doubtful:
        return (0.0, "")
    sum([loss for k, loss in enumerate(losses) if k not in case.frozen] + case.besides).backward()
    worst = (0.0, "")
    expected = {f"loss_{k}": loss.detach().numpy() for k, loss in enumerate(losses)}
    for label, list_ in (("logits", case.z), ("features", case.f), ("weight", case.w), ("bias", case.b)):
        for k, value in enumerate(list_):
            untouched = value.grad is None or k in case.frozen
            expected[f"grad_{label}_{k}"] = np.zeros(value.shape) if untouched else value.grad.numpy()
    for k, maps in enumerate(case.stages):
        for i, value in enumerate(maps):
            untouched = value.grad is None or k in case.frozen
            expected[f"grad_stage_{k}_{i}"] = np.zeros(value.shape) if untouched else value.grad.numpy()
    if case.gate is not None:
        expected["grad_gate"] = case.gate.grad.numpy()
    if case.fused is not None:
        expected["grad_fused"] = case.fused.grad.numpy()
    for key, value in case.parameters.items():
        expected[f"grad_parameter_{key}"] = np.zeros(value.shape) if value.grad is None else value.grad.numpy()
    for key, value in expected.items():
        if key not in case.answer:
            return (float("inf"), f"{key} is missing")
        ours = case.answer[key]
        if key.endswith(".conv.bias") and key.replace("conv.bias", "bn.bias") in case.answer:
            # Batch normalisation takes it off: roundings of the weight's gradient.
            of_weight = np.abs(case.answer[key.replace("bias", "weight")]).max()
            worst = max(worst, (float(np.abs(ours).max() / max(of_weight, 1e-12)), key))
            continue
        worst = max(worst, (difference(ours, value), f"{key} {options} M={case.m} B={case.rows} C={case.classes}"))
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", required=True)
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--only", default="", help="a method")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name, spec in METHODS.items():
            if args.only not in ("", name):
                continue
            rng = np.random.default_rng(args.seed)
            worst = max(check(args.cohort, name, spec, rng, folder) for _ in range(args.cases))
            good = worst[0] <= TOLERANCE
            failed = failed or not good
            print(f"{name:16} {args.cases} cases, worst difference {worst[0]:.1e}{'' if good else '  WRONG: ' + worst[1]}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
