r"""
Stage 2: among all seconds of the data set, every token learns to recognise its own, and those
that a stronger network finds alike.

    python stage2_distill.py --data frames/ --init runs/stage1/last.pt         # the paper's setting
    python stage2_distill.py --data frames/ --model vivit_micro --window 32 --batch 4 --steps 20 \
                             --features-name physics               # a laptop, on the demo's data
    torchrun --nproc-per-node 8 stage2_distill.py --data frames/ --init ...             # eight GPUs

Reads   <data>/**/1_224p/00000001.jpg ...      frames; labels are not looked at
        <features>/**/1_<features-name>.npy    teacher features, 1 per second
        --init                                 stage 1's last.pt; else all weights start anew
Writes  <out>/last.pt, log.txt, curves.png     stage 3 starts from last.pt
        <centroids>/centroids_*.npy       Eq. 4 for every feature, once per data set
Method  paper Sec. 3.3, App. A.4: distillation of a bank of features with the SCE loss, Eq. 3-6.

Differences from the paper: none where it speaks; the bank is the complete one, as in Eq. 3 and 4
(the official code keeps a queue: --bank queue). Where it is silent, the official code: drop path,
gradient clipping, and temporal blocks that start as copies of the first spatial ones
(--temporal-init random turns that off).
"""
import argparse
import contextlib
import functools
import hashlib
import math
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from comedian import augment, run
from comedian import frames as data
from comedian.public_weights import config_of, load_checkpoint, load_parts, save_checkpoint
from comedian.run import device_name, number
from model import MODELS, Comedian, Projector, decay_groups, random_keep, with_changes


# ------------------------------------------------------------------ options
def parse_args(argv=None):
    p = run.Parser(__doc__)
    add = p.add_argument
    add("--data", required=True, help="folder with frames, any layout data.py knows")
    add("--split", help="only these of SoccerNet's games: train, train+valid, ..., or a file with "
        "a game per line; default: all")
    add("--features", help="root of the teacher features; default: --data")
    add("--features-name", default="pca_512_std_baidu_soccer_embeddings",
        help="reads <match>/<half>_NAME.npy, (seconds, width)")
    add("--centroids", help="folder for the soft centroids of Eq. 4, made once per data set and "
        "--tau-m; default: --features")
    add("--init", help="weights for the spatial encoder: stage 1's last.pt, or public ones "
        "(README, 'Public weights'); default: random")
    add("--out", default="runs/stage2", help="folder for last.pt and log.txt")
    add("--model", default="vivit_tiny", choices=MODELS,
        help="network, where there is no --init; with --init, that checkpoint's")
    add("--window", type=number(1), default=64,
        help="tokens (seconds at 2 fps) per window; paper: 32, best 64")
    add("--temporal-depth", type=number(1), default=None,
        help="blocks; None = the model's (ViViT-T 6: paper's best)")
    add("--temporal-init", choices=["copy", "random"], default="copy",
        help="copy: from the first spatial blocks of --init (official code, ViViT); "
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
    add("--batch", type=number(1), default=32, help="windows per step, of all processes together")
    add("--accumulate", type=number(1), default=1,
        help="split the batch into this many passes: the same result in less memory")
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
    add("--bank-rows", choices=["all", "share"], default="all",
        help="of the complete bank, on each of several GPUs: all, or a share (less memory, more "
             "messages)")
    add("--tau", type=number(0.03), default=0.1, help="temperature of the student, Eq. 3")
    add("--tau-m", type=number(0.03), default=0.07,
        help="temperature of the teacher, Eq. 4 (official YAML: 0.05)")
    add("--lam", type=number(0.0, 1.0), default=0.5, help="weight of the one-hot target, Eq. 5")
    add("--color", type=number(0.0), nargs=4, default=[0.8, 0.8, 0.4, 0.2],
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


def view(frames, draw, cfg, args, device):
    """X^3 ~ A^3: (B, T, H, W, 3) uint8 -> (B, T, 3, S, S); one draw per window, no crop."""
    x = augment.resize(augment.to_float(frames, device), cfg.image_size)           # (B, T, 3, S, S)
    x = augment.color_jitter(x, draw, args.color, p=0.8)
    x = augment.grayscale(x, draw, p=0.2)
    x = augment.gaussian_blur(x, draw, p=0.5)
    x = augment.solarize(x, draw, p=0.2)
    x = augment.hflip(x, draw, p=0.5)
    return augment.normalize(x, cfg.normalize_per_frame)


class Bank:
    """P, every feature of the data set as unit vectors; what the stage reads of it.

    The features stay on disk, memory-mapped: `own` reads those of a batch. Only `rows`, which the
    loss streams, lie on the device, in `dtype`; of several processes each may hold a share.
    """

    def __init__(self, features, halves, device, dtype, share=slice(None)):
        self.features, self.halves = features, halves
        self.first = np.cumsum([0] + [len(f) for f in features])      # bank row of a half's first
        held = range(len(features))[share]
        self.rows = torch.empty(sum(len(features[h]) for h in held), features[0].shape[1],
                                dtype=dtype, device=device)           # (M, D_t)
        for h, rows in zip(held, self.rows.split([len(features[h]) for h in held]), strict=True):
            rows.copy_(self.unit(h, slice(None)))

    def unit(self, h, which):
        """Rows of half h as float32 unit vectors. A feature that is not finite has no direction."""
        rows = torch.from_numpy(np.array(self.features[h][which], np.float32))
        if not rows.isfinite().all():
            raise data.DataError(f"{self.features[h].filename}: holds values that are not finite")
        return F.normalize(rows, dim=1)

    def own(self, picks, window, align):
        """For the windows of a batch: their features P_i (B, L, D_t), and bank rows i (B, L)."""
        rows = [feature_rows(first, window, self.halves[h], len(self.features[h]), align)
                for h, first in picks]
        p = [self.unit(h, r) for (h, _), r in zip(picks, rows, strict=True)]
        i = [self.first[h] + r for (h, _), r in zip(picks, rows, strict=True)]
        return torch.stack(p), np.stack(i)


# ------------------------------------------------------------------ the loss
# Eq. 3-6 over the complete bank, without ever storing tokens x bank. With unit vectors and the soft
# centroid c_i = sum_k s2_ik P_k, the cross-entropy of Eq. 6 is
#
#     L_i = -(lam z_i.P_i + (1 - lam) z_i.c_i) / tau  +  log sum_k exp(z_i.P_k / tau)
#
# Both c_i and the gradient of the last term, sum_k s1_ik P_k / tau, are *attention reads* of the
# bank: its rows averaged with softmax weights. So the bank is streamed in chunks, and only sums
# are kept.

# Bank rows at a time: tokens x CHUNK is all that is ever stored. On a CPU that should stay in the
# cache: with 8,192 rows the same takes a third longer (benchmarks/bank.py).
CHUNK = 2048


@torch.no_grad()
def attend(q, bank, tau, q_id=None, bank_id=None):
    """log sum_k exp(q_i.P_k / tau) and the read sum_k softmax_k(q_i.P_k / tau) P_k: (n,), (n, D_t).

    q (n, D_t), bank (M, D_t), both of unit vectors. Their logits lie within +- 1 / tau, so that no
    maximum has to be taken off before the exponential: from tau = 0.03 on, where the options start,
    exp(1 / tau) times a million rows is far from float32's limits. Rows of the bank with bank_id
    equal to q_id are left out. Sums are kept in float32, or in float64 for float64 vectors.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    total = q.new_zeros(len(q), dtype=wide)
    read = q.new_zeros(q.shape, dtype=wide)
    scaled = (q / tau).to(bank.dtype)                                 # cheaper than logits / tau
    for start in range(0, len(bank), CHUNK):
        rows = bank[start:start + CHUNK]                              # (c, D_t)
        weight = (scaled @ rows.T).to(wide).exp_()                    # (n, c)
        if q_id is not None:
            weight.masked_fill_(q_id[:, None] == bank_id[start:start + CHUNK], 0)
        total += weight.sum(1)
        read += weight.to(rows.dtype) @ rows
    return total.log(), read / total[:, None]


def attend_shares(q, share, tau):
    """`attend` where each process holds another share of the bank: everyone's questions go to all,
    and their answers are added up, weighted as an online softmax does."""
    value, read = attend(run.gather(q), share, tau)                   # of all processes' q
    weight = torch.exp(value - 1 / tau)               # 1 / tau is the largest logit: no overflow
    total, read = run.total(weight.clone()), run.total(weight[:, None] * read)
    mine = slice(run.rank() * len(q), (run.rank() + 1) * len(q))
    return total[mine].log() + 1 / tau, read[mine] / total[mine, None]


class BankLogSumExp(torch.autograd.Function):
    """log sum_k exp(z_i.P_k / tau), whose gradient with respect to z is the read divided by tau."""

    @staticmethod
    def forward(ctx, z, bank, tau, read_bank=attend):
        value, read = read_bank(z, bank, tau)
        ctx.save_for_backward(read / tau)
        return value

    @staticmethod
    def backward(ctx, grad):
        return grad[:, None] * ctx.saved_tensors[0], None, None, None


def sce_loss(z, p, c, bank, lam, tau, read_bank=attend):
    """Eq. 3-6 with the complete bank, averaged over tokens. z (n, D_t) student tokens,
    p (n, D_t) their own features P_i, c (n, D_t) their soft centroids, bank (M, D_t).
    All but c are unit vectors.

    Rows equal to P_i (Eq. 5's indicator is by value) share the one-hot's weight: w_i sums to 1.
    """
    pull = (z * (lam * p + (1 - lam) * c)).sum(1) / tau               # (n,) = w_i . logits_i
    return (BankLogSumExp.apply(z, bank, tau, read_bank) - pull).mean()


def row_ids(bank):
    """(M,) int64, equal for equal rows: a random integer combination of their bits."""
    gen = torch.Generator().manual_seed(0)
    code = torch.randint(-2 ** 62, 2 ** 62, (bank.shape[1],), generator=gen).to(bank.device)
    return torch.cat([(rows.float().view(torch.int32) * code).sum(1)              # wraps around
                      for rows in bank.split(CHUNK)])


def soft_centroids(bank, tau_m):
    """Yields c_i = sum_k s2_ik P_k of Eq. 4 for 1,024 rows i of the bank at a time, (1024, D_t);
    rows equal to P_i are left out of the sum. It does not depend on the student."""
    ids = row_ids(bank)
    for i in range(0, len(bank), 1024):
        yield attend(bank[i:i + 1024], bank, tau_m, ids[i:i + 1024], ids)[1]


def centroids_on_disk(bank, tau_m, folder, name):
    """The soft centroids of the whole bank, (M, D_t) float32, memory-mapped from a file that is
    made when it is missing. Its name holds tau_m and a hash of the bank: it is never stale."""
    digest = hashlib.sha256(row_ids(bank).cpu().numpy().tobytes()).hexdigest()[:12]
    path = Path(folder, f"centroids_{name}_tau{tau_m:g}_{digest}.npy")
    if not path.exists():
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            out = np.lib.format.open_memmap(unfinished, "w+", np.float32, tuple(bank.shape))
            with tqdm(total=len(bank), desc="soft centroids", unit="row", disable=None) as bar:
                row = 0                                   # not bar.n: off a terminal it stands still
                for c in soft_centroids(bank, tau_m):
                    out[row:row + len(c)] = c.cpu().numpy()
                    row += len(c)
                    bar.update(len(c))
            out.flush()
            os.replace(unfinished, path)
        except OSError as error:
            raise data.DataError(f"{path}: cannot be written ({error.strerror}); --centroids wants "
                                 f"a folder with {bank.numel() * 4 / 1e9:.2g} GB free") from None
        finally:
            with contextlib.suppress(OSError):            # gone by now, if all went well
                unfinished.unlink()
        print(f"data: soft centroids: {path}")
    return np.load(path, mmap_mode="r")


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
    if step < warmup:                                     # which need not be a whole number
        return peak * (0.01 + 0.99 * min(1, (step + 1) / warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    return peak * (0.01 + 0.99 * cosine)


class Student(nn.Module):
    """Both transformers and a projector into the teacher's space, as one call."""

    def __init__(self, model, projector):
        super().__init__()
        self.model, self.projector = model, projector

    def forward(self, x, keep):                                       # (B, T, 3, S, S)
        return self.projector(self.model.tokens(x, keep))             # (B, L, D_t)


# ------------------------------------------------------------------ run
def main(args):
    rank, ranks, device = run.join(args.device)           # under torchrun one of several processes
    passes = run.passes(args, rank, ranks)                # its samples of each batch, pass by pass
    state = run.start(args, stage=2)                      # what to --resume from, or None
    bf16 = run.has_bf16(device) if args.bf16 is None else args.bf16
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)

    # -- data
    halves = data.find_halves(args.data, args.split)
    print(data.describe(halves, args.data))
    halves = data.of_length(halves, args.window, "a window")
    features_root = args.features or args.data
    features = [data.open_features(features_root, half, args.features_name) for half in halves]
    print(data.describe_features(features, halves))
    bank = Bank(features, halves, device, torch.bfloat16 if bf16 else torch.float32)
    if args.bank == "complete":
        if rank == 0:
            centroids_on_disk(bank.rows, args.tau_m, args.centroids or features_root,
                              args.features_name)
        run.wait()                                                    # ... for rank 0's file
        centroids = centroids_on_disk(bank.rows, args.tau_m, args.centroids or features_root,
                                      args.features_name)             # (M, D_t)
        read_bank = attend
        if args.bank_rows == "share" and ranks > 1:
            if len(halves) < ranks:
                raise data.DataError(f"--bank-rows share deals out halves, and {ranks} processes "
                                     f"are more than {len(halves)} halves; --bank-rows all")
            read_bank = attend_shares
            bank = Bank(features, halves, device, bank.rows.dtype, slice(rank, None, ranks))
    per_epoch = len(halves) * args.windows_per_half
    total = args.steps or args.epochs * per_epoch // args.batch
    if total < 1:
        raise data.DataError(f"{args.data}: {per_epoch} windows an epoch make no step of --batch "
                             f"{args.batch}; give more --epochs, or --steps")
    reader = data.FrameReader(args.workers, pin=device.type == "cuda")

    # -- network: both transformers and a projector into the teacher's space
    torch.manual_seed(args.seed)
    before = load_checkpoint(args.init) if args.init and not state else None
    cfg = (config_of(state) if state else
           with_changes(config_of(before) if before else args.model, window_tokens=args.window,
                        temporal_depth=args.temporal_depth))
    model = Comedian(cfg)
    if before:
        load_parts(model, before, ["spatial."], args.init)
        print(f"init: {args.init}: {cfg.model}, the spatial encoder of stage {before['stage']}")
    if before and args.temporal_init == "copy" and cfg.spatial == "vit":
        model.copy_spatial_to_temporal()
    model = model.to(device)
    model.head.requires_grad_(False)                                  # stage 3's
    model.temporal.mask_token.requires_grad_(args.mask > 0)
    hidden = 2048 if cfg.model == "vivit_small" else 1024             # official heads; paper: 1024
    projector = Projector(cfg.width, hidden, hidden, features[0].shape[1]).to(device)
    groups = decay_groups(model.spatial, model.temporal, projector, weight_decay=args.weight_decay)
    optimizer = torch.optim.AdamW(groups, fused=True)
    queue = None
    if args.bank == "queue":
        queue = F.normalize(torch.randn(65536, features[0].shape[1]), dim=1).to(bank.rows)
    if state:
        model.load_state_dict(state["model"])
        projector.load_state_dict(state["projector"])
        optimizer.load_state_dict(state["optimizer"])
        if queue is not None:
            queue.copy_(state["queue"])
    start = state["step"] if state else 0
    student = Student(model, projector)
    if args.compile:
        student = torch.compile(student)
    if ranks > 1:
        student = DistributedDataParallel(student)
    print(f"stage 2: {cfg.model}, {sum(p.numel() for g in groups for p in g['params']):,} "
          f"parameters, {total:,} steps of {args.batch} windows of {args.window} tokens "
          f"on {ranks} x {device.type}, bf16 {'on' if bf16 else 'off'}")

    # -- train
    def load(step):
        picks = pick_windows(step, args, halves)[passes[0].start:passes[-1].stop]
        frames = reader.read([(halves[h], first) for h, first in picks],
                             data.CLIP_FRAMES * args.window)          # (B / ranks, T, H, W, 3)
        p, i = bank.own(picks, args.window, args.align)               # (B / ranks, L, D_t)
        c = torch.from_numpy(centroids[i]) if args.bank == "complete" else p
        return frames, p, c

    def files(step):
        return [halves[h].path(first) for h, first in pick_windows(step - 1, args, halves)]

    log = run.Log(args.out, "stage 2", start, total, device, files, state and state["log"])
    stop = run.Stop()
    depth = 2 if device.type == "cuda" else 0             # no CPU core is idle: nothing to gain
    for step, batch in enumerate(data.ahead(load, range(start, total), depth), start):
        # -- what this stage is about ----------------------------------
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, total, args)
        queued, losses = [], []
        parts = zip(passes, *(x.chunk(args.accumulate) for x in batch), strict=True)
        for mine, frames, p, c in parts:
            draw = augment.Draws(args.seed, step, args.batch, mine)
            torch.manual_seed((args.seed * 1_000_003 + step) * args.batch + mine.start)  # drop path
            student.require_backward_grad_sync = mine is passes[-1]   # DDP averages after the last
            p = p.to(device, non_blocking=True)                       # (b, L, D_t)
            c = c.to(device, non_blocking=True)                       # (b, L, D_t)
            x = view(frames, draw, cfg, args, device)                 # (b, T, 3, S, S)
            keep = random_keep(draw.uniform(0, 1, args.window), args.mask)
            keep = keep if keep is None else keep.to(device)          # (b, L - masked)
            with autocast:
                z = student(x, keep)                                  # (b, L, D_t)
            z = F.normalize(z.float(), dim=2)
            if args.bank == "complete":
                loss = sce_loss(z.flatten(0, 1), p.flatten(0, 1), c.flatten(0, 1), bank.rows,
                                args.lam, args.tau, read_bank)
            else:
                loss = sce_loss_queue(z, p, queue.float(), args.lam, args.tau, args.tau_m)
            (loss / args.accumulate).backward()
            losses.append(loss.detach())
            queued.append(p.flatten(0, 1))                            # (b L, D_t)
        norm = nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]],
                                        args.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if queue is not None:                                        # the oldest features make room
            queued = run.gather(torch.cat(queued))                    # (B L, D_t), of all processes
            place = torch.arange(step * len(queued), (step + 1) * len(queued), device=device)
            queue[place % len(queue)] = queued.to(queue.dtype)
        # -- everything below is bookkeeping ---------------------------
        step = step + 1
        log.add(step, torch.stack(losses).mean(), norm, clips=args.batch * args.window)
        if step % args.log_every == 0 or step == total:
            log.line(step, lr=optimizer.param_groups[0]["lr"])
        if stop.asked() or step % args.save_every == 0 or step == total:
            content = dict(stage=2, step=step, config=asdict(cfg), args=vars(args),
                           log=log.state(step), queue=queue,
                           model=model.state_dict(), projector=projector.state_dict(),
                           optimizer=optimizer.state_dict())
            if rank == 0:
                save_checkpoint(Path(args.out, "last.pt"), **content)
        if stop.signal:
            break
    log.close()
    stop.release(f"stage 2: stopped after step {log.step}")
    print(f"stage 2: done; {args.out}/last.pt is what stage 3 starts from (--init)")


if __name__ == "__main__":
    run.command(main, parse_args())
