"""
Scores spotted actions against the truth: SoccerNet's Average-mAP, to the official evaluator's last
digit. It also searches the settings that turn window scores into detections. No network is needed.

    python -m comedian.evaluate --predictions runs/test --labels data/test              # the table
    python -m comedian.evaluate --predictions spots.zip --labels data/test --chance --json all.json
    python -m comedian.evaluate --predictions runs/b --labels data/test --against runs/a
    python -m comedian.evaluate --sweep --scores runs/valid --labels data/valid --plot sweep.png

Reads   Labels-v2.json and results_spotting.json, one of each per match, below a folder or in a zip
        (or labels and predictions of many matches in one file each, of other programs: labels.py);
        with --sweep the scores.npz that infer.py writes per match.
Writes  a table to the screen; --json, every number under the official names (the sweep: every
        setting); --plot, the curves of Fig. 5.

The metric in short. A detection may match a true event of its class and half if they are at most
delta / 2 apart: a delta of 1 s is +-0.5 s. Precision and recall at 200 thresholds on the confidence
give an 11-point average precision (AP), its mean over classes is mAP, and the Average-mAP is the
area under mAP over delta = 1, 2, .. 5 s (tight: t-AmAP, the paper's) or 5, 10, .. 60 s (loose).
ops.average_map computes AP; this file converts times before it and averages after it, exactly as
the official program does.

Torch, the kernels and tqdm are imported where they are used, so that --help answers at once.
"""
import functools
import itertools
import json
import math
import os
import re
import time
from pathlib import Path

import numpy as np

from comedian import DataError, command, draw, formats, soccernet, write_text
from comedian.command import number, text_encoding
from comedian.receipt import receipt
from comedian.soccernet import (
    LABELS, PREDICTIONS, SCORES, find_labels, nearest_names, read_labels, match_names, unreachable,
    warn_unknown_labels)

HALF_S = 120 * 60                     # the official evaluator's half; later events fall on its end
METRICS = {                           # name -> deltas, full widths in seconds
    "tight": range(1, 6), "loose": range(5, 61, 5),
    "at1": (1,), "at2": (2,), "at3": (3,), "at4": (4,), "at5": (5,)}
DELTAS_S = sorted(set(itertools.chain(*METRICS.values())))
SEEN = ("", "_visible", "_unshown")   # all events; on screen; not shown by the broadcast
FRAMERATE = 2                         # rows per second on which the official evaluator compares
MERGES = ("max", "mean")
NMS = ("soft", "greedy", "local")     # what ops.NMS has: the names alone need no torch
# 97.5 % points of Student's t with 1, 2, .. 10 degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def token_ms(token, token_s, start_s=0.0):
    """The time of an action of token k, in whole ms from the start of the video: the mean time of
    the token's two frames, start_s + token_s * (k + 1/4). token, token_s (n,) or scalars.

    Labels are assigned by the times of the frames: at 2 fps and a radius of 0.5 s token k is
    positive if the event lies in [k - 0.5, k + 1] s, whose middle is k + 1/4.
    """
    return np.round(1000 * (start_s + np.asarray(token_s) * (np.asarray(token) + 0.25)))


# ------------------------------------------------------------------ the metric
def time_rows(position_ms, framerate, name):
    """Times (n,) in ms -> rows (n,) int64 of a half at `framerate`, as in the official evaluator.

    Truncated towards 0; later than 120 minutes is the last row; a negative row counts from the end,
    as numpy's indices do. DataError, naming `name`, beyond that, where the official one crashes.
    """
    rows = HALF_S * framerate
    frame = np.trunc(framerate * (position_ms / 1000))     # in this order: 1160 ms at 25 fps is 28
    if len(frame) and frame.min() < -rows:
        raise DataError(f"{name}: position {position_ms.min():.0f} ms is more than 2 hours "
                             "before its half begins; positions count from the half's start")
    return np.where(frame < 0, frame + rows, np.minimum(frame, rows - 1)).astype(np.int64)


def end_to_end(matches, framerate, what):
    """{match: columns half, label, position_ms, value} -> one tensor per column over all matches.

    Half h = 1, 2 of the g-th match becomes 2 g + h - 1; positions become frames; other halves are
    left out, as in the official evaluator.
    """
    import torch
    half, label, frame, value = [], [], [], []
    for g, (match, columns) in enumerate(matches.items()):
        table = np.asarray(columns, np.float64).reshape(4, -1)           # (4, n)
        table = table[:, (table[0] == 1) | (table[0] == 2)]
        half.append(2 * g + table[0].astype(np.int64) - 1)
        label.append(table[1].astype(np.int64))
        frame.append(time_rows(table[2], framerate, f"{what} of {match}"))
        value.append(table[3])
    return [torch.from_numpy(np.concatenate(column)) for column in (half, label, frame, value)]


def label_columns(labels, framerate=FRAMERATE):
    """{match: [soccernet.Event]} -> tensors half, label, frame, visible, (n,) each."""
    columns = {match: list(zip(*events, strict=True)) or [()] * 4
               for match, events in labels.items()}
    half, label, frame, visible = end_to_end(columns, framerate, "labels")
    return half, label, frame, visible.bool()


def trapezoid(values):
    """Area under equally spaced values over their span; one value is its own area."""
    if len(values) == 1:
        return values[0]
    area = 0.0                        # not sum(): from Python 3.12 on that rounds in its own way
    for left, right in itertools.pairwise(values):
        area += (left + right) / 2
    return area / (len(values) - 1)


def average(ap, deltas):
    """AP (3, D, K) over the D deltas of DELTAS_S -> the official result dict of one metric.

    The last digits hang on the order: mean over classes first (numpy sums in pairs), deltas after.
    """
    ap = ap[:, [DELTAS_S.index(delta) for delta in deltas]]               # (3, d, K)
    result = {}
    for seen, curve in zip(SEEN, ap, strict=True):
        result[f"a_mAP{seen}"] = float(trapezoid([np.mean(classes) for classes in curve]))
        result[f"a_mAP_per_class{seen}"] = trapezoid(curve).tolist()
    if len(deltas) > 1:
        # 13 of SoccerNet-v2's 17 classes have events that are not shown. The official program
        # corrects this mean for it, whatever the classes; not the per-class list, nor at1 .. at5.
        result["a_mAP_unshown"] = result["a_mAP_unshown"] * 17 / 13
    return result


def score(labels, predictions, classes, framerate=FRAMERATE):
    """All metrics of SoccerNet 0.2.0's `evaluate(version=2)`, equal to the last digit: {"tight":
    {"a_mAP": ..., ...}, "loose": ..., ...}, in [0, 1], not per cent; lists have an entry per class.

    labels: {match: [soccernet.Event]}; predictions: {match: soccernet.Detections}, DataError if a
    labelled match has none; framerate: int, rows per second on which times are compared.
    """
    from comedian import ops
    ap = ops.average_map(*events_of(labels, predictions, classes, framerate)).numpy()  # (3, D, K)
    return {metric: average(ap, deltas) for metric, deltas in METRICS.items()}


def events_of(labels, predictions, classes, framerate):
    """The arguments of ops.average_map for `score`. DataError for missing predictions."""
    missing = [match for match in labels if match not in predictions]
    if missing:
        raise DataError(f"no predictions for {len(missing)} of {len(labels)} matches, for example "
                        f"{missing[0]!r}; spot them, or leave out their labels")
    import torch
    pred = end_to_end({match: predictions[match] for match in labels}, framerate, "predictions")
    return (*pred, *label_columns(labels, framerate), 2 * len(labels), len(classes),
            framerate * torch.tensor(DELTAS_S))


def resample(labels, predictions, classes, n_resamples, seed=0, framerate=FRAMERATE):
    """Results of `score` for resamples of the matches, as many with replacement: a list of n, which
    the seed and the number of matches decide. Each is what evaluating that list of matches, copies
    among them, gives, to the bit; and "with_events", `mean_with_events` of that list.
    """
    if len(labels) < 2:
        raise DataError("--bootstrap and --against resample matches; give two matches or more")
    import torch

    from comedian import ops
    picks = np.random.default_rng(seed).integers(0, len(labels), (n_resamples, len(labels)))
    every = ops.resampled_map(*events_of(labels, predictions, classes, framerate), 2,
                              torch.from_numpy(picks)).numpy()            # (R, 3, D, K)
    counts = np.stack([count_events({match: labels[match]}, len(classes)) for match in labels])
    runs = []
    for ap, drawn in zip(every, picks, strict=True):
        run, count = {}, counts[drawn].sum(0)
        for metric, deltas in METRICS.items():
            run[metric] = average(ap, deltas)
            run[metric] |= {"with_events" + seen: mean_with_events(run[metric], count, seen)
                            for seen in SEEN}
        runs.append(run)
    return runs


def combine(runs, function):
    """function(values (R, ...), axis=0) of every number of some results, in their form; lists."""
    return {metric: {key: np.asarray(function(np.array([run[metric][key] for run in runs]),
                                              axis=0)).tolist()
                     for key in runs[0][metric]} for metric in METRICS}


def student(n):
    """The 97.5 % point of Student's t for n >= 2 values: n - 1 degrees of freedom."""
    if n - 2 < len(STUDENT):
        return STUDENT[n - 2]
    z, v = 1.95996, n - 1                                  # beyond the table: Cornish and Fisher
    return z + (z ** 3 + z) / (4 * v) + (5 * z ** 5 + 16 * z ** 3 + 3 * z) / (96 * v ** 2)


def percentiles(n_matches):
    """Which two percentiles of resamples of so many matches make a 95 % interval.

    The 2.5th and the 97.5th are too narrow for few matches. Hesterberg ("What teachers should know
    about the bootstrap", 2015) moves them outwards by Student's t and n - 1 instead of n: for 12
    matches to the 1.1th and the 98.9th. benchmarks/bootstrap.py --coverage counts how often the
    truth lies within. Proved by test_the_interval_is_as_wide_as_students.
    """
    wide = student(n_matches) * math.sqrt(n_matches / (n_matches - 1))
    outside = 50 * math.erfc(wide / math.sqrt(2))          # % beyond `wide` deviations of a normal
    return outside, 100 - outside


def interval(runs, n_matches):
    """The ends of a 95 % interval, (low, high), of every number of `resample`'s runs."""
    return [combine(runs, functools.partial(np.percentile, q=q)) for q in percentiles(n_matches)]


def difference(one, other):
    """One result minus another, number by number."""
    return combine([one, other], lambda values, axis: values[0] - values[1])


def chance(labels, predictions, classes, framerate=FRAMERATE, max_shifts=10):
    """The result of `score` if every match gets another match's predictions: the chance level.

    Shift s scores the predictions of the s-th match after each one: as many detections, with the
    same confidences, but unrelated to the match. The mean over shifts 1, 2, .. max_shifts.
    """
    matches = list(labels)
    if len(matches) < 2:
        raise DataError("--chance scores predictions against another match's labels; give two "
                        "matches or more")
    shifted = (zip(matches, matches[shift:] + matches[:shift], strict=True)
               for shift in range(1, min(max_shifts, len(matches) - 1) + 1))
    return combine([score(labels, {match: predictions[other] for match, other in pairs}, classes,
                          framerate) for pairs in shifted], np.mean)


def frame_map(labels, predictions, classes, tolerances, fps):
    """AP (T, K) at tolerances in frames, as E2E-Spot, T-DEED and AdaSpot define it: NaN for a class
    without labels. Their mAP is the mean over the others.

    Predictions in the order of their confidence, over all matches; each is matched to the nearest
    free label of its class and half, at most `tolerance` frames away, the earlier of two. AP is the
    mean over all labels of the highest precision at that recall or more; a label without a match
    counts 0. (Several labels at one frame can be matched only once, but all of them count.)

    fps: {match: frames per second on which positions become frames}. Proved by test_frame_map.
    """
    ap = np.full((len(tolerances), len(classes)), np.nan)
    for k in range(len(classes)):
        places = [(match, event.half, round(event.position_ms * fps[match] / 1000))
                  for match, events in labels.items() for event in events if event.label == k]
        spots = [(confidence, match, half, round(position_ms * fps[match] / 1000))
                 for match in labels for half, _, position_ms, confidence in zip(
                     *(column[predictions[match].label == k].tolist()
                       for column in predictions[match]), strict=True)
                 if confidence >= 0]                       # NaN is none
        spots.sort(key=lambda spot: -spot[0])              # stable: of equals the first
        for t, tolerance in enumerate(tolerances if places else ()):
            free, precision = set(places), []
            for n, (_, match, half, frame) in enumerate(spots, 1):
                near = next((place for d in range(tolerance + 1) for place in (
                    (match, half, frame - d), (match, half, frame + d)) if place in free), None)
                if near:
                    free.remove(near)
                    precision.append((len(precision) + 1) / n)
            highest = itertools.accumulate(reversed(precision), max)
            ap[t, k] = sum(highest) / len(places)
    return ap


# ------------------------------------------------------------------ the table
def count_events(labels, n_classes):
    """Events that the metric counts, (visible / not, K) int, of {match: [soccernet.Event]}."""
    count = np.zeros((2, n_classes), int)
    for event in (event for match in labels.values() for event in match if event.half in (1, 2)):
        count[0 if event.visible else 1, event.label] += 1
    return count


def has_events(count, seen=""):
    """Which classes (K,) have events of a kind of SEEN, from `count_events`."""
    return {"": count.any(0), "_visible": count[0] > 0, "_unshown": count[1] > 0}[seen]


def mean_with_events(result, count, seen=""):
    """The mean of a metric over the classes that have events; the official one has all classes."""
    there = has_events(count, seen)
    return float(np.mean(result["a_mAP_per_class" + seen], where=there)) if there.any() else 0.0


def table(results, labels, classes, by_chance=None, ends=None):
    """The results of `score` (and of `chance`, beside them) as a text: a row per class, in %, and
    below them what the columns mean. Empty rows and columns are left out. ends: of `interval`,
    below each number."""
    count = count_events(labels, len(classes))                            # (visible / not, K)
    columns = [("t-AmAP", "tight", ""),
               *((f"+-{s / 2:g} s", f"at{s}", "") for s in METRICS["tight"]),
               ("loose", "loose", "")]
    if by_chance:
        columns.insert(1, ("chance", "tight", ""))
    if count[1].any():
        columns += [("visible", "tight", "_visible"), ("not shown", "tight", "_unshown")]
    titles = ["events", *(title for title, _, _ in columns)]
    width = max(map(len, (*classes, "with events")))

    def row(name, cells):
        return name.ljust(width) + "".join(cell.rjust(max(16 if ends else 7, len(title) + 2))
                                           for cell, title in zip(cells, titles, strict=True))

    def rows(name, n_events, digits, value, has=lambda seen: True):
        """The row of value(result, seen) for each column, and one of its ends."""
        def cell(result, title, metric, seen):
            result = by_chance if title == "chance" else result
            return format(100 * value(result[metric], seen), f".{digits}f") if has(seen) else "-"

        lines.append(row(name, [f"{n_events:,}", *(cell(results, *of) for of in columns)]))
        if ends:
            lines.append(row("", ["", *(
                " to ".join(cell(end, *of) for end in ends)
                if has(of[2]) and of[0] != "chance" else "" for of in columns)]))

    hidden = f", {count[1].sum():,} of them not shown by the broadcast" if count[1].any() else ""
    lines = [f"matches: {len(labels)}, events: {count.sum():,}{hidden}; average precision in %",
             row("", titles)]
    rows("all", count.sum(), 2, lambda result, seen: result["a_mAP" + seen])
    absent = int((count.sum(0) == 0).sum())
    if 0 < absent < len(classes):
        rows("with events", count.sum(), 2, lambda result, seen: result.get(
            "with_events" + seen, mean_with_events(result, count, seen)))
    for k, name in enumerate(classes):
        rows(name, count[:, k].sum(), 1, lambda result, seen, k=k: result[
            "a_mAP_per_class" + seen][k], lambda seen, k=k: has_events(count, seen)[k])
    gaps = any(re.search(r" -( |$)", line) for line in lines)
    if ends:
        lines.append("x to y: 95 % interval, from resamples of the matches with replacement; a "
                     "class counts as 0 in those without it."
                     + f" {len(labels)} matches are too few: it is narrower than 95 % would be."
                     * (len(labels) < 6))                  # the lowest to the highest of 5: 94 %
    lines.append("+-1 s: an action counts if it is at most 1 s off (+-0.5 s: mAP@1 of the ball). "
                 "t-AmAP: the average of +-0.5 s to +-2.5 s (both ends count half); loose: of "
                 "+-2.5 s to +-30 s.")
    if by_chance:
        lines.append("chance: the t-AmAP of these predictions on other matches than their own.")
    if count[1].any():
        lines.append("visible, not shown: t-AmAP of such events alone; 'not shown' of 'all' has "
                     "the official evaluator's factor 17/13.")
    if absent:
        lines.append(f"{absent} of {len(classes)} classes have no event here"
                     + ("; 'with events' is the mean over the others." if count.any() else "."))
    if gaps:
        lines.append("'-': no such event; counts as 0 in 'all', as in the official evaluator.")
    return "\n".join(lines)


# ------------------------------------------------------------------ the sweep
def tight(kept, stored, truth, framerate=FRAMERATE):
    """t-AmAP and its value per class (K,) of what an NMS kept, (S, K); truth: label_columns."""
    import torch

    from comedian import ops
    length = stored.windows[-1]
    half, label, token, confidence = ops.detections(kept, length)
    position_ms = token_ms(np.arange(int(length.max())), stored.token_s, stored.start_s)
    frame = torch.from_numpy(time_rows(position_ms, framerate, "scores"))[token]
    ap = ops.average_map(half, label, frame, confidence.double(), *truth, len(length),
                         kept.shape[1], framerate * torch.tensor(METRICS["tight"]))[0].numpy()
    return trapezoid([np.mean(classes) for classes in ap]), trapezoid(ap)     # of (5, K)


def merge(stored, ignored_s, mode):
    """Scores (S, K) of all seconds, `ignored_s` seconds left out at both ends of every window."""
    from comedian import ops
    return ops.merge_windows(*stored.windows, edge=round(ignored_s / stored.token_s), mode=mode)


def sweep(stored, truth, merges, ignored_s, windows_s):
    """t-AmAP of every setting: (M, E, N, W) over all classes, and (M, E, N, W, K) per class.

    stored as from read_scores, truth as from label_columns; N runs over NMS.
    """
    from tqdm import tqdm

    from comedian import ops
    grid = (len(merges), len(ignored_s), len(NMS), len(windows_s))
    overall, per_class = np.zeros(grid), np.zeros((*grid, len(stored.classes)))
    with tqdm(total=overall.size, desc="sweep", unit=" settings", disable=None) as bar:
        for m, e in np.ndindex(grid[:2]):
            merged = merge(stored, ignored_s[e], merges[m])               # (S, K)
            for n, w in np.ndindex(grid[2:]):
                kept = ops.NMS[NMS[n]](merged, stored.windows[-1],
                                       windows_s[w] / stored.token_s)     # (S, K)
                overall[m, e, n, w], per_class[m, e, n, w] = tight(kept, stored, truth)
                bar.update()
    return overall, per_class


def per_class_windows(per_class, kind):
    """The best NMS window for every class, with one merge and one ignored span for all of them.

    per_class (M, E, N, W, K) from `sweep`; kind: index into N. Returns (m, e, w), w (K,) indices
    into the windows. Post-processing never mixes classes, so each may choose alone.
    """
    curves = per_class[:, :, kind]                                        # (M, E, W, K)
    best = curves.max(2).mean(2)                                          # (M, E)
    m, e = np.unravel_index(best.argmax(), best.shape)
    common = curves[m, e].mean(1).argmax()             # for classes that no window serves better
    window = curves[m, e].argmax(0)                                       # (K,)
    return m, e, np.where(curves[m, e].max(0) > curves[m, e, common], window, common)


def draw_sweep(path, overall, merges, ignored_s, windows_s):
    """The curves of Fig. 5 (over NMS windows) and Tab. 12 (over ignored seconds), one per NMS."""
    with draw.picture(path, 10, 4) as figure:
        axes = figure.subplots(1, 2)
        for n, kind in enumerate(NMS):
            m, e, w = np.unravel_index(overall[:, :, n].argmax(), overall[:, :, n].shape)
            axes[0].plot(windows_s, 100 * overall[m, e, n], "o-",
                         label=f"{kind} ({merges[m]}, {ignored_s[e]:g} s ignored)")
            axes[1].plot(ignored_s, 100 * overall[m, :, n, w], "o-",
                         label=f"{kind} ({merges[m]}, window {windows_s[w]:g} s)")
        axes[0].set(xlabel="NMS window (s)", ylabel="t-AmAP (%)")
        axes[1].set(xlabel="ignored at each end of a window (s)")
        for axis in axes:
            axis.legend()
            axis.grid(alpha=0.3)


# ------------------------------------------------------------------ the command
def run_sweep(args):
    began = time.perf_counter()
    stored = soccernet.read_scores(args.scores)
    files = match_names(find_labels(args.labels, encoding=args.encoding), stored.matches)
    unlabelled = [match for match in stored.matches if match not in files]
    if unlabelled:
        raise DataError(f"{args.labels}: no {LABELS} for {unlabelled[0]!r} ({len(unlabelled)} of "
                        f"{len(stored.matches)} matches with scores); give --labels the folder "
                        "that has them")
    import torch

    from comedian import ops
    events = {match: read_labels(files[match], stored.classes) for match in stored.matches}
    spans = spans_of({match: Path(args.scores, match, PREDICTIONS) for match in stored.matches})
    _, lost = unreachable(events, spans, stored.classes, args.labels)
    if lost:
        print(f"warning: {lost}")
    truth, windows_s = label_columns(events), args.windows
    merges, ignored_s = (MERGES[:1], (0,)) if stored.merged else (MERGES, args.ignored)
    overall, per_class = sweep(stored, truth, merges, ignored_s, windows_s)

    print(f"{overall.size} settings on {len(stored.matches)} matches in "
          f"{time.perf_counter() - began:.0f} s; the best of each NMS:")
    print("NMS          merge  ignored  window   t-AmAP")
    for n, kind in enumerate(NMS):
        m, e, w = np.unravel_index(overall[:, :, n].argmax(), overall[:, :, n].shape)
        print(f"{kind:12} {merges[m]:5}  {ignored_s[e]:5g} s {windows_s[w]:5g} s   "
              f"{100 * overall[m, e, n, w]:6.2f} %")
    if stored.merged:
        print("These scores were merged before they were stored (an ensemble's are): only NMS and "
              "its window are searched.")
    ones = stored._replace(windows=(torch.ones_like(stored.windows[0]), *stored.windows[1:]))
    for span in ignored_s:
        if not merge(ones, span, "max").all():
            print(f"If {span:g} s or more are ignored, some seconds are in no window: nothing is "
                  "spotted there.")
            break
    if args.per_class:
        n = int(overall.max((0, 1, 3)).argmax())
        m, e, w = per_class_windows(per_class, n)
        window_s = torch.tensor(windows_s, dtype=torch.float64)[w]        # (K,)
        kept = ops.NMS[NMS[n]](merge(stored, ignored_s[e], merges[m]), stored.windows[-1],
                               window_s / stored.token_s)
        together, alone = tight(kept, stored, truth)
        print(f"\nA window for each class, {NMS[n]}, {merges[m]}, {ignored_s[e]:g} s ignored: "
              f"t-AmAP {100 * together:.2f} %")
        for name, seconds, value in zip(stored.classes, window_s, alone, strict=True):
            print(f"{name:{max(map(len, stored.classes))}} {seconds:3g} s {100 * value:6.1f} %")
    print("These settings were chosen on these matches: report numbers of other matches.")
    warn_unknown_labels([files[match] for match in stored.matches], "annotations", stored.classes)

    if args.json:
        write_json(args.json, [
            {"nms": kind, "merge": merges[m], "ignored_s": ignored_s[e], "window_s": windows_s[w],
             "a_mAP": overall[m, e, n, w], "a_mAP_per_class": per_class[m, e, n, w].tolist()}
            for n, kind in enumerate(NMS) for m, e, w in np.ndindex(overall[:, :, n].shape)])
    if args.plot:
        draw_sweep(args.plot, overall, merges, ignored_s, windows_s)
        print(f"curves: {args.plot}")


def score_files(predictions, labels, classes=None, matches=None, only_predicted=False,
                with_chance=False, json=None, encoding=None, label_files=None,
                framerate=FRAMERATE, at_frames=(), fps=None, n_resamples=0, seed=0, against=None):
    """Prints the table of the results below `predictions` against the truth below `labels`.

    classes: None: those that the results were made with, else those of the labels. matches: the
    only ones to score; None: all. only_predicted: labelled matches without predictions are left
    out, else they are an error. label_files: what find_labels found there, if that is known.
    """
    is_asked = label_files is None    # and not found beside a video
    label_files = label_files or find_labels(labels, matches, encoding)
    found = soccernet.find_predictions(predictions)
    label_files = match_names(label_files, found)
    if matches is not None:           # other folders there are those of another run
        found = {match: path for match, path in found.items() if match in matches}
    missing = [match for match in label_files if match not in found]
    names = nearest_names(missing, found, label_files)
    if only_predicted and len(missing) < len(label_files):
        label_files = {match: path for match, path in label_files.items() if match in found}
    elif missing:
        raise DataError(
            f"{predictions}: no {PREDICTIONS} for {names} ({len(missing)} of "
            f"{len(label_files)} labelled matches; it has {next(iter(found))!r}, for example); "
            "give --labels the labels of these matches, or add --only-predicted")
    classes = (classes or soccernet.classes_of_results(found[match] for match in label_files)
               or soccernet.classes_of(label_files.values()))
    truth = {match: read_labels(path, classes) for match, path in label_files.items()}
    counted = {match: [event for event in events if event.half in (1, 2)]
               for match, events in truth.items()}
    _, lost = unreachable(counted, spans_of({match: found[match] for match in truth}), classes,
                          labels if is_asked else None)
    if lost:
        print(f"warning: {lost}; they count as missed, as in the official evaluator")
    spotted = {match: soccernet.read_predictions(found[match], classes) for match in label_files}
    other_files = find_others(against, truth) if against else {}
    others = {match: soccernet.read_predictions(path, classes)
              for match, path in other_files.items()}
    results = score(truth, spotted, classes, framerate)
    by_chance = chance(truth, spotted, classes, framerate) if with_chance else None
    by_frame = {}
    if at_frames:                     # of the flag, of the labels or of the predictions
        rates = {match: fps or getattr(label_files[match], "fps", None)
                 or getattr(found[match], "fps", None) for match in truth}
        if None in rates.values():
            raise DataError(f"{predictions}: neither it nor the labels have a frame rate; give "
                            "--fps, the rate of the frames that --at-frames counts")
        by_frame = dict(zip(at_frames, frame_map(truth, spotted, classes, at_frames, rates)
                            .tolist(), strict=True))
    runs = resample(truth, spotted, classes, n_resamples, seed, framerate) if n_resamples else []
    ends = interval(runs, len(truth)) if runs else None
    print(table(results, truth, classes, by_chance, ends))
    for tolerance, ap in by_frame.items():
        there = [one for one in ap if one == one] or [0.0]
        print(f"mAP at {tolerance} frames, as in E2E-Spot: {100 * sum(there) / len(there):.2f}")
    if against:
        compared = compare(against, others, truth, classes, results, runs, seed, framerate)
        if lost := unreachable(counted, spans_of(other_files), classes)[1]:
            print(f"warning: {against}: {lost}; they count as missed there")
    if not any(truth.values()):
        print(f"No event in {labels} has one of these classes; give others with --classes FILE.")
    warn_unknown_labels(label_files.values(), "annotations", classes)
    warn_unknown_labels([found[match] for match in label_files], "predictions", classes)
    if other_files:
        warn_unknown_labels(other_files.values(), "predictions", classes, f"{against}: ")
    if only_predicted and missing and matches is None:
        print(f"{len(missing)} of {len(missing) + len(truth)} labelled matches: no predictions, "
              f"left out of every number: {names}")
    if n_beyond := sum(len(truth[match]) - len(counted[match]) for match in truth):
        print(f"{n_beyond} labels are of other halves than 1 and 2, which the metric does not "
              "count.")
    if len(found) > len(truth):
        print(f"{len(found) - len(truth)} predicted matches have no labels in {labels}: left out.")
    if json:
        count = count_events(truth, len(classes))
        present = {} if count.any(0).all() else {"with_events": {
            metric: mean_with_events(result, count) for metric, result in results.items()}}
        write_json(json, results | present | ({"chance": by_chance} if with_chance else {})
                   | ({"interval": ends} if ends else {})
                   | ({"against": compared} if against else {})
                   | ({"at_frames": {tolerance: [one if one == one else None for one in ap]
                                     for tolerance, ap in by_frame.items()}} if by_frame else {})
                   | {"receipt": receipt(predictions, labels, found, label_files, classes,
                                         only_predicted=only_predicted, chance=with_chance,
                                         encoding=encoding, how={
                                             "framerate": framerate, "at_frames": [*at_frames],
                                             "fps": fps, "n_resamples": n_resamples, "seed": seed,
                                             "against": against and str(against)})})


def find_others(against, truth):
    """{match: path} of other predictions, of all the matches in `truth`, or DataError."""
    found = match_names(soccernet.find_predictions(against), truth)
    if missing := [match for match in truth if match not in found]:
        raise DataError(f"{against}: no predictions for {nearest_names(missing, found)}, which the "
                        "other ones have; compare results of the same matches")
    return {match: found[match] for match in truth}


def compare(against, others, truth, classes, results, runs, seed, framerate):
    """Prints how much better these results are than `others`, read from `against`, over the same
    resamples; returns these numbers as --json writes them."""
    less = difference(results, score(truth, others, classes, framerate))
    apart = [difference(*pair) for pair in zip(runs, resample(
        truth, others, classes, len(runs), seed, framerate), strict=True)]
    above = np.mean([run["tight"]["a_mAP"] > 0 for run in apart])
    ends = interval(apart, len(truth))
    print(f"\nDifference to {against}, in points; the t-AmAP is higher in {100 * above:.1f} % of "
          "the resamples:\n" + table(less, truth, classes, ends=ends))
    return {"difference": less, "interval": ends, "higher": float(above)}


def spans_of(files):
    """The spans that results {match: path} cover, for soccernet.unreachable: those of the
    scores.npz beside them, and a token more, for frames that made none; else the halves whose
    videos they name, to the end of the official half."""
    spans = {}
    for match, path in files.items():
        try:
            arrays = formats.read_npz(path.parent / SCORES, soccernet.STORED)
            _, token_s, start_s = soccernet.classes_and_times(arrays)
            spans |= {(match, half): (start_s, start_s + token_s * (int(arrays[key]) + 1))
                      for half in (1, 2) if (key := f"tokens_{half}") in arrays}
        except (AttributeError, TypeError, ValueError):    # in a zip; none, or damaged
            spans |= {(match, int(half)): (-np.inf, HALF_S) for half in
                      soccernet.about_results(path).get("videos", ("1", "2"))}
    return spans


def check_writable(path, *endings):
    """DataError if no file can be written at `path`: before hours of work, not after. An existing
    file may be replaced only if its name ends in one of `endings`."""
    path = Path(path)
    if not path.parent.is_dir():
        raise DataError(f"{path}: its folder does not exist; make it, or name another")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise DataError(f"{path}: cannot be written; name another file")
    of_this_kind = path.suffix.lower() in endings and path.name not in (LABELS, PREDICTIONS)
    if endings and path.exists() and not of_this_kind:
        raise DataError(f"{path}: exists and would be lost; name a new file, or one that ends in "
                        f"{' or '.join(endings)}")


def write_json(path, content):
    write_text(path, json.dumps(content, indent=1, allow_nan=False))


def parse_args(argv=None):
    p = command.Parser(__doc__)
    add = p.add_argument_group("the table").add_argument
    add("--predictions", help=f"folder or zip of {PREDICTIONS}, one per match; or a .json, "
        ".json.gz or .csv with those of many: of E2E-Spot, T-DEED, opensportslib or our export")
    add("--labels", required=True, help=f"folder or zip of {LABELS}, one per match; or a .csv or "
        ".json with the labels of many")
    add("--encoding", type=text_encoding, help=command.ENCODING_HELP)
    add("--classes", metavar="FILE",
        help="a class per line; default: the classes in the results (infer.py stores them), else "
             "SoccerNet-v2's 17, or the labels' own if most are others (not used by --sweep)")
    add("--only-predicted", action="store_true",
        help="leave out labelled matches without predictions; without it they are an error")
    add("--chance", action="store_true",
        help="also score the predictions against other matches' labels")
    add("--framerate", type=number(1, 1000), default=FRAMERATE,
        help="rows per second on which times are compared: the official 2, or 25 for ball actions")
    add("--at-frames", type=number(0, 1000), nargs="+", metavar="FRAMES", default=[],
        help="also mAP at these tolerances in frames, as in E2E-Spot and T-DEED")
    add("--fps", type=number(0.1, 1000.0), help="rate of the frames that --at-frames counts, if "
        "the files do not contain it")
    add("--bootstrap", type=number(0, 100_000), metavar="N", default=0,
        help="an interval for each number of the table, from N resamples of the matches; 1000 are "
             "enough")
    add("--against", metavar="OTHER", help="compare with other predictions of the same matches, "
        "over the same resamples (1000, or --bootstrap)")
    add("--seed", type=number(0), default=0, help="seed of the resamples")
    add("--json", metavar="FILE", help="write every number here")

    add = p.add_argument_group("the sweep").add_argument
    add("--sweep", action="store_true",
        help="search merge, ignored seconds, NMS and its window on stored --scores")
    add("--scores", help=f"folder of the {SCORES} files that infer.py stored")
    add("--ignored", type=number(0.0), nargs="+", metavar="SECONDS",
        default=[0, 2, 4, 6, 8, 10, 12, 14, 16], help="ignored at each edge of a window (Tab. 12)")
    add("--windows", type=number(0.0), nargs="+", metavar="SECONDS",
        default=[2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 14, 15, 17, 20],
        help="windows of the NMS (Fig. 5)")
    add("--per-class", action="store_true", help="also choose an NMS window for each class")
    add("--plot", metavar="FILE", help="draw the curves of Fig. 5 here")
    args = p.parse_args(argv)
    if args.sweep and not args.scores:
        p.error("--sweep needs --scores, the folder that infer.py wrote")
    if not args.sweep and not args.predictions:
        p.error("give --predictions, or --sweep with --scores")
    if 0 < args.bootstrap < 40:
        p.error("--bootstrap needs 40 resamples or more: else 2.5 % of them are less than one")
    if args.sweep and (args.bootstrap or args.against):
        p.error("--bootstrap and --against are for the table; leave out --sweep")
    return args


def main(args):
    if args.json:
        check_writable(args.json, ".json")
    if args.plot:
        check_writable(args.plot, ".png", ".svg", ".pdf")
    if args.sweep:
        run_sweep(args)
    else:
        score_files(args.predictions, args.labels,
                    soccernet.read_classes(args.classes) if args.classes else None,
                    only_predicted=args.only_predicted, with_chance=args.chance, json=args.json,
                    encoding=args.encoding, framerate=args.framerate, at_frames=args.at_frames,
                    fps=args.fps, against=args.against, seed=args.seed,
                    n_resamples=args.bootstrap or 1000 * bool(args.against))


if __name__ == "__main__":
    command.run_as_command(main, parse_args())
