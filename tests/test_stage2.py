"""
What these tests prove about stage 2 (stage2_distill.py):
  1. Eq. 3-6, the soft targets and the divergence, spelled as loops over i and k in float64, are
     what is computed; the bank is streamed: exact gradients, no tensor of tokens x bank
  2. sampler, view, learning rate and defaults are the paper's and the official code's, by number
  3. some steps of `main`, by hand: a plain transcription of the paper, dense and with an optimiser
     and a schedule of its own, sees the same input and ends in the same numbers. Every flag that
     changes a step enters with a value that is not its default
  4. a broken teacher shows in the logged divergence
  5. where weights, masks, the queue and the parts of a batch come from, seen from inside a run
  6. features that do not fit are one line that says what to do

The bank on disk and the stored table of soft targets: test_bank.py. What all stages share (resume,
processes, log, mistakes): test_runs.py.
"""
import collections
import copy
import math
import re
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import record
from torch.utils._python_dispatch import TorchDispatchMode

import model
import stage2_distill as stage2
from comedian import DataError, augment, bank, draw, run
from comedian.checkpoint import save_checkpoint
from comedian.frames import Half, find_halves

SMALL = replace(model.MODELS["vivit_micro"], embed_dim=32, depth=(2,), num_heads=(2,),
                temporal_heads=2, head_width=48)
HALVES = [("one", 1), ("one", 2), ("two", 1), ("two", 2)]          # of conftest's matches, in order


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch):
    """A smaller network than any of MODELS; no picture at the end of a run."""
    monkeypatch.setitem(model.MODELS, "vivit_micro", SMALL)
    monkeypatch.setattr(draw, "curves", lambda folders, out: None)


def unit(*shape, seed=0):
    """Random unit vectors, float64."""
    gen = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=gen, dtype=torch.float64), dim=-1)


def args2(*more):
    return stage2.parse_args(["--data", "x", *more])


def halves_of(*n_frames, fps=2.0):
    return [Half(f"m{i}", 1, "f", "", 8, ".jpg", 1, n, fps) for i, n in enumerate(n_frames)]


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


def prediction_by_loops(z, P, tau):
    """Eq. 3: the list of s1_k for the token z."""
    e1 = [math.exp(float(z @ row) / tau) for row in P]
    return [e / sum(e1) for e in e1]


def loops_sce(z, own, P, lam, tau, tau_m):
    """Eq. 3-6 for tokens z_i with own features P[own[i]]."""
    total = 0.0
    for i in range(len(z)):
        s1, w = prediction_by_loops(z[i], P, tau), target_by_loops(P[own[i]], P, lam, tau_m)
        total -= sum(w[k] * math.log(s1[k]) for k in range(len(P)))
    return total / len(z)


def loops_divergence(z, own, P, lam, tau, tau_m):
    """The mean of sum_k w_k log(w_k / s1_k), where 0 log 0 = 0."""
    total = 0.0
    for i in range(len(z)):
        s1, w = prediction_by_loops(z[i], P, tau), target_by_loops(P[own[i]], P, lam, tau_m)
        total += sum(w[k] * math.log(w[k] / s1[k]) for k in range(len(P)) if w[k])
    return total / len(z)


@pytest.mark.parametrize("chunk", [1, 5, 23, 8192])              # below, across, at, above the bank
@pytest.mark.parametrize("lam", [0.5, 0.0, 1.0])
def test_equations_3_to_6(chunk, lam, monkeypatch):
    monkeypatch.setattr(stage2, "CHUNK", chunk)
    P, z, own = with_equal_rows(), unit(5, 6, seed=1), torch.tensor([3, 0, 22, 7, 5])
    loss, _ = stage2.sce_loss(z, P[own], soft_of(P, 0.07, own), P, lam, 0.1)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(loops_sce(z, own, P, lam, 0.1, 0.07), rel=1e-10)


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


def test_rows_that_are_almost_equal_are_not_equal():
    """The indicator of Eq. 4 is exact: the last bit of one component tells two seconds apart."""
    P = unit(6, 5).float()
    P[1] = P[0]
    P[1, 3] = torch.nextafter(P[0, 3], torch.tensor(9.0))
    got = soft_of(P, 0.07)
    weight = torch.exp(P @ P.T / 0.07).fill_diagonal_(0)
    expected = weight @ P / weight.sum(1, keepdim=True)
    torch.testing.assert_close(got.centroid, expected, rtol=1e-4, atol=1e-5)
    assert (got.log_n == 0).all()


@pytest.mark.parametrize("chunk", [5, 8192])
@pytest.mark.parametrize("lam", [0.0, 0.3, 0.5, 1.0])
def test_the_divergence(lam, chunk, monkeypatch):
    """It is the Kullback-Leibler divergence of s1 from w, and so the loss less H(w)."""
    monkeypatch.setattr(stage2, "CHUNK", chunk)
    P, own = with_equal_rows(), torch.tensor([3, 0, 22, 7, 5])
    for seed in range(1, 4):
        z = unit(5, 6, seed=seed)
        loss, divergence = stage2.sce_loss(z, P[own], soft_of(P, 0.07, own), P, lam, 0.1)
        entropy = sum(-sum(w * math.log(w) for w in target_by_loops(P[i], P, lam, 0.07) if w)
                      for i in own) / 5
        assert divergence.item() == pytest.approx(loss.item() - entropy, abs=1e-10)
        assert divergence.item() == pytest.approx(
            loops_divergence(z, own, P, lam, 0.1, 0.07), abs=1e-10)
        assert divergence.item() > 0 and not divergence.requires_grad


@pytest.mark.parametrize("lam", [0.3, 0.5])
def test_the_divergence_of_a_student_that_equals_the_target_is_0(lam):
    """Few rows in a wide space: there is a unit vector whose logits are log w_k plus a constant. It
    gets the rows' part from their inverse and the rest of its length where no row points."""
    rows, tau, tau_m = 8, 0.1, 0.2
    P = F.normalize(torch.eye(rows, dtype=torch.float64) + 0.2 * unit(rows, rows), dim=1)
    P = torch.cat([P, torch.zeros(rows, 1)], 1)                       # (8, 9): no row points there
    twice = torch.cat([P, P[2:3]])                                    # with two equal rows
    for i in (0, 2, 5):
        w = torch.tensor(target_by_loops(P[i], twice, lam, tau_m), dtype=torch.float64)
        z = torch.linalg.solve(P[:, :rows], tau * (w.log() - w.log().mean())[:rows])
        z = torch.cat([z, (1 - z.norm() ** 2).sqrt()[None]])
        own = torch.tensor([i])
        loss, divergence = stage2.sce_loss(z[None], twice[own], soft_of(twice, tau_m, own), twice,
                                           lam, tau)
        assert divergence.item() == pytest.approx(0, abs=1e-10) and loss > 1
        for seed in range(5):                                         # and every other has more
            other = F.normalize(z + 0.1 * unit(9, seed=seed), dim=0)[None]
            assert stage2.sce_loss(other, twice[own], soft_of(twice, tau_m, own), twice, lam,
                                   tau)[1] > 1e-4


def test_lam_1_is_cross_entropy():
    """Without the soft part Eq. 6 is the plain cross-entropy of naming one's own second, and its
    target has no entropy."""
    P, z, own = unit(23, 6), unit(4, 6, seed=1), torch.tensor([3, 0, 22, 7])
    loss, divergence = stage2.sce_loss(z, P[own], soft_of(P, 0.07, own), P, 1.0, 0.1)
    torch.testing.assert_close(loss, F.cross_entropy(z @ P.T / 0.1, own), rtol=1e-10, atol=0)
    torch.testing.assert_close(divergence, loss, rtol=1e-10, atol=0)


@pytest.mark.parametrize("chunk", [7, 8192])
def test_gradient_of_the_streamed_logsumexp(chunk, monkeypatch):
    """Against dense autograd, and by finite differences."""
    monkeypatch.setattr(stage2, "CHUNK", chunk)
    P, z = unit(23, 6), unit(4, 6, seed=1).requires_grad_()
    upstream = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    streamed = stage2.BankLogSumExp.apply(z, P, 0.1)
    dense = torch.logsumexp(z @ P.T / 0.1, 1)
    torch.testing.assert_close(streamed, dense, rtol=1e-10, atol=0)
    got, expected = (torch.autograd.grad(value, z, upstream)[0] for value in (streamed, dense))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(lambda z: stage2.BankLogSumExp.apply(z, P, 0.1), (z,))


def test_no_gradient_to_the_teacher():
    """Neither to the bank nor to its soft targets: the loss has no gradient but the tokens'."""
    P, z = unit(23, 6), unit(4, 6, seed=1)
    assert not stage2.sce_loss(z, P[:4], soft_of(P, 0.07, range(4)), P, 0.5, 0.1)[0].requires_grad
    stage2.BankLogSumExp.apply(z.requires_grad_(), P.requires_grad_(), 0.1).sum().backward()
    assert z.grad.abs().min() > 0 and P.grad is None


def test_sums_of_half_precision_are_float32(monkeypatch):
    """A bfloat16 bank of 40,000 rows: summed in bfloat16 the total would stop growing at 256
    terms."""
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
    """The official code's comparison set: a token's own window and the queue, not the other
    windows; only the aligned feature (by position) is left out of s2 and named by the one-hot.
    The divergence is from this w."""
    B, L, M, tau, tau_m = 2, 4, 6, 0.1, 0.05
    z, p, queue = unit(B, L, 5), unit(B, L, 5, seed=1), unit(M, 5, seed=2)
    queue[2] = p[0, 1]                                             # an old copy in the queue counts
    total = entropy = 0.0
    for b in range(B):
        for i in range(L):
            others = [p[b, j] for j in range(L)] + [queue[j] for j in range(M)]
            s1 = prediction_by_loops(z[b, i], others, tau)
            e2 = [math.exp(float(p[b, i] @ o) / tau_m) * (k != i) for k, o in enumerate(others)]
            for k in range(L + M):
                w = lam * (k == i) + (1 - lam) * e2[k] / sum(e2)
                total -= w * math.log(s1[k])
                entropy -= w * math.log(w) if w else 0
    loss, divergence = stage2.sce_loss_queue(z, p, queue, lam, tau, tau_m)
    assert loss.item() == pytest.approx(total / (B * L), rel=1e-10)
    assert divergence.item() == pytest.approx((total - entropy) / (B * L), rel=1e-9)
    assert divergence > 0


# ------------------------------------------------------------------ 2. by number
def test_the_papers_setting_is_the_default():
    """Sec. 3.3 and App. A.4; batch and windows are inverse to their length."""
    args = args2()
    assert (args.window, args.mask, args.tau, args.tau_m, args.lam) == (64, 0.25, 0.1, 0.07, 0.5)
    assert (args.epochs, args.warmup_epochs, args.lr, args.weight_decay) == (100, 10, 2e-3, 0.05)
    assert (args.bank, args.align, args.sampling, args.clip_grad) == ("complete", "middle",
                                                                      "random", 1.0)
    for window, batch, windows in ((32, 64, 75), (64, 32, 38), (128, 16, 19)):
        args = args2("--window", str(window))
        assert (args.batch, args.windows_per_half) == (batch, windows)
    args = args2("--window", "128", "--batch", "7", "--windows-per-half", "5")
    assert (args.batch, args.windows_per_half) == (7, 5)
    assert args2("--window", "16384").batch == args2("--window", "16384").windows_per_half == 1


def test_learning_rate():
    """Up from 5e-6 (1 %) to 5e-4 within 10 of 100 epochs, then a cosine to 5e-6."""
    args, total = args2(), 10_000
    lr = [stage2.lr_at(step, total, args) for step in range(total)]
    assert max(lr) == pytest.approx(5e-4) and np.argmax(lr) in (999, 1000)
    assert lr[0] == pytest.approx(5e-6, rel=0.11) and lr[-1] == pytest.approx(5e-6, rel=1e-4)
    np.testing.assert_allclose(np.diff(lr[:1000]), 0.99 * 5e-4 / 1000)
    assert lr[1000 + 4500] == pytest.approx((5e-4 + 5e-6) / 2)
    # 64 windows of 32, 32 of 64: as many tokens. With the batch alone, or the window, it scales.
    assert stage2.lr_at(999, total, args2("--window", "32")) == pytest.approx(5e-4)
    assert stage2.lr_at(999, total, args2("--batch", "8")) == pytest.approx(1.25e-4)
    assert stage2.lr_at(999, total, args2("--batch", "32", "--window", "32")) == pytest.approx(
        2.5e-4)


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
    odd = args2("--batch", "5", "--windows-per-half", "4", "--epochs", "3")
    assert stage2.count_steps(odd, halves) == 36 // 5      # epochs follow without a seam
    orders = [[h for h, _ in picks_of((2 * epoch, 2 * epoch + 1))] for epoch in range(5)]
    assert len(set(map(tuple, orders))) > 1                           # another order every epoch


def test_sampling_is_a_function_of_seed_and_step():
    """In any order of asking, whatever else was drawn in between."""
    def pick(step, seed):
        args = args2("--window", "8", "--batch", "32", "--seed", seed)
        return stage2.pick_windows(step, args, halves_of(50, 70))

    forward = [pick(step, "5") for step in range(12)]
    np.random.seed(1)
    torch.manual_seed(1)
    assert [pick(step, "5") for step in reversed(range(12))] == forward[::-1]
    assert [pick(step, "6") for step in range(12)] != forward
    assert forward[0] != forward[1]


def test_the_views_recipe(monkeypatch):
    """The whole frame, squeezed; strengths and probabilities of the paper, in their order;
    normalised at the end, and only there."""
    calls = []

    def spy(name, original):
        def called(x, *args, **kwargs):
            given = [a for a in args if not isinstance(a, augment.Draws)]
            calls.append((name, *given, *kwargs.values()))
            return original(x, *args, **kwargs)
        return called

    for name in ("resize", "crop_resize", "random_boxes", "color_jitter", "grayscale",
                 "gaussian_blur", "solarize", "hflip", "normalize"):
        monkeypatch.setattr(augment, name, spy(name, getattr(augment, name)))
    frames = torch.randint(0, 256, (3, 2, 48, 48, 3), dtype=torch.uint8)          # (B, T, H, W, 3)
    cfg, cpu = model.MODELS["vivit_micro"], torch.device("cpu")
    for color in ([0.8, 0.8, 0.4, 0.2], [0.1, 0.2, 0.3, 0.4]):
        calls.clear()
        args = args2("--color", *map(str, color)) if color[0] != 0.8 else args2()
        made = stage2.view(frames, augment.Draws(0, 0, 3), cfg, args, cpu)
        assert calls == [("resize", 48), ("color_jitter", color, 0.8), ("grayscale", 0.2),
                         ("gaussian_blur", 0.5), ("solarize", 0.2), ("hflip", 0.5),
                         ("normalize", True)]
        assert made.shape == (3, 2, 3, 48, 48)


# ------------------------------------------------------------------ 3. steps by hand
COMMON = shlex.split("--model vivit_micro --workers 1 --device cpu --log-every 2 --lr 0.01 "
                     "--seed 5 --batch 4 --steps 6 --window 8 --features-name teacher")


def run2(matches, out, *more):
    """Runs stage 2 through its main; returns the checkpoint that it left."""
    stage2.main(stage2.parse_args(["--data", str(matches), "--out", str(out), *COMMON, *more]))
    return model.load_checkpoint(Path(out) / "last.pt")


def logged(out, key="divergence"):
    """One number of every line of a log.txt: [float]."""
    return [float(number) for number in
            re.findall(rf"\| {key} (\S+)", (Path(out) / "log.txt").read_text())]


def small_stage_1(path, drop_path):
    """Writes a checkpoint of stage 1, of a network with drop path; returns its weights."""
    cfg = replace(SMALL, drop_path=drop_path)
    torch.manual_seed(1)
    weights = model.spatial_encoder(cfg).state_dict()
    weights = {name: value + 0.02 * torch.randn_like(value) for name, value in weights.items()}
    save_checkpoint(path, stage=1, step=9, config=asdict(cfg),
                          model={f"spatial.{name}": value for name, value in weights.items()})
    return weights


def features_with_equal_rows(root):
    """Another teacher, float64 and of any length, in a folder of its own; some of its seconds are
    equal to others of their half and of another match."""
    rng, P = np.random.default_rng(3), []
    for match, number in HALVES:
        n = {("one", 1): 30, ("one", 2): 20, ("two", 1): 26, ("two", 2): 23}[match, number]
        rows = 5 * rng.standard_normal((n, 10))
        rows[6:8] = rows[5]
        rows[10] = P[0][10] if P else rows[10]
        (root / "league" / match).mkdir(parents=True, exist_ok=True)
        np.save(root / "league" / match / f"{number}_other.npy", rows)
        P.append(rows)
    return P                                                          # of every half (seconds, 10)


HAND = shlex.split(
    "--model vivit_tiny --batch 4 --window 8 --windows-per-half 3 --sampling bins --steps 4 "
    "--epochs 8 --warmup-epochs 3 --tau 0.2 --tau-m 0.11 --lam 0.3 --mask 0.4 --weight-decay 20 "
    "--clip-grad 0.05 --lr 5 --color 0.3 0.2 0.5 0.1 --temporal-depth 3 --seed 4 "
    "--features-name other --log-every 1 --save-every 1 --workers 1 --device cpu")
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
    frames = np.stack([[cv2.imread(f"{matches}/league/{HALVES[h][0]}/{HALVES[h][1]}_224p/"
                                   f"{first + t + 1:08d}.png")[:, :, ::-1]
                        for t in range(2 * WINDOW)] for h, first in picks])
    draw = augment.Draws(SEED, step, BATCH)
    x = torch.from_numpy(frames.copy()).permute(0, 1, 4, 2, 3).float()
    x = augment.resize(x, cfg.image_size)
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
    """Clips one by one through the spatial encoder but for the masked ones; the temporal
    transformer sees the mask token in their places."""
    places = [(b, k) for b in range(BATCH) for k in range(WINDOW) if not masked[b, k]]
    h = net.spatial(torch.stack([x[b, 2 * k:2 * k + 2] for b, k in places]))
    h = dict(zip(places, h, strict=True))
    return net.temporal(torch.stack([
        torch.stack([h.get((b, k), net.temporal.mask_token[0, 0]) for k in range(WINDOW)])
        for b in range(BATCH)]))


class Adam:
    """AdamW for one parameter, spelled out."""

    def __init__(self, parameter, decay):
        self.value, self.decay, self.t = parameter, decay, 0
        self.m = self.v = torch.zeros_like(parameter)

    def step(self, gradient, lr):
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * gradient
        self.v = 0.999 * self.v + 0.001 * gradient ** 2
        m, v = self.m / (1 - 0.9 ** self.t), self.v / (1 - 0.999 ** self.t)
        with torch.no_grad():
            self.value.mul_(1 - lr * self.decay).sub_(lr * m / (v.sqrt() + 1e-8))


def steps_by_hand(matches, features, net, projector, align):
    """Yields after each of the steps: input, masks, loss, divergence, rate, norm, {name: Adam}."""
    P = F.normalize(torch.from_numpy(np.concatenate(features)), dim=1)            # (99, 10)
    first_row = np.cumsum([0, *map(len, features)])
    parameters = {**{f"model.{name}": p for name, p in net.named_parameters()
                     if not name.startswith("head.")},
                  **{f"projector.{name}": p for name, p in projector.named_parameters()}}
    free = ("bias", "pos_embed", "cls_token", "mask_token")
    adams = {name: Adam(p, 0 if name.endswith(free) or "norm" in name else DECAY)
             for name, p in parameters.items()}
    args = stage2.parse_args(["--data", "x", *HAND])
    for step in range(STEPS):
        picks = stage2.pick_windows(step, args, find_halves(matches))             # test_windows
        assert any(first % 2 for _, first in picks)
        own = []
        for h, first in picks:
            for k in range(WINDOW):
                frame = first + 2 * k + (1 if align == "middle" else 0)
                own.append(first_row[h] + min(frame // 2, len(features[h]) - 1))
        x, masked = input_by_hand(matches, picks, step, net.cfg)
        z = F.normalize(projector(tokens_by_hand(net, x, masked)).double(), dim=2).flatten(0, 1)
        loss, divergence = sce_by_hand(z, torch.tensor(own), P)
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        norm = torch.stack([g.double().norm() for g in gradients]).norm().item()
        assert norm > CLIP, "clipping must bite"
        lr = PEAK * (0.01 + 0.99 * {0: 1 / 1.5, 1: 1.0}[step] if step < 2 else      # of 1.5 steps
                     0.01 + 0.99 * (1 + math.cos(math.pi * (step - 1.5) / 2.5)) / 2)
        for adam, gradient in zip(adams.values(), gradients, strict=True):
            adam.step(gradient * CLIP / norm, lr)
        yield x, masked, loss.item(), divergence.item(), lr, norm, adams


@pytest.mark.parametrize("align", ["middle", "first"])
def test_steps_by_hand(align, matches, tmp_path, monkeypatch):
    """The default path: the complete bank, larger than a chunk; masks; drop path; windows that
    begin between two seconds; weights of stage 1, whose network counts, not --model's."""
    monkeypatch.setattr(stage2, "CHUNK", 16)
    spatial = small_stage_1(tmp_path / "stage1.pt", drop_path=0.3)
    features = features_with_equal_rows(tmp_path / "features")
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
    stage2.main(stage2.parse_args([
        "--data", str(matches), "--out", str(tmp_path / "run"), "--align", align,
        "--init", str(tmp_path / "stage1.pt"), "--features", str(tmp_path / "features"), *HAND]))

    net, projector = start                                # as they were before the first step
    assert all(torch.equal(value, spatial[name]) for name, value in net.spatial.named_parameters())
    assert len(net.temporal.blocks) == 3 and net.cfg.head_width == 48
    assert [layer.weight.shape for layer in list(projector)[::2]] == [(48, 32), (48, 48), (10, 48)]
    for block, source in zip(net.temporal.blocks, net.spatial.blocks, strict=False):
        assert all(torch.equal(value, dict(source.named_parameters())[name])
                   for name, value in block.named_parameters())
    assert torch.equal(net.temporal.norm.weight, net.spatial.norm.weight)
    assert net.temporal.mask_token.eq(0).all() and 0.01 < net.temporal.pos_embed.std() < 0.03
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    net.requires_grad_(True)

    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert len(lines) == len(saved) == len(added) == STEPS
    decays, free, moved = None, None, None
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
        # -- the optimiser
        state = saved[step][1]
        groups = state["optimizer"]["param_groups"]
        assert [group["lr"] for group in groups] == pytest.approx([lr, lr], rel=1e-12)
        decays, free = ([name for name, adam in adams.items() if bool(adam.decay) == on]
                        for on in (True, False))
        assert [len(group["params"]) for group in groups] == [len(decays), len(free)]
        moments = state["optimizer"]["state"]
        assert len(moments) == len(adams)
        for i, name in enumerate(decays + free):
            for key, expected in (("exp_avg", adams[name].m), ("exp_avg_sq", adams[name].v)):
                got = moments[i][key]
                assert (got - expected).norm() <= 1e-3 * expected.norm() + 1e-9, (step, name, key)
        # -- the weights
        for name, adam in adams.items():
            part, _, rest = name.partition(".")
            got, expected = state[part][rest], adam.value.detach()
            if rest.endswith("qkv.bias"):                 # a bias of all keys changes no attention:
                got, expected = (v.view(3, -1)[[0, 2]] for v in (got, expected))   # rounding alone
            moved = PEAK * expected.numel() ** 0.5        # about how far a step goes
            assert (got - expected).norm() <= 1e-3 * moved, (step, name)
    final = saved[-1][1]["model"]
    assert {name for name in final if torch.equal(final[name], before[name])} == {
        "head.weight", "head.bias"}                       # stage 3's; everything else has moved


# ------------------------------------------------------------------ 4. a broken teacher shows
def last_chunk_alone(table):
    """As if every chunk had been written over the first: the fault of a bar that stands still."""
    broken = np.zeros_like(table)
    broken[:3] = table[-3:]
    return broken


def of_another_bank(table):
    return soft_of(unit(len(table), table.shape[1] - 2, seed=8).float(), 0.07).pack().numpy()


class Oracle(stage2.Student):
    """A student that has learned what the right teacher wants, z_i along P_i + c_i (lam is 1/2)."""
    wanted = None

    def forward(self, x, keep):
        return Oracle.wanted + 0 * self.model.spatial.cls_token.sum()


def test_a_broken_teacher_shows(matches, tmp_path, monkeypatch):
    """The logged divergence of a first step, with the soft targets as they are and broken. A random
    student sees those that are gone, one that has learned sees those of other rows, too."""
    original, of_windows, tables = bank.load_or_make, bank.Bank.of_windows, {}

    def divergence(student, break_it):
        def stored(*args):
            tables["right"] = torch.from_numpy(np.array(original(*args)))
            return break_it(tables["right"].numpy())

        def spied(self, *args):
            p, i = of_windows(self, *args)
            Oracle.wanted = p + tables["right"][torch.from_numpy(i), :-2]
            return p, i

        monkeypatch.setattr(bank, "load_or_make", stored)
        monkeypatch.setattr(bank.Bank, "of_windows", spied)
        monkeypatch.setattr(stage2, "Student", student)
        out = tmp_path / f"{student.__name__} {break_it.__name__}"
        run2(matches, out, "--steps", "1", "--centroids", str(tmp_path))
        return logged(out)[0]

    def as_it_is(table):
        return table

    def of_the_next_row(table):
        return np.roll(table, -1, 0)

    at_random = stage2.Student
    assert divergence(at_random, last_chunk_alone) > divergence(at_random, as_it_is) + 0.5
    assert divergence(Oracle, as_it_is) < 0.5
    for break_it in (last_chunk_alone, of_another_bank, of_the_next_row):
        assert divergence(Oracle, break_it) > 3


# ------------------------------------------------------------------ 5. inside a run
def test_where_the_weights_come_from(matches, tmp_path):
    """--init: stage 1's spatial encoder and its network; temporal blocks are copies of the first
    spatial ones, or not. With a learning rate of 0 they can be seen where they arrived."""
    one = small_stage_1(tmp_path / "1.pt", drop_path=0.0)
    still = ["--init", str(tmp_path / "1.pt"), "--steps", "1", "--lr", "0"]
    runs = {name: run2(matches, tmp_path / name, *still, *more) for name, more in {
        "copy": [], "random": ["--temporal-init", "random"],
        "deep": ["--temporal-depth", "3"]}.items()}
    for state in runs.values():
        assert all(torch.equal(state["model"][f"spatial.{name}"], one[name]) for name in one)
        assert state["config"].embed_dim == 32 and state["config"].window_tokens == 8
        assert state["model"]["temporal.pos_embed"].shape == (1, 8, 32)
    copies = {how: {name for name in one
                    if torch.equal(state["model"].get(f"temporal.{name}", torch.empty(0)),
                                   one[name])} for how, state in runs.items()}
    of_blocks = {name for name in one if name.startswith(("blocks.", "norm."))}
    assert copies["copy"] == copies["deep"] == of_blocks and not copies["random"]
    assert "temporal.blocks.2.mlp.fc1.weight" in runs["deep"]["model"]            # has no source
    new = run2(matches, tmp_path / "new", "--steps", "1", "--temporal-depth", "1")
    assert new["config"].model == "vivit_micro" and new["config"].temporal_depth == 1


def test_a_swin_has_no_blocks_to_copy(tmp_path):
    """Its blocks attend in windows of a map; the temporal transformer starts at random."""
    cfg = replace(model.MODELS["viswin_tiny"], image_size=56, embed_dim=8, depth=(2, 2),
                  num_heads=(1, 1), temporal_heads=2)
    net = model.Comedian(cfg)
    save_checkpoint(tmp_path / "1.pt", stage=1, step=1, config=asdict(cfg),
                          model={name: value for name, value in net.state_dict().items()
                                 if name.startswith("spatial.")})
    init = model.load_checkpoint(tmp_path / "1.pt")
    cfg = replace(cfg, window_tokens=8)
    got = model.start_from(cfg, init, ["spatial."], "1.pt", "copy")
    assert torch.equal(got.spatial.norm.weight, net.spatial.norm.weight)
    assert torch.equal(got.spatial.patch_embed.proj.weight, net.spatial.patch_embed.proj.weight)
    assert got.cfg.window_tokens == 8 and len(got.temporal.blocks) == cfg.temporal_depth


def test_a_half_of_one_window_is_long_enough(matches, tmp_path, capsys):
    """Of 30, 20, 26 and 23 tokens, with windows of 23: one half is left out, of the bank too."""
    run2(matches, tmp_path, "--window", "23", "--steps", "1", "--centroids", str(tmp_path))
    printed = capsys.readouterr().out
    assert "1 of 4 halves are shorter than a window" in printed and "bank of 79 feat" in printed


def test_the_masks(matches, tmp_path, monkeypatch):
    """A quarter of the tokens of every window, other ones in every step; none with --mask 0."""
    keeps, tokens = [], model.Comedian.tokens
    monkeypatch.setattr(model.Comedian, "tokens",
                        lambda self, x, keep: keeps.append(keep) or tokens(self, x, keep))
    run2(matches, tmp_path / "1", "--steps", "2")
    run2(matches, tmp_path / "2", "--steps", "1", "--mask", "0")
    assert keeps[0].shape == keeps[1].shape == (4, 6) and not torch.equal(keeps[0], keeps[1])
    assert len(keeps[0].unique(dim=0)) > 1 and keeps[2] is None


@pytest.mark.parametrize("mask, masked", [("0", False), ("0.1", False), ("0.25", True)])
def test_what_is_trained_gets_a_gradient(mask, masked, matches, tmp_path, monkeypatch):
    """Everything but stage 3's head, and the mask token if a token is masked (0.1 of 8 is none):
    several processes would wait for the gradient of a weight that is not used."""
    without, clip = [], torch.nn.utils.clip_grad_norm_
    modules = record(monkeypatch, run.Process, "wrap")

    def spy(parameters, max_norm):
        net = modules[0][0][1]
        without.append([name for name, p in net.named_parameters() if p.grad is None])
        assert all(p.requires_grad == (p.grad is not None) for p in net.parameters())
        return clip(parameters, max_norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    state = run2(matches, tmp_path, "--steps", "2", "--mask", mask)
    expected = ["model.head.weight", "model.head.bias"]
    if not masked:
        expected.append("model.temporal.mask_token")
    assert sorted(without[0]) == sorted(without[1]) == sorted(expected)
    assert state["model"]["temporal.mask_token"].any() == masked


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_queue(accumulate, matches, tmp_path, monkeypatch):
    """--bank queue: 65,536 random unit vectors to begin with; the 32 features of a step, those of
    the tokens' own seconds, go in after it, from the front. No soft targets are made."""
    calls = record(monkeypatch, stage2, "sce_loss_queue")
    state = run2(matches, tmp_path / "run", "--bank", "queue", "--accumulate", str(accumulate),
                 "--tau", "0.2", "--tau-m", "0.11", "--lam", "0.3",
                 "--centroids", str(tmp_path / "none"))
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
    halves, args = find_halves(matches), args2("--batch", "4", "--window", "8", "--seed", "5")
    for b, (h, start) in enumerate(stage2.pick_windows(0, args, halves)):
        seconds = [min((start + 2 * k + 1) // 2, halves[h].n_frames // 2 - 1) for k in range(8)]
        rows = np.load(matches / halves[h].match / f"{halves[h].number}_teacher.npy")[seconds]
        expected = F.normalize(torch.from_numpy(rows), dim=1)
        torch.testing.assert_close(pushed[8 * b:8 * b + 8], expected)


def test_a_full_queue_forgets_the_oldest(matches, tmp_path, monkeypatch):
    """It is a ring: at its end the features go on from the front. Here it has 40 places for 32
    features a step."""
    randn = torch.randn
    monkeypatch.setattr(torch, "randn",
                        lambda *shape, **more: randn(40 if shape[0] == 65536 else shape[0],
                                                     *shape[1:], **more))
    calls = record(monkeypatch, stage2, "sce_loss_queue")
    state = run2(matches, tmp_path, "--bank", "queue", "--steps", "3")
    p = [args[1].flatten(0, 1) for args, _ in calls]
    expected = torch.cat([p[2][16:], p[1][24:], p[2][:16]])           # written at 64 .. 95, mod 40
    assert torch.equal(state["queue"][:16], expected[:16])
    assert torch.equal(state["queue"][24:], p[2][:16])
    assert torch.equal(state["queue"][16:24], p[1][24:])


@pytest.mark.parametrize("options", [[], ["--bank", "queue"]], ids=["complete bank", "queue"])
def test_accumulation_changes_nothing(options, matches, tmp_path, monkeypatch):
    """The same gradients, loss and divergence from one pass and from two, but for rounding:
    augmentations and masks are those of the whole batch."""
    calls, clip = [], torch.nn.utils.clip_grad_norm_

    def spy(parameters, max_norm):
        parameters = list(parameters)
        calls.append([torch.zeros_like(p) if p.grad is None else p.grad.clone()
                      for p in parameters])
        return clip(parameters, max_norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    for passes in ("1", "2"):
        run2(matches, tmp_path / passes, *options, "--accumulate", passes, "--steps", "1")
    one, two = calls
    assert sum((g != 0).any() for g in one) > len(one) / 2
    scale = torch.stack([g.norm() for g in one]).norm()
    for a, b in zip(one, two, strict=True):           # float32: small sums cancel
        assert (a - b).norm() <= 1e-3 * a.norm() + 1e-5 * scale
    for key in ("loss", "divergence"):
        assert logged(tmp_path / "1", key) == pytest.approx(logged(tmp_path / "2", key), abs=2e-4)


def test_half_precision(matches, tmp_path, monkeypatch):
    """--bf16: network and bank in bfloat16, sums in float32. The numbers of the first step are
    those of float32 to three digits."""
    calls = record(monkeypatch, stage2, "sce_loss")
    for name, more in {"float32": [], "bf16": ["--bf16"]}.items():
        run2(matches, tmp_path / name, "--steps", "1", "--centroids", str(tmp_path / name), *more)
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
    path, = tmp_path.iterdir()
    assert re.fullmatch(r"centroids_teacher_tau0\.07_[0-9a-f]{12}\.npy", path.name)


# ------------------------------------------------------------------ 6. the log, mistakes
def test_the_log_has_the_mean_divergence(matches, tmp_path, monkeypatch):
    calls, original = [], stage2.sce_loss
    monkeypatch.setattr(stage2, "sce_loss", lambda *a: calls.append(original(*a)) or calls[-1])
    run2(matches, tmp_path, "--log-every", "4")
    divergence = [call[1].item() for call in calls]
    assert logged(tmp_path) == pytest.approx(
        [np.mean(divergence[:4]), np.mean(divergence[4:])], abs=6e-5)


def as_npz(path, rows):
    with open(path, "wb") as file:
        np.savez(file, rows)


def cut_short(path, rows):
    np.save(path, rows)
    path.write_bytes(path.read_bytes()[:-1])


SPOILT = {                            # what lies in the third half's file, the end of the one line
    "other widths": (lambda path, rows: np.save(path, rows[:, :5]),
                     "features of width 5, those of .* have 12; use one teacher for all halves"),
    "not finite": (lambda path, rows: np.save(path, np.where(rows > 2, np.nan, rows)),
                   "holds values that are not finite; extract this half's features again"),
    "cut short": (cut_short, r"not a plain .npy array \(cut short, its header promises \(26, 12\)"),
    "2 per second": (lambda path, rows: np.save(path, rows.repeat(2, 0)),
                     "52 rows for a half of 26 s, which is 2 rows per second"),
    "half of it": (lambda path, rows: np.save(path, rows[:5]), "5 rows for a half of 26 s"),
    "an .npz called .npy": (as_npz, "not a plain .npy array .it does not begin as one"),
    "complex": (lambda path, rows: np.save(path, rows + 1j), "must be numbers .* complex"),
    "of one axis": (lambda path, rows: np.save(path, rows[:, 0]), r"got \(26,\) of float32"),
    "objects": (lambda path, rows: np.save(path, {"rows": rows}, allow_pickle=True),
                "not a plain .npy array .it holds Python objects: save the array in it alone"),
    "missing": (lambda path, rows: None, "no teacher features for this half")}


@pytest.mark.parametrize("spoil, message", SPOILT.values(), ids=SPOILT)
def test_features_that_do_not_fit(spoil, message, matches, tmp_path):
    for half in find_halves(matches):
        path = tmp_path / half.match / f"{half.number}_teacher.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = np.load(matches / half.match / path.name)
        if (half.match, half.number) == ("league/two", 1):
            spoil(path, rows)
            spoilt = path
        else:
            np.save(path, rows)
    with pytest.raises(DataError, match=message) as error:
        run2(matches, tmp_path / "run", "--features", str(tmp_path))
    assert str(error.value).startswith(f"{spoilt}: ") and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_features_at_another_rate(matches, tmp_path, capsys):
    """Twice as many rows: refused, with the flag to give; and with it, taken."""
    for path in matches.rglob("*_teacher.npy"):
        rows = np.random.default_rng(1).standard_normal((2 * len(np.load(path)), 12))
        there = tmp_path / "features" / path.relative_to(matches)
        there.parent.mkdir(parents=True, exist_ok=True)
        np.save(there, rows.astype(np.float32))
    features = ["--features", str(tmp_path / "features")]
    with pytest.raises(DataError, match="rows per second and not 1; give --features-fps"):
        run2(matches, tmp_path / "run", *features)
    run2(matches, tmp_path / "run", *features, "--features-fps", "2")
    assert "198 features x 12, 2 per second" in capsys.readouterr().out


def test_features_that_are_all_equal(matches, tmp_path):
    """Eq. 4 would divide 0 by 0. With the queue, whose rows are random, there is something else."""
    for half in find_halves(matches):
        (tmp_path / half.match).mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / half.match / f"{half.number}_teacher.npy",
                np.full((half.n_frames // 2, 12), 3.0, np.float32))
    with pytest.raises(DataError, match="1_teacher.npy: all 99 features of the bank are equal"):
        run2(matches, tmp_path / "run", "--features", str(tmp_path))
    assert not (tmp_path / "run").exists()
    run2(matches, tmp_path / "run", "--features", str(tmp_path), "--bank", "queue", "--steps", "1")
    assert math.isfinite(logged(tmp_path / "run")[0])


def test_features_that_are_cut_under_a_run(matches, tmp_path, monkeypatch):
    """They are read at every step, not mapped: a line and not a SIGBUS."""
    for half in find_halves(matches):
        (tmp_path / half.match).mkdir(parents=True, exist_ok=True)
        path = tmp_path / half.match / f"{half.number}_teacher.npy"
        path.write_bytes((matches / half.match / path.name).read_bytes())
    done = run.Log.add

    def cut(self, step, *args, **more):
        for path in tmp_path.rglob("?_teacher.npy"):
            with open(path, "r+b") as file:
                file.truncate(200)
        done(self, step, *args, **more)

    monkeypatch.setattr(run.Log, "add", cut)
    with pytest.raises(DataError, match="_teacher.npy: was cut short; extract this half's"):
        run2(matches, tmp_path / "run", "--features", str(tmp_path))
