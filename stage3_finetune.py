r"""
Stage 3: the network learns to spot actions, from labels.

    python stage3_finetune.py --data frames/train --valid frames/valid --init runs/stage2/last.pt
    python stage3_finetune.py --data frames/ --model vivit_micro --window 32 --batch 4 \
                              --head-steps 20 --steps 20
    torchrun --nproc-per-node 8 stage3_finetune.py --data frames/train --init ...      # eight GPUs

Reads   <data>/**/1_224p/00000001.jpg ...      frames of the matches with labels; others left out
        <data>/**/Labels-v2.json               (or below --labels)
        --init                                 stage 2's (or 1's) last.pt; without it: from scratch
Writes  <out>/last.pt, best.pt, log.txt, curves.png      infer.py spots with either checkpoint
Method  paper Sec. 3.4, App. A.5: a linear head, Eq. 7; first the head alone, then everything.

Differences from the paper: none by default. From the official code: a radius of 0.5 s, the full
binary cross-entropy (Eq. 7 prints the positive half), windows of a half that do not overlap
but for the two at its ends, the head phase without masking or drop path, both phases without
warm-up, gradient clipping.
"""
import argparse
import functools
import itertools
import math
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import infer
from comedian import augment, evaluate, run
from comedian import frames as data
from comedian.public_weights import config_of, load_checkpoint, load_parts, save_checkpoint
from comedian.run import device_name, number
from model import MODELS, Comedian, decay_groups, random_keep, with_changes


# ------------------------------------------------------------------ options
def parse_args(argv=None):
    p = run.Parser(__doc__)
    add = p.add_argument
    add("--data", required=True, help="folder with frames, any layout data.py knows")
    add("--split", help="only these of SoccerNet's games: train, train+valid, ..., or a file with "
        "a game per line; default: all")
    add("--labels", help="root of the labels; default: --data")
    add("--classes", help="file with a class per line; default: the 17 of SoccerNet-v2")
    add("--valid", help="folder with labelled matches to choose best.pt on; default: none")
    add("--valid-split", help="which of SoccerNet's games below --valid, as --split")
    add("--valid-labels", help="root of their labels; default: --valid")
    add("--valid-every", type=number(1), default=5, help="epochs between validations")
    add("--init", help="weights for the transformers: last.pt of stage 2 (or 1, or 3), or public "
        "ones (README, 'Public weights'); default: random")
    add("--temporal-init", choices=["copy", "random"], default="copy",
        help="where --init has no temporal transformer. copy: from the first spatial blocks "
             "(official code, ViViT)")
    add("--out", default="runs/stage3", help="folder for last.pt, best.pt and log.txt")
    add("--model", default="vivit_tiny", choices=MODELS,
        help="network, where there is no --init; with --init, that checkpoint's")
    add("--window", type=number(1), default=64,
        help="tokens (seconds at 2 fps) per window; stage 2's, if any")
    add("--head-epochs", type=number(0), default=30, help="first phase: the head alone")
    add("--epochs", type=number(0), default=20,
        help="second phase: everything (paper: 20, ViSwin 10)")
    add("--head-steps", type=number(0), default=0,
        help="optimiser steps, instead of --head-epochs; 0 = off")
    add("--steps", type=number(0), default=0, help="optimiser steps, instead of --epochs; 0 = off")
    add("--head-phase", choices=["head", "temporal"], default="head",
        help="head: the frozen rest sees augmented frames (paper); temporal: the temporal "
             "transformer learns too, on spatial tokens that are computed once per half, plain "
             "and mirrored (ours, cheap)")
    add("--windows-per-half", type=number(1), default=25, help="per epoch (paper: 50 per match)")
    add("--batch", type=number(1), default=64, help="windows per step, of all processes together")
    add("--accumulate", type=number(1), default=1,
        help="split the batch into this many passes: the same result in less memory")
    add("--lr", type=number(0.0), default=5e-4,
        help="peak for 256 windows of 64 frames; scales with both (paper: ViViT 5e-4, ViSwin 3e-4)")
    add("--head-lr", type=number(0.0), default=None,
        help="the same for the first phase; None = --lr")
    add("--weight-decay", type=number(0.0), default=0.05,
        help="AdamW; not on biases, norms, positions")
    add("--clip-grad", type=number(0.0), default=1.0, help="largest gradient norm (official code)")
    add("--mask", type=number(0.0, 0.99), default=0.25,
        help="share of tokens masked in the second phase, alpha_2")
    add("--mixup", type=number(0.0), default=0.1,
        help="Beta(a, a), one coefficient per window; 0 = off")
    add("--prior", type=number(0.000001, 0.999999), default=0.5,
        help="score of every class before training; 0.5 = head bias 0 (official code), "
             "the share of positive tokens is a better start for few steps")
    add("--radius", type=number(0.0), default=0.5,
        help="seconds from an action to the frames it labels")
    add("--color", type=number(0.0), nargs=4, default=[0.4, 0.4, 0.4, 0.0],
        help="jitter of brightness, contrast, saturation, hue (0: cards keep their colour)")
    add("--bf16", action=argparse.BooleanOptionalAction, default=None,
        help="bfloat16 autocast; None = where a CUDA device has it")
    add("--compile", action="store_true", help="torch.compile: slow to start, then faster")
    add("--workers", type=number(0), default=0, help="decoding threads; 0 = one per core")
    add("--device", type=device_name, default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda, cuda:1, ...")
    add("--seed", type=number(0), default=0)
    add("--log-every", type=number(1), default=20, help="steps per log line")
    add("--save-every", type=number(1), default=500, help="steps per checkpoint")
    add("--resume", action="store_true", help="go on from <out>/last.pt, exactly")
    return p.parse_args(argv)


# ------------------------------------------------------------------ data: which windows, which view
def labelled(root, split, labels_root, classes):
    """Halves of the labelled matches below `root` and {match: events}; says what it found."""
    halves = data.find_halves(root, split)
    print(data.describe(halves, root))
    paths = {half.match: Path(labels_root) / half.match / evaluate.LABELS for half in halves}
    events = {match: data.read_labels(path, classes)
              for match, path in paths.items() if path.exists()}
    if not events:
        raise data.DataError(f"{labels_root}: none of the {len(paths)} matches has a "
                             f"{evaluate.LABELS}; give --labels the folder they are kept in")
    counts = np.bincount([event.label for match in events.values() for event in match],
                         minlength=len(classes))
    print(f"data: {len(events)} of {len(paths)} matches have labels: "
          + ", ".join(f"{name} {count}" for name, count in zip(classes, counts, strict=True)))
    evaluate.tell_foreign([paths[match] for match in events], "annotations", classes)
    return [half for half in halves if half.match in events], events


@functools.lru_cache(maxsize=2)
def epoch_windows(seed, epoch, n_frames, window_frames, per_half):
    """All windows of an epoch in random order, as pairs (half index, first frame).

    Of every half the first and the last window (kick-offs, last-second actions) and up to
    per_half - 2 others that do not overlap each other: sorted random offsets into the room
    that they leave.
    """
    rng, windows = np.random.default_rng([seed, epoch]), []
    for h, frames in enumerate(n_frames):
        n = min(max(0, per_half - 2), frames // window_frames)
        offsets = np.sort(rng.integers(0, frames - n * window_frames + 1, n))
        starts = [0, frames - window_frames, *(offsets + window_frames * np.arange(n)).tolist()]
        windows += [(h, start) for start in starts]
    return [windows[i] for i in rng.permutation(len(windows))]


def pick_windows(step, args, n_frames):
    """The windows of a step: a function of (seed, step) alone. Epochs follow without a seam."""
    picks, place = [], step * args.batch
    while len(picks) < args.batch:
        per_epoch = len(epoch_windows(args.seed, 0, n_frames, data.CLIP_FRAMES * args.window,
                                      args.windows_per_half))
        epoch, i = divmod(place + len(picks), per_epoch)
        order = epoch_windows(args.seed, epoch, n_frames, data.CLIP_FRAMES * args.window,
                              args.windows_per_half)
        picks += order[i:i + args.batch - len(picks)]
    return picks


def token_labels(frame_labels, first_frame, n_tokens):
    """(n_frames, K) bool -> (L, K) float: a token is positive if one of its clip's frames is."""
    window = frame_labels[first_frame:first_frame + data.CLIP_FRAMES * n_tokens]
    return window.reshape(n_tokens, data.CLIP_FRAMES, -1).any(1).astype(np.float32)


def view(frames, draw, cfg, args, device):
    """X ~ A^4: (B, T, H, W, 3) uint8 -> (B, T, 3, S, S); one draw per window, no crop."""
    x = augment.resize(augment.to_float(frames, device), cfg.image_size)           # (B, T, 3, S, S)
    x = augment.color_jitter(x, draw, args.color, p=0.8)
    x = augment.gaussian_blur(x, draw, p=0.5)
    x = augment.hflip(x, draw, p=0.5)
    return augment.normalize(x, cfg.normalize_per_frame)


def cached_view(picks, tokens, window, draw):
    """Spatial tokens of windows, each plain or mirrored: (B, L, D) from per half (2, n_tokens, D).
    Clips of the cache begin on even frames."""
    mirrored = (draw.uniform(0, 1) < 0.5).int().tolist()
    starts = [first // data.CLIP_FRAMES for _, first in picks]
    return torch.stack([tokens[h][m, s:s + window]
                        for (h, _), m, s in zip(picks, mirrored, starts, strict=True)])


def mixup(x, y, lam):
    """Every window mixed with its neighbour in the batch: x (B, ...) and labels y (B, L, K) alike,
    lam (B,) of the window itself.

    BCE is linear in its labels: mixed labels give the mixed loss lam BCE(y1) + (1 - lam) BCE(y2).
    The batch is in random order, so that neighbours (0 with 1, 2 with 3, ...) are as good as a
    permutation, and stay together when it is split; the last of an odd number stays as it is.
    """
    other = torch.arange(len(x)) ^ 1
    other[other == len(x)] = len(x) - 1

    def mix(v):
        share = lam.to(v).view(-1, *[1] * (v.dim() - 1))              # (B, 1, ...)
        return torch.lerp(v[other.to(v.device)], v, share)

    return mix(x), mix(y)


# ------------------------------------------------------------------ the loss
def bce_loss(logits, y):
    """Eq. 7 with both terms, the classes independent of each other:

        L = -1/(T_l C) sum_t sum_c  y_tc log sigma(l_tc) + (1 - y_tc) log (1 - sigma(l_tc))

    logits, y (B, L, K); the mean over windows too.
    """
    return F.binary_cross_entropy_with_logits(logits, y)


def lr_at(step, total, peak, args):
    """A cosine from the scaled peak to 1 % of it; no warm-up."""
    peak = peak * args.batch / 256 * data.CLIP_FRAMES * args.window / 64
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / total)))


def validate(model, halves, events, reader, device, autocast):
    """t-AmAP in [0, 1] of the model as it stands, with infer.py's default post-processing."""
    stride, predictions = max(1, model.cfg.window_tokens // 2), {}
    encoded = infer.encode_halves(model, halves, reader, device, autocast)
    for match, group in itertools.groupby(encoded, key=lambda pair: pair[0].match):
        group = [(half, *infer.window_scores(model, h, stride, autocast), half.n_tokens)
                 for half, h in group]
        of_match = [half for half, *_ in group]
        windows = infer.stack_halves([rest for _, *rest in group])
        spotted = infer.detect(windows, of_match[0].token_s)
        predictions[match] = infer.as_detections(of_match, spotted)
    return evaluate.score(events, predictions, model.cfg.classes)["tight"]["a_mAP"]


# ------------------------------------------------------------------ run
def main(args):
    rank, ranks, device = run.join(args.device)           # under torchrun one of several processes
    passes = run.passes(args, rank, ranks)                # its samples of each batch, pass by pass
    state = run.start(args, stage=3)                      # what to --resume from, or None
    bf16 = run.has_bf16(device) if args.bf16 is None else args.bf16
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)

    # -- data
    before = load_checkpoint(args.init) if args.init and not state else None
    if before and before["stage"] > 1 and config_of(before).window_tokens != args.window:
        n = config_of(before).window_tokens
        raise data.DataError(f"{args.init}: was trained on windows of {n} tokens; give --window "
                             f"{n}")
    classes = data.read_classes(args.classes)
    halves, events = labelled(args.data, args.split, args.labels or args.data, classes)
    halves = data.of_length(halves, args.window, "a window")
    truth = [data.frame_labels(events[half.match], half, args.radius, len(classes))
             for half in halves]
    if args.valid:
        valid_halves, valid_events = labelled(args.valid, args.valid_split,
                                              args.valid_labels or args.valid, classes)
    n_frames = tuple(half.n_frames for half in halves)
    per_epoch = len(epoch_windows(args.seed, 0, n_frames, data.CLIP_FRAMES * args.window,
                                  args.windows_per_half))
    head_steps = args.head_steps or args.head_epochs * per_epoch // args.batch
    total = head_steps + (args.steps or args.epochs * per_epoch // args.batch)
    if total < 1:
        raise data.DataError(f"{args.data}: {per_epoch} windows an epoch make no step of --batch "
                             f"{args.batch}; give more --epochs, or --steps")
    valid_steps = max(1, args.valid_every * per_epoch // args.batch)  # from one to the next
    reader = data.FrameReader(args.workers, pin=device.type == "cuda")

    # -- network: both transformers and the head
    torch.manual_seed(args.seed)
    cfg = (config_of(state) if state else
           with_changes(config_of(before) if before else args.model, window_tokens=args.window,
                        classes=classes))
    model = Comedian(cfg)
    if before:
        parts = ["spatial.", "temporal."][:before["stage"]]           # never a head: the classes
        load_parts(model, before, parts, args.init)
        print(f"init: {args.init}: {cfg.model}, {' and '.join(parts).replace('.', '')} transformer "
              f"of stage {before['stage']}; the head starts anew")
        if before["stage"] == 1 and args.temporal_init == "copy" and cfg.spatial == "vit":
            model.copy_spatial_to_temporal()
    nn.init.constant_(model.head.bias, math.log(args.prior / (1 - args.prior)))
    model = model.to(device)
    print(f"stage 3: {cfg.model}, {sum(p.numel() for p in model.parameters()):,} "
          f"parameters, {head_steps:,} + {total - head_steps:,} steps "
          f"of {args.batch} windows of {args.window} tokens "
          f"on {ranks} x {device.type}, bf16 {'on' if bf16 else 'off'}")

    def phase(step):
        """What learns in the phase of `step`: the model as it is called, and a new AdamW."""
        learning = [model.head] if args.head_phase == "head" else [model.head, model.temporal]
        learning = learning if step < head_steps else [model]
        model.requires_grad_(False)
        for module in learning:
            module.requires_grad_(True)
        model.temporal.mask_token.requires_grad_(step >= head_steps and args.mask > 0)
        student = torch.compile(model) if args.compile else model
        if ranks > 1:
            student = DistributedDataParallel(student)
        return student, torch.optim.AdamW(decay_groups(*learning, weight_decay=args.weight_decay),
                                          fused=True)

    start, best = (state["step"], state["best"]) if state else (0, -1.0)
    if state:
        model.load_state_dict(state["model"])
    student, optimizer = phase(start)
    if state and start != head_steps:                                 # there the new phase begins
        optimizer.load_state_dict(state["optimizer"])

    # -- train
    cached = args.head_phase == "temporal"
    tokens = []                                                       # per half (2, n_tokens, D)
    if cached and start < head_steps:
        plain, mirrored = ([h for _, h in infer.encode_halves(model, halves, reader, device,
                                                              autocast, flip=f)]
                           for f in (False, True))
        tokens = [torch.stack(pair) for pair in zip(plain, mirrored, strict=True)]

    def load(step):
        picks = pick_windows(step, args, n_frames)[passes[0].start:passes[-1].stop]
        if cached and step < head_steps:
            picks = [(h, first // data.CLIP_FRAMES * data.CLIP_FRAMES) for h, first in picks]
        y = np.stack([token_labels(truth[h], first, args.window) for h, first in picks])
        frames = picks if cached and step < head_steps else reader.read(
            [(halves[h], first) for h, first in picks], data.CLIP_FRAMES * args.window)
        return frames, torch.from_numpy(y)           # (B / ranks, T, H, W, 3), (B / ranks, L, K)

    def files(step):
        return [halves[h].path(first) for h, first in pick_windows(step - 1, args, n_frames)]

    log = run.Log(args.out, "stage 3", start, total, device, files, state and state["log"])
    stop = run.Stop()
    depth = 2 if device.type == "cuda" else 0             # no CPU core is idle: nothing to gain
    for step, (frames, labels) in enumerate(data.ahead(load, range(start, total), depth), start):
        # -- what this stage is about ----------------------------------
        head_only = step < head_steps
        if step == head_steps and head_steps:
            student, optimizer = phase(step)
        for group in optimizer.param_groups:
            group["lr"] = (lr_at(step, head_steps, args.head_lr or args.lr, args) if head_only else
                           lr_at(step - head_steps, total - head_steps, args.lr, args))
        student.train(not head_only)
        losses = []
        for mine, y in zip(passes, labels.chunk(args.accumulate), strict=True):    # (b, L, K)
            part = frames[mine.start - passes[0].start:mine.stop - passes[0].start]
            draw = augment.Draws(args.seed, step, args.batch, mine)
            torch.manual_seed((args.seed * 1_000_003 + step) * args.batch + mine.start)  # drop path
            student.require_backward_grad_sync = mine is passes[-1]   # DDP averages after the last
            if head_only and cached:
                x, keep = cached_view(part, tokens, args.window, draw), None       # (b, L, D)
            else:
                x = view(part, draw, cfg, args, device)               # (b, T, 3, S, S)
                keep = random_keep(draw.uniform(0, 1, args.window), 0 if head_only else args.mask)
                keep = keep if keep is None else keep.to(device)      # (b, L - masked)
            y = y.to(device, non_blocking=True)
            if args.mixup:
                x, y = mixup(x, y, draw.beta(args.mixup))
            with autocast:
                logits = student(x, keep)                             # (b, L, K)
            loss = bce_loss(logits.float(), y)
            (loss / args.accumulate).backward()
            losses.append(loss.detach())
        norm = nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]],
                                        args.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        # -- everything below is bookkeeping ---------------------------
        step = step + 1
        log.add(step, torch.stack(losses).mean(), norm, clips=args.batch * args.window)
        if step % args.log_every == 0 or step == total:
            log.line(step, lr=optimizer.param_groups[0]["lr"])
        better, validated = False, args.valid and (step % valid_steps == 0 or step == total)
        if validated and rank == 0:
            since = time.time()
            amap = validate(model, valid_halves, valid_events, reader, device, autocast)
            better, best = amap > best, max(amap, best)
            log.write(f"step {step}/{total} | valid t-AmAP {100 * amap:.2f} % "
                      f"| best {100 * best:.2f} %")
            log.since += time.time() - since                          # not training time
        if stop.asked() or validated or step % args.save_every == 0 or step == total:
            content = dict(stage=3, step=step, best=best, config=asdict(cfg), args=vars(args),
                           log=log.state(step), model=model.state_dict(),
                           optimizer=optimizer.state_dict())
            if rank == 0:
                save_checkpoint(Path(args.out, "last.pt"), **content)
            if rank == 0 and better:
                save_checkpoint(Path(args.out, "best.pt"), **content)
        if stop.signal:
            break
    log.close()
    stop.release(f"stage 3: stopped after step {log.step}")
    print(f"stage 3: done; {args.out}/{'best.pt' if args.valid else 'last.pt'} is what infer.py "
          "takes")


if __name__ == "__main__":
    run.command(main, parse_args())
