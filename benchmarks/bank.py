"""
Stage 2's loss over the complete bank beside the official code's queue: time and memory of the
value and the gradient together.

    python benchmarks/bank.py                                     # CPU, 200,000 rows, a few minutes
    python benchmarks/bank.py --device cuda --rows 1600000 --bf16 # 300 matches, as on a GPU

The yardstick is the bare matrix products that no exact loss can do without, in the same chunks:
every token times every row (q @ bank.T), and the weights times the rows (weights @ bank). The
gradient needs no others: it is the read of the bank, made with the value.

Memory is what a process of its own takes at most beyond the bank (or the queue) and the tokens.
Times are of one process in which the variants take turns, so that a slow minute of the machine
hits all of them. On one CPU thread by default: then the seconds of CPU are the variant's own work
even if the machine has other work to do, and the ratio is taken of them.
"""
import argparse
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import stage2_distill as stage2  # noqa: E402
from benchmarks.throughput import machine  # noqa: E402
from comedian import command  # noqa: E402

QUEUE, TOKENS_PER_WINDOW = 65536, 64          # official code; the paper's best window
LAM, TAU, TAU_M = 0.5, 0.1, 0.07


def unit_rows(n, width, dtype, device):
    """(n, width) random unit vectors, made piece by piece so that making them takes no memory."""
    rows = torch.empty(n, width, dtype=dtype, device=device)
    for piece in rows.split(4096):
        piece.copy_(F.normalize(torch.randn(piece.shape, device=device), dim=1))
    return rows


# ----- what is compared: functions without arguments, their tensors made before they are timed ---
def bare_products(args, rows):
    z = unit_rows(args.tokens, args.width, args.dtype, args.device)
    bank = unit_rows(rows, args.width, args.dtype, args.device)

    def run():
        for part in bank.split(stage2.CHUNK):
            weight = z @ part.T                                       # (n, c)
            weight @ part                                             # (n, D_t)
    return run


def complete(args, rows):
    z = unit_rows(args.tokens, args.width, torch.float32, args.device).requires_grad_()
    bank = unit_rows(rows, args.width, args.dtype, args.device)
    p = bank[:args.tokens].float()
    zeros = torch.zeros(args.tokens, device=args.device)              # entropy and log n: any
    soft = stage2.SoftTargets(bank[-args.tokens:].float(), zeros, zeros)

    def run():
        z.grad = None
        stage2.sce_loss(z, p, soft, bank, LAM, TAU)[0].backward()
    return run


def queue(args, rows):
    windows = args.tokens // TOKENS_PER_WINDOW, TOKENS_PER_WINDOW, args.width
    z = unit_rows(args.tokens, args.width, torch.float32, args.device).requires_grad_()
    p = unit_rows(args.tokens, args.width, torch.float32, args.device).view(windows)
    earlier = unit_rows(rows, args.width, torch.float32, args.device)

    def run():
        z.grad = None
        stage2.sce_loss_queue(z.view(windows), p, earlier, LAM, TAU, TAU_M)[0].backward()
    return run


VARIANTS = {"products": bare_products, "complete": complete, "queue": queue}


# ----- time ---------------------------------------------------------------------------------------
def seconds(run, device):
    """(wall, CPU) seconds of one call; of a GPU, both are the wall's."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return (time.perf_counter() - wall,) * 2
    return time.perf_counter() - wall, time.process_time() - cpu


def in_turns(variants, repeats, device):
    """{name: [(wall, CPU) of each turn]}; the first turn of all warms up and does not count."""
    times = {name: [] for name in variants}
    for _ in range(repeats + 1):
        for name, run in variants.items():
            times[name].append(seconds(run, device))
    return {name: turns[1:] for name, turns in times.items()}


# ----- memory -------------------------------------------------------------------------------------
def extra_mib(args, name, rows):
    """Most MiB beyond its tensors that a variant takes: asked of a fresh process, because a
    process's highest mark never falls."""
    command = [sys.executable, __file__, "--memory-of", name, "--rows", str(rows)]
    command += ["--tokens", str(args.tokens), "--width", str(args.width)]
    command += ["--device", str(args.device), "--threads", str(args.threads)]
    command += ["--bf16"] if args.dtype == torch.bfloat16 else []
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def own_extra_mib(args):
    small = argparse.Namespace(**{**vars(args), "tokens": TOKENS_PER_WINDOW})
    VARIANTS[args.memory_of](small, 256)()         # the libraries' own buffers, not the loss's
    run = VARIANTS[args.memory_of](args, args.rows)
    if args.device.type == "cuda":
        before = torch.cuda.memory_allocated(args.device)
        torch.cuda.reset_peak_memory_stats(args.device)
        run()
        return (torch.cuda.max_memory_allocated(args.device) - before) / 2 ** 20
    before = highest_mib()
    run()
    return highest_mib() - before


def highest_mib():
    """The process's highest mark so far (Linux). Not getrusage's: that starts at its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2 ** 10


# ----- report -------------------------------------------------------------------------------------
def report(args):
    print(machine(args.device))
    print(f"{args.tokens:,} tokens, {args.rows:,} rows of {args.width}, bank in "
          f"{str(args.dtype)[6:]}, {stage2.CHUNK:,} rows at a time, "
          + ("" if args.device.type == "cuda" else f"{torch.get_num_threads()} CPU threads, ")
          + f"median of {args.repeats} turns")
    sizes = {"products": args.rows, "complete": args.rows, "queue": QUEUE}
    times = in_turns({name: VARIANTS[name](args, sizes[name]) for name in VARIANTS},
                     args.repeats, args.device)
    base = statistics.median(cpu for _, cpu in times["products"])
    print(f"\n{'loss and gradient':34}{'seconds':>9}{'min':>8}{'max':>8}{'CPU s':>8}"
          f"{'x products':>12}{'MiB beside':>12}")
    for name, label in (("products", "bare products of the complete bank"),
                        ("complete", "complete bank"), ("queue", f"queue of {QUEUE:,}")):
        wall, cpu = zip(*times[name], strict=True)
        ratio = f"{statistics.median(cpu) / base:12.2f}" if name != "queue" else f"{'':12}"
        print(f"{label:34}{statistics.median(wall):9.2f}{min(wall):8.2f}{max(wall):8.2f}"
              f"{statistics.median(cpu):8.2f}{ratio}"
              f"{extra_mib(args, name, sizes[name]):12,.0f}", flush=True)
    complete_s, queue_s = (statistics.median(cpu for _, cpu in times[name])
                           for name in ("complete", "queue"))
    print(f"per row compared: complete {1e6 * complete_s / args.rows:.1f} us, "
          f"queue {1e6 * queue_s / (QUEUE + TOKENS_PER_WINDOW):.1f} us of CPU")

    print(f"\nmemory of the complete bank's loss by rows: {args.tokens:,} tokens x rows x 4 bytes "
          "is what a dense softmax would store, once")
    for rows in args.rows // 8, args.rows // 2, args.rows:
        print(f"{rows:12,} rows {extra_mib(args, 'complete', rows):10,.0f} MiB beside"
              f"{args.tokens * rows * 4 / 2 ** 20:12,.0f} MiB dense", flush=True)


def main():
    p = command.Parser(__doc__)
    p.add_argument("--tokens", type=int, default=2048, help="per step, a multiple of 64")
    p.add_argument("--rows", type=int, default=200_000, help="features in the bank")
    p.add_argument("--width", type=int, default=512, help="of a feature")
    p.add_argument("--bf16", action="store_true", help="bank in bfloat16, as a run with --bf16")
    p.add_argument("--device", type=torch.device, default="cpu")
    p.add_argument("--threads", type=int, default=1, help="of the CPU")
    p.add_argument("--repeats", type=int, default=5, help="turns of every variant")
    p.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.tokens % TOKENS_PER_WINDOW:
        p.error(f"--tokens: {args.tokens} is no multiple of {TOKENS_PER_WINDOW}")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    args.dtype = torch.bfloat16 if args.bf16 else torch.float32
    if args.memory_of:
        print(own_extra_mib(args))
    else:
        report(args)


if __name__ == "__main__":
    main()
