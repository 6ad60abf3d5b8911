"""
Draws the curves of a run, from its log.txt, and the timeline of a half: what was spotted and what
happened.
"""
import collections
import contextlib
import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from comedian import DataError, write_file

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
    """A new figure in this project's style, written to `path` at the end of the block. The name's
    ending decides the format (png, svg, pdf); DataError for other endings."""
    import matplotlib                             # here, as it takes a while: not for --help
    from matplotlib.figure import Figure          # no pyplot: no window, no figure left open
    from matplotlib.text import Text
    with matplotlib.rc_context(STYLE):
        figure = Figure((width_in, height_in), DPI, layout="constrained")
        formats = figure.canvas.get_supported_filetypes()
        kind = Path(path).suffix.lower().removeprefix(".")
        if kind not in formats:
            raise DataError(f"{path}: {kind!r} is no picture format; name it .png, .svg or .pdf")
        yield figure
        for text in figure.findobj(Text):                 # names that are not UTF-8
            text.set_text(text.get_text().encode(errors="backslashreplace").decode())
        write_file(path, lambda file: figure.savefig(file, format=kind))


# ------------------------------------------------------------------ curves
class Log(NamedTuple):
    """The numbers in the log.txt of one stage."""
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
        raise DataError(f"{path}: cannot be read ({error.strerror}); give curves the --out folders "
                        "of stages") from None
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


def panels(path, logs, names):
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


def overlay(path, logs, names):
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
        raise DataError(f"{folders[0]}: --together needs runs of one stage, these are of stages "
                        f"{' and '.join(map(str, stages))}; leave --together out")
    (overlay if together else panels)(path, logs, names)


# ------------------------------------------------------------------ timeline
def clock(seconds, _=None):
    """125 -> 2:05. The second argument is what a tick's formatter gets besides."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def timeline(path, title, half, scores, token_s, start_s, classes, spotted, events=None,
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
