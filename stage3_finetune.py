r"""
Stage 3: the network learns to spot actions, from labels.

    python stage3_finetune.py --data frames/train --valid frames/valid --init runs/stage2/last.pt
    python stage3_finetune.py --data frames/ --model vivit_micro --window 32 --batch 4 \
                              --head-steps 20 --steps 20
    torchrun --nproc-per-node 8 stage3_finetune.py --data frames/train --init ...      # eight GPUs

Reads   <data>/**/1_224p/00000001.jpg ...      frames of the matches with labels; others left out
        <data>/**/Labels-v2.json               (or below --labels; or <data>/labels.csv)
        --init                                 stage 2's (or 1's) last.pt; without it: from scratch
Writes  <out>/last.pt, best.pt, log.txt, curves.png      infer.py spots with either checkpoint
Method  paper Sec. 3.4, App. A.5: a linear head, Eq. 7; first the head alone, then everything.

Beside model.py it imports infer.py: it validates exactly as that spots.

Differences from the paper, by default: the full binary cross-entropy (Eq. 7 prints the positive
half); the head phase without masking or drop path (the paper: masks are "maintained"); windows of a
half do not overlap but for the two at its ends; an action less than the radius outside a window
labels its tokens too; where --init has a ViT but no temporal blocks these start as copies of the
first spatial ones (--temporal-init random turns that off); mixup's partner is the neighbour in the
shuffled batch. All but the last follow the official code, as do a radius of 0.5 s, no warm-up in
either phase, and gradients clipped at 1. Two things more are ours: each augmentation touches each
window independently, with its probability (the official code: an exact share of the batch), and a
window may overlap the first or the last of its half by more than half (there by half at most).
"""
import functools
import itertools
import math
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

# These come first: they say in one line what is not installed.
import infer
from comedian import DataError, augment, evaluate, report, run
from comedian.command import ENCODING_HELP, text_encoding
from comedian.frames import CLIP_FRAMES, FrameReader, of_length
from comedian.run import number
from comedian.soccernet import labelled_halves, read_classes
from model import (
    MODELS, Comedian, config_of, decay_groups, load_checkpoint, load_parts, random_keep, restore,
    save_checkpoint, trained_parts, with_changes)

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


# ------------------------------------------------------------------ options
def parse_args(argv=None):
    p = run.Parser(__doc__)
    add = p.add_argument_group("data and network").add_argument
    add("--data", required=True, help="folder with frames, laid out as docs/soccernet.md says")
    add("--split", help="only these of SoccerNet's games: train, train+valid, ..., or a file with "
        "a game per line; default: all")
    add("--labels", help="root of the labels, or a labels.csv; default: --data")
    add("--encoding", type=text_encoding, help=ENCODING_HELP)
    add("--classes", help="file with a class per line; default: those of --init if that is of "
        "stage 3, else the 17 of SoccerNet-v2; but the names in the labels if most are others")
    add("--init", help="weights for the transformers: last.pt of stage 2 (or 1, or 3), or public "
        "ones (README, 'Weights and results'); default: random")
    add("--model", default="vivit_tiny", choices=MODELS,
        help="network, if there is no --init; otherwise that checkpoint decides")
    add("--temporal-depth", type=number(1, 128),
        help="blocks, where --init has no temporal transformer; default: the model's (ViViT-T 6)")
    add("--temporal-init", choices=["copy", "random"], default="copy",
        help="where --init has no temporal transformer. copy: from the first spatial blocks "
             "(official code, ViViT)")

    add = p.add_argument_group("windows, labels and view").add_argument
    add("--window", type=number(1, 16384),
        help="T_l, tokens (seconds at 2 fps) per window; default: that of --init, else 64")
    add("--windows-per-half", type=number(2, 100_000),
        help="per epoch, its first and last among them; default: 50 windows of 32 s, half as many "
             "if twice as long (paper)")
    add("--radius", type=number(0.0), default=0.5,
        help="seconds from an action to the frames it labels")
    add("--mask", type=number(0.0, 0.99), default=0.25,
        help="share of tokens masked in the second phase, alpha_2")
    add("--mixup", type=number(0.0), default=0.1,
        help="Beta(a, a), one coefficient per window; 0 = off")
    add("--color", type=number(0.0, 10.0), nargs=4, default=[0.4, 0.4, 0.4, 0.0],
        help="jitter of brightness, contrast, saturation, hue (0: cards keep their colour)")

    add = p.add_argument_group("two phases").add_argument
    add("--head-epochs", type=number(0), default=30, help="first phase: the head alone")
    add("--head-steps", type=number(0), default=0,
        help="optimiser steps, instead of --head-epochs; 0 = off")
    add("--head-lr", type=number(0.0), help="as --lr, for the first phase; default: --lr")
    add("--head-phase", choices=["head", "temporal"], default="head",
        help="head: the frozen rest sees augmented frames (paper); temporal: the temporal "
             "transformer learns too, on spatial tokens that are computed once per half, plain "
             "and mirrored (ours, cheap)")
    add("--prior", type=number(0.000001, 0.999999), default=0.5,
        help="score of every class before training; 0.5 = head bias 0 (official code), "
             "the share of positive tokens is a better start for few steps (ours)")
    add("--epochs", type=number(0), help="second phase: everything; default: 20, ViSwin 10 (paper)")
    add("--steps", type=number(0), default=0, help="optimiser steps, instead of --epochs; 0 = off")

    add = p.add_argument_group("optimisation").add_argument
    add("--batch", type=number(1, 65536),
        help="windows per step, of all processes together; default: 128 windows of 32 s, half as "
             "many if twice as long (paper)")
    add("--lr", type=number(0.0), help="peak for 256 windows of 64 frames; scales with both; "
        "default: 5e-4, ViSwin 3e-4 (paper)")
    add("--weight-decay", type=number(0.0), default=0.05,
        help="AdamW; not on biases, norms, positions")
    add("--clip-grad", type=number(0.0), default=1.0, help="largest gradient norm (official code)")

    add = p.add_argument_group("validation").add_argument
    add("--valid", help="folder with labelled matches to choose best.pt on; default: none")
    add("--valid-split", help="which of SoccerNet's games below --valid, as --split")
    add("--valid-labels", help="root of their labels; default: --valid")
    add("--valid-every", type=number(1), default=5, help="epochs between validations")
    infer.add_post_flags(p, "validation: scores -> actions")
    run.add_flags(p, out="runs/stage3")
    args = p.parse_args(argv)
    args.labels = args.labels or args.data
    return args


LOW_RATE = 5e-5                       # ours: a fifth of the paper's at its batch; less gets a hint
FREE_FLAGS = ("data", "labels", "encoding", "init", "valid", "valid_labels")    # on --resume


def configure(args, checkpoint, path):
    """The Config of this run; fills in the flags that were not given. checkpoint: what to resume or
    to start from, at `path`, or None. App. A.5: batch and windows are inversely proportional to a
    window's length; ViSwin has its own rate and epochs.

    Classes are those of --classes, else those that the checkpoint's head has learned, else none
    yet; `labelled_halves` looks whether the labels have them. DataError for flags that the
    checkpoint contradicts."""
    cfg = config_of(checkpoint) if checkpoint else with_changes(args.model)
    trained = trained_parts(checkpoint) if checkpoint else []
    if args.window is None:
        args.window = cfg.window_tokens if "temporal." in trained else 64
    if args.temporal_depth is None:
        args.temporal_depth = cfg.temporal_depth
    for flag, of_init in (("window", cfg.window_tokens), ("temporal_depth", cfg.temporal_depth)):
        if "temporal." in trained and getattr(args, flag) != of_init:
            raise DataError(f"{path}: was trained with {flag} {of_init}; give "
                            f"--{flag.replace('_', '-')} {of_init}, or leave it out")
    classes = cfg.classes if "head." in trained else ()
    if args.classes:
        classes = read_classes(args.classes)
        if args.resume and "head." in trained and classes != cfg.classes:
            raise DataError(f"{args.classes}: holds other classes than {path} was trained with; "
                            "give the file of that run, or choose another --out")
    swin = cfg.spatial == "swin"
    paper = {"batch": max(1, round(128 * 32 / args.window)), "lr": 3e-4 if swin else 5e-4,
             "windows_per_half": max(2, round(50 * 32 / args.window)), "epochs": 10 if swin else 20}
    for flag, value in paper.items():
        if getattr(args, flag) is None:
            setattr(args, flag, value)
    return with_changes(cfg, window_tokens=args.window, temporal_depth=args.temporal_depth,
                        classes=classes)


# ------------------------------------------------------------------ sampler
@functools.lru_cache(maxsize=2)
def epoch_windows(seed, epoch, n_frames, window_frames, per_half):
    """All windows of an epoch in random order, as pairs (half index, first frame).

    Of every half the first and the last window (kick-offs, last-second actions) and up to
    per_half - 2 others that do not overlap each other: sorted random offsets, each moved on by the
    windows before it. n_frames: of every half, a tuple for the cache. Proved by test_windows.
    """
    rng, windows = np.random.default_rng([seed, epoch]), []
    for h, frames in enumerate(n_frames):
        n = min(per_half - 2, frames // window_frames)
        offsets = np.sort(rng.integers(0, frames - n * window_frames + 1, n))
        starts = [0, frames - window_frames, *(offsets + window_frames * np.arange(n)).tolist()]
        windows += [(h, start) for start in starts]
    return [windows[i] for i in rng.permutation(len(windows))]


def pick_windows(step, args, n_frames):
    """The windows of a step: a function of (seed, step) alone. Epochs follow without a seam.
    Proved by test_the_steps_walk_through_the_epochs."""
    def windows_of(epoch):
        return epoch_windows(args.seed, epoch, n_frames, CLIP_FRAMES * args.window,
                             args.windows_per_half)

    picks, per_epoch = [], len(windows_of(0))
    while len(picks) < args.batch:
        epoch, i = divmod(step * args.batch + len(picks), per_epoch)
        picks += windows_of(epoch)[i:i + args.batch - len(picks)]
    return picks


def count_steps(args, n_frames):
    """Steps of the head phase, of both phases, and from one validation to the next. DataError if
    there is none. Proved by test_the_steps_walk_through_the_epochs and test_mistakes."""
    per_epoch = len(epoch_windows(args.seed, 0, n_frames, CLIP_FRAMES * args.window,
                                  args.windows_per_half))
    head_steps = args.head_steps or args.head_epochs * per_epoch // args.batch
    total = head_steps + (args.steps or args.epochs * per_epoch // args.batch)
    if total < 1:
        raise DataError(f"{args.data}: too few windows for one step ({per_epoch} an epoch, --batch "
                        f"{args.batch}); lower --batch, or give more --epochs or --steps")
    return head_steps, total, max(1, args.valid_every * per_epoch // args.batch)


# ------------------------------------------------------------------ labels
def frame_labels(events, half, radius_s, n_classes):
    """(n_frames, K) bool: frame i has class c iff an event of c lies within `radius_s` of i / fps.

    The bound is inclusive and the same for all classes, visible or not (the paper's epsilon). In
    fractions, so that a bound is met at any rate. Proved by test_labels_of_a_frame.
    """
    fps = Fraction(half.fps).limit_denominator(1001)       # 2.0833 is 25 / 12
    radius_s = Fraction(radius_s).limit_denominator(10 ** 6)
    labels = np.zeros((half.n_frames, n_classes), bool)
    for event in events:
        if event.half == half.number:
            time_s = Fraction(event.position_ms, 1000)
            first = math.ceil((time_s - radius_s) * fps)
            last = math.floor((time_s + radius_s) * fps)
            labels[max(0, first):max(0, last + 1), event.label] = True
    return labels


def token_labels(labels, first_frame, n_tokens):
    """(n_frames, K) bool -> (L, K) float: a token is positive if one of its clip's frames is.
    Proved by test_labels_of_a_token."""
    window = labels[first_frame:first_frame + CLIP_FRAMES * n_tokens]
    return window.reshape(n_tokens, CLIP_FRAMES, -1).any(1).astype(np.float32)


def base_logits(truth):
    """(K,): for every class the log-odds of its share of positive tokens.
    truth: per half its frame_labels. A class without events counts as half a token, and one that
    is everywhere lacks half a token: logits stay finite. Proved by test_base_logits."""
    tokens = np.concatenate([token_labels(labels, 0, len(labels) // CLIP_FRAMES)
                             for labels in truth])                    # (n, K)
    half_token = 0.5 / len(tokens)
    share = torch.from_numpy(tokens).mean(0).clamp(half_token, 1 - half_token)
    return torch.logit(share)


# ------------------------------------------------------------------ view
def view(frames, draw, cfg, args, device):
    """X ~ A^4: (B, T, H, W, 3) uint8 -> (B, T, 3, S, S); one draw per window, no crop.
    Proved by test_the_views_recipe."""
    x = augment.resize(augment.to_float(frames, device), cfg.image_size)           # (B, T, 3, S, S)
    x = augment.color_jitter(x, draw, args.color, p=0.8)
    x = augment.gaussian_blur(x, draw, p=0.5)
    x = augment.hflip(x, draw, p=0.5)
    return augment.normalize(x, cfg.normalize_per_frame)


def cached_windows(tokens, picks, n_tokens):
    """Windows of the cached spatial tokens, plain and mirrored (B, 2, L, D), and the picks, moved
    back to even frames, on which cached clips begin. Proved by test_steps_by_hand."""
    picks = [(h, frame // CLIP_FRAMES * CLIP_FRAMES) for h, frame in picks]
    starts = [frame // CLIP_FRAMES for _, frame in picks]
    return torch.stack([tokens[h][:, start:start + n_tokens]
                        for (h, _), start in zip(picks, starts, strict=True)]), picks


def cached_view(pairs, draw):
    """Spatial tokens of windows, each plain or mirrored: (B, 2, L, D) of both -> (B, L, D). Proved
    by test_steps_by_hand."""
    mirrored = (draw.uniform(0, 1) < 0.5).long()                      # (B,)
    return pairs[torch.arange(len(pairs)), mirrored]


def mixup(x, y, lam):
    """Every window mixed with its neighbour in the batch: x (B, ...) and labels y (B, L, K) alike,
    lam (B,) of the window itself.

    BCE is linear in its labels: mixed labels give the mixed loss lam BCE(y1) + (1 - lam) BCE(y2).
    The batch is in random order, so that neighbours (0 with 1, 2 with 3, ...) are as good as a
    permutation, and stay together when it is split (run.micro_batches refuses to part them); the
    last of an odd number stays as it is. Proved by test_mixup, test_accumulation_changes_nothing.
    """
    other = torch.arange(len(x)) ^ 1                                  # 1, 0, 3, 2, ...
    other[other == len(x)] = len(x) - 1

    def mix(v):
        share = lam.to(v).view(-1, *[1] * (v.dim() - 1))              # (B, 1, ...)
        return torch.lerp(v[other.to(v.device)], v, share)

    return mix(x), mix(y)


# ------------------------------------------------------------------ the loss
def bce_loss(logits, y):
    """Eq. 7 with both terms, the classes independent of each other:

        L = -1/(T_l C) sum_t sum_c  y_tc log sigma(l_tc) + (1 - y_tc) log (1 - sigma(l_tc))

    logits, y (B, L, K); the mean over windows too. Proved by test_equation_7.
    """
    return F.binary_cross_entropy_with_logits(logits, y)


# ------------------------------------------------------------------ schedules
def lr_at(step, head_steps, total, args):
    """In each phase a cosine from the scaled peak to 1 % of it; no warm-up. Proved by
    test_learning_rate."""
    peak = args.lr
    if step < head_steps:
        total, peak = head_steps, args.lr if args.head_lr is None else args.head_lr
    else:
        step, total = step - head_steps, total - head_steps
    peak = peak * args.batch / 256 * CLIP_FRAMES * args.window / 64    # App. A.2: x T_g / 64
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / total)))


def start_phase(model, head_phase, args, process):
    """Sets what learns in a phase: the head, with --head-phase temporal the temporal transformer
    too; or everything. Returns the model, wrapped for DDP and torch.compile, and a new AdamW."""
    learning = [model]
    if head_phase:
        learning = [model.head]
        if args.head_phase == "temporal":
            learning.append(model.temporal)
    model.requires_grad_(False)
    for part in learning:
        part.requires_grad_(True)
    masks = not head_phase and int(args.window * args.mask) > 0       # whether any token is masked
    model.temporal.mask_token.requires_grad_(masks)
    model.train(not head_phase)                            # drop path in the second phase alone
    groups = decay_groups(*learning, weight_decay=args.weight_decay)
    return process.wrap(model, args.compile), torch.optim.AdamW(groups, fused=True)


# ------------------------------------------------------------------ run
def main(args):
    # -- set-up
    state = load_checkpoint(Path(args.out, "last.pt")) if args.resume else None
    init = load_checkpoint(args.init) if args.init and not state else None
    cfg = configure(args, state or init, Path(args.out, "last.pt") if state else args.init)
    run.check_out(args, state, stage=3, free=FREE_FLAGS)
    process = run.init_processes(args, cfg.width)          # under torchrun, one of several
    device, autocast = process.device, process.autocast()

    # -- data
    halves, events, cfg = training_data(args, cfg, args.classes or state)
    truth = [frame_labels(events[half.match], half, args.radius, len(cfg.classes))
             for half in halves]                                      # (n_frames, K) each
    base = base_logits(truth).to(device)                              # (K,)
    n_frames = tuple(half.n_frames for half in halves)
    head_steps, total, valid_steps = count_steps(args, n_frames)
    reader = FrameReader(args.workers, for_gpu=device.type == "cuda")

    # -- network: both transformers and the head
    torch.manual_seed(args.seed)
    model = start_model(cfg, state, init, args).to(device)
    valid = args.valid and start_validation(model, args)
    first = run.steps_done(state, total, args.out)
    best = state["best"] if state else -1.0                # t-AmAP of the best validation
    student, optimizer = start_phase(model, first < head_steps, args, process)
    if state and first != head_steps:          # at that step the second phase has a new AdamW
        restore({"optimizer": optimizer}, state, Path(args.out, "last.pt"))
    cached = args.head_phase == "temporal" and first < head_steps
    tokens = both_ways(model, halves, reader, process) if cached else []   # (2, n_tokens, D) each
    print(f"stage 3: {cfg.model}, {sum(p.numel() for p in model.parameters()):,} "
          f"parameters, {head_steps:,} + {total - head_steps:,} steps "
          f"of {args.batch} windows of {args.window} tokens {process}")

    # -- train
    def load(step):
        picks = pick_windows(step, args, n_frames)[process.samples]
        if cached and step < head_steps:
            x, picks = cached_windows(tokens, picks, args.window)     # (B / ranks, 2, L, D)
        else:
            x = reader.read([(halves[h], frame) for h, frame in picks],
                            CLIP_FRAMES * args.window)                # (B / ranks, T, H, W, 3)
        y = np.stack([token_labels(truth[h], frame, args.window) for h, frame in picks])
        return x, torch.from_numpy(y)                                 # (B / ranks, L, K)

    log = run.Log(args.out, "stage 3", first, total, device, state=state and state["log"],
                  files=lambda done: [halves[h].path(frame) for h, frame
                                      in pick_windows(done - 1, args, n_frames)])
    stop = run.Stop()
    for step, batch in reader.batches(load, range(first, total)):
        # -- what this stage is about ----------------------------------
        head_phase = step < head_steps
        if step == head_steps > 0:             # without a first phase it has begun above
            student, optimizer = start_phase(model, False, args, process)
        lr = lr_at(step, head_steps, total, args)
        for group in optimizer.param_groups:
            group["lr"] = lr
        losses, base_losses = [], []
        parts = zip(process.micro_batches, *(v.chunk(args.accumulate) for v in batch), strict=True)
        for mine, x, y in parts:
            draw = augment.Draws(args.seed, step, args.batch, mine)
            draw.seed_torch()                                         # for drop path
            y = y.to(device, non_blocking=True)                       # (b, L, K)
            if head_phase and cached:
                x, keep = cached_view(x, draw), None                  # (b, L, D)
            else:
                x = view(x, draw, cfg, args, device)                  # (b, T, 3, S, S)
                noise = draw.uniform(0, 1, args.window)               # (b, L)
                keep = random_keep(noise, 0 if head_phase else args.mask, device)  # (b, L - masked)
            if args.mixup:
                x, y = mixup(x, y, draw.beta(args.mixup))
            # DDP averages gradients in the last micro-batch only, as with its no_sync(). Without
            # DDP nothing reads this.
            student.require_backward_grad_sync = mine is process.micro_batches[-1]
            with autocast:
                logits = student(x, keep)                             # (b, L, K)
            loss = bce_loss(logits.float(), y)                        # Eq. 7
            (loss / args.accumulate).backward()
            losses.append(loss.detach())
            base_losses.append(bce_loss(base.expand_as(y), y))
        learning = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(learning, args.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        # -- everything below is bookkeeping ---------------------------
        done = step + 1
        # "base" is the loss of a network that always says the classes' frequencies.
        log.add(done, {"loss": torch.stack(losses).mean(), "base": torch.stack(base_losses).mean()},
                norm, clips=args.batch * args.window)
        if done % args.log_every == 0 or done == total:
            log.line(done, lr)
        validated = valid and (done % valid_steps == 0 or done == total)
        better = False
        if validated and process.rank == 0:
            with log.paused():
                amap = validate(model, *valid, reader, process, args)
            model.train(not head_phase)
            better, best = amap > best, max(amap, best)
            log.write(f"step {done}/{total} | valid t-AmAP {100 * amap:.2f} % "
                      f"| best {100 * best:.2f} %")
        stopping = stop.asked()
        if stopping or validated or done % args.save_every == 0 or done == total:
            log_state = log.state(done)                               # all processes must call it
            content = dict(stage=3, step=done, config=asdict(cfg), args=vars(args), log=log_state,
                           best=best, model=model.state_dict(), optimizer=optimizer.state_dict())
            if process.rank == 0:
                for name in (["last.pt", "best.pt"] if better else ["last.pt"]):
                    save_checkpoint(Path(args.out, name), **content)
        if stopping:
            break
    log.close()
    if process.rank == 0 and log.lines:
        report.curves([args.out], Path(args.out, "curves.png"))
    stop.exit_if_asked(f"stage 3: stopped after step {log.step}")
    print(f"stage 3: done; {args.out}/{'best.pt' if args.valid else 'last.pt'} is what infer.py "
          "takes")


def training_data(args, cfg, fixed):
    """Halves of a window or more, {match: events}, and cfg, with the classes that the labels have
    unless its own are `fixed`."""
    halves, events, classes = labelled_halves(
        args.data, args.labels, args.split, cfg.classes, fixed, args.radius, cfg.image_size,
        args.encoding)
    return of_length(halves, args.window, "a window"), events, with_changes(cfg, classes=classes)


def start_model(cfg, state, init, args):
    """The Comedian of the checkpoint that is resumed, or a new one with the transformers that
    --init has trained."""
    model = Comedian(cfg)
    if state:
        load_parts(model, state, [""], Path(args.out, "last.pt"))
        return model
    if init:
        parts = trained_parts(init)[:2]                    # never a head: the classes may differ
        load_parts(model, init, parts, args.init)
        print(f"init: {args.init}: {cfg.model}, {' and '.join(part.strip('.') for part in parts)} "
              f"transformer of stage {init['stage']}; the head starts anew")
        if "temporal." not in parts and args.temporal_init == "copy" and cfg.spatial == "vit":
            model.copy_spatial_to_temporal()
    peak = lr_at(0, 0, 1, args)
    if peak < LOW_RATE:
        print(f"hint: --lr {args.lr:g} is for 256 windows of 32 tokens: at --batch "
              f"{args.batch} it becomes {peak:.1g}, which learns little; docs/own-data.md has "
              "flags for small data")
    nn.init.constant_(model.head.bias, math.log(args.prior / (1 - args.prior)))
    return model


def both_ways(model, halves, reader, process):
    """The spatial tokens of every half, plain and mirrored: a list of (2, n_tokens, D)."""
    plain, mirrored = ([h for _, (h,) in infer.encode_halves(
        [model], infer.frame_clips(halves, reader, infer.clips_at_a_time(process.device)),
        process.device, process.autocast(), flip)]
        for flip in (False, True))
    return [torch.stack(pair) for pair in zip(plain, mirrored, strict=True)]


def start_validation(model, args):
    """(halves, {match: events}) for `validate`."""
    infer.as_network(model, args)              # flags that validate would refuse are refused now
    return labelled_halves(
        args.valid, args.valid_labels or args.valid, args.valid_split, model.cfg.classes,
        image_size=model.cfg.image_size, encoding=args.encoding)[:2]


def validate(model, halves, events, reader, process, args):
    """t-AmAP in [0, 1] of the model as it stands, spotted as infer.py does with these flags."""
    autocast, predictions = process.autocast(), {}
    network = infer.as_network(model.eval(), args)
    clips = infer.frame_clips(halves, reader, infer.clips_at_a_time(process.device))
    encoded = infer.encode_halves([model], clips, process.device, autocast)
    for match, group in itertools.groupby(encoded, key=lambda pair: pair[0].match):
        of_match, merged = [], []
        for half, (h,) in group:                                      # (n_tokens, D)
            windows = infer.window_scores(network, h, autocast)
            of_match.append(half)
            merged.append(infer.merge_half([network], [windows], len(h), args.merge))
        predictions[match] = infer.spot(of_match, merged, args)
    return evaluate.score(events, predictions, model.cfg.classes)["tight"]["a_mAP"]


if __name__ == "__main__":
    run.run_as_command(main, parse_args())
