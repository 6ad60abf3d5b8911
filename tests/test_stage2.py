"""
What these tests prove about stage2_distill.py:
  1. Eq. 3-6, the soft targets and the divergence, spelled as loops over i and k in float64, are
     what is computed; the bank is streamed: exact gradients, no tensor of tokens x bank
  2. sampler, view, learning rate and defaults are the paper's and the official code's, by number
  3. steps of `main`, by hand: a plain, dense transcription of the paper sees the same input and
     ends in the same numbers, with every flag that changes a step away from its default
  4. a broken teacher shows in the logged divergence
  5. where weights, the queue and the parts of a batch come from, seen from inside a run
  6. features that do not fit are one line that says what to do
The bank on disk: test_bank.py. Resume, processes, log, other mistakes: test_runs.py.
"""
import collections
import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import (
    adamw_by_hand, assert_near, assert_optimizer, check_accumulation, check_function_of_step,
    clipped_step, frames_by_hand, halves_of, logged, record, record_augmentations, refused, unit,
    write_init)
from torch.utils._python_dispatch import TorchDispatchMode

import model
import stage2_distill as stage2
from comedian import DataError, augment, bank, run
from comedian.frames import find_halves

SMALL = replace(model.MODELS["vivit_micro"], embed_dim=32, depth=(2,), num_heads=(2,),
                temporal_heads=2, head_width=48)


@pytest.fixture(autouse=True)
def small_and_quick(no_pictures, monkeypatch):
    monkeypatch.setitem(model.MODELS, "vivit_micro", SMALL)           # smaller than any of MODELS


def args2(*flags):
    """flags: each may hold several, with spaces between them."""
    return stage2.parse_args(" ".join(["--data x", *map(str, flags)]).split())


def run2(matches, out, *more):
    """Runs stage 2 through its main; returns the checkpoint that it left."""
    stage2.main(args2(f"--data {matches} --out {out} --model vivit_micro --workers 1 --device cpu "
                      "--log-every 2 --lr 0.01 --seed 5 --batch 4 --steps 6 --window 8 "
                      "--features-name teacher", *more))
    return model.load_checkpoint(out / "last.pt")


def other_features(matches, root, make=lambda rows: rows, name="teacher"):
    """Teacher features in a folder of their own, make(rows) of every half's; returns the flag."""
    for half in find_halves(matches):
        path = root / half.match / f"{half.number}_{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, make(np.load(matches / half.match / f"{half.number}_teacher.npy")))
    return f"--features {root}"


# ------------------------------------------------------------------ 1. the equations
def soft_of(P, tau_m, rows=None):
    """The soft targets of these rows, or of all."""
    return stage2.soft_targets(torch.arange(len(P)) if rows is None else torch.as_tensor(rows), P,
                               tau_m, bank.row_ids(P))


def with_equal_rows(M=23, D=6):
    """A bank in which row 3 is there three times and row 5 twice."""
    P = unit(M, D)
    P[7] = P[20] = P[3]
    P[6] = P[5]
    return P


def target_by_loops(p, P, lam, tau_m):
    """Eq. 4 and 5: the list of w_k for the feature p. The indicators are by value; equal rows share
    the one-hot's weight, so that w sums to 1."""
    same = [torch.equal(p, row) for row in P]
    e2 = [0.0 if same[k] else math.exp(float(p @ P[k]) / tau_m) for k in range(len(P))]
    return [lam * same[k] / sum(same) + (1 - lam) * e2[k] / sum(e2) for k in range(len(P))]


def loss_by_loops(logits, w):
    """For one token Eq. 3 and 6, -sum_k w_k log s1_k; the divergence sum_k w_k log(w_k / s1_k)."""
    s1 = [math.exp(logit) / sum(map(math.exp, logits)) for logit in logits]
    return (-sum(w_k * math.log(s1_k) for w_k, s1_k in zip(w, s1, strict=True)),
            sum(w_k * math.log(w_k / s1_k) for w_k, s1_k in zip(w, s1, strict=True) if w_k))


@pytest.mark.parametrize("chunk", [1, 5, 23, 8192])              # below, across, at, above the bank
@pytest.mark.parametrize("lam", [0.0, 0.3, 0.5, 1.0])
def test_equations_3_to_6(chunk, lam, monkeypatch):
    """The loss, and the divergence of s1 from w, which has no gradient."""
    monkeypatch.setattr(stage2, "CHUNK", chunk)
    P, own = with_equal_rows(), torch.tensor([3, 0, 22, 7, 5])
    z = unit(5, 6, seed=1).requires_grad_()
    loss, divergence = stage2.sce_loss(z, P[own], soft_of(P, 0.07, own), P, lam, 0.1)
    expected = np.mean([loss_by_loops((P @ z_i / 0.1).tolist(), target_by_loops(P[i], P, lam, 0.07))
                        for z_i, i in zip(z, own, strict=True)], 0)
    assert loss.dtype == torch.float64 and not divergence.requires_grad
    assert (loss.item(), divergence.item()) == pytest.approx(tuple(expected), rel=1e-10)
    assert divergence > 0


@pytest.mark.parametrize("chunk", [4, 8192])
def test_soft_targets(chunk, monkeypatch):
    """Eq. 4 row by row, in any order of asking; the own row and its equals have no weight."""
    monkeypatch.setattr(stage2, "CHUNK", chunk)
    P, asked = with_equal_rows(), torch.tensor([22, 3, 7, 0, 5])
    got = stage2.soft_targets(asked, P, 0.07, bank.row_ids(P))
    for i, centroid_i, entropy_i, log_n_i in zip(asked, *got, strict=True):
        s2 = target_by_loops(P[i], P, 0.0, 0.07)
        assert sum(s2) == pytest.approx(1) and s2[i] == 0
        centroid = sum(weight * row for weight, row in zip(s2, P, strict=True))
        torch.testing.assert_close(centroid_i, centroid, rtol=1e-10, atol=1e-12)
        entropy = -sum(weight * math.log(weight) for weight in s2 if weight)
        assert entropy_i.item() == pytest.approx(entropy, abs=1e-10)
        n_equal = sum(torch.equal(row, P[i]) for row in P)
        assert log_n_i.item() == pytest.approx(math.log(n_equal), rel=1e-10)
    assert [round(math.exp(n)) for n in got.log_n] == [1, 3, 3, 1, 2]


@pytest.mark.parametrize("lam", [0.3, 0.5])
def test_the_divergence(lam):
    """It is 0 for a student that equals the target, and for no other. That one gets log w_k, plus a
    constant, from the inverse of the few rows, and the rest of its length where no row points."""
    rows, tau, tau_m = 8, 0.1, 0.2
    P = F.normalize(torch.eye(rows, dtype=torch.float64) + 0.2 * unit(rows, rows), dim=1)
    P = torch.cat([P, torch.zeros(rows, 1)], 1)                       # (8, 9): no row points there
    twice = torch.cat([P, P[2:3]])                                    # with two equal rows
    for i in (0, 2, 5):
        w = torch.tensor(target_by_loops(P[i], twice, lam, tau_m), dtype=torch.float64)
        z = torch.linalg.solve(P[:, :rows], tau * (w.log() - w.log().mean())[:rows])
        z = torch.cat([z, (1 - z.norm() ** 2).sqrt()[None]])
        soft, others = soft_of(twice, tau_m, [i]), [z + 0.1 * unit(9, seed=s) for s in range(5)]
        (loss, divergence), *others = (stage2.sce_loss(
            F.normalize(each, dim=0)[None], P[i:i + 1], soft, twice, lam, tau)
            for each in (z, *others))
        assert divergence.item() == pytest.approx(0, abs=1e-10) and loss > 1
        assert min(other for _, other in others) > 1e-4


@pytest.mark.parametrize("chunk", [7, 8192])
def test_gradient_of_the_streamed_logsumexp(chunk, monkeypatch):
    """Against dense autograd, and by finite differences."""
    monkeypatch.setattr(stage2, "CHUNK", chunk)
    P, z = unit(23, 6).requires_grad_(), unit(4, 6, seed=1).requires_grad_()
    upstream = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    streamed = stage2.BankLogSumExp.apply(z, P, 0.1)
    dense = torch.logsumexp(z @ P.T / 0.1, 1)
    torch.testing.assert_close(streamed, dense, rtol=1e-10, atol=0)
    got, expected = (torch.autograd.grad(value, z, upstream)[0] for value in (streamed, dense))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(lambda z: stage2.BankLogSumExp.apply(z, P, 0.1), (z,))
    stage2.BankLogSumExp.apply(z, P, 0.1).sum().backward()
    assert z.grad.abs().min() > 0 and P.grad is None                  # the teacher does not learn


def test_sums_of_half_precision_are_float32(monkeypatch):
    """A bfloat16 bank of 40,000 rows: a total in bfloat16 would stop growing at 256 terms."""
    monkeypatch.setattr(stage2, "CHUNK", 256)
    P, z = unit(40_000, 8).bfloat16(), unit(3, 8, seed=1).float()
    value, read = stage2.attend(z, P, 1.0)
    dense = z.bfloat16().double() @ P.double().T
    assert value.dtype == read.dtype == torch.float32
    torch.testing.assert_close(value.double(), dense.logsumexp(1), rtol=0, atol=2e-5)
    torch.testing.assert_close(read.double(), dense.softmax(1) @ P.double(), rtol=0, atol=2e-4)


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that an operation made."""
    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor):
                    self.largest = max(self.largest, tensor.numel())
        return out


def test_tokens_times_bank_is_never_stored(monkeypatch):
    monkeypatch.setattr(stage2, "CHUNK", 256)
    P, z = unit(5000, 4).float(), unit(64, 4, seed=1).float().requires_grad_()
    soft, ids = bank.SoftTargets.unpack(torch.zeros(64, 6)), bank.row_ids(P)
    with LargestTensor() as watch:
        stage2.sce_loss(z, P[:64], soft, P, 0.5, 0.1)[0].backward()
    assert 64 * 4 <= watch.largest <= 64 * 256 < 64 * 5000
    with LargestTensor() as watch:
        stage2.soft_targets(torch.arange(1024), P, 0.07, ids)
    assert watch.largest <= 1024 * 256 < 1024 * 5000


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_the_queue_version_of_equations_3_to_6(lam):
    """As officially: own window and queue; s2 leaves out the feature at its place alone."""
    B, L, M, tau, tau_m = 2, 4, 6, 0.1, 0.05
    z, p, queue = unit(B, L, 5), unit(B, L, 5, seed=1), unit(M, 5, seed=2)
    queue[2] = p[0, 1]                                             # an old copy in the queue counts
    expected = []
    for b, i in np.ndindex(B, L):
        others = torch.cat([p[b], queue])
        e2 = (others @ p[b, i] / tau_m).exp().tolist()
        e2[i] = 0.0
        w = [lam * (k == i) + (1 - lam) * e2[k] / sum(e2) for k in range(L + M)]
        expected.append(loss_by_loops((others @ z[b, i] / tau).tolist(), w))
    loss, divergence = stage2.sce_loss_queue(z, p, queue, lam, tau, tau_m)
    assert (loss.item(), divergence.item()) == pytest.approx(tuple(np.mean(expected, 0)), rel=1e-9)
    assert divergence > 0


# ------------------------------------------------------------------ 2. by number
def test_the_papers_setting_is_the_default():
    """Sec. 3.3 and App. A.4; batch and windows are inverse to their length."""
    args = args2()
    assert dict(window=64, mask=0.25, tau=0.1, tau_m=0.07, lam=0.5, epochs=100, warmup_epochs=10,
                lr=2e-3, weight_decay=0.05, bank="complete", align="middle", sampling="random",
                clip_grad=1.0).items() <= vars(args).items()
    for flags, batch, windows in (("--window 32", 64, 75), ("", 32, 38), ("--window 128", 16, 19),
                                  ("--window 128 --batch 7 --windows-per-half 5", 7, 5),
                                  ("--window 16384", 1, 1)):
        assert (args2(flags).batch, args2(flags).windows_per_half) == (batch, windows)


def test_learning_rate():
    """Up from 5e-6 (1 %) to 5e-4 within 10 of 100 epochs, then a cosine to 5e-6."""
    args, total = args2(), 10_000
    lr = [stage2.lr_at(step, total, args) for step in range(total)]
    assert max(lr) == pytest.approx(5e-4) and np.argmax(lr) in (999, 1000)
    assert lr[0] == pytest.approx(5e-6, rel=0.11) and lr[-1] == pytest.approx(5e-6, rel=1e-4)
    np.testing.assert_allclose(np.diff(lr[:1000]), 0.99 * 5e-4 / 1000)
    assert lr[1000 + 4500] == pytest.approx((5e-4 + 5e-6) / 2)
    # 64 windows of 32, 32 of 64: as many tokens. With the batch alone, or the window, it scales.
    for flags, peak in (("--window 32", 5e-4), ("--batch 8", 1.25e-4),
                        ("--batch 32 --window 32", 2.5e-4)):
        assert stage2.lr_at(999, total, args2(flags)) == pytest.approx(peak)


@pytest.mark.parametrize("warmup", ["0", "0.3", "2.5", "10", "33.3", "100", "250"])
def test_the_learning_rate_never_exceeds_its_peak(warmup):
    """Also where the warm-up is no whole number of steps, or longer than the run."""
    args = args2("--warmup-epochs", warmup)
    for total in range(1, 60):
        lr = np.array([stage2.lr_at(step, total, args) for step in range(total)])
        n = total * float(warmup) / 100                               # steps of warm-up
        assert lr.max() <= 5e-4 * (1 + 1e-12) and lr.min() >= 5e-6
        assert (np.diff(lr[:math.ceil(n)]) > 0).all() and (np.diff(lr[math.ceil(n):]) < 0).all()


@pytest.mark.parametrize("sampling", ["random", "bins"])
def test_windows(sampling):
    """Inside their half, on any frame; every half as often as another; each bin once an epoch."""
    halves = halves_of(200, 33, 120)
    args = args2(f"--window 16 --batch 6 --windows-per-half 4 --sampling {sampling}")

    def picks_of(steps):
        return [pick for step in steps for pick in stage2.pick_windows(step, args, halves)]

    for epoch in range(20):
        picks = picks_of((2 * epoch, 2 * epoch + 1))
        assert collections.Counter(h for h, _ in picks) == {0: 4, 1: 4, 2: 4}
        assert all(0 <= first and first + 32 <= halves[h].n_frames for h, first in picks)
        for half, n in ((0, 169), (2, 89)) if sampling == "bins" else ():       # n starts in 4 bins
            for j, first in enumerate(sorted(f for h, f in picks if h == half)):
                assert math.floor(j * n / 4) <= first <= (j + 1) * n / 4
    starts = [first for h, first in picks_of(range(2000)) if h == 0]
    assert min(starts) == 0 and max(starts) == 168 and 0.45 < np.mean(np.array(starts) % 2) < 0.55
    assert {first for h, first in picks_of(range(200)) if h == 1} == {0, 1}
    odd = args2("--batch 5 --windows-per-half 4 --epochs 3")
    assert stage2.count_steps(odd, halves) == 36 // 5      # epochs follow without a seam
    orders = [[h for h, _ in picks_of((2 * epoch, 2 * epoch + 1))] for epoch in range(5)]
    assert len(set(map(tuple, orders))) > 1                           # another order every epoch


@pytest.mark.parametrize("n_frames", [(50, 70), (60,)])          # of one half only places are drawn
def test_sampling_is_a_function_of_seed_and_step(n_frames):
    check_function_of_step(lambda step, seed: stage2.pick_windows(
        step, args2(f"--window 8 --batch 32 --seed {seed}"), halves_of(*n_frames)))


def test_the_views_recipe(monkeypatch):
    """The whole frame, squeezed; then as in the paper, in its order; normalised only at the end."""
    calls = record_augmentations(monkeypatch)
    frames = torch.randint(0, 256, (3, 2, 48, 48, 3), dtype=torch.uint8)          # (B, T, H, W, 3)
    for color, flags in (([0.8, 0.8, 0.4, 0.2], ""), ([0.1, 0.2, 0.3, 0.4], "--color .1 .2 .3 .4")):
        calls.clear()
        made = stage2.view(frames, augment.Draws(0, 0, 3), SMALL, args2(flags).color,
                           torch.device("cpu"))
        assert calls == [("resize", 48), ("color_jitter", color, 0.8), ("grayscale", 0.2),
                         ("gaussian_blur", 0.5), ("solarize", 0.2), ("hflip", 0.5),
                         ("normalize", True)]
        assert made.shape == (3, 2, 3, 48, 48)


# ------------------------------------------------------------------ 3. steps by hand
HAND = ("--model vivit_tiny --windows-per-half 3 --sampling bins --steps 4 --epochs 8 --lr 5 "
        "--warmup-epochs 3 --tau 0.2 --tau-m 0.11 --lam 0.3 --mask 0.4 --weight-decay 20 --seed 4 "
        "--clip-grad 0.05 --color 0.3 0.2 0.5 0.1 --temporal-depth 3 --features-name other "
        "--log-every 1 --save-every 1 --batch 4 --window 8")
BATCH, WINDOW, STEPS, TAU, TAU_M, LAM, DECAY, CLIP, SEED = 4, 8, 4, 0.2, 0.11, 0.3, 20, 0.05, 4
PEAK = 5 * (4 / 256) * (8 / 32)                       # for 256 windows of 32 tokens


def sce_by_hand(z, own, P):
    """Eq. 3-6, dense: z (n, D), own (n,) rows of P (M, D). Returns the loss and the divergence."""
    s1 = torch.softmax(z @ P.T / TAU, 1)                              # (n, M), Eq. 3
    equal = (P[own][:, None] == P).all(2)                             # (n, M)
    alike = torch.exp(P[own] @ P.T / TAU_M) * ~equal
    s2 = alike / alike.sum(1, keepdim=True)                           # Eq. 4
    w = LAM * equal / equal.sum(1, keepdim=True) + (1 - LAM) * s2     # Eq. 5
    loss = -(w * s1.log()).sum(1).mean()                              # Eq. 6
    return loss, (torch.xlogy(w, w) - w * s1.log()).sum(1).mean()


def input_by_hand(matches, picks, step, cfg):
    """What enters the network in a step: x (B, T, 3, S, S) and which tokens are masked (B, L)."""
    halves = find_halves(matches)
    frames = torch.stack([frames_by_hand(halves[h], first, 2 * WINDOW) for h, first in picks])
    draw = augment.Draws(SEED, step, BATCH)
    x = augment.resize(frames.permute(0, 1, 4, 2, 3).float(), cfg.image_size)
    x = augment.color_jitter(x, draw, [0.3, 0.2, 0.5, 0.1], 0.8)
    x = augment.grayscale(x, draw, 0.2)
    x = augment.gaussian_blur(x, draw, 0.5)
    x = augment.solarize(x, draw, 0.2)
    x = augment.normalize(augment.hflip(x, draw, 0.5), per_frame=True)
    noise = draw.uniform(0, 1, WINDOW)
    n_masked = 3                                                      # 0.4 of 8, rounded down
    torch.manual_seed(draw.torch_seed)                                # drop path
    return x, noise <= noise.sort(1).values[:, n_masked - 1:n_masked]


def tokens_by_hand(net, x, masked):
    """Clips one by one, but for the masked ones: in their places stands the mask token."""
    places = [(b, k) for b in range(BATCH) for k in range(WINDOW) if not masked[b, k]]
    h = net.spatial(torch.stack([x[b, 2 * k:2 * k + 2] for b, k in places]))
    h = dict(zip(places, h, strict=True))
    return net.temporal(torch.stack([
        torch.stack([h.get((b, k), net.temporal.mask_token[0, 0]) for k in range(WINDOW)])
        for b in range(BATCH)]))


def steps_by_hand(matches, features, net, projector, align):
    """Yields after each of the steps: input, masks, loss, divergence, rate, norm, {name: AdamW}."""
    P = F.normalize(torch.from_numpy(np.concatenate(features)), dim=1)            # (99, 10)
    first_row = np.cumsum([0, *map(len, features)])
    parameters = {**{f"model.{name}": p for name, p in net.named_parameters()
                     if not name.startswith("head.")},
                  **{f"projector.{name}": p for name, p in projector.named_parameters()}}
    adams, args = adamw_by_hand(parameters, DECAY), args2(HAND)
    for step in range(STEPS):
        picks = stage2.pick_windows(step, args, find_halves(matches))             # test_windows
        assert any(first % 2 for _, first in picks)
        frames = [(h, first + 2 * k + (align == "middle")) for h, first in picks
                  for k in range(WINDOW)]
        own = [first_row[h] + min(frame // 2, len(features[h]) - 1) for h, frame in frames]
        x, masked = input_by_hand(matches, picks, step, net.cfg)
        z = F.normalize(projector(tokens_by_hand(net, x, masked)).double(), dim=2).flatten(0, 1)
        loss, divergence = sce_by_hand(z, torch.tensor(own), P)
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        lr = PEAK * (0.01 + 0.99 * {0: 1 / 1.5, 1: 1.0}[step] if step < 2 else      # of 1.5 steps
                     0.01 + 0.99 * (1 + math.cos(math.pi * (step - 1.5) / 2.5)) / 2)
        norm = clipped_step(adams, dict(zip(parameters, gradients, strict=True)), CLIP, lr)
        yield x, masked, loss.item(), divergence.item(), lr, norm, adams


@pytest.mark.parametrize("align", ["middle", "first"])
def test_steps_by_hand(align, matches, tmp_path, monkeypatch):
    """The default path: the complete bank in chunks, masks, drop path, stage 1's weights."""
    monkeypatch.setattr(stage2, "CHUNK", 16)
    init = write_init(tmp_path / "stage1.pt", 1, drop_path=0.3)
    features = []

    def with_repeats(rows):                   # some are equal to others, of another match, too
        rows = 5 * np.random.default_rng(len(rows)).standard_normal((len(rows), 10))     # float64
        rows[6:8] = rows[5]
        rows[10] = features[0][10] if features else rows[10]
        features.append(rows)
        return rows

    options = other_features(matches, tmp_path / "features", with_repeats, "other")
    start, seen = [], []

    class Spied(stage2.Student):
        def __init__(self, net, projector):
            start.extend(copy.deepcopy((net, projector)))
            super().__init__(net, projector)

        def forward(self, x, keep):
            seen.append((x.clone(), keep.clone()))
            return super().forward(x, keep)

    monkeypatch.setattr(stage2, "Student", Spied)
    saved, added = (record(monkeypatch, *where) for where in (
        (run, "save_checkpoint"), (run.Log, "add")))
    run2(matches, tmp_path / "run", HAND, options, f"--align {align} --init {tmp_path}/stage1.pt")
    net, projector = start                                # as they were before the first step
    assert all(torch.equal(dict(net.named_parameters())[name], init[name]) for name in init)
    assert len(net.temporal.blocks) == 3 and net.cfg.head_width == 48
    assert [layer.weight.shape for layer in list(projector)[::2]] == [(48, 32), (48, 48), (10, 48)]
    assert net.temporal.mask_token.eq(0).all() and 0.01 < net.temporal.pos_embed.std() < 0.03
    net.requires_grad_(True)

    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert len(lines) == len(saved) == len(added) == STEPS
    for step, (x, masked, loss, divergence, lr, norm, adams) in enumerate(
            steps_by_hand(matches, features, net, projector, align)):
        # -- what enters the network
        torch.testing.assert_close(seen[step][0], x, rtol=0, atol=1e-5)
        assert seen[step][1].tolist() == [[k for k in range(WINDOW) if not row[k]]
                                          for row in masked]
        # -- what is logged
        _, done, values, logged_norm, n_clips = added[step][0]
        assert done == step + 1 and n_clips == BATCH * WINDOW
        assert values["loss"].item() == pytest.approx(loss, abs=2e-5)
        assert values["divergence"].item() == pytest.approx(divergence, abs=2e-5)
        assert logged_norm.item() == pytest.approx(norm, rel=1e-4)
        assert lines[step].startswith(
            f"stage 2 | step {step + 1}/4 | loss {values['loss']:.4f} | divergence "
            f"{values['divergence']:.4f} | lr {lr:.2e} | grad {logged_norm:.2f} | ")
        # -- the optimiser and the weights
        state = saved[step][1]
        assert_optimizer(state["optimizer"], adams, lr)
        for name, adam in adams.items():
            part, _, rest = name.partition(".")
            expected = adam.parameter.detach()
            far = PEAK * expected.numel() ** 0.5          # about how far a step goes
            assert_near(state[part][rest], expected, 1e-3 * far, name)


# ------------------------------------------------------------------ 4. a broken teacher shows
BROKEN = {"as it is": lambda table: table,
          # every chunk written over the first: the fault of a bar that stands still
          "last chunk alone": lambda table: np.concatenate([table[-3:], 0 * table[3:]]),
          "of another bank": lambda table: soft_of(unit(len(table), 12, seed=8).float(),
                                                   0.07).pack().numpy(),
          "of the next row": lambda table: np.roll(table, -1, 0)}


class Oracle(stage2.Student):
    """A student that has learned what the right teacher wants, z_i along P_i + c_i (lam is 1/2)."""
    wanted = table = None

    def forward(self, x, keep):
        return Oracle.wanted + 0 * self.model.spatial.cls_token.sum()


def test_a_broken_teacher_shows(matches, tmp_path, monkeypatch):
    """A random student sees that targets are gone, one that has learned those of other rows."""
    original, of_windows, at_random = bank.load_or_make, bank.Bank.of_windows, stage2.Student

    def divergence(student, how):
        def stored(*args):
            Oracle.table = np.array(original(*args))
            return BROKEN[how](Oracle.table)

        monkeypatch.setattr(bank, "load_or_make", stored)
        monkeypatch.setattr(stage2, "Student", student)
        out = tmp_path / student.__name__ / how.replace(" ", "_")
        run2(matches, out, f"--steps 1 --centroids {tmp_path}")
        return logged(out, "divergence")[0]

    def spied(self, *args):
        p, i = of_windows(self, *args)
        Oracle.wanted = p + torch.from_numpy(Oracle.table[i, :-2])
        return p, i

    monkeypatch.setattr(bank.Bank, "of_windows", spied)
    assert divergence(at_random, "last chunk alone") > divergence(at_random, "as it is") + 0.5
    assert divergence(Oracle, "as it is") < 0.5
    assert min(divergence(Oracle, how) for how in [*BROKEN][1:]) > 3


# ------------------------------------------------------------------ 5. inside a run
def test_where_the_weights_come_from(matches, tmp_path):
    """--init: stage 1's encoder and config; temporal blocks are copies or not. Seen at --lr 0."""
    one = write_init(tmp_path / "1.pt", 1)
    of_blocks = {name for name in one if name.startswith(("spatial.blocks.", "spatial.norm."))}
    for how, depth, same in (("copy", 2, of_blocks), ("copy", 3, of_blocks), ("random", 2, set())):
        state = run2(matches, tmp_path / f"{how}{depth}", f"--init {tmp_path}/1.pt --steps 1",
                     f"--lr 0 --temporal-depth {depth} --temporal-init {how}")
        weights = state["model"]
        assert all(torch.equal(weights[name], value) for name, value in one.items())
        assert state["config"].embed_dim == 32 and state["config"].window_tokens == 8
        assert weights["temporal.pos_embed"].shape == (1, 8, 32)
        assert same == {name for name in one if torch.equal(
            weights.get(name.replace("spatial", "temporal"), torch.empty(0)), one[name])}
        assert ("temporal.blocks.2.mlp.fc1.weight" in weights) == (depth == 3)   # has no source
    new = run2(matches, tmp_path / "new", "--steps 1 --temporal-depth 1")
    assert new["config"].model == "vivit_micro" and new["config"].temporal_depth == 1


def test_a_half_of_one_window_is_long_enough(matches, tmp_path, capsys):
    """Of 30, 20, 26 and 23 tokens, with windows of 23: one half is left out, of the bank too."""
    run2(matches, tmp_path, f"--window 23 --steps 1 --centroids {tmp_path}")
    printed = capsys.readouterr().out
    assert "1 of 4 halves are shorter than a window" in printed and "bank of 79 feat" in printed


@pytest.mark.parametrize("mask, masked", [(0, False), (0.1, False), (0.25, True)])
def test_what_is_trained_gets_a_gradient(mask, masked, matches, tmp_path, monkeypatch):
    """All but the head, and the mask token if one is masked (0.1 of 8 is none): DDP waits."""
    without, clip = [], torch.nn.utils.clip_grad_norm_
    wrapped = record(monkeypatch, run.Process, "wrap")

    def spy(parameters, max_norm):
        net = wrapped[0][0][1]
        without.append([name for name, p in net.named_parameters() if p.grad is None])
        assert all(p.requires_grad == (p.grad is not None) for p in net.parameters())
        return clip(parameters, max_norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    state = run2(matches, tmp_path, f"--steps 2 --mask {mask}")
    expected = ["model.head.bias", "model.head.weight"]
    if not masked:
        expected.append("model.temporal.mask_token")
    assert sorted(without[0]) == sorted(without[1]) == expected
    assert state["model"]["temporal.mask_token"].any() == masked


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_queue(accumulate, matches, tmp_path, monkeypatch):
    """65,536 random unit vectors; a step's 32 features go in after it. No soft targets."""
    calls = record(monkeypatch, stage2, "sce_loss_queue")
    state = run2(matches, tmp_path / "run", f"--bank queue --accumulate {accumulate} --tau 0.2 "
                 f"--tau-m 0.11 --lam 0.3 --centroids {tmp_path}/none")
    assert not (tmp_path / "none").exists()
    first = calls[0][0][2]
    torch.testing.assert_close(first.norm(dim=1), torch.ones(65536))
    pushed = torch.zeros(0, 12)
    for step in range(6):
        of_step = [args for args, _ in calls[step * accumulate:(step + 1) * accumulate]]
        for z, p, queue, *constants in of_step:
            assert z.shape == p.shape == (4 // accumulate, 8, 12) and constants == [0.3, 0.2, 0.11]
            torch.testing.assert_close(z.norm(dim=2), torch.ones(z.shape[:2]))
            assert torch.equal(queue[:len(pushed)], pushed)
            assert torch.equal(queue[len(pushed):], first[len(pushed):])
        pushed = torch.cat([pushed, *(p.flatten(0, 1) for _, p, *_ in of_step)])
    assert torch.equal(state["queue"][:192], pushed)


def test_a_full_queue_forgets_the_oldest(matches, tmp_path, monkeypatch):
    """It is a ring, here of 40 places for 32 features a step."""
    randn = torch.randn
    monkeypatch.setattr(torch, "randn",
                        lambda *shape, **more: randn(40 if shape[0] == 65536 else shape[0],
                                                     *shape[1:], **more))
    calls = record(monkeypatch, stage2, "sce_loss_queue")
    state = run2(matches, tmp_path, "--bank queue --steps 3")
    p = [args[1].flatten(0, 1) for args, _ in calls]
    expected = torch.cat([p[2][16:], p[1][24:], p[2][:16]])           # written at 64 .. 95, mod 40
    assert torch.equal(state["queue"], expected)


@pytest.mark.parametrize("options", ["", "--bank queue"], ids=["complete bank", "queue"])
def test_accumulation_changes_nothing(options, matches, tmp_path, monkeypatch):
    """Augmentations and masks are those of the whole batch."""
    check_accumulation(lambda out, *more: run2(matches, out, "--steps 1", options, *more),
                       tmp_path, monkeypatch, ["1", "2"], ["loss", "divergence"])


def test_half_precision(matches, tmp_path, monkeypatch):
    """Network and bank in bfloat16, sums in float32: the numbers of float32 to three digits."""
    calls = record(monkeypatch, stage2, "sce_loss")
    for name, more in {"float32": "", "bf16": "--bf16"}.items():
        run2(matches, tmp_path / name, f"--steps 1 --centroids {tmp_path / name}", more)
    assert [args[3].dtype for args, _ in calls] == [torch.float32, torch.bfloat16]
    for key in ("loss", "divergence"):
        got, expected = (logged(tmp_path / name, key)[0] for name in ("bf16", "float32"))
        assert got != expected and got == pytest.approx(expected, abs=0.05)


def test_the_first_process_makes_the_soft_targets(matches, tmp_path, monkeypatch):
    """The others wait for it, and read what it wrote."""
    halves, events = find_halves(matches), []
    original = bank.load_or_make
    monkeypatch.setattr(stage2.run, "barrier", lambda: events.append("barrier"))
    monkeypatch.setattr(bank, "load_or_make", lambda *a: events.append("stored") or original(*a))
    tables = []
    for rank, expected in ((0, ["stored", "barrier"]), (1, ["barrier", "stored"])):
        process = run.Process(rank, 2, torch.device("cpu"), False, [slice(0, 1)])
        teacher = bank.open_bank(matches, "teacher", 1.0, halves, process)
        table = bank.open_soft_targets(tmp_path, teacher, "teacher_tau0.07", process,
                                       lambda index, rows=teacher.rows: soft_of(rows, 0.07, index))
        assert events == expected
        events.clear()
        tables.append(table)
    assert np.array_equal(*tables) and table.shape == (99, 14) and teacher.rows.shape == (99, 12)
    torch.testing.assert_close(torch.from_numpy(np.array(table)),
                               soft_of(teacher.rows, 0.07).pack())
    assert len([*tmp_path.glob("centroids_teacher_tau0.07_????????????.npy")]) == 1


# ------------------------------------------------------------------ 6. mistakes
def as_npz(path, rows):
    with open(path, "wb") as file:
        np.savez(file, rows)


SPOILT = {                            # what is done to the third half's file, the end of the line
    "other widths": (lambda path, rows: np.save(path, rows[:, :5]),
                     "features of width 5, but .* has 12; use one teacher for all halves"),
    "not finite": (lambda path, rows: np.save(path, np.where(rows > 2, np.nan, rows)),
                   "has values that are not finite; extract this half's features again"),
    "cut short": (lambda path, rows: path.write_bytes(path.read_bytes()[:-1]),
                  r"not a plain .npy array \(cut short, its header promises \(26, 12\)"),
    "2 per second": (lambda path, rows: np.save(path, rows.repeat(2, 0)),
                     "52 rows for a half of 26 s, which is 2 rows per second"),
    "half of it": (lambda path, rows: np.save(path, rows[:5]), "5 rows for a half of 26 s"),
    "an .npz called .npy": (as_npz, "not a plain .npy array .it does not begin as one"),
    "complex": (lambda path, rows: np.save(path, rows + 1j), "must be numbers .* complex"),
    "of one axis": (lambda path, rows: np.save(path, rows[:, 0]), r"got \(26,\) of float32"),
    "objects": (lambda path, rows: np.save(path, {"rows": rows}, allow_pickle=True),
                "not a plain .npy array .it holds Python objects: save the array in it alone"),
    "missing": (lambda path, rows: path.unlink(), "no teacher features for this half")}


@pytest.mark.parametrize("spoil, message", SPOILT.values(), ids=SPOILT)
def test_features_that_do_not_fit(spoil, message, matches, tmp_path):
    options, spoilt = other_features(matches, tmp_path), tmp_path / "league/two/1_teacher.npy"
    spoil(spoilt, np.load(spoilt))
    with refused(match=f"^{spoilt}: .*{message}", unmade=tmp_path / "run"):
        run2(matches, tmp_path / "run", options)


def test_features_at_another_rate(matches, tmp_path, capsys):
    """Twice as many rows: refused, with the flag to give; and with it, taken."""
    features = other_features(matches, tmp_path / "features", lambda rows: np.float32(
        np.random.default_rng(1).standard_normal((2 * len(rows), 12))))
    with pytest.raises(DataError, match="rows per second instead of 1; correct --features-fps"):
        run2(matches, tmp_path / "run", features)
    run2(matches, tmp_path / "run", features, "--features-fps 2")
    assert "198 features x 12, 2 per second" in capsys.readouterr().out


def test_features_that_are_all_equal(matches, tmp_path):
    """Eq. 4 would divide 0 by 0. With the queue, whose rows are random, there is something else."""
    options = other_features(matches, tmp_path, lambda rows: np.full_like(rows, 3))
    with refused("1_teacher.npy: all 99 features of the bank are equal", unmade=tmp_path / "run"):
        run2(matches, tmp_path / "run", options)
    run2(matches, tmp_path / "run", options, "--bank queue --steps 1")
    assert math.isfinite(logged(tmp_path / "run")[0])


def test_features_that_are_cut_under_a_run(matches, tmp_path, monkeypatch):
    """They are read at every step, not mapped: a line and not a SIGBUS."""
    options = other_features(matches, tmp_path)
    done = run.Log.add

    def cut(self, step, *args, **more):
        for path in tmp_path.rglob("?_teacher.npy"):
            with open(path, "r+b") as file:
                file.truncate(200)
        done(self, step, *args, **more)

    monkeypatch.setattr(run.Log, "add", cut)
    with pytest.raises(DataError, match="_teacher.npy: was cut short; extract this half's"):
        run2(matches, tmp_path / "run", options)
