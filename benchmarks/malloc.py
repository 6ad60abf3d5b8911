"""
What it gains on a CPU to keep the memory of freed tensors (run.keep_freed_memory).

    python benchmarks/malloc.py                  # 4 minutes; benchmarks/malloc.txt

Stage 2's augmentation and its step, in processes that take turns: one as glibc is, one that keeps.
A page fault is 4 KB that the system zeroes and hands out.
"""
import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import steps  # noqa: E402
from throughput import machine  # noqa: E402

from comedian import augment, run  # noqa: E402
from model import MODELS  # noqa: E402

# Windows, clips of a window, height and width of a frame.
WORK = {"vivit_tiny": (2, 16, (224, 398)), "vivit_micro": (8, 32, (48, 48))}


def child(name, keeps, repeats):
    """Prints {part: [median ms, page faults]} and the peak in MB."""
    if keeps:
        run.keep_freed_memory()
    windows, clips, (height, width) = WORK[name]
    device, bank = torch.device("cpu"), F.normalize(torch.randn(27_000, 64), dim=1)
    view, learn = steps.make_stage2(MODELS[name], windows, clips, device,
                                    torch.autocast("cpu", torch.bfloat16, enabled=False), bank)
    frames = torch.randint(0, 256, (windows, 2 * clips, height, width, 3), dtype=torch.uint8)
    x, found = view(frames, augment.Draws(0, 0, windows)), {}
    for part, work in (("augmentation", lambda i: view(frames, augment.Draws(0, i, windows))),
                       ("step", lambda i: learn(x))):
        taken = []
        for i in range(repeats + 1):
            before, since = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            work(i)
            after = resource.getrusage(resource.RUSAGE_SELF)
            taken.append((1000 * (time.perf_counter() - since),
                          after.ru_minflt - before.ru_minflt))
        found[part] = [statistics.median(column) for column in zip(*taken[1:], strict=True)]
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--turns", type=int, default=5, help="processes of each kind")
    parser.add_argument("--repeats", type=int, default=4, help="in each process")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child[0], args.child[1] == "1", args.repeats)
    print(machine(torch.device("cpu")))
    for name in args.models:
        windows, clips, (height, width) = WORK[name]
        runs = {0: [], 1: []}
        for _ in range(args.turns):
            for keeps, found in runs.items():
                done = subprocess.run([sys.executable, __file__, "--child", name, str(keeps),
                                       "--repeats", str(args.repeats)], check=True, text=True,
                                      capture_output=True)
                found.append(json.loads(done.stdout))
        print(f"\n{name}, {windows} windows of {clips} clips of {width}x{height}: ms, median "
              f"(least to most) of {args.turns} processes; page faults; peak")
        for part in ("augmentation", "step"):
            for keeps, found in runs.items():
                times = [one[part][0] for one in found]
                print(f"  {part:13}{'kept' if keeps else 'as glibc is':12}"
                      f"{statistics.median(times):8,.0f} ({min(times):,.0f}-{max(times):,.0f})"
                      f"{statistics.median(one[part][1] for one in found):12,.0f}"
                      f"{statistics.median(one['peak'] for one in found):8,.0f} MB", flush=True)


if __name__ == "__main__":
    main()
