"""
Inference: a match -> scores per second and class -> spotted actions, and the metric if there are
labels.

    python infer.py --video match.mkv --checkpoint runs/stage3/best.pt
    python infer.py --video 1_224p.mkv 2_224p.mkv --checkpoint best.pt --out runs/match
    python infer.py --data frames/test --checkpoint runs/stage3/best.pt --out runs/test
    python infer.py --data frames --split challenge --checkpoint a.pt b.pt --zip submission.zip
    python infer.py --data frames --checkpoint runs/stage1/last.pt --features own
    torchrun --nproc-per-node 8 infer.py --data frames --split test --checkpoint best.pt    # 8 GPUs

Reads   --video: mkv, mp4, avi of any rate and size. Several files are the halves of one match, a
        folder is the matches in it
        --data: <data>/**/1_224p/00000001.jpg ..., frames
        Labels-v2.json or labels.csv if there (or at --labels): then the table is printed
Writes  <out>/<match>/results_spotting.json  the actions, in SoccerNet's format
        <out>/<match>/scores.npz             windows' scores: comedian.evaluate --sweep reads them
        <out>/<match>/page.html, timeline_1.png   with --show, for --video always: to look at
        --zip: what the challenge server takes
        --features NAME: instead of all these, <match>/<half>_NAME.npy, a teacher for stage 2
Method  paper Sec. 3.4 (end), 4.1 and App. B: sliding windows with half overlap, seconds near a
        window's edge ignored, maximum of what is left, non-maximum suppression. Several networks
        are averaged per second before it (Tab. 9).

A clip's spatial token does not depend on the window it is seen in. So each clip is encoded once per
half and only the temporal transformer runs per window: the same scores as window by window, for
half the work. And a match of any length needs little memory: of a clip only its token stays, and
with --show a small picture.

An action stands at the mean time of its token's two frames, token_s * (k + 1/4) for token k: the
paper's "average timestamp", and the expected time of what the labels call token k. The official
code rounds that time down to the second; here it stays. The official code drops the last seconds of
a half (a unit bug); here they are scored.
"""
import argparse
import collections
import hashlib
import itertools
import json
import math
import os
import sys
import time
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

# These come first: they say in one line what is not installed.
from comedian import (
    DataError, __version__, augment, evaluate, formats, report, run, soccernet, video, write_file,
    write_text)
from comedian.command import say_error
from comedian.frames import (
    CLIP_FRAMES, DEFAULT_FPS, FrameReader, ahead, describe, find_halves, in_split, of_length,
    what_lies_in)
from comedian.run import device_name, number
from comedian.soccernet import (
    LABELS, PREDICTIONS, SCORES, Detections, called, check_games, find_labels, games_of,
    read_labels, write_predictions, write_scores, write_zip)
from model import Comedian, config_of, load_checkpoint, load_parts, trained_parts

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

try:
    from comedian import ops
except ImportError as error:          # kernels not built, or for another torch: it says what to run
    say_error(error)
    sys.exit(2)

SHOW = 0.3                            # ours: on the demo as many rows as events, 3 of 4 right


# ------------------------------------------------------------------ options
def clock_s(text):
    """For argparse: seconds, mm:ss or h:mm:ss -> seconds."""
    try:
        return soccernet.clock_s(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"wants seconds or mm:ss, got {text[:40]!r}") from None


def add_post_flags(parser, title="scores -> actions"):
    """How scores become actions: the same flags here and for stage 3's validation."""
    add = parser.add_argument_group(title).add_argument
    add("--stride", type=number(0), default=0,
        help="tokens from window to window; 0 = half a window (paper)")
    add("--ignore", type=number(0), metavar="TOKENS",
        help="ignored at each edge of a window; default: 3/16 of it (paper's best: 12 of 64)")
    add("--merge", choices=["max", "mean"], default="max", help="of overlapping windows")
    add("--nms", choices=list(ops.NMS), default="soft",
        help="soft: paper's best; local: hard NMS as in the official code; greedy: hard NMS as in "
             "the SoccerNet baselines")
    add("--nms-window", type=number(0.0), default=10, metavar="SECONDS",
        help="full width (paper: soft 10, hard 3)")
    add("--threshold", type=number(0.0, 1.0), default=0.001,
        help="lowest score of an action (official code)")


def parse_args(argv=None):
    p = run.Parser(__doc__)
    group = p.add_argument_group("what to spot, and with what")
    source, add = group.add_mutually_exclusive_group(required=True), group.add_argument
    source.add_argument("--video", nargs="+", metavar="FILE",
        help="a video, or the halves of a match, or folders of matches")
    source.add_argument("--data", help="folder with frames, laid out as docs/soccernet.md says")
    add("--checkpoint", required=True, nargs="+", metavar="FILE",
        help="stage 3's best.pt or last.pt, or official weights; several: their scores are "
        "averaged")
    add("--start", type=clock_s, default=0.0, metavar="MM:SS",
        help="begin here in every video; plain seconds do, too")
    add("--end", type=clock_s, metavar="MM:SS", help="end here; default: where the video does")
    add("--split", help="of --data, the games of these lists only: train, valid, test, challenge, "
        "several joined by +, or a text file")
    add_post_flags(p)

    add = p.add_argument_group("what comes out").add_argument
    add("--out", help="folder for results_spotting.json and scores.npz per match; default: "
        "runs/infer, with --features that of --data")
    add("--show", type=number(0.0, 1.0), metavar="CONFIDENCE",
        help="print each action of this confidence or more when its half is done, and draw a "
        f"timeline per half; default: {SHOW} for --video, nothing for --data")
    add("--labels", help="root of the labels, or a labels.csv; default: where the frames or videos "
        "are")
    add("--chance", action="store_true", help="beside the table, what chance reaches "
        "(comedian.evaluate)")
    add("--json", metavar="FILE", help="write every number of the table here")
    add("--zip", metavar="FILE", help="write the games of --split as a submission")
    add("--features", metavar="NAME", help="write the network's tokens as features for stage 2 and "
        "spot nothing; the checkpoint may be of any stage")

    add = p.add_argument_group("the machine").add_argument
    add("--batch", type=number(1, 65536), help="clips encoded at a time; default: 64 on a GPU, "
        "and on a CPU 16, whose images its caches hold")
    add("--bf16", action=argparse.BooleanOptionalAction, default=None, help=run.BF16_HELP)
    add("--workers", type=number(0, 1024), default=0, help="decoding threads; 0 = one per core")
    add("--device", type=device_name, default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda, cuda:1, ...")
    args = p.parse_args(argv)
    if args.data and (args.start or args.end is not None):
        p.error("--start and --end cut videos; --data has frames")
    if args.end is not None and args.end <= args.start:
        p.error("--end must be later than --start")
    if args.split and not args.data:
        p.error("--split chooses among the games of --data")
    if args.zip and not args.split:
        p.error("--zip wants --split: the games that the submission must hold")
    if args.features and (not args.data or len(args.checkpoint) > 1):
        p.error("--features wants --data and one --checkpoint")
    if args.show is None and args.video:
        args.show = SHOW
    args.out = args.out or (args.data if args.features else "runs/infer")
    args.batch = args.batch or clips_at_a_time(args.device)
    return args


# ------------------------------------------------------------------ what there is to spot
def wanted_halves(args):
    """The halves that `args` ask for; prints what they are."""
    if args.video:
        halves = video.halves(args.video, args.start, args.end)
        for match, group in itertools.groupby(halves, key=lambda half: half.match):
            print(f"data: {match}: " + ", ".join(
                f"half {half.number} {half.path} ({video.clock(half.n_tokens * half.token_s)})"
                for half in group))
        return halves
    halves = find_halves(args.data)
    if args.split:
        halves = in_split(halves, args.split, args.data, complete=bool(args.zip))
    print(describe(halves, args.data))
    return of_length(halves, 1, "one clip")


# ------------------------------------------------------------------ frames -> clips
def frame_clips(halves, reader, batch):
    """Yields (half, clips (b, 2, H, W, 3) uint8) of halves that are folders of images."""
    for half in halves:
        for first in range(0, half.n_tokens, batch):
            clips = range(first, min(first + batch, half.n_tokens))
            yield half, reader.read([(half, CLIP_FRAMES * k) for k in clips], CLIP_FRAMES)


def video_clips(halves, batch, broken):
    """The same of halves that are videos; an odd last frame has no partner and is left out.

    Frames are shrunk to the size of SoccerNet's first, so that what a network sees of a video and
    of the frames extracted from it is the same. The DataError of a video that is cut off joins the
    list `broken`: what came before is spotted, and the other videos too.
    """
    def stack(frames):
        n = len(frames) // CLIP_FRAMES * CLIP_FRAMES
        return torch.from_numpy(np.stack(frames[:n])).unflatten(0, (-1, CLIP_FRAMES))

    for half in halves:
        frames, n_clips = [], 0
        try:
            for frame in video.sample(half.path, DEFAULT_FPS, half.start_s, half.end_s, half.size):
                frames.append(frame)
                if len(frames) == CLIP_FRAMES * batch:
                    yield half, stack(frames)                                 # (b, 2, H, W, 3)
                    frames, n_clips = [], n_clips + batch
        except DataError as error:
            broken.append(DataError(f"{error}; what came before is spotted"
                                    if n_clips or frames else str(error)))
        if len(frames) >= CLIP_FRAMES:
            yield half, stack(frames)
        elif not n_clips:
            tqdm.write(f"data: {half.path}: shorter than one clip: left out")


# ------------------------------------------------------------------ clips -> tokens
def clips_at_a_time(device):
    """How many clips to encode together: a GPU wants many, a CPU no more than its caches hold."""
    return 16 if str(device) == "cpu" else 64


@torch.no_grad()
def encode_clips(model, clips, device, autocast, flip=False):
    """Clips (b, 2, H, W, 3) uint8 on the host -> spatial tokens (b, D) float32 on `device`."""
    x = augment.resize(augment.to_float(clips, device), model.cfg.image_size)    # (b, 2, 3, S, S)
    if flip:
        x = x.flip(4)
    with autocast:
        return model.encode(augment.normalize(x, model.cfg.normalize_per_frame)).float()


def encode_halves(models, clips, device, autocast, flip=False):
    """Yields (half, [h, ...]): per model h (n_tokens, D) float32 on `device`, the spatial tokens of
    all clips of the half.

    clips: pairs (half, clips (b, 2, H, W, 3) uint8), halves one after the other; they are decoded
    ahead while the networks work. flip: mirror the frames (stage 3 caches both).
    """
    for half, group in itertools.groupby(ahead(clips), key=itemgetter(0)):
        parts = [[encode_clips(model, some, device, autocast, flip) for model in models]
                 for _, some in group]                                           # (b, D) each
        yield half, [torch.cat(of_model) for of_model in zip(*parts, strict=True)]


# ------------------------------------------------------------------ tokens -> scores
def window_starts(n_tokens, window, stride):
    """First tokens of windows that cover a half: 0, stride, 2 stride, ... and one ending with it.

    A half shorter than the window gets one window, as long as the half. Proved by
    test_windows_cover_every_token.
    """
    if n_tokens <= window:
        return [0]
    starts = list(range(0, n_tokens - window + 1, stride))
    return starts if starts[-1] == n_tokens - window else [*starts, n_tokens - window]


class Network(NamedTuple):
    """A model, and how its windows lie and are merged."""
    model: Comedian
    stride: int                       # tokens from window to window
    ignore: int                       # tokens ignored at each edge of a window


def as_network(model, args):
    """The Network of a model with --stride and --ignore; unless given they follow its window."""
    window = model.cfg.window_tokens
    stride = args.stride or max(1, window // 2)
    ignore = ops.default_ignore(window) if args.ignore is None else args.ignore
    if stride + 2 * ignore > window:
        raise DataError(f"--stride {stride} with --ignore {ignore} leaves seconds that no window "
                        f"of {window} scores; --stride + 2 * --ignore must not exceed it")
    return Network(model, stride, ignore)


@torch.no_grad()
def window_scores(network, h, autocast, batch=64):
    """Spatial tokens h (n_tokens, D) of a half -> scores (N, L, K) in [0, 1] of all its windows, on
    the CPU, and where they start (N,).

    A half shorter than the window is one window, padded with zeros that merging leaves out.
    """
    model, length = network.model, network.model.cfg.window_tokens
    starts = window_starts(len(h), length, network.stride)
    windows = torch.stack([h[s:s + length] for s in starts])                     # (N, L, D)
    scores = []
    for part in windows.split(batch):
        with autocast:
            scores.append(torch.sigmoid(model.spot(model.contextualize(part)).float()).cpu())
    scores = torch.cat(scores)                                                   # (N, L, K)
    return F.pad(scores, (0, 0, 0, length - scores.shape[1])), torch.tensor(starts)


def merge_half(networks, windows, n_tokens, mode):
    """Scores per second (n_tokens, K): the windows of each network merged, then their mean. The
    networks' windows may differ in length and stride."""
    merged = [ops.merge_windows(scores, starts, torch.zeros_like(starts), torch.tensor([n_tokens]),
                                network.ignore, mode)
              for network, (scores, starts) in zip(networks, windows, strict=True)]
    return torch.stack(merged).mean(0)


# ------------------------------------------------------------------ scores -> actions
def spot(halves, merged, args, start_s=0.0):
    """The actions of one match as Detections, sorted by half, class and time.

    halves: its halves; merged: per half the scores per second (n_tokens, K); args: --nms,
    --nms-window, --threshold; start_s: where token 0 stands in its video. Token k is reported at
    start_s + token_s * (k + 1/4).
    """
    length, token_s = torch.tensor([len(scores) for scores in merged]), halves[0].token_s
    kept = ops.NMS[args.nms](torch.cat(merged), length, args.nms_window / token_s,
                             args.threshold)                                # (S, K)
    index, label, token, confidence = (column.numpy() for column in ops.detections(kept, length))
    half_number = np.array([half.number for half in halves])[index]              # (n,)
    token_s = np.array([half.token_s for half in halves])[index]
    position_ms = evaluate.token_ms(token, token_s, start_s)
    return Detections(half_number, label, position_ms, confidence.astype(np.float64))


def show_half(half, merged, classes, args):
    """Prints the rows of a half: time, class and confidence of each action of --show or more.
    Classes and halves never mix in NMS, so these are the rows of the whole match."""
    found = spot([half], [merged], args, args.start)
    tqdm.write(f"\n{half.match}, half {half.number}")
    for i in np.lexsort((found.label, found.position_ms)).tolist():
        if found.confidence[i] >= args.show:
            tqdm.write(f"{video.clock(found.position_ms[i] / 1000):>7}  "
                       f"{classes[found.label[i]]:{max(map(len, classes))}}  "
                       f"{found.confidence[i]:.2f}")


# ------------------------------------------------------------------ tokens -> features of a teacher
@torch.no_grad()
def in_context(model, h):
    """Spatial tokens h (n, D) of a half -> the temporal transformer's (n, D): of windows that
    overlap by half, each token is taken from the one whose middle is nearest."""
    length = model.cfg.window_tokens
    starts = window_starts(len(h), length, max(1, length // 2))
    windows = torch.stack([h[start:start + length] for start in starts])         # (N, L, D)
    tokens = torch.cat([model.contextualize(part) for part in windows.split(64)])
    place = torch.arange(len(h))
    middles = torch.tensor(starts) + (windows.shape[1] - 1) / 2
    nearest = (place[:, None] - middles).abs().argmin(1)                         # (n,)
    return tokens[nearest, place - torch.tensor(starts)[nearest]]


def per_second(tokens, half):
    """(n_tokens, D) -> (seconds, D): row k is the token of second [k, k + 1), the one around its
    middle if fps is not 2. Stage 2 finds rows by time (bank.feature_rows)."""
    seconds = np.arange(n_seconds(len(tokens), half))
    return tokens[np.minimum((seconds + 0.5) / half.token_s, len(tokens) - 1).astype(np.int64)]


def n_seconds(n_tokens, half):
    """Whole seconds that so many tokens of a half fill, at least 1."""
    return max(1, math.floor(n_tokens * half.token_s + 1e-6))


def are_there(path, half, width):
    """Whether the features of a half are at `path`, all of them."""
    try:
        return formats.open_array(path).shape == (n_seconds(half.n_tokens, half), width)
    except (DataError, FileNotFoundError):
        return False


def write_features(args, halves, process):
    """--features: what the network makes of every second, <out>/<match>/<half>_NAME.npy. Goes on
    where it was stopped; what lies there must come from the same checkpoint."""
    rank, ranks, device = process
    path, = args.checkpoint
    checkpoint = load_checkpoint(path)
    model = Comedian(config_of(checkpoint, path))
    load_parts(model, checkpoint, trained_parts(checkpoint), path)
    model = model.to(device).eval()
    autocast = choose_autocast(args, device, [model])
    has_context = checkpoint["stage"] > 1
    print(f"features: {model.cfg.model}, {model.cfg.width} wide, "
          + (f"tokens of the temporal transformer, windows of {model.cfg.window_tokens}"
             if has_context else "tokens of the spatial encoder"))

    out, name = Path(args.out), args.features
    record = {"checkpoint_sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
              "bf16": args.bf16}
    made_by = out / f"{name}.json"
    paths = {half: out / half.match / f"{half.number}_{name}.npy" for half in halves}
    if made_by.exists() and made_by.read_text(errors="replace") != json.dumps(record):
        raise DataError(f"{made_by}: features of this name were made by another checkpoint or with "
                        "another --bf16; choose another --features NAME")
    if not made_by.exists() and any(file.exists() for file in paths.values()):
        raise DataError(f"{out}: features called {name} are there, not made by this command; "
                        "choose another --features NAME")
    todo = [half for half in halves if not are_there(paths[half], half, model.cfg.width)]
    run.barrier()                                          # all have looked before one writes
    write_text(made_by, json.dumps(record))
    if len(todo) < len(halves):
        print(f"features: {len(halves) - len(todo)} of {len(halves)} halves are there already")
    todo = todo[rank::ranks]
    clips = frame_clips(todo, FrameReader(args.workers), args.batch)
    encoded = encode_halves([model], clips, device, autocast)
    for half, (h,) in tqdm(encoded, desc="features", total=len(todo), unit="half",
                           disable=None if rank == 0 else True):
        with autocast:
            tokens = in_context(model, h) if has_context else h                  # (n_tokens, D)
        rows = per_second(tokens.float().cpu().numpy(), half)                    # (seconds, D)
        write_file(paths[half], lambda file, rows=rows: np.save(file, rows))
    run.barrier()
    print(f"features: {out}/<match>/<half>_{name}.npy; stage2_distill.py --features-name {name}")


# ------------------------------------------------------------------ run
def choose_autocast(args, device, models):
    """The context that the networks run in; says so, and leaves the choice in args.bf16."""
    if args.bf16 is None:
        args.bf16 = run.bf16_pays(device, min(model.cfg.width for model in models))
    print(f"network: on {device.type}, bf16 {'on' if args.bf16 else 'off'}")
    return torch.autocast(device.type, torch.bfloat16, enabled=args.bf16)


def load_networks(args, device):
    """A Network per checkpoint of stage 3; all must have the same classes."""
    networks = []
    for path in args.checkpoint:
        checkpoint = load_checkpoint(path)
        if checkpoint["stage"] != 3:
            raise DataError(f"{path}: comes from stage {checkpoint['stage']} and has no trained "
                            "head; --checkpoint wants one of stage 3")
        model = Comedian(config_of(checkpoint, path))
        if networks and model.cfg.classes != networks[0].model.cfg.classes:
            raise DataError(f"{path}: has other classes than {args.checkpoint[0]}, or in another "
                            "order; only networks of the same classes can be averaged")
        load_parts(model, checkpoint, [""], path)
        networks.append(as_network(model.to(device).eval(), args))
    return networks


def labels_root(args, half):
    """The folder or file where labels are looked for, or None: --labels, --data, or the folder
    below which a video has its match's name (<root>/<match>.mp4, <root>/<match>/1_224p.mkv)."""
    if args.labels or args.data:
        return args.labels or args.data
    path, names = Path(half.path).absolute(), Path(half.match).parts
    places = [place for place in (path.parent, path.with_suffix(""))
              if place.parts[-len(names):] == names]
    return places[0].parents[len(names) - 1] if places else None


def check_output(args, halves, labels):
    """Refuses, before the work begins, what could not be written or scored at its end. labels: of
    the matches that have any.

    Returns the submission's {match: game}; without --zip, {}.
    """
    out, matches = Path(args.out), sorted({half.match for half in halves})
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be made a folder ({error.strerror}); "
                        "choose another --out") from None
    if args.chance and len(labels) < 2:
        raise DataError("--chance scores each match with another one's predictions, and "
                        f"{len(labels)} match here has labels; leave it out, or give more matches")
    again = [match for match in matches if (out / match / PREDICTIONS).exists()]
    if again:
        print(f"{out}: results of {len(again)} of these matches are there and will be replaced")
    evaluate.check_writable(out / PREDICTIONS)
    if args.json:
        evaluate.check_writable(args.json, ".json")
    if args.zip:
        evaluate.check_writable(args.zip, ".zip")
    if not args.zip:
        return {}
    names, there = games_of(halves, args.data, args.split), {(h.match, h.number) for h in halves}
    check_games([match for match in names if {(match, 1), (match, 2)} <= there], names,
                f"{args.data}, halves 1 and 2")
    before = {file.parent.relative_to(out).as_posix() for file in out.rglob(PREDICTIONS)}
    check_games(before | names.keys(), names, out)
    return names


def about(args, halves, folder):
    """What the results of a match in `folder` say about themselves; the paths begin there."""
    return {"program": f"comedian {__version__}", "checkpoint": args.checkpoint,
            "settings": {name: vars(args)[name] for name in
                         ("stride", "ignore", "merge", "nms", "nms_window", "threshold")},
            "fps": CLIP_FRAMES / halves[0].token_s,
            "videos": {str(half.number): os.path.relpath(
                half.path if args.video else half.folder, folder) for half in halves}}


def spot_match(match, encoded, networks, autocast, args, labels, seen):
    """Spots a match and writes its files. encoded: pairs (half, [h per network]), all its halves.
    labels: of this match, or None; seen: {(match, half): {s: small JPEG}} of what was encoded.
    Returns how many tokens that were."""
    out, classes = Path(args.out) / match, networks[0].model.cfg.classes
    halves, merged, stored = [], [], []
    for half, tokens in encoded:
        windows = [window_scores(network, h, autocast)
                   for network, h in zip(networks, tokens, strict=True)]
        table = merge_half(networks, windows, len(tokens[0]), args.merge)        # (n_tokens, K)
        if args.show is not None:
            show_half(half, table, classes, args)
        halves.append(half)
        merged.append(table)
        stored.append(windows[0] if len(networks) == 1 else None)
    found = spot(halves, merged, args, args.start)
    write_scores(out / SCORES, match, classes, halves, merged, stored, args.start, args.bf16)
    write_predictions(out / PREDICTIONS, match, found, classes,
                      about(args, halves, out) | {"classes": classes})
    if args.show is not None:
        events = read_labels(labels, classes) if labels else None
        for half, table in zip(halves, merged, strict=True):
            report.draw_timeline(out / f"timeline_{half.number}.png", called(match), half.number,
                                 table.numpy(), half.token_s, args.start, classes, found, events,
                                 args.show)
        report.write_page(out, match, labels, args.show,
                          {half.number: seen.pop((match, half.number), {}) for half in halves})
    return sum(map(len, merged))


def together(done, n_tokens, broken):
    """What all processes have done: their matches, how many tokens, the errors of broken videos."""
    everyone = run.all_gather_objects((done, n_tokens, [str(error) for error in broken]))
    done, n_tokens, broken = zip(*everyone, strict=True)
    return sorted(itertools.chain(*done)), sum(n_tokens), [
        DataError(error) for error in itertools.chain(*broken)]


def main(args):
    # -- set-up
    rank, ranks, device = process = run.join_processes(args.device)    # under torchrun, one of many
    halves = wanted_halves(args)
    if args.features:
        return write_features(args, halves, process)
    networks = load_networks(args, device)
    models = [network.model for network in networks]
    autocast = choose_autocast(args, device, models)
    root = labels_root(args, halves[0])
    labels = find_labels(root, {half.match for half in halves}) if root else {}
    submission = check_output(args, halves, labels)
    run.barrier()                                          # all have looked before one writes
    matches = list(dict.fromkeys(half.match for half in halves))
    mine = [half for half in halves if matches.index(half.match) % ranks == rank]

    # -- spot, match by match
    out, since, done, n_tokens, broken = Path(args.out), time.time(), [], 0, []
    seen = collections.defaultdict(dict)                   # (match, half) -> {s: small JPEG}
    with tqdm(total=sum(half.n_tokens for half in mine) or None, desc="infer", unit=" clips",
              disable=None if rank == 0 else True) as bar:
        def counted(clips):
            for half, some in clips:
                if args.show is not None:
                    report.keep_pictures(seen[half.match, half.number], some, half.token_s,
                                         args.start)
                yield half, some
                bar.update(len(some))

        clips = (video_clips(mine, args.batch, broken) if args.video else
                 frame_clips(mine, FrameReader(args.workers), args.batch))
        encoded = encode_halves(models, counted(clips), device, autocast)
        try:
            for match, group in itertools.groupby(encoded, key=lambda pair: pair[0].match):
                n_tokens += spot_match(match, group, networks, autocast, args, labels.get(match),
                                       seen)
                done.append(match)
        except KeyboardInterrupt:
            bar.close()
            print(f"error: stopped; {len(done)} matches are finished in {out}", file=sys.stderr)
            sys.exit(130)
    done, n_tokens, broken = together(done, n_tokens, broken)
    if rank:                                               # the first process says the rest
        return
    if not done:
        raise broken[0] if broken else DataError(
            "--video: nothing to spot, no video lasts a second; see --start and --end")
    where = out / (done[0] if len(done) == 1 else "<match>")
    print(f"infer: {n_tokens * halves[0].token_s / 60:.1f} min of video in "
          f"{time.time() - since:.1f} s; {where}/{PREDICTIONS}"
          + (f", {where}/page.html" if args.show is not None else ""))

    # -- score, if there is a truth
    if any(match in labels for match in done):
        if args.start or args.end is not None:
            print("No table: --start and --end leave out events that the labels have.")
        else:
            evaluate.score_files(out, root, networks[0].model.cfg.classes, done,
                                 only_predicted=True, with_chance=args.chance, json=args.json)
    elif args.labels:
        print(f"No table: {args.labels} does not name {done[0]!r}, nor another of these matches."
              if Path(args.labels).is_file() else f"No table: no "
              f"{Path(args.labels) / done[0] / LABELS}, nor another match's"
              f"{what_lies_in(args.labels)}.")
    for error in broken[:-1]:
        print(f"error: {error}", file=sys.stderr)
    if broken:                                             # one error ends the command; no zip then
        raise broken[-1]
    if args.zip:
        write_zip(args.zip, out, submission)


if __name__ == "__main__":
    run.run_as_command(main, parse_args())
