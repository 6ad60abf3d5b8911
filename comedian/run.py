"""
A run: its command line, its processes, its stop, its log. What a stage learns is not here, nor how;
only what is bookkeeping and must be identical in all of them.

A run owns a folder (--out): last.pt, log.txt, curves.png and, where TensorBoard is installed, its
events. --resume goes on from last.pt to the bits of a run that never stopped: what a step does is a
function of (seed, step), and log.txt is cut back to the checkpoint's step.
"""
import argparse
import math
import os
import re
import resource
import shlex
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from comedian.frames import DataError
from comedian.public_weights import load_checkpoint

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError:                   # welcome, never required
    SummaryWriter = None


# MKL picks the kernel of each function at its first call; two threads that make that call at once
# can get one of low precision, for that call alone (pytorch issue 188792: stage 2 then left its own
# other runs by a rounding). A single element is a single thread.
for function in (torch.exp, torch.log, torch.sqrt):
    function(torch.ones(1))


# ------------------------------------------------------------------ the command line
class Parser(argparse.ArgumentParser):
    """--help shows the defaults; a mistake on the command line is one line and exit code 2."""

    def __init__(self, description=None, **more):
        super().__init__(description=description and description.strip().split("\n\n")[0],
                         formatter_class=argparse.ArgumentDefaultsHelpFormatter, **more)

    def error(self, message):
        print(f"error: {message} (--help lists the flags)", file=sys.stderr)
        sys.exit(2)


def number(low, high=math.inf):
    """For argparse: a number within [low, high], whole if `low` is; else a one-line refusal."""
    kind = type(low)

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            what = "a whole number" if kind is int else "a number"
            limit = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"wants {what} {limit}, got {text!r}")
        return value

    return parse


def device_name(name):
    """For argparse: `name` if torch can put a tensor there, else a one-line refusal."""
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:       # no such device; torch without CUDA
        raise argparse.ArgumentTypeError(f"torch cannot use {name!r} here "
                                         f"({str(error).splitlines()[0]})") from None
    return name


def command(main, args, stopped="stopped before there was anything to save"):
    """main(args) for a person: what he can mend is one line and exit code 2, never a traceback.
    `stopped` is what to say after a Ctrl-C that main leaves alone."""
    # Memory-mapped features keep a file open each: SoccerNet has 1,100 halves, many systems allow
    # a process 1,024 files unless it asks for more.
    resource.setrlimit(resource.RLIMIT_NOFILE, [resource.getrlimit(resource.RLIMIT_NOFILE)[1]] * 2)
    try:
        main(args)
    except KeyboardInterrupt:
        print(f"error: {stopped}", file=sys.stderr)
        sys.exit(130)
    except (DataError, OSError) as error:                 # an OSError names its file, too
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:          # torch.OutOfMemoryError is one of these
        if not (isinstance(error, (MemoryError, torch.OutOfMemoryError))
                or "can't allocate memory" in str(error)):
            raise
        print(f"error: out of memory on {getattr(args, 'device', 'this machine')}; "
              f"{less_memory(args)}", file=sys.stderr)
        sys.exit(2)


def less_memory(args):
    """What to lower after an out-of-memory error, and to what."""
    if not hasattr(args, "batch"):                        # evaluate.py, report.py
        return "close other programs, or take fewer matches at a time"
    if not hasattr(args, "accumulate"):                   # infer.py
        return f"try --batch {max(1, args.batch // 2)}"
    own = args.batch // int(os.environ.get("WORLD_SIZE", 1))          # samples of one process
    finer = [n for n in range(args.accumulate + 1, own + 1) if own % n == 0]
    if finer:
        return (f"split the batch into smaller passes: --accumulate {finer[0]} "
                f"({own // finer[0]} at a time instead of {own // args.accumulate}; "
                "the result stays the same)")
    return "one sample at a time does not fit: try a shorter --window or a smaller --model"


# ------------------------------------------------------------------ the processes
def join(device):
    """Under torchrun: (rank, number of processes, this process's device); alone: (0, 1, device).

    Only rank 0 speaks. Messages between the CPUs go through gloo, between GPUs through NCCL.
    """
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    if ranks == 1:
        return 0, 1, torch.device(device)
    on_gpu = device.startswith("cuda")
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo",
                            timeout=timedelta(hours=12))  # rank 0 validates, makes centroids alone
    if dist.get_rank():
        sys.stdout = open(os.devnull, "w")
    return dist.get_rank(), ranks, torch.device(device)


def passes(args, rank, ranks):
    """Which samples of every batch this process takes, as one slice per pass.

    --batch counts the samples of all processes together: the method does not depend on how many
    there are. They are dealt out in order.
    """
    if args.batch % (ranks * args.accumulate):
        raise DataError(f"--batch {args.batch} cannot be split evenly into {ranks} processes with "
                        f"{args.accumulate} passes each: --accumulate times the processes must "
                        "divide it")
    n = args.batch // (ranks * args.accumulate)
    first = rank * args.accumulate
    return [slice(i * n, (i + 1) * n) for i in range(first, first + args.accumulate)]


def rank():
    """Which of the processes this is."""
    return dist.get_rank() if dist.is_initialized() else 0


def has_bf16(device):
    """Whether bfloat16 autocast pays on this device."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def gather(x):
    """The rows of x (n, ...) of all processes, in the order of their ranks; without gradient."""
    if not dist.is_initialized():
        return x
    everyone = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, x.contiguous())
    return torch.cat(everyone)


def total(x):
    """The sum of x over all processes."""
    if dist.is_initialized():
        dist.all_reduce(x)
    return x


def wait():
    """Until all processes are here."""
    if dist.is_initialized():
        dist.barrier()


# ------------------------------------------------------------------ to stop and to go on
class Stop:
    """SIGTERM and Ctrl-C let the step finish; a second one ends the process at once."""

    def __init__(self):
        self.noted = self.signal = 0                      # by this process; agreed on by all
        self.before = {s: signal.signal(s, self.note) for s in (signal.SIGINT, signal.SIGTERM)}

    def note(self, number, frame):
        self.noted = number
        signal.signal(number, self.before[number])

    def asked(self):
        """Whether to stop after this step; all processes get the same answer."""
        answer = torch.tensor(self.noted)
        if dist.is_initialized():
            dist.all_reduce(answer, dist.ReduceOp.MAX)    # between the CPUs: no GPU waits
        self.signal = int(answer)
        return self.signal != 0

    def release(self, what):
        """At the end of the loop. If it was left early: says how to go on, and ends the process."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.signal:
            line = shlex.join([*sys.argv, *["--resume"] * ("--resume" not in sys.argv)])
            launcher = "torchrun ..." if "WORLD_SIZE" in os.environ else "python"
            print(f"{what}; saved. To go on: {launcher} {line}")
            sys.exit(128 + self.signal)


# Flags that may differ between a run and its --resume: they change how, not what is computed.
FREE_FLAGS = {"data", "labels", "features", "centroids", "valid", "valid_labels", "init", "out",
              "accumulate", "workers", "device", "log_every", "save_every", "resume", "compile",
              "bank_rows"}


def start(args, stage):
    """The checkpoint to go on from, or None for a new run. Nothing is ever written over."""
    path = Path(args.out, "last.pt")
    if not args.resume:
        if path.exists():
            raise DataError(f"{path}: there is a run already; --resume it or choose another --out")
        if path.parent.exists() and not path.parent.is_dir():
            raise DataError(f"{path.parent}: is a file, not a folder; choose another --out")
        return None
    checkpoint = load_checkpoint(path)
    if checkpoint["stage"] != stage:
        raise DataError(f"{path}: is a run of stage {checkpoint['stage']}, not {stage}")
    check_same_run(checkpoint, args, path)
    return checkpoint


def check_same_run(checkpoint, args, path):
    """A resumed run must be the run it was: DataError names the flags that differ."""
    was, now = checkpoint["args"], vars(args)
    differ = [f"--{flag.replace('_', '-')} {was[flag]} (now {now[flag]})" for flag in now
              if flag not in FREE_FLAGS and flag in was and was[flag] != now[flag]]
    if differ:
        raise DataError(f"{path}: was run with {', '.join(differ)}; --resume wants the same flags")


# ------------------------------------------------------------------ the log
def memory_gb(device):
    """Largest memory so far: of the GPU if there is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2 ** 30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20


class Log:
    """One greppable line per --log-every steps, on the screen, in log.txt and in TensorBoard.

    Between two lines the numbers stay on the device: nothing waits for it. A loss or a gradient
    that is not finite is remembered there, too, and stops the run at the next line or save, before
    a checkpoint can be spoilt. Steps are counted from 1. files(step) lists what a step reads.
    """

    def __init__(self, out, name, first, last, device, files, state=None):
        self.path, self.name, self.last = Path(out, "log.txt"), name, last
        self.device, self.files = device, files
        self.rank = rank()
        self.sum, self.steps = torch.zeros((), device=device), 0
        if state:                     # a line's mean reaches back over the stop
            self.sum, self.steps = state["sum"].to(device), state["steps"]
        self.spoilt = torch.zeros((), dtype=torch.long, device=device)       # first bad step, or 0
        self.norm, self.clips, self.step = None, 0, first
        self.since, self.since_step = time.time(), first
        self.bar = tqdm(total=last, initial=first, desc=name, unit="step", mininterval=1,
                        disable=None if self.rank == 0 else True)
        self.board, self.lines = None, 0
        if self.rank == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if first and self.path.exists():              # lines after the checkpoint come again
                kept = [line for line in self.path.read_text().splitlines(keepends=True)
                        if int(re.search(r"step (\d+)/", line)[1]) <= first]
                self.path.write_text("".join(kept))
            if SummaryWriter:
                self.board = SummaryWriter(out, purge_step=first + 1)

    def add(self, step, loss, norm, clips):
        """After every step: its loss and gradient norm (tensors), and the clips all saw."""
        self.spoilt = torch.where((self.spoilt == 0) & ~torch.isfinite(loss + norm), step,
                                  self.spoilt)
        self.sum += loss
        self.steps += 1
        self.step, self.norm, self.clips = step, norm, self.clips + clips
        self.bar.update()

    def line(self, step, lr):
        """The means since the last line."""
        state = self.state(step)
        seconds = max(time.time() - self.since, 1e-9)
        loss, norm = state["sum"].item() / self.steps, self.norm.item()
        left = (self.last - step) * seconds / (step - self.since_step)
        self.write(f"step {step}/{self.last} | loss {loss:.4f} | lr {lr:.2e} | grad {norm:.2f} "
                   f"| {self.clips / seconds:.0f} clips/s | {memory_gb(self.device):.1f} GB "
                   f"| {tqdm.format_interval(left)} left")
        if self.board:
            for tag, value in (("loss", loss), ("lr", lr), ("grad", norm),
                               ("clips_per_s", self.clips / seconds)):
                self.board.add_scalar(tag, value, step)
        self.sum.zero_()
        self.steps, self.clips, self.lines = 0, 0, self.lines + 1
        self.since, self.since_step = time.time(), step

    def write(self, text):
        """One line, by rank 0."""
        if self.rank == 0:
            tqdm.write(f"{self.name} | {text}")
            with open(self.path, "a") as file:
                file.write(f"{self.name} | {text}\n")

    def state(self, step):
        """For the checkpoint: the sum of losses since the last line, over all processes.

        Raises DataError if one of the steps so far was spoilt, and lists its files.
        """
        spoilt = self.spoilt.clone()
        if dist.is_initialized():
            dist.all_reduce(spoilt, dist.ReduceOp.MAX)
            self.sum = total(self.sum) / dist.get_world_size()
        if spoilt:
            raise self.spoilt_by(int(spoilt))
        return {"sum": self.sum.cpu().clone(), "steps": self.steps}

    def spoilt_by(self, step):
        """The DataError that names the batch of a step whose loss or gradient is not finite."""
        files = self.files(step)
        listed, last = (self.path.with_name(name)
                        for name in (f"not_finite_step_{step}.txt", "last.pt"))
        if self.rank == 0:
            listed.write_text("\n".join(files) + "\n")
        return DataError(
            f"step {step}: the loss or its gradient is not finite. Its batch begins with "
            f"{files[0]} (all {len(files)} in {listed}); "
            + (f"the last good checkpoint is {last}" if last.exists() else "no checkpoint yet")
            + "; look at the files, or try a lower --lr in a new --out")

    def close(self):
        """Ends the bar and TensorBoard's file, and draws curves.png."""
        self.bar.close()
        if self.board:
            self.board.close()
        if self.rank == 0 and self.lines:
            from comedian import report  # noqa: I001  (here, as it brings matplotlib)
            folder = self.path.parent
            report.draw_curves(folder / "curves.png", [report.read_log(folder)], [str(folder)])
