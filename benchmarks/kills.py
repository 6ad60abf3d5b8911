"""
Each stage killed with SIGKILL at 20 random moments and resumed each time: does it end in the bits
of a run that was never stopped?

    python benchmarks/kills.py            # 3 minutes on a loaded machine; the result is kills.txt

What tests/test_runs.py does with 3 kills, with more of them and on the demo's renderer: matches
of its own, `--save-every 1`, so that many kills hit the writing of a checkpoint. Compared are every
tensor of last.pt (weights, momentum encoder, queue, AdamW's state), its step and its sums, and the
lines of log.txt up to the gradient norm; equal means equal in every bit, on the CPU in float32.
"""
import argparse
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
import test_runs as runs  # noqa: E402


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--kills", type=int, default=20, help="per stage")
    p.add_argument("--steps", type=int, default=200, help="of the run")
    p.add_argument("--seed", type=int, default=0, help="of the moments")
    args = p.parse_args()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*runs.PRELOAD, "test_runs"])

    def launch(argv, printed, **environment):
        process = context.Process(target=runs.child, args=(argv, str(printed), environment))
        process.start()
        return process

    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, one thread a "
          f"process, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}, "
          f"torch {runs.torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "data")
        subprocess.run([sys.executable, "-m", "comedian.prepare", "synthetic", "--out", made,
                        "--train", "2", "--labelled", "2", "--test", "0", "--seconds", "60",
                        "--jobs", "1"], check=True, capture_output=True)
        matches = made / "train"
        shutil.copy(made / "classes.txt", matches)
        for match in matches.rglob("*_physics.npy"):      # the tests' name of the features
            match.rename(match.with_name(match.name.replace("physics", "teacher")))
        for stage in runs.SCRIPTS:
            since, run = time.time(), Path(folder, str(stage))
            run.mkdir()
            kills = runs.kill_and_resume(stage, matches, run, launch, args.kills, args.steps,
                                             args.seed)
            print(f"stage {stage}: killed {kills} times in {args.steps} steps, resumed each time: "
                  f"the same bits ({time.time() - since:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
