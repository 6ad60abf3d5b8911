"""
Inference: every half -> scores per second and class -> spotted actions,
and the metric if there are labels.

    python infer.py --data frames/test --checkpoint runs/stage3/best.pt --out runs/test

Reads   <data>/**/1_224p/00000001.jpg ...    frames, any layout data.py knows
        <data>/**/Labels-v2.json             if there (or below --labels): then the table is printed
Writes  <out>/<match>/results_spotting.json  the actions, in SoccerNet's format
        <out>/<match>/scores.npz             windows' scores: evaluate.py --sweep starts from them
Method  paper Sec. 3.4 (end), 4.1 and App. B: sliding windows with half overlap, seconds near a
        window's edge ignored, maximum of what is left, non-maximum suppression.

A clip's spatial token does not depend on the window it is seen in. So each clip is encoded
once per half and only the temporal transformer runs per window: the same scores as window
by window, for half the work.

Differences from the official code: the last seconds of a half are scored
(there, a unit bug drops them).
"""
import argparse
import itertools
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import augment
import data
import evaluate
import ops
from model import Comedian
from run import device_name, number
from weights import config_of, load_checkpoint, load_parts


# ------------------------------------------------------------------ options
def parse_args(argv=None):
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = p.add_argument
    add("--data", required=True, help="folder with frames, any layout data.py knows")
    add("--checkpoint", required=True, help="stage 3's best.pt or last.pt")
    add("--labels", help="root of the labels; default: --data")
    add("--chance", action="store_true", help="beside the table, what chance reaches (evaluate.py)")
    add("--json", metavar="FILE", help="write every number of the table here (evaluate.py)")
    add("--out", default="runs/infer",
        help="folder for results_spotting.json and scores.npz per match")
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
    add("--batch", type=number(1), default=256, help="clips encoded at a time")
    add("--bf16", action=argparse.BooleanOptionalAction, default=None,
        help="bfloat16 autocast; None = where a CUDA device has it")
    add("--workers", type=number(0), default=0, help="decoding threads; 0 = one per core")
    add("--device", type=device_name, default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda, cuda:1, ...")
    return p.parse_args(argv)


# ------------------------------------------------------------------ frames -> scores
@torch.no_grad()
def encode_halves(model, halves, reader, device, autocast, batch=256, flip=False):
    """Yields (half, h): h (n_tokens, D) float32 on `device`, the spatial tokens of all its clips.

    Decodes ahead while the network works. flip: mirror the frames (stage 3 caches both).
    """
    jobs = [(half, range(first, min(first + batch, half.n_tokens)))
            for half in halves for first in range(0, half.n_tokens, batch)]

    def load(job):
        half, clips = job
        return reader.read([(half, data.CLIP_FRAMES * k) for k in clips], data.CLIP_FRAMES)

    model.eval()
    tokens = []
    for (half, clips), frames in zip(jobs, data.ahead(load, jobs), strict=True):   # (b, 2, H, W, 3)
        x = augment.resize(augment.to_float(frames, device), model.cfg.image_size)
        if flip:
            x = x.flip(4)
        with autocast:
            tokens.append(model.encode(augment.normalize(x, model.cfg.normalize_per_frame)).float())
        if clips.stop == half.n_tokens:
            yield half, torch.cat(tokens)                                            # (n_tokens, D)
            tokens = []


@torch.no_grad()
def window_scores(model, h, stride, autocast, batch=64):
    """Spatial tokens h (n_tokens, D) of a half -> scores (N, L, K) in [0, 1], starts (N,), on CPU.

    A half shorter than the window is one window, padded with zeros that merging leaves out.
    """
    length = model.cfg.window_tokens
    starts = data.window_starts(len(h), length, stride)
    windows = torch.stack([h[s:s + length] for s in starts])                          # (N, L, D)
    scores = []
    for part in windows.split(batch):
        with autocast:
            scores.append(torch.sigmoid(model.spot(model.contextualize(part)).float()).cpu())
    scores = torch.cat(scores)                                                        # (N, L, K)
    scores = torch.nn.functional.pad(scores, (0, 0, 0, length - scores.shape[1]))
    return scores, torch.tensor(starts)


def stack_halves(per_half):
    """[(scores (N_i, L, K), starts (N_i,), n_tokens)]
    -> the arguments of ops.merge_windows, end to end."""
    scores, starts, lengths = zip(*per_half, strict=True)
    half = torch.repeat_interleave(torch.arange(len(scores)),
                                   torch.tensor([len(s) for s in starts]))
    return torch.cat(scores), torch.cat(starts), half, torch.tensor(lengths)


# ------------------------------------------------------------------ scores -> actions
def default_ignore(window):
    """12 s of 64 and 6 of 32, the paper's choices, and in proportion."""
    return window * 3 // 16


def detect(windows, token_s=1.0, ignore=None, merge="max", nms="soft", nms_window=10,
           threshold=0.001):
    """Window scores -> actions: half index (n,), class (n,), token (n,), confidence (n,).

    windows: as `stack_halves` returns them. ignore in tokens, nms_window in seconds.
    """
    scores, start, half, length = windows
    ignore = default_ignore(scores.shape[1]) if ignore is None else ignore
    merged = ops.merge_windows(scores, start, half, length, ignore, merge)            # (S, K)
    kept = evaluate.NMS[nms](merged, length, nms_window / token_s, threshold)         # (S, K)
    return ops.detections(kept, length)


def as_detections(halves, spotted):
    """What `detect` found in these halves of one match, as data.Detections with times in ms."""
    which, label, token, confidence = (column.numpy() for column in spotted)
    number = np.array([half.number for half in halves])[which]
    token_ms = np.array([1000 * half.token_s for half in halves])[which]
    return data.Detections(number, label, np.round(token * token_ms), confidence.astype(np.float64))


# ------------------------------------------------------------------ run
def main(args):
    device = torch.device(args.device)
    bf16 = (args.bf16 if args.bf16 is not None
            else device.type == "cuda" and torch.cuda.is_bf16_supported())
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)

    # -- data
    halves = data.find_halves(args.data)
    print(data.describe(halves, args.data))
    halves = data.of_length(halves, 1, "one clip")

    # -- network
    checkpoint = load_checkpoint(args.checkpoint)
    if checkpoint["stage"] != 3:
        raise data.DataError(f"{args.checkpoint}: comes from stage {checkpoint['stage']} "
                             "and has no trained head; --checkpoint wants one of stage 3")
    cfg = config_of(checkpoint)
    model = Comedian(cfg)
    load_parts(model, checkpoint, [""], args.checkpoint)
    model = model.to(device).eval()
    stride = args.stride or max(1, cfg.window_tokens // 2)
    ignore = default_ignore(cfg.window_tokens) if args.ignore is None else args.ignore
    if not 1 <= stride <= cfg.window_tokens - 2 * ignore:
        raise data.DataError(f"--stride {stride} with --ignore {ignore} leaves seconds "
                             f"that no window of {cfg.window_tokens} scores; "
                             "--stride + 2 * --ignore must not exceed it")

    # -- spot
    out, reader, since = Path(args.out), data.FrameReader(args.workers), time.time()
    encoded = encode_halves(model, halves, reader, device, autocast, args.batch)
    bar = tqdm(encoded, desc="infer", total=len(halves), unit="half", disable=None)
    for match, group in itertools.groupby(bar, key=lambda pair: pair[0].match):
        group = [(half, *window_scores(model, h, stride, autocast), half.n_tokens)
                 for half, h in group]
        of_match = [half for half, *_ in group]
        (out / match).mkdir(parents=True, exist_ok=True)
        np.savez(out / match / "scores.npz", classes=np.array(cfg.classes), url_local=match,
                 token_s=of_match[0].token_s,
                 **{f"windows_{half.number}": scores.numpy() for half, scores, _, _ in group},
                 **{f"starts_{half.number}": starts.numpy() for half, _, starts, _ in group},
                 **{f"tokens_{half.number}": n for half, _, _, n in group})
        spotted = detect(stack_halves([rest for _, *rest in group]), of_match[0].token_s,
                         ignore, args.merge, args.nms, args.nms_window, args.threshold)
        data.write_predictions(out / match / evaluate.PREDICTIONS, match,
                               as_detections(of_match, spotted), cfg.classes)
    hours = sum(half.n_frames / half.fps for half in halves) / 3600
    print(f"infer: {hours:.2f} h of video in {time.time() - since:.1f} s; "
          f"{out}/<match>/results_spotting.json")

    # -- score, if there is a truth
    labels = args.labels or args.data
    if any((Path(labels) / half.match / evaluate.LABELS).exists() for half in halves):
        evaluate.main(evaluate.parse_args(
            ["--predictions", str(out), "--labels", labels, "--only-predicted"]
            + ["--chance"] * args.chance
            + (["--json", args.json] if args.json else [])), cfg.classes)


if __name__ == "__main__":
    try:
        main(parse_args())
    except (data.DataError, OSError) as error:     # an OSError names its file, too
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
