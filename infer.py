"""
Inference: a match -> scores per second and class -> spotted actions, and the metric if there are
labels.

    python infer.py --video match.mkv --checkpoint runs/stage3/best.pt
    python infer.py --video 1_224p.mkv 2_224p.mkv --checkpoint best.pt --out runs/match
    python infer.py --data frames/test --checkpoint runs/stage3/best.pt --out runs/test
    python infer.py --data frames --split challenge --checkpoint a.pt b.pt --zip submission.zip

Reads   --video: mkv, mp4, avi of any rate and size. Several files are the halves of one match, a
        folder is the matches in it
        --data: <data>/**/1_224p/00000001.jpg ..., frames in any layout data.py knows
        Labels-v2.json if there (or below --labels): then the table is printed
Writes  <out>/<match>/results_spotting.json  the actions, in SoccerNet's format
        <out>/<match>/scores.npz             windows' scores: evaluate.py --sweep starts from them
        <out>/<match>/timeline_1.png         with --show (for videos unless told): half 1 to look at
        --zip: what the challenge server takes
Method  paper Sec. 3.4 (end), 4.1 and App. B: sliding windows with half overlap, seconds near a
        window's edge ignored, maximum of what is left, non-maximum suppression. Several networks
        are averaged per second before it (Tab. 9).

A clip's spatial token does not depend on the window it is seen in. So each clip is encoded
once per half and only the temporal transformer runs per window: the same scores as window
by window, for half the work. And a match of any length needs little memory: of a clip only its
token stays, of a window its scores. Decoding runs ahead in a thread, by a few batches.

Differences from the official code: the last seconds of a half are scored
(there, a unit bug drops them).
"""
import argparse
import itertools
import math
import os
import sys
import time
import zipfile
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from comedian import augment, evaluate, ops, run, video
from comedian import frames as data
from comedian.public_weights import config_of, load_checkpoint, load_parts
from comedian.run import device_name, number
from model import Comedian

FRAME_SIZE = (398, 224)               # width, height of SoccerNet's frames, as stage0_prepare.py's
SHOW = 0.3                            # ours: on the demo as many rows as events, 3 of 4 right


# ------------------------------------------------------------------ options
def clock_s(text):
    """For argparse: seconds, mm:ss or h:mm:ss -> seconds."""
    parts = text.split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = [math.nan]
    if not all(0 <= part < math.inf for part in numbers) or len(parts) > 3:
        raise argparse.ArgumentTypeError(f"wants seconds or mm:ss, got {text!r}")
    return sum(60 ** i * part for i, part in enumerate(reversed(numbers)))


def parse_args(argv=None):
    p = run.Parser(__doc__)
    add = p.add_argument
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--video", nargs="+", metavar="FILE",
        help="a video, or the halves of a match, or folders of matches")
    source.add_argument("--data", help="folder with frames, any layout data.py knows")
    add("--checkpoint", required=True, nargs="+", metavar="FILE",
        help="stage 3's best.pt or last.pt, or official weights; several: their scores are "
        "averaged")
    add("--start", type=clock_s, default=0.0, metavar="MM:SS",
        help="begin here in every video; plain seconds do, too")
    add("--end", type=clock_s, metavar="MM:SS", help="end here; None = where the video does")
    add("--split", help="of --data, the games of these lists only: train, valid, test, challenge, "
        "several joined by +, or a text file")
    add("--labels", help="root of the labels; None = --data, or the folder given to --video")
    add("--chance", action="store_true", help="beside the table, what chance reaches (evaluate.py)")
    add("--json", metavar="FILE", help="write every number of the table here (evaluate.py)")
    add("--out", default="runs/infer",
        help="folder for results_spotting.json and scores.npz per match")
    add("--zip", metavar="FILE", help="write the games of --split as a submission")
    add("--show", type=number(0.0, 1.0), metavar="CONFIDENCE",
        help="print each action of this confidence or more once it is final, and draw a timeline "
        f"per half; None = {SHOW} for --video, nothing for --data")
    add("--stride", type=number(0), default=0,
        help="tokens from window to window; 0 = half a window (paper)")
    add("--ignore", type=number(0), default=None,
        help="tokens ignored at each edge of a window; None = 3/16 of it (paper's best: 12 of 64)")
    add("--merge", choices=["max", "mean"], default="max", help="of overlapping windows")
    add("--nms", choices=list(evaluate.NMS), default="soft",
        help="paper's best: soft; its default: hard")
    add("--nms-window", type=number(0.0), default=10,
        help="full width, seconds (paper: soft 10, hard 3)")
    add("--threshold", type=number(0.0, 1.0), default=0.001,
        help="lowest score of an action (official code)")
    add("--batch", type=number(1), default=64, help="clips encoded at a time")
    add("--bf16", action=argparse.BooleanOptionalAction, default=None,
        help="bfloat16 autocast; None = where a CUDA device has it")
    add("--workers", type=number(0), default=0, help="decoding threads; 0 = one per core")
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
    if args.show is None and args.video:
        args.show = SHOW
    return args


# ------------------------------------------------------------------ what there is to spot
class VideoHalf(NamedTuple):
    """A half that is a video file, or a part of one: what data.Half is for a folder of frames."""
    match: str
    number: int
    path: str
    start_s: float
    end_s: float                      # None: to its end
    size: tuple                       # (width, height) to shrink frames to; None: as they are
    n_tokens: int                     # that its header promises; 0 if it does not say

    token_s = data.CLIP_FRAMES / data.DEFAULT_FPS


def video_halves(paths, start_s=0.0, end_s=None):
    """A VideoHalf per file that video.find_videos finds, match by match.

    A match is called after its folder, or after its file if that is not named by a half's number.
    """
    roots, halves = [Path(path) for path in paths if Path(path).is_dir()], []
    for files in video.find_videos(paths):
        first = Path(files[0])
        numbers = [video.half_number(file) for file in files]
        whole = first.parent if numbers[0] or len(files) > 1 else first.with_suffix("")
        if None in numbers or len(set(numbers)) < len(files):
            numbers = range(1, len(files) + 1)             # any other names: in their order
        root = next((root for root in roots if root in first.parents and root != whole), None)
        match = whole.relative_to(root).as_posix() if root else whole.resolve().name
        if any(half.match == match for half in halves):
            raise data.DataError(f"{first}: another match is called {match!r}, too; "
                                 "give them one after the other, each its own --out")
        for which, file in zip(numbers, files, strict=True):
            found = video.probe(file)
            if 0 < found.duration_s <= start_s:
                raise data.DataError(f"{file}: ends at {clock(found.duration_s)}, "
                                     f"before --start {clock(start_s)}")
            last_s = min(found.duration_s, math.inf if end_s is None else end_s)
            larger = found.width > FRAME_SIZE[0] or found.height > FRAME_SIZE[1]
            halves.append(VideoHalf(match, which, str(file), start_s, end_s,
                                    FRAME_SIZE if larger else None,
                                    max(0, int((last_s - start_s) / VideoHalf.token_s))))
    return halves


def find_halves(args):
    """The halves that `args` ask for; prints what they are."""
    if args.video:
        halves = video_halves(args.video, args.start, args.end)
        for match, group in itertools.groupby(halves, key=lambda half: half.match):
            print(f"data: {match}: " + ", ".join(
                f"half {half.number} {half.path} ({clock(half.n_tokens * half.token_s)})"
                for half in group))
        return halves
    halves = data.find_halves(args.data)
    if args.split:
        halves = data.in_split(halves, args.split, args.data, complete=bool(args.zip))
    print(data.describe(halves, args.data))
    return data.of_length(halves, 1, "one clip")


# ------------------------------------------------------------------ frames -> clips
def frame_clips(halves, reader, batch):
    """Yields (half, clips (b, 2, H, W, 3) uint8) of halves that are folders of images."""
    for half in halves:
        for first in range(0, half.n_tokens, batch):
            clips = range(first, min(first + batch, half.n_tokens))
            yield half, reader.read([(half, data.CLIP_FRAMES * k) for k in clips],
                                    data.CLIP_FRAMES)


def video_clips(halves, batch, broken):
    """The same of halves that are videos; an odd last frame has no partner and is left out.

    Frames are shrunk to the size of SoccerNet's first, so that what a network sees of a video and
    of the frames extracted from it is the same. The DataError of a video that breaks off joins the
    list `broken`: what came before is spotted, and the other videos too.
    """
    def stack(frames):
        n = len(frames) // data.CLIP_FRAMES * data.CLIP_FRAMES
        return torch.from_numpy(np.stack(frames[:n])).unflatten(0, (-1, data.CLIP_FRAMES))

    for half in halves:
        frames, n_clips = [], 0
        try:
            for frame in video.sample(half.path, data.DEFAULT_FPS, half.start_s, half.end_s,
                                      half.size):
                frames.append(frame)
                if len(frames) == data.CLIP_FRAMES * batch:
                    yield half, stack(frames)                                 # (b, 2, H, W, 3)
                    frames, n_clips = [], n_clips + batch
        except data.DataError as error:
            broken.append(data.DataError(f"{error}; what came before is spotted"
                                         if n_clips or frames else str(error)))
        if len(frames) >= data.CLIP_FRAMES:
            yield half, stack(frames)
        elif not n_clips:
            tqdm.write(f"data: {half.path}: shorter than one clip: left out")


def read_ahead(stream, depth=2):
    """The items of a generator, made in a thread up to `depth` ahead of their use."""
    end = object()
    for item in data.ahead(lambda _: next(stream, end), itertools.count(), depth):
        if item is end:
            return
        yield item


# ------------------------------------------------------------------ clips -> scores
@torch.no_grad()
def encode_clips(model, clips, device, autocast, flip=False):
    """Clips (b, 2, H, W, 3) uint8 on the host -> spatial tokens (b, D) float32 on `device`."""
    x = augment.resize(augment.to_float(clips, device), model.cfg.image_size)    # (b, 2, 3, S, S)
    if flip:
        x = x.flip(4)
    with autocast:
        return model.encode(augment.normalize(x, model.cfg.normalize_per_frame)).float()


def encode_halves(model, halves, reader, device, autocast, batch=256, flip=False):
    """Yields (half, h): h (n_tokens, D) float32 on `device`, the spatial tokens of all its clips.

    Decodes ahead while the network works. flip: mirror the frames (stage 3 caches both).
    """
    model.eval()
    stream = read_ahead(frame_clips(halves, reader, batch))
    for half, group in itertools.groupby(stream, key=itemgetter(0)):
        yield half, torch.cat([encode_clips(model, clips, device, autocast, flip)
                               for _, clips in group])                           # (n_tokens, D)


@torch.no_grad()
def score_windows(model, h, starts, autocast, batch=64):
    """Spatial tokens h (n_tokens, D) of a half -> scores (N, L, K) in [0, 1], on CPU, of the
    windows that begin at `starts`.

    A half shorter than the window is one window, padded with zeros that merging leaves out.
    """
    length = model.cfg.window_tokens
    windows = torch.stack([h[s:s + length] for s in starts])                     # (N, L, D)
    scores = []
    for part in windows.split(batch):
        with autocast:
            scores.append(torch.sigmoid(model.spot(model.contextualize(part)).float()).cpu())
    scores = torch.cat(scores)                                                   # (N, L, K)
    return torch.nn.functional.pad(scores, (0, 0, 0, length - scores.shape[1]))


def window_scores(model, h, stride, autocast, batch=64):
    """All windows of a half's spatial tokens h (n_tokens, D): scores (N, L, K), starts (N,)."""
    starts = data.window_starts(len(h), model.cfg.window_tokens, stride)
    return score_windows(model, h, starts, autocast, batch), torch.tensor(starts)


class Network(NamedTuple):
    """A model, and how its windows lie and are merged."""
    model: Comedian
    stride: int                       # tokens from window to window
    ignore: int                       # tokens ignored at each edge of a window


def load_networks(paths, device, stride=0, ignore=None):
    """A Network per checkpoint of stage 3; all must have the same classes.

    stride and ignore as on the command line: 0 and None leave them to the window's length.
    """
    networks = []
    for path in paths:
        checkpoint = load_checkpoint(path)
        if checkpoint["stage"] != 3:
            raise data.DataError(f"{path}: comes from stage {checkpoint['stage']} "
                                 "and has no trained head; --checkpoint wants one of stage 3")
        cfg = config_of(checkpoint)
        if networks and cfg.classes != networks[0].model.cfg.classes:
            raise data.DataError(f"{path}: has other classes than {paths[0]}, or in another order; "
                                 "only networks of the same classes can be averaged")
        model = Comedian(cfg)
        load_parts(model, checkpoint, [""], path)
        own_stride = stride or max(1, cfg.window_tokens // 2)
        own_ignore = evaluate.default_ignore(cfg.window_tokens) if ignore is None else ignore
        if own_stride + 2 * own_ignore > cfg.window_tokens:
            raise data.DataError(f"--stride {own_stride} with --ignore {own_ignore} leaves seconds "
                                 f"that no window of {cfg.window_tokens} scores; "
                                 "--stride + 2 * --ignore must not exceed it")
        networks.append(Network(model.to(device).eval(), own_stride, own_ignore))
    return networks


class Spotter:
    """A network on its way along one half: clips in, scores of whole windows out."""

    def __init__(self, network, device, autocast):
        self.network, self.device, self.autocast = network, device, autocast
        self.h = torch.empty(0, network.model.cfg.width, device=device)          # (n_tokens, D)
        self.starts, self.scores = [], []                    # of the windows so far; (N_i, L, K)
        self.known = 0                       # tokens whose merged scores no later window changes

    def take(self, clips):
        """The half's next clips (b, 2, H, W, 3); scores the windows that they complete."""
        model, stride, ignore = self.network
        self.h = torch.cat([self.h, encode_clips(model, clips, self.device, self.autocast)])
        # No later window begins before `free`: the last one begins there if the half ends now. Its
        # first tokens are ignored, unless they are the half's own.
        free = len(self.h) - model.cfg.window_tokens
        self.known = max(0, free + ignore if free > ignore else free)
        self.score(list(range(len(self.starts) * stride, free + 1, stride)))

    def finish(self):
        """The half ends here, and with it its last window."""
        model, stride, _ = self.network
        starts = data.window_starts(len(self.h), model.cfg.window_tokens, stride)
        self.known = len(self.h)
        self.score(starts[len(self.starts):])

    def score(self, starts):
        if starts:
            self.starts += starts
            self.scores.append(score_windows(self.network.model, self.h, starts, self.autocast))

    def windows(self):
        """Scores (N, L, K) of all windows so far, and where they start (N,)."""
        cfg = self.network.model.cfg
        none = torch.empty(0, cfg.window_tokens, len(cfg.classes))
        return torch.cat([none, *self.scores]), torch.tensor(self.starts, dtype=torch.int64)

    def merged(self, mode):
        """(n_tokens, K): a score per second; 0 where no window has been yet."""
        scores, starts = self.windows()
        return ops.merge_windows(scores, starts, torch.zeros_like(starts),
                                 torch.tensor([len(self.h)]), self.network.ignore, mode)


def together(spotters, mode):
    """What networks say of a half together: the mean of their merged scores (n_tokens, K). Each is
    merged by itself, so their windows may differ in length and stride."""
    return torch.stack([spotter.merged(mode) for spotter in spotters]).mean(0)


# ------------------------------------------------------------------ scores -> actions
def stack_halves(per_half):
    """[(scores (N_i, L, K), starts (N_i,), n_tokens)]
    -> the arguments of ops.merge_windows, end to end."""
    scores, starts, lengths = zip(*per_half, strict=True)
    half = torch.repeat_interleave(torch.arange(len(scores)),
                                   torch.tensor([len(s) for s in starts]))
    return torch.cat(scores), torch.cat(starts), half, torch.tensor(lengths)


def suppress(merged, length, token_s=1.0, nms="soft", nms_window=10, threshold=0.001):
    """Scores (S, K) of halves of length (H,) tokens, end to end -> actions: half index (n,),
    class (n,), token (n,), confidence (n,). nms_window in seconds."""
    kept = evaluate.NMS[nms](merged, length, nms_window / token_s, threshold)    # (S, K)
    return ops.detections(kept, length)


def detect(windows, token_s=1.0, ignore=None, merge="max", **post):
    """Window scores -> actions, as `suppress` returns them.

    windows: as `stack_halves` returns them. ignore in tokens; post: what `suppress` takes.
    """
    scores, start, half, length = windows
    ignore = evaluate.default_ignore(scores.shape[1]) if ignore is None else ignore
    merged = ops.merge_windows(scores, start, half, length, ignore, merge)       # (S, K)
    return suppress(merged, length, token_s, **post)


def as_detections(halves, spotted, start_s=0.0):
    """What was spotted in these halves of one match, as data.Detections with times in ms; start_s
    is where token 0 stands in its video."""
    which, label, token, confidence = (column.numpy() for column in spotted)
    number = np.array([half.number for half in halves])[which]
    token_ms = np.array([1000 * half.token_s for half in halves])[which]
    return data.Detections(number, label, np.round(1000 * start_s + token_ms * token),
                           confidence.astype(np.float64))


# ------------------------------------------------------------------ actions -> screen, as they come
def clock(seconds):
    """754.0 -> 12:34."""
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


def settled(merged, known, reach, show, since=0):
    """The first token whose actions, of confidence `show` or more, later scores can still change.

    merged (n, K): scores, of which those of the first `known` tokens stay. reach: how many tokens
    to either side NMS looks. since: the tokens before it are known to be settled.

    NMS takes the best first and never raises a score. So actions of `show` or more follow from the
    tokens that score as much, alone; and one of these bears on another only through a chain of them
    with steps of at most `reach`. What no chain joins to the tokens to come is settled.
    """
    first = known
    for column in (merged[since:known] >= show).T:                               # (known - since,)
        front = known
        for token in (since + column.nonzero().flatten().flip(0)).tolist():      # the latest first
            if front - token > reach:
                break
            front = token
        first = min(first, front)
    return max(first, since)


class Screen:
    """The rows of one half: time, class and confidence of each action, as soon as it is final."""

    def __init__(self, half, classes, start_s, show, post):
        self.half, self.classes, self.start_s, self.show = half, classes, start_s, show
        self.post, self.told = post, 0                     # told: tokens that have had their rows
        tqdm.write(f"\n{half.match}, half {half.number}")

    def update(self, merged, known):
        """merged (n, K): scores so far, of which those of the first `known` tokens stay."""
        reach = math.ceil(self.post["nms_window"] / self.half.token_s / 2)
        until = known if known == len(merged) else (
            settled(merged, known, reach, self.show, self.told))
        spotted = suppress(merged, torch.tensor([len(merged)]), self.half.token_s, **self.post)
        rows = sorted((token, label, confidence) for _, label, token, confidence
                      in zip(*(column.tolist() for column in spotted), strict=True)
                      if self.told <= token < until and confidence >= self.show)
        for token, label, confidence in rows:
            tqdm.write(f"{clock(self.start_s + token * self.half.token_s):>7}  "
                       f"{self.classes[label]:{max(map(len, self.classes))}}  {confidence:.2f}")
        self.told = until


# ------------------------------------------------------------------ actions -> disk
def write_scores(path, match, classes, start_s, halves, merged, spotters):
    """scores.npz: per half the windows of the one network or, of several, the merged scores
    (n_tokens, K) as one window (evaluate.read_scores). The file appears whole or not at all."""
    arrays = {"classes": np.array(classes), "url_local": match, "token_s": halves[0].token_s,
              "start_s": start_s}
    for half, table, networks in zip(halves, merged, spotters, strict=True):
        name, scores, starts = "merged", table[None], torch.zeros(1, dtype=torch.int64)
        if len(networks) == 1:
            name, (scores, starts) = "windows", networks[0].windows()
        arrays |= {f"{name}_{half.number}": scores.numpy(), f"starts_{half.number}": starts.numpy(),
                   f"tokens_{half.number}": len(table)}
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            np.savez(file, **arrays)
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise data.DataError(f"{path}: cannot be written ({error.strerror}); "
                             "the matches before it are finished") from None


def games_of(halves, root, split):
    """{match: its game on the lists `split`}, of halves that data.in_split returned."""
    names, games = {}, data.read_games(split)
    for match in {half.match for half in halves}:
        path = (Path(root).resolve() / match).as_posix().replace(" ", "_")
        names[match] = next(game for game in games if path.endswith(game.replace(" ", "_")))
    return names


def check_games(found, wanted, where):
    """Raises DataError unless the matches `found` are exactly those `wanted`, naming the others."""
    for matches, what in ((sorted(set(wanted) - set(found)), "missing"),
                          (sorted(set(found) - set(wanted)), "not of this split")):
        if matches:
            more = f" and {len(matches) - 3} more" if len(matches) > 3 else ""
            raise data.DataError(f"{where}: nothing is zipped, for {len(matches)} games are {what}:"
                                 f" {'; '.join(matches[:3])}{more}; a submission wants the games "
                                 "of its --split, and an --out of its own")


def write_zip(path, out, names):
    """The submission: <league>/<season>/<game>/results_spotting.json of every match below the
    folder `out`, called as `names` (match -> game) says. Refuses if they are not the same."""
    files = data.find_files(out, evaluate.PREDICTIONS)
    check_games(files, names, out)
    unfinished = Path(f"{path}.tmp")
    try:
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
            for match, game in sorted(names.items()):
                archive.write(files[match], f"{game}/{evaluate.PREDICTIONS}")
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise data.DataError(f"{path}: cannot be written ({error.strerror})") from None
    print(f"infer: {path}: {len(files)} games")


def check_output(args, halves):
    """Refuses, before the work begins, what could not be written at its end; makes --out.

    Returns the submission's {match: game}; without --zip, {}.
    """
    out = Path(args.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise data.DataError(f"{out}: cannot be made a folder ({error.strerror}); "
                             "choose another --out") from None
    again = {half.match for half in halves if (out / half.match / evaluate.PREDICTIONS).exists()}
    if again:
        print(f"{out}: results of {len(again)} of these matches are there and will be replaced")
    for path in [out / evaluate.PREDICTIONS, *filter(None, (args.json, args.zip))]:
        evaluate.check_writable(path)
    if not args.zip:
        return {}
    names, there = games_of(halves, args.data, args.split), {(h.match, h.number) for h in halves}
    check_games([match for match in names if {(match, 1), (match, 2)} <= there], names,
                f"{args.data}, halves 1 and 2")
    before = {file.parent.relative_to(out).as_posix() for file in out.rglob(evaluate.PREDICTIONS)}
    check_games(before | names.keys(), names, out)
    return names


# ------------------------------------------------------------------ run
def labels_root(args):
    """The folder below which labels are looked for, or None."""
    folders = (path for path in args.video or () if Path(path).is_dir())
    return args.labels or args.data or next(folders, None)


def spot_match(match, clips, networks, device, autocast, args, bar):
    """Spots a match and writes its files. clips: pairs (half, clips (b, 2, H, W, 3) uint8), all of
    its halves, in order."""
    out, classes, found = Path(args.out) / match, networks[0].model.cfg.classes, []
    post = {"nms": args.nms, "nms_window": args.nms_window, "threshold": args.threshold}
    for half, of_half in itertools.groupby(clips, key=itemgetter(0)):
        spotters = [Spotter(network, device, autocast) for network in networks]
        screen = None if args.show is None else Screen(half, classes, args.start, args.show, post)
        for _, some in of_half:
            for spotter in spotters:
                spotter.take(some)
            bar.update(len(some))
            if screen:
                screen.update(together(spotters, args.merge), min(s.known for s in spotters))
        for spotter in spotters:
            spotter.finish()
        merged = together(spotters, args.merge)                                  # (n_tokens, K)
        if screen:
            screen.update(merged, len(merged))
        found.append((half, merged, spotters))
    halves, merged, spotters = zip(*found, strict=True)

    write_scores(out / evaluate.SCORES, match, classes, args.start, halves, merged, spotters)
    length = torch.tensor([len(table) for table in merged])
    spotted = as_detections(halves, suppress(torch.cat(merged), length, halves[0].token_s, **post),
                            args.start)
    data.write_predictions(out / evaluate.PREDICTIONS, match, spotted, classes)
    if screen:
        from comedian import report  # noqa: I001  (here, as it brings matplotlib)
        root = labels_root(args)
        truth = root and Path(root, match, evaluate.LABELS)
        events = data.read_labels(truth, classes) if truth and truth.exists() else None
        for half, table in zip(halves, merged, strict=True):
            report.draw_timeline(out / f"timeline_{half.number}.png", match, half.number,
                                 table.numpy(), half.token_s, args.start, classes, spotted, events,
                                 args.show)


def main(args):
    device = torch.device(args.device)
    bf16 = run.has_bf16(device) if args.bf16 is None else args.bf16
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
    halves = find_halves(args)
    networks = load_networks(args.checkpoint, device, args.stride, args.ignore)
    submission = check_output(args, halves)

    # -- spot
    out, since, done, broken = Path(args.out), time.time(), [], []
    stream = read_ahead(video_clips(halves, args.batch, broken) if args.video else
                        frame_clips(halves, data.FrameReader(args.workers), args.batch))
    with tqdm(total=sum(half.n_tokens for half in halves) or None, desc="infer", unit=" clips",
              disable=None) as bar:
        try:
            for match, clips in itertools.groupby(stream, key=lambda pair: pair[0].match):
                spot_match(match, clips, networks, device, autocast, args, bar)
                done.append(match)
        except KeyboardInterrupt:
            bar.close()
            print(f"error: stopped; {len(done)} matches are finished in {out}", file=sys.stderr)
            sys.exit(130)
    if not done:
        raise broken[0] if broken else data.DataError("nothing to spot: no video of a second")
    where = out / (done[0] if len(done) == 1 else "<match>")
    print(f"infer: {bar.n * halves[0].token_s / 60:.1f} min of video in {time.time() - since:.1f} "
          f"s; {where}/{evaluate.PREDICTIONS}"
          + (f", {where}/timeline_1.png" if args.show is not None else ""))

    # -- score, if there is a truth
    labels = labels_root(args)
    if labels and any((Path(labels) / match / evaluate.LABELS).exists() for match in done):
        if args.start or args.end is not None:
            print("No table: --start and --end leave out events that the labels have.")
        else:
            evaluate.main(evaluate.parse_args(
                ["--predictions", str(out), "--labels", labels, "--only-predicted"]
                + ["--chance"] * args.chance
                + (["--json", args.json] if args.json else [])), networks[0].model.cfg.classes,
                done)
    elif args.labels:
        print(f"No table: no {Path(labels) / done[0] / evaluate.LABELS}, nor another match's.")
    for error in broken[:-1]:
        print(f"error: {error}", file=sys.stderr)
    if broken:                                             # and then no submission
        raise broken[-1]
    if args.zip:
        write_zip(args.zip, out, submission)


if __name__ == "__main__":
    run.command(main, parse_args())
