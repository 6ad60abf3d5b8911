"""
Runs the commands of benchmarks/ablation.py, several side by side.

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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from comedian import DataError, formats, write_text  # noqa: E402

RUNS = Path("runs/ablation")


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
