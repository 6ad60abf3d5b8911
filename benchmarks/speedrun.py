"""
The race of docs/speedrun.md: `make demo` with three seeds, how long it takes and what it reaches.

    make speedrun                                    # three times as long as make demo
    python benchmarks/speedrun.py --seeds 10 11 12   # the same, after make demo

Trains in runs/speedrun-<seed>, which must not be there yet; set-up and frames are not timed. Prints
the row for the table: mean t-AmAP on the 12 matches of matches/test.txt with its 95 % intervals,
minutes of a run from first command to page, and the work in TFLOP: the matrix products of the clips
that were trained on, by every last.pt in the folder. That counts a forward of each, two more for
its backward, and of stage 1 two views and the slow copy's forward.
"""
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ablation import ROOT, UNSEEN, over_matches  # and the top is in sys.path
from comedian import DataError, check, command, report
from model import Comedian, load_checkpoint


def forward_flop(cfg):
    """Operations of one clip's forward: (in the spatial encoder, in the whole network)."""
    with torch.device("meta"):
        model, window = Comedian(cfg).eval(), cfg.window_tokens
        frames = torch.empty(1, 2 * window, 3, cfg.image_size, cfg.image_size)
        found = []
        for part, x in ((model.spatial, frames.unflatten(1, (window, 2))[0]), (model, frames)):
            with FlopCounterMode(display=False) as counter:
                part(x)
            found.append(counter.get_total_flops() / window)
    return found


def training_flop(state):
    """Operations of the run whose checkpoint this is, if all steps trained the whole network. The
    network is the checkpoint's: with --init the flag --model decides nothing."""
    spatial, whole = forward_flop(state["config"])
    samples = state["step"] * state["args"]["batch"]
    if state["stage"] == 1:
        return samples * 2 * (3 + 1) * spatial
    return samples * state["config"].window_tokens * 3 * whole


def parse_args(argv=None):
    p = command.Parser(__doc__)
    p.add_argument("--seeds", type=command.number(0), nargs="+", default=[10, 11, 12])
    args = p.parse_args(argv)
    if len(set(args.seeds)) < 2:
        p.error("--seeds: one seed has no spread; give two or more")
    return args


def main(args):
    os.chdir(ROOT)
    folders = {seed: Path(f"runs/speedrun-{seed}") for seed in args.seeds}
    for folder in filter(os.path.lexists, folders.values()):
        raise DataError(f"{folder}: is there already, and a run begins from nothing; remove it")
    results, minutes = [], []
    for seed, folder in folders.items():
        began = time.monotonic()
        done = subprocess.run(["make", "demo", f"SEED={seed}", f"RUNS={folder}"], check=False)
        if done.returncode:
            raise DataError(f"{folder}: make demo ended with exit code {done.returncode}; its own "
                            "error is above")
        minutes.append((time.monotonic() - began) / 60)
        results.append(folder / "test/metrics.json")
    scores = [report.read_metrics(path)["t-AmAP"] for path in results]
    mean, deviation, half = report.spread(scores)
    low, high = over_matches(results, None, UNSEEN)
    work = sum(training_flop(load_checkpoint(path)) for path in folder.rglob("last.pt"))
    print(f"t-AmAP {mean:.1f} +- {deviation:.1f} ({', '.join(f'{one:.1f}' for one in scores)}), "
          f"95 % over seeds {mean - half:.1f} to {mean + half:.1f}, over matches {low:.1f} to "
          f"{high:.1f}; {np.mean(minutes):.1f} minutes, {work / 1e12:.0f} TFLOP; {check.cpu()}")


if __name__ == "__main__":
    command.run_as_command(main, parse_args())
