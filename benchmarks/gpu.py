"""
Everything that needs a GPU to be known, in one command: speed, memory, equality, resume, hours.

    make gpu                                            # or: python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --small       # the rehearsal: a minute on two cores

One table, less than 20 minutes; keep it as benchmarks/gpu.txt. Needs no network and no data:
frames, labels and features are made up, weights are random, which costs as much as trained ones.
What fails or would begin after --minutes is a line that says so, and the others follow.

A floor is what the device cannot beat: the operations of a step, counted by torch as it runs
(2 for a multiply-add), over the rate of a large matrix product in bfloat16 measured here, plus the
bytes that AdamW must read and write over the bandwidth of a large copy.
"""
import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
import bank  # noqa: E402
import memory  # noqa: E402
import steps  # noqa: E402
import throughput  # noqa: E402

import infer  # noqa: E402
from benchmarks.infer import render  # noqa: E402
from comedian import augment  # noqa: E402
from comedian.command import Parser  # noqa: E402
from comedian.frames import CLIP_FRAMES, FrameReader, ahead, find_halves  # noqa: E402
from comedian.checkpoint import save_checkpoint  # noqa: E402
from model import MODELS, Comedian  # noqa: E402

# Clips of one pass (stage 2 and 3: whole windows of 64), which fit 24 GB: see memory.txt.
PASS = {"vivit_tiny": (512, 8 * 64, 8 * 64), "viswin_tiny": (128, 4 * 64, 4 * 64)}
PAPER = (1024, 32 * 64, 64 * 64)      # clips a step
MATCHES = 300                         # of the recipe whose hours are computed
# Clips that a stage learns from, of each match: docs/training.md, 'Hours'. In stage 3's head phase
# nothing below the head has a backward, so that its clips count as a third.
CLIPS = (5400 * 100, 75 * 64 * 100, 50 * 64 * (20 + 30 / 3))


def say(what, value, beside=""):
    print(f"  {what:52}{value:>16}  {beside}".rstrip(), flush=True)


class Setting:
    """The sizes of a run, and what one section leaves for the next."""

    def __init__(self, args, folder):
        self.device, self.small, self.folder = args.device, args.small, Path(folder)
        self.cuda = args.device.type == "cuda"
        self.autocast = torch.autocast(args.device.type, torch.bfloat16, enabled=self.cuda)
        self.models = ["vivit_micro"] if args.small else ["vivit_tiny", "viswin_tiny"]
        self.window = 4 if args.small else 64
        self.turns = 1 if args.small else 5
        self.rate = self.bandwidth = None            # operations and bytes a second, measured
        self.clips_per_s = {}                        # {(model, stage): with JPEGs, else without}

    def pass_of(self, model):
        return (4, 2 * self.window, 2 * self.window) if self.small else PASS[model]

    def seconds(self, work, turns=None):
        """The median of several calls, after one that warms up; waits for the GPU."""
        taken, clock = [], throughput.Timer(self.device)
        for _ in range((turns or self.turns) + 1):
            with clock:
                work()
            taken.append(clock.seconds[0])
        return statistics.median(taken[1:])


# ----- 1. what the device can do ------------------------------------------------------------------
def limits(s):
    n = 256 if s.small else 8192
    for kind in (torch.bfloat16, torch.float32):
        a = torch.randn(n, n, device=s.device, dtype=kind)
        rate = 2 * n ** 3 / s.seconds(lambda a=a: a @ a)
        say(f"matrix product, {n} x {n}, {str(kind)[6:]}", f"{rate / 1e12:,.1f} T/s")
        if kind == (torch.bfloat16 if s.cuda else torch.float32):
            s.rate = rate
    x = torch.zeros(2 ** (20 if s.small else 28), device=s.device)
    y = torch.empty_like(x)
    s.bandwidth = 2 * x.numel() * 4 / s.seconds(lambda: y.copy_(x))
    say("bandwidth of a copy, read and written", f"{s.bandwidth / 1e9:,.0f} GB/s")


# ----- 2. steps -----------------------------------------------------------------------------------
def make(s, model, stage, **tricks):
    """view, learn and how many windows (stage 1: clips) a pass of this stage has."""
    cfg, clips = MODELS[model], s.pass_of(model)[stage - 1]
    if stage == 1:
        queue = 64 if s.small else 65536
        return *steps.make_stage1(cfg, clips, s.device, s.autocast, queue, **tricks), clips
    n = clips // s.window
    if stage == 2:
        rows = torch.nn.functional.normalize(torch.randn(
            max(clips, 2 * steps.stage2.CHUNK if s.cuda else 64), 512, device=s.device), dim=1)
        rows = rows.to(torch.bfloat16 if s.cuda else torch.float32)
        return *steps.make_stage2(cfg, n, s.window, s.device, s.autocast, rows, **tricks), n
    return *steps.make_stage3(cfg, n, s.window, s.device, s.autocast, **tricks), n


def step_alone(s, model, stage):
    """Views and step of frames that lie on the device; the floor; the memory."""
    clips = s.pass_of(model)[stage - 1]
    if s.cuda:
        torch.cuda.reset_peak_memory_stats(s.device)
    view, learn, n = make(s, model, stage)
    frames = torch.randint(0, 256, (n, CLIP_FRAMES * clips // n, 224, 398, 3), dtype=torch.uint8,
                           device=s.device)
    x = view(frames, augment.Draws(0, 0, n))
    learn(x)
    with FlopCounterMode(display=False) as counted:
        learn(x)
    weights = sum(p.numel() for p in Comedian(MODELS[model]).parameters())
    floor = counted.get_total_flops() / s.rate + 4 * 7 * weights / s.bandwidth
    both = s.seconds(lambda: learn(view(frames, augment.Draws(0, 0, n))))
    step = s.seconds(lambda: learn(x))
    s.clips_per_s[model, stage] = clips / both
    say(f"stage {stage}, {model}, {clips:,} clips a pass", f"{clips / both:,.0f} clips/s",
        f"step alone {clips / step:,.0f}, floor {clips / floor:,.0f}: {floor / step:.2f} of it")
    if s.cuda:
        computed = computed_bytes(model, stage, clips, len_bank=2 * steps.stage2.CHUNK)
        peak = torch.cuda.max_memory_allocated(s.device) - frames.numel()
        say("  its peak memory, without the frames", f"{peak / 1e9:,.1f} GB",
            f"computed {computed / 1e9:,.1f} GB (memory.txt)" if computed else "")


def computed_bytes(model, stage, clips, len_bank):
    """What memory.txt says, with a bank of so many rows in place of 300 matches'; None if it does
    not have it."""
    for line in Path(memory.__file__).with_suffix(".txt").read_text().splitlines():
        if line.startswith(f"{stage}, {model} "):
            fixed, each = (float(cell) for cell in line.split()[2:4])
            off = (memory.BANK_ROWS - len_bank) * memory.WIDTH * 2 if stage == 2 else 0
            return 1e9 * fixed + 1e6 * each * clips - off
    return None


def from_jpegs(s, model, stage):
    """All together, as the stages do it: decoded, augmented, learned."""
    halves = find_halves(s.folder / "frames")
    view, learn, n = make(s, model, stage)
    clips = s.pass_of(model)[stage - 1]
    reader, length = FrameReader(0, for_gpu=s.cuda), CLIP_FRAMES * clips // n
    rng = np.random.default_rng(0)

    def load(step):
        return reader.read([(halves[0], int(first)) for first in rng.integers(
            0, halves[0].n_frames - length + 1, n)], length)

    n_steps = 2 if s.small else 6
    batches = map(load, range(2 + n_steps))
    batches = ahead(batches) if s.cuda else batches
    clock = throughput.Timer(s.device)
    learn(view(next(batches), augment.Draws(0, 0, n)))
    with clock:
        for _ in range(n_steps):
            learn(view(next(batches), augment.Draws(0, 0, n)))
    s.clips_per_s[model, stage] = clips * n_steps / clock.seconds[0]
    say(f"stage {stage}, {model}, from JPEGs", f"{s.clips_per_s[model, stage]:,.0f} clips/s",
        f"{os.cpu_count()} CPU cores decode")


def gains(s, model):
    """Stage 1's step with each trick on and off, all else as the stage has it."""
    clips = s.pass_of(model)[0]
    for name, on, off in throughput.TRICKS:
        if "compiled" in on and s.small:
            continue
        taken = []
        for tricks in (dict(on), dict(off)):
            bf16 = tricks.pop("bf16", s.cuda)
            kept = s.autocast
            s.autocast = torch.autocast(s.device.type, torch.bfloat16, enabled=bf16)
            _, learn, _ = make(s, model, 1, **tricks)
            s.autocast = kept
            size = MODELS[model].image_size
            taken.append(s.seconds(partial(learn, torch.rand(2 * clips, 2, 3, size, size,
                                                             device=s.device))))
        say(f"{model}, {name}", f"x {taken[1] / taken[0]:.2f}",
            f"{1000 * taken[0]:,.1f} ms on, {1000 * taken[1]:,.1f} off")


# ----- 3. the bank --------------------------------------------------------------------------------
def complete_bank(s):
    """Stage 2's loss and gradient over all rows, beside the official code's queue."""
    rows, queue = (4096, 512) if s.small else (1_600_000, bank.QUEUE)
    args = argparse.Namespace(tokens=128 if s.small else 2048, width=512, device=s.device,
                              dtype=torch.bfloat16 if s.cuda else torch.float32)
    for name, n in (("products", rows), ("complete", rows), ("queue", queue)):
        run = bank.VARIANTS[name](args, n)
        before = torch.cuda.memory_allocated(s.device) if s.cuda else 0
        if s.cuda:
            torch.cuda.reset_peak_memory_stats(s.device)
        taken = s.seconds(run)
        beside = (torch.cuda.max_memory_allocated(s.device) - before) / 2 ** 20 if s.cuda else 0
        say(f"stage 2's loss, {name}, {n:,} rows, {args.tokens:,} tokens",
            f"{1000 * taken:,.0f} ms", f"{beside:,.0f} MiB beside" if s.cuda else "")


# ----- 4. the same numbers ------------------------------------------------------------------------
def equal_to_cpu(s):
    """Tokens, logits and gradients in float32 on the device, beside those of the CPU."""
    torch.manual_seed(0)
    for model in s.models:
        cfg = MODELS[model]
        on_cpu = Comedian(cfg).eval()
        x = torch.rand(2, 4, 3, cfg.image_size, cfg.image_size)
        got = []
        for device in (torch.device("cpu"), s.device):
            network = Comedian(cfg).eval()
            network.load_state_dict(on_cpu.state_dict())
            network.to(device)
            logits = network(x.to(device))                            # (2, 2, K)
            logits.square().sum().backward()
            gradient = torch.cat([p.grad.flatten() for p in network.parameters()
                                  if p.grad is not None])
            got.append((logits.detach().cpu(), gradient.cpu()))
        for name, one, other in zip(("logits", "gradient"), *got, strict=True):
            off = float((one - other).norm() / one.norm())
            say(f"{model}, {name} in float32 against the CPU", f"{off:.1e}", "relative, norm")


def stage1_command(s, out, n, *more):
    return ["stage1_spatial.py", "--data", str(s.folder / "frames"), "--out", str(s.folder / out),
            "--model", "vivit_micro" if s.small else "vivit_tiny", "--batch", "8", "--queue", "64",
            "--steps", str(n), "--save-every", "2", "--log-every", "1", "--device", str(s.device),
            *more]


def command(arguments, **environment):
    """A command from the top folder; its output. RuntimeError with its last line if it failed."""
    ran = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True,
                         timeout=300, env={**os.environ, **environment})
    if ran.returncode:
        said = [line for line in (ran.stdout + ran.stderr).splitlines() if "rror" in line]
        raise RuntimeError((said or ["no word"])[-1].strip()[:160])
    return ran.stdout


def resume(s):
    """Four steps, and two and two more: what differs?"""
    command(stage1_command(s, "whole", 4))
    try:                              # it ends as one that Ctrl-C stopped, not with 0
        command(["-c", STOPPED, *stage1_command(s, "parts", 4)[1:]])
    except RuntimeError:
        pass
    if torch.load(s.folder / "parts" / "last.pt", weights_only=True)["step"] != 2:
        raise RuntimeError("the run did not stop after 2 steps")
    command([*stage1_command(s, "parts", 4), "--resume"])
    whole, parts = (torch.load(s.folder / name / "last.pt", weights_only=True)
                    for name in ("whole", "parts"))
    differ = [name for name in whole["model"]
              if not torch.equal(whole["model"][name], parts["model"][name])]
    say("stage 1, stopped after 2 of 4 steps and resumed", "same bits" if not differ
        else f"{len(differ)} differ", f"of {len(whole['model'])} tensors"
        + (f", {differ[0]} for one" if differ else ""))


STOPPED = """
import sys, os, signal, stage1_spatial as stage1
asked, count = stage1.run.Stop.requested, []
def after_two(self):
    count.append(1)
    if len(count) == 2:
        self.noted = signal.SIGTERM
    return asked(self)
stage1.run.Stop.requested = after_two
stage1.main(stage1.parse_args(sys.argv[1:]))
"""


def two_processes(s):
    """torchrun on this one device. NCCL may refuse two processes on one GPU."""
    out = command(["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                   *stage1_command(s, "two", 2)])
    say("two processes, stage 1", "done" if "done" in out else "?")


# ----- 5. a half ----------------------------------------------------------------------------------
def half_of_a_match(s, model):
    """infer.py on the frames of 45 minutes, and on a video: two lengths of it, which give the line
    that 45 minutes lie on."""
    torch.manual_seed(0)
    checkpoint = s.folder / f"{model}.pt"
    save_checkpoint(checkpoint, stage=3, step=0, config=dataclasses.asdict(MODELS[model]),
                    model=Comedian(MODELS[model]).state_dict())
    video_s = 4 if s.small else 120
    path = s.folder / "match.mp4"
    if not path.exists():
        render(path, video_s)
    def taken_s(*flags):
        run = partial(infer.main, infer.parse_args(
            [*flags, "--checkpoint", str(checkpoint), "--out", str(s.folder / "spots"),
             "--device", str(s.device)]))
        with open(os.devnull, "w") as nowhere:
            out, err, sys.stdout, sys.stderr = sys.stdout, sys.stderr, nowhere, nowhere
            try:
                return s.seconds(run, turns=1)
            finally:
                sys.stdout, sys.stderr = out, err

    n_frames = find_halves(s.folder / "frames")[0].n_frames
    from_frames = taken_s("--data", str(s.folder / "frames"))
    say(f"{model}, {n_frames / 120:,.1f} minutes of frames", f"{from_frames:,.1f} s",
        "398x224, JPEG")
    short, whole = (taken_s("--video", str(path), "--end", str(end)) for end in (
        video_s / 2, video_s))
    say(f"{model}, 45 minutes of video", f"{whole + (whole - short) * (5400 / video_s - 2):,.1f} s",
        f"398x224, 25 fps, computed from {video_s / 2:g} s in {short:.1f} s and {video_s} s in "
        f"{whole:.1f} s")


# ----- 6. hours -----------------------------------------------------------------------------------
def hours(s):
    for model in s.models:
        rates = [s.clips_per_s.get((model, stage)) for stage in (1, 2, 3)]
        if None in rates:
            raise RuntimeError("not all stages were measured")
        each = [MATCHES * clips / rate / 3600
                for clips, rate in zip(CLIPS, rates, strict=True)]
        say(f"the recipe on {MATCHES} matches, {model}", f"{sum(each):,.0f} h",
            "stages " + ", ".join(f"{h:,.0f}" for h in each) + " h, computed from these clips/s")


def write_frames(folder, n):
    """One half of `n` JPEGs, 398x224, a few kinds of picture over and over."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    kinds = [cv2.resize(rng.integers(0, 256, (28, 50, 3), np.uint8), (398, 224)) for _ in range(16)]
    kinds = [cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
             for image in kinds]
    for i in range(n):
        (folder / f"{i + 1:08d}.jpg").write_bytes(kinds[i % len(kinds)])


def sections(s):
    """(title, work) in their order; what matters most comes first."""
    yield "matrix products and memory", partial(limits, s)
    for model in s.models:
        for stage in (1, 2, 3):
            yield f"stage {stage}, {model}", partial(step_alone, s, model, stage)
    yield "equality with the CPU", partial(equal_to_cpu, s)
    yield "complete bank", partial(complete_bank, s)
    for model in s.models:
        for stage in (1, 2, 3):
            yield f"stage {stage}, {model}, from JPEGs", partial(from_jpegs, s, model, stage)
    yield "hours", partial(hours, s)
    for model in s.models:
        yield f"a half, {model}", partial(half_of_a_match, s, model)
    yield "resume", partial(resume, s)
    yield "two processes", partial(two_processes, s)
    for model in s.models:
        yield f"tricks, {model}", partial(gains, s, model)


def main():
    p = Parser(__doc__)
    p.add_argument("--device", type=torch.device, default="cuda")
    p.add_argument("--small", action="store_true", help="the rehearsal's sizes")
    p.add_argument("--minutes", type=float, default=18, help="after these nothing new begins")
    args = p.parse_args()
    if args.device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("error: torch sees no GPU here; the rehearsal is --device cpu --small")
    torch.backends.cuda.matmul.allow_tf32 = False        # float32 is float32 where it is compared
    began, failed = time.perf_counter(), 0
    print(throughput.machine(args.device))
    if args.device.type == "cuda":
        at = torch.cuda.get_device_properties(args.device)
        print(f"{at.name}, {at.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}")
    with tempfile.TemporaryDirectory() as folder:
        s = Setting(args, folder)
        write_frames(s.folder / "frames" / "match" / "1_224p", 40 if s.small else 5400)
        for title, work in sections(s):
            if time.perf_counter() - began > 60 * args.minutes:
                say(title, "not measured", f"{args.minutes:g} minutes are over")
                continue
            try:
                work()
            except Exception as error:  # noqa: BLE001  (whatever it is: it is this line's result)
                failed += 1
                say(title, "failed", f"{type(error).__name__}: "
                    f"{' '.join(str(error).split())[:200]}")
            if s.cuda:
                torch.cuda.empty_cache()
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes, {failed} lines failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
