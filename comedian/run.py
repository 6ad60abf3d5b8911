"""
What all stages share: flags, processes, stop and resume, the log. This file knows nothing of what a
stage learns, except that mixup mixes pairs of samples.

A run writes to a folder of its own, --out: last.pt and log.txt. --resume continues from last.pt,
bit for bit as if the run had never stopped: what a step does is a function of (seed, step), and
log.txt is cut back to the checkpoint's step. The stages import four things: the flags that all of
them have, `start`, which returns a `Process`, its `passes` over a batch, and a `Journal`.
"""
import argparse
import contextlib
import ctypes
import dataclasses
import json
import os
import platform
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from comedian import (
    DataError, __version__, augment, draw, formats, lock, need, write_file, write_text)
from comedian.checkpoint import restore, save_checkpoint, trained_parts
# The stages find these here too: all that they take from the plumbing is `run`.
from comedian.command import (  # noqa: F401
    ENCODING_HELP, Parser, device_name, file_name, launcher, number, run_as_command, stoppable,
    text_encoding)
from comedian.processes import all_gather, all_gather_objects, barrier  # noqa: F401
from comedian.soccernet import read_classes

need("av", "cv2", "matplotlib", "tqdm")                    # some are imported only after hours
from tqdm import tqdm  # noqa: E402

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError:                   # welcome, never required
    SummaryWriter = None


# ------------------------------------------------------------------ the flags
# Flags of `add_flags` that a run and its --resume may differ in: they change how something is
# computed, not what.
FREE_FLAGS = {"out", "accumulate", "workers", "device", "log_every", "save_every", "resume",
              "compile"}


def add_machine_flags(add):
    """Adds the flags of the stages and infer.py that say where and how a network computes."""
    add("--bf16", action=argparse.BooleanOptionalAction, default=None,
        help="bfloat16 autocast; default: on a GPU that has it, and on a processor with AMX or "
             "AVX512-BF16 for networks from ViT-T's width on")
    add("--workers", type=number(0, 1024), default=0, help="decoding threads; 0 = one per core")
    add("--device", type=device_name, default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda, cuda:1, ...")


def add_data_flags(parser, models, model_help="network; --init overrides it with the network of "
                                              "its checkpoint"):
    """Adds every stage's first group of flags; returns its add_argument."""
    add = parser.add_argument_group("data and network").add_argument
    add("--data", required=True, help="folder with frames, laid out as docs/soccernet.md says")
    add("--split", help="use only these games: SoccerNet's train, train+valid, ..., or a file with "
        "a game per line; default: all")
    add("--model", default="vivit_tiny", choices=models, help=model_help)
    return add


def add_init_flags(add, init_help):
    """Adds the flags that say what stages 2 and 3 start from."""
    add("--init", help=f"weights for {init_help}, or public ones (README, 'Weights and results'); "
        "default: random")
    add("--temporal-depth", type=number(1, 128),
        help="blocks of the temporal transformer, if --init has none; default: the model's "
             "(ViViT-T 6: paper's best)")
    add("--temporal-init", choices=["copy", "random"], default="copy",
        help="if --init has no temporal transformer, start it as a copy of the first spatial "
             "blocks (official code, ViViT) or random (the paper mentions no copy)")


def add_color_flag(add, *default, note=""):
    """Adds --color: how much a view's colours change."""
    add("--color", type=number(0.0, 10.0), nargs=4, default=[*default],
        help=f"jitter of brightness, contrast, saturation, hue{note}")


def add_optimisation_flags(parser, epochs, batch, lr):
    """Adds the flags that say how long and how fast stages 1 and 2 train. epochs, batch, lr: pairs
    (default, help)."""
    add = parser.add_argument_group("optimisation").add_argument
    add("--epochs", type=number(1), default=epochs[0], help=epochs[1])
    add("--batch", type=number(1, 65536), default=batch[0], help=batch[1])
    add("--lr", type=number(0.0), default=lr[0], help=lr[1])
    add("--steps", type=number(0), default=0,
        help="optimiser steps in all, instead of --epochs; 0 = off")
    add("--warmup-epochs", type=number(0.0), default=10,
        help="epochs with rising learning rate; with --steps the same share of the steps")
    add_adamw_flags(add)


def add_adamw_flags(add):
    """Adds the flags of AdamW, the same in every stage."""
    add("--weight-decay", type=number(0.0), default=0.05,
        help="AdamW; not on biases, norms, positions")
    add("--clip-grad", type=number(0.0), default=1.0, help="largest gradient norm (official code)")


def add_flags(parser, out):
    """Adds the flags of the run itself, in a group of their own; `out` is the default folder.
    Returns the parser."""
    add = parser.add_argument_group("the run").add_argument
    add("--out", default=out, help="folder for last.pt and log.txt")
    add("--accumulate", type=number(1), default=1,
        help="split the batch into this many passes, for less memory: the same result except for "
             "rounding and the draws of drop path (stage 1, --negatives batch: fewer negatives)")
    add("--compile", action="store_true", help="torch.compile: slow to start, then faster")
    add_machine_flags(add)
    add("--seed", type=number(0, 2 ** 32 - 1), default=0,
        help="seed of weights, sampling and augmentation")
    add("--log-every", type=number(1), default=20, help="steps per log line")
    add("--save-every", type=number(1), default=500, help="steps per checkpoint")
    add("--resume", action="store_true", help="continue from <out>/last.pt, bit for bit")
    return parser


def complete(args, **defaults):
    """A copy of the options in which those that were not given (None) have these values."""
    return argparse.Namespace(**vars(args) | {
        name: value for name, value in defaults.items() if getattr(args, name) is None})


def follow(args, given, cfg, path):
    """The options of stage 3 with the window and the temporal depth of the checkpoint `given` at
    `path`, to resume or to start from, if it has trained them; cfg: its Config, or without one that
    of --model. And the classes: those of --classes, else those that its head has learned, else none
    yet: the labels decide. DataError for options that it contradicts."""
    trained = trained_parts(given) if given else []
    if "temporal." in trained:
        for name, value in (("window", cfg.window_tokens), ("temporal_depth", cfg.temporal_depth)):
            if getattr(args, name) not in (None, value):
                raise DataError(f"{path}: was trained with {name} {value}; give "
                                f"--{name.replace('_', '-')} {value}, or leave it out")
    args = complete(args, temporal_depth=cfg.temporal_depth,
                    window=cfg.window_tokens if "temporal." in trained else 64)
    learned = cfg.classes if "head." in trained else ()
    if not args.classes:
        return args, learned
    classes = read_classes(args.classes)
    if args.resume and learned and classes != learned:
        raise DataError(f"{args.classes}: its classes are not those of {path}; give the file of "
                        "that run, or choose another --out")
    return args, classes


def check_clips(n_clips, data, batch):
    """DataError if the data make no step of stage 1."""
    if n_clips < batch:
        raise DataError(f"{data}: {n_clips} clips are fewer than one --batch of {batch}; lower "
                        "--batch")


def check_steps(total, per_epoch, data, batch):
    """DataError if the data and the flags make no step. per_epoch: windows."""
    if total < 1:
        raise DataError(f"{data}: too few windows for one step ({per_epoch} an epoch, --batch "
                        f"{batch}); lower --batch, or give more --epochs or --steps")


def hint_at_low_rate(peak, args):
    """Prints a hint if the peak rate is below 5e-5, at which a small batch learns little (our
    limit: a fifth of the paper's rate at its batch)."""
    if peak < 5e-5:
        print(f"hint: --lr {args.lr:g} is for 256 windows of 32 tokens: at --batch "
              f"{args.batch} it becomes {peak:.1g}, which learns little; docs/own-data.md has "
              "flags for small data")


# ------------------------------------------------------------------ the processes
@dataclasses.dataclass(frozen=True)
class Process:
    """One process of a run: its rank, its device, its share of a batch, and the run's options."""
    rank: int                         # 0 prints and writes
    ranks: int                        # how many there are
    device: torch.device
    bf16: bool                        # whether autocast computes in bfloat16
    micro_batches: list               # its samples of every batch: one slice per pass
    args: argparse.Namespace = None   # the options of the run
    stage: int = 0
    state: dict = None                # the checkpoint <out>/last.pt with --resume, else None

    @property
    def samples(self):
        """Its samples of every batch, of all passes, as one slice."""
        return slice(self.micro_batches[0].start, self.micro_batches[-1].stop)

    def autocast(self):
        """A context in which the network computes in bfloat16, if this process does."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def restore(self, parts):
        """With --resume restores {section: a module, an optimizer or a tensor} from last.pt."""
        if self.state:
            restore(parts, self.state, Path(self.args.out, "last.pt"))

    def steps_done(self, total):
        """How many of its `total` steps the run has done: 0 without --resume. DataError if more, as
        with --data of fewer halves than before."""
        done = self.state["step"] if self.state else 0
        if done > total:
            raise DataError(f"{Path(self.args.out, 'last.pt')}: is at step {done:,}, but these "
                            f"flags and this --data make only {total:,} steps; give the flags and "
                            "data of that run")
        return done

    def wrap(self, module):
        """The module as it is called in training: compiled with --compile, and with gradients
        averaged over all processes if there are several."""
        module = torch.compile(module) if self.args.compile else module
        return DistributedDataParallel(module) if self.ranks > 1 else module

    def passes(self, step, student, *batch):
        """The samples of a step, pass by pass (--accumulate): yields (draw, part, ...). draw: the
        random numbers of these samples (augment.Draws), by which drop path is seeded, too; parts of
        the tensors of `batch` (B / ranks, ...)."""
        parts = zip(*(tensor.chunk(len(self.micro_batches)) for tensor in batch), strict=True)
        for samples, part in zip(self.micro_batches, parts, strict=True):
            draw = augment.Draws(self.args.seed, step, self.args.batch, samples)
            draw.seed_torch()
            # DDP averages gradients in the last pass only, as with its no_sync(). Without DDP
            # nothing reads this.
            student.require_backward_grad_sync = samples is self.micro_batches[-1]
            yield draw, *part

    @contextlib.contextmanager
    def first_alone(self):
        """Runs the block in the first process, then in the others."""
        if self.rank > 0:
            barrier()
        yield
        if self.rank == 0:
            barrier()

    def __str__(self):
        return f"on {self.ranks} x {self.device.type}, bf16 {'on' if self.bf16 else 'off'}"


def start(args, state, width, stage, free):
    """Checks that the run may write to --out, and returns its Process. state: the checkpoint
    <out>/last.pt with --resume, else None. width: D of its network. free: the stage's own flags
    that may differ on --resume."""
    check_out(args, state, stage, free)
    return init_processes(args, state, width, stage)


def init_processes(args, state, width, stage):
    """The Process of this run: alone, or one of those that torchrun started. --bf16 decides whether
    it computes in bfloat16; without it the run's first start (state); else whether bfloat16 is
    faster on this device for a network of `width` D.

    --batch counts the samples of all processes together, so that the method does not depend on how
    many there are; each takes the next samples in order. CPUs exchange data through gloo, GPUs
    through NCCL.
    """
    # MKL picks the kernel of each function at its first call; two threads that make that call at
    # once can get one of low precision, for that call alone (pytorch issue 188792). A tensor of one
    # element is computed by one thread: the choice is then made.
    for function in (torch.exp, torch.log, torch.sqrt):
        function(torch.ones(1))
    rank, ranks, device = join_processes(args.device)
    bf16 = state["args"].get("bf16") if state and args.bf16 is None else args.bf16
    if bf16 is None:
        bf16 = bf16_pays(device, width)
    return Process(rank, ranks, device, bf16, micro_batches(args, rank, ranks), args, stage, state)


def join_processes(device):
    """(rank, number of processes, torch.device) of this process. If torchrun started several, each
    waits here for the others. device: the value of --device; of several GPUs each gets its own."""
    keep_freed_memory()                                   # here training and infer.py begin
    env, rank = launcher(), 0
    ranks = env["WORLD_SIZE"]
    if ranks > 1:
        on_gpu = device.startswith("cuda")
        if on_gpu:
            device = f"cuda:{env['LOCAL_RANK']}"
            torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo",
                                timeout=timedelta(hours=12))      # rank 0 validates alone
        rank = dist.get_rank()
        if rank:                                          # what the others print goes nowhere
            sys.stdout = open(os.devnull, "w")
    return rank, ranks, torch.device(device)


def keep_freed_memory():
    """Makes glibc keep the memory of freed tensors for the next ones. By default it hands large
    blocks back to the system, which zeroes them again, 4 KB at a time, for the next tensor. On a
    CPU vivit_micro trains about a tenth faster so; the peak stays (benchmarks/malloc.txt of
    cb1cf1d). Proved by test_freed_memory_is_kept."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)    # only glibc has it
    for parameter in (-1, -3) if mallopt else ():            # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        mallopt(parameter, 2 ** 31 - 1)


def micro_batches(args, rank, ranks):
    """Which samples of every batch a process takes, as one slice per pass. DataError if they cannot
    be dealt out evenly, or if that splits the pairs that mixup mixes: 0 with 1, 2 with 3, ..."""
    if args.batch % (ranks * args.accumulate):
        raise DataError(f"--batch {args.batch} cannot be split evenly into {ranks} processes with "
                        f"{args.accumulate} passes each; give a --batch that is a multiple of "
                        f"{ranks * args.accumulate}")
    n = args.batch // (ranks * args.accumulate)
    if n % 2 and n < args.batch and getattr(args, "mixup", 0):
        raise DataError(f"--batch {args.batch} in passes of {n} splits the pairs of windows that "
                        f"--mixup mixes; give a --batch that is a multiple of "
                        f"{2 * ranks * args.accumulate}, a smaller --accumulate, or --mixup 0")
    first = rank * args.accumulate
    return [slice(i * n, (i + 1) * n) for i in range(first, first + args.accumulate)]


def choose_autocast(bf16, device, models):
    """The autocast context of the networks, and whether it is bfloat16; prints it. bf16: --bf16, or
    None if it was not given."""
    if bf16 is None:
        bf16 = bf16_pays(device, min(model.cfg.width for model in models))
    print(f"network: on {device.type}, bf16 {'on' if bf16 else 'off'}")
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16), bf16


def bf16_pays(device, width):
    """Whether bfloat16 is the default on this device for a network of `width` D. Nothing is timed,
    so that the answer is always the same on one machine."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bf16_pays_on_cpu(cpu_flags(), width)


def bf16_pays_on_cpu(flags, width):
    """The rule of `bf16_pays` for a CPU with these `flags`, a set. Measured with AMX: ViT-T, 192
    wide, encodes 2.8 times as fast and trains 1.7 times as fast (on a Xeon; by hand, not kept); the
    demo's network, 128 wide, trains at 0.85 of the speed, because the conversions cost more than
    the faster products save (benchmarks/throughput.txt)."""
    return width >= 192 and not flags.isdisjoint({"amx_bf16", "avx512_bf16"})


def cpu_flags():
    """The features of the processor as Linux names them, a set; empty on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return set(found[1].split()) if found else set()


@contextlib.contextmanager
def locked(folder, rank):
    """Makes and locks the folder of a run while the block runs. DataError if another run writes
    there. All processes must enter, and wait until the first has locked it."""
    if rank == 0:
        os.makedirs(folder, exist_ok=True)
        held = lock(folder)
    try:
        barrier()
        yield
    finally:
        if rank == 0:
            os.close(held)


# ------------------------------------------------------------------ stop and resume
class Stop:
    """Ctrl-C, SIGTERM and SIGHUP let the step finish; the same signal again ends the process at
    once. A signal that the caller ignores (nohup ignores SIGHUP) stays ignored.

        stop = Stop()
        for step in ...:
            stopping = stop.requested()       # once a step, in every process
            ...                           # if stopping: save and break
        stop.exit_if_requested("stopped after step 7")             # prints how to resume
    """

    def __init__(self):
        self.noted = self.signal = 0                      # by this process; agreed on by all
        self.before = {s: signal.signal(s, self.note)
                       for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
                       if signal.getsignal(s) != signal.SIG_IGN}

    def note(self, number, frame):
        self.noted = number
        signal.signal(number, self.before[number])

    def requested(self):
        """Whether to stop after this step; all processes get the same answer."""
        answer = torch.tensor(self.noted)
        if dist.is_initialized():
            dist.all_reduce(answer, dist.ReduceOp.MAX)    # between the CPUs: no GPU waits
        self.signal = int(answer)
        return self.signal != 0

    def exit_if_requested(self, what):
        """After the loop: restores the signals' earlier handlers. If a signal stopped the loop,
        prints how to resume and ends the process."""
        for noted, handler in self.before.items():
            signal.signal(noted, handler)
        if self.signal:
            line = shlex.join([*sys.argv, *["--resume"] * ("--resume" not in sys.argv)])
            launcher = "torchrun ..." if "WORLD_SIZE" in os.environ else "python"
            print(f"{what}; saved. To continue: {launcher} {line}")
            sys.exit(128 + self.signal)


def check_out(args, state, stage, free):
    """DataError unless this run may write to --out: there is no run in it, or --resume continues
    it, with the same flags except FREE_FLAGS and the stage's own `free` ones."""
    path = Path(args.out, "last.pt")
    if state is None and path.exists():
        raise DataError(f"{path}: this run exists already; add --resume or choose another --out")
    there = next(folder for folder in path.parents if folder.exists())
    if not there.is_dir():
        raise DataError(f"{there}: is a file, not a folder; choose another --out")
    if not os.access(there, os.W_OK | os.X_OK):            # now, not after hours
        raise DataError(f"{there}: cannot be written to; choose another --out")
    if state is None:
        return
    if state["stage"] != stage:
        raise DataError(f"{path}: is a run of stage {state['stage']}, not {stage}; choose "
                        "another --out")
    check_state(state, path)
    now, then, may_differ = vars(args), state["args"], FREE_FLAGS | set(free)
    if args.bf16 is None:                                  # as the run began, on whatever machine
        may_differ |= {"bf16"}
    odd = [flag for flag in [*now, *then] if (flag in now) != (flag in then)]
    if odd:
        raise DataError(f"{path}: was written by another version, with other flags "
                        f"({', '.join(odd)[:200]}); resume it with that version")
    differ = [f"--{flag.replace('_', '-')} {str(value)[:80]} (now {now[flag]})"
              for flag, value in then.items() if flag not in may_differ and now[flag] != value]
    if differ:
        raise DataError(f"{path}: was run with {', '.join(differ)}; --resume needs the same flags")


def check_state(state, path):
    """DataError unless a checkpoint has what a resume needs: `step`, `args`, `log` as Log.state
    returns it, and of stage 3 the `best` t-AmAP."""
    args, log = state.get("args"), state.get("log")
    sums = log.get("sums") if isinstance(log, dict) else None
    sound = {
        "step": type(state.get("step")) is int and state["step"] >= 1,
        "args": isinstance(args, dict) and all(
            isinstance(flag, str) and is_plain(value) for flag, value in args.items()),
        "log": isinstance(sums, dict) and type(log.get("steps")) is int and 0 <= log["steps"] and
        all(isinstance(key, str) and isinstance(value, torch.Tensor) and value.shape == ()
            and value.dtype == torch.float32 and value.isfinite() for key, value in sums.items()),
        "best": state["stage"] < 3 or (isinstance(state.get("best"), float)
                                       and -1 <= state["best"] <= 2)}
    wrong = [section for section, is_sound in sound.items() if not is_sound]
    if wrong:
        raise DataError(f"{path}: cannot be resumed, its {', '.join(wrong)} "
                        "is missing or damaged; start again in another --out")


def is_plain(value):
    """Whether a value is what a flag can be: a number, a text, nothing, or a list of them."""
    return (value is None or isinstance(value, (bool, int, float, str))
            or (isinstance(value, (list, tuple))
                and all(isinstance(v, (int, float, str)) for v in value)))


# ------------------------------------------------------------------ the log
def memory_gb(device):
    """Largest memory so far: of the GPU if there is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2 ** 30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20


class Log:
    """One line per --log-every steps, on the screen, in log.txt and in TensorBoard: the means of
    the values of each step, "loss" among them.

    Between two lines the numbers stay on the device, so that the run never waits for it. The device
    also remembers a loss or a gradient that is not finite, which stops the run at the next line or
    save, before it reaches a checkpoint. Steps are counted from 1. files(step) lists the files that
    a step reads. state: what `state` returned for the checkpoint that the run resumes.
    """

    def __init__(self, out, name, first, last, device, files, state=None):
        self.path, self.name, self.last = Path(out, "log.txt"), name, last
        self.device, self.files = device, files
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.sums, self.steps = {}, 0
        if state:                     # a line's mean reaches back over the stop
            self.sums = {key: value.to(device) for key, value in state["sums"].items()}
            self.steps = state["steps"]
        self.not_finite = torch.zeros((), dtype=torch.long, device=device)    # first bad step, or 0
        self.norm, self.clips, self.step = None, 0, first
        self.since, self.since_step = time.time(), first
        self.bar = tqdm(total=last, initial=first, desc=name, unit="step", mininterval=1,
                        disable=None if self.rank == 0 else True)
        self.board, self.lines = None, 0
        if self.rank == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.lock = lock(self.path.parent)
            self.cut_back(first)
            if SummaryWriter:
                self.board = SummaryWriter(out, purge_step=first + 1)

    def cut_back(self, first):
        """Leaves out the lines after step `first`, which come again, and half a line at the end.
        Also for a new run: one that was killed before it first saved can only begin again."""
        if self.path.exists():
            lines = self.path.read_bytes().splitlines(keepends=True)
            steps = [re.search(rb"\| step (\d{1,18})/", line) for line in lines]
            kept = [line for line, step in zip(lines, steps, strict=True)
                    if line.endswith(b"\n") and (not step or int(step[1]) <= first)]
            write_file(self.path, lambda file: file.write(b"".join(kept)))

    def add(self, step, values, norm, clips):
        """After every step: its values {name: tensor ()}, "loss" first; its gradient's norm; and
        how many clips all processes saw."""
        is_first = (self.not_finite == 0) & ~torch.isfinite(values["loss"] + norm)
        self.not_finite = torch.where(is_first, step, self.not_finite)
        for key, value in values.items():
            self.sums[key] = self.sums.get(key, 0) + value
        self.steps += 1
        self.step, self.norm, self.clips = step, norm, self.clips + clips
        self.bar.update()

    def line(self, step, lr):
        """The means since the last line. All processes must call it."""
        sums = self.state(step)["sums"]
        seconds = max(time.time() - self.since, 1e-9)
        means = {key: value.item() / self.steps for key, value in sums.items()}
        left = (self.last - step) * seconds / (step - self.since_step)
        self.write(f"step {step}/{self.last} | "
                   + " | ".join(f"{key} {value:.4f}" for key, value in means.items())
                   + f" | lr {lr:.2e} | grad {self.norm.item():.2f} "
                   f"| {self.clips / seconds:.0f} clips/s | {memory_gb(self.device):.1f} GB "
                   f"| {tqdm.format_interval(left)} left")
        if self.board:
            for tag, value in (*means.items(), ("lr", lr), ("grad", self.norm.item()),
                               ("clips_per_s", self.clips / seconds)):
                self.board.add_scalar(tag, value, step)
        self.sums, self.steps, self.clips, self.lines = {}, 0, 0, self.lines + 1
        self.since, self.since_step = time.time(), step

    def write(self, text):
        """One line, by rank 0."""
        if self.rank == 0:
            tqdm.write(f"{self.name} | {text}")
            try:
                with open(self.path, "a", encoding="utf-8") as file:
                    file.write(f"{self.name} | {text}\n")
            except OSError as error:
                raise DataError(f"{self.path}: cannot be written ({error.strerror}); make room, "
                                "then --resume") from None

    @contextlib.contextmanager
    def paused(self):
        """The time of the block does not count as training time."""
        since = time.time()
        yield
        self.since += time.time() - since

    def state(self, step):
        """For the checkpoint: the sums since the last line, averaged over all processes, each of
        which must call it.

        Raises DataError if one of the steps so far was not finite, and lists its files.
        """
        not_finite = self.not_finite.clone()
        if dist.is_initialized():
            dist.all_reduce(not_finite, dist.ReduceOp.MAX)
            for value in self.sums.values():
                dist.all_reduce(value)
                value /= dist.get_world_size()
        if not_finite:
            raise self.not_finite_error(int(not_finite))
        return {"sums": {key: value.cpu().clone() for key, value in self.sums.items()},
                "steps": self.steps}

    def not_finite_error(self, step):
        """The DataError that names the batch of a step whose loss or gradient is not finite."""
        files = self.files(step)
        listed, last = (self.path.with_name(name)
                        for name in (f"not_finite_step_{step}.txt", "last.pt"))
        if self.rank == 0:
            write_text(listed, "\n".join(files) + "\n")
        return DataError(
            f"step {step}: the loss or its gradient is not finite. Its batch begins with "
            f"{files[0]} (all {len(files)} in {listed}); "
            + (f"the last good checkpoint is {last}" if last.exists() else "no checkpoint yet")
            + "; check the files, or try a lower --lr in a new --out")

    def close(self):
        """Ends the bar and TensorBoard's file, and lets others write to the folder."""
        self.bar.close()
        if self.board:
            self.board.close()
        if self.rank == 0:
            os.close(self.lock)


def write_table(path):
    """Writes log.csv from a log.txt, if there is one: a line per step, a column per number."""
    rows = {}                         # step -> {column: number, as written}
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        step = re.match(r"stage \d \| step (\d+)/\d+ \| ", line)
        for cell in line[step.end():].split(" | ") if step else ():
            if number := re.search(r"(?<!\S)\d[\d.e+-]*(?!\S)", cell):    # not "01:34 left"
                name = re.sub(r"[ %]+", " ", cell.replace(number[0], "")).strip()
                rows.setdefault(int(step[1]), {})[name] = number[0]
    columns = ["step", *dict.fromkeys(name for row in rows.values() for name in row)]
    write_text(path.with_suffix(".csv"), "".join(
        ",".join(row.get(name, "") for name in columns) + "\n"
        for row in ({name: name for name in columns},
                    *(row | {"step": str(step)} for step, row in sorted(rows.items())))))


# ------------------------------------------------------------------ the record of a run
def commit():
    """The commit of this checkout, "-dirty" if files were changed since; None if it is unknown: an
    installed package, or no git."""
    root = Path(__file__).parents[1]
    try:
        name = subprocess.run(["git", "-C", root, "describe", "--always", "--dirty", "--exclude=*",
                               "--abbrev=40"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        name = ""
    return name.strip() or None if (root / ".git").exists() else None


def write_facts(process, first, halves):
    """Adds an entry to <out>/run.json each time that the run is started or resumed."""
    path, before = Path(process.args.out, "run.json"), []
    if first and path.exists():
        before = formats.read_json(path, "a record of a run")
        if not isinstance(before, list):
            raise formats.refused(path, "a record of a run", "it is no list")
    device = process.device
    facts = {
        "stage": process.stage, "from_step": first, "command": shlex.join(sys.orig_argv),
        "flags": vars(process.args) | {"bf16": process.bf16},
        "comedian": __version__, "commit": commit(),
        "python": platform.python_version(), "torch": str(torch.__version__),
        "machine": {"system": platform.platform(), "cores": len(os.sched_getaffinity(0)),
                    "processes": process.ranks, "device": torch.cuda.get_device_name(device)
                    if device.type == "cuda" else device.type},
        "data": {"matches": len({half.match for half in halves}), "halves": len(halves),
                 "frames": sum(half.n_frames for half in halves),
                 "fps": sorted({half.fps for half in halves})}}
    write_text(path, json.dumps([*before, facts], indent=1) + "\n")


# ------------------------------------------------------------------ all of it, for a stage
class Journal(Log):
    """Writes a run's log lines, checkpoints and curves, and stops the run when a signal asks for
    it. Every process must call each of its methods.

        for step, batch in journal.batches(reader, load):
            ...
            journal.note(step, lr, norm, clips, {"loss": losses})
            journal.save_if_due(step, cfg, {"model": model, ...})
        journal.finish("what the checkpoint is for")
    """

    def __init__(self, process, first, total, halves, picks):
        """first: the step to begin with; total: steps in all; halves: the data; picks(step): the
        samples of a step, of all processes, as pairs (half index, first frame)."""
        self.args, self.stage, self.bf16 = process.args, process.stage, process.bf16
        state = process.state
        super().__init__(self.args.out, f"stage {self.stage}", first, total, process.device,
                         lambda done: [halves[h].path(frame) for h, frame in picks(done - 1)],
                         state and state["log"])
        if self.rank == 0:
            write_facts(process, first, halves)
        self.stop, self.stopping = Stop(), False
        self.best = -1.0                                              # t-AmAP of the best so far
        if state and self.stage == 3:
            self.best = state["best"]
        self.validated = self.improved = False                        # in this step

    def batches(self, reader, load):
        """Yields (step, load(step)) of the steps that are left, until the run is asked to stop."""
        for step, batch in reader.batches(load, range(self.step, self.last)):
            yield step, batch
            if self.stopping:
                break

    def note(self, step, lr, norm, clips, values):
        """Records a step: its learning rate, its gradient's norm, how many clips all processes saw,
        and {name: [a tensor () per pass]}, "loss" first."""
        self.add(step + 1, {name: torch.stack(of_passes).mean()
                            for name, of_passes in values.items()}, norm, clips)
        if (step + 1) % self.args.log_every == 0 or step + 1 == self.last:
            self.line(step + 1, lr)

    def validate(self, step, score):
        """Validates after a step: score() gives the t-AmAP, in the first process alone."""
        self.validated = True
        if self.rank == 0:
            with self.paused():
                amap = score()
            self.improved, self.best = amap > self.best, max(amap, self.best)
            self.write(f"step {step + 1}/{self.last} | valid t-AmAP {100 * amap:.2f} % "
                       f"| best {100 * self.best:.2f} %")

    def save_if_due(self, step, cfg, parts):
        """After the last step, one of --save-every, one that was validated, and the one after which
        the run stops: writes last.pt, and best.pt if this is the best. They hold the Config, the
        parts {section: a module, an optimizer or a tensor} and what a resume needs."""
        self.stopping = self.stop.requested()
        if not (self.stopping or self.validated or (step + 1) % self.args.save_every == 0
                or step + 1 == self.last):
            return
        log_state = self.state(step + 1)                              # all processes must call it
        content = {name: part if isinstance(part, torch.Tensor) else part.state_dict()
                   for name, part in parts.items()}
        content |= {"best": self.best} if self.stage == 3 else {}
        if self.rank == 0:
            for name in ["last.pt", "best.pt"] if self.improved else ["last.pt"]:
                save_checkpoint(Path(self.args.out, name), stage=self.stage, step=step + 1,
                                args=vars(self.args) | {"bf16": self.bf16}, log=log_state,
                                config=dataclasses.asdict(cfg), **content)
            write_table(self.path)
        self.validated = self.improved = False

    def finish(self, use):
        """After the loop: draws the curves and prints what the checkpoint is for (use), or, if a
        signal stopped the run, how to resume it, and ends the process."""
        self.close()
        if self.rank == 0 and (self.lines or self.step == self.last):  # killed before it could?
            draw.curves([self.args.out], Path(self.args.out, "curves.png"))
        self.stop.exit_if_requested(f"{self.name}: stopped after step {self.step}")
        print(f"{self.name}: done; {self.args.out}/{use}")
