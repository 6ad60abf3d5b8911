"""
How long infer.py takes for a minute of video on this machine, and where the time goes.

    python benchmarks/infer.py                          # some minutes; nothing else running, please
    python benchmarks/infer.py --device cuda --seconds 600

One video of 398x224 at 25 fps is rendered from a seed; weights are random, which costs as much as
trained ones. "decode" is the video alone, up to clips of 2 frames a second; "spatial" and
"temporal" are the two transformers alone; "rest" is loading, merging, NMS, the files and the page;
"together" is the whole command on the video, decoding ahead while the network works, without
starting Python; "its CPU" is the processor time it takes on all cores, which depends less on what
else the machine does. Then what a denser --stride costs: only the temporal transformer runs more
often.
"""
import contextlib
import dataclasses
import io
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import infer  # noqa: E402
import model  # noqa: E402
from benchmarks.throughput import machine  # noqa: E402
from comedian import command, video  # noqa: E402
from comedian.checkpoint import save_checkpoint  # noqa: E402

MODELS = ("vivit_micro", "vivit_tiny", "vivit_small", "viswin_tiny")
FPS = 25


def render(path, seconds):
    """A pitch seen by a panning camera, with 22 moving players: codecs work as on a match."""
    rng = np.random.default_rng(0)
    grass = cv2.resize(rng.integers(60, 120, (28, 100, 3), np.uint8), (800, 224),
                       interpolation=cv2.INTER_CUBIC)
    grass[:, :, 1] += 60
    place, speed = rng.uniform(0, [800, 224], (22, 2)), rng.normal(0, 1.5, (22, 2))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), FPS, video.FRAME_SIZE)
    for i in range(round(seconds * FPS)):
        frame, place = grass.copy(), (place + speed) % [800, 224]
        for j, (x, y) in enumerate(place.astype(int).tolist()):
            cv2.rectangle(frame, (x, y), (x + 5, y + 12), [(20, 20, 200), (200, 40, 20)][j % 2], -1)
        left = round(200 + 200 * np.sin(i / 120))
        writer.write(frame[:, left:left + video.FRAME_SIZE[0]])
    writer.release()


class Clock:
    """Adds up the seconds that a function takes, wherever it is called."""

    def __init__(self, function, wait):
        self.function, self.wait, self.seconds = function, wait, 0.0

    def __call__(self, *arguments, **more):
        began = time.perf_counter()
        result = self.function(*arguments, **more)
        self.wait()
        self.seconds += time.perf_counter() - began
        return result


def seconds_of(work):
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def parts(args, half, checkpoint, folder, wait):
    """One repeat: {part: seconds} for the whole video."""
    options = infer.parse_args(["--video", half.path, "--checkpoint", checkpoint, "--out", folder,
                                "--device", args.device])
    took = {}
    took["decode"], clips = seconds_of(lambda: list(video.clips([half], options.batch, [])))
    spatial, temporal = (Clock(function, wait)
                         for function in (infer.encode_clips, infer.window_scores))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with mock.patch.object(video, "clips", lambda *_: iter(clips)), mock.patch.multiple(
                infer, encode_clips=spatial, window_scores=temporal):
            after, _ = seconds_of(lambda: infer.main(options))
        took |= {"spatial": spatial.seconds, "temporal": temporal.seconds,
                 "rest": after - spatial.seconds - temporal.seconds}
        cpu = time.process_time()
        took["together"], _ = seconds_of(lambda: infer.main(options))
        took["its CPU"] = time.process_time() - cpu
    return took


def main(args):
    device = torch.device(args.device)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    print(machine(device))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "match.mp4")
        render(path, args.seconds)
        half, = video.halves([str(path)])
        print(f"{args.seconds} s of 398x224 at {FPS} fps; seconds per minute of video, "
              f"median of {args.repeats} (least to most)\n")
        print(f"{'':12}" + "".join(f"{name:>20}" for name in (
            "decode", "spatial", "temporal", "rest", "together", "its CPU")))
        networks = {}
        for name in args.models:
            torch.manual_seed(0)
            networks[name] = model.Comedian(model.MODELS[name]).to(device).eval()
            checkpoint = str(Path(folder, f"{name}.pt"))
            save_checkpoint(checkpoint, stage=3, step=0,
                                  config=dataclasses.asdict(model.MODELS[name]),
                                  model=networks[name].state_dict())
            runs = [parts(args, half, checkpoint, folder, wait)
                    for _ in range(args.repeats + 1)][1:]              # the first one warms up
            columns = [[60 / args.seconds * run[part] for run in runs] for part in runs[0]]
            print(f"{name:12}" + "".join(
                f"{statistics.median(c):>8.2f} ({min(c):.2f}-{max(c):.2f})".rjust(20)
                for c in columns), flush=True)

        print("\ntemporal transformer by --stride, 5 minutes of tokens, seconds per minute "
              "of video")
        print(f"{'':12}" + "".join(f"{what:>20}" for what in ("half a window", "a quarter", "1")))
        for name, network in networks.items():
            window, cells = network.cfg.window_tokens, []
            h = torch.randn(300, network.cfg.width, device=device)
            for stride in (window // 2, window // 4, 1):
                times = []
                for _ in range(args.repeats + 1):
                    took, _ = seconds_of(partial(infer.window_scores,
                                                 infer.Network(network, stride, 0), h,
                                                 contextlib.nullcontext()))
                    times.append(took / 5)
                cells.append(f"{statistics.median(times[1:]):.3f}")
            print(f"{name:12}" + "".join(f"{cell:>20}" for cell in cells), flush=True)


if __name__ == "__main__":
    parser = command.Parser(__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=list(model.MODELS))
    parser.add_argument("--seconds", type=int, default=60, help="length of the video")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    main(parser.parse_args())
