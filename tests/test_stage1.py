"""
What these tests prove about the three training stages:
  1. every equation of the paper, spelled as loops over i, j, k in float64, is what is computed; the
     complete bank is streamed: exact gradients, no tensor of tokens x bank
  2. schedules, samplers, alignment and labels are the paper's and the official code's, by number
  3. queue, momentum encoder, mixup and accumulation do what they say, seen from inside a run
  4. a run that was killed ends, resumed, in the same bits; a mistake is one line, exit code 2
"""
import argparse
import collections
import math
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import infer
import model
import stage1_spatial as stage1
import stage2_distill as stage2
import stage3_finetune as stage3
from comedian import augment, evaluate
from comedian import frames as data
from comedian import public_weights as weights
from comedian.frames import DataError, Half
from comedian.run import check_same_run

ROOT = Path(__file__).resolve().parents[1]


def unit(*shape, seed=0):
    """Random unit vectors, float64."""
    gen = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=gen, dtype=torch.float64), dim=-1)


def record(monkeypatch, owner, name):
    """Wraps owner.name; returns the list of its calls as pairs (args, kwargs), tensors copied."""
    calls, original = [], getattr(owner, name)

    def copied(value):
        if isinstance(value, dict):
            return {key: copied(v) for key, v in value.items()}
        return value.detach().clone() if isinstance(value, torch.Tensor) else value

    def wrapped(*args, **kwargs):
        calls.append(([copied(value) for value in args], copied(kwargs)))
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)
    return calls


# ------------------------------------------------------------------ 1. the equations
def test_equation_1_and_2():
    """l_M with a queue, as loops; L = -(l_M(z1, k2) + l_M(z2, k1)) / 2 is what the stage adds
    up."""
    z, k, queue, tau = unit(5, 8), unit(5, 8, seed=1), unit(7, 8, seed=2), 0.1
    total = 0.0
    for i in range(5):
        positive = math.exp(float(z[i] @ k[i]) / tau)
        negatives = sum(math.exp(float(z[i] @ queue[j]) / tau) for j in range(7))
        total += math.log(positive / (positive + negatives))
    assert stage1.moco_loss(z, k, queue, tau).item() == pytest.approx(-total / 5, rel=1e-12)


def test_equation_2_with_the_batch_as_negatives():
    z, k, tau = unit(5, 8), unit(5, 8, seed=1), 0.2
    total = 0.0
    for i in range(5):
        terms = [math.exp(float(z[i] @ k[j]) / tau) for j in range(5)]
        total += math.log(terms[i] / sum(terms))
    assert stage1.moco_loss(z, k, None, tau).item() == pytest.approx(-total / 5, rel=1e-12)


def centroids_of(bank, tau_m):
    return torch.cat(list(stage2.soft_centroids(bank, tau_m)))


def loops_sce(z, own, bank, lam, tau, tau_m):
    """Eq. 3-6 for tokens z_i with own features P_i = bank[own[i]]. The indicators are by value;
    equal rows share the one-hot's weight, so that w_i sums to 1."""
    M, total = len(bank), 0.0
    for i in range(len(z)):
        p = bank[own[i]]
        same = [torch.equal(p, bank[k]) for k in range(M)]
        e1 = [math.exp(float(z[i] @ bank[k]) / tau) for k in range(M)]
        e2 = [0.0 if same[k] else math.exp(float(p @ bank[k]) / tau_m) for k in range(M)]
        for k in range(M):
            s1, s2 = e1[k] / sum(e1), e2[k] / sum(e2)                 # Eq. 3, 4
            w = lam * same[k] / sum(same) + (1 - lam) * s2            # Eq. 5
            total -= w * math.log(s1)                                 # Eq. 6
    return total / len(z)


@pytest.mark.parametrize("chunk", [1, 5, 23, 8192])              # below, across, at, above the bank
@pytest.mark.parametrize("lam", [0.5, 0.0, 1.0])
def test_equations_3_to_6(chunk, lam, monkeypatch):
    monkeypatch.setattr(stage2, "CHUNK", chunk)
    bank, z = unit(23, 6), unit(4, 6, seed=1)
    bank[7] = bank[3]                                                # a second that is there twice,
    bank[20] = bank[3]                                                # three times
    own = torch.tensor([3, 0, 22, 7])
    centroids = centroids_of(bank, 0.07)
    got = stage2.sce_loss(z, bank[own], centroids[own], bank, lam, 0.1)
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(loops_sce(z, own, bank, lam, 0.1, 0.07), rel=1e-10)


def test_soft_centroids(monkeypatch):
    """Eq. 4 row by row; the own row and its equals have no weight."""
    monkeypatch.setattr(stage2, "CHUNK", 4)
    bank = unit(11, 5)
    bank[9] = bank[2]
    got = centroids_of(bank, 0.07)
    for i in range(11):
        weight = [math.exp(float(bank[i] @ row) / 0.07) * (not torch.equal(bank[i], row))
                  for row in bank]
        expected = sum(w / sum(weight) * bank[k] for k, w in enumerate(weight))
        torch.testing.assert_close(got[i], expected, rtol=1e-10, atol=1e-12)


def test_rows_that_are_almost_equal_are_not_equal():
    """The indicator of Eq. 4 is exact: the last bit of one component tells two seconds apart."""
    bank = unit(6, 5).float()
    bank[1] = bank[0]
    bank[1, 3] = torch.nextafter(bank[0, 3], torch.tensor(9.0))
    got = centroids_of(bank, 0.07)
    weight = torch.exp(bank @ bank.T / 0.07).fill_diagonal_(0)
    expected = weight @ bank / weight.sum(1, keepdim=True)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_lam_1_is_cross_entropy():
    """Without the soft part Eq. 6 is the plain cross-entropy of naming one's own second."""
    bank, z, own = unit(23, 6), unit(4, 6, seed=1), torch.tensor([3, 0, 22, 7])
    got = stage2.sce_loss(z, bank[own], unit(4, 6, seed=2), bank, 1.0, 0.1)
    torch.testing.assert_close(got, F.cross_entropy(z @ bank.T / 0.1, own), rtol=1e-10, atol=0)


@pytest.mark.parametrize("chunk", [7, 8192])
def test_gradient_of_the_streamed_logsumexp(chunk, monkeypatch):
    """Against dense autograd, and by finite differences."""
    monkeypatch.setattr(stage2, "CHUNK", chunk)
    bank, z = unit(23, 6), unit(4, 6, seed=1).requires_grad_()
    upstream = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    streamed = stage2.BankLogSumExp.apply(z, bank, 0.1)
    dense = torch.logsumexp(z @ bank.T / 0.1, 1)
    torch.testing.assert_close(streamed, dense, rtol=1e-10, atol=0)
    got, expected = (torch.autograd.grad(value, z, upstream)[0] for value in (streamed, dense))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(lambda z: stage2.BankLogSumExp.apply(z, bank, 0.1), (z,))


def test_no_gradient_to_the_teacher():
    bank, z = unit(23, 6), unit(4, 6, seed=1)
    assert not stage2.sce_loss(z, bank[:4], bank[:4], bank, 0.5, 0.1).requires_grad
    assert not centroids_of(bank.clone().requires_grad_(), 0.07).requires_grad


def test_sums_of_half_precision_are_float32():
    """A bfloat16 bank of 40,000 rows: summed in bfloat16 the total would stop growing at 256
    terms."""
    bank, z = unit(40_000, 8).bfloat16(), unit(3, 8, seed=1).float()
    value, read = stage2.attend(z, bank, 1.0)
    dense = z.bfloat16().double() @ bank.double().T
    assert value.dtype == read.dtype == torch.float32
    torch.testing.assert_close(value.double(), dense.logsumexp(1), rtol=0, atol=5e-3)
    torch.testing.assert_close(read.double(), dense.softmax(1) @ bank.double(), rtol=0, atol=5e-3)


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
    bank, z = unit(5000, 4).float(), unit(64, 4, seed=1).float().requires_grad_()
    with LargestTensor() as watch:
        stage2.sce_loss(z, bank[:64], bank[:64], bank, 0.5, 0.1).backward()
    assert 64 * 4 <= watch.largest <= 64 * 256 < 64 * 5000
    with LargestTensor() as watch:
        centroids_of(bank, 0.07)
    assert watch.largest <= 1024 * 256 < 5000 * 5000


def test_the_queue_version_of_equations_3_to_6():
    """The official code's comparison set: a token's own window and the queue, not the other
    windows; only the aligned feature (by position) is left out of s2 and named by the one-hot."""
    B, L, M, lam, tau, tau_m = 2, 4, 6, 0.3, 0.1, 0.05
    z, p, queue = unit(B, L, 5), unit(B, L, 5, seed=1), unit(M, 5, seed=2)
    queue[2] = p[0, 1]                                             # an old copy in the queue counts
    total = 0.0
    for b in range(B):
        for i in range(L):
            others = [p[b, j] for j in range(L)] + [queue[j] for j in range(M)]
            e1 = [math.exp(float(z[b, i] @ o) / tau) for o in others]
            e2 = [math.exp(float(p[b, i] @ o) / tau_m) * (k != i) for k, o in enumerate(others)]
            for k in range(L + M):
                w = lam * (k == i) + (1 - lam) * e2[k] / sum(e2)
                total -= w * math.log(e1[k] / sum(e1))
    got = stage2.sce_loss_queue(z, p, queue, lam, tau, tau_m)
    assert got.item() == pytest.approx(total / (B * L), rel=1e-10)


def test_equation_7():
    gen = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 3, generator=gen, dtype=torch.float64)
    y = (torch.rand(2, 5, 3, generator=gen) < 0.2).double()
    y[0, 0, 0] = 0.3                                                  # mixup makes soft labels
    total = 0.0
    for b, t, c in np.ndindex(2, 5, 3):
        score = 1 / (1 + math.exp(-logits[b, t, c]))
        total -= y[b, t, c] * math.log(score) + (1 - y[b, t, c]) * math.log(1 - score)
    assert stage3.bce_loss(logits, y).item() == pytest.approx(float(total) / 30, rel=1e-10)


@pytest.mark.parametrize("B", [64, 7])
def test_mixup(B):
    """Each window has its own coefficient, its neighbour is its partner; the loss is
    lam BCE(y1) + (1 - lam) BCE(y2)."""
    torch.manual_seed(0)
    x = torch.eye(B, dtype=torch.float64).view(B, 1, B)           # window b is the b-th unit vector
    y, lam = (torch.rand(B, 4, 3) < 0.3).double(), torch.rand(B)
    mixed_x, mixed_y = stage3.mixup(x, y, lam)
    logits = torch.randn(B, 4, 3, dtype=torch.float64)
    for b in range(B):
        other = b - 1 if b % 2 else min(b + 1, B - 1)
        share = lam[b].double()
        torch.testing.assert_close(mixed_x[b], share * x[b] + (1 - share) * x[other])
        expected = (share * stage3.bce_loss(logits[b], y[b])
                    + (1 - share) * stage3.bce_loss(logits[b], y[other]))
        got = stage3.bce_loss(logits[b], mixed_y[b])
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)
    assert torch.equal(x, torch.eye(B, dtype=torch.float64).view(B, 1, B))        # still itself


def test_mixups_coefficients_are_beta():
    """Beta(0.1, 0.1): mean 1/2, variance 1 / (4 (2 a + 1)) = 0.208; mostly one of the two
    windows."""
    lam = augment.Draws(0, 0, 20_000).beta(0.1)
    assert lam.mean().item() == pytest.approx(0.5, abs=0.02)
    assert lam.var().item() == pytest.approx(1 / 4.8, abs=0.01)


# ------------------------------------------------------------------ 2. schedules, samplers, labels
def args1(*more):
    return stage1.parse_args(["--data", "x", *more])


def args2(*more):
    return stage2.parse_args(["--data", "x", *more])


def args3(*more):
    return stage3.parse_args(["--data", "x", *more])


def test_learning_rate_of_stage_1():
    """Facts, section 0: 10 of 100 epochs up from 0 to 2e-3, then a cosine to 0."""
    args, total = args1(), 10_000
    lr = [stage1.lr_at(step, total, args) for step in range(total)]
    assert max(lr) == pytest.approx(2e-3) and np.argmax(lr) in (999, 1000)
    assert lr[0] == pytest.approx(2e-6) and lr[-1] < 1e-9
    np.testing.assert_allclose(np.diff(lr[:1000]), 2e-6)
    assert lr[1000 + 4500] == pytest.approx(1e-3)                     # half way down: half the peak
    assert stage1.lr_at(999, total, args1("--batch", "256")) == pytest.approx(5e-4)


def test_learning_rate_of_stage_2():
    """Up from 5e-6 (1 %) to 5e-4 within 10 of 100 epochs, then a cosine to 5e-6."""
    args, total = args2(), 10_000
    lr = [stage2.lr_at(step, total, args) for step in range(total)]
    assert max(lr) == pytest.approx(5e-4) and np.argmax(lr) in (999, 1000)
    assert lr[0] == pytest.approx(5e-6, rel=0.11) and lr[-1] == pytest.approx(5e-6, rel=1e-4)
    assert lr[1000 + 4500] == pytest.approx((5e-4 + 5e-6) / 2)
    assert stage2.lr_at(999, total, args2("--window", "32")) == pytest.approx(2.5e-4)


def test_learning_rate_of_stage_3():
    """Both phases from 2.5e-4 at once, down a cosine to 2.5e-6."""
    args, total = args3(), 1000
    lr = [stage3.lr_at(step, total, args.lr, args) for step in range(total + 1)]
    assert lr[0] == max(lr) == pytest.approx(2.5e-4) and lr[-1] == pytest.approx(2.5e-6)
    assert lr[500] == pytest.approx((2.5e-4 + 2.5e-6) / 2) and (np.diff(lr) < 0).all()
    assert stage3.lr_at(0, total, args.lr, args3("--window", "32")) == pytest.approx(1.25e-4)


def halves_of(*n_frames, fps=2.0):
    return [Half(f"m{i}", 1, "f", "", 8, ".jpg", 1, n, fps) for i, n in enumerate(n_frames)]


def test_stage_1_shows_every_clip_once_an_epoch():
    halves, args = halves_of(41, 10, 25), args1("--batch", "8")       # 20 + 5 + 12 clips: 4 steps
    orders = []
    for epoch in range(3):
        picks = [pick for step in range(4 * epoch, 4 * epoch + 4)
                 for pick in stage1.pick_clips(step, args, halves)]
        assert len(picks) == len(set(picks)) == 32            # the last 5 of a shuffle are left out
        assert all(first % 2 == 0 and first + 2 <= half.n_frames for half, first in picks)
        orders.append(picks)
    assert orders[0] != orders[1] != orders[2]
    full = stage1.pick_clips(5, args1("--batch", "37"), halves)
    assert sorted((h.match, f) for h, f in full) == sorted(
        (h.match, 2 * k) for h in halves for k in range(h.n_tokens))


def test_stage_1_draws_from_few_halves_if_asked():
    halves = halves_of(*[40] * 10)
    args = args1("--batch", "30", "--halves-per-batch", "2")
    for step in range(20):
        picks = stage1.pick_clips(step, args, halves)
        assert len({half for half, _ in picks}) == 2 and len(set(picks)) == 30
    assert len({h for s in range(20) for h, _ in stage1.pick_clips(s, args, halves)}) == 10
    more = stage1.pick_clips(0, args1("--batch", "30", "--halves-per-batch", "1"), halves)
    assert len(more) == 30 and len(set(more)) <= 20                # a half of 20 clips repeats some


@pytest.mark.parametrize("sampling", ["random", "bins"])
def test_windows_of_stage_2(sampling):
    """Inside their half, on any frame; every half as often as another; bins are filled once an
    epoch."""
    halves = halves_of(200, 33, 120)
    args = args2("--window", "16", "--batch", "6", "--windows-per-half", "4",
                 "--sampling", sampling)

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


def test_windows_of_stage_3():
    """Of every half the first and the last window, and others that do not overlap each other."""
    n_frames, window, per_half = (2000, 128, 500, 643), 128, 12       # 643: little room to spare
    for epoch in range(20):
        windows = stage3.epoch_windows(3, epoch, n_frames, window, per_half)
        for h, frames in enumerate(n_frames):
            starts = sorted(first for half, first in windows if half == h)
            assert starts[0] >= 0 and starts[-1] <= frames - window
            rest = list(starts)
            rest.remove(0), rest.remove(frames - window)              # both edges are forced
            assert all(b - a >= window for a, b in zip(rest[:-1], rest[1:], strict=True))
            assert len(rest) == min(per_half - 2, frames // window)
    firsts = {first for epoch in range(200)
              for h, first in stage3.epoch_windows(0, epoch, n_frames, window, 3) if h == 2}
    assert len(firsts & set(range(1, 372))) > 100                     # anywhere, on odd frames too
    assert sorted(stage3.epoch_windows(0, 0, (500,), window, 1)) == [(0, 0), (0, 372)]


def test_the_steps_of_stage_3_walk_through_its_epochs():
    n_frames, args = (500, 300), args3("--window", "32", "--batch", "5", "--windows-per-half", "6")
    epochs = [stage3.epoch_windows(args.seed, epoch, n_frames, 64, 6) for epoch in range(4)]
    walked = [pick for step in range(6) for pick in stage3.pick_windows(step, args, n_frames)]
    assert walked == [window for epoch in epochs for window in epoch][:30]
    assert len(epochs[0]) == 12 and epochs[0] != epochs[1]


@pytest.mark.parametrize("pick", [
    lambda step, seed: stage1.pick_clips(step, args1("--batch", "9", *seed), halves_of(50, 70)),
    lambda step, seed: stage1.pick_clips(
        step, args1("--batch", "9", "--halves-per-batch", "1", *seed), halves_of(50, 70)),
    lambda step, seed: stage2.pick_windows(step, args2("--window", "8", *seed), halves_of(50, 70)),
    lambda step, seed: stage3.pick_windows(step, args3("--window", "8", *seed), (50, 70))],
    ids=["stage 1", "stage 1, few halves", "stage 2", "stage 3"])
def test_sampling_is_a_function_of_seed_and_step(pick):
    """In any order of asking, whatever else was drawn in between."""
    five, six = ("--seed", "5"), ("--seed", "6")
    forward = [pick(step, five) for step in range(12)]
    np.random.seed(1)
    torch.manual_seed(1)
    assert [pick(step, five) for step in reversed(range(12))] == forward[::-1]
    assert [pick(step, six) for step in range(12)] != forward
    assert forward[0] != forward[1]


@pytest.mark.parametrize("first, align, rows", [
    (0, "middle", [0, 1, 2]), (0, "first", [0, 1, 2]),    # from a whole second both agree
    (7, "middle", [4, 5, 6]),                        # clip of frames 7, 8: its middle is second 4.0
    (7, "first", [3, 4, 5]),                              # ... and it begins at 3.5, in second 3
    (20, "middle", [10, 11, 11])])                    # features shorter than the half: the last row
def test_feature_of_a_token(first, align, rows):
    half, = halves_of(40)
    assert stage2.feature_rows(first, 3, half, 12, align).tolist() == rows


def test_feature_of_a_token_at_another_frame_rate():
    """At 25/12 fps a token lasts 0.96 s: after 25 tokens it is one second behind."""
    half, = halves_of(200, fps=25 / 12)
    for k, row in enumerate(stage2.feature_rows(0, 100, half, 1000, "middle")):
        assert row == int((2 * k + 1) / (25 / 12))


def test_labels_of_a_token():
    """A token is positive if one of its clip's two frames is. Facts, section 4: with windows on
    whole seconds token k is positive iff the event lies in [k - 0.5, k + 1]; half of the events
    give one positive token, half two."""
    half, positives = Half("m", 1, "f", "", 8, ".jpg", 1, 60, 2.0), []
    for position_ms in range(10_001, 12_000, 13):
        labels = data.frame_labels([data.Event(1, 0, position_ms, True)], half, 0.5, 1)
        tokens = stage3.token_labels(labels, 0, 30)[:, 0]
        expected = [k for k in range(30) if k - 0.5 <= position_ms / 1000 <= k + 1]
        assert tokens.nonzero()[0].tolist() == expected
        positives.append(len(expected))
    assert set(positives) == {1, 2} and np.mean(positives) == pytest.approx(1.5, abs=0.02)
    labels = np.zeros((60, 2), bool)
    labels[9, 1] = True
    got = stage3.token_labels(labels, 7, 4)         # a window on an odd frame: clips 7 8, 9 10, ...
    assert got.dtype == np.float32 and got.tolist() == [[0, 0], [0, 1], [0, 0], [0, 0]]


RECIPES = {          # stage -> operations, strengths and probabilities (facts, 2-4)
    1: [("color_jitter", [0.4, 0.4, 0.2, 0.1], 0.8), ("grayscale", 0.2), ("gaussian_blur", 1.0),
        ("solarize", 0.0), ("hflip", 0.5),
        ("color_jitter", [0.4, 0.4, 0.2, 0.1], 0.8), ("grayscale", 0.2), ("gaussian_blur", 0.1),
        ("solarize", 0.2), ("hflip", 0.5)],
    2: [("color_jitter", [0.8, 0.8, 0.4, 0.2], 0.8), ("grayscale", 0.2), ("gaussian_blur", 0.5),
        ("solarize", 0.2), ("hflip", 0.5)],
    3: [("color_jitter", [0.4, 0.4, 0.4, 0.0], 0.8), ("gaussian_blur", 0.5), ("hflip", 0.5)]}


@pytest.mark.parametrize("stage", RECIPES)
def test_the_views_recipe(stage, monkeypatch):
    """Each stage's own augmentations, in their order; normalised at the end, and only there."""
    calls = []

    def spy(name, original):
        def called(x, *args, **kwargs):
            given = [a for a in args if not isinstance(a, augment.Draws)]
            calls.append((name, *given, *kwargs.values()))
            return original(x, *args, **kwargs)
        return called

    for name in ("color_jitter", "grayscale", "gaussian_blur", "solarize", "hflip", "normalize"):
        monkeypatch.setattr(augment, name, spy(name, getattr(augment, name)))
    boxes = record(monkeypatch, augment, "random_boxes")
    frames = torch.randint(0, 256, (3, 2, 56, 100, 3), dtype=torch.uint8)         # (B, T, H, W, 3)
    cfg, cpu = model.MODELS["vivit_micro"], torch.device("cpu")
    args = {1: args1, 2: args2, 3: args3}[stage]()
    draw = augment.Draws(0, 0, 3)
    made = stage1.views(frames, draw, cfg, args, cpu) if stage == 1 else [
        {2: stage2, 3: stage3}[stage].view(frames, draw, cfg, args, cpu)]
    assert [call for call in calls if call[0] != "normalize"] == RECIPES[stage]
    assert calls[-1] == ("normalize", True) and len(calls) == len(RECIPES[stage]) + len(made)
    assert all(view.shape == (3, 2, 3, 48, 48) for view in made)
    if stage == 1:                                        # two crops of about the frame's aspect
        for (_, height, width, scale, ratio), _ in boxes:
            assert (height, width, scale) == (56, 100, [0.2, 1.0])
            np.testing.assert_allclose(ratio, [0.75 * 100 / 56, 1.25 * 100 / 56])
        assert len(boxes) == 2 and not torch.equal(*made)
    else:
        assert not boxes


# ------------------------------------------------------------------ 3. inside a run
COMMON = ["--model", "vivit_micro", "--workers", "1", "--device", "cpu", "--log-every", "2",
          "--lr", "0.01", "--seed", "5"]
STAGES = {                        # script, and its options for a run of 6 steps on the tiny matches
    1: (stage1, ["--batch", "8", "--steps", "6", "--queue", "40",
                 "--epochs", "6", "--warmup-epochs", "1"]),
    2: (stage2, ["--batch", "4", "--steps", "6", "--window", "8", "--features-name", "teacher"]),
    3: (stage3, ["--batch", "4", "--head-steps", "3", "--steps", "3", "--window", "8"])}


def run(stage, matches, out, *more):
    """Runs a stage through its main; returns the checkpoint that it left."""
    script, options = STAGES[stage]
    options = ["--data", str(matches), "--out", str(out), *COMMON, *options]
    if stage == 3:
        options += ["--classes", str(matches / "classes.txt")]
    script.main(script.parse_args([*options, *more]))
    return weights.load_checkpoint(Path(out) / "last.pt")


def plain_view(frames, draw, cfg, args, device):
    """A view without anything drawn."""
    x = augment.resize(augment.to_float(frames, device), cfg.image_size)
    return augment.normalize(x, cfg.normalize_per_frame)


def with_drop_path(monkeypatch):
    """The micro network has none of its own; a stage must be exact with it, too."""
    cfg = replace(model.MODELS["vivit_micro"], drop_path=0.2)
    monkeypatch.setitem(model.MODELS, "vivit_micro", cfg)


def test_equation_1_in_the_stage(matches, tmp_path, monkeypatch):
    """Both directions, each view against the other view's key of the same clip, half weight
    each."""
    calls, views = record(monkeypatch, stage1, "moco_loss"), []
    losses, backward, original = [], torch.Tensor.backward, stage1.views
    monkeypatch.setattr(torch.Tensor, "backward", lambda t: losses.append(t.item()) or backward(t))
    monkeypatch.setattr(stage1, "views", lambda *a: views.append(original(*a)) or views[-1])
    saved = record(monkeypatch, stage1, "save_checkpoint")
    run(1, matches, tmp_path, "--steps", "2", "--save-every", "1", "--momentum", "0.5")
    for step in range(2):
        (z1, k2, queue, tau), (z2, k1, *_) = (args for args, _ in calls[2 * step:2 * step + 2])
        l1, l2 = stage1.moco_loss(z1, k2, queue, tau), stage1.moco_loss(z2, k1, queue, tau)
        assert losses[step] == pytest.approx((l1 + l2).item() / 2, rel=1e-6) and tau == 0.1
        for vectors, n in ((z1, 8), (k1, 8), (z2, 8), (k2, 8), (queue, 40)):
            torch.testing.assert_close(vectors.norm(dim=1), torch.ones(n))
    # Keys come from the target as the step before left it: they can be computed again.
    cfg = model.MODELS["vivit_micro"]
    target = torch.nn.Sequential(model.spatial_encoder(cfg), model.Projector(128, 1024, 1024, 256))
    target.load_state_dict(saved[0][1]["target"])
    (_, k2, *_), (_, k1, *_) = (args for args, _ in calls[2:4])
    for view, k in zip(views[1], (k1, k2), strict=True):
        torch.testing.assert_close(F.normalize(target(view), dim=1), k, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_queue_is_first_in_first_out(accumulate, matches, tmp_path, monkeypatch):
    """16 keys a step, both views', go into a queue of 40: it always holds the last 40 keys (the
    random ones it began with, until they are pushed out), and never those of the step itself."""
    calls = record(monkeypatch, stage1, "moco_loss")
    state = run(1, matches, tmp_path, "--accumulate", str(accumulate))
    kept = collections.deque(calls[0][0][2].tolist(), maxlen=40)
    for step in range(6):
        of_step = [args for args, _ in calls[step * 2 * accumulate:(step + 1) * 2 * accumulate]]
        for _, _, queue, _ in of_step:
            assert sorted(queue.tolist()) == sorted(kept)
        for (_, k2, *_), (_, k1, *_) in zip(of_step[::2], of_step[1::2], strict=True):
            for pair in zip(k1.tolist(), k2.tolist(), strict=True):   # clip by clip
                kept.extend(pair)
    assert sorted(state["queue"].tolist()) == sorted(kept)


def test_the_batch_as_negatives(matches, tmp_path, monkeypatch):
    calls = record(monkeypatch, stage1, "moco_loss")
    state = run(1, matches, tmp_path, "--negatives", "batch", "--steps", "2")
    assert len(calls) == 4 and all(args[2] is None for args, _ in calls) and state["queue"] is None


def test_momentum_encoder(matches, tmp_path, monkeypatch):
    """f_t <- m f_t + (1 - m) f_s after every step, with m from 0.9 (here) to 1 on a cosine."""
    saved = record(monkeypatch, stage1, "save_checkpoint")
    run(1, matches, tmp_path, "--save-every", "1", "--momentum", "0.9")
    online, target = ([state[branch] for _, state in saved] for branch in ("online", "target"))
    assert len(online) == 6
    for step in range(1, 6):
        m = 1 - 0.1 * (math.cos(math.pi * step / 6) + 1) / 2
        for name, value in target[step].items():
            expected = m * target[step - 1][name] + (1 - m) * online[step][name]
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)
    assert any(not torch.equal(online[5][name], target[5][name]) for name in online[5])
    assert all(torch.equal(saved[5][1]["model"][f"spatial.{name}"], online[5][f"0.{name}"])
               for name in model.spatial_encoder(model.MODELS["vivit_micro"]).state_dict())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_queue_of_stage_2(accumulate, matches, tmp_path, monkeypatch):
    """--bank queue: 65,536 random unit vectors to begin with; the 32 features of a step, those of
    the tokens' own seconds, go in after it, from the front."""
    calls = record(monkeypatch, stage2, "sce_loss_queue")
    state = run(2, matches, tmp_path, "--bank", "queue", "--accumulate", str(accumulate))
    first = calls[0][0][2]
    torch.testing.assert_close(first.norm(dim=1), torch.ones(65536))
    pushed = torch.zeros(0, 12)
    for step in range(6):
        of_step = [args for args, _ in calls[step * accumulate:(step + 1) * accumulate]]
        for z, p, queue, *constants in of_step:
            assert z.shape == p.shape == (4 // accumulate, 8, 12) and constants == [0.5, 0.1, 0.07]
            assert torch.equal(queue[:len(pushed)], pushed)
            assert torch.equal(queue[len(pushed):], first[len(pushed):])
        pushed = torch.cat([pushed, *(p.flatten(0, 1) for _, p, *_ in of_step)])
    assert torch.equal(state["queue"][:192], pushed)
    halves, args = data.find_halves(matches), args2("--batch", "4", "--window", "8", "--seed", "5")
    for b, (h, first) in enumerate(stage2.pick_windows(0, args, halves)):
        seconds = [min((first + 2 * k + 1) // 2, halves[h].n_frames // 2 - 1) for k in range(8)]
        rows = np.load(matches / halves[h].match / f"{halves[h].number}_teacher.npy")[seconds]
        expected = F.normalize(torch.from_numpy(rows), dim=1)
        torch.testing.assert_close(pushed[8 * b:8 * b + 8], expected)


def test_the_masks_of_stage_2(matches, tmp_path, monkeypatch):
    """A quarter of the tokens of every window, other ones in every step; none with --mask 0."""
    keeps, tokens = [], model.Comedian.tokens
    monkeypatch.setattr(model.Comedian, "tokens",
                        lambda self, x, keep: keeps.append(keep) or tokens(self, x, keep))
    run(2, matches, tmp_path / "1", "--steps", "2")
    run(2, matches, tmp_path / "2", "--steps", "1", "--mask", "0")
    assert keeps[0].shape == keeps[1].shape == (4, 6) and not torch.equal(keeps[0], keeps[1])
    assert len(keeps[0].unique(dim=0)) > 1 and keeps[2] is None


def gradients(monkeypatch):
    """The list that will hold every parameter's gradient before each clipping."""
    calls, original = [], torch.nn.utils.clip_grad_norm_

    def spy(parameters, max_norm):
        parameters = list(parameters)
        calls.append([torch.zeros_like(p) if p.grad is None else p.grad.clone()
                      for p in parameters])
        return original(parameters, max_norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    return calls


ACCUMULATE = {"stage 1": (1, []), "stage 2, complete bank": (2, []),
              "stage 2, queue": (2, ["--bank", "queue"]), "stage 3, head": (3, []),
              "stage 3, cached head phase": (3, ["--head-phase", "temporal"]),
              "stage 3, all": (3, ["--head-epochs", "0", "--head-steps", "0"])}


@pytest.mark.parametrize("stage, options", ACCUMULATE.values(), ids=ACCUMULATE)
def test_accumulation_changes_nothing(stage, options, matches, tmp_path, monkeypatch):
    """The same gradients from one pass and from two, but for rounding: augmentations, masks and
    mixup are those of the whole batch."""
    calls = gradients(monkeypatch)
    for passes in ("1", "2"):
        run(stage, matches, tmp_path / passes, *options, "--accumulate", passes, "--steps", "1")
    one, two = calls[0], calls[len(calls) // 2]
    assert sum((g != 0).any() for g in one) > len(one) / 2
    scale = torch.stack([g.norm() for g in one]).norm()
    for a, b in zip(one, two, strict=True):           # float32: small sums cancel
        assert (a - b).norm() <= 1e-3 * a.norm() + 1e-5 * scale


def test_the_phases_of_stage_3(matches, tmp_path, monkeypatch):
    """First the head alone, on frozen transformers in evaluation mode, without masks; then
    everything. The learning rate starts anew."""
    with_drop_path(monkeypatch)
    saved = record(monkeypatch, stage3, "save_checkpoint")
    masks = record(monkeypatch, stage3, "random_keep")
    modes, tokens = [], model.Comedian.tokens
    monkeypatch.setattr(model.Comedian, "tokens",
                        lambda self, *a: modes.append(self.training) or tokens(self, *a))
    run(3, matches, tmp_path, "--save-every", "1")
    assert modes == [False] * 3 + [True] * 3
    assert [(*noise.shape, ratio) for (noise, ratio), _ in masks] == (
        [(4, 8, 0)] * 3 + [(4, 8, 0.25)] * 3)
    states = [state for _, state in saved]
    rates = [state["optimizer"]["param_groups"][0]["lr"] for state in states]
    assert rates[:3] == rates[3:] == sorted(rates[:3], reverse=True)
    for step in range(1, 6):
        moved = {name for name, value in states[step]["model"].items()
                 if not torch.equal(value, states[step - 1]["model"][name])}
        everything = set(states[0]["model"])
        assert moved == ({"head.weight", "head.bias"} if step < 3 else everything)


# ------------------------------------------------------------------ 4. resume, logs, mistakes
LOG = (r"stage {} \| step \d+/\d+ \| loss \d+\.\d{{4}} \| lr \d\.\d\de-\d\d \| grad \d+\.\d\d \| "
       r"\d+ clips/s \| \d+\.\d GB \| [\d:]+ left")


def assert_same(a, b, where="checkpoint"):
    """Bit by bit, in dicts and lists too."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{where}.{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


RESUMED = {"stage 1": (1, [], 3),
           "stage 1, few halves": (1, ["--halves-per-batch", "2", "--negatives", "batch"], 4),
           "stage 2, complete bank": (2, [], 3), "stage 2, queue": (2, ["--bank", "queue"], 5),
           "stage 3, in its head phase": (3, [], 2), "stage 3, at the seam": (3, [], 4),
           "stage 3, in its full phase": (3, [], 5),
           "stage 3, cached head phase": (3, ["--head-phase", "temporal"], 2)}


@pytest.mark.parametrize("stage, options, killed_in", RESUMED.values(), ids=RESUMED)
def test_resume_is_exact(stage, options, killed_in, matches, tmp_path, monkeypatch):
    """A run that is killed in some step and resumed ends in the same bits as one that never
    stopped."""
    with_drop_path(monkeypatch)
    whole = run(stage, matches, tmp_path / "whole", *options, "--save-every", "1")
    clip, steps = torch.nn.utils.clip_grad_norm_, []

    def killed(*args):
        steps.append(1)
        if len(steps) == killed_in:                       # after backward, before the weights move
            raise KeyboardInterrupt
        return clip(*args)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", killed)
    with pytest.raises(KeyboardInterrupt):
        run(stage, matches, tmp_path / "killed", *options, "--save-every", "1")
    last = weights.load_checkpoint(tmp_path / "killed" / "last.pt")
    assert last["step"] == killed_in - 1
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    torch.manual_seed(99)                                 # a new process has another random state
    np.random.seed(99)
    resumed = run(stage, matches, tmp_path / "killed", *options, "--save-every", "1", "--resume")
    assert resumed["step"] == 6
    for state in (whole, resumed):
        del state["args"]
    assert_same(whole, resumed)


@pytest.mark.parametrize("stage", STAGES)
def test_log_and_checkpoint(stage, matches, tmp_path):
    state = run(stage, matches, tmp_path / "run")
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert len(lines) == 3 and all(re.fullmatch(LOG.format(stage), line) for line in lines)
    assert [line.split(" | ")[1] for line in lines] == ["step 2/6", "step 4/6", "step 6/6"]
    assert state["stage"] == stage and state["step"] == 6
    assert state["args"]["batch"] == int(STAGES[stage][1][1])
    assert weights.config_of(state).model == "vivit_micro"
    assert [path.name for path in sorted((tmp_path / "run").iterdir())] == [
        "curves.png", "last.pt", "log.txt"]
    torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    with pytest.raises(DataError, match="there is a run already; --resume it or choose another"):
        run(stage, matches, tmp_path / "run")
    finished = run(stage, matches, tmp_path / "run", "--resume")      # nothing is left to do
    assert_same(finished, state)


def test_the_loss_in_the_log_is_the_mean_since_the_last_line(matches, tmp_path, monkeypatch):
    losses, backward = [], torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda t: losses.append(t.item()) or backward(t))
    run(3, matches, tmp_path, "--log-every", "4", "--accumulate", "2")
    logged = [float(re.search(r"loss (\S+)", line)[1])
              for line in (tmp_path / "log.txt").read_text().splitlines()]
    steps = [a + b for a, b in zip(losses[::2], losses[1::2], strict=True)]     # halves of a mean
    assert logged == pytest.approx([np.mean(steps[:4]), np.mean(steps[4:])], abs=6e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_the_log_after_a_resume(stage, matches, tmp_path, monkeypatch):
    """It is the log of a run that never stopped (but for the times): means reach back over the
    stop, and lines after the checkpoint are written once."""
    options = ["--log-every", "2", "--save-every", "3"]
    run(stage, matches, tmp_path / "whole", *options)
    steps, clip = [], torch.nn.utils.clip_grad_norm_

    def killed(*args):
        steps.append(1)
        if len(steps) == 6:                               # steps 4 and 5 are lost, a line with them
            raise KeyboardInterrupt
        return clip(*args)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", killed)
    with pytest.raises(KeyboardInterrupt):
        run(stage, matches, tmp_path / "killed", *options)
    assert "step 4/6" in (tmp_path / "killed" / "log.txt").read_text()
    run(stage, matches, tmp_path / "killed", *options, "--resume")
    whole, killed = ([line.split(" | ")[:5] for line in (tmp_path / name / "log.txt")
                      .read_text().splitlines()] for name in ("whole", "killed"))
    assert whole == killed and len(whole) == 3


def test_each_stage_starts_from_the_one_before(matches, tmp_path):
    """Stage 2 takes over the spatial encoder and copies its blocks; stage 3 takes both
    transformers. With a learning rate of 0 the weights can be seen where they arrived."""
    still = ["--lr", "0", "--steps", "1"]
    one = run(1, matches, tmp_path / "1")["model"]
    init = ["--init", str(tmp_path / "1" / "last.pt")]
    two = run(2, matches, tmp_path / "2", *still, *init)["model"]
    assert all(torch.equal(two[name], one[name]) for name in one)
    for name, value in two.items():
        part, _, rest = name.partition(".")
        if part == "temporal" and rest not in ("pos_embed", "mask_token"):
            assert torch.equal(value, one[f"spatial.{rest}"])
    other = run(2, matches, tmp_path / "2r", *still, *init, "--temporal-init", "random")["model"]
    assert not torch.equal(other["temporal.blocks.0.attn.qkv.weight"],
                           one["spatial.blocks.0.attn.qkv.weight"])
    two = run(2, matches, tmp_path / "2t", *init)["model"]
    three = run(3, matches, tmp_path / "3", *still, "--head-steps", "1",
                "--init", str(tmp_path / "2t" / "last.pt"))["model"]
    for name in three:
        assert torch.equal(three[name], two[name]) != name.startswith("head")
    skipped = run(3, matches, tmp_path / "31", *still, "--head-steps", "1", *init)["model"]
    assert all(torch.equal(skipped[name], one[name]) for name in one)


def test_a_run_learns(matches, tmp_path, monkeypatch):
    """Not that it generalises: on 8 windows that are always the same the loss falls to a
    fraction."""
    monkeypatch.setattr(stage3, "view", plain_view)
    run(3, matches, tmp_path, "--lr", "0.1", "--head-steps", "1", "--steps", "60", "--mixup", "0",
        "--mask", "0", "--windows-per-half", "2", "--batch", "8", "--log-every", "10")
    losses = [float(re.search(r"loss (\S+)", line)[1])
              for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert losses[-1] < 0.5 * losses[0]


def test_validation(matches, tmp_path):
    """best.pt is the checkpoint of the best validation, and the number logged is the number that
    infer.py's predictions get."""
    state = run(3, matches, tmp_path / "run", "--valid", str(matches), "--valid-every", "1",
                "--windows-per-half", "2", "--steps", "3")
    log = (tmp_path / "run" / "log.txt").read_text().splitlines()
    lines = [line for line in log if "valid" in line]
    pattern = r"stage 3 \| step (\d+)/6 \| valid t-AmAP (\d+\.\d\d) % \| best (\d+\.\d\d) %"
    found = [re.fullmatch(pattern, line).groups() for line in lines]
    assert [int(step) for step, *_ in found] == [2, 4, 6]             # 8 windows an epoch, 4 a step
    scores = [float(score) for _, score, _ in found]
    assert [float(best) for *_, best in found] == [max(scores[:i + 1]) for i in range(3)]
    best = weights.load_checkpoint(tmp_path / "run" / "best.pt")
    assert best["step"] == int(found[int(np.argmax(scores))][0])
    assert 100 * best["best"] == pytest.approx(max(scores), abs=0.005)
    assert state["best"] == best["best"]
    infer.main(infer.parse_args(["--data", str(matches), "--out", str(tmp_path / "spots"),
                                 "--checkpoint", str(tmp_path / "run" / "best.pt"),
                                 "--device", "cpu"]))
    events = {m: data.read_labels(matches / m / "Labels-v2.json", best["config"]["classes"])
              for m in ("league/one", "league/two")}
    spotted = {m: data.read_predictions(tmp_path / "spots" / m / "results_spotting.json",
                                        best["config"]["classes"]) for m in events}
    result = evaluate.score(events, spotted, best["config"]["classes"])
    assert result["tight"]["a_mAP"] == pytest.approx(best["best"], abs=1e-12)


def test_best_survives_a_resume(matches, tmp_path, monkeypatch):
    """best.pt is replaced by better checkpoints only, the ones before a kill considered."""
    scores, clip, steps = iter([0.5, 0.2, 0.3]), torch.nn.utils.clip_grad_norm_, []
    options = ["--valid", str(matches), "--valid-every", "1", "--windows-per-half", "2"]
    monkeypatch.setattr(stage3, "validate", lambda *args: next(scores))           # steps 2, 4, 6

    def killed(*args):
        steps.append(1)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return clip(*args)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", killed)
    with pytest.raises(KeyboardInterrupt):
        run(3, matches, tmp_path, *options, "--save-every", "1")
    state = run(3, matches, tmp_path, *options, "--resume")
    assert state["best"] == 0.5 and weights.load_checkpoint(tmp_path / "best.pt")["step"] == 2


def test_labels_of_no_class_are_named(matches, tmp_path, capsys):
    """A misspelt class must not look like a rare one."""
    (tmp_path / "classes.txt").write_text("Goal\nFuol\nCorner")
    run(3, matches, tmp_path / "run", "--classes", str(tmp_path / "classes.txt"), "--steps", "1")
    printed = capsys.readouterr().out
    assert "Goal 11, Fuol 0, Corner 10" in printed
    assert "11 annotations are of no class and left out: 'Foul' (11)" in printed


def test_the_cached_head_phase_sees_what_encoding_would_give(matches, tmp_path, monkeypatch):
    """--head-phase temporal: tokens from the cache, plain or mirrored, are those of the window's
    frames."""
    seen, contextualize = [], model.Comedian.contextualize
    losses = record(monkeypatch, stage3, "bce_loss")
    monkeypatch.setattr(model.Comedian, "contextualize",
                        lambda self, h: seen.append(h.detach().clone()) or contextualize(self, h))
    state = run(3, matches, tmp_path, "--head-phase", "temporal", "--mixup", "0", "--steps", "1",
                "--head-steps", "2", "--lr", "0")
    net = model.Comedian(weights.config_of(state)).eval()
    net.load_state_dict(state["model"])
    halves = data.find_halves(matches)
    reader, args = data.FrameReader(1), stage3.parse_args(
        ["--data", "x", "--window", "8", "--batch", "4", "--seed", "5"])
    classes, mirrored = state["config"]["classes"], 0
    truth = {half: data.frame_labels(
        data.read_labels(matches / half.match / "Labels-v2.json", classes), half, 0.5, 3)
        for half in halves}
    for step in range(2):
        picks = [(halves[h], first // 2 * 2) for h, first in stage3.pick_windows(
            step, args, tuple(half.n_frames for half in halves))]
        x = augment.resize(augment.to_float(reader.read(picks, 16), torch.device("cpu")), 48)
        for b in range(4):
            plain, flipped = (net.encode(augment.normalize(v, True).view(8, 2, 3, 48, 48)).detach()
                              for v in (x[b:b + 1], x[b:b + 1].flip(4)))
            fits = [torch.allclose(seen[step][b], h, atol=1e-4) for h in (plain, flipped)]
            assert fits in ([True, False], [False, True])
            half, first = picks[b]
            assert np.array_equal(losses[step][0][1][b], stage3.token_labels(truth[half], first, 8))
            mirrored += fits[1]
    assert 0 < mirrored < 8


MISTAKES = {                          # stage, options, the one line
    "no such folder": (1, ["--data", "nowhere"], "nowhere: no such folder"),
    "too few clips": (1, ["--batch", "120"], "99 clips are fewer than one --batch of 120"),
    "uneven parts": (1, ["--accumulate", "3"], "--batch 8 cannot be split evenly into 1 processes"),
    "nothing to resume": (1, ["--resume"], "last.pt: no such checkpoint"),
    "no features": (2, ["--features-name", "resnet"], "1_resnet.npy: no teacher features"),
    "long windows": (2, ["--window", "99"], "no half is as long as a window"),
    "no such stage 1": (2, ["--init", "nowhere.pt"], "nowhere.pt: no such checkpoint"),
    "an epoch without a batch": (2, ["--steps", "0", "--epochs", "1", "--batch", "99",
                                     "--windows-per-half", "3"],
                                 "12 windows an epoch make no step of --batch 99"),
    "no labels": (3, ["--labels", "nowhere"], "none of the 2 matches has a Labels-v2.json"),
    "no classes": (3, ["--classes", "nowhere.txt"], "nowhere.txt: cannot read the list of classes"),
    "no such stage 2": (3, ["--init", "nowhere.pt"], "nowhere.pt: no such checkpoint"),
}


@pytest.mark.parametrize("stage, options, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes(stage, options, message, matches, tmp_path):
    with pytest.raises(DataError) as error:
        run(stage, matches, tmp_path / "run", *options)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()                # nothing was begun


def test_a_checkpoint_of_another_kind_is_refused(matches, tmp_path, monkeypatch):
    run(2, matches, tmp_path / "2", "--steps", "1")
    last = str(tmp_path / "2" / "last.pt")
    with pytest.raises(DataError, match="is a run of stage 2, not 1"):
        run(1, matches, tmp_path / "2", "--resume")
    with pytest.raises(DataError, match="trained on windows of 8 tokens; give --window 8"):
        run(3, matches, tmp_path / "3", "--init", last, "--window", "16")
    with pytest.raises(DataError, match=r"was run with --window 8 \(now 16\)"):
        run(2, matches, tmp_path / "2", "--resume", "--window", "16")
    (tmp_path / "2" / "last.pt").write_bytes(b"PK" + bytes(100))
    with pytest.raises(DataError, match="last.pt: not a checkpoint, or damaged"):
        run(3, matches, tmp_path / "3", "--init", last)


@pytest.mark.parametrize("stage", STAGES)
def test_another_stage_is_not_resumed(stage, matches, tmp_path):
    cfg = replace(model.MODELS["vivit_micro"], window_tokens=64 if stage == 1 else 8)
    if stage == 3:
        cfg = replace(cfg, classes=data.read_classes(matches / "classes.txt"))
    weights.save_checkpoint(tmp_path / "last.pt", stage=4 - stage if stage != 2 else 1, step=1,
                          config=asdict(cfg), model={})
    with pytest.raises(DataError, match=f"last.pt: is a run of stage ., not {stage}"):
        run(stage, matches, tmp_path, "--resume")


def test_features_of_different_widths_are_refused(matches, tmp_path):
    for half in data.find_halves(matches):
        folder = tmp_path / "features" / half.match
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{half.number}_teacher.npy",
                np.ones((half.n_frames // 2, 10 + half.number), np.float32))
    with pytest.raises(DataError, match="2_teacher.npy: features of width 12, those of .* have 11"):
        run(2, matches, tmp_path / "run", "--features", str(tmp_path / "features"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_loss_that_is_not_finite_ends_the_run(stage, matches, tmp_path, monkeypatch):
    """The step and its files are named although nobody looked until three steps later, and the
    checkpoint is the last good one."""
    script, steps = STAGES[stage][0], []
    name = {1: "moco_loss", 2: "sce_loss", 3: "bce_loss"}[stage]
    original = getattr(script, name)

    def spoilt(*args):
        steps.append(1)
        return original(*args) * (float("nan") if len(steps) == (5 if stage == 1 else 3) else 1)

    monkeypatch.setattr(script, name, spoilt)
    with pytest.raises(DataError) as error:               # step 3: stage 1 has two losses a step
        run(stage, matches, tmp_path, "--save-every", "2", "--log-every", "6")
    message = str(error.value)
    assert message.startswith("step 3: the loss or its gradient is not finite") and (
        f"the last good checkpoint is {tmp_path}/last.pt" in message)
    state = weights.load_checkpoint(tmp_path / "last.pt")
    assert state["step"] == 2 and all(v.isfinite().all() for v in state["model"].values())
    named = (tmp_path / "not_finite_step_3.txt").read_text().splitlines()
    assert all(Path(file).exists() for file in named) and named[0] in message
    assert len(named) == int(STAGES[stage][1][1])          # the batch


@pytest.mark.parametrize("script", ["stage1_spatial.py", "stage2_distill.py", "stage3_finetune.py"])
def test_a_mistake_is_one_line_and_exit_code_2(script, tmp_path):
    done = subprocess.run([sys.executable, ROOT / script, "--data", tmp_path],
                          capture_output=True, text=True)
    assert done.returncode == 2
    line, = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}: no folder of .jpg or .png frames below it")


# ------------------------------------------------------------------ what is refused before a run
@pytest.mark.parametrize("stage, flags", [
    (stage1, ["--batch", "0"]), (stage1, ["--queue", "-5"]), (stage1, ["--log-every", "0"]),
    (stage1, ["--crop-scale", "1", "-0.2"]), (stage1, ["--epochs", "0"]),
    (stage1, ["--seed", "-1"]),
    (stage2, ["--window", "0"]), (stage2, ["--mask", "1"]), (stage2, ["--tau-m", "0.01"]),
    (stage2, ["--lam", "nan"]), (stage2, ["--steps", "1.5"]), (stage2, ["--workers", "-1"]),
    (stage3, ["--prior", "0"]), (stage3, ["--mixup", "-1"]), (stage3, ["--lr", "-1"]),
    (infer, ["--batch", "0"]), (infer, ["--threshold", "-5"]), (infer, ["--ignore", "-3"]),
])
def test_senseless_flags(stage, flags, capsys):
    required = ["--checkpoint", "x"] if stage is infer else []
    with pytest.raises(SystemExit) as refused:
        stage.parse_args(["--data", "x", *required, *flags])
    assert refused.value.code == 2
    assert re.search(rf"argument {flags[0]}: wants a( whole)? number (of|from) .*, got '",
                     capsys.readouterr().err)


def test_a_run_without_a_step_is_refused(matches):
    args = stage3.parse_args(["--data", str(matches), "--classes", str(matches / "classes.txt"),
                              "--window", "8", "--model", "vivit_micro", "--epochs", "0",
                              "--head-epochs", "0"])
    with pytest.raises(data.DataError, match="no step of --batch 64"):
        stage3.main(args)


def test_unknown_device(capsys):
    with pytest.raises(SystemExit) as refused:
        stage1.parse_args(["--data", "x", "--device", "toaster"])
    assert refused.value.code == 2
    assert "torch cannot use 'toaster'" in capsys.readouterr().err


def test_a_resumed_run_is_the_run_it_was(tmp_path):
    """Flags that change the numbers are named; those that only say where and how fast are free."""
    saved = {"args": {"lr": 1e-3, "steps": 4, "workers": 1, "out": "a"}}
    check_same_run(saved, argparse.Namespace(lr=1e-3, steps=4, workers=2, out="b"), "last.pt")
    with pytest.raises(data.DataError, match=r"--steps 4 \(now 5\)"):
        check_same_run(saved, argparse.Namespace(lr=1e-3, steps=5, workers=1, out="a"), "x")
