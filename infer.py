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
        Labels-v2.json or labels.csv, beside them or at --labels: with them it prints the table
Writes  <out>/<match>/results_spotting.json  the actions, in SoccerNet's format
        <out>/<match>/scores.npz             windows' scores: comedian.evaluate --sweep reads them
        <out>/<match>/page.html, timeline_1.png   with --show, for --video always: to look at
        --zip: what the challenge server takes
        --features NAME: instead of all these, <match>/<half>_NAME.npy, a teacher for stage 2
Method  paper Sec. 3.4 (end), 4.1 and App. B: sliding windows with half overlap, seconds near a
        window's edge ignored, maximum of what is left, non-maximum suppression. Several networks
        are averaged per second before it (Tab. 9).

A clip's spatial token does not depend on its window. So each clip is encoded once, and only the
temporal transformer runs per window: the same scores as window by window, for half the work. A
match of any length needs little memory, because only the tokens of its clips are kept.

The time of an action is the mean time of its token's two frames, token_s * (k + 1/4) for token k.
What differs from the paper and the official code: docs/differences.md, docs/time.md. Letters and
terms: docs/method.md; N is the windows of a half, R the tokens of all halves of a match in one row.
"""
import itertools
from operator import itemgetter
from typing import NamedTuple

from comedian import DataError, augment, bank, evaluate, ops, results, run, soccernet, video
from comedian.checkpoint import load_parts, trained_parts
from comedian.frames import (
    CLIP_FRAMES, FrameReader, ahead, describe, find_halves, in_split, of_length)
from comedian.labels import clock_flag
from comedian.run import number
from model import Comedian, load_checkpoint

import numpy as np
import torch
import torch.nn.functional as F


# ------------------------------------------------------------------ options
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
    add("--start", type=clock_flag, default=0.0, metavar="MM:SS",
        help="where to begin in every video, as MM:SS or in seconds")
    add("--end", type=clock_flag, metavar="MM:SS",
        help="where to end; default: the end of the video")
    add("--split", help="spot only these games of --data: train, valid, test, challenge, several "
        "joined by +, or a text file with a game per line")
    results.add_post_flags(p)
    results.add_output_flags(p)
    add = p.add_argument_group("the machine").add_argument
    add("--batch", type=number(1, 65536), default=lambda given: clips_at_a_time(given.device),
        help="clips encoded at a time; default: 64 on a GPU, 16 on a CPU, whose caches hold no "
        "more")
    run.add_machine_flags(add)
    return results.check_flags(p, p.parse_args(argv))


# ------------------------------------------------------------------ frames -> clips
def frame_clips(halves, reader, batch):
    """Yields (half, clips (b, 2, H, W, 3) uint8) of halves that are folders of images."""
    for half in halves:
        for first in range(0, half.n_tokens, batch):
            clips = range(first, min(first + batch, half.n_tokens))
            yield half, reader.read([(half, CLIP_FRAMES * k) for k in clips], CLIP_FRAMES)


# ------------------------------------------------------------------ clips -> tokens
def clips_at_a_time(device):
    """How many clips to encode together: many on a GPU, on a CPU as many as its caches hold."""
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
        tokens = [[] for _ in models]                                            # (b, D) each
        for _, of_half in group:
            for model, parts in zip(models, tokens, strict=True):
                parts.append(encode_clips(model, of_half, device, autocast, flip))
        yield half, [torch.cat(parts) for parts in tokens]


def encode_both_ways(model, halves, reader, process):
    """The spatial tokens of every half, plain and mirrored: a list of (2, n_tokens, D)."""
    def encode(flip):
        clips = frame_clips(halves, reader, clips_at_a_time(process.device))
        encoded = encode_halves([model], clips, process.device, process.autocast(), flip)
        return [h for _, (h,) in encoded]

    return [torch.stack(pair) for pair in zip(encode(False), encode(True), strict=True)]


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
    """A model, and the stride of its windows and the tokens ignored when they are merged."""
    model: Comedian
    stride: int                       # tokens from window to window
    ignore: int                       # tokens ignored at each edge of a window


def as_network(model, args):
    """The Network of a model with --stride and --ignore; unless given they follow its window."""
    ops.require_build()                                    # now, not when hours have passed
    window = model.cfg.window_tokens
    stride = args.stride or max(1, window // 2)
    ignore = ops.default_ignore(window) if args.ignore is None else args.ignore
    if stride + 2 * ignore > window:
        raise DataError(f"--stride {stride} with --ignore {ignore} leaves seconds that no window "
                        f"of {window} scores; give --stride + 2 * --ignore of at most {window}")
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
    """Scores per second (n_tokens, K): per network the maximum (--merge mean: the mean) over the
    windows that have the second, but for their outer `ignore` tokens, which count at the ends of
    the half alone; then the mean of the networks. windows: per network (scores, starts), which may
    differ in length and stride."""
    merged = [ops.merge_windows(scores, starts, half=torch.zeros_like(starts),
                                length=torch.tensor([n_tokens]), edge=network.ignore, mode=mode)
              for network, (scores, starts) in zip(networks, windows, strict=True)]
    return torch.stack(merged).mean(0)


def score_halves(networks, encoded, autocast, mode):
    """Yields (half, windows, merged): per network the scores of its windows and where they start,
    and the merged scores per second (n_tokens, K). encoded: pairs (half, [h per network]), from
    `encode_halves`."""
    for half, tokens in encoded:
        windows = [window_scores(network, h, autocast)
                   for network, h in zip(networks, tokens, strict=True)]
        yield half, windows, merge_half(networks, windows, len(tokens[0]), mode)


# ------------------------------------------------------------------ scores -> actions
def spot(halves, merged, args, start_s=0.0):
    """The actions of one match as Detections, sorted by half, class and time. Of each class the
    best score is an action; its neighbours within half of --nms-window lose score, the nearer the
    more (hard NMS: all of it); then the best of what is left, and so on down to --threshold.

    halves: its halves; merged: per half the scores per second (n_tokens, K); start_s: the time of
    token 0 in its video. Token k is reported at start_s + token_s * (k + 1/4). NMS runs half by
    half, because their rates may differ.
    """
    length = torch.tensor([len(scores) for scores in merged])
    kept = torch.cat([ops.NMS[args.nms](scores, n[None], args.nms_window / half.token_s,
                                        args.threshold)
                      for half, scores, n in zip(halves, merged, length, strict=True)])    # (R, K)
    index, label, token, confidence = (column.numpy() for column in ops.detections(kept, length))
    half_number = np.array([half.number for half in halves])[index]              # (n,)
    token_s = np.array([half.token_s for half in halves])[index]
    position_ms = evaluate.token_ms(token, token_s, start_s)
    return soccernet.Detections(half_number, label, position_ms, confidence.astype(np.float64))


def spot_match(rows, outcome):
    """The rows of a match, (half, windows, merged) from `score_halves`, in a list, and its
    actions. With --show the actions of a half are printed as soon as it is scored."""
    args, spotted = outcome.args, []
    for half, windows, merged in rows:
        spotted.append((half, windows, merged))
        if args.show is not None:     # the same actions as below: NMS never crosses halves
            outcome.print_half(half, spot([half], [merged], args, args.start))
    halves, _, merged = zip(*spotted, strict=True)
    return spotted, spot(halves, merged, args, args.start)


# ------------------------------------------------------------------ for stage 3
def open_validation(model, process):
    """Opens the data of --valid: (halves, {match: events}) for `validate`."""
    args = process.args
    as_network(model, args)                    # refuses --stride and --ignore now, before training
    return soccernet.labelled_halves(
        args.valid, args.valid_labels or args.valid, args.valid_split, model.cfg.classes,
        image_size=model.cfg.image_size, encoding=args.encoding)[:2]


def validate(model, halves, events, reader, process):
    """t-AmAP in [0, 1] of the model as trained so far; it spots as `main` does with these flags."""
    network, autocast = as_network(model.eval(), process.args), process.autocast()
    predictions = {}
    clips = frame_clips(halves, reader, clips_at_a_time(process.device))
    encoded = encode_halves([model], clips, process.device, autocast)
    scored = score_halves([network], encoded, autocast, process.args.merge)
    for match, rows in itertools.groupby(scored, key=lambda row: row[0].match):
        of_match, _, merged = zip(*rows, strict=True)
        predictions[match] = spot(of_match, merged, process.args)
    return evaluate.score(events, predictions, model.cfg.classes)["tight"]["a_mAP"]


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


def write_features(args, halves, rank, ranks, device):
    """--features: writes a feature of every second, <out>/<match>/<half>_NAME.npy: the tokens in
    context, or those of the spatial encoder if only that is trained."""
    models, stages = zip(*(load_network(path, device) for path in args.checkpoint), strict=True)
    autocast, bf16 = run.choose_autocast(args.bf16, device, models)
    for model, stage in zip(models, stages, strict=True):
        print(f"features: {model.cfg.model}, {model.cfg.width} wide, "
              + (f"tokens of the temporal transformer, windows of {model.cfg.window_tokens}"
                 if stage > 1 else "tokens of the spatial encoder"))

    def encode(halves):
        clips = frame_clips(halves, FrameReader(args.workers), args.batch)
        for half, encoded in encode_halves(models, clips, device, autocast):
            with autocast:
                tokens = [in_context(model, h) if stage > 1 else h               # (n_tokens, D)
                          for model, stage, h in zip(models, stages, encoded, strict=True)]
            yield half, bank.per_second(bank.side_by_side(tokens), half)

    with run.stoppable(lambda: "stopped; the same command continues from here"), run.locked(
            args.out, rank):
        bank.write_missing(args.out, args.features, bank.made_by(args.checkpoint, bf16), halves,
                           sum(model.cfg.width for model in models), encode, rank, ranks,
                           run.barrier)


# ------------------------------------------------------------------ run
def load_network(path, device):
    """The network of a checkpoint on `device`, in evaluation mode, and the stage that trained it:
    what that stage did not train is random."""
    state = load_checkpoint(path)
    model = Comedian(state["config"])
    parts = [""] if state["stage"] == 3 else trained_parts(state)     # "": all weights
    load_parts(model, state, parts, path)
    return model.to(device).eval(), state["stage"]


def load_networks(args, device):
    """A Network per checkpoint of stage 3; all must have the same classes."""
    networks = []
    for path in args.checkpoint:
        model, stage = load_network(path, device)
        if stage != 3:
            raise DataError(f"{path}: comes from stage {stage} and has no trained head; "
                            "--checkpoint wants one of stage 3")
        networks.append(as_network(model, args))
        if model.cfg.classes != networks[0].model.cfg.classes:
            raise DataError(f"{path}: has other classes than {args.checkpoint[0]}, or in another "
                            "order; only networks of the same classes can be averaged")
    return networks


def main(args):
    rank, ranks, device = run.join_processes(args.device)  # under torchrun, one of many
    if args.video:
        halves = video.halves(args.video, args.start, args.end)
        video.describe(halves)
    else:
        halves = find_halves(args.data)
        if args.split:
            halves = in_split(halves, args.split, args.data, complete=bool(args.zip))
        print(describe(halves, args.data))
        halves = of_length(halves, 1, "one clip")
    if args.features:
        return write_features(args, halves, rank, ranks, device)

    # -- networks
    networks = load_networks(args, device)
    models = [network.model for network in networks]
    autocast, bf16 = run.choose_autocast(args.bf16, device, models)

    # -- spot, match by match
    with results.Results(args, halves, models[0].cfg.classes, bf16, rank, ranks) as outcome:
        clips = (video.clips(outcome.mine, args.batch, outcome.broken) if args.video else
                 frame_clips(outcome.mine, FrameReader(args.workers), args.batch))
        encoded = encode_halves(models, outcome.watch(clips), device, autocast)
        scored = score_halves(networks, encoded, autocast, args.merge)
        for match, rows in itertools.groupby(scored, key=lambda row: row[0].match):
            outcome.write(match, *spot_match(rows, outcome))
    outcome.finish()


if __name__ == "__main__":
    run.run_as_command(main, parse_args())
