"""
Stage 1: the spatial encoder learns, from unlabelled clips, what distinguishes one second from
another.

    python stage1_spatial.py --data frames/                           # the paper's setting, one GPU
    python stage1_spatial.py --data frames/ --model vivit_micro --batch 64 --steps 20     # a laptop
    torchrun --nproc-per-node 8 stage1_spatial.py --data frames/                        # eight GPUs

Reads   <data>/**/1_224p/00000001.jpg ...      frames, no labels
Writes  <out>/last.pt, log.txt, curves.png     stage 2 starts from last.pt
Method  paper Sec. 3.2, App. A.3: MoCo (projector, predictor, momentum encoder, queue), Eq. 1-2.

What differs from the paper, and why: docs/differences.md. Letters and terms: docs/method.md; b is
the clips of one pass (--accumulate), S the side of the network's image, M the length of the queue.
"""
import copy
import functools
import math
from pathlib import Path

from comedian import augment, run
from comedian.frames import CLIP_FRAMES, FrameReader, open_halves
from comedian.run import number
from model import MODELS, Projector, decay_groups, load_checkpoint, spatial_encoder

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


# ------------------------------------------------------------------ options
def parse_args(argv=None):
    p = run.Parser(__doc__)
    run.add_data_flags(p, MODELS, "network; stage 1 trains its spatial encoder")

    add = p.add_argument_group("two views of a clip").add_argument
    add("--crop-scale", type=number(0.01, 1.0), nargs=2, default=[0.2, 1.0],
        help="share of the frame in a crop")
    run.add_color_flag(add, 0.4, 0.4, 0.2, 0.1)

    add = p.add_argument_group("contrast, Eq. 1-2").add_argument
    add("--tau", type=number(0.001), default=0.1, help="temperature of Eq. 2")
    add("--queue", type=number(1, 2 ** 24), default=65536,
        help="M, negatives kept from earlier steps")
    add("--momentum", type=number(0.0, 1.0), default=0.99,
        help="momentum of the target branch at first; a cosine raises it to 1 (official code)")
    add("--negatives", choices=["queue", "batch"], default="queue",
        help="batch: the other clips of the batch (with --accumulate, of the pass) instead of "
             "the queue (ours, for small runs)")
    add("--head-norm", choices=["none", "batch"], default="none",
        help="batch: BatchNorm in projector and predictor, over the clips of a pass (ours: a small "
             "run learns its task faster); none: official code")
    add("--halves-per-batch", type=number(0), default=0,
        help="draw each batch from this many halves (ours: among clips with the same kits and "
             "pitch only the play differs); 0 = all clips, shuffled (paper)")

    run.add_optimisation_flags(
        p, epochs=(100, "passes over all clips (official YAML: 200, official README: 100)"),
        batch=(1024, "clips per step, of all processes together"),
        lr=(5e-4, "peak learning rate for a batch of 256; scales with --batch"))
    return run.add_flags(p, out="runs/stage1").parse_args(argv)


# ------------------------------------------------------------------ sampler
@functools.lru_cache(maxsize=2)
def epoch_order(seed, epoch, n_clips):
    """The random order of an epoch's clips. Proved by test_every_clip_once_an_epoch."""
    return np.random.default_rng([seed, epoch]).permutation(n_clips)


def pick_clips(step, args, halves):
    """The clips of a step as pairs (half index, first frame): a function of (seed, step) alone.
    Proved by test_every_clip_once_an_epoch, test_few_halves_if_asked."""
    n_tokens = np.array([half.n_tokens for half in halves])
    begins = np.cumsum(n_tokens) - n_tokens                # clips are counted over all halves
    if args.halves_per_batch:
        rng = np.random.default_rng([args.seed, step])
        chosen = rng.choice(len(halves), min(args.halves_per_batch, len(halves)), replace=False)
        clips = np.concatenate([begins[h] + np.arange(n_tokens[h]) for h in chosen])
        clips = rng.choice(clips, args.batch, replace=len(clips) < args.batch)        # (B,)
    else:                                                  # every 1-s clip, once an epoch
        n_clips = n_tokens.sum()
        epoch, i = divmod(step, n_clips // args.batch)
        order = epoch_order(args.seed, epoch, n_clips)
        clips = order[i * args.batch:(i + 1) * args.batch]                            # (B,)
    half_index = np.searchsorted(begins, clips, side="right") - 1     # (B,) where each clip lies
    return [(int(h), CLIP_FRAMES * int(clip - begins[h]))
            for h, clip in zip(half_index, clips, strict=True)]


def count_steps(args, halves):
    """Optimiser steps in all. DataError if there is none. Proved by test_mistakes."""
    n_clips = sum(half.n_tokens for half in halves)
    run.check_clips(n_clips, args.data, args.batch)
    return args.steps or args.epochs * (n_clips // args.batch)


# ------------------------------------------------------------------ views
def views(frames, draw, cfg, scale, color, device):
    """Two views of each clip, augmented by draws from A^1 and from A^2: (B, 2, H, W, 3) uint8 ->
    twice (B, 2, 3, S, S). The two distributions differ in blur (always / rarely) and solarisation
    (never / sometimes). draw: the random numbers of these clips (augment.Draws); the two frames of
    a clip share theirs. Proved by test_the_views_recipe.
    """
    x = augment.to_float(frames, device)                              # (B, 2, 3, H, W)
    height, width = x.shape[3:]
    ratio = np.array([0.75, 1.25]) * width / height            # crops keep about the frame's aspect
    pair = []
    for blur_p, solarize_p in ((1.0, 0.0), (0.1, 0.2)):
        boxes = augment.random_boxes(draw, height, width, scale, ratio)
        view = augment.crop_resize(x, boxes, cfg.image_size)          # (B, 2, 3, S, S)
        view = augment.color_jitter(view, draw, color, p=0.8)
        view = augment.grayscale(view, draw, p=0.2)
        view = augment.gaussian_blur(view, draw, p=blur_p)
        view = augment.solarize(view, draw, p=solarize_p)
        view = augment.hflip(view, draw, p=0.5)
        pair.append(augment.normalize(view, cfg.normalize_per_frame))
    return pair


# ------------------------------------------------------------------ the loss
# z: a view of a clip in the online branch. k: its other view in the target branch.
#
#     L           = -(l_M(z1, k2) + l_M(z2, k1)) / 2                                          (1)
#     l_M(z, k)   = log  exp(z.k / tau) / (exp(z.k / tau) + sum_j exp(z.Q_j / tau))           (2)

def moco_loss(z, k, queue, tau):
    """Minus l_M of Eq. 2, averaged over the batch, and how often the positive k is the nearest.
    z, k (B, 256) unit vectors, k without gradient; queue (M, 256) unit vectors, the negatives Q.
    Proved by test_equation_1_and_2."""
    positive = (z * k).sum(1, keepdim=True)                           # (B, 1)
    logits = torch.cat([positive, z @ queue.T], 1) / tau              # (B, 1 + M), positives first
    first = torch.zeros(len(z), dtype=torch.long, device=z.device)
    nearest = (logits.argmax(1) == first).float().mean()              # top-1 accuracy
    return F.cross_entropy(logits, first), nearest.detach()


def batch_loss(z, keys, own, tau):
    """The same with the other clips of the batch as negatives: keys (B * ranks, 256), of which that
    of clip i is row own[i], own (B,). Proved by test_equation_2_with_the_batch_as_negatives."""
    logits = z @ keys.T / tau                                         # (B, B * ranks)
    nearest = (logits.argmax(1) == own).float().mean()
    return F.cross_entropy(logits, own), nearest.detach()


# ------------------------------------------------------------------ schedules
def lr_at(step, total, args):
    """Linear warm-up over warmup_epochs / epochs of the steps, then a cosine to 0. The rate
    of step 0 is one step's rise, not 0. Proved by test_learning_rate and
    test_warmups_that_are_no_whole_number_of_steps."""
    peak, warmup = args.lr * args.batch / 256, total * args.warmup_epochs / args.epochs
    if step < warmup:                 # which may be a fraction of a step: min() keeps to the peak
        return peak * min(1, (step + 1) / warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def momentum_at(step, total, first):
    """m of the target branch: from `first` to 1 on a cosine. Proved by test_momentum_encoder."""
    return 1 - (1 - first) * (1 + math.cos(math.pi * step / total)) / 2


# ------------------------------------------------------------------ run
def main(args):
    # -- set-up
    state = load_checkpoint(Path(args.out, "last.pt")) if args.resume else None
    cfg = state["config"] if state else MODELS[args.model]
    process = run.start(args, state, cfg.width, stage=1, free={"data"})  # alone, or one of several
    device, autocast = process.device, process.autocast()

    # -- data
    halves = open_halves(args.data, args.split, cfg.image_size)
    total = count_steps(args, halves)
    first = process.steps_done(total)
    reader = FrameReader(args.workers, for_gpu=device.type == "cuda")

    # -- network: f_s with projector and predictor; the target, a slow copy of the first two
    torch.manual_seed(args.seed)
    encoder = spatial_encoder(cfg)
    projector = Projector(cfg.width, cfg.head_width, cfg.head_width, 256, norm=args.head_norm)
    predictor = Projector(256, cfg.head_width, 256, last_bias=False, norm=args.head_norm)
    online = nn.Sequential(encoder, projector, predictor).to(device)
    target = copy.deepcopy(online[:2]).requires_grad_(False)
    n_queue = args.queue if args.negatives == "queue" else 0
    queue = F.normalize(torch.randn(n_queue, 256), dim=1).to(device)                  # (M, 256)
    groups = decay_groups(encoder, projector, predictor, weight_decay=args.weight_decay)
    optimizer = torch.optim.AdamW(groups, fused=True)
    # The encoder's weights are saved under the names that they have in Comedian.
    saved = {"model": nn.ModuleDict({"spatial": encoder}), "projector": projector,
             "predictor": predictor, "target": target, "queue": queue, "optimizer": optimizer}
    process.restore(saved)
    online = process.wrap(online)
    run_target = torch.compile(target) if args.compile else target
    print(f"stage 1: {cfg.model}, {sum(p.numel() for p in encoder.parameters()):,} spatial "
          f"parameters, {total:,} steps of {args.batch} clips {process}")

    # -- train
    def picks(step):
        return pick_clips(step, args, halves)

    def load(step):
        clips = [(halves[h], frame) for h, frame in picks(step)[process.samples]]
        return reader.read(clips, CLIP_FRAMES)                        # (B / ranks, 2, H, W, 3)

    journal = run.Journal(process, first, total, halves, picks)
    for step, frames in journal.batches(reader, load):
        # -- what this stage is about ----------------------------------
        lr = lr_at(step, total, args)
        for group in optimizer.param_groups:
            group["lr"] = lr
        keys, losses, nearest = [], [], []
        # One pass over the batch, or --accumulate; draw: the random numbers of a pass's clips.
        for draw, part in process.passes(step, online, frames):
            pair = views(part, draw, cfg, args.crop_scale, args.color, device)
            both = torch.cat(pair)                                    # (2b, 2, 3, S, S)
            with autocast:
                z = online(both)                                      # (2b, 256)
                with torch.no_grad():
                    k = run_target(both)                              # (2b, 256)
            z1, z2 = F.normalize(z.float(), dim=1).chunk(2)           # (b, 256) each
            k1, k2 = F.normalize(k.float(), dim=1).chunk(2)
            if args.negatives == "queue":
                l1, top1 = moco_loss(z1, k2, queue, args.tau)
                l2, top2 = moco_loss(z2, k1, queue, args.tau)
            else:                                                     # the pass, of all processes
                own = torch.arange(len(z1), device=device) + process.rank * len(z1)
                l1, top1 = batch_loss(z1, run.all_gather(k2), own, args.tau)
                l2, top2 = batch_loss(z2, run.all_gather(k1), own, args.tau)
            loss = (l1 + l2) / 2                                      # Eq. 1
            (loss / args.accumulate).backward()
            losses.append(loss.detach())
            nearest.append((top1 + top2) / 2)
            keys.append(torch.stack([k1, k2], 1))                     # (b, 2, 256)
        norm = nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], args.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            m = momentum_at(step, total, args.momentum)               # target <- m target + (1-m) f
            fast = [*encoder.parameters(), *projector.parameters()]
            for slow, new in zip(target.parameters(), fast, strict=True):
                slow.lerp_(new, 1 - m)
        if len(queue):          # a ring buffer: the oldest key lies at step * 2B, modulo its size
            new = run.all_gather(torch.cat(keys)).flatten(0, 1)       # (2B, 256), of all processes
            place = torch.arange(step * len(new), (step + 1) * len(new), device=device)
            newest = slice(-len(queue), None)              # should a step bring more than it holds
            queue[place[newest] % len(queue)] = new[newest]
        # -- everything below is bookkeeping ---------------------------
        journal.note(step, lr, norm, args.batch, {"loss": losses, "top-1": nearest})
        journal.save_if_due(step, cfg, saved)
    journal.finish("last.pt: give it to stage 2 (--init)")


if __name__ == "__main__":
    run.run_as_command(main, parse_args())
