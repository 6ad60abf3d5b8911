"""
What it gains on a CPU to keep the memory of freed tensors (run.keep_freed_memory).

    python benchmarks/malloc.py                  # 4 minutes; benchmarks/malloc.txt

Each stage's augmentation and step, in processes that take turns: one as glibc is, one that keeps.
A page fault is 4 KB that the system zeroes and hands out. The share is augmentation / step.
"""
import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import steps  # noqa: E402
from throughput import machine  # noqa: E402

from comedian import augment, run  # noqa: E402
from model import MODELS  # noqa: E402

# Samples of a step in stages 1, 2 and 3; clips of a window; height and width of a frame.
WORK = {"vivit_tiny": ((8, 4, 4), 8, (224, 398)), "vivit_micro": ((128, 8, 8), 32, (48, 48))}
CPU = torch.device("cpu")


def measure(view, learn, frames, repeats):
    """[[ms, page faults] of augmentation, of the step], means."""
    B, taken = len(frames), [[], []]
    x = view(frames, augment.Draws(0, 0, B))
    for i in range(repeats + 1):
        for kind, work in enumerate((lambda i: view(frames, augment.Draws(0, i, B)),
                                     lambda _: learn(x))):
            before, since = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            work(i)
            ms = 1000 * (time.perf_counter() - since)
            after = resource.getrusage(resource.RUSAGE_SELF)
            taken[kind].append((ms, after.ru_minflt - before.ru_minflt))
    return np.mean(np.array(taken)[:, 1:], axis=1).tolist()           # the first warms up


def child(name, keeps, repeats):
    """Prints {stage: what `measure` found} and the peak."""
    if keeps:
        run.keep_freed_memory()
    batches, window, size = WORK[name]
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=False)
    bank = F.normalize(torch.randn(27_000, 64), dim=1)
    makers = (lambda B: steps.make_stage1(MODELS[name], B, CPU, autocast, n_negatives=0),
              lambda B: steps.make_stage2(MODELS[name], B, window, CPU, autocast, bank),
              lambda B: steps.make_stage3(MODELS[name], B, window, CPU, autocast))
    found = {}
    for stage, (B, maker) in enumerate(zip(batches, makers, strict=True), 1):
        frames = (B, 2 * (1 if stage == 1 else window), *size, 3)
        found[stage] = measure(*maker(B), torch.randint(0, 256, frames, dtype=torch.uint8), repeats)
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--turns", type=int, default=3, help="processes of each kind")
    parser.add_argument("--repeats", type=int, default=3, help="in each process")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child[0], args.child[1] == "1", args.repeats)
    print(machine(CPU))
    for name in args.models:
        runs = {"as glibc is": [], "kept": []}
        for _ in range(args.turns):
            for kind, found in runs.items():
                done = subprocess.run(
                    [sys.executable, __file__, "--child", name, str(int(kind == "kept")),
                     "--repeats", str(args.repeats)], check=True, text=True, capture_output=True)
                found.append(json.loads(done.stdout))
        batches, window, (height, width) = WORK[name]
        print(f"\n{name}, frames of {width}x{height}; ms, median (least to most) of {args.turns} "
              "processes; page faults; share")
        for stage, B in enumerate(batches, 1):
            print(f"  stage {stage}, " + (f"{B} clips" if stage == 1 else
                                        f"{B} windows of {window} clips"))
            for kind, found in runs.items():
                # (processes, 2 parts, 2 numbers)
                numbers = np.array([one[str(stage)] for one in found])
                middle = np.median(numbers, axis=0)
                print(f"    {kind:12}" + "".join(
                    f"{part} {middle[k, 0]:6,.0f} ({numbers[:, k, 0].min():,.0f}-"
                    f"{numbers[:, k, 0].max():,.0f}), {middle[k, 1]:7,.0f} faults    "
                    for k, part in enumerate(("augmentation", "step")))
                    + f"1/{middle[1, 0] / middle[0, 0]:.1f}", flush=True)
        print("  peak " + ", ".join(f"{np.median([one['peak'] for one in found]):,.0f} MB {kind}"
                                    for kind, found in runs.items()))


if __name__ == "__main__":
    main()
