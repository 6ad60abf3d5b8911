r"""
Pictures of a run: how the losses fell, and what was spotted in a half beside what happened there;
and the mean of several runs.

    python -m comedian.report curves runs/demo-0/stage1 runs/demo-0/stage2 runs/demo-0/stage3 \
                     --out curves.png
    python -m comedian.report timeline runs/demo-0/test --labels matches --out timeline.png
    python -m comedian.report page runs/demo-0/test --labels matches
    python -m comedian.report page --video match.mp4 --classes classes.txt       # to label it
    python -m comedian.report export runs/demo-0/test --format csv
    python -m comedian.report mean runs/demo-*/test/metrics.json \
                     --against runs/demo-*/scratch/metrics.json
    python -m comedian.report verify runs/demo-0/test/metrics.json

Reads   curves: the log.txt that every stage writes to its folder
        timeline: scores.npz and results_spotting.json of one match, as infer.py wrote them, and
        its Labels-v2.json if there are --labels
        page: the same of every match, and its video or frames; or videos alone, to label them;
        page.py says more
        export: results_spotting.json, of any program; export.py says more
        mean: what infer.py or comedian.evaluate wrote with --json, a file per seed
        verify: the same, and the predictions and labels that it was made of
Writes  curves, timeline: one picture, 1200 pixels wide; page, export: files beside the results;
        mean, verify: a table, a verdict to the screen

Nothing is scored here but by comedian.evaluate.
"""
import contextlib
import difflib
import io
import math
import tempfile
from pathlib import Path

import numpy as np

from comedian import (
    DataError, command, draw, evaluate, export, formats, soccernet, write_text)


# ------------------------------------------------------------------ timeline
def find_match(root, name=None):
    """The match below `root` that is called so, or the only one whose name has `name` in it.

    name None: the first match. Raises DataError, with names that are near, if none or several fit.
    """
    if not Path(root).is_dir():
        raise DataError(f"{root}: no such folder; give timeline the --out folder of infer.py, "
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


# ------------------------------------------------------------------ the page, exports
def labels_of(args, matches):
    """{match: labels} of those of these matches that --labels has; says which names of a table are
    of no results below args.scores, and which labels are beyond what was scored. DataError if none
    is left."""
    every = soccernet.find_files(args.scores, soccernet.SCORES)
    here = [*every, *[Path(args.scores).resolve().name] * ("." in every)]      # the match's own
    found = soccernet.match_names(soccernet.find_labels(args.labels, encoding=args.encoding), here)
    others = {name: labels for name, labels in found.items()
              if name not in here and isinstance(labels, soccernet.Listed)}
    soccernet.warn_unmatched(others, here, found)
    if here[-1] in found:
        found.setdefault(".", found[here[-1]])
    found = {match: found[match] for match in matches if match in found}
    if not found:
        raise DataError(f"{args.labels}: no {soccernet.LABELS} for {matches[0]!r}, nor a line of a "
                        "table; leave --labels out to draw without the truth")
    classes = tuple(dict.fromkeys(name for match in found for name in soccernet.read_scores(
        Path(args.scores, match)).classes))
    _, told = soccernet.unreachable(
        {match: soccernet.read_labels(labels, classes) for match, labels in found.items()},
        evaluate.spans_of({match: every[match] for match in found}), classes, args.labels)
    if told:
        print(f"warning: {told}")
    return found


def pages(args):
    """The page of every match below args.scores, or of args.match; or of the videos to label."""
    from comedian import page         # here: it needs OpenCV, and --help should not wait for that
    if args.video:
        for path in page.to_label(args.video, args.classes, args.labels, args.encoding,
                                  args.out or "runs/page"):
            print(f"report: {path}")
        return
    matches = ([find_match(args.scores, args.match)] if args.match else
               list(soccernet.find_files(args.scores, soccernet.SCORES)))
    labels = labels_of(args, matches) if args.labels else {}
    videos = page.videos_of(args.videos) if args.videos else {}
    for match in matches:
        called = Path(args.scores).resolve().name if match == "." else match
        if args.videos and called not in videos:
            print(f"note: {called}: no video of it below {args.videos}; its page keeps its old "
                  "source")
        path = page.from_results(Path(args.scores, match), match, labels.get(match),
                                 videos=videos.get(called))
        print(f"report: {path}")


def exports(args):
    """--format of every match below args.results, beside them or below --out."""
    for match, path in soccernet.find_files(args.results, soccernet.PREDICTIONS).items():
        called = Path(args.results).resolve().name if match == "." else match
        actions, classes, about = export.actions_of(path, args.threshold)
        if args.format == "csv":
            export.check_table(path, called, actions)
        texts = export.texts(called, actions, classes, about, args.format,
                             round(1000 * args.lead), round(1000 * args.lag))
        folder = Path(args.out or args.results, match)
        none = f"no action of {args.threshold:g} or more"
        for half in () if args.format in export.OF_MATCH else (1, 2):          # of an older export
            path = folder / f"actions_{half}.{export.ENDING[args.format]}"
            if path.name not in texts and path.is_file():
                export.remove(path, f"{none} is in that half")
        for name, text in texts.items():
            write_text(folder / name, text)
            print(f"report: {folder / name}")
        if not actions:
            print(f"report: {called}: {none}" + ("" if texts else "; nothing written"))


# ------------------------------------------------------------------ several seeds
NUMBERS = {"t-AmAP": "tight", "+-0.5 s": "at1", "+-1 s": "at2", "+-1.5 s": "at3", "+-2 s": "at4",
           "+-2.5 s": "at5", "loose": "loose"}
NUMBERS_FILE = "numbers that --json wrote"


def spread(values):
    """(mean, standard deviation, half the 95 % confidence interval of the mean) of n >= 2 values.

    The deviation is that of a sample (n - 1); the interval is Student's, which takes seeds as
    independent and normal. Proved by test_spread_by_hand."""
    n, mean = len(values), float(np.mean(values))
    deviation = float(np.std(values, ddof=1))
    return mean, deviation, evaluate.student(n) * deviation / math.sqrt(n)


def read_metrics(path):
    """{"t-AmAP": %, ...} of NUMBERS, from a file that --json wrote."""
    content = formats.read_json(path, NUMBERS_FILE)
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


# ------------------------------------------------------------------ are these the numbers?
def verify(args):
    """Scores again what the numbers of --json were made of, and compares. DataError if others come
    out; files that changed without that are told."""
    read_metrics(args.metrics)                             # a DataError for what are no numbers
    content = formats.read_json(args.metrics, NUMBERS_FILE)
    made = content.pop("receipt", None)
    try:
        predictions, labels = (str(given or made[name]) for name, given in (
            ("predictions", args.predictions), ("labels", args.labels)))
        sums = {str(match): (str(a), str(b)) for match, (a, b) in made["sha256"].items()}
        networks = {str(path): str(known) for path, known in made["checkpoints"].items()}
        only, with_chance = bool(made["only_predicted"]), bool(made["chance"])
        classes, encoding = tuple(map(str, made["classes"])), made["encoding"]
        how = {name: made["how"][name] for name in
               ("framerate", "at_frames", "fps", "n_resamples", "seed", "against")}
        "".encode(encoding or "utf-8")
    except (AttributeError, LookupError, TypeError, ValueError):
        raise DataError(f"{args.metrics}: has no receipt of what it was made of; score again with "
                        "--json") from None
    for name, path in (("predictions", predictions), ("labels", labels)):
        if not Path(path).exists():
            raise DataError(f"{args.metrics}: its {name} {path}: no such folder or file from here; "
                            f"go to the folder of the run, or give --{name}")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        found = soccernet.match_names(soccernet.find_labels(labels, encoding=encoding), sums)
        evaluate.score_files(predictions, labels, classes, list(sums), only, with_chance,
                             f"{folder}/again.json", encoding,
                             {match: found[match] for match in sums if match in found}, **how)
        again = formats.read_json(f"{folder}/again.json", NUMBERS_FILE)
    now, changed = again.pop("receipt")["sha256"], []
    for match, (of_predictions, of_labels) in sums.items():
        new = now.get(match, ("", ""))
        changed += [f"predictions of {match}"] * (new[0] != of_predictions)
        changed += [f"labels of {match}"] * (new[1] != of_labels)
    for path, known in networks.items():
        if not formats.weights_file(path).is_file():
            print(f"verify: {path}: not here, so not compared")
        elif formats.sha256(path) != known:
            changed.append(f"the checkpoint {path}")
    said = (f"changed since: {', '.join(changed[:3])}"
            + f" and {len(changed) - 3} more" * (len(changed) > 3) if changed else
            "no file has changed")
    differ = [f"{name} {100 * was['a_mAP']:.4f} was, {100 * again[name]['a_mAP']:.4f} is"
              for name, was in content.items() if name in evaluate.METRICS and again[name] != was]
    if differ or again != content:
        raise DataError(f"{args.metrics}: the numbers differ ({'; '.join(differ)[:200]}); "
                        f"{said}; score again with --json")
    print(f"verify: {args.metrics}: the same numbers, all of them; {len(sums)} matches, {said}")


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
    timeline.add_argument("--encoding", type=command.text_encoding, help=command.ENCODING_HELP)
    timeline.add_argument("--match", help="its name or a part of it; none: the first match")
    timeline.add_argument("--half", type=int, choices=(1, 2), default=1, help="of the match")
    timeline.add_argument("--threshold", type=command.number(0.0, 1.0), default=0.2,
                          help="lowest confidence of a spotted action that is shown")
    timeline.add_argument("--out", default="timeline.png", help="the picture")
    page = commands.add_parser("page", help="a page per match: its video, actions and scores")
    page.add_argument("scores", nargs="?", help="folder that infer.py wrote, its --out")
    page.add_argument("--video", nargs="+", metavar="FILE", help="instead of results: a video, the "
                      "halves of a match, or folders of matches, to label on the page")
    page.add_argument("--classes", metavar="FILE", help="for --video: the names to label, one per "
                      "line; none: those of the labels, or SoccerNet's 17")
    page.add_argument("--out", help="for --video: where the pages go; default: runs/page")
    page.add_argument("--videos", metavar="ROOT", help="results of frames: show the videos of the "
                      "same names below this folder")
    page.add_argument("--labels", help="root of the labels, or a labels.csv; none: no truth")
    page.add_argument("--encoding", type=command.text_encoding, help=command.ENCODING_HELP)
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
    same = commands.add_parser("verify", help="do predictions and labels still give these numbers?")
    same.add_argument("metrics", help="what --json wrote")
    same.add_argument("--predictions", help="where they lie now; default: as the file says")
    same.add_argument("--labels", help="the same")
    args = parser.parse_args(argv)
    if args.picture == "page" and bool(args.scores) == bool(args.video):
        page.error("give the folder that infer.py wrote, or --video to label one without results")
    if args.picture == "page":
        for name in ("classes", "out") if args.scores else ("videos", "match"):
            if getattr(args, name):
                page.error(f"--{name} is for {'--video' if args.scores else 'results'}")
    return args


def main(args):
    other = {"page": pages, "export": exports, "mean": means, "verify": verify}
    if args.picture in other:
        return other[args.picture](args)
    if args.picture == "curves":
        draw.curves(args.runs, args.out, args.together)
    else:
        match = find_match(args.scores, args.match)
        from comedian import page
        folder = Path(args.scores) / match
        *scores, classes = page.read_half(folder, args.half)
        spotted, *_ = export.read_results(folder / soccernet.PREDICTIONS, classes)
        events = None
        if args.labels:
            events = soccernet.read_labels(labels_of(args, [match])[match], classes)
        draw.timeline(args.out, soccernet.match_title(folder.resolve().name), args.half, *scores,
                      classes, spotted, events, args.threshold)
    print(f"report: {args.out}")


if __name__ == "__main__":
    command.run_as_command(main, parse_args())
