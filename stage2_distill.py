r"""
Stage 2: distillation. Every output token of the student learns to match the teacher's feature of
its own second, and those of other seconds as far as the teacher's features resemble it.

    python stage2_distill.py --data frames/ --init runs/stage1/last.pt         # the paper's setting
    python stage2_distill.py --data data/demo --features runs/demo-0/features --steps 20 --batch 8 \
               --features-name teacher --model vivit_micro --window 32             # after make demo
    torchrun --nproc-per-node 8 stage2_distill.py --data frames/ --init ...             # eight GPUs

Reads   <data>/**/1_224p/00000001.jpg ...      frames, no labels
        <features>/<match>/<half>_<features-name>.npy   teacher features, 1 a second: (seconds, D_t)
        --init                                 stage 1's last.pt; without it all weights are random
Writes  <out>/last.pt, log.txt, curves.png     stage 3 starts from last.pt
        <centroids>/centroids_*.npy            soft centroids of Eq. 4, once per bank and --tau-m
Method  paper Sec. 3.3, App. A.4: distillation of a bank of features with the SCE loss, Eq. 3-6.

What differs from the paper, and why: docs/differences.md. Letters and terms: docs/method.md; D_t
is the width of a teacher feature, M the rows of the bank, b the windows of one pass (--accumulate),
n = b L its tokens in one row, S the side of the network's image.
"""
import functools
import math
from pathlib import Path

from comedian import augment, bank, run
from comedian.bank import SoftTargets
from comedian.checkpoint import start_from
from comedian.frames import CLIP_FRAMES, FrameReader, of_length, open_halves
from comedian.run import number
from model import (
    MODELS, Comedian, Projector, decay_groups, load_checkpoint, random_keep, with_changes)

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


# ------------------------------------------------------------------ options
def parse_args(argv=None):
    p = run.Parser(__doc__)
    add = run.add_data_flags(p, MODELS)
    bank.add_flags(add)
    run.add_init_flags(add, "the spatial encoder: stage 1's last.pt")

    add = p.add_argument_group("windows and their view").add_argument
    add("--window", type=number(1, 16384), default=64,
        help="T_l, tokens per window, one a second at 2 fps; paper: 32, best results with 64")
    add("--windows-per-half", type=number(1, 100_000),
        default=lambda given: max(1, round(75 * 32 / given.window)),              # App. A.4
        help="per epoch; default: 75 * 32 / --window (paper: per match 150 of 32 s, 75 of 64 s)")
    add("--sampling", choices=["random", "bins"], default="random",
        help="random: anywhere in the half (paper); bins: once in each equal bin (official code)")
    add("--mask", type=number(0.0, 0.99), default=0.25, help="share of tokens masked, alpha_1")
    run.add_color_flag(add, 0.8, 0.8, 0.4, 0.2)

    add = p.add_argument_group("distillation, Eq. 3-6").add_argument
    add("--align", choices=["middle", "first"], default="middle",
        help="a clip gets the feature of the second of its later frame (middle, paper) or of its "
             "earlier one (first, official code); they differ if a window starts on an odd frame")
    add("--bank", choices=["complete", "queue"], default="complete",
        help="complete: every feature of all halves in use (paper); queue: the features of its own "
             "window and the last 65,536 of earlier ones (official code)")
    # At 0.03 and more exp(1 / tau), summed over the bank, fits float32: see `attend`.
    add("--tau", type=number(0.03), default=0.1, help="temperature of the student, Eq. 3")
    add("--tau-m", type=number(0.03), default=0.07,
        help="temperature of the teacher, Eq. 4 (official YAML: 0.05)")
    add("--lam", type=number(0.0, 1.0), default=0.5, help="weight of the one-hot target, Eq. 5")
    add("--centroids", help="folder for the soft centroids of Eq. 4, made once per bank and "
        "--tau-m; default: --features")

    run.add_optimisation_flags(
        p, epochs=(100, "of --windows-per-half windows of every half"),
        batch=(lambda given: max(1, round(64 * 32 / given.window)),
               "windows per step, of all processes; default: 64 * 32 / --window (paper)"),
        lr=(2e-3, "peak for 256 windows of 32 tokens (64 frames); scales with both"))
    return run.add_flags(p, out="runs/stage2").parse_args(argv)


# ------------------------------------------------------------------ sampler
@functools.lru_cache(maxsize=2)                           # a batch may lie in two epochs
def epoch_order(seed, epoch, n_windows):
    """The random order of an epoch's windows. Proved by test_windows."""
    return np.random.default_rng([seed, epoch]).permutation(n_windows)


def pick_windows(step, args, halves):
    """The windows of a step as pairs (half index, first frame): a function of (seed, step) alone.
    An epoch shows --windows-per-half windows of every half in random order. They start on any
    frame; with --sampling bins the j-th of a half starts in the j-th of equally long bins. Proved
    by test_windows."""
    rng = np.random.default_rng([args.seed, step, 1])      # 1: another stream than augment.Draws
    per_epoch, picks = len(halves) * args.windows_per_half, []
    for u in rng.random(args.batch):                       # its place in the half, in [0, 1)
        epoch, i = divmod(step * args.batch + len(picks), per_epoch)
        h, j = divmod(int(epoch_order(args.seed, epoch, per_epoch)[i]), args.windows_per_half)
        if args.sampling == "bins":
            u = (j + u) / args.windows_per_half
        n_starts = halves[h].n_frames - CLIP_FRAMES * args.window + 1
        picks.append((h, int(u * n_starts)))
    return picks


def count_steps(args, halves):
    """Optimiser steps in all. DataError if there is none. Proved by test_mistakes."""
    per_epoch = len(halves) * args.windows_per_half
    total = args.steps or args.epochs * per_epoch // args.batch
    run.check_steps(total, per_epoch, args.data, args.batch)
    return total


# ------------------------------------------------------------------ view
def view(frames, draw, cfg, color, device):
    """What the student sees: (B, T, H, W, 3) uint8 -> (B, T, 3, S, S), augmented by a draw from the
    paper's third distribution (Sec. 3.3); one draw per window, no crop.
    Proved by test_the_views_recipe."""
    x = augment.resize(augment.to_float(frames, device), cfg.image_size)           # (B, T, 3, S, S)
    x = augment.color_jitter(x, draw, color, p=0.8)
    x = augment.grayscale(x, draw, p=0.2)
    x = augment.gaussian_blur(x, draw, p=0.5)
    x = augment.solarize(x, draw, p=0.2)
    x = augment.hflip(x, draw, p=0.5)
    return augment.normalize(x, cfg.normalize_per_frame)


# ------------------------------------------------------------------ the loss
# z_i: projected token i of the student. P_k: row k of the bank. P_i: the row of token i's second.
#
#     s1_ik = softmax over k of z_i.P_k / tau                    student                     (3)
#     s2_ik = softmax over k, without P_k = P_i, of P_i.P_k / tau_m      teacher             (4)
#     w_ik  = lam [P_k = P_i] / n_i + (1 - lam) s2_ik            target                      (5)
#     L     = mean over i of  -sum_k w_ik log s1_ik                                          (6)
#
# n_i: how many rows equal P_i, itself included; almost always 1, and not in the paper.
# Over the complete bank, without ever storing tokens x bank: the logits are linear in P_k and w_i
# sums to 1, so with the soft centroid c_i = sum_k s2_ik P_k Eq. 6 is
#
#     L_i = -(lam z_i.P_i + (1 - lam) z_i.c_i) / tau  +  log sum_k exp(z_i.P_k / tau)
#
# Both c_i and the gradient of the last term, sum_k s1_ik P_k / tau, are what an attention layer
# computes: the mean of the bank's rows, weighted by a softmax. So the bank is streamed in chunks,
# and only sums are kept. c_i does not depend on the student: it is computed once per bank.

# Bank rows at a time: tokens x CHUNK is all that is ever stored. On a CPU that should stay in the
# cache: with 8,192 rows the same took a third longer (tried by hand).
CHUNK = 2048


@torch.no_grad()
def attend(q, bank, tau, q_id=None, bank_id=None):
    """log sum_k exp(q_i.P_k / tau) and the mean row sum_k softmax_k(q_i.P_k / tau) P_k: (n,),
    (n, D_t). Proved by test_equations_3_to_6 and test_soft_targets.

    q (n, D_t), bank (M, D_t), both of unit vectors. No maximum is subtracted in the exponential:
    logits are at most 1 / tau, and exp(1 / 0.03) times ten million rows fits float32. Rows of the
    bank with bank_id equal to q_id are left out: P_i and its equals, in Eq. 4. Sums are kept in
    float32, or in float64 for float64 vectors.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    sum_exp = q.new_zeros(len(q), dtype=wide)                         # (n,)
    mean_row = q.new_zeros(q.shape, dtype=wide)                       # (n, D_t)
    scaled = (q / tau).to(bank.dtype)                                 # cheaper than logits / tau
    for start in range(0, len(bank), CHUNK):
        rows = bank[start:start + CHUNK]                              # (c, D_t)
        weight = (scaled @ rows.T).to(wide).exp_()                    # (n, c)
        if q_id is not None:
            weight.masked_fill_(q_id[:, None] == bank_id[start:start + CHUNK], 0)
        sum_exp += weight.sum(1)
        mean_row += weight.to(rows.dtype) @ rows
    return sum_exp.log(), mean_row / sum_exp[:, None]


class BankLogSumExp(torch.autograd.Function):
    """log sum_k exp(z_i.P_k / tau). Its gradient with respect to z is the mean row divided by tau.
    Proved by test_gradient_of_the_streamed_logsumexp."""

    @staticmethod
    def forward(ctx, z, bank, tau):
        value, mean_row = attend(z, bank, tau)
        ctx.save_for_backward(mean_row / tau)
        return value

    @staticmethod
    def backward(ctx, grad):
        return grad[:, None] * ctx.saved_tensors[0], None, None


def soft_targets(index, bank, tau_m, ids):
    """The SoftTargets of the bank rows `index` (n,), which the teacher alone gives: the centroid
    c_i = sum_k s2_ik P_k, the entropy of s2_i, and log n_i, where n_i is the number of rows equal
    to P_i, itself included. The sums over k leave these rows out: ids (M,) are equal for equal rows
    (bank.row_ids). The entropy needs no second pass over the bank: with
    Z_i = sum_k exp(P_i.P_k / tau_m), over the same k,
        H(s2_i) = -sum_k s2_ik (P_i.P_k / tau_m - log Z_i) = log Z_i - P_i.c_i / tau_m
    Proved by test_soft_targets.
    """
    index = index.to(bank.device)
    p, p_id = bank[index], ids[index]                                 # (n, D_t), (n,)
    log_z, c = attend(p, bank, tau_m, p_id, ids)                      # (n,), (n, D_t)
    entropy = log_z - (p.to(c.dtype) * c).sum(1) / tau_m              # (n,)
    n_equal = torch.zeros_like(p_id)                                  # (n,)
    for part in ids.split(CHUNK):
        n_equal += (p_id[:, None] == part).sum(1)
    return SoftTargets(c, entropy, n_equal.to(c.dtype).log())         # (n, D_t), (n,), (n,)


def sce_loss(z, p, soft, bank, lam, tau):
    """Eq. 3-6 with the complete bank. Returns (loss, divergence), both averaged over tokens: the
    cross-entropy of Eq. 6, and KL(w_i || s1_i), which is the cross-entropy less H(w_i).

    z (n, D_t) student tokens, p (n, D_t) their own features P_i, soft their SoftTargets,
    bank (M, D_t). z, p and bank are unit vectors.

    Several seconds may have the very same feature. Eq. 5's indicator holds for all n_i of them; as
    each gets lam / n_i, w_i sums to 1, and
        H(w_i) = -lam log lam - (1 - lam) log(1 - lam) + lam log n_i + (1 - lam) H(s2_i)
    The cross-entropy of Eq. 6 cannot fall below H(w_i): the divergence is what is left to learn,
    and 0 only for a student that equals the target. Wrong soft targets raise it.
    Proved by test_equations_3_to_6, test_the_divergence and test_a_broken_teacher_shows.
    """
    w_mean = lam * p + (1 - lam) * soft.centroid                      # (n, D_t) sum_k w_ik P_k
    pull = (z * w_mean).sum(1) / tau                                  # (n,)
    loss = (BankLogSumExp.apply(z, bank, tau) - pull).mean()
    lam_entropy = -sum(share * math.log(share) for share in (lam, 1 - lam) if share)
    target_entropy = lam_entropy + lam * soft.log_n + (1 - lam) * soft.entropy    # (n,) = H(w_i)
    return loss, loss.detach() - target_entropy.mean()


def sce_loss_queue(z, p, queue, lam, tau, tau_m):
    """The official code's version: the comparison set of a token is its own window's features
    and a queue of earlier ones. z, p (B, L, D_t), queue (M, D_t). Only the aligned feature
    itself is left out of s2. Returns loss and divergence, as `sce_loss`.
    Proved by test_the_queue_version_of_equations_3_to_6."""
    def similarity(x):
        return torch.cat([x @ p.transpose(1, 2), x @ queue.T], 2)     # (B, L, L + M)
    aligned = torch.eye(p.shape[1], dtype=torch.bool, device=p.device)     # (L, L) by position
    aligned = F.pad(aligned, (0, len(queue)))                         # (L, L + M)
    s2 = torch.softmax((similarity(p) / tau_m).masked_fill(aligned, -torch.inf), 2)   # Eq. 4
    w = torch.where(aligned, lam, (1 - lam) * s2)                     # Eq. 5; s2 is 0 if aligned
    loss = -(w * torch.log_softmax(similarity(z) / tau, 2)).sum(2).mean()             # Eq. 3, 6
    return loss, loss.detach() + torch.xlogy(w, w).sum(2).mean()      # minus H(w_i)


# ------------------------------------------------------------------ schedules
def lr_at(step, total, args):
    """Linear warm-up from 1 %, then a cosine to 1 % of the peak. Proved by test_learning_rate."""
    n_frames = CLIP_FRAMES * args.window                   # T_g of App. A.2
    peak = args.lr * args.batch / 256 * n_frames / 64
    warmup = total * args.warmup_epochs / args.epochs
    if step < warmup:                 # which may be a fraction of a step: min() keeps to the peak
        return peak * (0.01 + 0.99 * min(1, (step + 1) / warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    return peak * (0.01 + 0.99 * cosine)


# ------------------------------------------------------------------ run
class Student(nn.Module):
    """Network and projector in one module, so that DDP and torch.compile see a single forward."""

    def __init__(self, model, projector):
        super().__init__()
        self.model, self.projector = model, projector

    def forward(self, x, keep):                           # (B, T, 3, S, S), (B, L - masked) or None
        return self.projector(self.model.tokens(x, keep))             # (B, L, D_t)


def main(args):
    # -- set-up
    state = load_checkpoint(Path(args.out, "last.pt")) if args.resume else None
    init = load_checkpoint(args.init) if args.init and not state else None
    start = (state or init or {"config": args.model})["config"]
    cfg = with_changes(start, window_tokens=args.window, temporal_depth=args.temporal_depth)
    process = run.start(args, state, cfg.width, stage=2,               # alone, or one of several
                        free={"data", "features", "centroids", "init"})
    device, autocast = process.device, process.autocast()

    # -- data: windows of frames, and the bank P with what Eq. 4 makes of it
    halves = open_halves(args.data, args.split, cfg.image_size)
    halves = of_length(halves, args.window, "a window")
    total = count_steps(args, halves)
    first = process.steps_done(total)
    reader = FrameReader(args.workers, for_gpu=device.type == "cuda")
    root = args.features or args.data
    teacher = bank.open_bank(root, args.features_name, args.features_fps, halves, process)
    rows, complete = teacher.rows, args.bank == "complete"  # P (M, D_t), bfloat16 if the network is
    if complete:
        soft_table = bank.open_soft_targets(                          # (M, D_t + 2), on disk
            args.centroids or root, teacher, f"{args.features_name}_tau{args.tau_m:g}", process,
            lambda index: soft_targets(index, rows, args.tau_m, teacher.ids))

    # -- network: both transformers and a projector into the teacher's space
    torch.manual_seed(args.seed)
    model = start_from(Comedian(cfg), init, args.init, args.temporal_init, stage=2).to(device)
    model.head.requires_grad_(False)                                  # stage 3 trains it
    model.temporal.mask_token.requires_grad_(int(args.window * args.mask) > 0)    # if it is used
    width = rows.shape[1]                                             # D_t
    projector = Projector(cfg.width, cfg.head_width, cfg.head_width, width).to(device)
    groups = decay_groups(model.spatial, model.temporal, projector, weight_decay=args.weight_decay)
    optimizer = torch.optim.AdamW(groups, fused=True)
    n_queue = 0 if complete else 65536                                # official code
    queue = F.normalize(torch.randn(n_queue, width), dim=1).to(device, rows.dtype)
    saved = {"model": model, "projector": projector, "queue": queue, "optimizer": optimizer}
    process.restore(saved)
    student = process.wrap(Student(model, projector))
    print(f"stage 2: {cfg.model}, {sum(p.numel() for g in groups for p in g['params']):,} "
          f"parameters, {total:,} steps of {args.batch} windows of {args.window} tokens {process}")

    # -- train
    def picks(step):
        return pick_windows(step, args, halves)

    def load(step):
        mine = picks(step)[process.samples]
        frames = reader.read([(halves[h], frame) for h, frame in mine],
                             CLIP_FRAMES * args.window)               # (B / ranks, T, H, W, 3)
        p, index = teacher.of_windows(mine, args.window, args.align)   # P_i, i: (B / ranks, L, ...)
        soft = torch.from_numpy(soft_table[index]) if complete else p     # p: --bank queue has none
        return frames, p, soft

    journal = run.Journal(process, first, total, halves, picks)
    for step, batch in journal.batches(reader, load):
        # -- what this stage is about ----------------------------------
        lr = lr_at(step, total, args)
        for group in optimizer.param_groups:
            group["lr"] = lr
        losses, divergences, seen = [], [], []
        # One pass over the batch, or --accumulate; draw: the random numbers of a pass's windows.
        for draw, frames, p, soft in process.passes(step, student, *batch):
            p = p.to(device, non_blocking=True)                       # (b, L, D_t)
            soft = soft.to(device, non_blocking=True)         # (b, L, D_t + 2) or (b, L, D_t)
            x = view(frames, draw, cfg, args.color, device)           # (b, T, 3, S, S)
            noise = draw.uniform(0, 1, args.window)                   # (b, L)
            keep = random_keep(noise, args.mask, device)              # (b, L - masked)
            with autocast:
                z = student(x, keep)                                  # (b, L, D_t)
            z = F.normalize(z.float(), dim=2)
            if complete:
                soft = SoftTargets.unpack(soft.flatten(0, 1))         # (n, D_t), (n,), (n,)
                loss, divergence = sce_loss(z.flatten(0, 1), p.flatten(0, 1), soft, rows, args.lam,
                                            args.tau)
            else:
                loss, divergence = sce_loss_queue(z, p, queue.float(), args.lam, args.tau,
                                                  args.tau_m)
            (loss / args.accumulate).backward()
            losses.append(loss.detach())
            divergences.append(divergence.detach())
            seen.append(p.flatten(0, 1))                              # (n, D_t)
        norm = nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], args.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if len(queue):          # a ring buffer: the oldest row lies at step * B L, modulo its size
            new = run.all_gather(torch.cat(seen))                     # (B L, D_t), of all processes
            place = torch.arange(step * len(new), (step + 1) * len(new), device=device)
            newest = slice(-len(queue), None)              # should a step bring more than it holds
            queue[place[newest] % len(queue)] = new[newest].to(queue.dtype)
        # -- everything below is bookkeeping ---------------------------
        journal.note(step, lr, norm, args.batch * args.window,
                     {"loss": losses, "divergence": divergences})
        journal.save_if_due(step, cfg, saved)
    journal.finish("last.pt: give it to stage 3 (--init)")


if __name__ == "__main__":
    run.run_as_command(main, parse_args())
