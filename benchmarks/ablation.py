"""
The paper's comparisons at a size for two CPU cores: the 3-D matches of matches/, vivit_micro, short
runs.

    python benchmarks/ablation.py table5          # one table, for docs/ablation.md
    python benchmarks/ablation.py all             # every table
    python benchmarks/ablation.py search          # those that settings are chosen by
    make table5, make ablation, make search       # the same

60 matches to pretrain on, 12 of them labelled. A table judges its networks, of seeds 10 to 14, on
the 12 of test.txt, then on 52 others: the 4 of valid.txt, too few alone, and the 48 of pretrain.txt
whose labels teach nothing. A search has the 52 only, and seeds 100 and 101, so that nothing is
chosen on the 12. Pretraining sees the pictures of the 48, which favours it: a search compares
settings of an arm, not arms.

A line of a table is a chain of the stages' own commands. Each runs once (benchmarks/runner.py), so
that a table that was stopped goes on.
"""
import collections
import functools
import json
import os
import re

import numpy as np

from runner import DATA, FRAMES, MATCHES, ROOT, Run, Runner, Spot, metrics  # ROOT: in sys.path
from comedian import check, command, draw, evaluate, report, soccernet, write_file, write_text

CLASSES = soccernet.read_classes(ROOT / MATCHES / "classes.txt")
LABELS = f"--labels {MATCHES} --classes {MATCHES}/classes.txt"
FIRST_SEED, FIRST_OF_SEARCH = 10, 100
SEARCH = "search-rates", "search-steps", "search-changes", "search-window"
N_SEEDS = {"table5": 5, "table5-32": 5, "contrast": 5}      # a search has 2, the others have 3
ALSO_TO = {                           # other lines to take the differences of those below them to
    "table3": ["4 s, scratch"], "table5-32": ["stage 1", "stage 2"],
    "compute": [f"stages 1 and 2, {n} steps" for n in (50, 150, 1600)],
    "table5": ["scratch, 4 s", "scratch, 4 s, 2000 steps", "stage 1", "stage 2", "stages 1 and 2"],
    "table7": ["none, stage 1 alone", "an untrained encoder", "trained on the labels"]}
COLOR = "--color 0.2 0.2 0.1 0"
FEW = (6, 3)                          # labelled matches, instead of 12
JUDGES, UNSEEN = DATA / "judges.txt", MATCHES / "test.txt"     # of the search, and of the tables
OTHERS = 201, 202                     # seeds of an ensemble: no table has these
# The settings of every table but for what its lines change; Table 5 and the demo have shorter
# windows and 600 steps of stage 1. docs/ablation.md has where they were chosen. Fine-tuning has
# equal steps in every arm.
ONE = "--steps 1200 --head-norm batch"                     # stage 1
TWO = "--steps 350"                                        # stage 2
FINE = "--head-epochs 0 --steps 450 --lr 0.064"            # stage 3 after stage 2
ALONE = "--head-epochs 0 --steps 450 --lr 0.032"           # 0.064 is too fast from random weights
ALL_HALVES = "--halves-per-batch 0"
QUEUE = "--halves-per-batch 0 --negatives queue --queue 2048"


# ------------------------------------------------------------------ the stages at this size
def stage1(flags="", name="1"):
    return Run(name, f"stage1_spatial.py --split {MATCHES}/pretrain.txt --model vivit_micro "
               f"--batch 128 --lr 2e-3 --momentum 0.95 --negatives batch --halves-per-batch 4 "
               f"--crop-scale 0.6 1 {COLOR} {flags}".strip())


def stage2(parent, teachers, flags="", name="2"):
    return Run(name, f"stage2_distill.py --split {MATCHES}/pretrain.txt --model vivit_micro "
               f"--window 32 --windows-per-half 8 --batch 8 --lr 0.064 {COLOR} {flags}".strip(),
               parent, teachers)


def stage3(parent, flags="", name="3"):
    return Run(name, f"stage3_finetune.py --split {MATCHES}/train.txt {LABELS} --model vivit_micro "
               f"--window 32 --batch 8 --windows-per-half 8 --prior 0.015 --mask 0 {COLOR} "
               f"{flags}".strip(), parent)


def prepare(runner):
    """The frames, lists of matches for --split, and the engine's state as features
    (matches/README.md)."""
    runner.call(f"-m comedian.prepare frames --videos {MATCHES} --out {FRAMES} --size 48 48")
    labelled = (MATCHES / "train.txt").read_text().split()
    seen = (MATCHES / "pretrain.txt").read_text().split()
    judges = [*(MATCHES / "valid.txt").read_text().split(), *sorted({*seen} - {*labelled})]
    for path, names in ((JUDGES, judges), *((DATA / f"few{n}.txt", labelled[:n]) for n in FEW)):
        write_text(path, "".join(f"{name}\n" for name in names))
    stored = np.load(MATCHES / "state.npz")
    for name in set(stored.files) - {"step"}:
        match, half = name.split("_")
        state = stored[name].cumsum(1).T * stored["step"]                        # (pictures, 96)
        write_file(FRAMES / match / f"{half}_state.npy", functools.partial(      # others read it
            np.save, arr=np.ascontiguousarray(state, np.float32)))


@functools.cache                      # a table takes all differences to its first line
def resampled(path, split, n_resamples):
    """Of the network whose metrics.json is `path`: the t-AmAP of resamples of the matches that the
    file `split` lists, (n_resamples,)."""
    truth = {match: soccernet.read_labels(labels, CLASSES) for match, labels in
             soccernet.find_labels(MATCHES, split.read_text().split()).items()}
    found = {match: soccernet.read_predictions(path.parent / match / soccernet.PREDICTIONS,
                                               CLASSES) for match in truth}
    return np.array([run["tight"]["a_mAP"] for run in evaluate.resample(
        truth, found, CLASSES, n_resamples)])


def over_matches(paths, others, split, n_resamples=1000):
    """The 95 % interval over the matches, in points, of the t-AmAP of the networks at `paths`, a
    metrics.json a seed, or of how much more it is than that of those at `others`: the mean over the
    seeds, on the same resamples of the matches that the file `split` lists."""
    more = np.mean([resampled(path, split, n_resamples) for path in paths], 0)
    if others:
        more = more - np.mean([resampled(other, split, n_resamples) for other in others], 0)
    return 100 * np.percentile(more, evaluate.percentiles(len(split.read_text().split())))


# ------------------------------------------------------------------ the tables
def slug(stage, flags):
    """A folder's name from flags: "--steps 75 --lr 0.03" -> "1-steps75-lr0.03"."""
    return stage + flags.replace(" --", "-").replace("--", "-").replace(" ", "")


def commits(folders):
    """Those that trained, as their run.json has it."""
    found = {part["commit"] or "unknown" for folder in folders if (folder / "run.json").exists()
             for part in json.loads((folder / "run.json").read_text())}
    return ", ".join(sorted(commit[:7] + commit[40:] for commit in found)) or "unknown"


def tables():
    """{table: (title, {line: Spot or Run})}; differences are taken to a table's first line, or to
    the first of those that begin alike, "5 matches: ". Flags of a line come after those that all
    have, and argparse takes the last of each."""
    first, teacher = stage1(ONE, "stage1"), stage3(None, ALONE, "teacher")

    def both(more="", fine="", by=(teacher,), name="", label=None, first=first):
        """The pipeline with flags changed in stage 2 or 3."""
        return stage3(stage2(first, by, f"{TWO} {more}", slug(f"stage2{name}", more)),
                      f"{FINE} {fine}", label or slug("stage3", fine))

    def scratch(flags):
        return stage3(None, f"{ALONE} {flags}", slug("scratch", flags))

    def only_stage1(more="", fine="", way=ALONE, name="stage3-lr0.032"):
        return stage3(stage1(f"{ONE} {more}", slug("stage1", more)), f"{way} {fine}",
                      slug(name, fine))

    def steps(more="", flags=""):
        """The lines of Table 5 that are pretrained: flags of stage 1, and of the others."""
        alone = only_stage1(more, flags)
        return {"stage 1": alone, "stage 2": both(flags, flags, first=None),
                "stages 1 and 2": both(flags, flags, first=alone.parent)}

    def window(s):
        """As many clips in a batch and in an epoch as with 32 s."""
        return f"--window {s} --batch {256 // s} --windows-per-half {256 // s}"

    whole, unlabelled = both(), functools.partial(both, by=(first,), name="-own")
    short, brief = scratch(window(4)), only_stage1("--steps 600").parent
    others = [both(f"--seed {k}", f"--seed {k}") for k in OTHERS]
    return {
        "table5": ("Table 5: which steps; windows of 4 s", {
            "scratch, 32 s": teacher, "scratch, 4 s": short,
            "scratch, 4 s, 2000 steps": scratch(f"{window(4)} --steps 2000"),
            **steps("--steps 600", window(4)),
            "the same, 1200 steps of stage 1": both(window(4), window(4)),
            "stages 1 and 2, 2000 steps": both(window(4), f"{window(4)} --steps 2000",
                                               first=brief)}),
        "table5-32": ("Table 5: which steps; windows of 32 s", {
            "scratch": teacher, **steps()}),
        "compute": ("Steps of fine-tuning; 2700 take as long as the pipeline with 450", {
            "stages 1 and 2, 450 steps": whole,
            **{f"stages 1 and 2, {n} steps": both(fine=f"--steps {n}") for n in (50, 150, 1600)},
            "scratch, 450 steps": teacher,
            **{f"scratch, {n} steps": scratch(f"--steps {n}") for n in (50, 150, 1600, 2700)}}),
        "labels": ("Fewer labelled matches; stage 1's encoder teaches, which saw no label", {
            "12 matches: scratch": teacher, "12 matches: stages 1 and 2": unlabelled(),
            **{f"{n} matches: {name}": run for n in FEW for name, run in (
                ("scratch", stage3(None, f"{ALONE} --split {DATA}/few{n}.txt",
                                   f"scratch-few{n}")),
                ("stages 1 and 2", unlabelled(fine=f"--split {DATA}/few{n}.txt",
                                              label=f"stage3-few{n}")))}}),
        "table4": ("Table 4: share of tokens masked in stage 2 / in stage 3", {
            f"{a} / {b}": both(f"--mask {a}" if a != 0.25 else "", f"--mask {b}" if b else "")
            for a, b in ((0, 0), (0, 0.5), (0.25, 0), (0.5, 0), (0.75, 0), (0.25, 0.25),
                         (0.5, 0.5))}),
        "table3": ("Table 3: window", {
            "32 s": whole, "32 s, scratch": teacher, "4 s, scratch": short,
            **{f"{s} s": both(window(s), window(s)) for s in (4, 16, 64)}}),
        "table2": ("Table 2: temporal blocks", {
            "2": whole, "1": both("--temporal-depth 1"), "4": both("--temporal-depth 4")}),
        "table7": ("Table 7: teachers", {
            "none, scratch": teacher, "none, stage 1 alone": only_stage1(),
            "an untrained encoder": both(name="-untrained", by=(stage1(
                f"{ONE} --steps 1 --lr 0", "untrained"),)),
            "stage 1's encoder": unlabelled(),
            "trained on the labels": whole,
            "three of these, side by side": both(name="-three", by=(teacher,) * 3),
            "the engine's state": both(name="-state", by="state")}),
        "targets": ("Eq. 4 to 6: the target of stage 2", {
            "complete bank": whole, "queue": both("--bank queue"),
            "one-hot, lambda 1": both("--lam 1")}),
        "contrast": ("Stage 1: negatives and batches", {
            "none, scratch": teacher,
            "batch, four halves": only_stage1(),
            "batch, all halves": only_stage1(ALL_HALVES),
            "queue, all halves": only_stage1(QUEUE),
            "batch, all halves, stage 2": both(first=only_stage1(ALL_HALVES).parent)}),
        "table8": ("Table 8: inference", {
            "soft, 10 s": Spot([whole]), "local, 3 s": Spot([whole], "--nms local --nms-window 3"),
            "greedy, 3 s": Spot([whole], "--nms greedy --nms-window 3"),
            "mean of windows": Spot([whole], "--merge mean"),
            "nothing ignored": Spot([whole], "--ignore 0")}),
        "table12": ("Table 12: ignored at both ends of a window of 32 s", {
            f"soft, {s} s": Spot([whole], f"--ignore {s}") for s in (6, 0, 2, 4, 8)}),
        "figure5": ("Figure 5: kind and width of NMS", {
            f"{nms}, {s} s": Spot([whole], f"--nms {nms} --nms-window {s}")
            for nms in ("soft", "local", "greedy") for s in (10, 2, 3, 5, 7, 15, 20, 30)}),
        "table9": ("Table 9: networks averaged", {
            "one": whole, "another": others[0], "a third": others[1],
            "the three averaged": Spot([whole, *others])}),
        "search-steps": ("How long stage 1 learns; no stage 2", {
            "scratch": teacher, "no norm, 1200 steps": only_stage1("--head-norm none"),
            "BatchNorm in the heads, 1200 steps": only_stage1(),
            **{f"BatchNorm in the heads, {n} steps": only_stage1(f"--steps {n}")
               for n in (300, 600, 6000)}}),
        "search-changes": ("Stage 1, one thing changed; windows of 4 s, no stage 2", {
            **{f"{n} steps": only_stage1(f"--steps {n}", window(4)) for n in (600, 300, 6000)},
            "1200 steps": only_stage1("", window(4)),
            **{more: only_stage1(f"--steps 600 {more}", window(4)) for more in (
                "--lr 1e-3", "--lr 4e-3", "--momentum 0.99", "--batch 256 --steps 300",
                "--crop-scale 0.3 1", ALL_HALVES, QUEUE)}}),
        "search-window": ("Windows and rates; both: stages 1 and 2", {
            "scratch: 32 s": teacher, "scratch: 4 s": short,
            **{f"scratch: 4 s, rate {lr}": scratch(f"{window(4)} --lr {lr}")
               for lr in (0.016, 0.064)},
            "stage 1: 32 s": only_stage1(), "stage 1: 4 s": only_stage1("", window(4)),
            "both: 32 s": whole,
            **{f"both: {s} s": both(window(s), window(s)) for s in (2, 4, 8)},
            "both: 4 s, teacher too": both(window(4), window(4), (short,), "-short"),
            "both: 4 s, teacher too, rate 0.032": both(
                window(4), f"{window(4)} --lr 0.032", (short,), "-short"),
            "both: 4 s, 600 steps of stage 1": both(window(4), window(4), first=brief)}),
        "search-rates": ("Fine-tuning: rates", {
            **{f"{arm}: {lr}": stage3(start, way, name)
               for arm, start in (("scratch", None), ("stage 1", first),
                                  ("stage 2", both(first=None).parent), ("both", whole.parent))
               for lr, way, name in ((0.032, ALONE, "stage3-lr0.032"), (0.064, FINE, "stage3"))},
            "scratch: 0.032": teacher,                     # the same; other tables train it, too
            **{f"stage 1: two phases, {lr}": only_stage1(
                "", "", f"--head-phase temporal --head-steps 300 --head-lr {lr} --steps 150 "
                f"--lr {lr / 2}", f"stage3-phases-{lr}") for lr in (0.032, 0.064)}}),
    }


def score_table(runner, name, n_seeds, split):
    """Scores a table on the matches that the file `split` lists; prints it, keeps it under
    benchmarks/ and draws it under docs/."""
    title, lines = tables()[name]
    more = split is JUDGES and name not in SEARCH
    start = FIRST_OF_SEARCH if name in SEARCH else FIRST_SEED
    seeds = range(start, start + (n_seeds or N_SEEDS.get(name, 2 if name in SEARCH else 3)))
    runner.seconds.clear()
    runner.resumed.clear()
    found = metrics(runner, lines, seeds, split)
    title, file = f"{title}{', on 52 other matches' * more}", f"ablation-{name}{'-more' * more}"
    text = [f"{title}; t-AmAP in %, seeds {', '.join(map(str, seeds))}; python "
            f"benchmarks/ablation.py {name} --seeds {len(seeds)}; commit "
            f"{commits(runner.seconds)}; {check.cpu()}; its runs of one thread took "
            f"{'more than ' * bool(runner.resumed)}{sum(runner.seconds.values()) / 60:.0f} min, "
            "those that other tables share among them", ""]
    scores = {line: [report.read_metrics(path)["t-AmAP"] for path in paths]
              for line, paths in found.items()}
    by_class, rows, first = "mean of each class", [], {}
    width = max(map(len, [by_class, *scores]))
    for line, values in scores.items():
        base = first.setdefault(line.rpartition(": ")[0], line)
        mean, deviation, _ = report.spread(values)
        rows.append((line, mean, deviation, values))
        text.append(f"{line:{width}}  {mean:5.1f} +- {deviation:.1f}  "
                    f"({', '.join(f'{value:.1f}' for value in values)})")
        for other in [base, *ALSO_TO.get(name, [])]:
            if other in [above for above, *_ in rows[:-1]]:
                gain, _, half = report.spread(np.subtract(values, scores[other]))
                low, high = over_matches(found[line], found[other], split)
                text[-1] += (f"  {gain:+.1f} to {other!r}, 95 % over seeds {gain - half:+.1f} to "
                             f"{gain + half:+.1f}, over matches {low:+.1f} to {high:+.1f}")
    text += ["", f"{by_class:{width}}  " + "  ".join(CLASSES)]
    for line, paths in found.items():
        means = 100 * np.mean([json.loads(path.read_text())["tight"]["a_mAP_per_class"]
                               for path in paths], axis=0)
        text.append(f"{line:{width}}  " + "  ".join(
            f"{mean:{len(name)}.1f}" for name, mean in zip(CLASSES, means, strict=True)))
    print(*text, sep="\n")
    write_text(ROOT / f"benchmarks/{file}.txt", "\n".join(text) + "\n")
    if not more:
        draw_dots(ROOT / f"docs/{file}.png", title, rows)


def draw_dots(path, title, rows):
    """A line per method: every seed a dot, the mean a bar. Where all names but the first are a
    method and a number, "soft, 10 s": a curve per method and seed."""
    names = [re.fullmatch(r"(.*), ([\d.]+) (s|steps)", line) for line, *_ in rows]
    if all(names[1:]):
        return draw_curves(path, title, names, rows)
    with draw.picture(path, 8, 0.9 + 0.42 * len(rows)) as figure:
        axes = figure.subplots()
        for y, (_, mean, deviation, values) in enumerate(rows):
            axes.plot([mean, mean], [y - 0.3, y + 0.3], color=draw.SPOTTED, lw=2.5)
            axes.plot(values, [y] * len(values), "o", color=draw.CURVE, ms=6, alpha=0.8)
            axes.annotate(f"{mean:.1f} ± {deviation:.1f}", (1.01, y), va="center",
                          xycoords=("axes fraction", "data"))
        axes.set_yticks(range(len(rows)), [line for line, *_ in rows])
        axes.invert_yaxis()
        axes.set(xlabel="t-AmAP (%); a dot per seed, the line is their mean", title=title)
        axes.grid(axis="x", alpha=0.25)


def draw_curves(path, title, names, rows):
    """`names`: of each row a match, (method, number, unit), or None: a line at the row's mean."""
    colors = draw.SPOTTED, draw.CURVE, draw.TRUTH          # at most three curves
    curves, unit = collections.defaultdict(list), names[-1][3]
    with draw.picture(path, 8, 4) as figure:
        axes = figure.subplots()
        for name, (line, mean, _, values) in zip(names, rows, strict=True):
            if name:
                curves[name[1]].append((float(name[2]), mean, values))
            else:
                axes.axhline(mean, color="0.5", ls="--", label=line)
        for color, (method, points) in zip(colors[:len(curves)], curves.items(), strict=True):
            x, means, values = zip(*sorted(points), strict=True)
            axes.plot(x, means, "o-", color=color, ms=5, lw=2.5, label=method)
            axes.plot(x, values, "o-", color=color, ms=3, lw=0.7, alpha=0.45)      # one per seed
        if unit == "steps":                                # each about three times the last
            axes.set_xscale("log")
            axes.set_xticks(sorted({x for points in curves.values() for x, *_ in points}))
            axes.minorticks_off()
            axes.xaxis.set_major_formatter("{x:g}")
        axes.set(xlabel="seconds" if unit == "s" else unit, ylabel="t-AmAP (%); thin: each seed",
                 title=title)
        axes.legend()
        axes.grid(alpha=0.25)


def parse_args(argv=None):
    p = command.Parser(__doc__)
    p.add_argument("what", choices=["search", "all", *tables()])
    p.add_argument("--jobs", type=command.number(1, 1024), default=os.cpu_count(),
                   help="runs side by side")
    p.add_argument("--seeds", type=command.number(2, 90), help="default: 5 for table5, table5-32 "
                   "and contrast, 2 for a search, 3 for the others")
    return p.parse_args(argv)


def main(args):
    os.chdir(ROOT)
    runner = Runner(args.jobs)
    names = {"search": SEARCH, "all": [name for name in tables() if name not in SEARCH]}
    with command.stoppable(lambda: "stopped; the same command continues from here"):
        try:
            prepare(runner)
            for name in names.get(args.what, [args.what]):
                for split in [UNSEEN] * (name not in SEARCH) + [JUDGES]:
                    score_table(runner, name, args.seeds, split)
        finally:
            runner.stop()                                  # of a run that failed, do not go on


if __name__ == "__main__":
    command.run_as_command(main, parse_args())
