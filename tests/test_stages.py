"""
What these tests prove about the three training stages:
  1. every equation of the paper, spelled as loops over i, j, k in float64, is what the code computes;
     the complete bank is streamed: exact gradients, no tensor of tokens x bank
  2. schedules, samplers, alignment and labels are the paper's and the official code's, by number
  3. queue, momentum encoder, mixup and accumulation do what they say, seen from inside a run
  4. a run that was killed ends, resumed, in the same bits; a user's mistake is one line, exit code 2
"""
import collections
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import data
import model
import stage1_spatial as stage1
import stage2_distill as stage2
import stage3_finetune as stage3
from data import DataError, Half

ROOT = Path(__file__).resolve().parents[1]


def unit(*shape, seed=0):
    """Random unit vectors, float64."""
    gen = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=gen, dtype=torch.float64), dim=-1)


# ------------------------------------------------------------------ 1. the equations
def test_equation_1_and_2():
    """l_M with a queue, as loops; L = -(l_M(z1, k2) + l_M(z2, k1)) / 2 is what the stage adds up."""
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


def loops_sce(z, own, bank, lam, tau, tau_m):
    """Eq. 3-6 for tokens z_i with own features P_i = bank[own[i]]. The indicators are by value; equal rows
    share the one-hot's weight, so that w_i sums to 1."""
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


@pytest.mark.parametrize("chunk", [1, 5, 23, 8192])                   # below, across, at, above the bank
@pytest.mark.parametrize("lam", [0.5, 0.0, 1.0])
def test_equations_3_to_6(chunk, lam, monkeypatch):
    monkeypatch.setattr(stage2, "CHUNK", chunk)
    bank, z = unit(23, 6), unit(4, 6, seed=1)
    bank[7] = bank[3]                                                 # a second that is there twice,
    bank[20] = bank[3]                                                # three times
    own = torch.tensor([3, 0, 22, 7])
    centroids = stage2.soft_centroids(bank, 0.07)
    got = stage2.sce_loss(z, bank[own], centroids[own], bank, lam, 0.1)
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(loops_sce(z, own, bank, lam, 0.1, 0.07), rel=1e-10)


def test_soft_centroids(monkeypatch):
    """Eq. 4 row by row; the own row and its equals have no weight."""
    monkeypatch.setattr(stage2, "CHUNK", 4)
    bank = unit(11, 5)
    bank[9] = bank[2]
    got = stage2.soft_centroids(bank, 0.07)
    for i in range(11):
        weight = [0.0 if torch.equal(bank[i], bank[k]) else math.exp(float(bank[i] @ bank[k]) / 0.07)
                  for k in range(11)]
        expected = sum(w / sum(weight) * bank[k] for k, w in enumerate(weight))
        torch.testing.assert_close(got[i], expected, rtol=1e-10, atol=1e-12)


def test_rows_that_are_almost_equal_are_not_equal():
    """The indicator of Eq. 4 is exact: the last bit of one component tells two seconds apart."""
    bank = unit(6, 5).float()
    bank[1] = bank[0]
    bank[1, 3] = torch.nextafter(bank[0, 3], torch.tensor(9.0))
    got = stage2.soft_centroids(bank, 0.07)
    weight = torch.exp(bank @ bank.T / 0.07).fill_diagonal_(0)
    torch.testing.assert_close(got, weight @ bank / weight.sum(1, keepdim=True), rtol=1e-4, atol=1e-5)


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
    torch.testing.assert_close(torch.autograd.grad((streamed * upstream).sum(), z)[0],
                               torch.autograd.grad((dense * upstream).sum(), z)[0], rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(lambda z: stage2.BankLogSumExp.apply(z, bank, 0.1), (z,))


def test_no_gradient_to_the_teacher():
    bank, z = unit(23, 6), unit(4, 6, seed=1)
    assert not stage2.sce_loss(z, bank[:4], bank[:4], bank, 0.5, 0.1).requires_grad
    assert not stage2.soft_centroids(bank.clone().requires_grad_(), 0.07).requires_grad


def test_sums_of_half_precision_are_float32():
    """A bfloat16 bank of 40,000 rows: summed in bfloat16 the total would stop growing at 256 terms."""
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
        stage2.soft_centroids(bank, 0.07)
    assert watch.largest <= 1024 * 256 < 5000 * 5000


def test_the_queue_version_of_equations_3_to_6():
    """The official code's comparison set: a token's own window and the queue, not the other windows; only
    the aligned feature (by position) is left out of s2 and named by the one-hot."""
    B, L, M, lam, tau, tau_m = 2, 4, 6, 0.3, 0.1, 0.05
    z, p, queue = unit(B, L, 5), unit(B, L, 5, seed=1), unit(M, 5, seed=2)
    queue[2] = p[0, 1]                                                # an old copy in the queue counts
    total = 0.0
    for b in range(B):
        for i in range(L):
            others = [p[b, j] for j in range(L)] + [queue[j] for j in range(M)]
            e1 = [math.exp(float(z[b, i] @ o) / tau) for o in others]
            e2 = [0.0 if k == i else math.exp(float(p[b, i] @ o) / tau_m) for k, o in enumerate(others)]
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


def test_mixup():
    """Each window gets its own coefficient and partner; the loss is lam BCE(y1) + (1 - lam) BCE(y2)."""
    torch.manual_seed(0)
    B = 64
    x = torch.eye(B, dtype=torch.float64).view(B, 1, B)               # window b is the b-th unit vector
    y = (torch.rand(B, 4, 3) < 0.3).double()
    mixed_x, mixed_y = stage3.mixup(x, y, 0.1)
    lam = mixed_x.squeeze(1).diagonal()                               # (B,), readable from the mixture
    other = (mixed_x.squeeze(1) - torch.diag(lam)).argmax(1)
    kept = (mixed_x.squeeze(1) - torch.diag(lam)).sum(1) == 0         # mixed with themselves
    other[kept] = torch.arange(B)[kept]
    lam = torch.where(kept, 1.0, lam)
    assert len(lam.unique()) > B // 2 and sorted(other[~kept].unique()) == sorted(other[~kept].tolist())
    logits = torch.randn(B, 4, 3, dtype=torch.float64)
    for b in range(B):
        expected = (lam[b] * stage3.bce_loss(logits[b], y[b])
                    + (1 - lam[b]) * stage3.bce_loss(logits[b], y[other[b]]))
        torch.testing.assert_close(stage3.bce_loss(logits[b], mixed_y[b]), expected, rtol=1e-6, atol=1e-9)
    assert all(a is b for a, b in zip(stage3.mixup(x, y, 0), (x, y), strict=True))


def test_mixups_coefficients_are_beta():
    """Beta(0.1, 0.1): mean 1/2, variance 1 / (4 (2 a + 1)) = 0.208; mostly one of the two windows."""
    torch.manual_seed(0)
    x = torch.arange(2.0).repeat(5000)[:, None]
    mixed = torch.cat([stage3.mixup(x, x, 0.1)[0] for _ in range(4)])
    differ = mixed[(mixed > 1e-6) & (mixed < 1 - 1e-6)]
    # A window of kind 0 and one of kind 1 meet in half of the cases.
    assert mixed.mean().item() == pytest.approx(0.5, abs=0.02)
    beta = torch.distributions.Beta(0.1, 0.1).sample((20_000,))
    inside = ((beta > 1e-6) & (beta < 1 - 1e-6)).float().mean().item()
    assert len(differ) / len(mixed) == pytest.approx(inside / 2, abs=0.02)


# ------------------------------------------------------------------ 2. schedules, samplers, alignment
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


def halves_of(*n_frames, fps=2.0):
    return [Half(f"m{i}", 1, "f", "", 8, ".jpg", 1, n, fps) for i, n in enumerate(n_frames)]


def test_stage_1_shows_every_clip_once_an_epoch():
    halves, args = halves_of(41, 10, 25), args1("--batch", "8")       # 20 + 5 + 12 clips, 4 steps an epoch
    orders = []
    for epoch in range(3):
        picks = [pick for step in range(4 * epoch, 4 * epoch + 4)
                 for pick in stage1.pick_clips(step, args, halves)]
        assert len(picks) == len(set(picks)) == 32                    # the last 5 of a shuffle are left out
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
    assert len({half for step in range(20) for half, _ in stage1.pick_clips(step, args, halves)}) == 10
    more = stage1.pick_clips(0, args1("--batch", "30", "--halves-per-batch", "1"), halves)
    assert len(more) == 30 and len(set(more)) <= 20                   # a half of 20 clips repeats some


@pytest.mark.parametrize("sampling", ["random", "bins"])
def test_windows_of_stage_2(sampling):
    """Inside their half, on any frame; every half as often as another; bins are filled once an epoch."""
    halves = halves_of(200, 33, 120)
    args = args2("--window", "16", "--batch", "6", "--windows-per-half", "4", "--sampling", sampling)
    for epoch in range(20):
        picks = [p for s in (2 * epoch, 2 * epoch + 1) for p in stage2.pick_windows(s, args, halves)]
        assert collections.Counter(h for h, _ in picks) == {0: 4, 1: 4, 2: 4}
        assert all(0 <= first and first + 32 <= halves[h].n_frames for h, first in picks)
        for half, n in ((0, 169), (2, 89)) if sampling == "bins" else ():            # n starts in 4 bins
            for j, first in enumerate(sorted(f for h, f in picks if h == half)):
                assert math.floor(j * n / 4) <= first <= (j + 1) * n / 4
    starts = [first for step in range(2000) for h, first in stage2.pick_windows(step, args, halves) if h == 0]
    assert min(starts) == 0 and max(starts) == 168 and 0.45 < np.mean(np.array(starts) % 2) < 0.55
    assert {f for s in range(200) for h, f in stage2.pick_windows(s, args, halves) if h == 1} == {0, 1}


def test_windows_of_stage_3():
    """Of every half the first and the last window, and others that do not overlap each other."""
    n_frames, window, per_half = (2000, 128, 500), 128, 12
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
    lambda s, seed: stage1.pick_clips(s, args1("--batch", "9", "--seed", seed), halves_of(50, 70)),
    lambda s, seed: stage1.pick_clips(s, args1("--batch", "9", "--seed", seed, "--halves-per-batch", "1"),
                                      halves_of(50, 70)),
    lambda s, seed: stage2.pick_windows(s, args2("--window", "8", "--seed", seed), halves_of(50, 70)),
    lambda s, seed: stage3.pick_windows(s, args3("--window", "8", "--seed", seed), (50, 70))],
    ids=["stage 1", "stage 1, few halves", "stage 2", "stage 3"])
def test_sampling_is_a_function_of_seed_and_step(pick):
    """In any order of asking, whatever else was drawn in between."""
    forward = [pick(step, "5") for step in range(12)]
    np.random.seed(1)
    torch.manual_seed(1)
    assert [pick(step, "5") for step in reversed(range(12))] == forward[::-1]
    assert [pick(step, "6") for step in range(12)] != forward
    assert forward[0] != forward[1]


@pytest.mark.parametrize("first, align, rows", [
    (0, "middle", [0, 1, 2]), (0, "first", [0, 1, 2]),    # from a whole second both agree
    (7, "middle", [4, 5, 6]),                             # clip of frames 7, 8: its middle is second 4.0
    (7, "first", [3, 4, 5]),                              # ... and it begins at 3.5, in second 3
    (20, "middle", [10, 11, 11])])                        # features shorter than the half: the last row
def test_feature_of_a_token(first, align, rows):
    half, = halves_of(40)
    assert stage2.feature_rows(first, 3, half, 12, align).tolist() == rows


def test_feature_of_a_token_at_another_frame_rate():
    """At 25/12 fps a token lasts 0.96 s: after 25 tokens it is one second behind."""
    half, = halves_of(200, fps=25 / 12)
    for k, row in enumerate(stage2.feature_rows(0, 100, half, 1000, "middle")):
        assert row == int((2 * k + 1) / (25 / 12))


def test_labels_of_a_token():
    """A token is positive if one of its clip's two frames is. Facts, section 4: with windows on whole
    seconds token k is positive iff the event lies in [k - 0.5, k + 1]; half of the events give one positive
    token, half two."""
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
    got = stage3.token_labels(labels, 7, 4)               # a window on an odd frame: clips 7 8, 9 10, ...
    assert got.dtype == np.float32 and got.tolist() == [[0, 0], [0, 1], [0, 0], [0, 0]]


# ------------------------------------------------------------------ 3. inside a run
COMMON = ["--model", "vivit_micro", "--workers", "1", "--device", "cpu", "--log-every", "2", "--lr", "0.01",
          "--seed", "5"]
STAGES = {                            # script, and its options for a run of 6 steps on the tiny matches
    1: (stage1, ["--batch", "8", "--steps", "6", "--queue", "40", "--epochs", "6", "--warmup-epochs", "1"]),
    2: (stage2, ["--batch", "4", "--steps", "6", "--window", "8", "--features-name", "teacher"]),
    3: (stage3, ["--batch", "4", "--head-steps", "3", "--steps", "3", "--window", "8"])}


def run(stage, matches, out, *more):
    """Runs a stage through its main; returns the checkpoint that it left."""
    script, options = STAGES[stage]
    options = ["--data", str(matches), "--out", str(out), *COMMON, *options]
    if stage == 3:
        options += ["--classes", str(matches / "classes.txt")]
    script.main(script.parse_args([*options, *more]))
    return model.load_checkpoint(Path(out) / "last.pt")


def with_drop_path(monkeypatch):
    """The micro network has none of its own; a stage must be exact with it, too."""
    monkeypatch.setitem(model.MODELS, "vivit_micro", replace(model.MODELS["vivit_micro"], drop_path=0.2))


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


def test_equation_1_in_the_stage(matches, tmp_path, monkeypatch):
    """Both directions, each view against the other view's key of the same clip, half weight each."""
    calls, views = record(monkeypatch, stage1, "moco_loss"), []
    losses, backward, original = [], torch.Tensor.backward, stage1.views
    monkeypatch.setattr(torch.Tensor, "backward", lambda t: losses.append(t.item()) or backward(t))
    monkeypatch.setattr(stage1, "views", lambda *a: views.append(original(*a)) or views[-1])
    run(1, matches, tmp_path, "--steps", "2")
    for step in range(2):
        (z1, k2, queue, tau), (z2, k1, *_) = (args for args, _ in calls[2 * step:2 * step + 2])
        l1, l2 = stage1.moco_loss(z1, k2, queue, tau), stage1.moco_loss(z2, k1, queue, tau)
        assert losses[step] == pytest.approx((l1 + l2).item() / 2, rel=1e-6) and tau == 0.1
        for vectors, n in ((z1, 8), (k1, 8), (z2, 8), (k2, 8), (queue, 40)):
            torch.testing.assert_close(vectors.norm(dim=1), torch.ones(n))
    # At the first step the target is still the online branch: its keys can be computed again.
    torch.manual_seed(5)
    cfg = model.MODELS["vivit_micro"]
    target = torch.nn.Sequential(model.spatial_encoder(cfg), model.Projector(128, 1024, 1024, 256))
    (_, k2, *_), (_, k1, *_) = (args for args, _ in calls[:2])
    for view, k in zip(views[0], (k1, k2), strict=True):
        torch.testing.assert_close(F.normalize(target(view), dim=1), k, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_queue_is_first_in_first_out(accumulate, matches, tmp_path, monkeypatch):
    """16 keys a step, both views', go into a queue of 40: it always holds the last 40 keys (the random ones
    it began with, until they are pushed out), and never those of the step itself."""
    calls = record(monkeypatch, stage1, "moco_loss")
    state = run(1, matches, tmp_path, "--accumulate", str(accumulate))
    kept = collections.deque(calls[0][0][2].tolist(), maxlen=40)
    for step in range(6):
        of_step = [args for args, _ in calls[step * 2 * accumulate:(step + 1) * 2 * accumulate]]
        for _, _, queue, _ in of_step:
            assert sorted(queue.tolist()) == sorted(kept)
        for (_, k2, *_), (_, k1, *_) in zip(of_step[::2], of_step[1::2], strict=True):
            kept.extend(k1.tolist())                                  # in the order of the concatenation
            kept.extend(k2.tolist())
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


def gradients(monkeypatch):
    """The list that will hold every parameter's gradient before each clipping."""
    calls, original = [], torch.nn.utils.clip_grad_norm_

    def spy(parameters, max_norm):
        parameters = list(parameters)
        calls.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters])
        return original(parameters, max_norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    return calls


ACCUMULATE = {"stage 1": (1, []), "stage 2, complete bank": (2, ["--mask", "0"]),
              "stage 2, queue": (2, ["--mask", "0", "--bank", "queue"]),
              "stage 3, head": (3, ["--mixup", "0"]),
              "stage 3, all": (3, ["--mixup", "0", "--mask", "0", "--head-epochs", "0", "--head-steps", "0"])}


@pytest.mark.parametrize("stage, options", ACCUMULATE.values(), ids=ACCUMULATE)
def test_accumulation_changes_nothing(stage, options, matches, tmp_path, monkeypatch):
    """The same gradients from one pass and from four, but for rounding, where nothing is drawn (drawn numbers
    differ: a draw is per pass)."""
    def plain(frames, cfg, args, device):
        x = data.normalize(data.resize(data.to_float(frames, device), cfg.image_size))
        return [x, x.flip(4)] if stage == 1 else x

    monkeypatch.setattr(STAGES[stage][0], "views" if stage == 1 else "view", plain)
    calls = gradients(monkeypatch)
    for passes in ("1", "4"):
        run(stage, matches, tmp_path / passes, *options, "--accumulate", passes, "--steps", "1")
    one, four = calls[0], calls[len(calls) // 2]
    assert sum((g != 0).any() for g in one) > len(one) / 2
    for a, b in zip(one, four, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-6)


def test_the_phases_of_stage_3(matches, tmp_path, monkeypatch):
    """First the head alone, on frozen transformers in evaluation mode, without masks; then everything. The
    learning rate starts anew."""
    with_drop_path(monkeypatch)
    saved, masks = (record(monkeypatch, stage3, name) for name in ("save_checkpoint", "random_keep"))
    modes, tokens = [], model.Comedian.tokens
    monkeypatch.setattr(model.Comedian, "tokens",
                        lambda self, *a: modes.append(self.training) or tokens(self, *a))
    run(3, matches, tmp_path, "--save-every", "1")
    assert modes == [False] * 3 + [True] * 3
    assert [args for args, _ in masks] == [[4, 8, 0.25]] * 3
    states = [state for _, state in saved]
    rates = [state["optimizer"]["param_groups"][0]["lr"] for state in states]
    assert rates[:3] == rates[3:] == sorted(rates[:3], reverse=True)
    for step in range(1, 6):
        moved = {name for name, value in states[step]["model"].items()
                 if not torch.equal(value, states[step - 1]["model"][name])}
        everything = set(states[0]["model"])
        assert moved == ({"head.weight", "head.bias"} if step < 3 else everything)
