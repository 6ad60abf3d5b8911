"""
How long 1,000 resamples of the matches take, beside evaluating each of them outright.

    python benchmarks/bootstrap.py                   # 100 matches, 10 s
    python benchmarks/bootstrap.py --matches 10 --resamples 100
    python benchmarks/bootstrap.py --coverage          # how often the interval holds the truth

Events and detections as in kernels.py: 17 classes, soft NMS of 10 s at a score a second; the
tolerances of all of evaluate.py's metrics. Outright: ops.average_map of the list of matches with
copies, on a 50th of the resamples, scaled; these must be equal to the bit. CPU time of one thread.

--coverage draws matches at random (3 classes; how many events, how well they are found and how many
false alarms there are differ from match to match) and asks in how many of 500 sets of matches the
95 % interval of t-AmAP holds the value of 5,000 matches, beside the plain percentiles.
"""
import time

import numpy as np
import torch
from kernels import K, workload

from comedian import command, evaluate, ops, soccernet


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


def random_matches(rng, n, first=0):
    """Labels and predictions of n matches, as evaluate.score takes them."""
    labels, found = {}, {}
    for match in (f"m{first + i}" for i in range(n)):
        skill, alarms = rng.beta(4, 3), rng.gamma(2, 4)
        label = rng.integers(0, 3, rng.poisson(15))
        time_ms = rng.integers(0, 95_000, len(label))
        labels[match] = [soccernet.Event(1, int(c), int(ms), True)
                         for c, ms in zip(label, time_ms, strict=True)]
        hit = rng.random(len(label)) < skill
        n_false = rng.poisson(alarms)
        off_ms = rng.normal(0, 600, hit.sum())
        found[match] = soccernet.Detections(
            np.ones(hit.sum() + n_false, int),
            np.concatenate([label[hit], rng.integers(0, 3, n_false)]),
            np.clip(np.concatenate([time_ms[hit] + off_ms, rng.integers(0, 95_000, n_false)]),
                    0, None),
            np.concatenate([rng.beta(4, 2, hit.sum()), rng.beta(2, 4, n_false)]))
    return labels, found


def coverage(n_matches, n_sets=500, n_resamples=400):
    classes = ("a", "b", "c")

    def t_amap(ap):
        return evaluate.average(ap, evaluate.METRICS["tight"])["a_mAP"]

    truth = evaluate.score(*random_matches(np.random.default_rng(0), 5000), classes)
    truth = truth["tight"]["a_mAP"]
    held = np.zeros(2)
    for seed in range(1, n_sets + 1):
        rng = np.random.default_rng(seed)
        picks = torch.from_numpy(rng.integers(0, n_matches, (n_resamples, n_matches)))
        every = ops.resampled_map(*evaluate.events_of(*random_matches(rng, n_matches), classes,
                                                      evaluate.FRAMERATE), 2, picks)
        values = [t_amap(ap) for ap in every.numpy()]
        for i, n in enumerate((n_matches, 10 ** 9)):       # of so many: the plain percentiles
            low, high = np.percentile(values, evaluate.percentiles(n))
            held[i] += low <= truth <= high
    print(f"{n_matches:4} matches: the interval holds the truth in {100 * held[0] / n_sets:.1f} % "
          f"of {n_sets} sets, the plain percentiles in {100 * held[1] / n_sets:.1f} %", flush=True)


p = command.Parser(__doc__)
p.add_argument("--matches", type=int, default=100)
p.add_argument("--resamples", type=int, default=1000)
p.add_argument("--coverage", action="store_true")
args = p.parse_args()
torch.set_num_threads(1)
if args.coverage:
    for n in (6, 12, 25, 100):
        coverage(n)
    raise SystemExit
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
