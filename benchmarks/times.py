"""
At which time of its token an action should be reported: the metric with k, k + 1/4 and k + 1/2.

    make demo                                         # runs/demo-0 and data/demo-0
    python benchmarks/times.py                        # 2 minutes; the table in docs/time.md

The demo's test matches are spotted three times: as they are, at 2 fps, and rendered again from the
same seed at other rates, without a new training. What infer.py writes stands at token_s *
(k + 1/4); the other two columns are the same detections, moved by a quarter of a token.
The official evaluator compares times in rows of half a second, "2 rows/s". At 20 rows a second
little is rounded: what the numbers then say is where the actions stand.
"""
import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import infer  # noqa: E402
from comedian import evaluate, soccernet, synthetic  # noqa: E402

SHARES = (0, 1 / 4, 1 / 2)                           # of a token, past its first frame
ROWS_PER_S = (2, 20)
NEAR_S = 2.5                                         # a detection this near to an event is of it


def render(out, fps, seed, matches):
    """The test matches of a demo at another rate, below `out`: the same scenes, other moments."""
    synthetic.DEFAULT_FPS = fps
    settings = {"hard": False} | seed                    # older records do not say it
    for number in range(matches):
        synthetic.write_match((str(out), "test", number, True, settings))
    for folder in out.rglob("*_224p"):
        (folder / "fps.txt").write_text(str(fps))
    return out / "test"


def spot(data, checkpoint, classes, out):
    """{match: events}, {match: Detections as infer.py writes them}, of the matches below `data`."""
    infer.main(infer.parse_args(["--data", str(data), "--checkpoint", str(checkpoint),
                                 "--out", str(out), "--labels", str(out)]))    # no table
    labels = {match: soccernet.read_labels(path, classes)
              for match, path in soccernet.find_files(data, soccernet.LABELS).items()}
    spots = {match: soccernet.read_predictions(Path(out, match, soccernet.PREDICTIONS), classes)
             for match in labels}
    return labels, spots


def off_s(labels, spots):
    """(n,) seconds from the nearest event of its class to each confident detection near one."""
    off = []
    for match, events in labels.items():
        found = spots[match]
        for i in np.flatnonzero(found.confidence > 0.5).tolist():
            away = [found.position_ms[i] - event.position_ms for event in events
                    if (event.half, event.label) == (found.half[i], found.label[i])]
            away = min(away, key=abs, default=np.inf) / 1000
            if abs(away) <= NEAR_S:
                off.append(away)
    return np.array(off)


def main(args):
    record = json.loads((Path(args.data) / "synthetic.json").read_text())["settings"]
    classes = soccernet.read_classes(Path(args.data) / "classes.txt")
    matches = args.matches or record["test"]
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for fps in (2.0, *args.fps):
            data = render(Path(folder, f"{fps:g}"), fps, record, matches)
            labels, spots = spot(data, args.checkpoint, classes, Path(folder, f"spots {fps:g}"))
            for share in SHARES:
                late_ms = 1000 * (share - 1 / 4) * 2 / fps
                moved = {match: found._replace(position_ms=found.position_ms + late_ms)
                         for match, found in spots.items()}
                amap = [100 * evaluate.score(labels, moved, classes, rows)["tight"]["a_mAP"]
                        for rows in ROWS_PER_S]
                off = off_s(labels, moved)
                lines.append(f"| {fps:.4g} | k + {share:g} | {amap[0]:.2f} | {amap[1]:.2f} | "
                             f"{off.mean():+.2f} ± {off.std() / len(off) ** 0.5:.2f} |")
    print("\n| fps | an action of token k at, tokens | t-AmAP, 2 rows/s | 20 rows/s "
          "| s from event to action |")
    print("|---|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--data", default="data/demo-0", help="what `make demo` rendered")
    p.add_argument("--checkpoint", default="runs/demo-0/stage3/last.pt", help="its network")
    p.add_argument("--fps", type=float, nargs="+", default=[25 / 12, 2.5], help="other rates")
    p.add_argument("--matches", type=int, default=0, help="as many of the test matches; 0 = all")
    main(p.parse_args())
