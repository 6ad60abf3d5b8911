"""
How long 1,000 resamples of the matches take, beside evaluating each of them outright.

    python benchmarks/bootstrap.py                   # 100 matches, 10 s
    python benchmarks/bootstrap.py --matches 10 --resamples 100

Events and detections as in kernels.py: 17 classes, soft NMS of 10 s at a score a second; the
tolerances of all of evaluate.py's metrics. Outright: ops.average_map of the list of matches with
copies, on a 50th of the resamples, scaled; these must be equal to the bit. CPU time of one thread.
"""
import time

import torch
from kernels import K, workload

from comedian import command, evaluate, ops


def outright(events, picks):
    """average_map of each list of matches; events in order of their halves, as detections are."""
    every = []
    for drawn in picks.tolist():
        halves, copies = [2 * m + i for m in drawn for i in (0, 1)], []
        for half, *columns in (events[:4], events[4:8]):
            first = torch.searchsorted(half, torch.arange(events[8] + 1))
            of = [torch.arange(first[h], first[h + 1]) for h in halves]
            copies.append(torch.cat([torch.full_like(one, h) for h, one in enumerate(of)]))
            copies += [column[torch.cat(of)] for column in columns]
        every.append(ops.average_map(*copies, len(halves), *events[9:]))
    return torch.stack(every)


p = command.Parser(__doc__)
p.add_argument("--matches", type=int, default=100)
p.add_argument("--resamples", type=int, default=1000)
args = p.parse_args()
torch.set_num_threads(1)
(*windows, length), labels = workload(args.matches, 1)
merged = ops.merge_windows(*windows, length, 12)
half, cls, token, score = ops.detections(ops.soft_nms(merged, length, 10), length)
events = (half, cls, 2 * token, score.double(), *labels, 2 * args.matches, K,
          2 * torch.tensor(evaluate.DELTAS_S))
picks = torch.randint(0, args.matches, (args.resamples, args.matches),
                      generator=torch.Generator().manual_seed(0))
part = picks[:max(1, args.resamples // 50)]
print(f"{args.matches} matches, {len(half):,} detections, {len(labels[0]):,} labels, "
      f"{len(events[-1])} tolerances, {args.resamples} resamples, 1 thread")
began = time.process_time()
fast = ops.resampled_map(*events, 2, picks)
took_s = time.process_time() - began
began = time.process_time()
slow = outright(events, part)
slow_s = (time.process_time() - began) * len(picks) / len(part)
assert torch.equal(fast[:len(part)], slow)
print(f"resampled_map {took_s:.1f} s, outright {slow_s:.0f} s (x {len(picks) // len(part)}): "
      f"{slow_s / took_s:.0f} times; equal to the bit")
