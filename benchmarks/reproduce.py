"""
The paper's number on SoccerNet's test split with its released weights, and a text to send back.

    make reproduce DATA=frames LABELS=soccernet WEIGHTS=vivit.pth
    python benchmarks/reproduce.py --data frames --labels soccernet --weights vivit.pth

First it says what is off with the data (games, halves, rate, size and lengths of the frames, labels
beyond them) and with the weights (names and shapes as always, how many numbers). Then infer.py
spots the matches as it always does. What came out stands beside the paper's number in
<out>/report.txt, at most 2 kB, without a frame and without a path of this machine.
"""
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import infer  # noqa: E402
import model  # noqa: E402
from comedian import (  # noqa: E402
    __version__, command, evaluate, frames, run, soccernet, write_text)
from comedian.formats import sha256  # noqa: E402

# Of the released weights: how many numbers -> their name, and the paper's t-AmAP on the test split.
# How deep the released ViSwin-T is nobody says: with 6 or with 4 temporal blocks.
RELEASED = {8_357_201: ("ViViT-T", 70.7), 70_115_723: ("ViSwin-T", 71.6),
            55_939_979: ("ViSwin-T", 71.6)}
SIZE, SHORTEST_S, RESAMPLES = (398, 224), 2640, 1000           # 44 minutes: ours
# Seconds of halves of the test split, from the counts of frames that others publish beside their
# labels (UGLF; of the first one T-DEED, too). Most halves are cut at 45 minutes, to the frame.
KNOWN_S = {(game, half): 2700 for game, half in (
    ("2015-05-17 - 18-00 Manchester United 1 - 1 Arsenal", 1),
    ("2015-10-03 - 19-30 Chelsea 1 - 3 Southampton", 1),
    ("2016-09-24 - 14-30 Manchester United 4 - 1 Leicester", 2),
    ("2015-04-22 - 21-45 Real Madrid 1 - 0 Atl. Madrid", 1),
    ("2016-11-01 - 22-45 Manchester City 3 - 1 Barcelona", 1),
    ("2015-09-12 - 16-30 Bayern Munich 2 - 1 FC Augsburg", 1),
    ("2017-01-21 - 17-30 SV Werder Bremen 1 - 2 Dortmund", 2),
    ("2016-12-04 - 17-00 Lazio 0 - 2 AS Roma", 1),
    ("2017-05-20 - 21-45 Napoli 4 - 1 Fiorentina", 1),
    ("2017-05-20 - 21-45 Napoli 4 - 1 Fiorentina", 2),
    ("2015-09-19 - 17-00 Real Madrid 1 - 0 Granada CF", 2),
    ("2015-11-08 - 18-00 Barcelona 3 - 0 Villarreal", 1),
    ("2016-09-24 - 21-45 Las Palmas 2 - 2 Real Madrid", 1))} | {
    ("2016-09-11 - 16-00 AC Milan 0 - 1 Udinese", 1): 2700.4,
    ("2016-09-21 - 21-00 Real Madrid 1 - 1 Villarreal", 2): 2954.4}


def inspect(args):
    """(lines on the data and the weights, what is off with them, how many numbers weights are)."""
    halves, games = frames.find_halves(args.data, args.split), frames.read_games(args.split)
    matches = {half.match for half in halves}
    events = {match: soccernet.read_labels(labels, soccernet.SOCCERNET_CLASSES) for match, labels
              in soccernet.find_labels(args.labels or args.data, matches).items()}
    found = {"games": (len(matches), len(games)), "halves": (len(halves), 2 * len(games)),
             "games with labels": (len(events), len(games))}
    off = [f"{n} {what}, not {wanted}" for what, (n, wanted) in found.items() if n != wanted]
    n_known = 0
    for half in halves:
        end_s, size = half.n_frames / half.fps, frames.read_frame(half.path(0)).shape[1::-1]
        known_s = KNOWN_S.get((half.match.split("/")[-1], half.number))
        n_known += known_s is not None
        last_s = max((event.position_ms / 1000 for event in events.get(half.match, ())
                      if event.half == half.number), default=0)
        off += [f"{half.match}, half {half.number}: {what}" for what, is_so in (
            (f"{half.fps:g} frames a second, not 2", half.fps != 2),
            (f"frames of {size}, not {SIZE}", size != SIZE),
            (f"{end_s:.0f} s long, known are {known_s} s", abs(end_s - (known_s or end_s)) > 2),
            (f"only {end_s:.0f} s long", end_s < SHORTEST_S),
            (f"labels up to {last_s:.0f} s, frames to {end_s:.0f} s", last_s > end_s + 1)) if is_so]
    weights = model.load_checkpoint(args.weights)["model"]
    n = sum(value.numel() for value in weights.values())
    name, _ = RELEASED.get(n, ("none of the released", 0))
    off += [f"weights: {n:,} numbers, not {' or '.join(map(str, RELEASED))}"] * (n not in RELEASED)
    return [f"data: {len(matches)} of {len(games)} games, {len(halves)} halves, "
            f"{sum(half.n_frames / half.fps for half in halves) / 3600:.2f} h, "
            f"{sum(map(len, events.values()))} labels; {n_known} lengths of halves compared with "
            "known ones",
            f"weights: {name}, {n:,} numbers, SHA-256 {sha256(args.weights)}"], off, n


def main(args):
    lines, off, n = inspect(args)
    print(*lines, *(f"off: {what}" for what in off or ["nothing"]), sep="\n", flush=True)
    path = Path(args.out, "metrics.json")
    infer.main(infer.parse_args(
        ["--data", args.data, "--labels", args.labels or args.data, "--split", args.split,
         "--checkpoint", args.weights, "--out", args.out, "--json", str(path),
         *(["--device", args.device] if args.device else [])]))
    metrics = json.loads(path.read_text())
    classes, tight = metrics["receipt"]["classes"], metrics["tight"]
    events, found = {}, {}
    for match, labels in soccernet.find_labels(args.labels or args.data,
                                               list(metrics["receipt"]["sha256"])).items():
        events[match] = soccernet.read_labels(labels, classes)
        found[match] = soccernet.read_predictions(
            Path(args.out, match, soccernet.PREDICTIONS), classes)
    ends = evaluate.interval(evaluate.resample(events, found, classes, RESAMPLES), len(events))
    low, high = (100 * end["tight"]["a_mAP"] for end in ends)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    papers = dict([RELEASED[n]] if n in RELEASED else RELEASED.values())
    text = "\n".join([
        f"comedian {__version__}, commit {run.commit()}, torch {torch.__version__}, {device}",
        *lines, f"t-AmAP {100 * tight['a_mAP']:.2f} % (95 % over matches: {low:.2f} to {high:.2f})"
        f"; the paper: {', '.join(f'{name} {value}' for name, value in papers.items())}",
        f"loose {100 * metrics['loose']['a_mAP']:.2f} %",
        "by class: " + ", ".join(f"{name} {100 * value:.1f}" for name, value in
                                 zip(classes, tight["a_mAP_per_class"], strict=True)),
        *(f"off: {what}" for what in off)])
    text = text.encode(errors="backslashreplace")[:1990].decode(errors="ignore") + "\n"
    write_text(Path(args.out, "report.txt"), text)
    print(f"{text}reproduce: {args.out}/report.txt holds these lines, to paste into an issue")


def parse_args(argv=None):
    p = command.Parser(__doc__)
    p.add_argument("--data", required=True, help="folder with frames")
    p.add_argument("--labels", help="root of the labels; default: --data")
    p.add_argument("--split", default="test", help="the games, as of infer.py")
    p.add_argument("--weights", required=True, help="a released .pth")
    p.add_argument("--out", default="runs/reproduce", help="as of infer.py")
    p.add_argument("--device", help="as of infer.py")
    return p.parse_args(argv)


if __name__ == "__main__":
    command.run_as_command(main, parse_args())
