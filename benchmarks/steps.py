"""
A training step of each stage as the stage scripts do it, cut in two: the views of a batch, and
everything after. For throughput.py, memory.py and gpu.py; not a script.

Each maker returns view(frames, draw) -> x, and learn(x): forward, loss, backward, clipping, AdamW.
What a stage reads beside the frames (features, centroids, labels) is made up once and lies on the
device; masks and mixing coefficients, too. Flags turn the tricks of a step off, one by one; their
defaults are what the stages do.
"""
import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import stage1_spatial as stage1  # noqa: E402
import stage2_distill as stage2  # noqa: E402
import stage3_finetune as stage3  # noqa: E402
from model import (  # noqa: E402
    Comedian,
    Projector,
    decay_groups,
    random_keep,
    spatial_encoder,
    with_changes,
)


def adamw(modules, args, fused):
    """The stages' optimiser, and what it moves."""
    groups = decay_groups(*modules, weight_decay=args.weight_decay)
    weights = [p for group in groups for p in group["params"]]
    return torch.optim.AdamW(groups, fused=fused), weights


def make_stage1(cfg, clips, device, autocast, n_negatives=65536, fused=True, foreach=True,
                one_pass=True, compiled=False):
    """n_negatives in the queue, or 0: those of the batch. foreach: the momentum copy moves in one
    call; one_pass: both views go through the network together. x (2 clips, 2, 3, S, S)."""
    args = stage1.parse_args(["--data", "."])
    hidden = cfg.head_width
    online = nn.Sequential(spatial_encoder(cfg),
                           Projector(cfg.width, hidden, hidden, 256)).to(device)
    target = copy.deepcopy(online).requires_grad_(False)
    predictor = Projector(256, hidden, 256, last_bias=False).to(device)
    queue, own = None, torch.arange(clips, device=device)
    if n_negatives:
        queue = F.normalize(torch.randn(n_negatives, 256, device=device), dim=1)
    optimizer, weights = adamw([online, predictor], args, fused)
    student, teacher = nn.Sequential(online, predictor), target
    if compiled:
        student, teacher = torch.compile(student), torch.compile(teacher)
    pairs = list(target.parameters()), list(online.parameters())

    def view(frames, draw):
        return torch.cat(stage1.views(frames, draw, cfg, args.crop_scale, args.color, device))

    def learn(x):
        with autocast:
            parts = [x] if one_pass else x.chunk(2)
            z = torch.cat([student(part) for part in parts])
            with torch.no_grad():
                k = torch.cat([teacher(part) for part in parts])
        z1, z2 = F.normalize(z.float(), dim=1).chunk(2)
        k1, k2 = F.normalize(k.float(), dim=1).chunk(2)
        if n_negatives:
            losses = [stage1.moco_loss(z1, k2, queue, args.tau),
                      stage1.moco_loss(z2, k1, queue, args.tau)]
        else:
            losses = [stage1.batch_loss(z1, k2, own, args.tau),
                      stage1.batch_loss(z2, k1, own, args.tau)]
        (sum(loss for loss, _ in losses) / 2).backward()
        nn.utils.clip_grad_norm_(weights, args.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            if foreach:
                torch._foreach_lerp_(*pairs, 0.01)
            else:
                for slow, fast in zip(*pairs, strict=True):
                    slow.lerp_(fast, 0.01)
            if queue is not None:
                queue[:2 * clips] = torch.stack([k1, k2], 1).flatten(0, 1)

    return view, learn


def make_stage2(cfg, windows, window, device, autocast, bank, fused=True, compiled=False):
    """bank (M, D_t), M >= windows x window; x (windows, 2 window, 3, S, S)."""
    args = stage2.parse_args(["--data", "."])
    model = Comedian(with_changes(cfg, window_tokens=window)).to(device)
    model.head.requires_grad_(False)
    projector = Projector(cfg.width, cfg.head_width, cfg.head_width, bank.shape[1]).to(device)
    optimizer, weights = adamw([model.spatial, model.temporal, projector], args, fused)
    student = stage2.Student(model, projector)
    if compiled:
        student = torch.compile(student)
    p = bank[:windows * window].float()                               # (B L, D_t)
    soft = stage2.SoftTargets.unpack(F.pad(p, (0, 2)))
    keep = random_keep(torch.rand(windows, window), args.mask).to(device)

    def view(frames, draw):
        return stage2.view(frames, draw, cfg, args.color, device)

    def learn(x):
        with autocast:
            z = student(x, keep)                                      # (B, L, D_t)
        z = F.normalize(z.float(), dim=2).flatten(0, 1)
        stage2.sce_loss(z, p, soft, bank, args.lam, args.tau)[0].backward()
        nn.utils.clip_grad_norm_(weights, args.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return view, learn


def make_stage3(cfg, windows, window, device, autocast, fused=True, compiled=False):
    """The second phase, in which everything learns; x (windows, 2 window, 3, S, S)."""
    args = stage3.parse_args(["--data", "."])
    model = Comedian(with_changes(cfg, window_tokens=window)).to(device)
    optimizer, weights = adamw([model], args, fused)
    student = torch.compile(model) if compiled else model
    y = torch.zeros(windows, window, len(cfg.classes), device=device)
    keep = random_keep(torch.rand(windows, window), args.mask).to(device)

    def view(frames, draw):
        x = stage3.view(frames, draw, cfg, args.color, device)
        return stage3.mixup(x, y, draw.beta(args.mixup))[0]

    def learn(x):
        with autocast:
            logits = student(x, keep)                                 # (B, L, K)
        stage3.bce_loss(logits.float(), y).backward()
        nn.utils.clip_grad_norm_(weights, args.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return view, learn
