"""
A network to give away, and a number to send back.

    python -m comedian.share weights runs/stage3/best.pt comedian-vit/      # then upload the folder
    make reproduce DATA=frames LABELS=soccernet WEIGHTS=vivit.pth    # calls the other two

Writes  weights: <out>/model.safetensors, and <out>/config.json with what the network is (classes,
        window, ...), what it was trained on and the command. --checkpoint and --init take the
        folder, docs/extend.md has its way to the Hugging Face Hub and back
        report: <out>/report.txt, beside what infer.py left there
"""
import json
from pathlib import Path

import numpy as np

from comedian import (
    DataError, __version__, command, evaluate, formats, frames, soccernet, write_text)
from comedian.receipt import CONFIG, WEIGHTS, sha256


# ------------------------------------------------------------------ weights
def write_weights(args):
    """A checkpoint of a stage -> a folder that others can read; nothing is written over."""
    from comedian import checkpoint, public_weights
    path, out = args.checkpoint, Path(args.out)
    state = public_weights.read_file(path)
    if not isinstance(state, dict) or not {"model", "config", "stage"} <= set(state):
        raise DataError(f"{path}: not a checkpoint of this project's stages; give a best.pt or "
                        "last.pt")
    checkpoint.check_weights(state["model"], path)
    there = [name for name in (WEIGHTS, CONFIG) if (out / name).exists()]
    if there:
        raise DataError(f"{out / there[0]}: is there already; choose another folder")
    run = Path(path).with_name("run.json")
    starts = formats.read_json(run, "what a stage writes of its run") if run.exists() else []
    last = starts[-1] if isinstance(starts, list) and starts else {}
    about = {"cfg": state["config"], "stage": state["stage"], "step": state.get("step"),
             "comedian": __version__, "trained_on": last.get("data"),
             "command": last.get("command"), "flags": state.get("args")}
    try:
        text = json.dumps(about, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: its config or flags are no plain values ({error}); give a "
                        "checkpoint of a stage") from None
    public_weights.write_safetensors(out / WEIGHTS, state["model"])
    write_text(out / CONFIG, text + "\n")
    n = sum(value.numel() for value in state["model"].values())
    print(f"share: {out}: {n:,} weights of stage {state['stage']}, SHA-256 "
          f"{sha256(out)[:12]}...; --checkpoint and --init take this folder")


# ------------------------------------------------------------------ a stranger's number
# Of the released weights: how many numbers -> their name, and the paper's t-AmAP on the test split.
RELEASED = {8_357_201: ("ViViT-T", 70.7), 70_115_723: ("ViSwin-T", 71.6)}
SIZE, SHORTEST_S, RESAMPLES = (398, 224), 2640, 200
# Seconds of a half that others have published: 67,500 frames at 25 a second.
KNOWN_S = {("2015-05-17 - 18-00 Manchester United 1 - 1 Arsenal", 1): 2700}


def inspect(args):
    """(lines on the data and the weights, what is off with them, how many numbers weights are)."""
    from comedian import checkpoint, public_weights
    halves, games = frames.find_halves(args.data, args.split), frames.read_games(args.split)
    matches = {half.match for half in halves}
    events = {match: soccernet.read_labels(labels, soccernet.SOCCERNET_CLASSES) for match, labels
              in soccernet.find_labels(args.labels or args.data, matches).items()}
    found = {"games": (len(matches), len(games)), "halves": (len(halves), 2 * len(games)),
             "games with labels": (len(events), len(games))}
    off = [f"{n} {what}, not {wanted}" for what, (n, wanted) in found.items() if n != wanted]
    for half in halves:
        end_s, size = half.n_frames / half.fps, frames.read_frame(half.path(0)).shape[1::-1]
        known_s = KNOWN_S.get((half.match.split("/")[-1], half.number), end_s)
        last_s = max((event.position_ms / 1000 for event in events.get(half.match, ())
                      if event.half == half.number), default=0)
        off += [f"{half.match}, half {half.number}: {what}" for what, is_so in (
            (f"{half.fps:g} frames a second, not 2", half.fps != 2),
            (f"frames of {size}, not {SIZE}", size != SIZE),
            (f"{end_s:.0f} s long, known are {known_s} s", abs(end_s - known_s) > 1),
            (f"only {end_s:.0f} s long", end_s < SHORTEST_S),
            (f"labels up to {last_s:.0f} s, frames to {end_s:.0f} s", last_s > end_s + 1)) if is_so]
    content = public_weights.read_file(args.weights)
    weights = (content.get("model", content.get("state_dict", content))
               if isinstance(content, dict) else content)
    checkpoint.check_weights(weights, args.weights)
    weights = weights if "config" in content else public_weights.rename(weights).weights
    n = sum(value.numel() for value in weights.values())
    name, _ = RELEASED.get(n, ("none of the released", 0))
    off += [f"weights: {n:,} numbers, not {' or '.join(map(str, RELEASED))}"] * (n not in RELEASED)
    return [f"data: {len(matches)} of {len(games)} games, {len(halves)} halves, "
            f"{sum(half.n_frames / half.fps for half in halves) / 3600:.2f} h, "
            f"{sum(map(len, events.values()))} labels",
            f"weights: {name}, {n:,} numbers, SHA-256 {sha256(args.weights)}"], off, n


def check(args):
    """Before the work: what was found, and what is off with it."""
    lines, off, _ = inspect(args)
    print(*lines, *(f"off: {what}" for what in off or ["nothing"]), sep="\n")


def interval(events, found, classes):
    """95 % of the t-AmAP of as many matches, drawn with replacement from these."""
    draw, matches, values = np.random.default_rng(0), list(events), []
    for _ in range(RESAMPLES):
        picks = dict(enumerate(draw.choice(matches, len(matches)).tolist()))
        values.append(evaluate.score({i: events[match] for i, match in picks.items()},
                                     {i: found[match] for i, match in picks.items()},
                                     classes)["tight"]["a_mAP"])
    return 100 * np.quantile(values, (0.025, 0.975))


def write_report(args):
    """After the work: <out>/report.txt, at most 2 kB, for an issue of this project."""
    import torch

    from comedian import run
    lines, off, n = inspect(args)
    metrics = formats.read_json(Path(args.out, "metrics.json"), "numbers that infer.py wrote")
    classes, tight = metrics["receipt"]["classes"], metrics["tight"]
    events, found = {}, {}
    for match, labels in soccernet.find_labels(args.labels or args.data,
                                               list(metrics["receipt"]["sha256"])).items():
        events[match] = soccernet.read_labels(labels, classes)
        found[match] = soccernet.read_predictions(
            Path(args.out, match, soccernet.PREDICTIONS), classes)
    low, high = interval(events, found, classes)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    papers = [f"{name} {value}" for name, value in
              ([RELEASED[n]] if n in RELEASED else RELEASED.values())]
    text = "\n".join([
        f"comedian {__version__}, commit {run.commit()}, torch {torch.__version__}, {device}",
        *lines, f"t-AmAP {100 * tight['a_mAP']:.2f} % (95 % over matches: {low:.2f} to {high:.2f})"
        f"; the paper: {', '.join(papers)}", f"loose {100 * metrics['loose']['a_mAP']:.2f} %",
        "by class: " + ", ".join(f"{name} {100 * value:.1f}" for name, value in
                                 zip(classes, tight["a_mAP_per_class"], strict=True)),
        *(f"off: {what}" for what in off)])
    text = text.encode(errors="backslashreplace")[:1990].decode(errors="ignore") + "\n"
    write_text(Path(args.out, "report.txt"), text)
    print(f"{text}share: {args.out}/report.txt holds these lines, to paste into an issue")


def parse_args(argv=None):
    p = command.Parser(__doc__)
    commands = p.add_subparsers(dest="command", required=True, prog=p.prog)
    s = commands.add_parser("weights", help="a checkpoint -> model.safetensors and config.json")
    s.add_argument("checkpoint", help="a stage's best.pt or last.pt")
    s.add_argument("out", help="folder to make")
    s.set_defaults(run=write_weights)
    for name, function, what in (("check", check, "are these SoccerNet's data, and whose weights?"),
                                 ("report", write_report, "the text of a reproduced number")):
        s = commands.add_parser(name, help=what)
        s.add_argument("--data", required=True, help="folder with frames")
        s.add_argument("--labels", help="root of the labels; default: --data")
        s.add_argument("--split", default="test", help="the games")
        s.add_argument("--weights", required=True, help="a released .pth, or a checkpoint")
        s.add_argument("--out", required=name == "report", help="what infer.py wrote, its --out")
        s.set_defaults(run=function)
    return p.parse_args(argv)


if __name__ == "__main__":
    args = parse_args()
    command.run_as_command(args.run, args)
