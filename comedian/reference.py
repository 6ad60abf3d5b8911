"""
Merging, the kinds of NMS, detections and average precision: each as its definition reads, on torch
and numpy alone.

    merged = reference.merge_windows(scores, start, half, length, edge=12)   # (N, L, K) -> (S, K)
    kept = reference.soft_nms(merged, length, window=20)                     # (S, K), -1 = none
    half, cls, token, score = reference.detections(kept, length)             # (M,) each

ops.py has a kernel of the same name, arguments and result for each: the same bits, a hundred times
as fast and more. Nothing here needs a build, and nothing but tests and pictures calls it.

N windows, L tokens per window, K classes, H halves, S = sum(length) tokens of all halves end to
end, M detections, D tolerances. Scores are float32 or float64, indices int64. Windows, edges and
lengths are counted in tokens, the metric's times in frames: no seconds occur here. Arguments
are not checked here; the kernels do that.
"""
import math
from functools import partial

import numpy as np
import torch
from torch import Tensor


# ----- merge_windows ----------------------------------------------------------------------------
def merge_windows(scores, start, half, length, edge=0, mode="max"):
    """Merges overlapping windows into one score per token and class.

    scores (N, L, K); start (N,) first token of each window in its half, >= 0; half (N,) which half,
    not decreasing; length (H,) tokens per half. Returns (S, K).

    A window ignores its first `edge` tokens, except tokens 0 to `edge` of the half, and its last
    `edge`, except the half's last `edge` + 1: no other window sees these better. (The official
    COMEDIAN code mixes two units there and loses the last seconds of every half.) Tokens at or
    beyond `length` are ignored: a half may be shorter than a window. mode "max" (NaN wins) or
    "mean" (sum in window order, over count). A token that no window covers scores 0.
    Proved by TestMergeWindows.
    """
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


# ----- NMS --------------------------------------------------------------------------------------
def per_class(window, scores):
    """One width, or one per class -> (K,) float64."""
    if not isinstance(window, Tensor):
        window = torch.as_tensor(window, dtype=torch.float64, device="cpu")
    window = window.double()
    return window.repeat(scores.shape[-1]) if window.dim() == 0 else window


def soft_nms(scores, length, window, threshold=0.001, min_weight=0.0):
    """Linear soft NMS, per half and class: the neighbours of a detection lose score.

    scores (S, K); length (H,); window: total width in tokens, >= 0, whole or not, or K of them.
    While the best score s_m is >= threshold and > 0, token m is a detection with that score, and
        s_i <- s_i * clip(min_weight + (1 - min_weight) * (|i - m| / radius), 0, 1)
    for |i - m| <= ceil(radius), radius = window / 2. Equal scores: the earlier token first. All
    arithmetic is in the scores' type. window 0 decays nothing. NaN is never a detection.
    Returns (S, K): each detection's score when it was picked, -1 elsewhere.

    Equals the official COMEDIAN code's perform_soft_NMS, and spivak's ScoreDecayLinear of half the
    window. Proved by TestNMS.
    """
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


def hard_nms(scores, length, window, threshold=0.001, mode="greedy"):
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
    Returns (S, K): the detection's score, -1 elsewhere. Proved by TestNMS.
    """
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
def detections(kept, length):
    """What an NMS kept, as a list: (half, class, token, score), each (M,), in that order.

    kept (S, K), length (H,). Negative and NaN entries are no detections. token counts from the
    start of its half; score has the type of `kept`. In this order average_map need not sort.
    Proved by TestDetections.
    """
    none = length.new_zeros(0)
    found = [(none, none, none, kept.new_zeros(0))]
    for h, part in enumerate(kept.split(length.tolist())):                    # (T, K)
        cls, token = (part.T >= 0).nonzero().unbind(1)
        found.append((torch.full_like(token, h), cls, token, part[token, cls]))
    return tuple(torch.cat(column) for column in zip(*found, strict=True))


# ----- average_map ------------------------------------------------------------------------------
def average_map(pred_half, pred_class, pred_frame, pred_score,
                gt_half, gt_class, gt_frame, gt_visible, n_halves, n_classes, delta_frames):
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


def resampled_map(pred_half, pred_class, pred_frame, pred_score, gt_half, gt_class, gt_frame,
                  gt_visible, n_halves, n_classes, delta_frames, match_halves, picks):
    """average_map of resamples of the matches, each evaluated outright: a list of matches with as
    many copies of each as were drawn.

    picks (R, M) int64: the matches of each resample; halves match_halves * m and the next
    match_halves - 1 are those of match m. Returns (R, 3, D, K) float64. Proved by TestResampledMap.
    """
    ap = [torch.zeros(0, 3, len(delta_frames), n_classes, dtype=torch.float64)]
    for drawn in picks.tolist():
        halves = [match_halves * m + i for m in drawn for i in range(match_halves)]
        copies = []
        for half, *columns in ((pred_half, pred_class, pred_frame, pred_score),
                               (gt_half, gt_class, gt_frame, gt_visible)):
            events = [(half == h).nonzero().flatten() for h in halves] or [half[:0]]
            copies.append(torch.cat([torch.full_like(of, h) for h, of in enumerate(events)]))
            copies += [column[torch.cat(events)] for column in columns]
        ap.append(average_map(*copies, len(halves), n_classes, delta_frames)[None])
    return torch.cat(ap)


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
    Precision and recall at the thresholds linspace(0, 1, 200), then the mean over the recalls
    arange(11) / 10 of the best precision at that recall or more. (linspace(0, 1, 11) would have a
    number just above 0.3.)"""
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
