"""
What the three stages cost: multiply-adds, and hours against the number of GPUs and of matches.

    python benchmarks/cost.py --clips-per-s 8000 5000 5000       # yours: one a stage, of one GPU
    python benchmarks/cost.py --model vivit_micro --device cpu   # those in throughput.txt

Nothing here is measured. The hours are computed from the clips a second of one GPU: the flag's, or
"all together" of benchmarks/throughput.txt. GPUs are taken to add up without loss, and what is
done once (frames, soft centroids) and validation are left out: the hours are lower bounds.

Clips of each match, with the paper's settings: two halves of 45 minutes are 5,400 clips. Stage 1
sees all of them in 100 epochs, as two views each. Stage 2: 75 windows of 64 clips in 100
epochs. Stage 3: 50 windows of 64, 30 epochs for the head and 20 for everything.
Multiply-adds of a clip, forward, are the paper's (Tab. 11, for 32 clips); a backward costs two
forwards. Stage 1's target branch has no backward; in stage 3's first phase nothing
below the head has one, so that its clips count as a third. Masked clips count in full.
"""
import argparse
import re
from pathlib import Path

# Of 32 clips: the spatial transformer, and all.
FORWARD_G = {"vivit_tiny": (41.19, 41.25), "vivit_small": (149.30, 149.54),
             "viswin_tiny": (144.68, 145.64)}
CLIPS = (5400 * 100, 75 * 64 * 100, 50 * 64 * (20 + 30 / 3))    # forward and backward, a match
FORWARDS = (2 * (3 + 1), 3, 3)            # of each of them: stage 1 has two views and two branches
STAGES = ("1, spatial", "2, distill", "3, fine-tune")
# One card, its published rate of dense bfloat16 products, and a share that training may reach.
CARD, CARD_RATE, SHARE = "H100 SXM", 989.4e12, 0.3
THROUGHPUT = Path(__file__).with_name("throughput.txt")


def multiply_adds(model, matches):
    """Of each stage, forward and backward. Returns three numbers."""
    spatial, everything = (1e9 * g / 32 for g in FORWARD_G[model])
    return [matches * clips * forwards * g
            for clips, forwards, g in zip(CLIPS, FORWARDS, (spatial, everything, everything),
                                          strict=True)]


def planned_hours(model, matches):
    """Of all stages on the one card, if its share is right: nothing of this is measured."""
    return sum(multiply_adds(model, matches)) * 2 / (CARD_RATE * SHARE) / 3600


def measured(model, device, text):
    """Clips a second of each stage, as throughput.py printed them; None where it has not."""
    found = {int(stage): float(rate.replace(",", "")) for stage, rate in re.findall(
        rf"^stage (\d), {model}, {device}\b.*\n(?:  .*\n)*?  all together +([\d,.]+)", text, re.M)}
    return [found.get(stage) for stage in (1, 2, 3)]


def main():
    p = argparse.ArgumentParser(description=__doc__.strip().split("\n\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--model", default="vivit_tiny", choices=[*FORWARD_G, "vivit_micro"])
    p.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="in throughput.txt")
    p.add_argument("--clips-per-s", type=float, nargs=3, metavar=("S1", "S2", "S3"),
                   help="of one GPU in each stage; default: throughput.txt's")
    p.add_argument("--matches", type=int, nargs="+", default=[75, 150, 300], help="rows")
    p.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="columns")
    args = p.parse_args()

    if args.model in FORWARD_G:
        print(f"{args.model}: multiply-adds, 1e15 (computed)")
        print(f"{'matches':>9}" + "".join(f"{'stage ' + name:>22}" for name in STAGES)
              + f"{'all':>12}")
        for matches in args.matches:
            work = multiply_adds(args.model, matches)
            print(f"{matches:9}" + "".join(f"{w / 1e15:22,.0f}" for w in work)
                  + f"{sum(work) / 1e15:12,.0f}")
        print(f"{args.matches[-1]} matches on one {CARD} at {100 * SHARE:.0f} % of its published "
              f"{CARD_RATE / 1e12:,.0f} T/s: {planned_hours(args.model, args.matches[-1]):.1f} h "
              "(computed, not measured)")
        print()

    rates, source = args.clips_per_s, "--clips-per-s"
    if rates is None:
        source = THROUGHPUT.name
        rates = measured(args.model, args.device,
                         THROUGHPUT.read_text() if THROUGHPUT.exists() else "")
        if None in rates:
            print(f"hours: not computed: {THROUGHPUT.name} has not all stages of {args.model} on "
                  f"{args.device}; run `python benchmarks/throughput.py --device {args.device} "
                  f"--model {args.model}` and keep its output there, or give --clips-per-s")
            return
    if min(rates) <= 0:
        p.error("--clips-per-s wants positive numbers")
    print(f"{args.model}: hours, computed from {rates[0]:,.0f}, {rates[1]:,.0f} and "
          f"{rates[2]:,.0f} clips/s of one {args.device} device ({source}); lower bounds")
    print(f"{'matches':>9}  {'stage':14}" + "".join(f"{f'{n} x':>11}" for n in args.gpus))
    for matches in args.matches:
        hours = [matches * clips / rate / 3600 for clips, rate in zip(CLIPS, rates, strict=True)]
        for name, h in [*zip(STAGES, hours, strict=True), ("all", sum(hours))]:
            print(f"{matches:9}  {name:14}" + "".join(f"{h / n:11,.2f}" for n in args.gpus))


if __name__ == "__main__":
    main()
