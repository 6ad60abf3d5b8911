"""
The race of docs/speedrun.md: `make demo` with three seeds, how long it takes and what it reaches.

    make speedrun                                    # three times as long as make demo
    python benchmarks/speedrun.py --seeds 10 11 12   # the same, after make demo

Trains in runs/speedrun-<seed>, from nothing; set-up and frames are not timed. Prints the row for
the table: mean t-AmAP on the 12 matches of matches/test.txt, minutes of a run from first command to
page, and the work in TFLOP: the matrix products of the clips that were trained on. That counts a
forward of each, two more for its backward, and of stage 1 two views and the slow copy's forward.
"""
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from comedian import command, report  # noqa: E402
from model import Comedian, with_changes  # noqa: E402


def forward_flop(name, window):
    """Operations of one clip's forward: (in the spatial encoder, in the whole network), from a
    window of so many clips."""
    with torch.device("meta"):
        model = Comedian(with_changes(name, window_tokens=window)).eval()
        frames = torch.empty(1, 2 * window, 3, model.cfg.image_size, model.cfg.image_size)
        found = []
        for part, x in ((model.spatial, frames.unflatten(1, (window, 2))[0]), (model, frames)):
            with FlopCounterMode(display=False) as counter:
                part(x)
            found.append(counter.get_total_flops() / window)
    return found


def training_flop(flags, stage):
    """Operations of a run by the flags in its run.json, if all steps train the whole network."""
    if stage == 1:
        spatial, _ = forward_flop(flags["model"], 32)
        return flags["steps"] * flags["batch"] * 2 * (3 + 1) * spatial
    _, whole = forward_flop(flags["model"], flags["window"])
    return flags["steps"] * flags["batch"] * flags["window"] * 3 * whole


def main():
    p = command.Parser(__doc__)
    p.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    args = p.parse_args()
    os.chdir(ROOT)
    scores, minutes, work = [], [], 0
    for seed in args.seeds:
        folder = Path(f"runs/speedrun-{seed}")
        shutil.rmtree(folder, ignore_errors=True)
        began = time.monotonic()
        subprocess.run(["make", "demo", f"SEED={seed}", f"RUNS={folder}"], check=True)
        minutes.append((time.monotonic() - began) / 60)
        scores.append(report.read_metrics(folder / "test/metrics.json")["t-AmAP"])
        records = [json.loads(path.read_text())[-1] for path in folder.glob("*/run.json")]
        work = sum(training_flop(record["flags"], record["stage"]) for record in records)
    print(f"t-AmAP {sum(scores) / len(scores):.1f} ({', '.join(f'{one:.1f}' for one in scores)}), "
          f"{sum(minutes) / len(minutes):.1f} minutes, {work / 1e12:.0f} TFLOP")


if __name__ == "__main__":
    main()
