"""
Stage 0: everything that is made once and then kept on disk.

    python stage0_prepare.py synthetic --out data/demo              # what `make demo` trains on
    python stage0_prepare.py synthetic --out few --train 4 --labelled 2 --test 1       # seconds

`synthetic` renders small football matches with labels and teacher features: synthetic.py.
"""
import argparse
import os
import sys

import synthetic
from data import DataError


def parse_args():
    p = argparse.ArgumentParser(description="Makes once what the stages read.")
    commands = p.add_subparsers(dest="command", required=True)
    s = commands.add_parser("synthetic", help="render small matches, labels, teacher features",
                            formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    s.add_argument("--out", required=True, help="folder to make")
    s.add_argument("--train", type=int, default=75, help="matches to train on, two halves each")
    s.add_argument("--labelled", type=int, default=10, help="how many of these get labels")
    s.add_argument("--test", type=int, default=12, help="matches to test on, all labelled")
    s.add_argument("--seconds", type=int, default=180, help="length of a half")
    s.add_argument("--size", type=int, default=48, help="height and width of a frame in pixels")
    s.add_argument("--seed", type=int, default=0, help="another seed, other matches")
    s.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes side by side")
    s.set_defaults(run=synthetic.render)
    return p.parse_args()


if __name__ == "__main__":
    try:
        args = parse_args()
        args.run(args)
    except (DataError, OSError) as error:                  # OSError: disk full, folder not ours
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
