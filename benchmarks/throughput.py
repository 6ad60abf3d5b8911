"""
Clips a second of each stage, part by part and all together; and what each trick of a step gains.

    make demo                                          # makes the frames of the lines below
    python benchmarks/throughput.py                    # CPU, vivit_micro, some minutes
    python benchmarks/throughput.py --device cuda --model vivit_tiny --data frames/ \
        --features-name pca_512_std_baidu_soccer_embeddings --negatives 65536 \
        --batches 1024 32 64 --window 64

Parts: decoding JPEGs into uint8 on the host; the views of a batch, from there; the step, from views
that lie on the device; and all of them together as in the stages, which read ahead for a GPU. A CPU
has no idle core for that: both are shown. They take turns, so that a slow minute of the machine
hits all of them. A clip of stage 1 is counted once, though it is seen as two views.

Together is compared with the slowest part, and with what the device can do: views and step follow
each other on it, only decoding runs beside them. On a CPU decoding takes time from the other two as
well. On a machine with other work, trust the CPU milliseconds.
"""
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import steps  # noqa: E402

from comedian import DataError, augment, command, run  # noqa: E402
from comedian.bank import Bank, open_features  # noqa: E402
from comedian.frames import (  # noqa: E402
    CLIP_FRAMES, FrameReader, ahead, describe, find_halves, of_length)
from model import MODELS  # noqa: E402


class Timer:
    """Wall and CPU seconds (of all threads) of what runs inside; waits for the GPU."""

    def __init__(self, device):
        self.device = device

    def now(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return np.array([time.perf_counter(), time.process_time()])

    def __enter__(self):
        self.start = self.now()
        return self

    def __exit__(self, *error):
        self.seconds = self.now() - self.start


def maker(stage, args, bank, **tricks):
    """view and learn of a stage at the benchmark's sizes."""
    device, batch = args.device, args.batches[stage - 1]
    bf16 = tricks.pop("bf16", device.type == "cuda")
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
    tricks.setdefault("fused", device.type == "cuda")                 # as the stages have it
    cfg = MODELS[args.model]
    if stage == 1:
        return steps.make_stage1(cfg, batch, device, autocast, args.negatives, **tricks)
    if stage == 2:
        return steps.make_stage2(cfg, batch, args.window, device, autocast, bank, **tricks)
    return steps.make_stage3(cfg, batch, args.window, device, autocast, **tricks)


def loader(stage, args, halves):
    """load(step) -> frames (B, T, H, W, 3): random clips or windows, a function of the step."""
    reader = FrameReader(args.workers, for_gpu=args.device.type == "cuda")
    n_frames = CLIP_FRAMES * (1 if stage == 1 else args.window)
    batch = args.batches[stage - 1]

    def load(step):
        rng = np.random.default_rng([stage, step])
        chosen = [halves[h] for h in rng.integers(len(halves), size=batch)]
        return reader.read([(half, int(rng.integers(half.n_frames - n_frames + 1)))
                            for half in chosen], n_frames)
    return load


# ----- clips a second -----------------------------------------------------------------------------
def parts_of(stage, args, halves, bank):
    """{part: [(wall, CPU) seconds a step, of each turn]}."""
    view, learn = maker(stage, args, bank)
    load = loader(stage, args, halves)
    frames, n = load(0), args.steps
    x = view(frames, augment.Draws(0, 0, len(frames)))
    clock, turns = Timer(args.device), {}

    def decode(turn):
        for i in range(n):
            load(turn * n + i)

    def augmentation(turn):
        for i in range(n):
            view(frames, augment.Draws(0, turn * n + i, len(frames)))

    def step(turn):
        for _ in range(n):
            learn(x)

    def together(turn, depth=2 if args.device.type == "cuda" else 0):
        """As the stages do. One step is not timed: then as many batches are at hand at the start as
        at the end."""
        batches = map(load, range(turn * n, turn * n + n + 4))
        batches = ahead(batches, depth) if depth else batches

        def one_step():
            batch = next(batches)
            learn(view(batch, augment.Draws(0, turn, len(batch))))

        one_step()
        with clock:
            for _ in range(n):
                one_step()
        if depth:
            batches.close()

    def the_other_way(turn):
        together(turn, depth=0 if args.device.type == "cuda" else 2)

    for turn in range(args.turns + 1):
        for name, part in (("decode alone", decode), ("augmentation alone", augmentation),
                           ("step alone", step)):
            with clock:
                part(turn)
            turns.setdefault(name, []).append(clock.seconds / n)
        for name, part in (("all together", together), (OTHER[args.device.type], the_other_way)):
            part(turn)
            turns.setdefault(name, []).append(clock.seconds / n)
    return {name: seconds[1:] for name, seconds in turns.items()}      # the first turn warms up


OTHER = {"cuda": "... not read ahead", "cpu": "... read ahead"}


def table(stage, args, turns):
    batch = args.batches[stage - 1]
    clips = batch * (1 if stage == 1 else args.window)
    what = f"{batch} clips" if stage == 1 else f"{batch} windows of {args.window} clips"
    print(f"stage {stage}, {args.model}, {args.device.type}, {what} a step")
    print(f"  {'':22}{'clips/s':>9}{'min':>9}{'max':>9}{'CPU ms/clip':>13}")
    for name, seconds in turns.items():
        wall, cpu = zip(*seconds, strict=True)
        print(f"  {name:22}{clips / statistics.median(wall):9,.0f}{clips / max(wall):9,.0f}"
              f"{clips / min(wall):9,.0f}{1000 * statistics.median(cpu) / clips:13.2f}")
    wall, cpu = ({name: statistics.median(s[i] for s in seconds)
                  for name, seconds in turns.items()} for i in (0, 1))
    alone = [name for name in turns if name.endswith("alone")]
    slowest = max(alone, key=wall.get)
    device = max(wall["decode alone"], wall["augmentation alone"] + wall["step alone"])
    print(f"  together is {wall[slowest] / wall['all together']:.2f} of {slowest}, "
          f"{device / wall['all together']:.2f} of what the device can do "
          f"({clips / device:,.0f}); CPU seconds "
          f"x {cpu['all together'] / sum(cpu[name] for name in alone):.2f} of the parts'\n",
          flush=True)


# ----- what each trick gains ----------------------------------------------------------------------
TRICKS = (("bfloat16 autocast", {"bf16": True}, {"bf16": False}),
          ("fused AdamW", {"fused": True}, {"fused": False}),
          ("momentum in one call", {"foreach": True}, {"foreach": False}),
          ("both views in one pass", {"one_pass": True}, {"one_pass": False}),
          ("torch.compile", {"compiled": True}, {"compiled": False}))


def tricks(args, halves):
    """Stage 1's step with each trick on and off, all else as the stages have it."""
    print(f"stage 1's step, {args.model}, {args.device.type}, ms (CPU ms), median of "
          f"{args.turns} turns")
    print(f"  {'':24}{'on':>18}{'off':>18}{'off / on':>10}{'CPU':>8}")
    frames = loader(1, args, halves)(0)
    clock = Timer(args.device)
    for name, on, off in TRICKS:
        seconds = {}
        runs = {}
        for state, flags in (("on", on), ("off", off)):
            view, learn = maker(1, args, None, **flags)
            runs[state] = learn, view(frames, augment.Draws(0, 0, len(frames)))
        for turn in range(args.turns + 1):
            for state, (learn, x) in runs.items():
                with clock:
                    for _ in range(args.steps):
                        learn(x)
                if turn:                                              # the first compiles, warms up
                    seconds.setdefault(state, []).append(clock.seconds / args.steps)
        middle = {state: 1000 * np.median(s, axis=0) for state, s in seconds.items()}
        gain = middle["off"] / middle["on"]
        print(f"  {name:24}" + "".join(f"{f'{w:,.1f} ({c:,.1f})':>18}" for w, c in middle.values())
              + f"{gain[0]:10.2f}{gain[1]:8.2f}", flush=True)


# ----- report -------------------------------------------------------------------------------------
def machine(device):
    name = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo")
                 if line.startswith("model name")), platform.processor())
    name = f"{torch.cuda.get_device_name(device)}, {name}" if device.type == "cuda" else name
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return (f"{name}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the start (other "
            f"work beside); Python {platform.python_version()}, torch {torch.__version__}, commit "
            f"{commit.stdout.strip() or 'unknown'}; {torch.get_num_threads()} torch threads")


def main():
    p = command.Parser(__doc__)
    p.add_argument("--data", default="data/demo", help="frames; the demo's by default")
    p.add_argument("--features", default="runs/demo-0/features", help="root of stage 2's bank")
    p.add_argument("--features-name", default="teacher", help="its name")
    p.add_argument("--model", default="vivit_micro", choices=MODELS)
    p.add_argument("--device", type=torch.device, default="cpu")
    p.add_argument("--batches", type=int, nargs=3, default=[128, 8, 8],
                   help="clips a step in stage 1, windows a step in stages 2 and 3")
    p.add_argument("--negatives", type=int, default=0,
                   help="in stage 1's queue; 0 = those of the batch, as in the demo")
    p.add_argument("--window", type=int, default=32, help="clips of a window")
    p.add_argument("--steps", type=int, default=5, help="of every part in every turn")
    p.add_argument("--turns", type=int, default=5)
    p.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    p.add_argument("--workers", type=int, default=0, help="that decode; 0 = one per core")
    args = p.parse_args()
    run.keep_freed_memory()                                           # as the stages do
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    try:
        halves = of_length(find_halves(args.data), args.window, "a window")
        features = [open_features(args.features, half, args.features_name) for half in halves]
    except DataError as error:
        sys.exit(f"error: {error}")
    bf16 = args.device.type == "cuda"
    bank = Bank(features, halves, args.device,
                torch.bfloat16 if bf16 else torch.float32).rows                   # (M, D_t)
    print(machine(args.device))
    print(f"{describe(halves, args.data)}; bank of {len(bank):,} x {bank.shape[1]}\n")
    for stage in (1, 2, 3):
        table(stage, args, parts_of(stage, args, halves, bank))
    tricks(args, halves)
    if args.device.type == "cpu":
        for model in ("vivit_tiny", "viswin_tiny"):
            print(f"\n{model} on a GPU: not measured: run `python benchmarks/throughput.py "
                  f"--device cuda --model {model}`", end="")
        print()


if __name__ == "__main__":
    main()
