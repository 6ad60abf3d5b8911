"""
Scores spotted actions against the truth: SoccerNet's Average-mAP, to the official evaluator's last
digit. And searches the post-processing that lies between window scores and detections. No network.

    python -m comedian.evaluate --predictions runs/test --labels data/test              # the table
    python -m comedian.evaluate --predictions spots.zip --labels data/test --chance --json all.json
    python -m comedian.evaluate --sweep --scores runs/valid --labels data/valid --plot sweep.png

Reads   Labels-v2.json and results_spotting.json, one of each per match, below a folder or in a zip;
        with --sweep the scores.npz that infer.py leaves per match. Of several networks (an
        ensemble) it stores what they say together, merged: then only NMS is left to search.
Writes  a table to the screen; --json, every number under the official names (the sweep: every
        setting); --plot, the curves of Fig. 5.

The metric in short. A detection may match a true event of its class and half if they are at most
delta / 2 apart: "1 s" means +-0.5 s. Precision and recall at 200 thresholds on the confidence give
an 11-point average precision (AP), its mean over classes is mAP, and the Average-mAP is the area
under mAP over delta = 1, 2, .. 5 s (tight: t-AmAP, the paper's number) or 5, 10, .. 60 s (loose).
ops.average_map computes AP; here is what the official program does with times before it and with
means after it, quirks included.
"""
import collections
import itertools
import json
import os
import sys
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from comedian import frames as data
from comedian import run

try:
    from comedian import ops
except ImportError as error:          # kernels not built, or for another torch: it says what to run
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)

LABELS, PREDICTIONS, SCORES = "Labels-v2.json", "results_spotting.json", "scores.npz"
HALF_S = 120 * 60                     # the official evaluator's half; later events fall on its end
METRICS = {                           # name -> deltas, full widths in seconds
    "tight": range(1, 6), "loose": range(5, 61, 5),
    "at1": (1,), "at2": (2,), "at3": (3,), "at4": (4,), "at5": (5,)}
DELTAS_S = sorted(set(itertools.chain(*METRICS.values())))
SEEN = ("", "_visible", "_unshown")   # all events; on screen; not shown by the broadcast

# The sweep's grid: Fig. 5 (window), Tab. 12 (ignored), Tab. 8 (both, hard against soft).
IGNORED_S = range(0, 25, 3)
WINDOWS_S = (2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 14, 15, 17, 20)
MERGES = ("max", "mean")
NMS = ops.NMS


def default_ignore(window):
    """Tokens to ignore at each edge of a window of `window` tokens: 12 of 64 and 6 of 32, the
    paper's choices, and in proportion."""
    return window * 3 // 16


# ------------------------------------------------------------------ the metric
def frames(position_ms, framerate, name):
    """Times (n,) in ms -> rows (n,) int64 of a half at `framerate`, as officially.

    Truncated towards 0; later than 120 minutes is the last row; a negative row counts from the end,
    as numpy's indices do. Raises DataError, naming `name`, beyond that, where the official crashes.
    """
    rows = HALF_S * framerate
    frame = np.trunc(framerate * (position_ms / 1000))     # in this order: 1160 ms at 25 fps is 28
    if len(frame) and frame.min() < -rows:
        raise data.DataError(f"{name}: position {position_ms.min():.0f} ms is more than 2 hours "
                             "before its half begins; positions count from the half's start")
    return np.where(frame < 0, frame + rows, np.minimum(frame, rows - 1)).astype(np.int64)


def stack(matches, framerate, what):
    """{match: columns half, label, position_ms, value} -> one tensor per column over all matches.

    Half h = 1, 2 of the g-th match becomes 2 g + h - 1; positions become frames; other halves are
    left out, as officially.
    """
    half, label, frame, value = [], [], [], []
    for g, (match, columns) in enumerate(matches.items()):
        table = np.asarray(columns, np.float64).reshape(4, -1)           # (4, n)
        table = table[:, (table[0] == 1) | (table[0] == 2)]
        half.append(2 * g + table[0].astype(np.int64) - 1)
        label.append(table[1].astype(np.int64))
        frame.append(frames(table[2], framerate, f"{what} of {match}"))
        value.append(table[3])
    return [torch.from_numpy(np.concatenate(column)) for column in (half, label, frame, value)]


def stack_labels(labels, framerate=2):
    """{match: [data.Event]} -> tensors half, label, frame, visible, (n,) each."""
    columns = {match: list(zip(*events, strict=True)) or [()] * 4
               for match, events in labels.items()}
    half, label, frame, visible = stack(columns, framerate, "labels")
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


def score(labels, predictions, classes, framerate=2):
    """All metrics of the official evaluator: {"tight": {"a_mAP": ..., ...}, "loose": ..., ...}.

    labels       {match: [data.Event, ...]}
    predictions  {match: data.Detections}, at least for the matches of `labels`
    framerate    int, rows per second on which times are compared; SoccerNet-v2's is 2
    Lists have one entry per class. Numbers are in [0, 1], not per cent. Raises DataError if a match
    was not predicted. Equal to SoccerNet 0.2.0's `evaluate(version=2)` on the same files.
    """
    missing = [match for match in labels if match not in predictions]
    if missing:
        raise data.DataError(f"no predictions for {len(missing)} of {len(labels)} matches, "
                             f"{missing[0]!r} for one")
    pred = stack({match: predictions[match] for match in labels}, framerate, "predictions")
    ap = ops.average_map(*pred, *stack_labels(labels, framerate), 2 * len(labels), len(classes),
                         framerate * torch.tensor(DELTAS_S)).numpy()      # (3, D, K)
    return {metric: average(ap, deltas) for metric, deltas in METRICS.items()}


def chance(labels, predictions, classes, framerate=2, max_shifts=10):
    """What these predictions reach on matches they were not made for, in the form of `score`.

    Shift s scores the predictions of the s-th match after each one: as many detections, as
    confident and as spread, but knowing nothing of it. The mean over shifts 1, 2, .. max_shifts.
    """
    matches = list(labels)
    if len(matches) < 2:
        raise data.DataError("--chance scores predictions against another match's labels: "
                             "it needs two matches or more")
    runs = []
    for shift in range(1, min(max_shifts, len(matches) - 1) + 1):
        shifted = dict(zip(matches, matches[shift:] + matches[:shift], strict=True))
        runs.append(score(labels, {match: predictions[other] for match, other in shifted.items()},
                          classes, framerate))
    return {metric: {key: np.mean([run[metric][key] for run in runs], axis=0).tolist()
                     for key in runs[0][metric]} for metric in METRICS}


# ------------------------------------------------------------------ the table
def table(results, labels, classes, by_chance=None):
    """The results of `score` (and of `chance`, beside them) for people: a row per class, in %."""
    events = [event for match in labels.values() for event in match if event.half in (1, 2)]
    count = np.zeros((2, len(classes)), int)                              # (visible / not, K)
    for event in events:
        count[0 if event.visible else 1, event.label] += 1
    columns = [("t-AmAP", results["tight"], ""), ("visible", results["tight"], "_visible"),
               ("not shown", results["tight"], "_unshown"), ("loose", results["loose"], ""),
               *((f"{s} s", results[f"at{s}"], "") for s in METRICS["tight"])]
    if by_chance:
        columns.insert(1, ("chance", by_chance["tight"], ""))
    width = max(map(len, classes))

    def row(name, cells):
        return name.ljust(width) + "".join(
            cell.rjust(max(7, len(title) + 2)) for cell, title in zip(cells, titles, strict=True))

    titles = ["events", "hidden", *(title for title, _, _ in columns)]
    lines = [f"matches: {len(labels)}, events: {len(events):,}, hidden (annotated, but not shown): "
             f"{count[1].sum():,}; scores in %", row("", titles),
             row("all", [f"{count.sum():,}", f"{count[1].sum():,}",
                         *(f"{100 * result['a_mAP' + seen]:.2f}" for _, result, seen in columns)])]
    for k, name in enumerate(classes):
        there = {"": count[:, k].any(), "_visible": count[0, k], "_unshown": count[1, k]}
        lines.append(row(name, [f"{count[:, k].sum():,}", f"{count[1, k]:,}", *(
            f"{100 * result['a_mAP_per_class' + seen][k]:.1f}" if there[seen] else "-"
            for _, result, seen in columns)]))
    absent = int((count.sum(0) == 0).sum())
    if absent:
        lines.append(f"{absent} of {len(classes)} classes have no event here.")
    lines.append("'-': no such event; counts as 0 in 'all', as in the official evaluator. "
                 "'not shown' of 'all' has its factor 17/13.")
    return "\n".join(lines)


# ------------------------------------------------------------------ the sweep
class Stored(NamedTuple):
    """Window scores of many matches, end to end for ops.merge_windows; 2 halves a match."""
    matches: list
    classes: tuple
    token_s: float                    # seconds from token to token
    windows: tuple                    # scores (N, L, K), start (N,), half (N,), length (H,)
    start_s: float = 0.0              # where the first token stands in its video (infer.py --start)
    merged: bool = False              # True: every half is one window, merged before it was stored


def read_scores(root):
    """The Stored of all scores.npz below `root`. Raises DataError if they are not of one model.

    Merged scores become one window per half. It begins and ends with the half (or, padded, later),
    so merging it again returns it, whatever is ignored at a window's edges.
    """
    files, parts, length, kinds = data.find_files(root, SCORES), [], [], []
    for g, path in enumerate(files.values()):
        try:
            with np.load(path) as stored:
                merged = any(f"merged_{h}" in stored for h in (1, 2))
                name = "merged" if merged else "windows"
                halves = [h for h in (1, 2) if f"{name}_{h}" in stored]
                for h in halves:
                    scores = stored[f"{name}_{h}"].astype(np.float32)                 # (N, L, K)
                    start = stored[f"starts_{h}"].astype(np.int64)
                    parts.append((torch.from_numpy(scores), torch.from_numpy(start),
                                  torch.full((len(start),), 2 * g + h - 1)))
                    start_s = float(stored["start_s"]) if "start_s" in stored else 0.0
                    kinds.append((tuple(stored["classes"].tolist()), float(stored["token_s"]),
                                  start_s, merged, scores.shape[1 + merged:]))
                length += [int(stored[f"tokens_{h}"]) if h in halves else 0 for h in (1, 2)]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise data.DataError(f"{path}: not scores that infer.py stored ({error})") from None
        if len(set(kinds)) > 1:
            raise data.DataError(f"{path}: other classes, or another length of windows or tokens, "
                                 "than the matches before; sweep over the scores of one model")
    if not parts:
        raise data.DataError(f"{root}: its {SCORES} files hold no half 1 or 2")
    scores, start, half = zip(*parts, strict=True)
    longest = max(part.shape[1] for part in scores)
    scores = [torch.nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in scores]
    classes, token_s, start_s, merged, _ = kinds[0]
    windows = torch.cat(scores), torch.cat(start), torch.cat(half), torch.tensor(length)
    return Stored(list(files), classes, token_s, windows, start_s, merged)


def tight(kept, stored, truth):
    """t-AmAP and its value per class (K,) of what an NMS kept, (S, K); truth: stack_labels."""
    length = stored.windows[-1]
    half, label, second, confidence = ops.detections(kept, length)
    token = np.arange(int(length.max()))
    position_ms = np.round(1000 * stored.start_s + 1000 * stored.token_s * token)     # as infer.py
    frame = torch.from_numpy(frames(position_ms, 2, "scores"))[second]
    ap = ops.average_map(half, label, frame, confidence.double(), *truth, len(length),
                         kept.shape[1], 2 * torch.tensor(METRICS["tight"]))[0].numpy()    # (5, K)
    return trapezoid([np.mean(classes) for classes in ap]), trapezoid(ap)


def merge(stored, ignored_s, mode):
    """Scores (S, K) of all seconds, `ignored_s` seconds left out at both ends of every window."""
    return ops.merge_windows(*stored.windows, edge=round(ignored_s / stored.token_s), mode=mode)


def sweep(stored, truth, merges, ignored_s, windows_s):
    """t-AmAP of every setting: (M, E, N, W) over all classes, and (M, E, N, W, K) per class.

    stored as from read_scores, truth as from stack_labels; N runs over NMS. Nothing is encoded
    again: per merge and ignored span one merge, per setting one NMS and one metric.
    """
    grid = (len(merges), len(ignored_s), len(NMS), len(windows_s))
    overall, per_class = np.zeros(grid), np.zeros((*grid, len(stored.classes)))
    with tqdm(total=overall.size, desc="sweep", unit=" settings", disable=None) as bar:
        for m, e in np.ndindex(grid[:2]):
            merged = merge(stored, ignored_s[e], merges[m])               # (S, K)
            for (n, nms), (w, window_s) in itertools.product(enumerate(NMS.values()),
                                                             enumerate(windows_s)):
                kept = nms(merged, stored.windows[-1], window_s / stored.token_s)     # (S, K)
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


def draw(path, overall, merges, ignored_s):
    """The curves of Fig. 5 (over NMS windows) and Tab. 12 (over ignored seconds), one per NMS."""
    import matplotlib
    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for n, kind in enumerate(NMS):
        m, e, w = np.unravel_index(overall[:, :, n].argmax(), overall[:, :, n].shape)
        axes[0].plot(WINDOWS_S, 100 * overall[m, e, n], "o-",
                     label=f"{kind} ({merges[m]}, {ignored_s[e]} s ignored)")
        axes[1].plot(ignored_s, 100 * overall[m, :, n, w], "o-",
                     label=f"{kind} ({merges[m]}, window {WINDOWS_S[w]} s)")
    axes[0].set(xlabel="NMS window (s)", ylabel="t-AmAP (%)")
    axes[1].set(xlabel="ignored at each end of a window (s)")
    for axis in axes:
        axis.legend()
        axis.grid(alpha=0.3)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise data.DataError(f"{path}: the curves cannot be written ({error})") from None
    plt.close(figure)


# ------------------------------------------------------------------ the command
def run_sweep(args):
    began = time.perf_counter()
    stored, files = read_scores(args.scores), data.find_files(args.labels, LABELS)
    unlabelled = [match for match in stored.matches if match not in files]
    if unlabelled:
        raise data.DataError(f"{args.labels}: no {LABELS} for {unlabelled[0]!r} "
                             f"({len(unlabelled)} of {len(stored.matches)} matches with scores)")
    truth = stack_labels({match: data.read_labels(files[match], stored.classes)
                          for match in stored.matches})
    merges, ignored_s = (MERGES[:1], (0,)) if stored.merged else (MERGES, IGNORED_S)
    overall, per_class = sweep(stored, truth, merges, ignored_s, WINDOWS_S)

    print(f"{overall.size} settings on {len(stored.matches)} matches in "
          f"{time.perf_counter() - began:.0f} s; the best of each NMS:")
    print("NMS          merge  ignored  window   t-AmAP")
    for n, kind in enumerate(NMS):
        m, e, w = np.unravel_index(overall[:, :, n].argmax(), overall[:, :, n].shape)
        print(f"{kind:12} {merges[m]:5}  {ignored_s[e]:5} s {WINDOWS_S[w]:5} s   "
              f"{100 * overall[m, e, n, w]:6.2f} %")
    if stored.merged:
        print("These scores were merged before they were stored (an ensemble's are): only NMS and "
              "its window are searched.")
    ones = stored._replace(windows=(torch.ones_like(stored.windows[0]), *stored.windows[1:]))
    for span in ignored_s:
        if not merge(ones, span, "max").all():
            print(f"From {span} s ignored on, these windows leave seconds uncovered: "
                  "nothing is spotted there.")
            break
    if args.per_class:
        n = int(overall.max((0, 1, 3)).argmax())
        kind = list(NMS)[n]
        m, e, w = per_class_windows(per_class, n)
        window_s = torch.tensor(WINDOWS_S, dtype=torch.float64)[w]        # (K,)
        kept = NMS[kind](merge(stored, ignored_s[e], merges[m]), stored.windows[-1],
                         window_s / stored.token_s)
        together, alone = tight(kept, stored, truth)
        print(f"\nA window for each class, {kind}, {merges[m]}, {ignored_s[e]} s ignored: "
              f"t-AmAP {100 * together:.2f} %")
        for name, seconds, value in zip(stored.classes, window_s, alone, strict=True):
            print(f"{name:{max(map(len, stored.classes))}} {seconds:3.0f} s {100 * value:6.1f} %")
    print("Chosen on these very matches: the numbers to report are those of other matches.")
    tell_foreign([files[match] for match in stored.matches], "annotations", stored.classes)

    if args.json:
        write_json(args.json, [
            {"nms": kind, "merge": merges[m], "ignored_s": ignored_s[e], "window_s": WINDOWS_S[w],
             "a_mAP": overall[m, e, n, w], "a_mAP_per_class": per_class[m, e, n, w].tolist()}
            for n, kind in enumerate(NMS) for m, e, w in np.ndindex(overall[:, :, n].shape)])
    if args.plot:
        draw(args.plot, overall, merges, ignored_s)
        print(f"curves: {args.plot}")


def run_score(args, classes, matches):
    label_files = data.find_files(args.labels, LABELS)
    found = data.find_files(args.predictions, PREDICTIONS)
    if matches is not None:           # other folders there are those of another run
        found = {match: path for match, path in found.items() if match in matches}
    missing = [match for match in label_files if match not in found]
    if args.only_predicted and len(missing) < len(label_files):
        label_files = {match: path for match, path in label_files.items() if match in found}
    elif missing:
        raise data.DataError(
            f"{args.predictions}: no {PREDICTIONS} for {missing[0]!r} ({len(missing)} of "
            f"{len(label_files)} labelled matches; it has {next(iter(found))!r}, for one): "
            "give --labels the folder that was predicted, or see --only-predicted")
    labels = {match: data.read_labels(path, classes) for match, path in label_files.items()}
    predictions = {match: data.read_predictions(found[match], classes) for match in label_files}
    results = score(labels, predictions, classes)
    by_chance = chance(labels, predictions, classes) if args.chance else None
    print(table(results, labels, classes, by_chance))
    if not any(labels.values()):
        print(f"No event in {args.labels} is of these classes; name others with --classes FILE.")
    tell_foreign(label_files.values(), "annotations", classes)
    tell_foreign([found[match] for match in label_files], "predictions", classes)
    if args.only_predicted and missing and matches is None:
        print(f"{len(missing)} of {len(missing) + len(labels)} labelled matches: no predictions, "
              "left out of every number.")
    if len(found) > len(labels):
        print(f"{len(found) - len(labels)} predicted matches have no labels in {args.labels}: "
              "left out.")
    if args.json:
        write_json(args.json, results | ({"chance": by_chance} if args.chance else {}))


def tell_foreign(files, key, classes):
    """Says which names in these files, already read, are no class. Nobody else would: such entries
    are left out, here and in the official evaluator, and a misspelt class looks like a bad one."""
    names = [entry["label"] for path in files for entry in data.read_list(path, key, "a list")
             if entry["label"] not in classes]
    if names:
        common = [f"{name!r} ({n:,})" for name, n in collections.Counter(names).most_common(6)]
        more = f" and {len(set(names)) - 6} other names" if len(set(names)) > 6 else ""
        print(f"warning: {len(names):,} {key} are of no class and left out: "
              f"{', '.join(common)}{more}")


def check_writable(path):
    """Raises DataError if no file can be written at `path`: before hours of work, not after."""
    path = Path(path)
    if not path.parent.is_dir():
        raise data.DataError(f"{path}: its folder does not exist; make it, or name another")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise data.DataError(f"{path}: cannot be written; name another file")


def write_json(path, content):
    try:
        Path(path).write_text(json.dumps(content, indent=1), encoding="utf-8")
    except OSError as error:
        raise data.DataError(f"{path}: cannot be written ({error.strerror})") from None


def parse_args(argv=None):
    parser = run.Parser(__doc__)
    parser.add_argument("--predictions", help=f"folder or zip of {PREDICTIONS}, one per match")
    parser.add_argument("--labels", required=True,
                        help=f"folder or zip of {LABELS}, one per match")
    parser.add_argument("--classes", metavar="FILE",
                        help="a class per line (none: the 17 of SoccerNet-v2; unused by --sweep)")
    parser.add_argument("--json", metavar="FILE", help="write every number here")
    parser.add_argument("--only-predicted", action="store_true",
                        help="leave out labelled matches without predictions, not an error then")
    parser.add_argument("--chance", action="store_true",
                        help="also score the predictions against other matches' labels")
    parser.add_argument("--sweep", action="store_true",
                        help="search merge, ignored seconds, NMS and its window on stored --scores")
    parser.add_argument("--scores", help=f"folder of the {SCORES} files that infer.py stored")
    parser.add_argument("--per-class", action="store_true",
                        help="sweep: also choose an NMS window for each class")
    parser.add_argument("--plot", metavar="FILE", help="sweep: draw the curves of Fig. 5 here")
    args = parser.parse_args(argv)
    if args.sweep and not args.scores:
        parser.error("--sweep needs --scores, the folder that infer.py wrote")
    if not args.sweep and not args.predictions:
        parser.error("--predictions is missing: what is there to score? (or --sweep with --scores)")
    return args


def main(args, classes=None, matches=None):
    """classes: names that the caller knows already; otherwise those of --classes. matches: the only
    ones to score, whatever else lies below --predictions; otherwise all."""
    for path in filter(None, (args.json, args.plot)):
        check_writable(path)
    if args.sweep:
        run_sweep(args)
    else:
        run_score(args, classes or data.read_classes(args.classes), matches)


if __name__ == "__main__":
    run.command(main, parse_args())
