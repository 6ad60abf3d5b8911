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
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import N_FRAMES, record

import infer
import model
import stage3_finetune as stage3
from comedian import DataError, augment, draw, evaluate, soccernet
from comedian.checkpoint import save_checkpoint
from comedian.frames import Half, find_halves
from comedian.soccernet import (
    LABELS, PREDICTIONS, Event, read_classes, read_labels, read_predictions)


def configured(*flags, given=None):
    """(args, Config) as main has them. given: a checkpoint, as --init loads it."""
    args = stage3.parse_args(["--data", "x", *flags])
    return stage3.configure(args, given, "x.pt")[::-1]


def run(matches, out, *more):
    """Runs the script's main, by default from scratch; returns the checkpoint that it left."""
    if "--init" not in more:
        more = ["--model", "vivit_micro", "--window", "8", *more]
    stage3.main(stage3.parse_args([
        "--data", str(matches), "--classes", str(matches / "classes.txt"), "--out", str(out),
        "--workers", "1", "--device", "cpu", "--log-every", "2", "--lr", "0.01", "--seed", "5",
        "--batch", "4", "--head-steps", "3", "--steps", "3", *more]))
    return model.load_checkpoint(Path(out, "last.pt"))


def write_init(path, stage, **changes):
    """Writes a checkpoint as stage 1, 2 or 3 leaves it, every weight away from its first value;
    returns its weights. The network: vivit_micro with some drop path, 8 tokens a window."""
    cfg = model.with_changes("vivit_micro", **({"window_tokens": 8, "drop_path": 0.2} | changes))
    torch.manual_seed(17)
    weights = {name: value + 0.02 * torch.randn_like(value)
               for name, value in model.Comedian(cfg).state_dict().items()
               if stage > 1 or name.startswith("spatial.")}
    save_checkpoint(path, stage=stage, config=asdict(cfg), model=weights)
    return weights


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Curves have their own tests, and matplotlib takes its time."""
    monkeypatch.setattr(draw, "curves", lambda *args: None)


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
    """Of every class the share of positive tokens over all halves, an odd last frame left out; a
    class without events counts as half a token, one that never ends as all but half a token."""
    one, two = np.zeros((7, 4), bool), np.zeros((4, 4), bool)         # 3 + 2 tokens
    one[[0, 1, 2], 0], one[6, 1], two[3, 1] = True, True, True
    one[:, 3] = two[:, 3] = True
    shares = torch.sigmoid(stage3.base_logits([one, two]))
    torch.testing.assert_close(shares, torch.tensor([2 / 5, 1 / 5, 0.1, 0.9]))


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

    args, _ = configured("--head-lr", "1e-3")
    assert stage3.lr_at(0, 1000, 3000, args) == pytest.approx(5e-4)
    assert stage3.lr_at(1000, 1000, 3000, args) == pytest.approx(2.5e-4)
    args, _ = configured("--head-lr", "0")                            # given, and not the default
    assert stage3.lr_at(0, 1000, 3000, args) == 0


@pytest.mark.parametrize("flags, peak", [
    ([], 2.5e-4), (["--window", "32"], 2.5e-4), (["--window", "32", "--batch", "64"], 1.25e-4),
    (["--batch", "16"], 6.25e-5)])
def test_learning_rate_scales(flags, peak):
    """With windows per step and with their frames; so the paper's batches share one rate."""
    args, _ = configured(*flags)
    assert stage3.lr_at(0, 0, 100, args) == pytest.approx(peak)


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
    flags = ["--window", "32", "--batch", "5", "--windows-per-half", "6", "--head-epochs", "3",
             "--epochs", "4", "--valid-every", "3"]
    (args, _), (other, _) = configured(*flags), configured(*flags, "--seed", "1")
    n_frames = (500, 300)
    epochs = [stage3.epoch_windows(args.seed, epoch, n_frames, 64, 6) for epoch in range(4)]
    steps = [stage3.pick_windows(step, args, n_frames) for step in range(6)]
    assert [pick for step in steps for pick in step] == [w for epoch in epochs for w in epoch][:30]
    assert len(epochs[0]) == 12 and Counter(epochs[0]) != Counter(epochs[1])
    assert stage3.count_steps(args, n_frames) == (36 // 5, 36 // 5 + 48 // 5, 36 // 5)
    assert epochs[0] != sorted(epochs[0])
    # A function of (seed, step): in any order of asking, whatever else was drawn in between.
    np.random.seed(1)
    torch.manual_seed(1)
    assert [stage3.pick_windows(step, args, n_frames) for step in (5, 0, 3)] == [
        steps[5], steps[0], steps[3]]
    assert stage3.pick_windows(0, other, n_frames) != steps[0]


# ------------------------------------------------------------------ 1. the labels
def half_of(n_frames, fps=2.0, number=1):
    return Half("m", number, "f", "", 8, ".jpg", 1, n_frames, fps)


@pytest.mark.parametrize("rate", [Fraction(2), Fraction(25, 12), Fraction(25), Fraction(2997, 100),
                                  Fraction(30000, 1001)], ids=str)
@pytest.mark.parametrize("radius", [Fraction(1, 2), Fraction(3, 10), Fraction(0)], ids=str)
def test_labels_of_a_frame(rate, radius):
    """Frame i is positive iff an event lies within the radius of i / fps, both ends included."""
    frame_ms = [round(1000 * i / rate) for i in range(200) if 1000 * i % rate.numerator == 0]
    radius_ms = int(1000 * radius)
    on_the_bound = [t + sign * radius_ms + off for t in frame_ms for sign in (-1, 1)
                    for off in (-1, 0, 1)]
    anywhere = np.random.default_rng(0).integers(0, int(200_000 / rate), 40).tolist()
    assert frame_ms
    for position_ms in [*on_the_bound[:60], *on_the_bound[-60:], *anywhere]:
        expected = [i for i in range(200)
                    if abs(Fraction(position_ms, 1000) - i / rate) <= radius]
        got = stage3.frame_labels([Event(1, 0, position_ms, True)], half_of(200, float(rate)),
                                  float(radius), 1)
        assert got[:, 0].nonzero()[0].tolist() == expected, position_ms


def test_labels_of_a_half():
    """Every event of this half, seen or not, in its class; events beyond its ends label nothing,
    those near its ends what is there of it."""
    events = [Event(1, 0, 5000, True), Event(1, 2, 5000, False), Event(2, 1, 5000, True),
              Event(1, 1, -300, True), Event(1, 2, 20_000, True), Event(1, 0, 99_000, True),
              Event(1, 0, -99_000, True)]
    got = stage3.frame_labels(events, half_of(40), 0.5, 3)
    assert got.dtype == bool and got.shape == (40, 3)
    assert [column.nonzero()[0].tolist() for column in got.T] == [[9, 10, 11], [0], [9, 10, 11, 39]]
    second = stage3.frame_labels(events, half_of(40, number=2), 0.5, 3)
    assert [column.nonzero()[0].tolist() for column in second.T] == [[], [9, 10, 11], []]


def test_labels_of_a_token():
    """A token is positive if one of its clip's two frames is. Facts, section 4: with windows on
    whole seconds token k is positive iff the event lies in [k - 0.5, k + 1]; half of the events
    give one positive token, half two."""
    positives = []
    for position_ms in range(10_001, 12_000, 13):
        labels = stage3.frame_labels([Event(1, 0, position_ms, True)], half_of(60), 0.5, 1)
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
    """The augmentations of App. A.5 in their order, without a crop; normalised at the end, and only
    there."""
    calls = []

    def spy(name, original):
        def called(x, *args, **kwargs):
            given = [a for a in args if not isinstance(a, augment.Draws)]
            calls.append((name, *given, *kwargs.values()))
            return original(x, *args, **kwargs)
        return called

    for name in ("color_jitter", "grayscale", "gaussian_blur", "solarize", "hflip", "normalize",
                 "random_boxes"):
        monkeypatch.setattr(augment, name, spy(name, getattr(augment, name)))
    frames = torch.randint(0, 256, (3, 2, 56, 100, 3), dtype=torch.uint8)         # (B, T, H, W, 3)
    args, cfg = configured("--model", "vivit_micro")
    made = stage3.view(frames, augment.Draws(0, 0, 3), cfg, args, torch.device("cpu"))
    assert calls == [("color_jitter", [0.4, 0.4, 0.4, 0.0], 0.8), ("gaussian_blur", 0.5),
                     ("hflip", 0.5), ("normalize", True)]
    assert made.shape == (3, 2, 3, 48, 48)


# ------------------------------------------------------------------ 2. flags that are not given
@pytest.mark.parametrize("window, batch, per_half", [(32, 128, 50), (64, 64, 25), (128, 32, 12),
                                                     (16384, 1, 2)])
def test_defaults_follow_the_window(window, batch, per_half):
    """App. A.5: as many frames a step and an epoch, whatever the window."""
    args, cfg = configured("--window", str(window))
    assert (args.batch, args.windows_per_half) == (batch, per_half)
    assert cfg.window_tokens == args.window == window
    assert (args.lr, args.epochs, args.head_epochs) == (5e-4, 20, 30)


def test_defaults_of_viswin():
    args, cfg = configured("--model", "viswin_tiny")
    assert (args.lr, args.epochs, args.head_epochs) == (3e-4, 10, 30)
    assert (args.window, args.batch, cfg.spatial) == (64, 64, "swin")


@pytest.mark.parametrize("name", ["vivit_tiny", "viswin_tiny"])
def test_given_flags_win(name):
    """A 0 is given, too."""
    args, _ = configured("--model", name, "--window", "128", "--batch", "3", "--lr", "0",
                         "--windows-per-half", "7", "--epochs", "0")
    assert (args.batch, args.lr, args.windows_per_half, args.epochs) == (3, 0, 7, 0)


def checkpoint(stage, **changes):
    return {"stage": stage, "config": model.with_changes("vivit_micro", **changes)}


def test_the_checkpoint_says_what_it_was_trained_with():
    """Window and depth come from stage 2 or 3, classes from stage 3, else from the labels; of
    stage 1 none is used, for it trained none."""
    changes = dict(window_tokens=32, temporal_depth=3, classes=("a", "b"), drop_path=0.05)
    args, cfg = configured(given=checkpoint(3, **changes))
    assert (cfg.window_tokens, cfg.temporal_depth, cfg.classes) == (32, 3, ("a", "b"))
    assert (cfg.model, cfg.drop_path) == ("vivit_micro", 0.05)        # and whatever else it has
    assert (args.window, args.temporal_depth, args.batch) == (32, 3, 128)
    _, cfg = configured(given=checkpoint(2, **changes))
    assert (cfg.window_tokens, cfg.temporal_depth, cfg.classes) == (32, 3, ())
    args, cfg = configured("--temporal-depth", "5", given=checkpoint(1, **changes))
    assert (cfg.window_tokens, cfg.temporal_depth, cfg.classes) == (64, 5, ())
    assert (args.window, args.batch, cfg.model) == (64, 64, "vivit_micro")


def test_classes_from_a_file(tmp_path):
    (tmp_path / "classes.txt").write_text("c\na\n")
    given = checkpoint(3, classes=("a", "b"))
    _, cfg = configured("--classes", str(tmp_path / "classes.txt"), given=given)
    assert cfg.classes == ("c", "a")


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("flag, value, message", [
    ("--window", "16", "x.pt: was trained with window 32; give --window 32, or leave it out"),
    ("--temporal-depth", "3",
     "x.pt: was trained with temporal_depth 2; give --temporal-depth 2, or leave it out")])
def test_a_shape_that_the_checkpoint_does_not_have(stage, flag, value, message):
    with pytest.raises(DataError) as error:
        configured("--init", "x.pt", flag, value, given=checkpoint(stage, window_tokens=32))
    assert str(error.value) == message


def test_from_scratch_with_a_depth(matches, tmp_path):
    """And epochs become steps: 6 windows each (2 of 3 halves, one is shorter), 3 a step."""
    state = run(matches, tmp_path, "--temporal-depth", "1", "--head-steps", "0", "--steps", "0",
                "--head-epochs", "1", "--epochs", "2", "--windows-per-half", "2", "--batch", "3",
                "--window", "21", "--save-every", "99")
    assert state["config"].temporal_depth == 1 and state["step"] == 2 + 4
    assert {name.split(".")[2] for name in state["model"] if "temporal.blocks" in name} == {"0"}
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(     # 4th of 4 steps
        0.01 * 3 / 256 * 42 / 64 * (0.01 + 0.99 * (1 + math.cos(math.pi * 3 / 4)) / 2))


@pytest.mark.parametrize("how", ["copy", "random"])
def test_from_stage_1(how, matches, tmp_path):
    """The temporal transformer is new: copied from the first spatial blocks, or random."""
    one = write_init(tmp_path / "one.pt", 1)
    three = run(matches, tmp_path / "run", "--init", str(tmp_path / "one.pt"), "--window", "8",
                "--temporal-depth", "3", "--temporal-init", how, "--lr", "0", "--head-steps", "1",
                "--steps", "1")
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
    three = run(matches, tmp_path / "run", "--init", str(tmp_path / "one.pt"), "--window", "8",
                "--lr", "0", "--head-steps", "1", "--steps", "0", "--epochs", "0")
    assert all(torch.equal(three["model"][name], value) for name, value in one.items())


@pytest.mark.parametrize("stage", [2, 3])
def test_from_stage_2_or_3(stage, matches, tmp_path):
    """Both transformers are taken over, the head starts anew."""
    two = write_init(tmp_path / "init.pt", stage, classes=("x", "y", "z"), temporal_depth=3)
    three = run(matches, tmp_path / "run", "--init", str(tmp_path / "init.pt"), "--lr", "0",
                "--prior", "0.1", "--head-steps", "1", "--steps", "1")
    for name, value in three["model"].items():
        assert torch.equal(value, two[name]) != name.startswith("head"), name
    assert three["config"].classes == ("Goal", "Foul", "Corner")
    torch.testing.assert_close(three["model"]["head.bias"], torch.full((3,), math.log(1 / 9)))


# ------------------------------------------------------------------ 3. two steps by hand
HAND = dict(seed=3, window=8, windows_per_half=3, radius=0.8, mask=0.4, mixup=0.7, prior=0.2,
            lr=1.5, head_lr=4.0, weight_decay=2.0, clip_grad=0.02, head_steps=3, steps=3,
            color=[0.3, 0.2, 0.5, 0.1])
CLASSES = ("Corner", "Header", "Goal", "Foul")                        # nobody heads: no event


def labels_by_hand(matches, half, classes, radius):
    """(n_frames, K): 1 where an annotation of the class lies within `radius` seconds."""
    annotations = json.loads((matches / half.match / LABELS).read_text())["annotations"]
    y = torch.zeros(half.n_frames, len(classes))
    for note in annotations:
        for i in range(half.n_frames):
            if (note["gameTime"].startswith(f"{half.number} -") and note["label"] in classes
                    and abs(int(note["position"]) / 1000 - i / 2) <= radius):
                y[i, classes.index(note["label"])] = 1
    return y


def tokens_by_hand(y, first, n):
    """(n, K): a token has the classes of both of its frames."""
    return torch.stack([torch.maximum(y[first + 2 * k], y[first + 2 * k + 1]) for k in range(n)])


def frames_by_hand(half, first, n):
    """(n, H, W, 3) uint8, red first."""
    files = [f"{half.folder}/{first + i + 1:08d}.png" for i in range(n)]
    return torch.from_numpy(np.stack([cv2.imread(file)[:, :, ::-1] for file in files]))


def bce_by_hand(logits, y):
    return -(y * F.logsigmoid(logits) + (1 - y) * F.logsigmoid(-logits)).mean()


def steps_by_hand(matches, init, batch, accumulate, cached):
    """Sec. 3.4 and App. A.5, step by step, with the values of HAND. Yields after every step what a
    run must show: dicts with the weights, AdamW's moments, and what is logged."""
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

    def copy(tensors):
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}

    for step in range(h["head_steps"] + h["steps"]):
        first_phase = step < h["head_steps"]
        t, last, peak = ((step, h["head_steps"], h["head_lr"]) if first_phase else
                         (step - h["head_steps"], h["steps"], h["lr"]))
        rate = (peak * batch / 256 * 2 * L / 64
                * (0.01 + 0.99 * (1 + math.cos(math.pi * t / last)) / 2))
        if t == 0:                                         # what learns, and AdamW, start anew
            parts = (("head.", "temporal.") if cached else ("head.",)) if first_phase else ("",)
            names = [name for name in weights if name.startswith(parts)
                     and not (first_phase and "mask_token" in name)]
            start = copy(weights)
            m, v = ({name: torch.zeros_like(weights[name]) for name in names} for _ in range(2))
        net.train(not first_phase)                         # drop path
        picks = windows[step * batch:(step + 1) * batch]
        grad, loss, base_loss, entered = {name: 0 for name in names}, 0, 0, []
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
                x = augment.color_jitter(x, draw, h["color"], 0.8)
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
            part = bce_by_hand(net(x, keep), truth)
            for name, g in zip(names, torch.autograd.grad(part / accumulate, [
                    weights[name] for name in names]), strict=True):
                grad[name] = grad[name] + g
            loss += part.item() / accumulate
            base_loss += bce_by_hand(base.expand_as(truth), truth).item() / accumulate
        norm = math.sqrt(sum(g.double().square().sum() for g in grad.values()))
        with torch.no_grad():
            for name in names:
                p, g = weights[name], grad[name] * min(1, h["clip_grad"] / norm)
                m[name] = 0.9 * m[name] + 0.1 * g
                v[name] = 0.999 * v[name] + 0.001 * g.square()
                if p.dim() > 1 and name.split(".")[-1] not in ("pos_embed", "cls_token",
                                                               "mask_token"):
                    p *= 1 - rate * h["weight_decay"]
                p -= rate * (m[name] / (1 - 0.9 ** (t + 1))) / (
                    (v[name] / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8)
        yield dict(start=start, model=copy(weights), m=dict(m), v=dict(v), rate=rate, loss=loss,
                   base=base_loss, norm=norm, entered=entered, mirrored=mirrored, n=t + 1)


def optimizer_names(state, learning):
    """The parameters of an optimiser's state_dict in their order: decayed first (PyTorch numbers
    them group by group)."""
    names = [name for part in learning for name in state["model"] if name.startswith(part)]
    exempt = [state["model"][name].dim() < 2 or name.split(".")[-1] in
              ("pos_embed", "cls_token", "mask_token") for name in names]
    order = [name for wanted in (False, True)
             for name, is_exempt in zip(names, exempt, strict=True) if is_exempt == wanted]
    decayed, rest = state["optimizer"]["param_groups"]
    assert len(decayed["params"]) == exempt.count(False) and not rest["weight_decay"]
    return order


@pytest.mark.parametrize("phase, batch, accumulate", [("head", 5, 1), ("temporal", 4, 2)])
def test_steps_by_hand(phase, batch, accumulate, matches, tmp_path, monkeypatch):
    """main over both phases, with validations in between, equals `steps_by_hand`. Batches of 5
    leave a window without a partner for mixup; those of 4 are split into two passes."""
    init = write_init(tmp_path / "init.pt", 2)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    saved = record(monkeypatch, stage3.run, "save_checkpoint")
    entered, validated = [], record(monkeypatch, infer, "validate")
    forward = model.Comedian.forward
    monkeypatch.setattr(model.Comedian, "forward", lambda self, x, keep=None: entered.append(
        (x.detach().clone(), keep)) or forward(self, x, keep))
    flags = [text for key, value in HAND.items() for text in (
        f"--{key.replace('_', '-')}", *map(str, value if key == "color" else [value]))]
    run(matches, tmp_path / "run", *flags, "--init", str(tmp_path / "init.pt"),
        "--classes", str(tmp_path / "classes.txt"), "--batch", str(batch), "--head-phase", phase,
        "--accumulate", str(accumulate), "--log-every", "1", "--save-every", "1",
        "--valid", str(matches), "--valid-every", "1", "--nms", "greedy", "--ignore", "1")
    monkeypatch.undo()
    lines = [line for line in (tmp_path / "run" / "log.txt").read_text().splitlines()
             if "loss" in line]
    states = [content for (path,), content in saved if path.name == "last.pt"]
    assert len(validated) >= 2 and len(lines) == len(states) == 6
    assert {call[0][5].nms for call in validated} == {"greedy"}

    for step, by_hand in enumerate(steps_by_hand(matches, init, batch, accumulate,
                                                 phase == "temporal")):
        state = states[step]
        logged = {key: float(value) for key, value in
                  re.findall(r"(loss|base|lr|grad) (\S+) \|", lines[step])}
        assert logged["loss"] == pytest.approx(by_hand["loss"], abs=1e-4)
        assert logged["base"] == pytest.approx(by_hand["base"], abs=1e-4)
        assert logged["lr"] == pytest.approx(by_hand["rate"], rel=6e-3)
        assert logged["grad"] == pytest.approx(by_hand["norm"], abs=6e-3)
        assert by_hand["norm"] > 2 * HAND["clip_grad"]                # clipping bites
        for x, keep in by_hand["entered"]:
            got_x, got_keep = entered.pop(0)
            torch.testing.assert_close(got_x, x, rtol=1e-4, atol=1e-4)
            assert (got_keep is None) == (keep is None) == (step < 3)
            assert keep is None or torch.equal(got_keep, keep)
        for name, value in by_hand["model"].items():
            got, moved = state["model"][name], (value - by_hand["start"][name]).norm()
            assert (moved > 0) == (name in by_hand["m"]), name
            # Where a gradient is almost 0, AdamW makes a step of its rounding.
            assert (got - value).norm() <= 0.01 * moved, (step, name)
        optimizer = state["optimizer"]
        learning = ("head.", "temporal.")[:1 + (phase == "temporal")] if step < 3 else ("",)
        names = optimizer_names(state, learning)
        assert [group["lr"] for group in optimizer["param_groups"]] == pytest.approx(
            [by_hand["rate"]] * 2)
        assert optimizer["param_groups"][0]["weight_decay"] == HAND["weight_decay"]
        assert {names[i] for i in optimizer["state"]} == set(by_hand["m"])
        for i, moments in optimizer["state"].items():
            assert moments["step"] == by_hand["n"]
            for got, expected in ((moments["exp_avg"], by_hand["m"][names[i]]),
                                  (moments["exp_avg_sq"], by_hand["v"][names[i]])):
                assert (got - expected).norm() <= 1e-3 * expected.norm() + 1e-12, names[i]
    assert not entered
    if phase == "temporal":
        assert 0 < sum(by_hand["mirrored"]) < len(by_hand["mirrored"]) == 12


def test_the_phases(matches, tmp_path, monkeypatch):
    """First the head alone, on frozen transformers in evaluation mode, without masks; then
    everything. The learning rate starts anew."""
    write_init(tmp_path / "init.pt", 2)
    saved = record(monkeypatch, stage3.run, "save_checkpoint")
    masks = record(monkeypatch, stage3, "random_keep")
    modes, tokens = [], model.Comedian.tokens
    monkeypatch.setattr(model.Comedian, "tokens",
                        lambda self, *a: modes.append(self.training) or tokens(self, *a))
    run(matches, tmp_path / "run", "--init", str(tmp_path / "init.pt"), "--save-every", "1")
    assert modes == [False] * 3 + [True] * 3
    assert [(*noise.shape, ratio) for (noise, ratio, _), _ in masks] == (
        [(4, 8, 0)] * 3 + [(4, 8, 0.25)] * 3)
    states = [state for _, state in saved]
    rates = [state["optimizer"]["param_groups"][0]["lr"] for state in states]
    assert rates[:3] == rates[3:] == sorted(rates[:3], reverse=True)
    for step in range(1, 6):
        moved = {name for name, value in states[step]["model"].items()
                 if not torch.equal(value, states[step - 1]["model"][name])}
        assert moved == ({"head.weight", "head.bias"} if step < 3 else set(states[0]["model"]))


@pytest.mark.parametrize("head_phase, flags, learns", [
    (True, ["--head-phase", "head"], {"head"}),
    (True, ["--head-phase", "temporal"], {"head", "temporal"}),
    (False, [], {"head", "temporal", "spatial", "mask_token"}),
    (False, ["--mask", "0"], {"head", "temporal", "spatial"})])
def test_what_learns(head_phase, flags, learns):
    """Exactly what a step uses: several processes wait for the gradient of all that learns."""
    args, cfg = configured("--model", "vivit_micro", "--device", "cpu", *flags)
    net, cpu = model.Comedian(cfg), stage3.run.init_processes(args, None, cfg.width)
    for before in (True, False):                           # whatever learned before
        stage3.start_phase(net.requires_grad_(before), head_phase, args, cpu)
        assert net.training != head_phase
        for name, parameter in net.named_parameters():
            part = "mask_token" if name.endswith("mask_token") else name.split(".")[0]
            assert parameter.requires_grad == (part in learns), name


def test_accumulation_changes_nothing(matches, tmp_path, monkeypatch):
    """The same gradients and loss from one pass, from two and from three, but for rounding:
    augmentations, masks and mixup's pairs are those of the whole batch."""
    calls, clip = [], torch.nn.utils.clip_grad_norm_

    def spy(parameters, max_norm):
        parameters = list(parameters)
        calls.append([p.grad.clone() for p in parameters])
        return clip(parameters, max_norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    logged = []
    for passes in ("1", "2", "3"):
        run(matches, tmp_path / passes, "--batch", "12", "--accumulate", passes, "--mixup", "0.9",
            "--head-steps", "0", "--head-epochs", "0", "--steps", "1", "--log-every", "1")
        line = (tmp_path / passes / "log.txt").read_text()
        logged.append([float(n) for n in re.search(r"loss (\S+) \| base (\S+)", line).groups()])
    scale = torch.stack([g.norm() for g in calls[0]]).norm()
    for n in (1, 2):
        assert logged[n] == pytest.approx(logged[0], abs=2e-4)
        for one, split in zip(calls[0], calls[n], strict=True):       # float32: small sums cancel
            assert (one - split).norm() <= 1e-3 * one.norm() + 1e-5 * scale


def test_a_run_learns(matches, tmp_path, monkeypatch):
    """Not that it generalises: on 8 windows that are always the same the loss falls to a fraction
    of what saying the base rates costs, which stands beside it in the log."""
    monkeypatch.setattr(augment, "color_jitter", lambda x, *args, **kwargs: x)
    monkeypatch.setattr(augment, "gaussian_blur", lambda x, *args, **kwargs: x)
    monkeypatch.setattr(augment, "hflip", lambda x, *args, **kwargs: x)
    run(matches, tmp_path, "--lr", "0.1", "--head-steps", "1", "--steps", "40", "--mixup", "0",
        "--mask", "0", "--windows-per-half", "2", "--batch", "8", "--log-every", "10")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    numbers = [tuple(map(float, re.search(r"loss (\S+) \| base (\S+)", line).groups()))
               for line in lines]
    assert numbers[0][0] > 0.9 * numbers[0][1] and numbers[-1][0] < 0.5 * numbers[-1][1]
    assert len({base for _, base in numbers}) == 1                    # it does not learn


# ------------------------------------------------------------------ 4. validation
POST = ["--nms", "greedy", "--nms-window", "4", "--ignore", "1", "--stride", "3",
        "--merge", "mean", "--threshold", "0.455"]


def infer_score(matches, out, checkpoint, *flags):
    """t-AmAP of what infer.py writes, read back as anybody reads it."""
    infer.main(infer.parse_args(["--data", str(matches), "--out", str(out), "--checkpoint",
                                 str(checkpoint), "--device", "cpu", "--workers", "1", *flags]))
    classes = read_classes(matches / "classes.txt")
    events = {match: read_labels(matches / match / LABELS, classes)
              for match in ("league/one", "league/two")}
    spotted = {match: read_predictions(out / match / PREDICTIONS, classes) for match in events}
    return evaluate.score(events, spotted, classes)["tight"]["a_mAP"]


@pytest.mark.parametrize("flags", [[], POST], ids=["default", "given"])
def test_validation(flags, matches, tmp_path, monkeypatch):
    """best.pt is the checkpoint of the best validation, and the number logged is the number that
    infer.py's predictions get with the same flags; drop path, which trains, is off."""
    monkeypatch.setitem(model.MODELS, "vivit_micro",
                        replace(model.MODELS["vivit_micro"], drop_path=0.5))
    state = run(matches, tmp_path / "run", "--valid", str(matches), "--valid-every", "1",
                "--windows-per-half", "2", "--steps", "2", *flags)
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
    assert infer_score(matches, tmp_path / "spots", best_pt, *flags) == pytest.approx(
        best["best"], abs=1e-12)
    others = [["--nms", "soft"], ["--nms-window", "10"], ["--ignore", "0"], ["--stride", "6"],
              ["--merge", "max"], ["--threshold", "0.001"]]
    for i, other in enumerate(others if flags else []):               # each of them counts
        assert infer_score(matches, tmp_path / f"{i}", best_pt, *flags, *other) != best["best"]


def test_best_survives_a_resume(matches, tmp_path, monkeypatch):
    """best.pt is replaced by better checkpoints only, the ones before a stop considered; equally
    good is not better."""
    scores, clip, steps = iter([0.5, 0.5, 0.3]), torch.nn.utils.clip_grad_norm_, []
    options = ["--valid", str(matches), "--valid-every", "1", "--windows-per-half", "2"]
    monkeypatch.setattr(infer, "validate", lambda *args: next(scores))           # steps 2, 4, 6

    def stopped(*args):
        steps.append(1)
        if len(steps) == 5:
            signal.raise_signal(signal.SIGTERM)
        return clip(*args)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", stopped)
    with pytest.raises(SystemExit):
        run(matches, tmp_path, *options)
    state = run(matches, tmp_path, *options, "--resume")
    assert state["best"] == 0.5 and model.load_checkpoint(tmp_path / "best.pt")["step"] == 2


# ------------------------------------------------------------------ 5. mistakes
MISTAKES = {                          # options, the one line
    "no labels": (["--labels", "nowhere"],
                  "nowhere: none of the 2 matches has a Labels-v2.json; give --labels"),
    "no labels to validate on": (
        ["--valid", "{matches}", "--valid-labels", "nowhere"],
        "nowhere: none of the 2 matches has a Labels-v2.json; give --labels"),
    "no file of classes": (["--classes", "nowhere.txt"],
                           "nowhere.txt: not a list of classes"),
    "no such checkpoint": (["--init", "nowhere.pt"], "nowhere.pt: no such checkpoint"),
    "too short": (["--window", "99"], "no half is as long as a window (99 tokens; the longest has "
                                      "30); give longer videos or a shorter --window"),
    "wrong window": (["--init", "{init}", "--window", "16"],
                     "init.pt: was trained with window 8; give --window 8, or leave it out"),
    "no step": (["--head-steps", "0", "--steps", "0", "--head-epochs", "1", "--epochs", "1",
                 "--windows-per-half", "2", "--batch", "9"],
                "too few windows for one step (8 an epoch, --batch 9); lower --batch, or give more "
                "--epochs or --steps"),
    "gaps in the validation": (
        ["--valid", "{matches}", "--stride", "7", "--ignore", "1"],
        "--stride 7 with --ignore 1 leaves seconds that no window of 8 scores"),
}


@pytest.mark.parametrize("options, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes(options, message, matches, tmp_path, monkeypatch):
    """One line, before a frame is read or a file written."""
    write_init(tmp_path / "init.pt", 2)
    monkeypatch.setattr(stage3.FrameReader, "read", None)
    options = [o.format(matches=matches, init=tmp_path / "init.pt") for o in options]
    with pytest.raises(DataError) as error:
        run(matches, tmp_path / "run", *options)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()                            # nothing was begun


@pytest.mark.parametrize("valid", [False, True], ids=["data", "validation"])
def test_labels_without_an_event_of_the_classes(valid, matches, tmp_path, monkeypatch):
    """Refused before any work; the line names the labels that are there, and the flag."""
    classes = ("Penalty", "Kick-off")
    if valid:                         # the training labels are right, those to validate on are not
        annotations = [{"gameTime": "1 - 00:05", "label": "Penalty", "position": "5000"}]
        for match in ("one", "two"):
            labels = tmp_path / "labels" / "league" / match / LABELS
            labels.parent.mkdir(parents=True)
            labels.write_text(json.dumps({"annotations": annotations}))
    (tmp_path / "classes.txt").write_text("\n".join(classes))
    monkeypatch.setattr(stage3, "start_phase", None)
    with pytest.raises(DataError) as error:
        run(matches, tmp_path / "run", "--classes", str(tmp_path / "classes.txt"),
            *(["--labels", str(tmp_path / "labels"), "--valid", str(matches)] if valid else []))
    assert str(error.value) == (
        f"{matches}: none of its labels is one of the 2 classes; it has 'Goal' (11), 'Foul' (11), "
        "'Corner' (10); give --classes a file with these names, one per line")
    assert not (tmp_path / "run").exists()


def test_matches_without_labels_are_left_out(matches, tmp_path, monkeypatch):
    """They would teach the network that nothing happens in them."""
    (tmp_path / "labels.csv").write_text("video,time,label\nleague/two/1_224p.mkv,3,Goal\n")
    seen = record(monkeypatch, stage3, "frame_labels")
    run(matches, tmp_path / "run", "--labels", str(tmp_path), "--head-steps", "0", "--head-epochs",
        "0", "--steps", "1")
    assert [(args[1].match, args[1].number) for args, _ in seen] == [("league/two", 1),
                                                                     ("league/two", 2)]


def test_labels_of_no_class_are_named(matches, tmp_path, capsys):
    """A misspelt class must not look like a rare one."""
    (tmp_path / "classes.txt").write_text("Goal\nFuol\nCorner")
    run(matches, tmp_path / "run", "--classes", str(tmp_path / "classes.txt"), "--steps", "1",
        "--head-steps", "0")
    printed = capsys.readouterr().out
    assert "Goal 11, Fuol 0, Corner 10" in printed
    assert "warning: annotations of no class are left out: 'Foul' (11)" in printed


def test_classes_of_a_resumed_run_are_its_own(matches, tmp_path):
    """The file's name is the same, what it holds is not: the head would be relabelled."""
    classes = tmp_path / "classes.txt"
    classes.write_text("Goal\nFoul")
    run(matches, tmp_path / "run", "--classes", str(classes))
    classes.write_text("Foul\nGoal")
    with pytest.raises(DataError, match="classes.txt: holds other classes than .*last.pt was trai"):
        run(matches, tmp_path / "run", "--classes", str(classes), "--resume")


def test_a_rate_too_low_for_the_batch_gets_a_hint(capsys):
    """The paper's own gets none."""
    for batch, hints in (("64", 0), ("8", 1)):
        args, _ = configured("--batch", batch)
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
    more = ["--labels", str(tmp_path), "--head-steps", "1", "--steps", "1"]
    if init:
        write_init(tmp_path / "init.pt", 3, classes=init)
        more += ["--init", str(tmp_path / "init.pt")]
    args = ["--data", str(matches), "--workers", "1", "--device", "cpu", "--batch", "4", *more]
    small = [] if init else ["--model", "vivit_micro", "--window", "8"]
    for name, last, classes in (("run", [], expected), ("run", ["--resume"], expected),
                                ("named", ["--classes", str(tmp_path / "classes.txt")], ("Dive",))):
        stage3.main(stage3.parse_args([*args, *small, "--out", str(tmp_path / name), *last]))
        assert model.load_checkpoint(tmp_path / name / "last.pt")["config"].classes == classes
    _, events, classes = soccernet.labelled_halves(matches, tmp_path, classes=expected)
    assert events["league/two"] == [Event(2, expected.index("Ace"), 5000, True)]
    assert classes == expected


@pytest.mark.parametrize("flag", ["--labels", "--valid-labels"])
def test_labels_that_reach_no_frame_are_told(flag, matches, tmp_path, capsys, monkeypatch):
    """To the last frame's radius; refused before the work if none does. A video of another split
    is not missing."""
    (tmp_path / "one.txt").write_text("league/one")
    table, last_s = tmp_path / "labels.csv", (N_FRAMES["one", 2] - 1) / 2 + 0.5
    lost = f"league/one/2.mkv,{last_s + 0.001},Goal\nleague/one/1.mkv,12:34:00,Foul\n"
    options = ["--split", "one.txt", "--valid-split", "one.txt", "--valid", str(matches), flag,
               str(table), "--encoding", "cp1252"]
    monkeypatch.chdir(tmp_path)
    table.write_text("video,time,label\n" + lost + f"league/one/2.mkv,{last_s},Goal\n"
                     "league/two/1.mkv,3,Foul\nLeague/Two/1.mkv,3,Foul\nüber,3,Foul\n", "cp1252")
    run(matches, tmp_path / "run", *options)
    out = capsys.readouterr().out
    assert ("warning: 4 of 5 labels reach no frame: 2 after the end (first: Goal at 0:00:20 in half"
            " 2 of 'league/one'), 2 in a match that is not here (first: Foul at 0:00:03 in half 1 "
            "of 'League/Two')\ndata: 1 of 1 matches have labels: Goal 1, Foul 0, Corner 0\n") in out
    assert ("2 of the videos that it names are not here: 'League/Two' (did you mean 'league/two'?)"
            ", 'über'\n") in out
    table.write_text("video,time,label\n" + lost)
    with pytest.raises(DataError, match="labels.csv: none of its 2 labels reaches a frame: 2 aft"):
        run(matches, tmp_path / "again", *options)
    assert not (tmp_path / "again").exists()


def test_senseless_flags(capsys):
    for flags in (["--prior", "0"], ["--mixup", "-1"], ["--lr", "-1"], ["--mask", "1"],
                  ["--radius", "-0.5"], ["--window", "0"], ["--temporal-depth", "0"],
                  ["--encoding", "zip"]):
        with pytest.raises(SystemExit) as refused:
            stage3.parse_args(["--data", "x", *flags])
        assert refused.value.code == 2
        assert f"argument {flags[0]}: wants a" in capsys.readouterr().err
