"""
What these tests prove about stage3_finetune.py:
  1. Eq. 7, mixup, the schedule, the sampler, the labels and the view are the paper's, by number
  2. flags that are not given follow the paper, or the checkpoint of --init
  3. two steps of each phase, by hand: a plain transcription of the paper's steps gives the weights,
     the optimiser's state, the learning rate, the log and the network's input that a run gives
  4. validation spots as infer.py does with the same flags; best.pt is the best of them
  5. a mistake is one line that says what to do, before any work
"""
import json
import math
import re
import signal
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import (
    N_FRAMES, adamw_by_hand, assert_near, assert_optimizer, check_accumulation,
    check_function_of_step, clipped_step, copied, frames_by_hand, halves_of, logged, record,
    record_augmentations, refused, write_init)

import infer
import model
import stage3_finetune as stage3
from comedian import DataError, augment, evaluate, soccernet
from comedian.frames import find_halves
from comedian.soccernet import (
    LABELS, PREDICTIONS, Event, read_classes, read_labels, read_predictions)

pytestmark = pytest.mark.usefixtures("no_pictures")


def parse(*flags):
    """flags: each may hold several, with spaces between them."""
    return stage3.parse_args(" ".join(map(str, flags)).split())


def configured(flags="", given=None):
    """(args, Config) as main has them. given: a checkpoint, as --init loads it."""
    return stage3.configure(parse("--data x", flags), given, "x.pt")[::-1]


def run(matches, out, *more):
    """Runs the script's main, by default from scratch; returns the checkpoint that it left."""
    small = "" if "--init" in " ".join(map(str, more)) else "--model vivit_micro --window 8"
    stage3.main(parse(
        f"--data {matches} --classes {matches}/classes.txt --out {out} --workers 1 --device cpu "
        "--log-every 2 --lr 0.01 --seed 5 --batch 4 --head-steps 3 --steps 3", small, *more))
    return model.load_checkpoint(Path(out, "last.pt"))


# ------------------------------------------------------------------ 1. the loss
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


def test_base_logits():
    """The share of positive tokens, no odd last frame; at least half a token from 0 and 1."""
    one, two = np.zeros((7, 4), bool), np.zeros((4, 4), bool)         # 3 + 2 tokens
    one[[0, 1, 2], 0], one[6, 1], two[3, 1] = True, True, True
    one[:, 3] = two[:, 3] = True
    shares = torch.sigmoid(stage3.base_logits([one, two]))
    torch.testing.assert_close(shares, torch.tensor([2 / 5, 1 / 5, 0.1, 0.9]))


@pytest.mark.parametrize("B", [64, 7])
def test_mixup(B):
    """Each window has its coefficient, its neighbour is its partner; the loss mixes like labels."""
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
    """Beta(0.1, 0.1): mean 1/2, variance 1 / (4 (2 a + 1)) = 0.208."""
    lam = augment.Draws(0, 0, 20_000).beta(0.1)
    assert lam.mean().item() == pytest.approx(0.5, abs=0.02)
    assert lam.var().item() == pytest.approx(1 / 4.8, abs=0.01)


# ------------------------------------------------------------------ 1. the schedule
def test_learning_rate():
    """Both phases from 2.5e-4 at once, down a cosine to 2.5e-6; --head-lr is the first's alone."""
    args, _ = configured()                                            # 64 windows of 128 frames
    lr = [stage3.lr_at(step, 1000, 3000, args) for step in range(3001)]
    for phase in (np.array(lr[:1000]), np.array(lr[1000:])):
        n = len(phase) // 2 * 2
        assert phase[0] == pytest.approx(2.5e-4) and (np.diff(phase) < 0).all()
        assert phase[n // 2] == pytest.approx((2.5e-4 + 2.5e-6) / 2)
        assert phase[-1] == pytest.approx(2.5e-6, rel=1e-3)
    assert lr[500] == pytest.approx(lr[2000])                         # each half way down its own
    assert max(lr) <= 2.5e-4 * (1 + 1e-12)

    # With windows per step and with their frames; so the paper's batches share one rate.
    for flags, step, peak in (
            ("--head-lr 1e-3", 0, 5e-4), ("--head-lr 1e-3", 1000, 2.5e-4), ("--head-lr 0", 0, 0),
            ("--window 32", 0, 2.5e-4), ("--window 32 --batch 64", 0, 1.25e-4),
            ("--batch 16", 0, 6.25e-5)):
        assert stage3.lr_at(step, 1000, 3000, configured(flags)[0]) == pytest.approx(peak)


# ------------------------------------------------------------------ 1. the sampler
def test_windows():
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
    tight = {tuple(sorted(first for _, first in stage3.epoch_windows(0, epoch, (257,), window, 4)))
             for epoch in range(60)}                      # two free ones with one frame to spare
    assert tight == {(0, 0, 128, 129), (0, 0, 129, 129), (0, 1, 129, 129)}
    assert sorted(stage3.epoch_windows(0, 0, (500,), window, 2)) == [(0, 0), (0, 372)]


def test_the_steps_walk_through_the_epochs():
    """Shuffled epochs, one after the other without a seam; other windows in each, from --seed."""
    flags = "--window 32 --batch 5 --windows-per-half 6 --head-epochs 3 --epochs 4 --valid-every 3"
    args, n_frames = configured(flags)[0], (500, 300)
    epochs = [stage3.epoch_windows(args.seed, epoch, n_frames, 64, 6) for epoch in range(4)]
    steps = [stage3.pick_windows(step, args, n_frames) for step in range(6)]
    assert [pick for step in steps for pick in step] == [w for epoch in epochs for w in epoch][:30]
    assert len(epochs[0]) == 12 and Counter(epochs[0]) != Counter(epochs[1])
    assert stage3.count_steps(args, n_frames) == (36 // 5, 36 // 5 + 48 // 5, 36 // 5)
    assert epochs[0] != sorted(epochs[0])
    check_function_of_step(lambda step, seed: stage3.pick_windows(
        step, configured(f"{flags} --seed {seed}")[0], n_frames))


# ------------------------------------------------------------------ 1. the labels
@pytest.mark.parametrize("rate", [Fraction(2), Fraction(25, 12), Fraction(25), Fraction(2997, 100),
                                  Fraction(30000, 1001)], ids=str)
@pytest.mark.parametrize("radius", [Fraction(1, 2), Fraction(3, 10), Fraction(0)], ids=str)
def test_labels_of_a_frame(rate, radius):
    """Frame i is positive iff an event lies within the radius of i / fps, both ends included."""
    half, = halves_of(200, fps=float(rate))
    frame_ms = [round(1000 * i / rate) for i in range(200) if 1000 * i % rate.numerator == 0]
    radius_ms = int(1000 * radius)
    on_the_bound = [t + sign * radius_ms + off for t in frame_ms for sign in (-1, 1)
                    for off in (-1, 0, 1)]
    anywhere = np.random.default_rng(0).integers(0, int(200_000 / rate), 40).tolist()
    assert frame_ms
    for position_ms in [*on_the_bound[:60], *on_the_bound[-60:], *anywhere]:
        expected = [i for i in range(200) if abs(Fraction(position_ms, 1000) - i / rate) <= radius]
        got = stage3.frame_labels([Event(1, 0, position_ms, True)], half, float(radius), 1)
        assert got[:, 0].nonzero()[0].tolist() == expected, position_ms


def test_labels_of_a_half():
    """Every event of this half, seen or not; of those beyond its ends what is there."""
    events = [Event(1, 0, 5000, True), Event(1, 2, 5000, False), Event(2, 1, 5000, True),
              Event(1, 1, -300, True), Event(1, 2, 20_000, True), Event(1, 0, 99_000, True),
              Event(1, 0, -99_000, True)]
    half, = halves_of(40)
    first, second = (stage3.frame_labels(events, replace(half, number=n), 0.5, 3) for n in (1, 2))
    assert first.dtype == bool and first.shape == (40, 3)
    assert [column.nonzero()[0].tolist() for column in np.hstack([first, second]).T] == [
        [9, 10, 11], [0], [9, 10, 11, 39], [], [9, 10, 11], []]


def test_labels_of_a_token():
    """Token k is positive iff the event is in [k - 0.5, k + 1]: one of them, or two."""
    positives, (half,) = [], halves_of(60)
    for position_ms in range(10_001, 12_000, 13):
        labels = stage3.frame_labels([Event(1, 0, position_ms, True)], half, 0.5, 1)
        tokens = stage3.token_labels(labels, 0, 30)[:, 0]
        expected = [k for k in range(30) if k - 0.5 <= position_ms / 1000 <= k + 1]
        assert tokens.nonzero()[0].tolist() == expected
        positives.append(len(expected))
    assert set(positives) == {1, 2} and np.mean(positives) == pytest.approx(1.5, abs=0.02)
    labels = np.zeros((60, 2), bool)
    labels[9, 1] = True
    got = stage3.token_labels(labels, 7, 4)         # a window on an odd frame: clips 7 8, 9 10, ...
    assert got.dtype == np.float32 and got.tolist() == [[0, 0], [0, 1], [0, 0], [0, 0]]


# ------------------------------------------------------------------ 1. the view
def test_the_views_recipe(monkeypatch):
    """App. A.5 in its order, without a crop; normalised at the end, and only there."""
    calls = record_augmentations(monkeypatch)
    frames = torch.randint(0, 256, (3, 2, 48, 48, 3), dtype=torch.uint8)          # (B, T, H, W, 3)
    args, cfg = configured("--model vivit_micro")
    made = stage3.view(frames, augment.Draws(0, 0, 3), cfg, args.color, torch.device("cpu"))
    assert calls == [("resize", 48), ("color_jitter", [0.4, 0.4, 0.4, 0.0], 0.8),
                     ("gaussian_blur", 0.5), ("hflip", 0.5), ("normalize", True)]
    assert made.shape == (3, 2, 3, 48, 48)


# ------------------------------------------------------------------ 2. flags that are not given
@pytest.mark.parametrize("flags, expected", [
    ("", dict(window=64, batch=64, windows_per_half=25, lr=5e-4, epochs=20, head_epochs=30,
              mask=0.25, head_phase="head")),
    ("--window 32", dict(window=32, batch=128, windows_per_half=50, lr=5e-4)),
    ("--window 128", dict(window=128, batch=32, windows_per_half=12, epochs=20, head_epochs=30)),
    ("--window 16384", dict(batch=1, windows_per_half=2)),
    ("--model viswin_tiny", dict(lr=3e-4, epochs=10, head_epochs=30, window=64, batch=64)),
    *((f"--model {name} --window 128 --batch 3 --lr 0 --windows-per-half 7 --epochs 0",
       dict(window=128, batch=3, lr=0, windows_per_half=7, epochs=0))     # a 0 is given, too
      for name in ("vivit_tiny", "viswin_tiny"))])
def test_defaults_follow_the_window_and_the_model(flags, expected):
    """App. A.5: as many frames a step and an epoch, whatever the window. What is given wins."""
    args, cfg = configured(flags)
    assert expected.items() <= vars(args).items() and cfg.window_tokens == args.window
    assert cfg.spatial == ("swin" if "viswin" in flags else "vit")


def checkpoint(stage, **changes):
    return {"stage": stage, "config": model.with_changes("vivit_micro", **changes)}


def test_the_checkpoint_says_what_it_was_trained_with(tmp_path):
    """Window, depth: of stage 2 or 3. Classes: a file's, stage 3's, or the labels'."""
    changes = dict(window_tokens=32, temporal_depth=3, classes=("a", "b"), drop_path=0.05)
    (tmp_path / "classes.txt").write_text("c\na\n")
    for stage, flags, window, depth, classes, batch in (
            (3, "", 32, 3, ("a", "b"), 128), (2, "", 32, 3, (), 128),
            (3, f"--classes {tmp_path}/classes.txt", 32, 3, ("c", "a"), 128),
            (1, "--temporal-depth 5", 64, 5, (), 64)):
        args, cfg = configured(flags, given=checkpoint(stage, **changes))
        assert (cfg.window_tokens, cfg.temporal_depth, cfg.classes) == (window, depth, classes)
        assert (cfg.model, cfg.drop_path) == ("vivit_micro", 0.05)    # and whatever else it has
        assert (args.window, args.temporal_depth, args.batch) == (window, depth, batch)


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("flag, message", [
    ("--window 16", "x.pt: was trained with window 32; give --window 32, or leave it out"),
    ("--temporal-depth 3",
     "x.pt: was trained with temporal_depth 2; give --temporal-depth 2, or leave it out")])
def test_a_shape_that_the_checkpoint_does_not_have(stage, flag, message):
    with refused(match=f"^{message}$"):
        configured(f"--init x.pt {flag}", given=checkpoint(stage, window_tokens=32))


def test_from_scratch_with_a_depth(matches, tmp_path):
    """And epochs become steps: 6 windows each (2 of 3 halves, one is shorter), 3 a step."""
    state = run(matches, tmp_path, "--temporal-depth 1 --head-steps 0 --steps 0 --head-epochs 1 "
                "--epochs 2 --windows-per-half 2 --batch 3 --window 21 --save-every 99")
    assert state["config"].temporal_depth == 1 and state["step"] == 2 + 4
    assert {name.split(".")[2] for name in state["model"] if "temporal.blocks" in name} == {"0"}
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(     # 4th of 4 steps
        0.01 * 3 / 256 * 42 / 64 * (0.01 + 0.99 * (1 + math.cos(math.pi * 3 / 4)) / 2))


@pytest.mark.parametrize("how", ["copy", "random"])
def test_from_stage_1(how, matches, tmp_path):
    """The temporal transformer is new: copied from the first spatial blocks, or random."""
    one = write_init(tmp_path / "one.pt", 1)
    three = run(matches, tmp_path / "run", f"--init {tmp_path}/one.pt --window 8 --lr 0 --steps 1 "
                f"--head-steps 1 --temporal-depth 3 --temporal-init {how}")
    assert three["config"].temporal_depth == 3 and three["config"].drop_path == 0.2
    assert all(torch.equal(three["model"][name], value) for name, value in one.items())
    copied = [torch.equal(value, one[name.replace("temporal", "spatial")])
              for name, value in three["model"].items()
              if re.fullmatch(r"temporal\.blocks\.\d\.(attn|mlp)\.\w+\.weight", name)]
    assert len(copied) == 3 * 4 and set(copied) == {how == "copy"}


def test_from_a_swin_of_stage_1(matches, tmp_path):
    """It has no blocks that the temporal transformer could begin with."""
    one = write_init(tmp_path / "one.pt", 1, spatial="swin", image_size=56, patch_size=4,
                     embed_dim=8, depth=(2, 2), num_heads=(1, 1), temporal_heads=2)
    three = run(matches, tmp_path / "run", f"--init {tmp_path}/one.pt --window 8 --lr 0 "
                "--head-steps 1 --steps 0 --epochs 0")
    assert (three["config"].window_tokens, three["config"].temporal_depth) == (8, 2)
    assert all(torch.equal(three["model"][name], value) for name, value in one.items())


@pytest.mark.parametrize("stage", [2, 3])
def test_from_stage_2_or_3(stage, matches, tmp_path):
    """Both transformers are taken over, the head starts anew."""
    two = write_init(tmp_path / "init.pt", stage, classes=("x", "y", "z"), temporal_depth=3)
    three = run(matches, tmp_path / "run",
                f"--init {tmp_path}/init.pt --lr 0 --prior 0.1 --head-steps 1 --steps 1")
    for name, value in three["model"].items():
        assert torch.equal(value, two[name]) != name.startswith("head"), name
    assert three["config"].classes == ("Goal", "Foul", "Corner")
    torch.testing.assert_close(three["model"]["head.bias"], torch.full((3,), math.log(1 / 9)))


# ------------------------------------------------------------------ 3. two steps by hand
HAND = dict(seed=3, window=8, windows_per_half=3, radius=0.8, mask=0.4, mixup=0.7, prior=0.2,
            lr=1.5, head_lr=4.0, weight_decay=2.0, clip_grad=0.02, head_steps=3, steps=3)
COLOR = [0.3, 0.2, 0.5, 0.1]
CLASSES = ("Corner", "Header", "Goal", "Foul")                        # nobody heads: no event


def labels_by_hand(matches, half, classes, radius):
    """(n_frames, K): 1 where an annotation of the class lies within `radius` seconds."""
    y, seconds = torch.zeros(half.n_frames, len(classes)), np.arange(half.n_frames) / 2
    for note in json.loads((matches / half.match / LABELS).read_text())["annotations"]:
        if note["gameTime"].startswith(f"{half.number} -") and note["label"] in classes:
            near = abs(int(note["position"]) / 1000 - seconds) <= radius
            y[torch.from_numpy(near), classes.index(note["label"])] = 1
    return y


def tokens_by_hand(y, first, n):
    """(n, K): a token has the classes of both of its frames."""
    return torch.stack([torch.maximum(y[first + 2 * k], y[first + 2 * k + 1]) for k in range(n)])


def bce_by_hand(logits, y):
    return -(y * F.logsigmoid(logits) + (1 - y) * F.logsigmoid(-logits)).mean()


def steps_by_hand(matches, init, batch, accumulate, cached):
    """Sec. 3.4 and App. A.5 with HAND's values. Yields after every step what a run must show."""
    h, L, halves = HAND, HAND["window"], find_halves(matches)
    y = [labels_by_hand(matches, half, CLASSES, h["radius"]) for half in halves]
    n_frames = tuple(half.n_frames for half in halves)
    windows = [w for epoch in range(9)
               for w in stage3.epoch_windows(h["seed"], epoch, n_frames, 2 * L, 3)]
    every = torch.cat([tokens_by_hand(labels, 0, len(labels) // 2) for labels in y])
    share = every.mean(0).clamp(min=0.5 / len(every))
    base = torch.log(share / (1 - share))                             # (K,)

    torch.manual_seed(h["seed"])
    net = model.Comedian(model.with_changes("vivit_micro", window_tokens=L, drop_path=0.2,
                                            classes=CLASSES))
    net.load_state_dict({name: value for name, value in init.items() if "head" not in name},
                        strict=False)
    torch.nn.init.constant_(net.head.bias, math.log(h["prior"] / (1 - h["prior"])))
    weights, mirrored = dict(net.named_parameters()), []

    for step in range(h["head_steps"] + h["steps"]):
        first_phase = step < h["head_steps"]
        t, last, peak = ((step, h["head_steps"], h["head_lr"]) if first_phase else
                         (step - h["head_steps"], h["steps"], h["lr"]))
        rate = (peak * batch / 256 * 2 * L / 64
                * (0.01 + 0.99 * (1 + math.cos(math.pi * t / last)) / 2))
        if t == 0:                                         # what learns, and AdamW, start anew
            parts = ("head.", "temporal.")[:1 + cached] if first_phase else ("",)
            learning = {name: weights[name] for part in parts for name in weights
                        if name.startswith(part)}
            adams, start = adamw_by_hand(learning, h["weight_decay"]), copied(weights)
            if first_phase:                                # which masks nothing
                learning.pop("temporal.mask_token", None)
        net.train(not first_phase)                         # drop path
        picks = windows[step * batch:(step + 1) * batch]
        grad, loss, base_loss, entered = {name: 0 for name in learning}, 0, 0, []
        for n in range(accumulate):
            rows = slice(n * batch // accumulate, (n + 1) * batch // accumulate)
            draw, keep = augment.Draws(h["seed"], step, batch, rows), None
            draw.seed_torch()
            starts = [(i, f // 2 * 2 if first_phase and cached else f) for i, f in picks[rows]]
            truth = torch.stack([tokens_by_hand(y[i], f, L) for i, f in starts])      # (b, L, K)
            frames = torch.stack([frames_by_hand(halves[i], f, 2 * L) for i, f in starts])
            x = augment.resize(frames.permute(0, 1, 4, 2, 3).float(), 48)     # (b, T, 3, 48, 48)
            if first_phase and cached:                     # as encoded, plain or mirrored
                flip = draw.uniform(0, 1) < 0.5
                x = torch.where(flip.view(-1, 1, 1, 1, 1), x.flip(4), x)
                clips = augment.normalize(x, True).reshape(-1, 2, 3, 48, 48)
                x = net.encode(clips).detach().view(len(starts), L, -1)       # (b, L, D)
                mirrored += flip.tolist()
            else:
                x = augment.color_jitter(x, draw, COLOR, 0.8)
                x = augment.normalize(augment.hflip(augment.gaussian_blur(x, draw, 0.5), draw, 0.5),
                                      True)
                noise = draw.uniform(0, 1, L)                                 # (b, L)
                if not first_phase:                        # floor(0.4 * 8) = 3 of 8 are masked
                    keep = torch.tensor([sorted(sorted(range(L), key=row.__getitem__)[3:])
                                         for row in noise.tolist()])          # (b, 5)
            lam = draw.beta(h["mixup"]).tolist()
            pair = [b ^ 1 if b ^ 1 < len(lam) else b for b in range(len(lam))]
            x, truth = (torch.stack([s * value[b] + (1 - s) * value[pair[b]]
                                     for b, s in enumerate(lam)]) for value in (x, truth))
            entered.append((x, keep))
            part = bce_by_hand(net(x, keep), truth) / accumulate
            for name, g in zip(learning, torch.autograd.grad(part, [*learning.values()]),
                               strict=True):
                grad[name] = grad[name] + g
            loss += part.item()
            base_loss += bce_by_hand(base.expand_as(truth), truth).item() / accumulate
        norm = clipped_step(adams, grad, h["clip_grad"], rate)
        yield dict(start=start, weights=weights, adams=adams, rate=rate, entered=entered,
                   mirrored=mirrored, logged={"loss": (loss, 1e-4), "base": (base_loss, 1e-4),
                                              "lr": (rate, 6e-3 * rate), "grad": (norm, 6e-3)})


@pytest.mark.parametrize("phase, batch, accumulate", [("head", 5, 1), ("temporal", 4, 2)])
def test_steps_by_hand(phase, batch, accumulate, matches, tmp_path, monkeypatch):
    """main over both phases, validated in between. Of 5 one has no partner in mixup."""
    init = write_init(tmp_path / "init.pt", 2)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    saved = record(monkeypatch, stage3.run, "save_checkpoint")
    entered, validated = [], record(monkeypatch, infer, "validate")
    forward = model.Comedian.forward
    monkeypatch.setattr(model.Comedian, "forward", lambda self, x, keep=None: entered.append(
        (x.detach().clone(), keep)) or forward(self, x, keep))
    flags = [f"--{key.replace('_', '-')} {value}" for key, value in HAND.items()]
    run(matches, tmp_path / "run", *flags, "--color", *COLOR, f"--init {tmp_path}/init.pt "
        f"--classes {tmp_path}/classes.txt --batch {batch} --head-phase {phase} --log-every 1 "
        f"--accumulate {accumulate} --save-every 1 --valid {matches} --valid-every 1 --nms greedy "
        "--ignore 1")
    monkeypatch.undo()
    states = [content for (path,), content in saved if path.name == "last.pt"]
    assert len(validated) >= 2 and len(states) == len(logged(tmp_path / "run")) == 6
    assert {call[0][4].args.nms for call in validated} == {"greedy"}
    numbers = {key: logged(tmp_path / "run", key) for key in ("loss", "base", "lr", "grad")}
    for step, by_hand in enumerate(steps_by_hand(matches, init, batch, accumulate,
                                                 phase == "temporal")):
        for key, (expected, apart) in by_hand["logged"].items():
            assert numbers[key][step] == pytest.approx(expected, abs=apart), key
        for x, keep in by_hand["entered"]:
            got_x, got_keep = entered.pop(0)
            torch.testing.assert_close(got_x, x, rtol=1e-4, atol=1e-4)
            assert (got_keep is None) == (keep is None) == (step < 3)
            assert keep is None or torch.equal(got_keep, keep)
        state, adams = states[step], by_hand["adams"]
        for name, value in copied(by_hand["weights"]).items():
            moved = (value - by_hand["start"][name]).norm()
            assert (moved > 0) == (name in adams and adams[name].t > 0), name
            # Where a gradient is almost 0, AdamW makes a step of its rounding.
            assert_near(state["model"][name], value, 0.01 * moved, name)
        assert_optimizer(state["optimizer"], adams, by_hand["rate"])
    assert not entered
    if phase == "temporal":
        assert 0 < sum(by_hand["mirrored"]) < len(by_hand["mirrored"]) == 12


def test_the_phases(matches, tmp_path, monkeypatch):
    """The head alone, then everything; the rate starts anew. Modes, masks: the tests around."""
    write_init(tmp_path / "init.pt", 2)
    saved = record(monkeypatch, stage3.run, "save_checkpoint")
    run(matches, tmp_path / "run", f"--init {tmp_path}/init.pt --save-every 1")
    states = [state for _, state in saved]
    rates = [state["optimizer"]["param_groups"][0]["lr"] for state in states]
    assert rates[:3] == rates[3:] == sorted(rates[:3], reverse=True)
    for step in range(1, 6):
        before, after = (states[i]["model"] for i in (step - 1, step))
        moved = {name for name in after if not torch.equal(after[name], before[name])}
        assert moved == ({"head.weight", "head.bias"} if step < 3 else set(after))


@pytest.mark.parametrize("head_phase, flags, learns", [
    (True, "--head-phase head", {"head"}),
    (True, "--head-phase temporal", {"head", "temporal"}),
    (False, "", {"head", "temporal", "spatial", "mask_token"}),
    (False, "--mask 0", {"head", "temporal", "spatial"})])
def test_what_learns(head_phase, flags, learns):
    """Exactly what a step uses: several processes wait for the gradient of all that learns."""
    args, cfg = configured(f"--model vivit_micro --device cpu {flags}")
    net, cpu = model.Comedian(cfg), stage3.run.init_processes(args, None, cfg.width, 3)
    for before in (True, False):                           # whatever learned before
        stage3.start_phase(net.requires_grad_(before), head_phase, cpu)
        assert net.training != head_phase
        for name, parameter in net.named_parameters():
            part = "mask_token" if name.endswith("mask_token") else name.split(".")[0]
            assert parameter.requires_grad == (part in learns), name


def test_accumulation_changes_nothing(matches, tmp_path, monkeypatch):
    """Augmentations, masks and mixup's pairs are those of the whole batch."""
    flags = "--batch 12 --mixup 0.9 --head-steps 0 --head-epochs 0 --steps 1 --log-every 1"
    check_accumulation(lambda out, *more: run(matches, out, flags, *more), tmp_path, monkeypatch,
                       ["1", "2", "3"], ["loss", "base"])


def test_a_run_learns(matches, tmp_path, monkeypatch):
    """On 8 windows that stay the same the loss falls to half of what base rates cost."""
    for name in ("color_jitter", "gaussian_blur", "hflip"):
        monkeypatch.setattr(augment, name, lambda x, *args, **kwargs: x)
    run(matches, tmp_path, "--lr 0.1 --head-steps 1 --steps 40 --mixup 0 --mask 0 --batch 8 "
        "--windows-per-half 2 --log-every 10")
    loss, base = logged(tmp_path), logged(tmp_path, "base")
    assert loss[0] > 0.9 * base[0] and loss[-1] < 0.5 * base[-1]
    assert len(set(base)) == 1                                        # it does not learn


# ------------------------------------------------------------------ 4. validation
POST = "--nms greedy --nms-window 4 --ignore 1 --stride 3 --merge mean --threshold 0.455"
VALID = "--valid {} --valid-every 1 --windows-per-half 2"


def infer_score(matches, out, checkpoint, flags):
    """t-AmAP of what infer.py writes, read back as anybody reads it."""
    infer.main(infer.parse_args(f"--data {matches} --out {out} --checkpoint {checkpoint} "
                                f"--device cpu --workers 1 {flags}".split()))
    classes = read_classes(matches / "classes.txt")
    events = {match: read_labels(matches / match / LABELS, classes)
              for match in ("league/one", "league/two")}
    spotted = {match: read_predictions(out / match / PREDICTIONS, classes) for match in events}
    return evaluate.score(events, spotted, classes)["tight"]["a_mAP"]


@pytest.mark.parametrize("flags", ["", POST], ids=["default", "given"])
def test_validation(flags, matches, tmp_path, monkeypatch):
    """best.pt is of the best; what is logged is what infer.py's files get; drop path is off."""
    monkeypatch.setitem(model.MODELS, "vivit_micro",
                        replace(model.MODELS["vivit_micro"], drop_path=0.5))
    state = run(matches, tmp_path / "run", VALID.format(matches), "--steps 2", flags)
    log = (tmp_path / "run" / "log.txt").read_text().splitlines()
    pattern = r"stage 3 \| step (\d+)/5 \| valid t-AmAP (\d+\.\d\d) % \| best (\d+\.\d\d) %"
    found = [re.fullmatch(pattern, line).groups() for line in log if "valid" in line]
    assert [int(step) for step, *_ in found] == [2, 4, 5]    # every epoch (2 steps), and at the end
    scores = [float(score) for _, score, _ in found]
    assert [float(best) for *_, best in found] == [max(scores[:i + 1]) for i in range(3)]
    best_pt = tmp_path / "run" / "best.pt"
    best = model.load_checkpoint(best_pt)
    assert best["step"] == int(found[int(np.argmax(scores))][0])
    assert 100 * best["best"] == pytest.approx(max(scores), abs=0.005)
    assert state["best"] == best["best"]
    assert infer_score(matches, tmp_path / "spots", best_pt, flags) == pytest.approx(
        best["best"], abs=1e-12)
    for other in ("--nms soft", "--nms-window 10", "--ignore 0", "--stride 6", "--merge max",
                  "--threshold 0.001") if flags else ():              # each of them counts
        out = tmp_path / other.split()[0]
        assert infer_score(matches, out, best_pt, f"{flags} {other}") != best["best"]


def test_best_survives_a_resume(matches, tmp_path, monkeypatch):
    """Only better checkpoints replace best.pt, also after a stop; equally good is not better."""
    scores, clip, steps = iter([0.5, 0.5, 0.3]), torch.nn.utils.clip_grad_norm_, []
    options = VALID.format(matches)
    monkeypatch.setattr(infer, "validate", lambda *args: next(scores))           # steps 2, 4, 6

    def stopped(*args):
        steps.append(1)
        if len(steps) == 5:
            signal.raise_signal(signal.SIGTERM)
        return clip(*args)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", stopped)
    with pytest.raises(SystemExit):
        run(matches, tmp_path, options)
    state = run(matches, tmp_path, options, "--resume")
    assert state["best"] == 0.5 and model.load_checkpoint(tmp_path / "best.pt")["step"] == 2


# ------------------------------------------------------------------ 5. mistakes
NO_LABELS = "nowhere: no such folder or table of labels; give one that exists"
MISTAKES = {                          # options, the one line
    "no labels": ("--labels nowhere", NO_LABELS),
    "no labels to validate on": ("--valid {} --valid-labels nowhere", NO_LABELS),
    "no file of classes": ("--classes nowhere.txt", "nowhere.txt: not a list of classes"),
    "no such checkpoint": ("--init nowhere.pt", "nowhere.pt: no such checkpoint"),
    "too short": ("--window 99", "no half is as long as a window (99 tokens; the longest has 30); "
                  "give longer videos or a shorter --window"),
    "no step": ("--head-steps 0 --steps 0 --head-epochs 1 --epochs 1 --windows-per-half 2 "
                "--batch 9", "too few windows for one step (8 an epoch, --batch 9); lower --batch, "
                "or give more --epochs or --steps"),
    "gaps in the validation": ("--valid {} --stride 7 --ignore 1", "--stride 7 with --ignore 1 "
                               "leaves seconds that no window of 8 scores")}


@pytest.mark.parametrize("options, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes(options, message, matches, tmp_path, monkeypatch):
    """One line, before a frame is read or a file written."""
    monkeypatch.setattr(stage3.FrameReader, "read", None)
    with refused(message, unmade=tmp_path / "run"):
        run(matches, tmp_path / "run", options.format(matches))


@pytest.mark.parametrize("valid", [False, True], ids=["data", "validation"])
def test_labels_without_an_event_of_the_classes(valid, matches, tmp_path, monkeypatch):
    """Refused before any work; the line names the labels that are there, and the flag."""
    flags = f"--classes {tmp_path}/classes.txt"
    if valid:                         # the training labels are right, those to validate on are not
        (tmp_path / "labels.csv").write_text("video,time,label\nleague/one/1.mkv,5,Penalty\n")
        flags += f" --labels {tmp_path}/labels.csv --valid {matches}"
    (tmp_path / "classes.txt").write_text("Penalty\nKick-off")
    monkeypatch.setattr(stage3, "start_phase", None)
    with refused(match=f"^{matches}: none of its labels is one of the 2 classes; it has 'Goal' "
                       ".11., 'Foul' .11., 'Corner' .10.; give --classes a file with these names, "
                       "one per line$", unmade=tmp_path / "run"):
        run(matches, tmp_path / "run", flags)


def test_matches_without_labels_are_left_out(matches, tmp_path, monkeypatch):
    """They would teach the network that nothing happens in them."""
    (tmp_path / "labels.csv").write_text("video,time,label\nleague/two/1_224p.mkv,3,Goal\n")
    seen = record(monkeypatch, stage3, "frame_labels")
    run(matches, tmp_path / "run", f"--labels {tmp_path} --head-steps 0 --head-epochs 0 --steps 1")
    assert [(half.match, half.number) for (_, half, *_), _ in seen] == [("league/two", 1),
                                                                        ("league/two", 2)]


def test_labels_of_no_class_are_named(matches, tmp_path, capsys):
    """A misspelt class must not look like a rare one."""
    (tmp_path / "classes.txt").write_text("Goal\nFuol\nCorner")
    run(matches, tmp_path / "run", f"--classes {tmp_path}/classes.txt --steps 1 --head-steps 1")
    printed = capsys.readouterr().out
    assert "Goal 11, Fuol 0, Corner 10" in printed
    assert "warning: annotations of no class are left out: 'Foul' (11)" in printed


def test_classes_of_a_resumed_run_are_its_own(matches, tmp_path):
    """The file's name is the same, what it holds is not: the head would be relabelled."""
    classes = tmp_path / "classes.txt"
    classes.write_text("Goal\nFoul")
    run(matches, tmp_path / "run", f"--classes {classes}")
    classes.write_text("Foul\nGoal")
    with pytest.raises(DataError, match="classes.txt: its classes are not those of .*last.pt"):
        run(matches, tmp_path / "run", f"--classes {classes} --resume")


def test_a_rate_too_low_for_the_batch_gets_a_hint(capsys):
    """The paper's own gets none."""
    for batch, hints in ((64, 0), (8, 1)):
        args, _ = configured(f"--batch {batch}")
        stage3.run.hint_at_low_rate(stage3.lr_at(0, 0, 1, args), args)
        assert capsys.readouterr().out.count("hint: --lr 0.0005") == hints


@pytest.mark.parametrize("init, expected", [
    (None, ("Ace", "Dive")), (("Goal", "Foul"), ("Ace", "Dive")),
    (("Save", "Dive", "Ace"), ("Save", "Dive", "Ace"))])
def test_classes_come_from_the_labels_where_most_are_others(init, expected, matches, tmp_path):
    """Whatever head --init has: it starts anew. A file of classes, and a resumed run's, stay."""
    (tmp_path / "labels.csv").write_text("video,time,label\nleague/one/1_224p.mkv,3,Dive\n"
                                         "league/two/2_224p.mkv,0:05,Ace\n")
    (tmp_path / "classes.txt").write_text("Dive")
    flags = f"--data {matches} --labels {tmp_path} --head-steps 1 --steps 1 --batch 4 --device cpu"
    if init:
        write_init(tmp_path / "init.pt", 3, classes=init)
    flags += f" --init {tmp_path}/init.pt" if init else " --model vivit_micro --window 8"
    for name, last, classes in (("run", "", expected), ("run", "--resume", expected),
                                ("named", f"--classes {tmp_path}/classes.txt", ("Dive",))):
        stage3.main(parse(flags, f"--workers 1 --out {tmp_path / name}", last))
        assert model.load_checkpoint(tmp_path / name / "last.pt")["config"].classes == classes
    _, events, classes = soccernet.labelled_halves(matches, tmp_path, classes=expected)
    assert events["league/two"] == [Event(2, expected.index("Ace"), 5000, True)]
    assert classes == expected


@pytest.mark.parametrize("flag", ["--labels", "--valid-labels"])
def test_labels_that_reach_no_frame_print_a_warning(flag, matches, tmp_path, capsys, monkeypatch):
    """Up to the last frame's radius. A video of another split is not missing."""
    (tmp_path / "one.txt").write_text("league/one")
    table, last_s = tmp_path / "labels.csv", (N_FRAMES["one", 2] - 1) / 2 + 0.5
    lost = f"league/one/2.mkv,{last_s + 0.001},Goal\nleague/one/1.mkv,12:34:00,Foul\n"
    options = (f"--split one.txt --valid-split one.txt --valid {matches} {flag} {table} "
               "--encoding cp1252")
    monkeypatch.chdir(tmp_path)
    table.write_text("video,time,label\n" + lost + f"league/one/2.mkv,{last_s},Goal\n"
                     "league/two/1.mkv,3,Foul\nLeague/Two/1.mkv,3,Foul\nüber,3,Foul\n", "cp1252")
    run(matches, tmp_path / "run", options)
    out = capsys.readouterr().out
    assert ("warning: 4 of 5 labels reach no frame: 2 after the end (first: Goal at 0:00:20 in half"
            " 2 of 'league/one'), 2 in a match that is not here (first: Foul at 0:00:03 in half 1 "
            "of 'League/Two')\ndata: 1 of 1 matches have labels: Goal 1, Foul 0, Corner 0\n") in out
    assert ("2 of the videos that it names are not here: 'League/Two' (did you mean 'league/two'?)"
            ", 'über'\n") in out
    table.write_text("video,time,label\n" + lost)
    with refused("labels.csv: none of its 2 labels reaches a frame: 2 aft",
                 unmade=tmp_path / "again"):
        run(matches, tmp_path / "again", options)
