r"""
Pictures of a run: how the losses fell, and what was spotted in a half beside what happened there;
and the mean of several runs.

    python -m comedian.report curves runs/demo-0/stage1 runs/demo-0/stage2 runs/demo-0/stage3 \
                     --out curves.png
    python -m comedian.report timeline runs/demo-0/test --labels data/demo-0/test --out timeline.png
    python -m comedian.report page runs/demo-0/test --labels data/demo-0/test
    python -m comedian.report export runs/demo-0/test --format csv
    python -m comedian.report mean runs/demo-*/test/metrics.json \
                     --against runs/demo-scratch-*/test/metrics.json

Reads   curves: the log.txt that every stage writes to its folder
        timeline: scores.npz and results_spotting.json of one match, as infer.py wrote them, and
        its Labels-v2.json if there are --labels
        page: the same of every match, and its video or frames; page.py says more
        export: results_spotting.json, of any program; export.py says more
        mean: what infer.py or comedian.evaluate wrote with --json, a file per seed
Writes  curves, timeline: one picture, 1200 pixels wide; page, export: files beside the results;
        mean: a table to the screen

Nothing is scored here; comedian.evaluate does that.
"""
import collections
import contextlib
import difflib
import math
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from comedian import (
    DataError, __version__, command, export, formats, frames, soccernet, write_file, write_text)

WIDTH_IN, DPI = 10, 120                         # 1200 pixels; 9 points are then 15 pixels
CURVE, SPOTTED, TRUTH, FAINT = "#7c9cbf", "#c8553d", "#222222", "#8a8a8a"
STYLE = {"font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False,
         "axes.edgecolor": FAINT, "xtick.color": "#555555", "ytick.color": "#333333",
         "axes.titleweight": "bold", "axes.titlelocation": "left", "legend.frameon": False,
         "text.parse_math": False}              # a $ in the name of a match is only a $
TITLES = {1: "Stage 1: contrast", 2: "Stage 2: distillation", 3: "Stage 3: spotting"}
TICKS_S = (5, 10, 15, 30, 60, 120, 300, 600, 900, 1800)
STRIP_S, SURE = 900, 0.5                        # seconds side by side; from here on with its time
HALVES = {1: "first half", 2: "second half"}
ROW, FLAG = 0.65, 0.8                           # height of a score of 1 and of a true event's flag,
                                                # where rows are 1 apart


@contextlib.contextmanager
def picture(path, width_in, height_in):
    """A new figure in our style, written to `path` at the end of the block. The name's ending says
    the format (png, svg, pdf); DataError if there is no such one."""
    import matplotlib                             # here, as it takes a while: not for --help
    from matplotlib.figure import Figure          # no pyplot: no window, no figure left open
    from matplotlib.text import Text
    with matplotlib.rc_context(STYLE):
        figure = Figure((width_in, height_in), DPI, layout="constrained")
        formats = figure.canvas.get_supported_filetypes()
        kind = Path(path).suffix.lower().removeprefix(".")
        if kind not in formats:
            raise DataError(f"{path}: no format for pictures is called {kind!r}; name it .png, "
                            ".svg or .pdf")
        yield figure
        for text in figure.findobj(Text):                 # names that are not UTF-8
            text.set_text(text.get_text().encode(errors="backslashreplace").decode())
        write_file(path, lambda file: figure.savefig(file, format=kind))


# ------------------------------------------------------------------ curves
class Log(NamedTuple):
    """What the log.txt of one stage says."""
    stage: int
    total: int                        # steps that the run was to take
    loss: np.ndarray                  # (n, 3): step, mean loss since the line before, learning rate
    valid: np.ndarray                 # (v, 2): step, t-AmAP in %; only stage 3 validates


WHOLE, REAL = r"(\d{1,10})", r"(\d+\.\d+(?:e[+-]\d+)?)"
STEP = re.compile(rf"stage (\d) \| step {WHOLE}/{WHOLE} \| loss {REAL} \|.* lr {REAL} \|")
VALID = re.compile(rf"stage \d \| step {WHOLE}/{WHOLE} \| valid t-AmAP {REAL} %")


def read_log(folder):
    """The Log in a stage's folder.

    A run that was killed repeats some steps once it is resumed: the later line of a step counts.
    Raises DataError if there is no log.txt or no loss in it.
    """
    path = Path(folder) / "log.txt"
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); curves wants the folders "
                             "that the stages wrote, their --out") from None
    losses, valid, last = {}, {}, None
    for line in text.splitlines():
        if found := STEP.match(line):
            losses[int(found[2])] = float(found[4]), float(found[5])
            last = found
        elif found := VALID.match(line):
            valid[int(found[1])] = float(found[3])
    if last is None:
        raise DataError(f"{path}: no line with a loss yet; a stage writes one every "
                             "--log-every steps")
    return Log(int(last[1]), int(last[3]),
               np.array([(step, *losses[step]) for step in sorted(losses)]),
               np.array(sorted(valid.items()), float).reshape(-1, 2))


def draw_curves(path, logs, names):
    """One panel per run: the loss over steps, the learning rate behind it, validation if any.

    logs: [Log], names: [str], what to call each run. Returns the figure, written to `path`.
    """
    columns = min(3, len(logs))
    rows = -(-len(logs) // columns)
    with picture(path, WIDTH_IN, 3.6 * rows) as figure:
        for i, (log, name) in enumerate(zip(logs, names, strict=True)):
            panel = figure.add_subplot(rows, columns, i + 1)
            step, loss, lr = log.loss.T                                           # (n,) each
            # The rate's course says more here than its size: an area without ticks, its top named.
            rate = panel.twinx()
            shape = rate.fill_between(step, lr, color=FAINT, alpha=0.15, lw=0,
                                      label=f"learning rate, logged up to {lr.max():.1e}")
            rate.set(ylim=(0, 1.6 * lr.max() or 1), yticks=[])
            marks, = panel.plot(step, loss, color=CURVE, lw=2, marker="o", ms=3, label="loss")
            handles = [marks, shape]
            if len(log.valid):
                right = panel.twinx()
                right.spines.right.set_visible(True)
                handles += right.plot(*log.valid.T, color=SPOTTED, lw=1.2, marker="o", ms=4,
                                      label=f"t-AmAP, best {log.valid[:, 1].max():.1f} %")
                right.set_ylim(0, 1.3 * log.valid[:, 1].max() or 1)
                right.set_ylabel("validation t-AmAP (%)", color=SPOTTED)
            panel.set_title(TITLES.get(log.stage, f"Stage {log.stage}"), pad=20)
            panel.text(0, 1.03, name, transform=panel.transAxes, color=FAINT, size=8)
            panel.set(xlabel="step", ylabel="loss", xlim=(0, 1.03 * log.total))
            panel.grid(axis="y", alpha=0.25)
            panel.set_zorder(1)                     # the loss in front of the learning rate
            panel.patch.set_visible(False)
            panel.legend(handles=handles, loc="upper left", bbox_to_anchor=(-0.03, -0.17),
                         fontsize=8)
    return figure


def draw_together(path, logs, names):
    """One panel for all runs: their losses, and below them their validation if there is any.

    For runs of one stage that differ in a flag. Returns the figure, written to `path`.
    """
    valid = any(len(log.valid) for log in logs)
    with picture(path, WIDTH_IN, 4 + 3 * valid) as figure:
        panels = figure.subplots(1 + valid, 1, squeeze=False)[:, 0]
        for log, name in zip(logs, names, strict=True):
            line, = panels[0].plot(*log.loss[:, :2].T, lw=1.6, label=name)
            if len(log.valid):
                panels[1].plot(*log.valid.T, "o-", color=line.get_color(), ms=4,
                               label=f"{name}, best {log.valid[:, 1].max():.1f} %")
        for panel, title in zip(panels, ("loss", "validation t-AmAP (%)"), strict=False):
            panel.set(xlabel="step", ylabel=title)
            panel.grid(alpha=0.25)
            panel.legend()
    return figure


def curves(folders, path, together=False):
    """Draws the losses of these runs, the --out folders of stages."""
    names = ["/".join(Path(folder).parts[-3:]) for folder in folders]     # what fits a panel
    logs = [read_log(folder) for folder in folders]
    stages = sorted({log.stage for log in logs})
    if together and len(stages) > 1:
        raise DataError(f"{folders[0]}: --together wants runs of one stage, these are of stages "
                        f"{' and '.join(map(str, stages))}; leave it out")
    (draw_together if together else draw_curves)(path, logs, names)


# ------------------------------------------------------------------ timeline
def find_match(root, name=None):
    """The match below `root` that is called so, or the only one whose name has `name` in it.

    name None: the first match. Raises DataError, with names that are near, if none or several fit.
    """
    if not Path(root).is_dir():
        raise DataError(f"{root}: no such folder; timeline wants the one that infer.py wrote, "
                        "its --out")
    matches = list(soccernet.find_files(root, soccernet.SCORES))
    if name is None or name in matches:
        return name or matches[0]
    inside = [match for match in matches if name.lower() in match.lower()]
    if len(inside) == 1:
        return inside[0]
    games = {match.split("/")[-1]: match for match in matches}
    near = inside or [games[game] for game in difflib.get_close_matches(name, games, cutoff=0.3)]
    raise DataError(f"{root}: --match {name!r} is in {len(inside)} of {len(matches)} names; "
                    f"near it: {', '.join(map(repr, (near or matches)[:3]))}")


def read_half(folder, half):
    """(scores (n_tokens, K) in [0, 1], token_s, start_s, classes) of a half, merged as by infer.py
    (of older files: as it does by default).

    Token k stands at start_s + (k + 1/4) * token_s seconds of the video. Raises DataError if
    infer.py stored no such half.
    """
    from comedian import ops          # here: it brings torch, which takes longer than a picture
    stored = soccernet.read_scores(folder)
    curve = soccernet.read_curve(folder, half)
    if curve is not None:
        return curve, stored.token_s, stored.start_s, stored.classes
    window, length = stored.windows[0].shape[1], stored.windows[3].tolist()
    if not length[half - 1]:
        raise DataError(f"{Path(folder) / soccernet.SCORES}: no half {half} in it; "
                        f"see --half {2 - bool(length[0])}")
    merged = ops.merge_windows(*stored.windows, edge=ops.default_ignore(window))  # (S, K)
    return (merged.split(length)[half - 1].numpy(), stored.token_s, stored.start_s,
            stored.classes)


def clock(seconds, _=None):
    """125 -> 2:05. The second argument is what a tick's formatter gets besides."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def draw_timeline(path, title, half, scores, token_s, start_s, classes, spotted, events=None,
                  threshold=0.2):
    """One half, a row per class: the score as a curve, what was spotted, what happened.

    scores     (n_tokens, K) in [0, 1], merged; token k stands at start_s + (k + 1/4) * token_s s
    spotted    soccernet.Detections of the match; those of this half from `threshold` on are shown
    events     [soccernet.Event] of the match, or None where the truth is not known
    Classes with neither are left out, unless all are; a long half is wrapped into strips of a
    quarter of an hour. Returns the figure, written to `path`.
    """
    shown = (spotted.half == half) & (spotted.confidence >= threshold)
    label, confidence = spotted.label[shown], spotted.confidence[shown]       # (n,) each
    spotted_s = spotted.position_ms[shown] / 1000
    end_s = start_s + token_s * len(scores)
    true = [event for event in events or ()
            if event.half == half and start_s <= event.position_ms / 1000 <= end_s]
    busy = {*label.tolist(), *(event.label for event in true)}
    rows = sorted(busy) or range(len(classes))
    foot = {k: -float(row) for row, k in enumerate(rows)}     # where rows stand, first class on top

    from matplotlib.ticker import FuncFormatter, MultipleLocator      # here: see `picture`
    length_s = end_s - start_s
    n_strips = math.ceil(length_s / STRIP_S) if length_s > 1.5 * STRIP_S else 1
    strip_s, row_in = length_s / n_strips, 0.4 if n_strips == 1 else 0.28
    with picture(path, WIDTH_IN, 0.9 + n_strips * (0.4 + row_in * len(foot))) as figure:
        time_s = start_s + token_s * (np.arange(len(scores)) + 0.25)          # (n_tokens,)
        height = np.array([foot[k] for k in label.tolist()]) + ROW * confidence   # (n,)
        for strip in range(n_strips):
            axes = figure.add_subplot(n_strips, 1, strip + 1)
            from_s = start_s + strip * strip_s
            for k, y in foot.items():
                axes.axhline(y, color=FAINT, lw=0.5, alpha=0.5)
                curve = axes.fill_between(time_s, y, y + ROW * scores[:, k], color=CURVE,
                                          alpha=0.75, lw=0,
                                          label="score, 0 to 1")
            dots = axes.scatter(spotted_s, height, s=8 + 32 * confidence, color=SPOTTED,
                                edgecolor="white", lw=0.6, zorder=3,
                                label=f"spotted (from {threshold:g} on)")
            handles, counts = [curve, dots], np.bincount(label, minlength=len(classes))
            names = [f"{classes[k]}  {counts[k]}" for k in foot]
            if events is not None:
                true_s = np.array([event.position_ms for event in true]) / 1000
                feet = np.array([foot[event.label] for event in true])
                axes.vlines(true_s, feet, feet + FLAG, color=TRUTH, lw=0.8)
                handles.append(axes.scatter(true_s, feet + FLAG, s=26, marker="v",
                                            facecolor="white", edgecolor=TRUTH, lw=1, zorder=2,
                                            label="true event (numbers: spotted / true)"))
                true_of = collections.Counter(event.label for event in true)
                names = [f"{name} / {true_of[k]}" for name, k in zip(names, foot, strict=True)]
            free_s = dict.fromkeys(foot, -math.inf)        # where a row has room for a text again
            for i in np.argsort(spotted_s, kind="stable"):
                if (confidence[i] >= SURE and spotted_s[i] >= free_s[label[i]]
                        and from_s <= spotted_s[i] <= from_s + 0.97 * strip_s):
                    axes.text(spotted_s[i] + 0.009 * strip_s, foot[label[i]] + FLAG,
                              clock(spotted_s[i]), size=6.5, va="top", color="#555555")
                    free_s[label[i]] = spotted_s[i] + 0.035 * strip_s
            step_s = next((step for step in TICKS_S if strip_s / step <= 12), TICKS_S[-1])
            axes.xaxis.set_major_locator(MultipleLocator(step_s))
            axes.xaxis.set_major_formatter(FuncFormatter(clock))
            margin_s = 0.005 * strip_s
            axes.set(xlim=(from_s - margin_s, from_s + strip_s + margin_s),
                     ylim=(-len(foot) + 0.85, 1.05))
            axes.set_yticks([y + ROW / 2 for y in foot.values()], names)
            axes.tick_params(axis="y", length=0)
            axes.spines.left.set_visible(False)
            axes.grid(axis="x", alpha=0.2)
            if strip == 0:
                axes.set_title(f"{title}, {HALVES[half]}", pad=26)
                axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=3)
        axes.set_xlabel("time in the half (minutes:seconds)")
    return figure


# ------------------------------------------------------------------ the page, exports
def keep_pictures(seen, clips, token_s, start_s):
    """Adds a small picture per clip (b, 2, H, W, 3) uint8 to `seen`, {s: JPEG}, of one half."""
    from comedian import page         # here: it needs OpenCV
    for clip in clips.numpy():
        seen[start_s + token_s * (len(seen) + 0.25)] = page.small_picture(clip[0])


def write_page(folder, match, labels=None, threshold=0.3, pictures=None):
    """page.html of a match from the results in `folder`; labels as soccernet.find_labels has them.
    Returns its path."""
    from comedian import page
    folder = Path(folder)
    match = folder.resolve().name if match == "." else match
    actions, _, about = export.actions_of(folder / soccernet.PREDICTIONS, page.LEAST)
    curves, length = {}, soccernet.read_scores(folder).windows[3].tolist()        # tokens of each
    for half in (1, 2):
        if length[half - 1]:
            *curves[half], classes = read_half(folder, half)
    if not curves:
        raise DataError(f"{folder / soccernet.SCORES}: no scores of a half in it; run infer.py")
    events = None if labels is None else soccernet.read_labels(labels, classes)
    actions = [action for action in actions if action.label in classes]
    page.write_page(folder / "page.html", match, curves, classes, actions, about, events, pictures,
                    threshold)
    return folder / "page.html"


def print_actions(half, found, classes, least):
    """Prints the rows of a half: time, class and confidence of each action of `least` or more."""
    from tqdm import tqdm
    tqdm.write(f"\n{half.match}, half {half.number}")
    for i in np.lexsort((found.label, found.position_ms)).tolist():
        if found.confidence[i] >= least:
            minute, second = divmod(int(found.position_ms[i] / 1000), 60)
            tqdm.write(f"{f'{minute:02d}:{second:02d}':>7}  "
                       f"{classes[found.label[i]]:{max(map(len, classes))}}  "
                       f"{found.confidence[i]:.2f}")


def write_match(folder, spotted, found, classes, args, bf16, labels, seen):
    """What infer.py leaves of a match: scores.npz, results_spotting.json and, with --show, a
    timeline per half and the page.

    spotted: per half (half, windows, merged), as of infer.score_halves; found: the Detections;
    labels: of this match, or None; seen: {(match, half): {s: small JPEG}}, which is emptied.
    """
    halves, windows, merged = zip(*spotted, strict=True)
    match = halves[0].match
    about = {"program": f"comedian {__version__}", "checkpoint": args.checkpoint,
             "settings": {name: vars(args)[name] for name in
                          ("stride", "ignore", "merge", "nms", "nms_window", "threshold")},
             "fps": frames.CLIP_FRAMES / halves[0].token_s,
             "videos": {str(half.number): os.path.relpath(
                 half.path if args.video else half.folder, folder) for half in halves},
             "classes": classes}
    soccernet.write_scores(folder / soccernet.SCORES, match, classes, halves, merged,
                           [of_half[0] if len(of_half) == 1 else None for of_half in windows],
                           args.start, bf16)
    soccernet.write_predictions(folder / soccernet.PREDICTIONS, match, found, classes, about)
    if args.show is None:
        return
    events = soccernet.read_labels(labels, classes) if labels else None
    for half, table in zip(halves, merged, strict=True):
        draw_timeline(folder / f"timeline_{half.number}.png", soccernet.match_title(match),
                      half.number, table.numpy(), half.token_s, args.start, classes, found, events,
                      args.show)
    write_page(folder, match, labels, args.show,
               {half.number: seen.pop((match, half.number), {}) for half in halves})


def pages(args):
    """The page of every match below args.scores, or of args.match."""
    matches = ([find_match(args.scores, args.match)] if args.match else
               list(soccernet.find_files(args.scores, soccernet.SCORES)))
    labels = (soccernet.same_names(soccernet.find_labels(args.labels), matches)
              if args.labels else {})
    for match in matches:
        print(f"report: {write_page(Path(args.scores, match), match, labels.get(match))}")


def exports(args):
    """--format of every match below args.results, beside them or below --out."""
    for match, path in soccernet.find_files(args.results, soccernet.PREDICTIONS).items():
        called = Path(args.results).resolve().name if match == "." else match
        texts = export.texts(called, *export.actions_of(path, args.threshold), args.format,
                             round(1000 * args.lead), round(1000 * args.lag))
        for name, text in texts.items():
            where = Path(args.out or args.results, match, name)
            write_text(where, text)
            print(f"report: {where}")


# ------------------------------------------------------------------ several seeds
NUMBERS = {"t-AmAP": "tight", "+-0.5 s": "at1", "+-1 s": "at2", "+-1.5 s": "at3", "+-2 s": "at4",
           "+-2.5 s": "at5", "loose": "loose"}
# 97.5 % points of Student's t with 1, 2, .. 10 degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def spread(values):
    """(mean, standard deviation, half the 95 % confidence interval of the mean) of n >= 2 values.

    The deviation is that of a sample (n - 1); the interval is Student's, which takes seeds as
    independent and normal. Proved by test_spread_by_hand."""
    n, mean = len(values), float(np.mean(values))
    deviation = float(np.std(values, ddof=1))
    if n - 2 < len(STUDENT):
        student = STUDENT[n - 2]
    else:                                                  # beyond the table: Cornish and Fisher
        z, v = 1.95996, n - 1
        student = z + (z ** 3 + z) / (4 * v) + (5 * z ** 5 + 16 * z ** 3 + 3 * z) / (96 * v ** 2)
    return mean, deviation, student * deviation / math.sqrt(n)


def read_metrics(path):
    """{"t-AmAP": %, ...} of NUMBERS, from a file that --json wrote."""
    content = formats.read_json(path, "numbers that --json wrote")
    try:
        found = {name: 100 * float(content[metric]["a_mAP"]) for name, metric in NUMBERS.items()}
    except (KeyError, TypeError, ValueError, OverflowError):
        found = {"": math.nan}
    if not all(0 <= value <= 100 for value in found.values()):
        raise DataError(f"{path}: not the numbers that infer.py or comedian.evaluate writes with "
                        "--json FILE")
    return found


def means(args):
    """The table of several seeds: mean, deviation, all values; with --against the differences."""
    columns = [[read_metrics(path) for path in paths] for paths in (args.metrics, args.against)
               if paths]
    if len({len(column) for column in columns}) > 1:
        raise DataError(f"--against: {len(args.against)} files, and {len(args.metrics)} before it; "
                        "differences are taken pair by pair, in this order: give as many")
    if len(args.metrics) < 2:
        raise DataError(f"{args.metrics[0]}: one seed has no spread; give two files or more")
    print(f"n = {len(args.metrics)}, in %: mean +- standard deviation (each value)"
          + ("; the same of --against; difference, pair by pair, with its 95 % interval"
             if args.against else ""))
    for name in NUMBERS:
        rows = [[metrics[name] for metrics in column] for column in columns]          # (1 or 2, n)
        cells = []
        for values in rows:
            mean, deviation, _ = spread(values)
            cells.append(f"{mean:.1f} +- {deviation:.1f} "
                         f"({', '.join(f'{value:.1f}' for value in values)})")
        if args.against:
            mean, _, half = spread(np.subtract(*rows))
            cells.append(f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})")
        print(f"{name:9}" + "   ".join(cells))


# ------------------------------------------------------------------ the command
def parse_args(argv=None):
    parser = command.Parser(__doc__)
    commands = parser.add_subparsers(dest="picture", required=True, prog=parser.prog)
    losses = commands.add_parser("curves", help="losses over steps, a panel per run")
    losses.add_argument("runs", nargs="+", help="folders with a log.txt, the --out of the stages")
    losses.add_argument("--together", action="store_true",
                        help="one panel for all, runs of one stage")
    losses.add_argument("--out", default="curves.png", help="the picture")
    timeline = commands.add_parser("timeline", help="what was spotted in a half, and what happened")
    timeline.add_argument("scores", help="folder that infer.py wrote, its --out")
    timeline.add_argument("--labels", help="root of the labels; none: the truth is not drawn")
    timeline.add_argument("--match", help="its name or a part of it; none: the first match")
    timeline.add_argument("--half", type=int, choices=(1, 2), default=1, help="of the match")
    timeline.add_argument("--threshold", type=command.number(0.0, 1.0), default=0.2,
                          help="lowest confidence of a spotted action that is shown")
    timeline.add_argument("--out", default="timeline.png", help="the picture")
    page = commands.add_parser("page", help="a page per match: its video, actions and scores")
    page.add_argument("scores", help="folder that infer.py wrote, its --out")
    page.add_argument("--labels", help="root of the labels, or a labels.csv; none: no truth")
    page.add_argument("--match", help="its name or a part of it; none: every match")
    export = commands.add_parser("export", help="spotted actions for other programs")
    export.add_argument("results", help="folder of results_spotting.json, of any program")
    export.add_argument("--format", required=True, help="table, subtitles, Sportscode, "
                        "OpenSportsLab", choices=["csv", "vtt", "srt", "sportscode", "osl"])
    export.add_argument("--threshold", type=command.number(0.0, 1.0), default=0.3,
                        help="lowest confidence of an action that is written")
    export.add_argument("--lead", type=command.number(0.0, 600.0), default=3, metavar="SECONDS",
                        help="of a clip or subtitle, before its action")
    export.add_argument("--lag", type=command.number(0.0, 600.0), default=3, metavar="SECONDS",
                        help="after it")
    export.add_argument("--out", help="folder to write below; default: beside the results")
    mean = commands.add_parser("mean", help="mean and deviation over seeds, of --json files")
    mean.add_argument("metrics", nargs="+", help="a file per seed, written by --json")
    mean.add_argument("--against", nargs="+", metavar="FILE",
                      help="the same seeds of another method, in the same order: differences")
    return parser.parse_args(argv)


def main(args):
    other = {"page": pages, "export": exports, "mean": means}
    if args.picture in other:
        return other[args.picture](args)
    if args.picture == "curves":
        curves(args.runs, args.out, args.together)
    else:
        match = find_match(args.scores, args.match)
        folder = Path(args.scores) / match
        *scores, classes = read_half(folder, args.half)
        spotted, *_ = export.read_results(folder / soccernet.PREDICTIONS, classes)
        events = None
        if args.labels:
            files = soccernet.same_names(soccernet.find_labels(args.labels), [match])
            if match not in files:
                raise DataError(f"{args.labels}: no {soccernet.LABELS} for {match!r}; leave "
                                     "--labels out to draw without the truth")
            events = soccernet.read_labels(files[match], classes)
        draw_timeline(args.out, soccernet.match_title(folder.resolve().name), args.half, *scores,
                      classes, spotted, events, args.threshold)
    print(f"report: {args.out}")


if __name__ == "__main__":
    command.run_as_command(main, parse_args())
