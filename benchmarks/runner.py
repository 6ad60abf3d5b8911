"""
Runs the lines of benchmarks/ablation.py's tables: chains of the stages' commands, several side by
side.

A training or a spotting has a folder, runs/ablation/<seed>/<name>, and its done.json says which
command has run there to its end. What is there is not run again, and a training that was stopped
goes on. What another command made is refused, and so is what was made from a run that has been
trained anew since then.
"""
import collections
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from comedian import DataError, formats, write_text  # noqa: E402

RUNS, DATA, MATCHES = Path("runs/ablation"), Path("data"), Path("matches")
FRAMES = DATA / "demo"                                     # those of make demo


class Run(NamedTuple):
    """A command of a stage, the run whose last.pt it starts from, and for stage 2 the runs whose
    tokens are the teacher's, each with the seed after the last one's, or the name of features that
    are there."""
    name: str
    command: str
    parent: "Run | None" = None
    teachers: "tuple[Run, ...] | str" = ()


class Spot(NamedTuple):
    """A line of a table: infer.py on the judged matches, with one network or several."""
    runs: list
    flags: str = ""


class Runner:
    """`pool` has a thread for each of `jobs` commands side by side; `seconds`: {folder: how long
    its command took by the clock}, of all that were asked for; `resumed`: the folders of which that
    is only the last part."""

    def __init__(self, jobs):
        self.pool, self.locks = ThreadPoolExecutor(jobs), collections.defaultdict(threading.Lock)
        self.children, self.starting, self.stopped = [], threading.Lock(), False
        self.seconds, self.resumed = {}, set()

    def once(self, folder, command, resumes=False):
        """Runs it, unless it has run. `resumes`: it takes --resume and saves last.pt."""
        with self.locks[str(folder)]:
            record = folder / "done.json"                  # beside the stage's own run.json
            made = formats.read_json(record, "a record of a run") if record.exists() else None
            if not made:
                print(f"  {folder}", flush=True)
                since, go_on = time.time(), resumes and (folder / "last.pt").exists()
                self.call(command + " --resume" * go_on)
                made = {"command": command, "seconds": round(time.time() - since),
                        "resumed": go_on}
                write_text(record, json.dumps(made))
            elif made["command"] != command:
                raise DataError(f"{folder}: comes from another command ({made['command']}); "
                                "remove it")
            for path in [Path(word) for word in command.split() if word.startswith(f"{RUNS}/")]:
                source = (path.parent if path.name == "last.pt" else path) / "done.json"
                if not path.is_relative_to(folder) and source.stat().st_mtime_ns > (
                        record.stat().st_mtime_ns):
                    raise DataError(f"{folder}: is older than {path}, which it was made from; "
                                    "remove it")
            self.seconds[folder] = made["seconds"]
            self.resumed |= {folder} if made.get("resumed") else set()

    def call(self, command):
        """Runs it to its end. A session of its own: Ctrl-C reaches it through `stop`, once."""
        with self.starting:
            if self.stopped:
                raise DataError("stopped")
            child = subprocess.Popen([sys.executable, *command.split()], cwd=ROOT, text=True,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                     env={**os.environ, "OMP_NUM_THREADS": "1"},
                                     start_new_session=True)
            self.children.append(child)
        said = child.communicate()[1].strip().splitlines()
        if child.returncode:
            raise DataError(f"python {command}: ended with exit code {child.returncode}"
                            + (f" ({said[-1]})" if said else ""))

    def stop(self):
        """Ends the commands that run; no other one begins. Trainings save what they have."""
        with self.starting:
            self.stopped = True
        for child in self.children:
            child.terminate()                              # nothing, of one that has ended
        self.pool.shutdown(cancel_futures=True)


def metrics(runner, lines, seeds, split):
    """{line: [metrics.json per seed]}, on the matches that the file `split` lists; lines:
    {line: Spot or Run}."""
    todo = {(line, seed): runner.pool.submit(                 # seeds do not wait for each other
        spot, runner, run if isinstance(run, Spot) else Spot([run]), seed, split)
        for line, run in lines.items() for seed in seeds}
    for future in as_completed(todo.values()):                # what failed is said at once
        future.result()
    return {line: [todo[line, seed].result() for seed in seeds] for line in lines}


def spot(runner, line, seed, split):
    checkpoints = [train(runner, run, seed) / "last.pt" for run in line.runs]
    out = checkpoints[0].parent / "-".join([split.stem, str(len(line.runs)), *line.flags.split()])
    runner.once(out, f"infer.py --data {FRAMES} --split {split} --labels {MATCHES} --checkpoint "
                f"{' '.join(map(str, checkpoints))} --out {out} --json {out}/metrics.json "
                f"{line.flags}".strip())
    return out / "metrics.json"


def train(runner, run, seed):
    folder = RUNS / str(seed) / name_of(run)
    script, *flags = run.command.split()
    command = [script, "--data", str(FRAMES), "--seed", str(seed), "--out", str(folder)]
    if run.parent:
        command += ["--init", str(train(runner, run.parent, seed) / "last.pt")]
    if isinstance(run.teachers, str):
        command += ["--features-name", run.teachers, "--features-fps", "2"]
    elif run.teachers:
        found = [train(runner, one, seed + k) for k, one in enumerate(run.teachers)]
        out = found[0] / f"features{len(found)}".removesuffix("1")
        runner.once(out, f"infer.py --data {FRAMES} --split {MATCHES}/pretrain.txt --checkpoint "
                    f"{' '.join(f'{one}/last.pt' for one in found)} --features own --out {out}")
        command += ["--features", str(out), "--features-name", "own"]
    runner.once(folder, " ".join(command + flags), resumes=True)
    return folder


def name_of(run):
    return f"{name_of(run.parent)}+{run.name}" if run.parent else run.name
