"""
What these tests prove about stage 1:
  1. Eq. 1-2 are computed: against loops over clips and negatives in float64, with their top-1
  2. sampler, views and schedules are the paper's and the official code's, by number
  3. the script's `main`, step for step, does what a plain transcription of the paper does: what it
     reads, what enters the network, losses, rate, gradient norm, AdamW, momentum encoder, queue
  4. queue, momentum encoder and accumulation, seen from inside runs
What all stages share (resume, processes, log, mistakes) is in test_runs.py.
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
    clipped_step, copied, frames_by_hand, halves_of, logged, record, record_augmentations, unit)

import model
import stage1_spatial as stage1
from comedian import augment
from comedian.frames import find_halves

SMALL = replace(model.MODELS["vivit_micro"], embed_dim=48, head_width=96)


@pytest.fixture(autouse=True)
def quick(no_pictures, monkeypatch):
    monkeypatch.setitem(model.MODELS, "vivit_micro", SMALL)           # a small network


def parse(*flags):
    """flags: each may hold several, with spaces between them."""
    return stage1.parse_args(" ".join(["--data x", *map(str, flags)]).split())


def run(matches, out, *more):
    """Runs the script's main for a few steps on the tiny matches; returns its last checkpoint."""
    stage1.main(parse(
        f"--data {matches} --out {out} --model vivit_micro --workers 1 --device cpu --seed 5",
        "--lr 0.01 --batch 8 --queue 40 --steps 6 --epochs 6 --warmup-epochs 1", *more))
    return model.load_checkpoint(out / "last.pt")


# ------------------------------------------------------------------ 1. the equations
def loops_loss(z, k, negatives, tau):
    """Minus l_M of Eq. 2 and top-1, clip by clip; negatives[i]: those of clip i, (n, D)."""
    loss, hits = 0.0, 0
    for i in range(len(z)):
        positive = (z[i] * k[i]).sum() / tau
        others = torch.stack([(z[i] * other).sum() / tau for other in negatives[i]])
        loss = loss - torch.log(positive.exp() / (positive.exp() + others.exp().sum()))
        hits += bool((others < positive).all())
    return loss / len(z), hits / len(z)


def without(rows, i):
    return torch.cat([rows[:i], rows[i + 1:]])


@pytest.mark.parametrize("tau", [0.1, 0.7])
def test_equation_1_and_2(tau):
    """l_M with a queue. Eq. 1 is the mean of both directions: test_two_steps_by_hand."""
    z, queue = unit(6, 8), unit(7, 8, seed=2)
    k = F.normalize(z + 1.5 * unit(6, 8, seed=1), dim=1)             # some positives are nearest
    loss, top1 = stage1.moco_loss(z, k, queue, tau)
    expected, share = loops_loss(z, k, [queue] * 6, tau)
    assert loss.dtype == torch.float64 and 0 < share < 1
    assert (loss.item(), top1.item()) == (pytest.approx(expected.item(), rel=1e-12),
                                          pytest.approx(share))


@pytest.mark.parametrize("first", [0, 3, 5])
def test_equation_2_with_the_batch_as_negatives(first):
    """The negatives of 3 clips of a batch of 8 keys: the other clips' keys, and nothing else."""
    keys, own = unit(8, 6, seed=1), torch.arange(first, first + 3)
    z = F.normalize(keys[own] + 0.9 * unit(3, 6, seed=5), dim=1)
    loss, top1 = stage1.batch_loss(z, keys, own, 0.2)
    expected, share = loops_loss(z, keys[own], [without(keys, i) for i in own], 0.2)
    assert (loss.item(), top1.item()) == (pytest.approx(expected.item(), rel=1e-12),
                                          pytest.approx(share))


# ------------------------------------------------------------------ 2. sampler, views, schedules
def test_the_papers_setting_is_the_default():
    """App. A.2 and A.3; momentum and the largest gradient are the official code's."""
    args = parse()
    assert (args.model, args.negatives, args.halves_per_batch) == ("vivit_tiny", "queue", 0)
    assert (args.tau, args.queue, args.weight_decay) == (0.1, 65536, 0.05)
    assert (args.momentum, args.clip_grad) == (0.99, 1.0)
    assert (args.epochs, args.warmup_epochs, args.batch, args.lr) == (100, 10, 1024, 5e-4)


def test_every_clip_once_an_epoch():
    halves, args = halves_of(41, 10, 25), parse("--batch 8")       # 20 + 5 + 12 clips: 4 steps
    orders = []
    for epoch in range(3):
        picks = [pick for step in range(4 * epoch, 4 * epoch + 4)
                 for pick in stage1.pick_clips(step, args, halves)]
        assert len(picks) == len(set(picks)) == 32            # the last 5 of a shuffle are left out
        assert all(first % 2 == 0 and first + 2 <= halves[h].n_frames for h, first in picks)
        orders.append(picks)
    assert orders[0] != orders[1] != orders[2]
    full = stage1.pick_clips(5, parse("--batch 37"), halves)
    assert sorted(full) == [(h, 2 * k) for h in range(3) for k in range(halves[h].n_tokens)]
    assert [stage1.count_steps(parse("--batch", n), halves) for n in ("8", "37")] == [400, 100]


def test_few_halves_if_asked():
    halves = halves_of(*[40] * 10)
    args = parse("--batch 30 --halves-per-batch 2")
    for step in range(20):
        picks = stage1.pick_clips(step, args, halves)
        assert len({half for half, _ in picks}) == 2 and len(set(picks)) == 30
    assert len({h for s in range(20) for h, _ in stage1.pick_clips(s, args, halves)}) == 10
    more = stage1.pick_clips(0, parse("--batch 30 --halves-per-batch 1"), halves)
    assert len(more) == 30 and len(set(more)) <= 20                # a half of 20 clips repeats some
    whole = stage1.pick_clips(0, parse("--batch 200 --halves-per-batch 99"), halves)
    assert len(set(whole)) == 200                                  # all there is, each once


@pytest.mark.parametrize("few", ["", "--halves-per-batch 1"])
def test_sampling_is_a_function_of_seed_and_step(few):
    check_function_of_step(lambda step, seed: stage1.pick_clips(
        step, parse(f"--batch 9 --seed {seed}", few), halves_of(50, 70)))
    drawn = augment.Draws(5, 3, 9).uniform(0, 1)       # not from where the stages' samplers draw
    for own in ([5, 3], [5, 3, 1]):
        assert drawn.tolist() != np.random.default_rng(own).random(9, np.float32).tolist()


def test_the_views_recipe(monkeypatch):
    """Operations, strengths, probabilities of the official code, in order; crops of its aspect."""
    calls = record_augmentations(monkeypatch)
    boxes = record(monkeypatch, augment, "random_boxes")
    frames = torch.randint(0, 256, (3, 2, 56, 100, 3), dtype=torch.uint8)         # (B, T, H, W, 3)
    pair = stage1.views(frames, augment.Draws(0, 0, 3), model.MODELS["vivit_micro"],
                        parse().crop_scale, parse().color, torch.device("cpu"))
    assert calls == [call for blur, solarize in ((1.0, 0.0), (0.1, 0.2)) for call in (
        ("crop_resize", 48), ("color_jitter", [0.4, 0.4, 0.2, 0.1], 0.8), ("grayscale", 0.2),
        ("gaussian_blur", blur), ("solarize", solarize), ("hflip", 0.5), ("normalize", True))]
    for (_, height, width, scale, ratio), _ in boxes:
        assert (height, width, scale) == (56, 100, [0.2, 1.0])
        np.testing.assert_allclose(ratio, [0.75 * 100 / 56, 1.25 * 100 / 56])
    assert len(boxes) == 2 and not torch.equal(*pair)
    assert all(view.shape == (3, 2, 3, 48, 48) for view in pair)


def test_learning_rate():
    """10 of 100 epochs up from 0 to 2e-3 for a batch of 1,024, then a cosine to 0."""
    args, total = parse(), 10_000
    lr = [stage1.lr_at(step, total, args) for step in range(total)]
    assert max(lr) == pytest.approx(2e-3) and np.argmax(lr) in (999, 1000)
    assert lr[0] == pytest.approx(2e-6) and lr[-1] < 1e-9
    np.testing.assert_allclose(np.diff(lr[:1000]), 2e-6)
    assert lr[1000 + 4500] == pytest.approx(1e-3)                     # half way down: half the peak
    assert stage1.lr_at(999, total, parse("--batch 256")) == pytest.approx(5e-4)


@pytest.mark.parametrize("warmup, expected", [       # of 10 epochs and 10 steps: a step an epoch
    (0, [1, 0.9755, 0.9045]), (0.3, [1, 0.9872, 0.9261]),
    (1.5, [2 / 3, 1, 0.9915]), (2, [0.5, 1, 1, 0.9619]), (2.5, [0.4, 0.8, 1, 0.9891])])
def test_warmups_that_are_no_whole_number_of_steps(warmup, expected):
    """The ramp goes on to its end at step 1.5, say, never beyond the peak; then the cosine."""
    args = parse("--epochs 10", f"--warmup-epochs {warmup}", "--batch 256 --lr 1")
    lr = [stage1.lr_at(step, 10, args) for step in range(10)]
    assert lr[:len(expected)] == pytest.approx(expected, abs=1e-4)


def test_the_learning_rate_never_exceeds_its_peak():
    """For every length of 1 to 60 steps and every warm-up of 0 to all 20 epochs."""
    for warmup in np.arange(0, 20.01, 0.25):
        args = parse("--epochs 20", f"--warmup-epochs {warmup}", "--batch 256")
        for total in range(1, 61):
            lr = np.array([stage1.lr_at(step, total, args) for step in range(total)])
            assert lr.min() > 0 and lr.max() <= args.lr
            top = lr.argmax()                             # up to it, and down from it
            assert (np.diff(lr[:top + 1]) > 0).all() and (np.diff(lr[top:]) <= 0).all()


# ------------------------------------------------------------------ 3. step for step
def views_by_hand(step, args, halves):
    """Two views of all clips of a step, drawn for the whole batch: (B, 2, 3, 48, 48) each."""
    picks = stage1.pick_clips(step, args, halves)                             # see 2.
    x = torch.stack([frames_by_hand(halves[h], f, 2) for h, f in picks])          # (B, 2, H, W, 3)
    x = x.permute(0, 1, 4, 2, 3).float()                                      # (B, 2, 3, H, W)
    height, width = x.shape[3:]
    draw, made = augment.Draws(args.seed, step, args.batch), []
    for blur, solarize in ((1.0, 0.0), (0.1, 0.2)):
        boxes = augment.random_boxes(draw, height, width, args.crop_scale,
                                     np.array([0.75 * width / height, 1.25 * width / height]))
        view = augment.crop_resize(x, boxes, 48)                              # (B, 2, 3, 48, 48)
        view = augment.color_jitter(view, draw, args.color, p=0.8)
        view = augment.grayscale(view, draw, p=0.2)
        view = augment.gaussian_blur(view, draw, p=blur)
        view = augment.solarize(view, draw, p=solarize)
        view = augment.hflip(view, draw, p=0.5)
        mean, deviation = view.mean((3, 4), keepdim=True), view.std((3, 4), False, keepdim=True)
        made.append((view - mean) / (deviation + 1e-3))
    return made


def stage_1_by_hand(args, cfg, halves):
    """The method: yields after every step what a run must have seen and made by then."""
    total = args.steps or args.epochs * (sum(half.n_frames // 2 for half in halves) // args.batch)
    torch.manual_seed(args.seed)
    encoder = model.spatial_encoder(cfg)
    projector = model.Projector(cfg.width, cfg.head_width, cfg.head_width, 256)
    slow = copy.deepcopy(torch.nn.Sequential(encoder, projector))    # the target branch
    predictor = model.Projector(256, cfg.head_width, 256, last_bias=False)
    use_queue = args.negatives == "queue"
    queue = torch.randn(args.queue if use_queue else 0, 256)
    queue = queue / queue.norm(dim=1, keepdim=True)
    oldest = 0                                                       # its place in the queue

    parts = {"model.spatial": encoder, "projector": projector, "predictor": predictor}
    weights = {f"{part}.{name}": p for part, network in parts.items()
               for name, p in network.named_parameters()}
    adams = adamw_by_hand(weights, args.weight_decay)

    for step in range(total):
        warmup = total * args.warmup_epochs / args.epochs
        peak = args.lr * args.batch / 256
        lr = (peak * min(1, (step + 1) / warmup) if step < warmup else
              peak * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2)
        both, losses, hits, keys = views_by_hand(step, args, halves), [], [], []
        gradients = {name: torch.zeros_like(p) for name, p in weights.items()}
        n = args.batch // args.accumulate                            # clips per pass
        for first in range(0, args.batch, n):
            x = torch.cat([view[first:first + n] for view in both])
            torch.manual_seed((args.seed * 1_000_003 + step) * args.batch + first)
            z = predictor(projector(encoder(x)))                     # drop path in both branches
            with torch.no_grad():
                k = slow[1](slow[0](x))
            z, k = z / z.norm(dim=1, keepdim=True), k / k.norm(dim=1, keepdim=True)
            z1, z2, k1, k2 = z[:n], z[n:], k[:n], k[n:]
            of1, of2 = (([queue] * n) if use_queue else [without(k, i) for i in range(n)]
                        for k in (k2, k1))
            one, hits1 = loops_loss(z1, k2, of1, args.tau)
            two, hits2 = loops_loss(z2, k1, of2, args.tau)
            loss = (one + two) / 2                                   # Eq. 1
            of_pass = torch.autograd.grad(loss / args.accumulate, [*weights.values()])
            for total_gradient, g in zip(gradients.values(), of_pass, strict=True):
                total_gradient += g
            losses.append(loss.item())
            hits.append((hits1 + hits2) / 2)
            keys += [key for pair in zip(k1, k2, strict=True) for key in pair]     # clip by clip
        norm = clipped_step(adams, gradients, args.clip_grad, lr)
        m = 1 - (1 - args.momentum) * (1 + math.cos(math.pi * step / total)) / 2
        with torch.no_grad():
            fast = [*encoder.parameters(), *projector.parameters()]
            for p, q in zip(slow.parameters(), fast, strict=True):
                p.copy_(m * p + (1 - m) * q)
        for key in keys if use_queue else []:
            queue[oldest] = key
            oldest = (oldest + 1) % len(queue)
        slow_weights = {f"target.{name}": p for name, p in slow.state_dict().items()}
        yield {"views": both, "queue": queue, "adams": adams, "weights": weights | slow_weights,
               "lr": lr, "logged": {"loss": (np.mean(losses), 1.5e-4), "lr": (lr, 6e-3 * lr),
                                    "top-1": (np.mean(hits), 6e-5), "grad": (norm, 1e-2)}}


BY_HAND = {          # every flag that changes a step has a value that is not its default
    "the queue": "--queue 70 --batch 24 --steps 0",                   # 4 steps, 48 keys each
    "the queue, two passes": "--queue 20 --accumulate 2 --batch 16 --steps 3",    # less than a step
    "the batch, two passes": "--negatives batch --halves-per-batch 1 --accumulate 2 --batch 16 "
                             "--steps 3"}


@pytest.mark.parametrize("options", BY_HAND.values(), ids=BY_HAND)
def test_two_steps_by_hand(options, matches, tmp_path, monkeypatch):
    """Three or four steps of the script's main, compared after each of them."""
    cfg = replace(SMALL, drop_path=0.3)
    monkeypatch.setitem(model.MODELS, "vivit_micro", cfg)
    calls = record(monkeypatch, model.ViT, "forward")
    saved = record(monkeypatch, stage1.run, "save_checkpoint")
    (tmp_path / "games.txt").write_text("league/one")
    options = ("--lr 0.02 --warmup-epochs 0.75 --weight-decay 9 --epochs 2 --clip-grad 0.05 "
               "--tau 0.2 --momentum 0.6 --crop-scale 0.3 0.9 --color 0.5 0.3 0.1 0.2 --seed 7 "
               f"--log-every 1 --save-every 1 --split {tmp_path}/games.txt {options}")
    final = run(matches, tmp_path, options)
    args = parse(options, f"--data {matches}")
    numbers = {key: logged(tmp_path, key) for key in ("loss", "top-1", "lr", "grad")}
    inputs, done = [x for (_, x), _ in calls], 0
    entered = iter(zip(inputs[::2], inputs[1::2], strict=True))
    torch.manual_seed(args.seed)
    before = {f"model.spatial.{name}": p.detach() for name, p in
              model.spatial_encoder(cfg).named_parameters()}
    for step in stage_1_by_hand(args, cfg, find_halves(matches, args.split)):
        # -- what entered the network: pass by pass, student and target alike
        for views in zip(*(view.split(args.batch // args.accumulate) for view in step["views"]),
                         strict=True):
            for x in next(entered):
                torch.testing.assert_close(x, torch.cat(views), rtol=1e-4, atol=1e-4)
        # -- what came out
        for key, (expected, apart) in step["logged"].items():
            assert numbers[key][done] == pytest.approx(expected, abs=apart), key
        state = saved[done][1]
        weights = {f"{part}.{name}": value for part in ("model", "projector", "predictor", "target")
                   for name, value in state[part].items()}
        assert weights.keys() == step["weights"].keys()
        for name, value in weights.items():
            expected = step["weights"][name].detach()
            moved = (expected - before.get(name, torch.zeros(()))).norm()
            assert_near(value, expected, 1e-2 * moved, name)
        torch.testing.assert_close(state["queue"], step["queue"], rtol=0, atol=2e-5)
        assert_optimizer(state["optimizer"], step["adams"], step["lr"])
        done, before = done + 1, copied(step["weights"])
    assert next(entered, None) is None
    assert done == len(saved) == len(numbers["loss"]) == final["step"] >= 3
    assert f"step {done}/{done}" in (tmp_path / "log.txt").read_text()
    assert max(numbers["top-1"]) > 0


# ------------------------------------------------------------------ 4. inside a run
def test_momentum_encoder():
    """m from 0.9 (here) to 1 on a cosine. What moves with it: test_two_steps_by_hand."""
    m = [stage1.momentum_at(step, 100, 0.9) for step in range(101)]
    assert m[0] == pytest.approx(0.9) and m[50] == pytest.approx(0.95) and m[100] == 1
    assert (np.diff(m) > 0).all()


@pytest.mark.parametrize("accumulate, batch", [(1, 8), (2, 8), (1, 48)])
def test_the_queue_is_first_in_first_out(accumulate, batch, matches, tmp_path, monkeypatch):
    """It holds the last 40 keys of 16 or 96 a step, none of this step's, with two threads."""
    calls = record(monkeypatch, stage1, "moco_loss")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    state = run(matches, tmp_path, f"--accumulate {accumulate} --batch {batch} --steps 3")
    torch.set_num_threads(threads)
    first = calls[0][0][2]
    torch.testing.assert_close(first.norm(dim=1), torch.ones(40))
    kept = collections.deque(first.tolist(), maxlen=40)
    for step in range(3):
        of_step = [args for args, _ in calls[step * 2 * accumulate:(step + 1) * 2 * accumulate]]
        same = all(sorted(queue.tolist()) == sorted(kept) for _, _, queue, _ in of_step)
        assert same, f"at step {step} the queue does not hold the newest 40 keys of earlier steps"
        for (_, k2, *_), (_, k1, *_) in zip(of_step[::2], of_step[1::2], strict=True):
            for pair in zip(k1.tolist(), k2.tolist(), strict=True):   # clip by clip
                kept.extend(pair)
    assert sorted(state["queue"].tolist()) == sorted(kept)


def test_accumulation_changes_nothing(matches, tmp_path, monkeypatch):
    """The augmentations are those of the whole batch."""
    check_accumulation(lambda out, *more: run(matches, out, "--steps 1", *more), tmp_path,
                       monkeypatch, ["1", "4"], ["loss", "top-1", "lr"])


def test_bf16(matches, tmp_path, monkeypatch):
    """The network computes in bfloat16; weights, unit vectors and the loss stay float32."""
    kinds, mlp = set(), model.Mlp.forward
    monkeypatch.setattr(model.Mlp, "forward",
                        lambda self, x: kinds.add((y := mlp(self, x)).dtype) or y)
    calls = record(monkeypatch, stage1, "moco_loss")
    run(matches, tmp_path / "float32", "--no-bf16", "--steps 1")
    state = run(matches, tmp_path / "bfloat16", "--bf16", "--steps 1")
    assert kinds == {torch.float32, torch.bfloat16}
    for (z, k, queue, _), _ in calls:
        for vectors in (z, k, queue):
            assert vectors.dtype == torch.float32
            torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    assert all(value.dtype == torch.float32 for value in state["model"].values())
    one, other = ([args for args, _ in part] for part in (calls[:2], calls[2:]))
    for (z, k, *_), (other_z, other_k, *_) in zip(one, other, strict=True):
        assert 0 < (z - other_z).norm() < 0.1 * z.norm() and (k - other_k).norm() < 0.1 * k.norm()
