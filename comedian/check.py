"""
Ten lines about this installation, which belong into every report of a bug.

    python -m comedian.check
    python -m comedian.check --data frames/             # with a line about the data

Each line stands alone: what cannot be found out, or does not work, is said in its line, and the
others follow. Exit code 0 if everything that the stages need is there and works, else 1.
"""
import argparse
import contextlib
import importlib
import os
import platform
import shutil
import sys

PACKAGES = ("torch", "numpy", "cv2", "av", "tqdm", "matplotlib")


class Trouble(Exception):             # noqa: N818 (a line's answer, not an error of this program)
    """What a line has to say that keeps the stages from running."""


def system():
    said = f"{platform.platform()}, {platform.machine()}"
    if sys.platform != "linux":
        said += "; only Linux has been tried"
    return said


def python():
    return f"{platform.python_version()} ({sys.executable})"


def packages():
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.import_module(name).__version__}")
        except Exception as error:  # noqa: BLE001  (a package may raise whatever it likes)
            missing.append(f"no {name} ({type(error).__name__})")
    if missing:
        raise Trouble(f"{', '.join(missing)}; pip install -r requirements.txt")
    return ", ".join(found)


def kernels():
    import torch

    from comedian import ops, reference
    gen = torch.Generator().manual_seed(0)
    scores, length = torch.rand(40, 3, generator=gen), torch.tensor([25, 15])
    windows = (torch.rand(3, 16, 3, generator=gen), torch.tensor([0, 9, 0]),
               torch.tensor([0, 0, 1]), length)
    for name, arguments in (("merge_windows", (*windows, 3)), ("soft_nms", (scores, length, 5.0)),
                            ("hard_nms", (scores, length, 5.0))):
        if not torch.equal(getattr(ops, name)(*arguments), getattr(reference, name)(*arguments)):
            raise Trouble(f"{name} differs from its reference; {ops.BUILD}")
    return "built, and equal to their references on a small example"


def device():
    import torch
    if not torch.cuda.is_available():
        return f"cpu ({torch.backends.cpu.get_cpu_capability()}), torch sees no GPU"
    at = torch.cuda.get_device_properties(0)
    return (f"cuda, {torch.cuda.device_count()} x {at.name}, {at.total_memory / 2 ** 30:.0f} GB, "
            f"CUDA {torch.version.cuda}")


def bfloat16():
    import torch
    where = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.ones(8, 8, device=where)
    with torch.autocast(where, torch.bfloat16):
        right = float((x @ x).float().sum()) == 512
    if not right:
        raise Trouble(f"a product on {where} comes out wrong")
    from comedian.run import bf16_pays
    pays = bf16_pays(torch.device(where), 192)
    return f"computes on {where}, {'on' if pays else 'off'} by default for ViT-T"


def threads():
    import torch
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{torch.get_num_threads()} of torch, {allowed} of {os.cpu_count()} cores may be used"


def memory():
    if not os.path.exists("/proc/meminfo"):
        return "not known on this system"
    with open("/proc/meminfo") as file:
        kib = dict(line.split(":")[0:2] for line in file)
    free, total = (int(kib[name].split()[0]) / 2 ** 20 for name in ("MemAvailable", "MemTotal"))
    return f"{free:.1f} of {total:.1f} GB are free"


def disk():
    free = shutil.disk_usage(".").free / 2 ** 30
    return f"{free:.1f} GB are free in {os.getcwd()}"


def data(root):
    if root is None:
        return "not asked for (--data ROOT)"
    from comedian.frames import describe, find_halves
    return describe(find_halves(root), root).removeprefix("data: ")


def answer(ask, *arguments):
    """(what a line says, whether all is well)."""
    try:
        return ask(*arguments), True
    except Trouble as trouble:
        return str(trouble), False
    except (Exception, SystemExit) as error:  # noqa: BLE001  (whatever it is: it is the answer)
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", False


def main(argv=None):
    """Prints the lines; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--data", help="a root of frames to look at, as the stages do")
    args = parser.parse_args(argv)
    lines = {"system": (system,), "python": (python,), "packages": (packages,),
             "kernels": (kernels,), "device": (device,), "bfloat16": (bfloat16,),
             "threads": (threads,), "memory": (memory,), "disk": (disk,), "data": (data, args.data)}
    well = True
    with contextlib.redirect_stderr(open(os.devnull, "w")):   # noqa: SIM115 (what packages mutter)
        for name, question in lines.items():
            said, fine = answer(*question)
            well &= fine
            line = f"{name:9} {'' if fine else 'NOT WELL: '}{said}"
            try:
                print(line.encode("ascii", "backslashreplace").decode(), flush=True)
            except OSError:            # nobody reads, or a full disk
                sys.stdout, well = open(os.devnull, "w"), False
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
