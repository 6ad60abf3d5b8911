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

Validation is infer.py's spotting, so that is imported here; only `validate` needs it. What differs
from the paper, and why: docs/differences.md. Letters and terms: docs/method.md; b is the windows of
one pass (--accumulate), S the side of the network's image.
"""
import functools
import math
from fractions import Fraction
from pathlib import Path

import infer
from comedian import augment, results, run
from comedian.checkpoint import start_from
from comedian.frames import CLIP_FRAMES, FrameReader, of_length
from comedian.run import number
from comedian.soccernet import labelled_halves
from model import MODELS, Comedian, decay_groups, load_checkpoint, random_keep, with_changes

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


# ------------------------------------------------------------------ options
def parse_args(argv=None):
    p = run.Parser(__doc__)
    add = run.add_data_flags(p, MODELS)
    add("--labels", default=lambda given: given.data,
        help="root of the labels, or a labels.csv; default: --data")
    add("--encoding", type=run.text_encoding, help=run.ENCODING_HELP)
    add("--classes", help="file with a class per line; default: the classes of a stage-3 --init, "
        "else SoccerNet's 17, or the labels' own names if most of them are others")
    run.add_init_flags(add, "the transformers: last.pt of stage 2 (or 1, or 3)")

    add = p.add_argument_group("windows, labels and view").add_argument
    add("--window", type=number(1, 16384),
        help="T_l, tokens (seconds at 2 fps) per window; default: that of --init, else 64")
    add("--windows-per-half", type=number(2, 100_000),
        help="per epoch, the first and the last among them; default: 50 * 32 / --window (paper)")
    add("--radius", type=number(0.0), default=0.5,
        help="seconds: a frame is positive if an action is no farther away")
    add("--mask", type=number(0.0, 0.99), default=0.25,
        help="share of tokens masked in the second phase, alpha_2")
    add("--mixup", type=number(0.0), default=0.1, help="Beta(a, a), one per window; 0 = off")
    run.add_color_flag(add, 0.4, 0.4, 0.4, 0.0, note=" (0: cards keep their colour)")

    add = p.add_argument_group("two phases").add_argument
    add("--head-epochs", type=number(0), default=30, help="of the first phase: the head alone")
    add("--head-steps", type=number(0), default=0, help="steps, instead of --head-epochs; 0 = off")
    add("--head-lr", type=number(0.0), help="peak rate of the first phase; default: --lr")
    add("--head-phase", choices=["head", "temporal"], default="head",
        help="head: only the head learns, on augmented frames (paper); temporal: the temporal "
             "transformer too, on tokens computed once, plain and mirrored (ours, cheap)")
    add("--prior", type=number(0.000001, 0.999999), default=0.5,
        help="score of every class before training; 0.5 = head bias 0 (official code); the share "
             "of positive tokens is a better start for few steps (ours)")
    add("--epochs", type=number(0),
        help="of the second phase: everything learns; default: 20, ViSwin 10 (paper)")
    add("--steps", type=number(0), default=0, help="optimiser steps, instead of --epochs; 0 = off")

    add = p.add_argument_group("optimisation").add_argument
    add("--batch", type=number(1, 65536),
        help="windows per step, of all processes; default: 128 * 32 / --window (paper)")
    add("--lr", type=number(0.0), help="peak for 256 windows of 64 frames; scales with both; "
        "default: 5e-4, ViSwin 3e-4 (paper)")
    run.add_adamw_flags(add)
    results.add_valid_flags(p)
    return run.add_flags(p, out="runs/stage3").parse_args(argv)


def configure(args, given, path):
    """The Config of this run, and the options with their defaults filled in. given: the checkpoint
    at `path` to resume or to start from, or None. App. A.5: batch and windows are inversely
    proportional to a window's length; ViSwin has its own rate and epochs."""
    cfg = given["config"] if given else MODELS[args.model]
    swin = cfg.spatial == "swin"
    args, classes = run.follow(args, given, cfg, path)
    args = run.complete(args, batch=max(1, round(128 * 32 / args.window)),
                        windows_per_half=max(2, round(50 * 32 / args.window)),
                        lr=3e-4 if swin else 5e-4, epochs=10 if swin else 20)
    return with_changes(cfg, window_tokens=args.window, temporal_depth=args.temporal_depth,
                        classes=classes), args


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
    """The windows of a step: a function of (seed, step) alone. A batch may span two epochs.
    Proved by test_the_steps_walk_through_the_epochs."""
    length, per_half = CLIP_FRAMES * args.window, args.windows_per_half
    per_epoch = len(epoch_windows(args.seed, 0, n_frames, length, per_half))
    picks = []
    while len(picks) < args.batch:
        epoch, i = divmod(step * args.batch + len(picks), per_epoch)
        windows = epoch_windows(args.seed, epoch, n_frames, length, per_half)
        picks += windows[i:i + args.batch - len(picks)]
    return picks


def count_steps(args, n_frames):
    """Steps of the head phase, of both phases, and from one validation to the next. DataError if
    there is none. Proved by test_the_steps_walk_through_the_epochs and test_mistakes."""
    per_epoch = len(epoch_windows(args.seed, 0, n_frames, CLIP_FRAMES * args.window,
                                  args.windows_per_half))
    head_steps = args.head_steps or args.head_epochs * per_epoch // args.batch
    total = head_steps + (args.steps or args.epochs * per_epoch // args.batch)
    run.check_steps(total, per_epoch, args.data, args.batch)
    return head_steps, total, max(1, args.valid_every * per_epoch // args.batch)


# ------------------------------------------------------------------ labels
def frame_labels(events, half, radius_s, n_classes):
    """(n_frames, K) bool: frame i has class c iff an event of c in this half lies within
    `radius_s` of i / fps.

    The bound is inclusive and the same for all classes, visible or not (the paper's epsilon). Exact
    fractions: floats would miss it at some rates. Proved by test_labels_of_a_frame.
    """
    fps = Fraction(half.fps).limit_denominator(1001)       # 2.0833 = 25 / 12, 29.97 = 30000 / 1001
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
    """(n_frames, K) bool -> (L, K) float32: a token is positive if one of its clip's frames is.
    Proved by test_labels_of_a_token."""
    window = labels[first_frame:first_frame + CLIP_FRAMES * n_tokens]
    return window.reshape(n_tokens, CLIP_FRAMES, -1).any(1).astype(np.float32)


def base_logits(truth):
    """(K,): the log-odds of each class's share of positive tokens. The loss of predicting these
    everywhere is logged as "base": training must beat it. truth: per half its frame_labels. A class
    without events counts as half a token, and one with events everywhere as half a token less than
    all: logits stay finite. Proved by test_base_logits."""
    tokens = np.concatenate([token_labels(labels, 0, len(labels) // CLIP_FRAMES)
                             for labels in truth])                    # (n, K)
    half_token = 0.5 / len(tokens)
    share = torch.from_numpy(tokens).mean(0).clamp(half_token, 1 - half_token)
    return torch.logit(share)


# ------------------------------------------------------------------ view
def view(frames, draw, cfg, color, device):
    """X ~ A^4: (B, T, H, W, 3) uint8 -> (B, T, 3, S, S); one draw per window, no crop.
    Proved by test_the_views_recipe."""
    x = augment.resize(augment.to_float(frames, device), cfg.image_size)           # (B, T, 3, S, S)
    x = augment.color_jitter(x, draw, color, p=0.8)
    x = augment.gaussian_blur(x, draw, p=0.5)
    x = augment.hflip(x, draw, p=0.5)
    return augment.normalize(x, cfg.normalize_per_frame)


def mixup(x, y, lam):
    """Every window mixed with its neighbour in the batch: x (B, ...) and labels y (B, L, K) alike,
    lam (B,) of the window itself.

    BCE is linear in its labels: mixed labels give the mixed loss lam BCE(y1) + (1 - lam) BCE(y2).
    The batch is in random order, so that neighbours (0 with 1, 2 with 3, ...) are as good as a
    permutation; run.micro_batches keeps each pair in one pass and one process; the last of an odd
    number stays unmixed. Proved by test_mixup, test_accumulation_changes_nothing.
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

        -1/(L K) sum_t sum_c [ y_tc log sigma(l_tc) + (1 - y_tc) log (1 - sigma(l_tc)) ]

    The paper prints the first term alone. logits l, y (B, L, K); the mean over windows too.
    Proved by test_equation_7.
    """
    return F.binary_cross_entropy_with_logits(logits, y)


# ------------------------------------------------------------------ schedules
def lr_at(step, head_steps, total, args):
    """In each phase a cosine from the scaled peak to 1 % of it; no warm-up. Proved by
    test_learning_rate."""
    peak = args.lr
    if step >= head_steps:
        step, total = step - head_steps, total - head_steps
    else:
        total = head_steps
        peak = args.lr if args.head_lr is None else args.head_lr
    peak = peak * args.batch / 256 * CLIP_FRAMES * args.window / 64    # App. A.2: x T_g / 64
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / total)))


def start_phase(model, first_phase, process):
    """Sets what learns: in the first phase the head, with --head-phase temporal the temporal
    transformer too; in the second everything. Returns the model, wrapped for DDP and torch.compile,
    and a new AdamW."""
    args, learning = process.args, [model]
    if first_phase:
        learning = [model.head]
        if args.head_phase == "temporal":
            learning.append(model.temporal)
    model.requires_grad_(False)
    for part in learning:
        part.requires_grad_(True)
    masks = not first_phase and int(args.window * args.mask) > 0       # whether any token is masked
    model.temporal.mask_token.requires_grad_(masks)
    model.train(not first_phase)                           # drop path in the second phase alone
    groups = decay_groups(*learning, weight_decay=args.weight_decay)
    return process.wrap(model), torch.optim.AdamW(groups, fused=True)


# ------------------------------------------------------------------ run
def main(args):
    # -- set-up
    last_pt = Path(args.out, "last.pt")
    state = load_checkpoint(last_pt) if args.resume else None
    init = load_checkpoint(args.init) if args.init and not state else None
    cfg, args = configure(args, state or init, last_pt if state else args.init)
    process = run.start(args, state, cfg.width, stage=3,               # alone, or one of several
                        free={"data", "labels", "encoding", "init", "valid", "valid_labels"})
    device, autocast = process.device, process.autocast()

    # -- data: windows of the matches that have labels, and what happens in every frame
    halves, events, classes = labelled_halves(
        args.data, args.labels, args.split, cfg.classes, fixed=bool(args.classes or state),
        radius_s=args.radius, image_size=cfg.image_size, encoding=args.encoding)
    halves = of_length(halves, args.window, "a window")
    cfg = with_changes(cfg, classes=classes)
    truth = [frame_labels(events[half.match], half, args.radius, len(classes))
             for half in halves]                                      # (n_frames, K) each
    base = base_logits(truth).to(device)                              # (K,)
    n_frames = tuple(half.n_frames for half in halves)
    head_steps, total, valid_steps = count_steps(args, n_frames)
    first = process.steps_done(total)
    reader = FrameReader(args.workers, for_gpu=device.type == "cuda")

    # -- network: both transformers and the head
    torch.manual_seed(args.seed)
    model = start_from(Comedian(cfg), init, args.init, args.temporal_init, stage=3).to(device)
    nn.init.constant_(model.head.bias, math.log(args.prior / (1 - args.prior)))
    process.restore({"model": model})
    if not state:
        run.hint_at_low_rate(lr_at(step=0, head_steps=0, total=1, args=args), args)
    valid = args.valid and infer.open_validation(model, process)
    wrapped, optimizer = start_phase(model, first < head_steps, process)
    if first != head_steps:                    # at that step the second phase has a new AdamW
        process.restore({"optimizer": optimizer})
    cached = args.head_phase == "temporal" and first < head_steps     # tokens instead of frames
    tokens = infer.encode_both_ways(model, halves, reader, process) if cached else []
    print(f"stage 3: {cfg.model}, {sum(p.numel() for p in model.parameters()):,} "
          f"parameters, {head_steps:,} + {total - head_steps:,} steps "
          f"of {args.batch} windows of {args.window} tokens {process}")

    # -- train
    def picks(step):
        return pick_windows(step, args, n_frames)

    def load(step):
        mine = picks(step)[process.samples]
        if cached and step < head_steps:
            mine = [(h, frame - frame % CLIP_FRAMES) for h, frame in mine]     # where clips begin
            x = torch.stack([tokens[h][:, frame // CLIP_FRAMES:][:, :args.window]
                             for h, frame in mine])                   # (B / ranks, 2, L, D)
        else:
            x = reader.read([(halves[h], frame) for h, frame in mine],
                            CLIP_FRAMES * args.window)                # (B / ranks, T, H, W, 3)
        y = np.stack([token_labels(truth[h], frame, args.window) for h, frame in mine])
        return x, torch.from_numpy(y)                                 # y (B / ranks, L, K)

    journal = run.Journal(process, first, total, halves, picks)
    for step, batch in journal.batches(reader, load):
        # -- what this stage is about ----------------------------------
        first_phase = step < head_steps
        if step == head_steps and head_steps > 0:          # the second phase begins
            wrapped, optimizer = start_phase(model, False, process)
        lr = lr_at(step, head_steps, total, args)
        for group in optimizer.param_groups:
            group["lr"] = lr
        losses, base_losses = [], []
        # One pass over the batch, or --accumulate; draw: the random numbers of a pass's windows.
        for draw, x, y in process.passes(step, wrapped, *batch):
            y = y.to(device, non_blocking=True)                       # (b, L, K)
            if first_phase and cached:
                mirrored = (draw.uniform(0, 1) < 0.5).long()          # (b,)
                x, keep = x[torch.arange(len(x)), mirrored], None     # (b, L, D)
            else:
                x = view(x, draw, cfg, args.color, device)            # (b, T, 3, S, S)
                noise = draw.uniform(0, 1, args.window)               # (b, L)
                share = 0 if first_phase else args.mask
                keep = random_keep(noise, share, device)              # (b, L - masked)
            if args.mixup:
                x, y = mixup(x, y, draw.beta(args.mixup))
            with autocast:
                logits = wrapped(x, keep)             # frames or spatial tokens -> (b, L, K)
            loss = bce_loss(logits.float(), y)                        # Eq. 7
            (loss / args.accumulate).backward()
            losses.append(loss.detach())
            base_losses.append(bce_loss(base.expand_as(y), y))
        learning = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(learning, args.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        # -- everything below is bookkeeping ---------------------------
        journal.note(step, lr, norm, args.batch * args.window,
                     {"loss": losses, "base": base_losses})
        if valid and ((step + 1) % valid_steps == 0 or step + 1 == total):
            journal.validate(step, lambda: infer.validate(model, *valid, reader, process))
            model.train(not first_phase)                   # validating has left it in eval mode
        journal.save_if_due(step, cfg, {"model": model, "optimizer": optimizer})
    journal.finish(f"{'best.pt' if valid else 'last.pt'}: give it to infer.py (--checkpoint)")


if __name__ == "__main__":
    run.run_as_command(main, parse_args())
