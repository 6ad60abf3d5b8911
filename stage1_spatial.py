"""
Stage 1: the spatial encoder learns, from unlabelled clips, what tells one second from another.

    python stage1_spatial.py --data frames/                           # the paper's setting, one GPU
    python stage1_spatial.py --data frames/ --model vivit_micro --batch 64 --steps 20     # a laptop
    torchrun --nproc-per-node 8 stage1_spatial.py --data frames/                        # eight GPUs

Reads   <data>/**/1_224p/00000001.jpg ...      frames; labels are not looked at (layouts: data.py)
Writes  <out>/last.pt, log.txt, curves.png     stage 2 starts from last.pt
Method  paper Sec. 3.2, App. A.3: MoCo (projector, predictor, momentum encoder, queue), Eq. 1-2.

Differences from the paper: none by default. What it leaves open is taken from the official code:
GELU heads without norm, EMA 0.99 -> 1 on a cosine, crops of the broadcast's aspect squeezed to
a square, drop path 0.1, gradient norm clipped at 1. The demo draws its batches otherwise:
--halves-per-batch, --negatives batch.
"""
import argparse
import copy
import functools
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from comedian import augment, run
from comedian import frames as data
from comedian.public_weights import config_of, save_checkpoint
from comedian.run import device_name, number
from model import MODELS, Projector, decay_groups, spatial_encoder, with_changes


# ------------------------------------------------------------------ options
def parse_args(argv=None):
    p = run.Parser(__doc__)
    add = p.add_argument
    add("--data", required=True, help="folder with frames, any layout data.py knows")
    add("--split", help="only these of SoccerNet's games: train, train+valid, ..., or a file with "
        "a game per line; default: all")
    add("--out", default="runs/stage1", help="folder for last.pt and log.txt")
    add("--model", default="vivit_tiny", choices=MODELS,
        help="network; stage 1 trains its spatial encoder")
    add("--epochs", type=number(1), default=100,
        help="passes over all clips (official YAML: 200, README's: 100)")
    add("--steps", type=number(0), default=0,
        help="optimiser steps in all, instead of --epochs; 0 = off")
    add("--batch", type=number(1), default=1024, help="clips per step, of all processes together")
    add("--accumulate", type=number(1), default=1,
        help="split the batch into this many passes: the same result in less memory")
    add("--lr", type=number(0.0), default=5e-4,
        help="peak learning rate for a batch of 256; scales with --batch")
    add("--warmup-epochs", type=number(0.0), default=10,
        help="epochs, of --epochs, with rising learning rate")
    add("--weight-decay", type=number(0.0), default=0.05,
        help="AdamW; not on biases, norms, positions")
    add("--clip-grad", type=number(0.0), default=1.0, help="largest gradient norm (official code)")
    add("--tau", type=number(0.03), default=0.1, help="temperature of Eq. 2")
    add("--momentum", type=number(0.0, 1.0), default=0.99,
        help="of the target branch, to 1 on a cosine (official code)")
    add("--queue", type=number(1), default=65536, help="negatives kept from earlier steps")
    add("--negatives", choices=["queue", "batch"], default="queue",
        help="batch: the other clips of the batch (with --accumulate, of the pass) instead of "
             "the queue (ours, for small runs)")
    add("--halves-per-batch", type=number(0), default=0,
        help="draw each batch from this many halves (ours: kit and pitch then tell nothing); "
             "0 = all clips, shuffled (paper)")
    add("--crop-scale", type=number(0.01, 1.0), nargs=2, default=[0.2, 1.0],
        help="share of the frame in a crop")
    add("--color", type=number(0.0), nargs=4, default=[0.4, 0.4, 0.2, 0.1],
        help="jitter of brightness, contrast, saturation, hue")
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


# ------------------------------------------------------------------ data: which clips, which views
@functools.lru_cache(maxsize=2)
def epoch_order(seed, epoch, n_clips):
    return np.random.default_rng([seed, epoch]).permutation(n_clips)


def pick_clips(step, args, halves):
    """The clips of a step as pairs (half, first frame): a function of (seed, step) alone."""
    ends = np.cumsum([half.n_tokens for half in halves])            # clips, counted over all halves
    if args.halves_per_batch:
        rng = np.random.default_rng([args.seed, step])
        chosen = rng.choice(len(halves), min(args.halves_per_batch, len(halves)), replace=False)
        clips = np.concatenate([np.arange(ends[h] - halves[h].n_tokens, ends[h]) for h in chosen])
        clips = rng.choice(clips, args.batch, replace=len(clips) < args.batch)
    else:                                                            # every 1-s clip, once an epoch
        epoch, place = divmod(step, ends[-1] // args.batch)
        clips = epoch_order(args.seed, epoch, ends[-1])[place * args.batch:(place + 1) * args.batch]
    which = np.searchsorted(ends, clips, side="right")
    return [(halves[h], data.CLIP_FRAMES * int(clip - ends[h] + halves[h].n_tokens))
            for h, clip in zip(which, clips, strict=True)]


def views(frames, draw, cfg, args, device):
    """Two views X^1 ~ A^1, X^2 ~ A^2 of each clip: (B, 2, H, W, 3) uint8 -> twice (B, 2, 3, S, S).

    The two distributions differ in blur (always / rarely) and solarisation (never / sometimes).
    """
    x = augment.to_float(frames, device)                                 # (B, 2, 3, H, W)
    height, width = x.shape[3:]
    ratio = np.array([0.75, 1.25]) * width / height            # crops keep about the frame's aspect
    pair = []
    for blur_p, solarize_p in ((1.0, 0.0), (0.1, 0.2)):
        boxes = augment.random_boxes(draw, height, width, args.crop_scale, ratio)
        view = augment.crop_resize(x, boxes, cfg.image_size)          # (B, 2, 3, S, S)
        view = augment.color_jitter(view, draw, args.color, p=0.8)
        view = augment.grayscale(view, draw, p=0.2)
        view = augment.gaussian_blur(view, draw, p=blur_p)
        view = augment.solarize(view, draw, p=solarize_p)
        view = augment.hflip(view, draw, p=0.5)
        pair.append(augment.normalize(view, cfg.normalize_per_frame))
    return pair


# ------------------------------------------------------------------ the loss
def moco_loss(z, k, queue, tau):
    """Minus l_M of Eq. 2, averaged over the batch:

        l_M(z, k) = log  exp(z.k / tau) / (exp(z.k / tau) + sum_j exp(z.Q_j / tau))

    z, k (B, D) unit vectors, k without gradient, of two views of the same clips; queue (M, D) unit
    vectors, or None: then the other clips, of all processes, are the negatives Q.
    """
    if queue is None:
        logits = z @ run.gather(k).T / tau                            # (B, B * processes)
        own = torch.arange(len(z), device=z.device) + run.rank() * len(z)
        return F.cross_entropy(logits, own)
    positive = (z * k).sum(1, keepdim=True)                           # (B, 1)
    logits = torch.cat([positive, z @ queue.T], 1) / tau              # (B, 1 + M), positives first
    return F.cross_entropy(logits, torch.zeros(len(z), dtype=torch.long, device=z.device))


def lr_at(step, total, args):
    """Linear warm-up from 0, then a cosine to 0."""
    peak, warmup = args.lr * args.batch / 256, total * args.warmup_epochs / args.epochs
    if step < warmup:                                     # which need not be a whole number
        return peak * min(1, (step + 1) / warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


# ------------------------------------------------------------------ run
def main(args):
    rank, ranks, device = run.join(args.device)           # under torchrun one of several processes
    passes = run.passes(args, rank, ranks)                # its samples of each batch, pass by pass
    state = run.start(args, stage=1)                      # what to --resume from, or None
    bf16 = run.has_bf16(device) if args.bf16 is None else args.bf16
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)

    # -- data
    halves = data.find_halves(args.data, args.split)
    print(data.describe(halves, args.data))
    n_clips = sum(half.n_tokens for half in halves)
    if n_clips < args.batch:
        raise data.DataError(f"{args.data}: {n_clips} clips are fewer than one "
                             f"--batch of {args.batch}")
    total = args.steps or args.epochs * (n_clips // args.batch)
    reader = data.FrameReader(args.workers, pin=device.type == "cuda")

    # -- network: online branch f_s with projector and predictor g_s; target f_t, its slow copy
    torch.manual_seed(args.seed)
    cfg = config_of(state) if state else with_changes(args.model)
    hidden = 2048 if args.model == "vivit_small" else 1024            # official heads; paper: 1024
    online = nn.Sequential(spatial_encoder(cfg),
                           Projector(cfg.width, hidden, hidden, 256)).to(device)
    target = copy.deepcopy(online).requires_grad_(False)
    predictor = Projector(256, hidden, 256, last_bias=False).to(device)
    queue = None
    if args.negatives == "queue":
        queue = F.normalize(torch.randn(args.queue, 256), dim=1).to(device)        # (M, 256)
    optimizer = torch.optim.AdamW(decay_groups(online, predictor, weight_decay=args.weight_decay),
                                  fused=True)
    if state:
        online.load_state_dict(state["online"])
        target.load_state_dict(state["target"])
        predictor.load_state_dict(state["predictor"])
        optimizer.load_state_dict(state["optimizer"])
        if queue is not None:
            queue.copy_(state["queue"])
    start = state["step"] if state else 0
    student, teacher = nn.Sequential(online, predictor), target       # as they are called below
    if args.compile:
        student, teacher = torch.compile(student), torch.compile(teacher)
    if ranks > 1:
        student = DistributedDataParallel(student)
    print(f"stage 1: {args.model}, {sum(p.numel() for p in online[0].parameters()):,} spatial "
          f"parameters, {n_clips:,} clips, {total:,} steps of {args.batch} "
          f"on {ranks} x {device.type}, bf16 {'on' if bf16 else 'off'}")

    # -- train
    def load(step):
        picks = pick_clips(step, args, halves)[passes[0].start:passes[-1].stop]
        return reader.read(picks, data.CLIP_FRAMES)                   # (B / ranks, 2, H, W, 3)

    def files(step):
        return [half.path(first) for half, first in pick_clips(step - 1, args, halves)]

    log = run.Log(args.out, "stage 1", start, total, device, files, state and state["log"])
    stop = run.Stop()
    depth = 2 if device.type == "cuda" else 0             # no CPU core is idle: nothing to gain
    for step, frames in enumerate(data.ahead(load, range(start, total), depth), start):
        # -- what this stage is about ----------------------------------
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, total, args)
        keys, losses = [], []
        for mine, part in zip(passes, frames.chunk(args.accumulate), strict=True):
            draw = augment.Draws(args.seed, step, args.batch, mine)
            torch.manual_seed((args.seed * 1_000_003 + step) * args.batch + mine.start)  # drop path
            student.require_backward_grad_sync = mine is passes[-1]   # DDP averages after the last
            both = torch.cat(views(part, draw, cfg, args, device))    # (2b, 2, 3, S, S)
            with autocast:
                z = student(both)                                     # (2b, 256)
                with torch.no_grad():
                    k = teacher(both)                                 # (2b, 256)
            z1, z2 = F.normalize(z.float(), dim=1).chunk(2)           # (b, 256) each
            k1, k2 = F.normalize(k.float(), dim=1).chunk(2)
            loss = (moco_loss(z1, k2, queue, args.tau)                # Eq. 1
                    + moco_loss(z2, k1, queue, args.tau)) / 2
            (loss / args.accumulate).backward()
            losses.append(loss.detach())
            keys.append(torch.stack([k1, k2], 1))                     # (b, 2, 256)
        norm = nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]],
                                        args.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():                                         # f_t <- m f_t + (1 - m) f_s
            m = 1 - (1 - args.momentum) * (1 + math.cos(math.pi * step / total)) / 2
            torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1 - m)
            if queue is not None:                                     # the oldest keys make room
                keys = run.gather(torch.cat(keys)).flatten(0, 1)      # (2B, 256), of all processes
                place = torch.arange(step * len(keys), (step + 1) * len(keys), device=device)
                queue[place % len(queue)] = keys
        # -- everything below is bookkeeping ---------------------------
        step = step + 1
        log.add(step, torch.stack(losses).mean(), norm, clips=args.batch)
        if step % args.log_every == 0 or step == total:
            log.line(step, lr=optimizer.param_groups[0]["lr"])
        if stop.asked() or step % args.save_every == 0 or step == total:
            content = dict(stage=1, step=step, config=asdict(cfg), args=vars(args),
                           log=log.state(step), queue=queue,
                           model={f"spatial.{k}": v for k, v in online[0].state_dict().items()},
                           online=online.state_dict(), target=target.state_dict(),
                           predictor=predictor.state_dict(), optimizer=optimizer.state_dict())
            if rank == 0:
                save_checkpoint(Path(args.out, "last.pt"), **content)
        if stop.signal:
            break
    log.close()
    stop.release(f"stage 1: stopped after step {log.step}")
    print(f"stage 1: done; {args.out}/last.pt is what stage 2 starts from (--init)")


if __name__ == "__main__":
    run.command(main, parse_args())
