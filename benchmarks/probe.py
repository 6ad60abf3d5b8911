"""
What a spatial encoder knows about the actions, without training it further: a linear probe and the
nearest neighbours of its tokens, from labelled matches to unseen ones.

    python benchmarks/probe.py --data data/demo --labels matches --classes matches/classes.txt \
        --train matches/train.txt --test matches/valid.txt runs/demo-0/stage1/last.pt

Reads   frames and labels of two lists of matches; any checkpoints
Writes  a line per encoder to the screen (--json: the numbers), beside three that learned nothing:
        the first one's network with random weights, 8 x 8 pixels of both frames, and chance

probe       mean over the classes of the average precision of a logistic regression on the tokens,
            in %. A token is positive as stage 3 has it. The weight decay is chosen on every third
            training match, left out for that; then all are fitted.
neighbours  of the 5 nearest training tokens (cosine) of a test token that has an action, how many
            have one of the same class, in %.
rank        effective rank of the training tokens: exp of the entropy of their covariance's
            spectrum. D at most; few directions mean that the encoder has collapsed.
"""
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import infer  # noqa: E402
from comedian import DataError, augment, command, soccernet, write_text  # noqa: E402
from comedian.evaluate import check_writable  # noqa: E402
from comedian.frames import FrameReader  # noqa: E402
from infer import load_network  # noqa: E402
from model import Comedian  # noqa: E402
from stage3_finetune import frame_labels, token_labels  # noqa: E402

DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)
AUTOCAST = torch.autocast("cpu", torch.bfloat16, enabled=False)


def tokens_of(model, halves, reader):
    """(n, D) float32: the spatial tokens of all clips; model None: 8 x 8 pixels, D = 384."""
    rows = []
    clips = infer.frame_clips(halves, reader, 64)
    if model is None:
        for _, some in clips:
            small = augment.resize(augment.to_float(some, "cpu"), 8)             # (b, 2, 3, 8, 8)
            rows.append(augment.normalize(small, True).flatten(1))
    else:
        rows = [h for _, (h,) in infer.encode_halves([model], clips, "cpu", AUTOCAST)]
    return torch.cat(rows)


def average_precision(scores, truth):
    """Mean over the classes that have a positive of the area under precision over recall, by steps:
    the mean of the precision at each positive. scores, truth (n, K). Proved by
    test_the_probes_precision_by_hand."""
    order = scores.sort(dim=0, descending=True, stable=True).indices
    hits = truth.gather(0, order)                                                # (n, K)
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)[:, None]
    seen = truth.sum(0)
    return ((precision * hits).sum(0)[seen > 0] / seen[seen > 0]).mean().item()


def fit(x, y, decay):
    """Weights (D, K) and biases (K,) of K logistic regressions: x (n, D), y (n, K) in {0, 1}."""
    w, b = torch.zeros(x.shape[1], y.shape[1]), torch.zeros(y.shape[1])
    w.requires_grad_(), b.requires_grad_()
    solver = torch.optim.LBFGS([w, b], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        solver.zero_grad()
        loss = F.binary_cross_entropy_with_logits(x @ w + b, y, reduction="none").mean(0).sum()
        loss = loss + decay * w.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    return w.detach(), b.detach()


def linear_probe(train, test, match_of):
    """The mean average precision on `test`. train, test: (tokens (n, D), labels (n, K)); match_of
    (n,): of the training tokens, which match each is of."""
    x, y = train
    mean, std = x.mean(0), x.std(0) + 1e-6
    x, z = (x - mean) / std, (test[0] - mean) / std
    left_out = torch.from_numpy(match_of % 3 == 2)
    kept = y[left_out].any(0) & y[~left_out].any(0)
    if not kept.any():
        raise DataError("--train: no class has an action in every third match and in the others, "
                        "which choose the weight decay; list more matches")
    scores = {}
    for decay in DECAYS:
        w, b = fit(x[~left_out], y[~left_out], decay)
        scores[decay] = average_precision((x[left_out] @ w + b)[:, kept], y[left_out][:, kept])
    w, b = fit(x, y, max(scores, key=scores.get))
    return average_precision(z @ w + b, test[1])


def neighbours(train, test, n=5):
    """Share of the n nearest training tokens of each labelled test token that share a class."""
    x, y = train
    busy = test[1].any(1)
    near = F.normalize(test[0][busy] - x.mean(0)) @ F.normalize(x - x.mean(0)).T
    same = y[near.topk(n, 1).indices] * test[1][busy][:, None]                   # (m, n, K)
    return same.any(2).float().mean().item()


def effective_rank(x):
    """exp of the entropy of the normalised eigenvalues of the covariance of x (n, D)."""
    values = torch.linalg.eigvalsh(torch.cov(x.double().T)).clamp(min=0)
    share = values[values > 0] / values.sum()
    return torch.exp(-(share * share.log()).sum()).item()


def main(args):
    if args.json:
        check_writable(args.json, ".json")
    classes = soccernet.read_classes(args.classes)
    networks = [load_network(path, "cpu") for path in args.checkpoints]
    reader = FrameReader(0)
    halves, truth = {}, {}
    for name, split in (("train", args.train), ("test", args.test)):
        halves[name], events, *_ = soccernet.labelled_halves(args.data, args.labels, split, classes)
        truth[name] = torch.from_numpy(np.concatenate([
            token_labels(frame_labels(events[half.match], half, 0.5, len(classes)), 0,
                         half.n_tokens) for half in halves[name]]))              # (n, K)
    if both := {half.match for half in halves["train"]} & {half.match for half in halves["test"]}:
        raise DataError(f"--test: {sorted(both)[0]!r} is in --train, too ({len(both)} such "
                        "matches); the probe is judged on matches that it has not seen")
    matches = sorted({half.match for half in halves["train"]})
    match_of = np.repeat([matches.index(half.match) for half in halves["train"]],
                         [half.n_tokens for half in halves["train"]])            # (n,)
    torch.manual_seed(0)
    rows = {"random weights": Comedian(networks[0][0].cfg).eval(), "8x8 pixels": None}
    rows |= {path: model for path, (model, _) in zip(args.checkpoints, networks, strict=True)}
    found = {"chance": {"probe": 100 * truth["test"].mean(0)[truth["test"].any(0)].mean().item()}}
    print(f"{'':40} {'probe':>7} {'neighbours':>11} {'rank':>6}\n{'chance':40} "
          f"{found['chance']['probe']:7.1f}")
    for name, model in rows.items():
        train, test = ((tokens_of(model, halves[s], reader), truth[s]) for s in ("train", "test"))
        numbers = {"probe": 100 * linear_probe(train, test, match_of),
                   "neighbours": 100 * neighbours(train, test),
                   "rank": effective_rank(train[0])}
        found[name] = numbers
        print(f"{name[-40:]:40} {numbers['probe']:7.1f} {numbers['neighbours']:11.1f} "
              f"{numbers['rank']:6.1f}", flush=True)
    if args.json:
        write_text(args.json, json.dumps(found, indent=1))


def parse_args(argv=None):
    p = command.Parser(__doc__)
    add = p.add_argument
    add("checkpoints", nargs="+", help="of any stage")
    add("--data", required=True, help="folder with frames")
    add("--labels", required=True, help="of these matches")
    add("--classes", required=True, help="a file with a class per line")
    add("--train", required=True, help="list of labelled matches that the probe learns from")
    add("--test", required=True, help="list of labelled matches that it is judged on")
    add("--json", metavar="FILE", help="write the numbers here")
    return p.parse_args(argv)


if __name__ == "__main__":
    command.run_as_command(main, parse_args())
