"""
How much memory a training step takes, by stage, network and clips per pass; and how large a pass,
and so how small an --accumulate, fits a GPU of 8, 24 and 80 GB.

    python benchmarks/memory.py                   # computed on a CPU, a few minutes
    python benchmarks/memory.py --device cuda     # measured

Computed means: each stage's step runs on the CPU, as a GPU would run it (bfloat16 autocast,
attention that stores no logits, fused AdamW), with the few clips that a CPU can bear, and every
tensor is counted as long as it lives: weights, gradients, AdamW's two moments, the momentum copy,
activations kept for the backward, queue or bank. The most that live at once grow by so many
bytes with every clip: two sizes give the line, a third tests it. What a GPU adds is not in it: its
context (taken as 0.6 GB), workspaces of its kernels, gaps between tensors (taken as 10 %).

First it is checked that what is counted is what a process needs, in float32 on this machine.
"""
import argparse
import platform
import re
import subprocess
import sys
import weakref
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import steps  # noqa: E402

from comedian import augment, command  # noqa: E402
from model import MODELS  # noqa: E402

GPUS_GB, CONTEXT_GB, GAPS = (8, 24, 80), 0.6, 0.1
BANK_ROWS, WIDTH = 300 * 5400, 512                   # 300 matches of 90 minutes, a row a second
SMALL_BANK = 2 * steps.stage2.CHUNK                  # what the step here streams: two chunks
WINDOW = 64                                          # the paper's best, in clips
PAPER_BATCH = {1: 1024, 2: 32, 3: 64}                # clips, windows, windows
FRAME = 224


# ----- one training step of each stage ------------------------------------------------------------
def make_step(stage, cfg, n_clips, device, bf16):
    """step(): views and everything after, of `n_clips` clips. Two windows where they are too few
    for windows of 64: as attention stores no logits, memory goes by the clips."""
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
    L = 1 if stage == 1 else min(WINDOW, n_clips // 2)
    batch = n_clips // L
    if stage == 1:
        view, learn = steps.make_stage1(cfg, batch, device, autocast, fused=True)
    elif stage == 2:
        bank = torch.ones(SMALL_BANK, WIDTH, device=device,
                          dtype=torch.bfloat16 if bf16 else torch.float32)
        view, learn = steps.make_stage2(cfg, batch, L, device, autocast, bank, fused=True)
    else:
        view, learn = steps.make_stage3(cfg, batch, L, device, autocast, fused=True)

    def step():
        frames = torch.zeros(batch, 2 * L, FRAME, FRAME, 3, dtype=torch.uint8)
        learn(view(frames, augment.Draws(0, 0, batch)))
    return step


# ----- how much lives at once ---------------------------------------------------------------------
class LiveBytes(TorchDispatchMode):
    """Counts the bytes of every tensor that an operation makes until it is freed."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.note(tensor.untyped_storage())
        return out

    def note(self, storage):
        key = storage._cdata
        if key not in self.seen:
            self.seen.add(key)
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self.forget, key, storage.nbytes())

    def forget(self, key, n_bytes):
        self.seen.discard(key)
        self.now -= n_bytes


def peak_bytes(stage, cfg, n_clips, device, bf16):
    """Most bytes at once in two steps: the second has AdamW's moments from the start."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        step = make_step(stage, cfg, n_clips, device, bf16)
        step(), step()
        return torch.cuda.max_memory_allocated(device)
    with LiveBytes() as live:
        step = make_step(stage, cfg, n_clips, device, bf16)
        step(), step()
        return live.most


def line(stage, cfg, device, sizes):
    """(bytes of no clips, bytes of each clip, largest relative error of the line) from three
    sizes, in clips; stage 2's bank is that of 300 matches."""
    small, middle, large = (peak_bytes(stage, cfg, n, device, bf16=True) for n in sizes)
    each = (large - small) / (sizes[2] - sizes[0])
    fixed = small - each * sizes[0]
    error = abs(middle - fixed - each * sizes[1]) / middle
    if stage == 2:
        fixed += (BANK_ROWS - SMALL_BANK) * WIDTH * 2
    return fixed, each, error


# ----- check: what is counted against what a process takes ----------------------------------------
def process_mib(key):
    return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def check(stage, model, n_clips):
    """Prints what was counted, and the growth of a fresh process's highest mark (Linux)."""
    command = [sys.executable, __file__, "--process-of", str(stage), model, str(n_clips)]
    grown = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    counted = peak_bytes(stage, MODELS[model], n_clips, torch.device("cpu"), False) / 2 ** 20
    print(f"  stage {stage}, {model:12}{n_clips:5} clips{counted:9,.0f} MiB counted"
          f"{grown:9,.0f} MiB taken   x {grown / counted:.2f}", flush=True)


def process_of(stage, model, n_clips):
    device = torch.device("cpu")
    make_step(stage, MODELS["vivit_micro"], 8, device, bf16=False)()     # the libraries' buffers
    before = process_mib("VmRSS")
    step = make_step(stage, MODELS[model], n_clips, device, bf16=False)
    step(), step()
    print(process_mib("VmHWM") - before)


# ----- report -------------------------------------------------------------------------------------
def report(device, models):
    measured = device.type == "cuda"
    how = "measured" if measured else "computed"
    name = torch.cuda.get_device_name(device) if measured else platform.processor() or "a CPU"
    print(f"{how} on {name}, torch {torch.__version__}; frames of {FRAME} pixels, bfloat16\n")
    sizes = (64, 128, 256) if measured else (8, 16, 32)
    shown = (64, 128, 256, 512, 1024, 2048, 4096)
    lines = {}
    print(f"peak memory of one pass, GB ({how} at {sizes} clips, else from the line through them)")
    print(f"{'stage, network':22}{'fixed':>7}{'MB/clip':>9}"
          + "".join(f"{n:>8,}" for n in shown) + "   line is off by")
    for model in models:
        for stage in (1, 2, 3):
            fixed, each, error = lines[model, stage] = line(stage, MODELS[model], device, sizes)
            print(f"{stage}, {model:19}{fixed / 1e9:7.2f}{each / 1e6:9.1f}"
                  + "".join(f"{(fixed + n * each) / 1e9:8.1f}" for n in shown)
                  + f"{100 * error:13.1f} %", flush=True)
    print("clips of one pass; stage 2 with the bank of 300 matches (1.7 GB), "
          f"windows of {WINDOW} clips in stages 2 and 3\n")

    print("largest pass, and with it the smallest --accumulate for the paper's batch "
          f"({', '.join(f'stage {s}: {n:,}' for s, n in PAPER_BATCH.items())})")
    print(f"{'stage, network':22}" + "".join(f"{f'{gb} GB':>30}" for gb in GPUS_GB))
    for (model, stage), (fixed, each, _) in lines.items():
        unit, what = (1, "clips") if stage == 1 else (WINDOW, "windows")
        cells = []
        for gb in GPUS_GB:
            room = (gb - CONTEXT_GB) / (1 + GAPS) * 1e9 - fixed
            largest = int(room // (each * unit))
            fits = [n for n in range(1, PAPER_BATCH[stage] + 1)
                    if PAPER_BATCH[stage] % n == 0 and PAPER_BATCH[stage] // n <= largest]
            cells.append(f"{largest:,} {what}, --accumulate {fits[0]}" if fits
                         else "not one window")
        print(f"{stage}, {model:19}" + "".join(f"{cell:>30}" for cell in cells))
    print(f"with {CONTEXT_GB} GB for the context and {100 * GAPS:.0f} % for gaps and workspaces"
          " (assumed)")


def main():
    p = command.Parser(__doc__)
    p.add_argument("--device", type=torch.device, default="cpu", help="cuda measures")
    p.add_argument("--models", nargs="+", choices=MODELS,
                   default=["vivit_tiny", "viswin_tiny", "vivit_small"])
    p.add_argument("--process-of", nargs=3, help=argparse.SUPPRESS)
    args = p.parse_args()
    torch.manual_seed(0)
    if args.process_of:
        stage, model, n_clips = args.process_of
        return process_of(int(stage), model, int(n_clips))
    if sys.platform == "linux":
        print("check, float32 on the CPU: bytes counted, and what a process of its own took")
        for stage in (1, 2, 3):
            check(stage, "vivit_micro", 512)
        for stage in (1, 2, 3):
            check(stage, "vivit_tiny", 16)
        print()
    report(args.device, args.models)


if __name__ == "__main__":
    main()
