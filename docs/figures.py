"""
The pictures of the pages in docs/: what the method does, shown on the demo's matches.

    python docs/figures.py --run runs/demo-0                     # all of them
    python docs/figures.py --run runs/demo-0 --only nms metric

Reads   <run>/stage1, stage2 and stage3/last.pt with their log.txt; <run>/features, the teacher's;
        <run>/test, what infer.py wrote; data/demo, the frames; matches/: videos, labels and lists
Writes  <out>/<picture>.png, 1080 pixels wide, with letters that a phone can show

Nothing is trained or scored here that the scripts do not do. What a picture shows is chosen by a
rule, the same for every run (see each function): the surest, the first, the worst, not the nicest.
"""
import contextlib
import functools
import sys
from pathlib import Path

import av
import matplotlib
import matplotlib.patches
import matplotlib.ticker
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import infer  # noqa: E402
from comedian import (  # noqa: E402
    DataError, bank, draw, evaluate, ops, page, reference, run, soccernet, write_file)
from comedian.frames import CLIP_FRAMES, FrameReader, find_halves  # noqa: E402
from comedian.draw import CURVE, FAINT, SPOTTED, TRUTH, clock  # noqa: E402
from comedian.checkpoint import load_parts  # noqa: E402
from model import Comedian, Projector, load_checkpoint  # noqa: E402

MATCHES = ROOT / "matches"
LARGEST = 190_000                     # bytes of a picture: pages should load on a phone
WIDTH_IN, LETTERS = 9, 15             # at report's 120 dots an inch: on a phone a third as large
AUTOCAST = torch.autocast("cpu", torch.bfloat16, enabled=False)


@contextlib.contextmanager
def picture(path, height_in):
    """A figure in the style of comedian.report, with larger letters."""
    with draw.picture(path, WIDTH_IN, height_in) as figure:
        matplotlib.rcParams.update({"font.size": LETTERS, "axes.titlesize": LETTERS + 1,
                                    "lines.linewidth": 2.5, "legend.fontsize": LETTERS - 2})
        yield figure


# ------------------------------------------------------------------ what the demo left
class Demo:
    """The files of one demo, each read when it is first asked for."""

    def __init__(self, run_folder, data):
        self.run, self.data = Path(run_folder), Path(data)

    @functools.cached_property
    def classes(self):
        return soccernet.read_classes(MATCHES / "classes.txt")

    @functools.cached_property
    def halves(self):
        """{(match, number): Half} of the test matches that were spotted."""
        found = find_halves(self.data, MATCHES / "test.txt")
        return {(half.match, half.number): half for half in found if half.match in self.spotted}

    @functools.cached_property
    def events(self):
        """{match: [Event]}, the truth of these matches."""
        return self.labels(self.spotted)

    def labels(self, matches):
        """{match: [Event]} of those that have labels."""
        found, _ = soccernet.match_labels(MATCHES, set(matches))
        return {match: soccernet.read_labels(of, self.classes) for match, of in found.items()}

    @functools.cached_property
    def spotted(self):
        """{match: Detections}, as infer.py wrote them."""
        return {match: soccernet.read_predictions(path, self.classes) for match, path
                in soccernet.find_files(self.run / "test", soccernet.PREDICTIONS).items()}

    def scores(self, match, number):
        """(n_tokens, K): the merged scores of a half."""
        return page.read_half(self.run / "test" / match, number)[0]

    def model(self, stage):
        """(checkpoint, Comedian) of a stage; what it did not train stays as it was drawn."""
        path = self.run / f"stage{stage}" / "last.pt"
        checkpoint = load_checkpoint(path)
        model = Comedian(checkpoint["config"]).eval()
        load_parts(model, checkpoint, ["spatial."] if stage == 1 else [""], path)
        return checkpoint, model

    def tokens(self, model, halves):
        """Per half the spatial tokens (n_tokens, D)."""
        clips = infer.frame_clips(halves, FrameReader(), 256)
        return [h for _, (h,) in infer.encode_halves([model], clips, torch.device("cpu"), AUTOCAST)]


@functools.lru_cache(4)
def video(path):
    """The pictures of a video, (n_frames, H, W, 3) uint8: larger than what the network sees."""
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def frames(half, first, n):
    """(n, H, W, 3) uint8 of a half; `first` is moved so that all are there."""
    first = max(0, min(first, half.n_frames - n))
    return first, video(MATCHES / half.match / f"{half.number}.mp4")[first:first + n]


def pairs(demo, class_index, near_s=2.5):
    """How the events of a class were found: rows (confidence, match, half, true s, spotted s), the
    surest first. An event without a detection within `near_s` has confidence 0, spotted None; a
    detection without an event has true None."""
    rows = []
    for match, events in demo.events.items():
        d = demo.spotted[match]
        free = [i for i in np.argsort(-d.confidence).tolist()
                if d.label[i] == class_index and d.confidence[i] >= 0.3]
        for event in events:
            if event.label != class_index:
                continue
            near = [i for i in free if d.half[i] == event.half
                    and abs(d.position_ms[i] - event.position_ms) <= 1000 * near_s]
            if near:
                free.remove(near[0])
                rows.append((d.confidence[near[0]], match, event.half, event.position_ms / 1000,
                             d.position_ms[near[0]] / 1000))
            else:
                rows.append((0.0, match, event.half, event.position_ms / 1000, None))
        rows += [(d.confidence[i], match, int(d.half[i]), None, d.position_ms[i] / 1000)
                 for i in free]
    return sorted(rows, key=lambda row: -row[0])


def any_of(found, what):
    """The first of an iterator; DataError, for matches or a run that are too small, if it is empty.
    """
    for one in found:
        return one
    raise DataError(f"no {what} to draw; take longer or more matches, or train for longer")


def surest(demo, names):
    """The surest event of as many classes as `names` has: rows (name, *row of `pairs`). Of a class
    without any another takes the place. DataError if nothing was spotted."""
    rows = []
    for name in dict.fromkeys((*names, *demo.classes)):
        found = [row for row in pairs(demo, demo.classes.index(name)) if row[3] and row[4]]
        rows += [(name, *found[0])] if found else []
    any_of(rows, "event that was spotted with a confidence of 0.3")
    return rows[:len(names)]


def busiest(demo, seconds):
    """(match, half, first second) of the stretch of test video with events of most classes."""
    best = (0, None)
    for match, events in demo.events.items():
        for event in events:
            first = max(0, event.position_ms // 1000 - 4)
            if first + seconds > demo.halves[match, event.half].n_frames / 2:
                continue
            inside = {e.label for e in events if e.half == event.half
                      and first <= e.position_ms / 1000 < first + seconds}
            best = max(best, (len(inside), (match, event.half, first)), key=lambda b: b[0])
    return any_of(filter(None, best[1:]), f"half with an event and {seconds} s around it")


# ------------------------------------------------------------------ what was spotted
def filmstrip(demo, path):
    """Of three classes the event spotted most surely, and the surest false alarm: seven frames each
    around its time."""
    rows = surest(demo, ("Corner", "Goal", "Yellow card"))
    alarms = [(name, *row) for k, name in enumerate(demo.classes)
              for row in pairs(demo, k) if row[3] is None]
    rows += sorted(alarms, key=lambda row: -row[1])[:1]
    with picture(path, 1.45 * len(rows)) as figure:
        for axes, (name, confidence, match, number, true_s, spotted_s) in zip(
                figure.subplots(len(rows), 1), rows, strict=True):
            half = demo.halves[match, number]
            middle = spotted_s if true_s is None else true_s
            first, strip = frames(half, round(middle * half.fps) - 3, 7)
            left = first / half.fps
            for i, image in enumerate(strip):
                axes.imshow(image, extent=(left + i / 2 - 0.24, left + i / 2 + 0.24, 0, 0.27),
                            interpolation="nearest")
            axes.set(xlim=(left - 0.26, left + 3.26), ylim=(-0.02, 0.56), aspect="equal")
            axes.axis("off")
            axes.vlines(spotted_s, 0, 0.34, SPOTTED, lw=1.5)
            axes.scatter(spotted_s, 0.34, s=110, color=SPOTTED, edgecolor="white", zorder=3)
            said = f"spotted {exact(spotted_s)} (confidence {confidence:.2f})"
            if true_s is not None:
                axes.vlines(true_s, 0, 0.34, TRUTH, lw=1.5)
                axes.scatter(true_s, 0.34, s=110, marker="v", color="white", edgecolor=TRUTH,
                             lw=1.8, zorder=4)
                said += f", true {exact(true_s)}"
            else:
                said += ", a false alarm"
            axes.text(left - 0.24, 0.43, name, weight="bold")
            axes.text(left + 3.24, 0.43, said, ha="right", size=LETTERS - 1)


def exact(seconds):
    """83.25 -> 1:23.2"""
    return f"{clock(seconds)}.{int(10 * seconds) % 10}"


def scores(demo, path):
    """The stretch of a minute with events of most classes: the curve of every class that has an
    event or a detection there."""
    match, number, first = busiest(demo, 60)
    table = demo.scores(match, number)
    d = demo.spotted[match]
    here = [i for i in range(len(d.half)) if d.half[i] == number and d.confidence[i] >= 0.2
            and first <= d.position_ms[i] / 1000 < first + 60]
    true = [e for e in demo.events[match]
            if e.half == number and first <= e.position_ms / 1000 < first + 60]
    rows = sorted({e.label for e in true} | {int(d.label[i]) for i in here})
    with picture(path, 1.6 + 0.75 * len(rows)) as figure:
        axes = figure.add_subplot()
        time_s = np.arange(len(table)) + 0.25
        for y, k in enumerate(reversed(rows)):
            axes.axhline(y, color=FAINT, lw=0.6)
            curve = axes.fill_between(time_s, y, y + 0.7 * table[:, k], color=CURVE, lw=0)
        place = {k: y for y, k in enumerate(reversed(rows))}
        flags = axes.vlines([e.position_ms / 1000 for e in true], [place[e.label] for e in true],
                            [place[e.label] + 0.8 for e in true], TRUTH, lw=1.2)
        flags = axes.scatter([e.position_ms / 1000 for e in true],
                             [place[e.label] + 0.8 for e in true], s=90, marker="v", color="white",
                             edgecolor=TRUTH, lw=1.5, zorder=3)
        dots = axes.scatter([d.position_ms[i] / 1000 for i in here],
                            [place[int(d.label[i])] + 0.7 * d.confidence[i] for i in here], s=90,
                            color=SPOTTED, edgecolor="white", zorder=4)
        axes.set(xlim=(first, first + 60), ylim=(-0.05, len(rows) + 0.05),
                 xlabel="time in the half (minutes:seconds)")
        axes.xaxis.set_major_locator(matplotlib.ticker.MultipleLocator(10))
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(clock))
        axes.set_yticks([y + 0.35 for y in place.values()],
                        [demo.classes[k].replace("out of", "out\nof") for k in place])
        axes.tick_params(axis="y", length=0)
        axes.spines.left.set_visible(False)
        figure.legend(handles=[curve, dots, flags], loc="outside upper left", ncols=3,
                      labels=["score, 0 to 1", "spotted", "true"])


def curves(demo, path):
    """The loss of the three stages, from their log.txt."""
    with picture(path, 8) as figure:
        for axes, stage in zip(figure.subplots(3, 1), (1, 2, 3), strict=True):
            log = draw.read_log(demo.run / f"stage{stage}")
            step, loss, lr = log.loss.T
            rate = axes.twinx()
            rate.fill_between(step, lr, color=FAINT, alpha=0.18, lw=0)
            rate.set(ylim=(0, 1.6 * lr.max() or 1), yticks=[])
            rate.spines.right.set_visible(False)
            axes.plot(step, loss, color=CURVE, marker="o", ms=5)
            axes.set_title(draw.TITLES[stage])
            axes.set(ylabel="loss", xlim=(0, 1.02 * log.total))
            axes.set_zorder(1)
            axes.patch.set_visible(False)
            axes.grid(axis="y", alpha=0.25)
        axes.set_xlabel("step (grey: the learning rate's course)")


# ------------------------------------------------------------------ scores -> actions
def nms(demo, path):
    """A right detection with much score of its class within 4 s: NMS reports this action once."""
    best = (-np.inf,)
    for match, number in demo.halves:
        table = demo.scores(match, number)
        left = ops.soft_nms(torch.from_numpy(table), torch.tensor([len(table)]), 10).numpy()
        d = demo.spotted[match]
        for i in np.flatnonzero((d.half == number) & (d.confidence > 0.5)).tolist():
            t, k = int(d.position_ms[i] // 1000), int(d.label[i])
            right = any(abs(e.position_ms / 1000 - t) < 2 for e in demo.events[match]
                        if (e.half, e.label) == (number, k))
            if right and 15 <= t < len(table) - 16:
                near = table[t - 4:t + 5, k].sum() - table[t, k]
                others = left[t - 14:t + 16, k].sum() - left[t, k]
                best = max(best, (near - 10 * others, match, number, t, k), key=lambda b: b[0])
    match, number, middle, k = any_of(filter(None, [best[1:]]), "sure detection amid a half")
    table = torch.from_numpy(demo.scores(match, number)[:, k:k + 1])      # (n_tokens, 1)
    length, time_s = torch.tensor([len(table)]), np.arange(len(table)) + 0.25
    true = [e.position_ms / 1000 for e in demo.events[match] if (e.half, e.label) == (number, k)]
    shown = [("every second's score: one action, many seconds", table),
             ("soft NMS, 10 s wide: neighbours lose score", ops.soft_nms(table, length, 10)),
             ("hard NMS, 10 s wide: neighbours lose all", ops.hard_nms(table, length, 10))]
    with picture(path, 7.2) as figure:
        rows = figure.subplots(3, 1, sharex=True, sharey=True)
        for axes, (title, kept) in zip(rows, shown, strict=True):
            axes.bar(time_s, table[:, 0], 0.9, color=CURVE if kept is table else "#dde6ef")
            if kept is not table:
                axes.bar(time_s, kept[:, 0].clamp(min=0), 0.9, color=SPOTTED)
            for when in true:
                axes.axvline(when, color=TRUTH, lw=1.5, ls=(0, (3, 3)))
            axes.set_title(title, fontsize=LETTERS)
            axes.set(ylim=(0, 1), yticks=[0, 0.5, 1])
        axes.set(xlim=(middle - 14, middle + 15),
                 xlabel=f"time in the half; {demo.classes[k]}, dashed: the true event")
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(clock))


def metric(demo, path):
    """How t-AmAP comes about, with this run's numbers."""
    results = evaluate.score(demo.events, demo.spotted, demo.classes)
    k = demo.classes.index("Shot")
    columns = {match: (d.half, d.label, d.position_ms, d.confidence)
               for match, d in demo.spotted.items()}
    pred = evaluate.end_to_end(columns, 2, "predictions")
    n = 2 * len(demo.events)
    found = reference.by_group(*pred, n, len(demo.classes))
    truth = reference.by_group(*evaluate.label_columns(demo.events), n, len(demo.classes))
    with picture(path, 10.5) as figure:
        first, second, third = figure.subplots(3, 1, height_ratios=(1.3, 1.4, 1.2))
        # 1. which detections may match
        for delta in range(5, 0, -1):
            first.barh(delta, delta, 0.8, left=-delta / 2, color=CURVE, alpha=0.75)
            first.text(-4.4, delta, f"δ = {delta} s: ±{delta / 2:g} s", va="center")
        first.vlines(0, 0.4, 5.6, TRUTH, lw=2)
        for at_s, word in ((0.4, "right\nfor all δ"), (1.7, "right for\nδ = 4, 5 s"),
                           (2.9, "right\nfor no δ")):
            first.vlines(at_s, 0.4, 5.8, SPOTTED, lw=1, ls=(0, (2, 2)))
            first.scatter(at_s, 5.85, s=110, color=SPOTTED, zorder=3)
            first.text(at_s, 6.3, word, ha="center", color=SPOTTED, size=LETTERS - 2)
        first.set(xlim=(-4.5, 3.5), ylim=(0.4, 7.8), yticks=[], xticks=range(-2, 4),
                  xlabel="seconds from the true event (black) to a detection (red)")
        first.spines.left.set_visible(False)
        first.set_title("1. A detection may match an event within δ / 2")
        # 2. one class, one tolerance: precision and recall
        scored, hits, n_true = [], [], sum(len(truth[h, k]) for h in range(n))
        for h in range(n):
            taken = reference.match(truth[h, k], found[h, k], 2 * 3)
            scored += list(found[h, k].values())
            hits += [frame in taken for frame in found[h, k]]
        scored, hits = np.array(scored), np.array(hits)
        ap = reference.eleven_points(scored, hits, n_true)
        reached = [scored >= threshold for threshold in np.linspace(0, 1, 200)]
        recall = np.array([hits[r].sum() / n_true for r in reached])
        precision = np.array([hits[r].mean() if r.any() else np.nan for r in reached])
        levels = np.arange(11) / 10
        best = [np.nanmax([0, *precision[recall >= level]]) for level in levels]
        second.plot(recall, precision, color=CURVE, label="as the threshold falls from 1 to 0")
        second.scatter(levels, best, s=70, color=SPOTTED, zorder=3,
                       label=f"the best at that recall or more; their mean is AP: {100 * ap:.1f} %")
        second.set(xlim=(-0.02, 1.02), ylim=(0, 1.05), xlabel="recall: share of events found",
                   ylabel="precision")
        second.legend(loc="best")
        second.set_title(f"2. {demo.classes[k]}, δ = 3 s: average precision")
        # 3. all classes, all tolerances
        deltas, maps = np.arange(1, 6), [100 * results[f"at{d}"]["a_mAP"] for d in range(1, 6)]
        third.fill_between(deltas, maps, color=CURVE, alpha=0.35, lw=0)
        third.plot(deltas, maps, color=CURVE, marker="o", ms=8)
        for delta, value in zip(deltas, maps, strict=True):
            third.annotate(f"{value:.1f}", (delta, value), (0, 10), ha="center",
                           textcoords="offset points")
        third.set(xlim=(0.8, 5.2), ylim=(0, 110), xticks=deltas, ylabel="mAP (%)",
                  xlabel="δ in seconds; mAP is the mean of AP over the classes")
        third.text(3, 22, "area / 4 = t-AmAP = "
                   f"{100 * results['tight']['a_mAP']:.1f} %", ha="center", weight="bold")
        third.set_title("3. The area over δ = 1 .. 5 s")


# ------------------------------------------------------------------ what the networks do
def attention(demo, path):
    """Where the temporal transformer looks: the weights of its last block, mean over the heads, in
    the window around the goal that was spotted most surely. The network is docs/example's, whose
    windows have 32 s: those of the demo have four tokens."""
    model, _ = infer.load_network(ROOT / "docs/example/football3d.pt", "cpu")
    (name, _, match, number, true_s, _), = surest(demo, ("Goal",))
    half, length = demo.halves[match, number], model.cfg.window_tokens
    h = demo.tokens(model, [half])[0]
    start = max(0, min(int(true_s) - length // 2, len(h) - length))
    with torch.no_grad():
        x = h[None, start:start + length]                                 # (1, L, D)
        x = x + model.temporal.pos_embed[:, :length]
        for block in model.temporal.blocks:
            q, key, _ = block.attn.qkv(block.norm1(x)).view(
                1, length, 3, block.attn.num_heads, -1).permute(2, 0, 3, 1, 4)
            weights = (q @ key.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(3)[0]
            x = block(x)
        own = model.contextualize(h[None, start:start + length])
    if not torch.allclose(model.temporal.norm(x), own, atol=1e-4):
        raise AssertionError("these are not the steps that model.Temporal takes")
    mean = weights.mean(0).numpy()                                        # (heads, L, L) -> (L, L)
    row, seconds = int(true_s) - start, start + np.arange(length) + 0.5
    with picture(path, 11.5) as figure:
        strip, bars, whole = figure.subplots(3, 1, height_ratios=(0.75, 2, 7))
        for second in range(0, length, 4):
            image = frames(half, CLIP_FRAMES * (start + second), 2)[1][0]
            strip.imshow(image, extent=(start + second + 0.1, start + second + 3.9, 0, 3.8))
        strip.set(xlim=(start, start + length), ylim=(0, 3.8), aspect="auto")
        strip.axis("off")
        strip.set_title("a window: a frame every 4 s")
        bars.bar(seconds, mean[row], 0.9, color=CURVE)
        bars.axvline(start + row + 0.5, color=SPOTTED)
        bars.set(xlim=(start, start + length), ylabel="weight")
        bars.set_title(f"the token at {clock(true_s)}, {name}: where it looks")
        shown = whole.imshow(mean, cmap="Blues", extent=(start, start + length, start + length,
                                                         start), aspect="auto", vmin=0)
        whole.axhline(start + row + 0.5, color=SPOTTED, lw=1.5)
        whole.set(xlabel="the second that is looked at", ylabel="the second that looks")
        whole.set_title("the same for every token")
        for axis in (bars.xaxis, whole.xaxis, whole.yaxis):
            axis.set_major_formatter(matplotlib.ticker.FuncFormatter(clock))
        figure.colorbar(shown, ax=whole, location="bottom", fraction=0.05, pad=0.02,
                        label="attention weight")


def neighbours(demo, path):
    """Clips at one event of each of four classes (the first of its class in the test matches), and
    the four nearest clips of other matches by the spatial encoder of stage 1."""
    _, model = demo.model(1)
    halves = list(demo.halves.values())
    tokens = demo.tokens(model, halves)
    owner = np.repeat(np.arange(len(halves)), [len(t) for t in tokens])
    place = np.concatenate([np.arange(len(t)) for t in tokens])
    x = torch.cat(tokens)                                                 # (n, D)
    x = F.normalize(x - x.mean(0), dim=1)      # what all tokens share would make all alike
    names = ("Kick-off", "Corner", "Throw-in", "Yellow card")
    with picture(path, 6) as figure:
        grid = figure.subplots(len(names), 5)
        for axes, name in zip(grid, names, strict=True):
            half, second = any_of((
                (demo.halves[match, e.half], e.position_ms // 1000)
                for match, events in demo.events.items() for e in events
                if e.label == demo.classes.index(name) and e.visible), name)
            query = int(np.flatnonzero((owner == halves.index(half)) & (place == second))[0])
            alike = x @ x[query]
            other = np.array([halves[o].match != half.match for o in owner])
            any_of(np.flatnonzero(other), "second match")
            order = [i for i in alike.argsort(descending=True).tolist() if other[i]][:4]
            for panel, i in zip(axes, [query, *order], strict=True):
                image = frames(halves[owner[i]], CLIP_FRAMES * int(place[i]), 2)[1][1]
                panel.imshow(image, interpolation="nearest")
                panel.set(xticks=[], yticks=[])
                for spine in panel.spines.values():
                    spine.set(visible=i == query, color=SPOTTED, lw=4)
                panel.set_xlabel(name if i == query else f"{alike[i]:.2f}", labelpad=3)
        figure.suptitle("a clip, the nearest ones of other matches, and how alike (1: equal)",
                        x=0.01, ha="left", fontsize=LETTERS)


def target(demo, path):
    """Eq. 3-5 for one token: the first corner of a labelled training match around which a whole
    window fits. The rows of the bank with the largest weights, and how the weight spreads."""
    checkpoint, model = demo.model(2)
    args = checkpoint["args"]
    halves = find_halves(demo.data, args["split"])
    features = [bank.open_features(args["features"], half, args["features_name"])
                for half in halves]
    rows = bank.Bank(features, halves, torch.device("cpu"), torch.float32)
    window, k = args["window"], demo.classes.index("Corner")
    labels = demo.labels((MATCHES / "train.txt").read_text().split())
    h, second = any_of((
        (halves.index(half), event.position_ms // 1000)
        for half in halves for event in labels.get(half.match, ())
        if (event.half, event.label) == (half.number, k)
        and window / 2 < event.position_ms // 1000 < half.n_tokens - window / 2),
        "corner amid a half")
    index = int(rows.first_row[h]) + second
    ids = bank.row_ids(rows.rows)
    equal = ids == ids[index]
    s2 = (rows.rows @ rows.rows[index] / args["tau_m"]).masked_fill(equal, -torch.inf).softmax(0)
    w = (args["lam"] * equal / equal.sum() + (1 - args["lam"]) * s2).numpy()              # Eq. 5

    width = rows.rows.shape[1]
    projector = Projector(model.cfg.width, model.cfg.head_width, model.cfg.head_width, width)
    projector.load_state_dict(checkpoint["projector"])
    start = second - window // 2
    with torch.no_grad():
        tokens = demo.tokens(model, [halves[h]])[0]
        z = projector(model.contextualize(tokens[None, start:start + window]))[0]     # (L, D_t)
        z = F.normalize(z[second - start], dim=0)
        s1 = (rows.rows @ z / args["tau"]).softmax(0).numpy()                         # Eq. 3
    order = np.argsort(-w)[:6]
    order = [index, *(i for i in order if i != index)][:6]
    whose = np.searchsorted(rows.first_row, order, side="right") - 1
    ranked = np.argsort(-w, kind="stable")                # the own row, then those most like it
    counts = np.arange(1, len(w) + 1)
    with picture(path, 7.2) as figure:
        top, bottom = figure.subfigures(2, 1, height_ratios=(0.7, 2.2))
        for n, (panel, i, o) in enumerate(zip(top.subplots(1, 6), order, whose, strict=True)):
            image = frames(halves[o], CLIP_FRAMES * int(i - rows.first_row[o]), 2)[1][0]
            panel.imshow(image, interpolation="nearest")
            panel.set(xticks=[], yticks=[])
            panel.set_xlabel(f"w = {w[i]:.3f}", size=LETTERS - 1)
            for spine in panel.spines.values():
                spine.set(visible=n == 0, color=SPOTTED, lw=4)
        top.suptitle("the token's own second, and those most like it to the teacher", x=0.01,
                     ha="left", fontsize=LETTERS)
        axes = bottom.add_subplot()
        axes.fill_between(counts, np.cumsum(w[ranked]), color=CURVE, alpha=0.35, lw=0)
        axes.plot(counts, np.cumsum(w[ranked]), color=CURVE, label="of the soft target w, Eq. 4-5")
        axes.plot(counts, np.cumsum(s1[ranked]), color=SPOTTED,
                  label="of the student's answer s¹, Eq. 3, after training")
        for n in (1, 10, 100, 1000):
            share = w[ranked[:n]].sum()
            axes.annotate(f"{share:.2f}", (n, share), (0, 8), textcoords="offset points",
                          ha="left" if n == 1 else "right", size=LETTERS - 2)
        axes.set(xscale="log", xlim=(0.85, len(w)), ylim=(0, 1.12), ylabel="share of the whole",
                 xlabel=f"how many of the bank's {len(w):,} rows, those most like it first")
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda n, _: f"{n:,.0f}"))
        axes.legend(loc=(0.02, 0.12))


# ------------------------------------------------------------------ drawn
def flow(demo, path):
    """The way of the data through the three stages, and to the actions: no numbers of a run."""
    same, own = "#dbe6f1", "#f4e3de"
    with picture(path, 13) as figure:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, 9), ylim=(0, 13))
        axes.axis("off")

        def box(x, y, text, width=2.75, height=0.8, color="white"):
            axes.add_patch(matplotlib.patches.FancyBboxPatch(
                (x, y), width, height, "round,pad=0,rounding_size=0.08", fc=color, ec=FAINT, lw=1))
            axes.text(x + width / 2, y + height / 2, text, ha="center", va="center",
                      size=LETTERS - 1, linespacing=1.25)

        def arrow(x0, y0, x1, y1, color="#555555"):
            axes.annotate("", (x1, y1), (x0, y0), arrowprops={
                "arrowstyle": "-|>", "color": color, "lw": 1.6, "shrinkA": 0, "shrinkB": 0,
                "mutation_scale": 16})

        columns = [(0.15, "1: contrast", [
            ("clips\n(B, 2, 3, S, S)", "white"), ("two views", own), ("spatial encoder fₛ", same),
            ("token\n(B, D)", "white"), None, None, ("projector, predictor", own),
            ("z (B, 256)", "white"), ("Eq. 1-2 against\nqueue Q (M, 256)", own)]),
            (3.125, "2: distillation", [
                ("windows\n(B, T, 3, S, S)", "white"), ("one view", own),
                ("spatial encoder fₛ", same), ("tokens (B, L, D)\na quarter masked", "white"),
                ("temporal\ntransformer tₛ", same), ("tokens\n(B, L, D)", "white"),
                ("projector", own), ("z (B, L, Dₜ)", "white"),
                ("Eq. 3-6 against\nbank P (M, Dₜ)", own)]),
            (6.1, "3: spotting", [
                ("windows\n(B, T, 3, S, S)", "white"), ("one view, mixup", own),
                ("spatial encoder fₛ", same), ("tokens (B, L, D)\na quarter masked", "white"),
                ("temporal\ntransformer tₛ", same), ("tokens\n(B, L, D)", "white"),
                ("linear head", own), ("logits (B, L, K)", "white"),
                ("Eq. 7 against\nlabels (B, L, K)", own)])]
        for x, title, boxes in columns:
            axes.text(x + 1.375, 12.62, title, ha="center", weight="bold", size=LETTERS + 1)
            last = None
            for row, content in enumerate(boxes):
                y = 11.65 - 1.0 * row
                if content:
                    box(x, y, *content[:1], color=content[1])
                    if last is not None:
                        arrow(x + 1.375, last, x + 1.375, y + 0.8)
                    last = y
        for y in (10.05, 8.05):
            for x in (2.9, 5.875):
                if y > 9 or x > 3:
                    arrow(x, y, x + 0.225, y, SPOTTED)
        axes.text(1.65, 7.55, "beside it a\nslow copy of fₛ:\nits keys k fill\nthe queue Q",
                  va="center", color="#555555", size=LETTERS - 2, linespacing=1.25)
        axes.text(4.5, 3.3, "red: weights that the next stage starts from", ha="center",
                  color=SPOTTED, size=LETTERS - 2)
        axes.axhline(3.12, 0.02, 0.98, color=FAINT, lw=0.8)
        axes.text(0.15, 2.72, "spotting a match", weight="bold", size=LETTERS + 1)
        for x, text, color in ((0.15, "a half: each clip\nonce through fₛ", same),
                               (3.125, "tokens\n(n_tokens, D)", "white"),
                               (6.1, "windows (N, L, D)\nthrough tₛ and head", same)):
            box(x, 1.65, text, color=color)
        for x, text, color in ((6.1, "scores\n(N, L, K)", "white"),
                               (3.125, "merged\n(n_tokens, K)", "white"),
                               (0.15, "soft NMS: actions\n(half, class, s, score)", own)):
            box(x, 0.3, text, color=color)
        for x in (2.9, 5.875):
            arrow(x, 2.05, x + 0.225, 2.05)
            arrow(x + 0.225, 0.7, x, 0.7)
        arrow(7.475, 1.65, 7.475, 1.1)


def shrink(path):
    """64 shades of each colour are enough, and fewer bytes: what codecs left in flat areas goes. If
    a picture is still too large, 32."""
    with Image.open(path) as image:
        whole = image.convert("RGB")
    for step in (4, 8):
        small = whole.point(lambda shade, step=step: min(255, (shade + step // 2) // step * step))
        write_file(path, lambda file, small=small: small.save(file, "png", optimize=True))
        if path.stat().st_size < LARGEST:
            return



PICTURES = {"flow": flow, "filmstrip": filmstrip, "scores": scores, "curves": curves, "nms": nms,
            "metric": metric, "attention": attention, "neighbours": neighbours, "target": target}


# ------------------------------------------------------------------ the command
def parse_args(argv=None):
    p = run.Parser(__doc__)
    p.add_argument("--run", default="runs/demo-0", help="folder that make demo wrote")
    p.add_argument("--data", default="data/demo", help="the frames that it was trained on")
    p.add_argument("--out", default=str(ROOT / "docs"), help="folder for the pictures")
    p.add_argument("--only", nargs="+", choices=PICTURES, help="these pictures; default: all")
    return p.parse_args(argv)


def main(args):
    demo = Demo(args.run, args.data)
    for name in args.only or PICTURES:
        path = Path(args.out, f"{name}.png")
        PICTURES[name](demo, path)
        shrink(path)
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path}: {path.stat().st_size:,} bytes; a page wants under {LARGEST}")
        print(f"figures: {path}")


if __name__ == "__main__":
    run.run_as_command(main, parse_args())
