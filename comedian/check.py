"""
Prints ten lines about this installation; please paste them into a bug report.

    python -m comedian.check

A check that fails prints its error and the others follow. Exit code 0 if everything that the
stages need is installed and works, else 1.
"""
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

from comedian.command import Parser


def system():
    return platform.platform()


def python():
    return f"{platform.python_version()} ({sys.executable})"


def packages():
    found = []
    for name in ("torch", "numpy", "cv2", "av", "tqdm", "matplotlib"):
        try:
            found.append(f"{name} {import_module(name).__version__}")
        except Exception as error:    # a broken package may raise whatever it likes
            raise ImportError(f"{name} is missing or broken ({error}); pip install -r "
                              "requirements.txt") from error
    return ", ".join(found)


def optional():
    found = {package.name: package.version for package in metadata.distributions()}
    return ", ".join(f"{name} {found.get(name, '-')}" for name in (
        "tensorboard", "pytest", "hypothesis", "SoccerNet", "numba", "openvino"))


def kernels():
    import torch

    from comedian import ops, reference
    gen, length = torch.Generator().manual_seed(0), torch.tensor([25, 15])
    windows = (torch.rand(3, 16, 3, generator=gen), torch.tensor([0, 9, 0]),
               torch.tensor([0, 0, 1]), length, 3)
    merged = ops.merge_windows(*windows)
    if not (torch.equal(merged, reference.merge_windows(*windows))
            and torch.equal(ops.soft_nms(merged, length, 5.0),
                            reference.soft_nms(merged, length, 5.0))):
        raise RuntimeError(f"their results differ from reference.py; run: {ops.BUILD}")
    return "built; same results as reference.py on a small example"


def cpu():
    name = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return (f"{name[1] if name else platform.machine()}; {len(os.sched_getaffinity(0))} of "
            f"{os.cpu_count()} cores may be used")


def torch():
    import torch
    gpus = [str(torch.cuda.get_device_properties(i)) for i in range(torch.cuda.device_count())]
    return (f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}; "
            f"{', '.join(gpus) or 'sees no GPU'}")


def ffmpeg():
    program = shutil.which("ffmpeg")
    version = program and subprocess.check_output([program, "-version"], text=True).split()[2]
    return f"{import_module('av').ffmpeg_version_info} in av; the program: {version or 'none'}"


def memory():
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2 ** 30:.1f} GB"


def disk():
    return f"{shutil.disk_usage('.').free / 2 ** 30:.1f} GB free in {os.getcwd()}"


def main():
    sys.stderr, failed = open(os.devnull, "w"), False      # packages warn while they are imported
    for check in (system, python, packages, optional, kernels, cpu, torch, ffmpeg, memory, disk):
        try:
            line = f"{check.__name__:9} {check()}"
        except (Exception, SystemExit) as error:           # whatever it is: it is the answer
            failed, words = True, " ".join(str(error).split())[:300]
            line = f"{check.__name__:9} FAILED: {type(error).__name__}: {words}"
        print(line.encode("ascii", "backslashreplace").decode(), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    Parser(__doc__).parse_args()
    main()
