"""
How long the search over post-processing takes at full scale: evaluate.sweep on 100 matches.

    python benchmarks/sweep.py                # minutes of nothing else on the machine, please

The workload is made here from a seed: 200 halves of 2,700 s, 17 classes, windows of 64 s with half
overlap, about 110 events per half in SoccerNet-v2's class proportions, and scores as a trained
network gives them: low background noise with bumps near the events, some off, some faint.
"""
import argparse
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from comedian import evaluate  # noqa: E402
from comedian.soccernet import SOCCERNET_CLASSES, Event, Stored  # noqa: E402

# Events per class in SoccerNet-v2's test split, in the order of SOCCERNET_CLASSES.
TEST_EVENTS = np.array([41, 514, 337, 579, 416, 1175, 1058, 1631, 6460, 3809, 2414, 2283, 382, 999,
                        431, 8, 14])


def workload(n_matches, n_tokens=2700, window=64, seed=0):
    """(Stored, {match: [Event]}) of random matches, two halves each."""
    rng = np.random.default_rng(seed)
    starts = np.append(np.arange(0, n_tokens - window, window // 2), n_tokens - window)   # (n,)
    classes, share = SOCCERNET_CLASSES, TEST_EVENTS / TEST_EVENTS.sum()
    labels, scores = {}, []
    for g in range(n_matches):
        labels[f"match {g}"] = []
        for h in (1, 2):
            second = rng.uniform(0, n_tokens, rng.poisson(TEST_EVENTS.sum() / 200))   # (events,)
            label = rng.choice(len(classes), len(second), p=share)
            labels[f"match {g}"] += [Event(h, int(c), int(1000 * s), bool(rng.random() > 0.17))
                                     for s, c in zip(second, label, strict=True)]
            logit = rng.normal(-8.5, 1.2, (n_tokens, len(classes)))                   # (T, K)
            token = np.clip(second + rng.normal(0, 0.7, len(second)), 0, n_tokens - 1).astype(int)
            for away, height in [(-2, 4), (-1, 7), (0, 10), (1, 7), (2, 4)]:
                near = np.clip(token + away, 0, n_tokens - 1)
                np.add.at(logit, (near, label), height * rng.uniform(0.3, 1, len(second)))
            seen = logit[starts[:, None] + np.arange(window)]                         # (n, L, K)
            seen += rng.normal(0, 0.5, seen.shape)         # each window has its own opinion
            scores.append(torch.from_numpy(seen.astype(np.float32)).sigmoid())
    n_halves = 2 * n_matches
    windows = (torch.cat(scores), torch.from_numpy(np.tile(starts, n_halves)),
               torch.arange(n_halves).repeat_interleave(len(starts)),
               torch.full((n_halves,), n_tokens))
    return Stored(list(labels), classes, 1.0, windows), labels


def processor():
    """The processor's name as Linux knows it, else what Python knows of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--matches", type=int, default=100)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    grid = evaluate.parse_args(["--sweep", "--scores", "made here", "--labels", "made here"])
    stored, labels = workload(args.matches)
    truth = evaluate.label_columns(labels)
    print(f"{processor()}, {args.threads} threads of {os.cpu_count()} cores, "
          f"Python {platform.python_version()}, torch {torch.__version__}")
    print(f"{args.matches} matches, {len(truth[0]):,} events, {len(stored.windows[1]):,} windows")
    since, cpu = time.perf_counter(), time.process_time()
    overall, _ = evaluate.sweep(stored, truth, ["max"], grid.ignored, grid.windows)
    wall, cpu = time.perf_counter() - since, time.process_time() - cpu
    print(f"{len(grid.ignored)} ignored spans x {overall[0, 0].size} NMS settings: "
          f"{wall:.1f} s, {cpu:.1f} s of CPU, {1000 * wall / overall.size:.0f} ms each")
    for n, kind in enumerate(evaluate.NMS):
        print(f"best {kind:12} {100 * overall[:, :, n].max():.2f} % t-AmAP")


if __name__ == "__main__":
    main()
