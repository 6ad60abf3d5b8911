"""
Post-processing and metric: window scores -> a score per token -> detections -> average precision.

    merged = ops.merge_windows(scores, start, half, length, edge=12)   # (N, L, K) -> (S, K)
    kept = ops.soft_nms(merged, length, window=20)                     # (S, K), -1 = no detection
    half, cls, token, score = ops.detections(kept, length)             # (M,) each
    ap = ops.average_map(half, cls, token, score.double(), *labels, H, K, delta_frames)  # (3, D, K)

Each operator stands here twice: `<name>_ref`, a few lines of Python to read, and <name>, the fast
kernel in csrc/, which must return the same bits.

N windows, L tokens per window, K classes, H halves, S = sum(length) tokens of all halves end to
end, M detections, D tolerances. Scores are float32 or float64, indices int64. Windows, edges and
lengths are counted in tokens, the metric's times in frames: this file knows no seconds.

All tensors are on the CPU. If the first is on the meta device, so is the result, and nothing is
computed. A wrong argument raises ValueError, or TypeError where a tensor is expected and something
else comes, or what torch raises (for an edge of 1.5, say). No operator has a gradient, so a tensor
that requires one is refused.
"""
import hashlib
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

# ----- the compiled extension -------------------------------------------------------------------
BUILD = "python setup.py build_ext --inplace   (or: pip install --no-build-isolation -e .)"
CSRC = Path(__file__).resolve().parent.parent / "csrc"

# Importing it registers torch.ops.comedian.
try:
    from comedian._C import source_hash as built_from
except ModuleNotFoundError as e:
    raise ImportError(f"the kernels are not built for this Python; run: {BUILD}") from e
except ImportError as e:                  # built, but cannot be loaded: for another torch, mostly
    raise ImportError(f"the kernels do not fit torch {torch.__version__}: {e}; run: {BUILD}") from e

if (CSRC / "average_map.cpp").is_file():  # absent where only the wheel is installed
    sources = sorted(f for f in CSRC.iterdir() if f.suffix in (".cpp", ".h"))
    source_hash = hashlib.sha256(b"".join(f.read_bytes() for f in sources)).hexdigest()
    if source_hash != built_from:
        raise ImportError(f"the kernels were built from other sources than csrc/; run: {BUILD}")

kernels = torch.ops.comedian


def require_tensors(operator, **arguments):
    """Refuses what is no tensor, lies on the wrong device or requires a gradient. (Types, shapes
    and values are for csrc/bindings.cpp to check.)"""
    (first, leader), *_ = arguments.items()
    for name, x in arguments.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(x).__name__}; "
                            f"pass torch.as_tensor({name})")
        if x.device.type not in ("cpu", "meta"):
            raise ValueError(f"{name} must be on the CPU, got a tensor on {x.device}; "
                             f"pass {name}.cpu()")
        if x.device.type == "meta" and leader.device.type != "meta":
            raise ValueError(f"{name} must be on the CPU as {first} is, got a tensor on meta")
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{name} must not require a gradient, {operator} has none; "
                             f"pass {name}.detach()")


def require_one_of(name, value, allowed):
    if value not in allowed:
        raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")


def per_class(window, scores):
    """One width, or one per class -> (K,) float64."""
    if not isinstance(window, Tensor):
        window = torch.as_tensor(window, dtype=torch.float64, device="cpu")
    window = window.double()
    return window.repeat(scores.shape[-1]) if window.dim() == 0 else window


# ----- merge_windows ----------------------------------------------------------------------------
def merge_windows(scores: Tensor, start: Tensor, half: Tensor, length: Tensor,
                  edge: int = 0, mode: Literal["max", "mean"] = "max") -> Tensor:
    """Merges overlapping windows into one score per token and class.

    scores (N, L, K); start (N,) first token of each window in its half, >= 0; half (N,) which half,
    not decreasing; length (H,) tokens per half. Returns (S, K).

    A window ignores its `edge` first and last tokens, except those at most `edge` tokens from the
    half's own ends, which no other window sees better. (The official COMEDIAN code mixes two units
    there and loses the last seconds of every half.) Tokens at or beyond `length` are ignored: a
    half may be shorter than a window. mode "max" (NaN wins) or "mean" (sum in window order,
    over count). A token that no window covers scores 0. Proved by TestMergeWindows.
    """
    require_tensors("merge_windows", scores=scores, start=start, half=half, length=length)
    require_one_of("mode", mode, ("max", "mean"))
    return kernels.merge_windows(scores, start, half, length, edge, mode == "mean")


def merge_windows_ref(scores, start, half, length, edge=0, mode="max"):
    """merge_windows, a token at a time."""
    L, K = scores.shape[1:]
    merged = [scores.new_zeros(0, K)]
    for h, T in enumerate(length.tolist()):
        best = scores.new_zeros(T, K)
        count = [0] * T                                                       # windows so far
        for w in (half == h).nonzero().flatten().tolist():
            s = int(start[w])
            for t in range(s, min(s + L, T)):
                among_first = t - s < edge and t > edge
                among_last = s + L - 1 - t < edge and T - 1 - t > edge
                if among_first or among_last:
                    continue
                new = scores[w, t - s]                                        # (K,)
                if count[t] == 0:
                    best[t] = new
                elif mode == "mean":
                    best[t] += new
                else:
                    best[t] = torch.where((new > best[t]) | new.isnan(), new, best[t])
                count[t] += 1
        if mode == "mean":
            best /= torch.tensor(count, dtype=scores.dtype).clamp(min=1)[:, None]
        merged.append(best)
    return torch.cat(merged)                                                  # (S, K)


def default_ignore(window):
    """Tokens to ignore at each edge of a window of `window` tokens: 12 of 64 and 6 of 32, the
    paper's choices, and in proportion."""
    return window * 3 // 16


# ----- soft_nms ---------------------------------------------------------------------------------
def soft_nms(scores: Tensor, length: Tensor, window: float | Sequence[float] | Tensor,
             threshold: float = 0.001, min_weight: float = 0.0) -> Tensor:
    """Linear soft NMS, per half and class: the neighbours of a detection lose score.

    scores (S, K); length (H,); window: total width in tokens, >= 0, whole or not, or K of them.
    While the best score s_m is >= threshold and > 0, token m is a detection with that score, and
        s_i <- s_i * clip(min_weight + (1 - min_weight) * (|i - m| / radius), 0, 1)
    for |i - m| <= ceil(radius), radius = window / 2. Equal scores: the earlier token first. All
    arithmetic is in the scores' type. window 0 decays nothing. NaN is never a detection.
    Returns (S, K): each detection's score when it was picked, -1 elsewhere.

    Equals the official COMEDIAN code's perform_soft_NMS, and spivak's ScoreDecayLinear of half the
    window. Proved by TestSoftNMS.
    """
    require_tensors("soft_nms", scores=scores, length=length)
    window = per_class(window, scores)
    require_tensors("soft_nms", scores=scores, window=window)
    return kernels.soft_nms(scores, length, window, threshold, min_weight)


def soft_nms_ref(scores, length, window, threshold=0.001, min_weight=0.0):
    """soft_nms as its definition reads."""
    kept = torch.full(scores.shape, -1, dtype=scores.dtype)
    threshold = scores.new_tensor(threshold)
    begin = 0
    for T in length.tolist():
        for k, width in enumerate(per_class(window, scores).tolist()):
            s = scores[begin:begin + T, k].clone()                            # (T,)
            radius = width / 2
            token = torch.arange(T, dtype=s.dtype)
            while (alive := (s >= threshold) & (s > 0)).any():
                m = int(torch.where(alive, s, -1).argmax())                   # the first of equals
                kept[begin + m, k] = s[m]
                d = (token - m).abs()
                weight = (min_weight + (1 - min_weight) * (d / radius)).clamp(0, 1)
                s = torch.where(d <= math.ceil(radius), s * weight, s)
                s[m] = -1
        begin += T
    return kept


# ----- hard_nms ---------------------------------------------------------------------------------
def hard_nms(scores: Tensor, length: Tensor, window: float | Sequence[float] | Tensor,
             threshold: float = 0.001, mode: Literal["greedy", "local"] = "greedy") -> Tensor:
    """Hard NMS, per half and class. NaN and scores below `threshold` (>= 0) are never detections.

    scores (S, K); length (H,); window: total width in tokens, >= 0, whole or not, or K of them.
    mode "greedy": while the best score is >= threshold it is a detection, and the tokens in
        [m - ceil(window/2), m + int(window/2)) are removed: the SoccerNet DevKit's
        get_spot_from_NMS, one token shorter on the right. Equal scores: the earlier token first.
        With window 0 or 1 the DevKit never ends, for its range misses m itself; here a detection
        is always removed.
    mode "local": keeps what no score within int(window/2) on either side exceeds: the official
        COMEDIAN code's perform_hard_NMS. Equal maxima all stay, and a suppressed peak still
        suppresses.
    Returns (S, K): the detection's score, -1 elsewhere. Proved by TestHardNMS.
    """
    require_tensors("hard_nms", scores=scores, length=length)
    require_one_of("mode", mode, ("greedy", "local"))
    window = per_class(window, scores)
    require_tensors("hard_nms", scores=scores, window=window)
    return kernels.hard_nms(scores, length, window, threshold, mode == "local")


def hard_nms_ref(scores, length, window, threshold=0.001, mode="greedy"):
    """hard_nms as its definition reads."""
    kept = torch.full(scores.shape, -1, dtype=scores.dtype)
    threshold = scores.new_tensor(threshold)
    begin = 0
    for T in length.tolist():
        for k, width in enumerate(per_class(window, scores).tolist()):
            s = scores[begin:begin + T, k]                                    # (T,)
            s = torch.where(s >= threshold, s, -1)
            out = kept[begin:begin + T, k]                                    # a view
            if mode == "greedy":
                while T > 0 and s.max() >= threshold:
                    m = int(s.argmax())                                       # the first of equals
                    out[m] = s[m]
                    s[max(m - math.ceil(width / 2), 0):m + int(width / 2)] = -1
                    s[m] = -1
            else:
                reach = int(width / 2)
                for t in range(T):
                    if s[t] >= threshold and s[t] >= s[max(t - reach, 0):t + reach + 1].max():
                        out[t] = s[t]
        begin += T
    return kept


# All kinds, by the names that --nms takes.
NMS = {"soft": soft_nms,
       "greedy": partial(hard_nms, mode="greedy"),        # the SoccerNet baselines' suppression
       "local": partial(hard_nms, mode="local")}          # the official COMEDIAN code's filter


# ----- detections -------------------------------------------------------------------------------
def detections(kept: Tensor, length: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What an NMS kept, as a list: (half, class, token, score), each (M,), in that order.

    kept (S, K), length (H,). Negative and NaN entries are no detections. token counts from the
    start of its half; score has the type of `kept`. In this order average_map need not sort.
    Proved by TestDetections.
    """
    require_tensors("detections", kept=kept, length=length)
    return kernels.detections(kept, length)


def detections_ref(kept, length):
    """detections, a half at a time."""
    none = length.new_zeros(0)
    found = [(none, none, none, kept.new_zeros(0))]
    for h, part in enumerate(kept.split(length.tolist())):                    # (T, K)
        cls, token = (part.T >= 0).nonzero().unbind(1)
        found.append((torch.full_like(token, h), cls, token, part[token, cls]))
    return tuple(torch.cat(column) for column in zip(*found, strict=True))


# ----- average_map ------------------------------------------------------------------------------
def average_map(
        pred_half: Tensor, pred_class: Tensor, pred_frame: Tensor, pred_score: Tensor,
        gt_half: Tensor, gt_class: Tensor, gt_frame: Tensor, gt_visible: Tensor,
        n_halves: int, n_classes: int, delta_frames: Tensor) -> Tensor:
    """Average precision of spotted events, equal to SoccerNet 0.2.0's evaluator to the last bit.

        predictions = half, class, frame (P,) int64, score (P,) float64       # as detections has it
        labels      = half, class, frame (G,) int64, visible (G,) bool
        ap          = average_map(*predictions, *labels, n_halves, n_classes, delta_frames)

    Frames are >= 0. Events come in any order; of those with the same half, class and frame the last
    one counts. A prediction whose score is negative or NaN is none (though it does replace an
    earlier one). delta_frames (D,) int64: full widths of the tolerance, so a prediction at f may
    match a label at g iff |f - g| <= delta_frames / 2.
    Returns (3, D, K) float64: AP over [any, visible, unshown] labels.

    evaluate.py takes the mean over classes and the area over tolerances that make it an
    Average-mAP, and sets the tolerances that make it a tight one. Proved by TestAverageMap.
    """
    require_tensors("average_map", pred_half=pred_half, pred_class=pred_class,
                    pred_frame=pred_frame, pred_score=pred_score, gt_half=gt_half,
                    gt_class=gt_class, gt_frame=gt_frame, gt_visible=gt_visible,
                    delta_frames=delta_frames)
    return kernels.average_map(pred_half, pred_class, pred_frame, pred_score, gt_half, gt_class,
                               gt_frame, gt_visible, n_halves, n_classes, delta_frames)


def average_map_ref(pred_half, pred_class, pred_frame, pred_score,
                    gt_half, gt_class, gt_frame, gt_visible, n_halves, n_classes, delta_frames):
    """average_map as the official rules read, one class and tolerance after the other."""
    predictions = by_group(pred_half, pred_class, pred_frame, pred_score, n_halves, n_classes)
    labels = by_group(gt_half, gt_class, gt_frame, gt_visible, n_halves, n_classes)
    ap = torch.zeros(3, len(delta_frames), n_classes, dtype=torch.float64)
    for k in range(n_classes):
        truth = [labels[h, k] for h in range(n_halves)]
        n_any, n_visible = sum(map(len, truth)), sum(sum(half.values()) for half in truth)
        for d, delta in enumerate(delta_frames.tolist()):
            found = []                                        # one row per prediction, all halves
            for h in range(n_halves):
                here = {f: s for f, s in predictions[h, k].items() if s >= 0}
                taken = match(truth[h], here, delta)
                found += [(s, f in taken, near_visible(f, truth[h])) for f, s in here.items()]
            scores, hits, visible = np.array(found, dtype=float).reshape(-1, 3).T
            hits, visible = hits.astype(bool), visible.astype(bool)
            ap[0, d, k] = eleven_points(scores, hits, n_any)
            ap[1, d, k] = eleven_points(scores[visible], hits[visible], n_visible)
            ap[2, d, k] = eleven_points(scores[~visible], hits[~visible], n_any - n_visible)
    return ap


def by_group(half, cls, frame, value, n_halves, n_classes):
    """{(half, class): {frame: value}}; of events at the same place the last one stays."""
    grouped = {(h, k): {} for h in range(n_halves) for k in range(n_classes)}
    for h, k, f, v in zip(*(x.tolist() for x in (half, cls, frame, value)), strict=True):
        grouped[h, k][f] = v
    return grouped


def match(labels, predictions, delta):
    """Frames of the predictions that some label takes, in one half and class; both {frame: value}.
    In ascending order each label takes the best prediction left to it, the earliest of equals."""
    taken = set()
    for g in sorted(labels):
        near = [f for f in sorted(predictions) if f not in taken and abs(f - g) <= delta / 2]
        if near:
            taken.add(max(near, key=predictions.get))         # max returns the first of equals
    return taken


def near_visible(frame, labels):
    """Whether the label closest to `frame` is visible. A midpoint, rounded down, belongs to the
    later label; where there is no label at all, a prediction counts as unshown."""
    order = sorted(labels)
    passed = sum((a + b) // 2 <= frame for a, b in zip(order, order[1:], strict=False))
    return bool(order) and labels[order[passed]]


def eleven_points(scores, hits, n_labels):
    """AP of one class. scores (P,), hits (P,) bool: whether a prediction matched one of n_labels.
    Precision and recall at 200 thresholds, then the mean over recall 0, 0.1 .. 1 of the best
    precision at that recall or more."""
    recalls, precisions = [], []
    for threshold in np.linspace(0, 1, 200):
        n_reached, n_hits = int((scores >= threshold).sum()), int(hits[scores >= threshold].sum())
        recalls.append(n_hits / n_labels if n_labels else 0.0)
        precisions.append(n_hits / n_reached if n_reached else 0.0)
    curve = list(zip(recalls, precisions, strict=True))
    total = 0.0                       # not sum(): from Python 3.12 on that rounds in its own way
    for level in np.arange(11) / 10:
        total += max([p for r, p in curve if r >= level], default=0.0)
    return total / 11


# ----- shapes without data, for torch.compile and torch.export ----------------------------------
@torch.library.register_fake("comedian::merge_windows")
def _(scores, start, half, length, edge, mean):
    return scores.new_empty(torch.library.get_ctx().new_dynamic_size(), scores.shape[2])


@torch.library.register_fake("comedian::soft_nms")
def _(scores, length, window, threshold, min_weight):
    return scores.new_empty(scores.shape)


@torch.library.register_fake("comedian::hard_nms")
def _(scores, length, window, threshold, local):
    return scores.new_empty(scores.shape)


@torch.library.register_fake("comedian::detections")
def _(kept, length):
    n_found = torch.library.get_ctx().new_dynamic_size()
    half, cls, token = (kept.new_empty(n_found, dtype=torch.int64) for _ in range(3))
    return half, cls, token, kept.new_empty(n_found)


@torch.library.register_fake("comedian::average_map")
def _(pred_half, pred_class, pred_frame, pred_score,
      gt_half, gt_class, gt_frame, gt_visible, n_halves, n_classes, delta_frames):
    return pred_half.new_empty(3, delta_frames.shape[0], n_classes, dtype=torch.float64)
