r"""
Stage 2: among all seconds of the data set, every token learns to recognise its own, and those
that a stronger network finds alike.

    python stage2_distill.py --data frames/ --init runs/stage1/last.pt         # the paper's setting
    python stage2_distill.py --data frames/ --model vivit_micro --window 32 --batch 4 --steps 20 \
                             --features-name physics               # a laptop, on the demo's data

Reads   <data>/**/1_224p/00000001.jpg ...      frames; labels are not looked at
        <features>/**/1_<features-name>.npy    teacher features, 1 per second
        --init                                 stage 1's last.pt; else all weights start anew
Writes  <out>/last.pt, <out>/log.txt           stage 3 starts from last.pt
Method  paper Sec. 3.3, App. A.4: distillation of a bank of features with the SCE loss, Eq. 3-6.

Differences from the paper: none where it speaks; the bank is the complete one, as in Eq. 3 and 4
(the official code keeps a queue: --bank queue). Where it is silent, the official code: drop path,
gradient clipping, and temporal blocks that start as copies of the first spatial ones
(--temporal-init random turns that off).
"""
import argparse
import functools
import math
import resource
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

import data
from model import (
    MODELS,
    Comedian,
    Projector,
    check_same_run,
    config_of,
    decay_groups,
    device_name,
    load_checkpoint,
    load_parts,
    number,
    random_keep,
    save_checkpoint,
    with_changes,
)


# ------------------------------------------------------------------ options
def parse_args(argv=None):
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = p.add_argument
    add("--data", required=True, help="folder with frames, any layout data.py knows")
    add("--features", help="root of the teacher features; default: --data")
    add("--features-name", default="pca_512_std_baidu_soccer_embeddings",
        help="reads <match>/<half>_NAME.npy, (seconds, width)")
    add("--init", help="stage-1 checkpoint for the spatial encoder; default: random weights")
    add("--out", default="runs/stage2", help="folder for last.pt and log.txt")
    add("--model", default="vivit_tiny", choices=MODELS,
        help="network, where there is no --init; with --init, that checkpoint's")
    add("--window", type=number(1), default=64,
        help="tokens (seconds at 2 fps) per window; paper: 32, best 64")
    add("--temporal-depth", type=number(1), default=None,
        help="blocks; None = the model's (ViViT-T 6: paper's best)")
    add("--temporal-init", choices=["copy", "random"], default="copy",
        help="copy: from the first spatial blocks (official code, ViViT); "
             "random: as the paper reads")
    add("--epochs", type=number(1), default=100)
    add("--steps", type=number(0), default=0,
        help="optimiser steps in all, instead of --epochs; 0 = off")
    add("--windows-per-half", type=number(1), default=38,
        help="per epoch (paper: 75 per match; official: 38)")
    add("--sampling", choices=["random", "bins"], default="random",
        help="random: anywhere in the half (paper); bins: once in each equal bin (official code)")
    add("--align", choices=["middle", "first"], default="middle",
        help="a clip's feature is that of the second of its middle (paper) or first (official) "
             "frame; they differ where a window starts between two seconds")
    add("--batch", type=number(1), default=32, help="windows per step")
    add("--accumulate", type=number(1), default=1,
        help="split the batch into this many passes (less memory)")
    add("--lr", type=number(0.0), default=2e-3,
        help="peak for 256 windows of 32 tokens (64 frames); scales with both")
    add("--warmup-epochs", type=number(0.0), default=10,
        help="epochs, of --epochs, with rising learning rate")
    add("--weight-decay", type=number(0.0), default=0.05,
        help="AdamW; not on biases, norms, positions")
    add("--clip-grad", type=number(0.0), default=1.0, help="largest gradient norm (official code)")
    add("--mask", type=number(0.0, 0.99), default=0.25, help="share of tokens masked, alpha_1")
    add("--bank", choices=["complete", "queue"], default="complete",
        help="complete: every feature of the data set (paper); queue: the own window's features "
             "and the last 65,536 of earlier windows (official code)")
    add("--tau", type=number(0.03), default=0.1, help="temperature of the student, Eq. 3")
    add("--tau-m", type=number(0.03), default=0.07,
        help="temperature of the teacher, Eq. 4 (official YAML: 0.05)")
    add("--lam", type=number(0.0, 1.0), default=0.5, help="weight of the one-hot target, Eq. 5")
    add("--color", type=number(0.0), nargs=4, default=[0.8, 0.8, 0.4, 0.2],
        help="jitter of brightness, contrast, saturation, hue")
    add("--bf16", action=argparse.BooleanOptionalAction, default=None,
        help="bfloat16 autocast; None = where a CUDA device has it")
    add("--workers", type=number(0), default=0, help="decoding threads; 0 = one per core")
    add("--device", type=device_name, default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda, cuda:1, ...")
    add("--seed", type=number(0), default=0)
    add("--log-every", type=number(1), default=20, help="steps per log line")
    add("--save-every", type=number(1), default=500, help="steps per checkpoint")
    add("--resume", action="store_true", help="go on from <out>/last.pt, exactly")
    return p.parse_args(argv)


# ------------------------------------------------------------------ data: which windows, which view
@functools.lru_cache(maxsize=2)
def epoch_order(seed, epoch, n_windows):
    return np.random.default_rng([seed, epoch]).permutation(n_windows)


def pick_windows(step, args, halves):
    """The windows of a step as pairs (half index, first frame): a function of (seed, step) alone.

    An epoch shows --windows-per-half windows of every half in random order. They start on any
    frame; with --sampling bins the j-th of a half starts in the j-th of equally long bins.
    """
    per_epoch = len(halves) * args.windows_per_half
    numbers = np.arange(step * args.batch, (step + 1) * args.batch)   # windows since the start
    place = np.random.default_rng([args.seed, step, 1]).random(args.batch)
    picks = []
    for n, u in zip(numbers, place, strict=True):
        epoch, i = divmod(int(n), per_epoch)
        h, j = divmod(int(epoch_order(args.seed, epoch, per_epoch)[i]), args.windows_per_half)
        if args.sampling == "bins":
            u = (j + u) / args.windows_per_half
        n_starts = halves[h].n_frames - data.CLIP_FRAMES * args.window + 1
        picks.append((h, int(u * n_starts)))
    return picks


def feature_rows(first_frame, n_tokens, half, n_features, align):
    """Row of the half's features that belongs to each token of a window: that of the second in
    which the clip's middle (or first) frame lies. Returns (L,) int64."""
    frame = first_frame + data.CLIP_FRAMES * np.arange(n_tokens)      # first frame of each clip
    if align == "middle":
        frame = frame + data.CLIP_FRAMES // 2
    return np.minimum((frame / half.fps).astype(np.int64), n_features - 1)


def view(frames, cfg, args, device):
    """X^3 ~ A^3: (B, T, H, W, 3) uint8 -> (B, T, 3, S, S); one draw per window, no crop."""
    x = data.resize(data.to_float(frames, device), cfg.image_size)    # (B, T, 3, S, S)
    x = data.color_jitter(x, args.color, p=0.8)
    x = data.grayscale(x, p=0.2)
    x = data.gaussian_blur(x, p=0.5)
    x = data.solarize(x, p=0.2)
    x = data.hflip(x, p=0.5)
    return data.normalize(x, cfg.normalize_per_frame)


# ------------------------------------------------------------------ the loss
# Eq. 3-6 over the complete bank, without ever storing tokens x bank. With unit vectors and the soft
# centroid c_i = sum_k s2_ik P_k, the cross-entropy of Eq. 6 is
#
#     L_i = -(lam z_i.P_i + (1 - lam) z_i.c_i) / tau  +  log sum_k exp(z_i.P_k / tau)
#
# Both c_i and the gradient of the last term, sum_k s1_ik P_k / tau, are *attention reads* of the
# bank: its rows averaged with softmax weights. So the bank is streamed in chunks, and only sums
# are kept.
CHUNK = 8192                      # bank rows at a time: (tokens x CHUNK) is all that is ever stored


def attend(q, bank, tau, q_id=None, bank_id=None):
    """log sum_k exp(q_i.P_k / tau) and the read sum_k softmax_k(q_i.P_k / tau) P_k: (n,), (n, D_t).

    q (n, D_t), bank (M, D_t), both of unit vectors: logits are at most 1 / tau, which takes the
    place of the running maximum of an online softmax. Rows of the bank with bank_id equal to q_id
    are left out. Sums are kept in float32, or in float64 for float64 vectors; below tau = 0.03
    exp(-2 / tau) would vanish there, so the options start at that.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    total = q.new_zeros(len(q), dtype=wide)
    read = q.new_zeros(q.shape, dtype=wide)
    for start in range(0, len(bank), CHUNK):
        rows = bank[start:start + CHUNK]                              # (c, D_t)
        weight = torch.exp(((q.to(rows.dtype) @ rows.T).to(wide) - 1) / tau)          # (n, c)
        if q_id is not None:
            weight.masked_fill_(q_id[:, None] == bank_id[start:start + CHUNK], 0)
        total += weight.sum(1)
        read += (weight.to(rows.dtype) @ rows).to(wide)
    return total.log() + 1 / tau, read / total[:, None]


class BankLogSumExp(torch.autograd.Function):
    """log sum_k exp(z_i.P_k / tau), whose gradient with respect to z is the read divided by tau."""

    @staticmethod
    def forward(ctx, z, bank, tau):
        value, read = attend(z, bank, tau)
        ctx.save_for_backward(read / tau)
        return value

    @staticmethod
    def backward(ctx, grad):
        return grad[:, None] * ctx.saved_tensors[0], None, None


def sce_loss(z, p, c, bank, lam, tau):
    """Eq. 3-6 with the complete bank, averaged over tokens. z (n, D_t) student tokens,
    p (n, D_t) their own features P_i, c (n, D_t) their soft centroids, bank (M, D_t).
    All but c are unit vectors.

    Rows equal to P_i (Eq. 5's indicator is by value) share the one-hot's weight: w_i sums to 1.
    """
    pull = (z * (lam * p + (1 - lam) * c)).sum(1) / tau               # (n,) = w_i . logits_i
    return (BankLogSumExp.apply(z, bank, tau) - pull).mean()


@torch.no_grad()
def soft_centroids(bank, tau_m):
    """c_i = sum_k s2_ik P_k of Eq. 4 for every row i of the bank; rows equal to P_i are left out of
    the sum. (M, D_t). It does not depend on the student: computed once."""
    # Equal rows get equal numbers: a random integer combination of their bits.
    gen = torch.Generator().manual_seed(0)
    code = torch.randint(-2 ** 62, 2 ** 62, (bank.shape[1],), generator=gen).to(bank.device)
    row_id = torch.cat([(rows.float().view(torch.int32) * code).sum(1)            # wraps around
                        for rows in bank.split(CHUNK)])               # (M,)
    return torch.cat([attend(bank[i:i + 1024], bank, tau_m, row_id[i:i + 1024], row_id)[1]
                      for i in range(0, len(bank), 1024)])


def sce_loss_queue(z, p, queue, lam, tau, tau_m):
    """The official code's version: the comparison set of a token is its own window's features
    and a queue of earlier ones. z, p (B, L, D_t), queue (M, D_t). Only the aligned feature
    itself is left out of s2."""
    def similarity(x):                                                # (B, L, L + M)
        return torch.cat([x @ p.transpose(1, 2), x @ queue.T], 2)
    own = torch.eye(p.shape[1], dtype=torch.bool, device=p.device)    # the aligned one, by position
    own = F.pad(own, (0, len(queue)))                                 # (L, L + M)
    s2 = torch.softmax((similarity(p) / tau_m).masked_fill(own, -torch.inf), 2)       # Eq. 4
    w = torch.where(own, lam, (1 - lam) * s2)                         # Eq. 5; s2 is 0 at own
    return -(w * torch.log_softmax(similarity(z) / tau, 2)).sum(2).mean()             # Eq. 3, 6


def lr_at(step, total, args):
    """Linear warm-up from 1 %, then a cosine to 1 % of the peak."""
    peak = args.lr * args.batch / 256 * data.CLIP_FRAMES * args.window / 64
    warmup = total * args.warmup_epochs / args.epochs
    if step < warmup:
        return peak * (0.01 + 0.99 * (step + 1) / warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    return peak * (0.01 + 0.99 * cosine)


def memory_gb(device):
    """Largest memory so far: of the GPU if there is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2 ** 30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20


# ------------------------------------------------------------------ run
def main(args):
    device = torch.device(args.device)
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    bf16 = has_bf16 if args.bf16 is None else args.bf16
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
    if args.batch % args.accumulate:
        raise data.DataError(f"--batch {args.batch} cannot be split into {args.accumulate} equal "
                             "parts: --accumulate must divide it")

    # -- data
    halves = data.find_halves(args.data)
    print(data.describe(halves, args.data))
    halves = data.of_length(halves, args.window, "a window")
    features = [data.open_features(args.features or args.data, half, args.features_name)
                for half in halves]
    widths = {f.shape[1] for f in features}
    if len(widths) > 1:
        raise data.DataError(f"features of different widths: {sorted(widths)}; "
                             "one teacher for all halves")
    row0 = np.cumsum([0] + [len(f) for f in features])                # first bank row of each half
    bank = F.normalize(torch.from_numpy(np.concatenate(features, dtype=np.float32)),
                       dim=1)                                         # (M, D_t)
    bank = bank.to(device, torch.bfloat16 if bf16 else torch.float32)
    print(f"data: bank of {len(bank):,} features x {bank.shape[1]}")
    per_epoch = len(halves) * args.windows_per_half
    if not args.steps and per_epoch < args.batch:
        raise data.DataError(f"{args.data}: {per_epoch} windows an epoch are fewer than one "
                             f"--batch of {args.batch}; raise --windows-per-half or give --steps")
    total = args.steps or args.epochs * (per_epoch // args.batch)
    reader = data.FrameReader(args.workers)

    # -- network: both transformers and a projector into the teacher's space
    torch.manual_seed(args.seed)
    if args.init:
        stage1 = load_checkpoint(args.init)
        cfg = with_changes(config_of(stage1), window_tokens=args.window,
                           temporal_depth=args.temporal_depth)
    else:
        cfg = with_changes(args.model, window_tokens=args.window,
                           temporal_depth=args.temporal_depth)
    model = Comedian(cfg)
    if args.init:
        load_parts(model, stage1, ["spatial."], args.init)
    if args.temporal_init == "copy" and cfg.spatial == "vit":
        model.copy_spatial_to_temporal()
    model = model.to(device)
    hidden = 2048 if cfg.model == "vivit_small" else 1024             # official heads; paper: 1024
    projector = Projector(cfg.width, hidden, hidden, bank.shape[1]).to(device)
    groups = decay_groups(model.spatial, model.temporal, projector, weight_decay=args.weight_decay)
    optimizer = torch.optim.AdamW(groups, fused=device.type == "cuda")
    if args.bank == "complete":
        centroids = soft_centroids(bank, args.tau_m)                  # (M, D_t)
    else:
        queue = F.normalize(torch.randn(65536, bank.shape[1]), dim=1).to(bank)
    print(f"stage 2: {cfg.model}, {sum(p.numel() for g in groups for p in g['params']):,} "
          f"parameters, {total:,} steps of {args.batch} windows of {args.window} tokens "
          f"on {device}, bf16 {'on' if bf16 else 'off'}")

    # -- resume
    out, start = Path(args.out), 0
    if args.resume:
        state = load_checkpoint(out / "last.pt")
        if config_of(state) != cfg or state["stage"] != 2:
            raise data.DataError(f"{out / 'last.pt'}: is not a stage-2 run of this model")
        check_same_run(state, args, out / "last.pt")
        model.load_state_dict(state["model"])
        projector.load_state_dict(state["projector"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
        if args.bank == "queue":
            queue.copy_(state["queue"])
    elif (out / "last.pt").exists():
        raise data.DataError(f"{out / 'last.pt'}: there is a run already; "
                             "--resume it or choose another --out")
    out.mkdir(parents=True, exist_ok=True)

    # -- train
    def load(step):
        picks = pick_windows(step, args, halves)
        frames = reader.read([(halves[h], first) for h, first in picks],
                             data.CLIP_FRAMES * args.window)
        rows = [row0[h] + feature_rows(first, args.window, halves[h], len(features[h]), args.align)
                for h, first in picks]
        return frames, torch.from_numpy(np.stack(rows))               # (B, T, H, W, 3), (B, L)

    bar = tqdm(data.ahead(load, range(start, total)), desc="stage 2", total=total, initial=start,
               unit="step", disable=None)
    seen, since, loss_sum = 0, time.time(), torch.zeros((), device=device)
    for step, (frames, rows) in enumerate(bar, start):
        # -- what this stage is about ----------------------------------
        torch.manual_seed(args.seed * 1_000_003 + step)              # all of this step's randomness
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, total, args)
        rows = rows.to(device, non_blocking=True)                     # (B, L)
        for part, i in zip(frames.chunk(args.accumulate), rows.chunk(args.accumulate), strict=True):
            x = view(part, cfg, args, device)                         # (b, T, 3, S, S)
            keep = random_keep(len(part), args.window, args.mask)     # (b, L - masked)
            keep = keep if keep is None else keep.to(device)
            with autocast:
                z = projector(model.tokens(x, keep))                  # (b, L, D_t)
            z = F.normalize(z.float(), dim=2)
            if args.bank == "complete":
                i = i.flatten()
                loss = sce_loss(z.flatten(0, 1), bank[i].float(), centroids[i], bank,
                                args.lam, args.tau)
            else:
                loss = sce_loss_queue(z, bank[i].float(), queue.float(),
                                      args.lam, args.tau, args.tau_m)
            (loss / args.accumulate).backward()
            loss_sum += loss.detach() / args.accumulate
        norm = nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]],
                                        args.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if args.bank == "queue":                                     # the oldest features make room
            place = torch.arange(step * rows.numel(), (step + 1) * rows.numel(), device=device)
            queue[place % len(queue)] = bank[rows.flatten()]
        # -- everything below is bookkeeping ---------------------------
        step, seen = step + 1, seen + rows.numel()
        if step % args.log_every == 0 or step == total:
            n, loss_mean = (step - 1) % args.log_every + 1, loss_sum.item()
            if not math.isfinite(loss_mean):
                raise data.DataError(f"step {step}: the loss is {loss_mean}; the last good "
                                     f"checkpoint is {out / 'last.pt'}; try a lower --lr")
            line = (f"stage 2 | step {step}/{total} | loss {loss_mean / min(n, step - start):.4f} "
                    f"| lr {optimizer.param_groups[0]['lr']:.2e} | grad {norm.item():.2f} "
                    f"| {seen / (time.time() - since):.0f} clips/s | {memory_gb(device):.1f} GB")
            tqdm.write(line)
            with open(out / "log.txt", "a") as log:
                log.write(line + "\n")
            seen, since = 0, time.time()
            loss_sum.zero_()
        if step % args.save_every == 0 or step == total:
            save_checkpoint(out / "last.pt", stage=2, step=step,
                            config=asdict(cfg), args=vars(args),
                            model=model.state_dict(), projector=projector.state_dict(),
                            optimizer=optimizer.state_dict(),
                            queue=queue if args.bank == "queue" else None)
    print(f"stage 2: done; {out / 'last.pt'} is what stage 3 starts from (--init)")


if __name__ == "__main__":
    try:
        main(parse_args())
    except (data.DataError, OSError) as error:     # an OSError names its file, too
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
