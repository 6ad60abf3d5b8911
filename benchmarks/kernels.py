"""
How fast the kernels are, beside peers, in one process, on scores the size of SoccerNet's test
split.

    python benchmarks/kernels.py                     # 100 matches, 2 minutes and more
    python benchmarks/kernels.py --matches 10        # less than a minute
    pip install numba                                # for that peer
    pip install --no-deps SoccerNet==0.2.0           # for the official evaluator

Workload, made from a seed: halves of 2,700 s, 17 classes, windows of 64 s with half overlap, and
events with SoccerNet-v2's imbalance of classes. Merging and soft NMS (window 10 s) run at 1 score
a second, hard NMS (window 30 s, threshold 0) at 2. The metric is taken of what each NMS leaves.

Every peer must return what the kernel returns, before anything is timed. Peers take turns, so that
a slow minute of the machine hits all of them. "x 50": measured on a 50th of the halves and scaled.
All of it on one thread, in CPU time, so that programs beside it count less; but the table of
threads, in wall-clock time. numba's compile time is not counted.
"""
import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from comedian import command, ops, reference  # noqa: E402

try:
    from numba import njit
except ImportError:
    njit = None
try:
    from SoccerNet.Evaluation import ActionSpotting as official
except ImportError:
    official = None

HALF_S, WINDOW_S, K = 2700, 64, 17
# Events of each class per half: SoccerNet-v2's 110,458 in 1,000 halves.
EVENTS = [.17, 2.6, 1.7, 2.8, 2.1, 5.8, 5.3, 7.9, 31.8, 18.9, 11.7, 10.5, 2.2, 4.8, 2.0, .06, .05]
TIGHT, LOOSE = torch.arange(1, 6) * 2, torch.arange(5, 61, 5) * 2      # delta_frames at 2 frames/s


# ----- workload ---------------------------------------------------------------------------------
def workload(n_matches, hz, seed=0):
    """Window scores as a trained network gives them: bumps at events, at false alarms, low noise.

    Returns scores (N, L, K) float32, start, half (N,), length (H,), and labels as average_map takes
    them (half, class, frame at 2 frames/s, visible)."""
    gen = np.random.default_rng(seed)
    n_halves, tokens, L = 2 * n_matches, HALF_S * hz, WINDOW_S * hz
    starts = np.append(np.arange(0, tokens - L, L // 2), tokens - L)
    scores = np.empty((n_halves, len(starts), L, K), dtype=np.float32)
    labels = []
    bump = np.exp(-.5 * (np.arange(-8 * hz, 8 * hz + 1) / (1.5 * hz)) ** 2).astype(np.float32)
    for h in range(n_halves):
        truth = np.exp(gen.normal(-9.5, 1.6, (tokens, K))).astype(np.float32)
        for k, per_half in enumerate(EVENTS):
            at = gen.integers(0, tokens, gen.poisson(per_half))
            labels += [(h, k, 2 * t // hz, gen.random() < .75) for t in at]
            false = gen.integers(0, tokens, gen.poisson(2 * per_half + 3))
            for t, height in [*zip(at, gen.beta(4, 2, len(at)), strict=True),
                              *zip(false, gen.beta(1, 5, len(false)), strict=True)]:
                low, high = max(t - 8 * hz, 0), min(t + 8 * hz + 1, tokens)
                piece = bump[low - t + 8 * hz:high - t + 8 * hz]
                truth[low:high, k] = np.maximum(truth[low:high, k], height * piece)
        for w, s in enumerate(starts):                    # no two windows see it quite alike
            scores[h, w] = truth[s:s + L] * gen.uniform(.8, 1, (L, K)).astype(np.float32)
    g_half, g_class, g_frame, g_visible = (torch.tensor(x) for x in zip(*labels, strict=True))
    start = torch.from_numpy(starts).repeat(n_halves)
    half = torch.arange(n_halves).repeat_interleave(len(starts))
    return (torch.from_numpy(scores).reshape(-1, L, K), start, half,
            torch.full((n_halves,), tokens)), (g_half, g_class, g_frame, g_visible)


# ----- peers in numpy ---------------------------------------------------------------------------
def numpy_merge(scores, start, half, length, edge):
    """A slice of maxima per window, two where one ends just before the half does."""
    T, L = int(length[0]), scores.shape[1]
    scores, merged = scores.numpy(), np.zeros((len(length), T, K), dtype=np.float32)
    for w, (s, h) in enumerate(zip(start.tolist(), half.tolist(), strict=True)):
        inner = s + L - edge
        for a, b in (s if s == 0 else s + edge, inner), (max(inner, T - 1 - edge), s + L):
            if a < b:
                np.maximum(merged[h, a:b], scores[w, a - s:b - s], out=merged[h, a:b])
    return torch.from_numpy(merged.reshape(-1, K))


def numpy_soft_nms(scores, length, window, threshold=.001):
    """An argmax per detection."""
    reach = window // 2
    weight = np.abs(np.arange(-reach, reach + 1, dtype=np.float32)) / np.float32(window / 2)
    kept = np.full(scores.shape, -1, dtype=np.float32)
    begin = 0
    for T in length.tolist():
        for k in range(K):
            s = np.zeros(T + 2 * reach, dtype=np.float32)              # padded: no bounds to check
            s[reach:T + reach] = scores[begin:begin + T, k].numpy()
            while s[m := s.argmax()] >= threshold:
                kept[begin + m - reach, k] = s[m]
                s[m - reach:m + reach + 1] *= weight
                s[m] = 0
        begin += T
    return torch.from_numpy(kept)


def numpy_hard_nms(scores, length, window, threshold=0.):
    """Candidates in descending order, a mask of what is removed."""
    left, right = window // 2, window // 2 - 1
    kept = np.full(scores.shape, -1, dtype=np.float32)
    begin = 0
    for T in length.tolist():
        for k in range(K):
            s = scores[begin:begin + T, k].numpy()
            removed = s < threshold
            for m in np.argsort(-s, kind="stable"):
                if not removed[m]:
                    kept[begin + m, k] = s[m]
                    removed[max(m - left, 0):m + right + 1] = True
        begin += T
    return torch.from_numpy(kept)


def numpy_average_map(p_half, p_class, p_frame, p_score, g_half, g_class, g_frame, g_visible,
                      n_halves, n_classes, delta_frames):
    """One sort; closest labels by search, matching by slices, counts by histograms."""
    thresholds = np.linspace(0, 1, 200)
    span = int(max(p_frame.max(), g_frame.max())) + 1
    group = (p_half * n_classes + p_class).numpy()
    place = group * span + p_frame.numpy()                             # sorts by group, then frame
    order = np.argsort(place, kind="stable")
    place, group, score = place[order], group[order], p_score.numpy()[order]
    last = np.append(place[1:] != place[:-1], True)
    place, group, score = place[last], group[last], score[last]
    truth = ((g_half * n_classes + g_class) * span + g_frame).numpy()
    order = np.argsort(truth, kind="stable")
    truth, visible = truth[order], g_visible.numpy()[order]
    last = np.append(truth[1:] != truth[:-1], True)
    truth, visible = truth[last], visible[last]
    truth_group = truth // span
    first, end = (np.searchsorted(truth_group, group, side) for side in ("left", "right"))
    frames = truth - truth_group * span
    midpoint = np.where(truth_group[1:] == truth_group[:-1],
                        truth_group[:-1] * span + (frames[1:] + frames[:-1]) // 2,
                        truth_group[1:] * span)
    closest = np.clip(np.searchsorted(midpoint, place, "right"), first, np.maximum(end - 1, first))
    shown = (end > first) & visible[np.minimum(closest, len(visible) - 1)]
    level = np.searchsorted(thresholds, score, "right") - 1
    cls = group % n_classes
    n_labels = np.stack([np.bincount(truth_group[v] % n_classes, minlength=n_classes)
                         for v in (visible, ~visible)])

    def reached(which):                                                # (2, K, 200), by threshold
        cell = ((~shown[which]).astype(int) * n_classes + cls[which]) * 200 + level[which]
        counts = np.bincount(cell, minlength=2 * n_classes * 200).reshape(2, n_classes, 200)
        return counts[..., ::-1].cumsum(-1)[..., ::-1]

    n_found = reached(slice(None))
    ap = np.zeros((3, len(delta_frames), n_classes))
    for d, delta in enumerate(delta_frames.tolist()):
        low = np.searchsorted(place, np.maximum(truth - delta // 2, truth_group * span))
        high = np.searchsorted(place, np.minimum(truth + delta // 2, truth_group * span + span - 1),
                               "right")
        free, taken = score.copy(), []
        for a, b in zip(low.tolist(), high.tolist(), strict=True):
            if a < b and free[m := a + int(free[a:b].argmax())] >= 0:
                free[m] = -1
                taken.append(m)
        n_hit = reached(np.array(taken, dtype=int))
        for r, pick in enumerate([slice(0, 2), slice(0, 1), slice(1, 2)]):
            found, hit, total = (x[pick].sum(0) for x in (n_found, n_hit, n_labels))
            precision = np.divide(hit, found, out=np.zeros(hit.shape), where=found > 0)
            total = total[:, None]
            recall = np.divide(hit, total, out=np.zeros(hit.shape), where=total > 0)
            for j in np.arange(11) / 10:
                ap[r, d] += np.where(recall >= j, precision, 0).max(1)
    return torch.from_numpy(ap / 11)


# ----- peers in numba ---------------------------------------------------------------------------
if njit:
    @njit
    def merge_loop(scores, start, half, T, edge, merged):
        L = scores.shape[1]
        for w in range(len(start)):
            s, out = start[w], merged[half[w]]
            inner = s + L - edge
            for a, b in ((s if s == 0 else s + edge, inner), (max(inner, T - 1 - edge), s + L)):
                for t in range(a, b):
                    for k in range(scores.shape[2]):
                        if scores[w, t - s, k] > out[t, k]:
                            out[t, k] = scores[w, t - s, k]

    @njit
    def refresh(s, best, b, block):
        top = np.float32(-1)
        for i in range(b * block, min((b + 1) * block, len(s))):
            top = max(top, s[i])
        best[b] = top

    @njit
    def nms_loop(scores, first, left, right, weight, threshold, soft, kept):
        """Block maxima: the best of 64 tokens each; a pick renews only the blocks it touched."""
        block = 64
        for h in range(len(first) - 1):
            T = first[h + 1] - first[h]
            n_blocks = (T + block - 1) // block
            best = np.empty(n_blocks, dtype=np.float32)
            for k in range(scores.shape[1]):
                s = scores[first[h]:first[h + 1], k].copy()
                for b in range(n_blocks):
                    refresh(s, best, b, block)
                while True:
                    top = 0
                    for b in range(1, n_blocks):
                        if best[b] > best[top]:
                            top = b
                    if best[top] < threshold:
                        break
                    m = top * block
                    while s[m] != best[top]:
                        m += 1
                    kept[first[h] + m, k] = s[m]
                    low, high = max(m - left, 0), min(m + right + 1, T)
                    if soft:
                        for i in range(low, high):
                            s[i] *= weight[i - m + left]
                    else:
                        for i in range(low, high):
                            s[i] = -1
                    s[m] = -1
                    for b in range(low // block, (high - 1) // block + 1):
                        refresh(s, best, b, block)

    @njit
    def group_loop(half, cls, frame, n_halves, n_classes):
        """Offsets by half and class, and whether events lie in order of half, class, frame."""
        first, in_order, last = np.zeros(n_halves * n_classes + 1, dtype=np.int64), True, -1
        for i in range(len(half)):
            g = half[i] * n_classes + cls[i]
            in_order &= g > last or (g == last and frame[i] > frame[i - 1])
            last = g
            first[g + 1] += 1
        return first.cumsum(), in_order

    @njit
    def tally_loop(first, frame, score, g_first, g_frame, visible, n_halves, n_classes, deltas,
                   thresholds, n_labels, n_found, n_hit):
        for g in range(n_halves * n_classes):
            k, a, b, ga, gb = g % n_classes, first[g], first[g + 1], g_first[g], g_first[g + 1]
            n = gb - ga
            region, level = np.ones(b - a, dtype=np.int64), np.empty(b - a, dtype=np.int64)
            taken = np.zeros(b - a, dtype=np.int64)
            for i in range(ga, gb):
                n_labels[0 if visible[i] else 1, k] += 1
            near = 0
            for i in range(a, b):
                while near + 1 < n and ((g_frame[ga + near] + g_frame[ga + near + 1]) // 2
                                        <= frame[i]):
                    near += 1
                if n > 0 and visible[ga + near]:
                    region[i - a] = 0
                at = min(int(min(score[i], 1.) * 199), 198)
                if score[i] >= thresholds[at + 1]:
                    at += 1
                elif score[i] < thresholds[at]:
                    at -= 1
                level[i - a] = at
                n_found[region[i - a], k, at] += 1
            for d in range(len(deltas)):
                reach, low = deltas[d] // 2, a
                for j in range(ga, gb):
                    while low < b and frame[low] < g_frame[j] - reach:
                        low += 1
                    best, i = -1, low
                    while i < b and frame[i] <= g_frame[j] + reach:
                        if taken[i - a] != d + 1 and (best < 0 or score[i] > score[best]):
                            best = i
                        i += 1
                    if best >= 0:
                        taken[best - a] = d + 1
                        n_hit[d, region[best - a], k, level[best - a]] += 1


def numba_merge(scores, start, half, length, edge):
    merged = np.zeros((len(length), int(length[0]), K), dtype=np.float32)
    merge_loop(scores.numpy(), start.numpy(), half.numpy(), int(length[0]), edge, merged)
    return torch.from_numpy(merged.reshape(-1, K))


def numba_nms(scores, length, left, right, weight, threshold, soft):
    kept = np.full(scores.shape, -1, dtype=np.float32)
    first = np.append(0, length.numpy().cumsum())
    nms_loop(scores.numpy(), first, left, right, weight, np.float32(threshold), soft, kept)
    return torch.from_numpy(kept)


def numba_soft_nms(scores, length, window, threshold=.001):
    reach = window // 2
    weight = np.abs(np.arange(-reach, reach + 1, dtype=np.float32)) / np.float32(window / 2)
    return numba_nms(scores, length, reach, reach, weight, threshold, True)


def numba_hard_nms(scores, length, window, threshold=0.):
    none = np.zeros(0, dtype=np.float32)
    return numba_nms(scores, length, window // 2, window // 2 - 1, none, threshold, False)


def numba_average_map(p_half, p_class, p_frame, p_score, g_half, g_class, g_frame, g_visible,
                      n_halves, n_classes, delta_frames):
    def grouped(half, cls, frame, value):
        half, cls, frame, value = half.numpy(), cls.numpy(), frame.numpy(), value.numpy()
        first, in_order = group_loop(half, cls, frame, n_halves, n_classes)
        if not in_order:
            order = np.lexsort((frame, cls, half))
            half, cls, frame, value = half[order], cls[order], frame[order], value[order]
            last = np.append((half[1:] != half[:-1]) | (cls[1:] != cls[:-1])
                             | (frame[1:] != frame[:-1]), True)
            frame, value = frame[last], value[last]
            first, _ = group_loop(half[last], cls[last], frame, n_halves, n_classes)
        return first, frame, value

    D = len(delta_frames)
    n_labels, n_found = np.zeros((2, n_classes)), np.zeros((2, n_classes, 200))
    n_hit = np.zeros((D, 2, n_classes, 200))
    tally_loop(*grouped(p_half, p_class, p_frame, p_score),
               *grouped(g_half, g_class, g_frame, g_visible), n_halves, n_classes,
               delta_frames.numpy(), np.linspace(0, 1, 200), n_labels, n_found, n_hit)
    found, hit = (x[..., ::-1].cumsum(-1)[..., ::-1] for x in (n_found, n_hit))
    ap = np.zeros((3, D, n_classes))
    for r, pick in enumerate([slice(0, 2), slice(0, 1), slice(1, 2)]):
        f, h, total = found[pick].sum(0), hit[:, pick].sum(1), n_labels[pick].sum(0)[:, None]
        precision = np.divide(h, f, out=np.zeros(h.shape), where=f > 0)
        recall = np.divide(h, total, out=np.zeros(h.shape), where=total > 0)
        for j in np.arange(11) / 10:
            ap[r] += np.where(recall >= j, precision, 0).max(-1)
    return torch.from_numpy(ap / 11)


# ----- the official evaluator -------------------------------------------------------------------
class OfficialEvaluator:
    """SoccerNet 0.2.0's average_mAP on arrays that lie ready: (14400, 17) per half, twice and more
    the tokens of a half, as its own loader makes them. Making them is not timed."""

    def __init__(self, p_half, p_class, p_frame, p_score, g_half, g_class, g_frame, g_visible,
                 n_halves, n_classes):
        shape = n_halves, 14400, n_classes
        self.targets, self.found, self.closest = np.zeros(shape), -np.ones(shape), -np.ones(shape)
        self.found[p_half, p_frame, p_class] = p_score
        for h, f, k, v in zip(g_half, g_frame, g_class, g_visible, strict=True):
            self.targets[h, f, k] = 1 if v else -1
        for h in range(n_halves):
            for k in range(n_classes):
                frames = np.flatnonzero(self.targets[h, :, k])
                cuts = [0, *((frames[1:] + frames[:-1]) // 2), 14400]
                for i, f in enumerate(frames):
                    self.closest[h, cuts[i]:cuts[i + 1], k] = self.targets[h, f, k]

    def __call__(self, delta_frames):
        with open(os.devnull, "w") as silent, redirect_stderr(silent):          # its progress bars
            return torch.tensor(np.stack([np.stack(official.average_mAP(
                self.targets, self.found, self.closest, 2, np.array([d // 2]))[1::2])
                for d in delta_frames.tolist()], 1))


# ----- timing -----------------------------------------------------------------------------------
def seconds(run, clock=time.thread_time):
    began = clock()
    run()
    return clock() - began


def compare(title, peers, repeats, clock=time.thread_time):
    """peers: (name, run, scale). The first is the kernel; each runs once before, then in turns."""
    times = {name: [] for name, _, _ in peers}
    for turn in range(repeats + 1):
        for name, run, scale in peers:
            if scale > 1 and len(times[name]) == 1:       # the slow ones once; they need no warm-up
                continue
            taken = seconds(run, clock) * scale
            if turn > 0 or scale > 1:
                times[name].append(taken)
    kernel = statistics.median(times[peers[0][0]])
    print(f"\n{title}\n{'':34}   median      min      max   runs   x kernel")
    for name, _, scale in peers:
        t = times[name]
        note = f"{name} (x {scale})" if scale > 1 else name
        median = statistics.median(t)
        print(f"  {note:32} {1e3 * median:8.1f} {1e3 * min(t):8.1f} {1e3 * max(t):8.1f}   "
              f"{len(t):4}   {median / kernel:8.1f}", flush=True)


def check(name, got, expected):
    if not torch.equal(got, expected):
        raise SystemExit(f"error: {name} does not return what the kernel returns")


def part(scores, length, n_halves):
    """The first halves of a table of scores."""
    return scores[:int(length[:n_halves].sum())], length[:n_halves]


def pipeline(windows, labels, n_halves, edge):
    """Window scores to the AP of the tight metric, in one go."""
    merged = ops.merge_windows(*windows, edge)
    half, cls, token, score = ops.detections(ops.soft_nms(merged, windows[3], 10), windows[3])
    return ops.average_map(half, cls, 2 * token, score.double(), *labels, n_halves, K, TIGHT)


# ----- the tables -------------------------------------------------------------------------------
def benchmark(n_matches, repeats):
    n_halves, edge = 2 * n_matches, 12
    w1, labels1 = workload(n_matches, hz=1)
    w2, labels2 = workload(n_matches, hz=2)
    length1, length2 = w1[3], w2[3]

    merged1, merged2 = ops.merge_windows(*w1, edge), ops.merge_windows(*w2, 2 * edge)
    moved = w1[0].numel() + merged1.numel()
    same_traffic = torch.empty(moved // 2).uniform_()
    copied = same_traffic.clone()
    few = max(1, n_halves // 50)
    one = few * w1[0].shape[0] // n_halves
    small = w1[0][:one], w1[1][:one], w1[2][:one], length1[:few]
    peers = [("csrc", lambda: ops.merge_windows(*w1, edge), 1),
             ("copy of as many bytes, in place", lambda: copied.copy_(same_traffic), 1),
             ("the same into new memory", lambda: same_traffic.clone(), 1),
             ("numpy", lambda: numpy_merge(*w1, edge), 1)]
    check("numpy", numpy_merge(*w1, edge), merged1)
    if njit:
        check("numba", numba_merge(*w1, edge), merged1)
        peers.append(("numba", lambda: numba_merge(*w1, edge), 1))
    peers.append(("reference.merge_windows", lambda: reference.merge_windows(*small, edge),
                  n_halves // few))
    compare(f"merge, maximum, 1 Hz ({moved * 4 / 1e6:.0f} MB in and out), ms", peers, repeats)

    soft, hard = ops.soft_nms(merged1, length1, 10), ops.hard_nms(merged2, length2, 60, 0.)
    m1, l1 = part(merged1, length1, few)
    peers = [("csrc", lambda: ops.soft_nms(merged1, length1, 10), 1)]
    check("numpy", numpy_soft_nms(m1, l1, 10), ops.soft_nms(m1, l1, 10))
    if njit:
        check("numba", numba_soft_nms(merged1, length1, 10), soft)
        peers.append(("numba, block maxima", lambda: numba_soft_nms(merged1, length1, 10), 1))
    peers += [("numpy, argmax", lambda: numpy_soft_nms(m1, l1, 10), n_halves // few),
              ("reference.soft_nms", lambda: reference.soft_nms(m1, l1, 10), n_halves // few)]
    compare(f"soft NMS, 1 Hz, 10 s ({int((soft >= 0).sum()):,} detections), ms", peers, repeats)

    m2, l2 = part(merged2, length2, few)
    peers = [("csrc", lambda: ops.hard_nms(merged2, length2, 60, 0.), 1)]
    check("numpy", numpy_hard_nms(m2, l2, 60), ops.hard_nms(m2, l2, 60, 0.))
    if njit:
        check("numba", numba_hard_nms(merged2, length2, 60), hard)
        peers.append(("numba, block maxima", lambda: numba_hard_nms(merged2, length2, 60), 1))
    peers += [("numpy, argsort", lambda: numpy_hard_nms(m2, l2, 60), n_halves // few),
              ("reference.hard_nms", lambda: reference.hard_nms(m2, l2, 60, 0.), n_halves // few)]
    compare(f"hard NMS, greedy, 2 Hz, 30 s ({int((hard >= 0).sum()):,} detections), ms", peers,
            repeats)
    compare("hard NMS, local maxima, 2 Hz, 30 s, ms",
            [("csrc", lambda: ops.hard_nms(merged2, length2, 60, 0., "local"), 1),
             ("reference.hard_nms", lambda: reference.hard_nms(m2[:5400], l2[:1], 60, 0., "local"),
              n_halves)], repeats)

    compare("table of kept scores to a list of detections, after soft NMS, ms",
            [("csrc", lambda: ops.detections(soft, length1), 1),
             ("torch.nonzero and indexing", lambda: nonzero_detections(soft), 1)], repeats)

    for name, kept, length, labels, frames in [("soft", soft, length1, labels1, 2),
                                               ("hard", hard, length2, labels2, 1)]:
        half, cls, token, score = ops.detections(kept, length)
        events = half, cls, frames * token, score.double(), *labels, n_halves, K
        some = half < few, labels[0] < few
        slow = official and OfficialEvaluator(*(x.numpy() for x in events[:8]), n_halves, K)
        for which, deltas in ("tight", TIGHT), ("loose", LOOSE):
            ap = ops.average_map(*events, deltas)
            peers = [("csrc", lambda e=events, d=deltas: ops.average_map(*e, d), 1)]
            if njit:
                check("numba", numba_average_map(*events, deltas), ap)
                peers.append(("numba", lambda e=events, d=deltas: numba_average_map(*e, d), 1))
            check("numpy", numpy_average_map(*events, deltas), ap)
            peers.append(("numpy", lambda e=events, d=deltas: numpy_average_map(*e, d), 1))
            compare(f"average_map, {which}, {len(half):,} detections of {name} NMS, ms", peers,
                    repeats)
            kernel = statistics.median(seconds(peers[0][1]) for _ in range(repeats))
            if slow:
                began = time.thread_time()
                check("the official evaluator", slow(deltas), ap)
                taken = time.thread_time() - began
                print(f"  {'official evaluator, once':32} {1e3 * taken:8.0f} {'':23} "
                      f"{taken / kernel:11.1f}", flush=True)
            some_events = (*(x[some[0]] for x in events[:4]), *(x[some[1]] for x in events[4:8]),
                           few, K, deltas)
            taken = seconds(lambda e=some_events: reference.average_map(*e)) * n_halves / few
            twin = f"reference.average_map (x {n_halves // few})"
            print(f"  {twin:32} {1e3 * taken:8.0f} {'':23} {taken / kernel:11.1f}", flush=True)

    peers = []
    for n_threads in sorted({1, 2, os.cpu_count()}):
        def run(n_threads=n_threads):
            torch.set_num_threads(n_threads)
            pipeline(w1, labels1, n_halves, edge)
            torch.set_num_threads(1)
        peers.append((f"{n_threads} thread{'s' * (n_threads > 1)}", run, 1))
    compare("windows to t-AmAP in one go, 1 Hz, soft NMS, by threads, wall-clock ms", peers,
            repeats, time.perf_counter)


def nonzero_detections(kept):
    token, cls = (kept >= 0).nonzero().unbind(1)
    return token // HALF_S, cls, token % HALF_S, kept[token, cls]


def one_size(n_matches):
    """In a process of its own, for its peak of memory: the pipeline at one size."""
    windows, labels = workload(n_matches, hz=1)
    before = memory_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")         # forget the peak that making it reached
    times = [seconds(lambda: pipeline(windows, labels, 2 * n_matches, 12)) for _ in range(5)]
    median = 1e3 * statistics.median(times)
    print(f"  {n_matches:6,} matches {median:9.1f} ms, {median / n_matches:6.3f} ms a match; "
          f"window scores {windows[0].nbytes / 2**20:6.0f} MiB, at most "
          f"{memory_mib('VmHWM') - before:5.0f} MiB more", flush=True)


def memory_mib(field):
    """VmRSS, the memory that this process holds now, or VmHWM, the most that it held. Linux."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def machine():
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo")
                if line.startswith("model name")), platform.processor())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True,
                            text=True)
    return (f"{cpu}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; Python "
            f"{platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, "
            f"commit {commit.stdout.strip() or 'unknown'}")


def main():
    p = command.Parser(__doc__)
    p.add_argument("--matches", type=int, default=100, help="of two halves each")
    p.add_argument("--repeats", type=int, default=7, help="turns of every fast peer")
    p.add_argument("--sizes", type=int, nargs="*", default=[10, 100, 1000], help="matches")
    p.add_argument("--one-size", type=int, help=argparse.SUPPRESS)
    args = p.parse_args()
    torch.set_num_threads(1)
    if args.one_size:
        return one_size(args.one_size)
    print(machine())
    for name, found in ("numba", njit), ("SoccerNet 0.2.0, the official evaluator", official):
        print(f"{name}: {'present' if found else 'absent, its rows are missing'}")
    print(f"{args.matches} matches")
    benchmark(args.matches, args.repeats)
    print("\nwindows to t-AmAP, one thread, by size")
    for n_matches in args.sizes:
        subprocess.run([sys.executable, __file__, "--one-size", str(n_matches)], check=True)


if __name__ == "__main__":
    main()
