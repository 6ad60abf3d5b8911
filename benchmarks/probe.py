"""
What a spatial encoder knows about the actions, without training it further: a linear probe and the
nearest neighbours of its tokens, from labelled matches to unseen ones.

    python benchmarks/probe.py --data data/demo --labels matches --classes matches/classes.txt \
        --train matches/train.txt --test matches/valid.txt runs/demo-0/stage1/last.pt

Prints a line per checkpoint, and three that learned nothing: the first one's network with random
weights, 8 x 8 pixels of both frames, and chance.

probe       mean over the classes of the average precision of a logistic regression on the tokens,
            in %. A token is positive as stage 3 has it. Every third training match chooses the
            weight decay; then all are fitted.
neighbours  of the 5 nearest training tokens (cosine) of a test token that has an action, how many
            have one of the same class, in %
rank        effective rank of the training tokens; a low one means that the encoder has collapsed
"""
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from comedian import DataError, augment, command, soccernet  # noqa: E402
from comedian.frames import FrameReader  # noqa: E402
from infer import encode_halves, frame_clips, load_network  # noqa: E402
from model import Comedian  # noqa: E402
from stage3_finetune import frame_labels, token_labels  # noqa: E402

DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)


def tokens_of(model, halves):
    """(n, D) float32: the spatial tokens of all clips; model None: 8 x 8 pixels, D = 384."""
    clips = frame_clips(halves, FrameReader(0), 64)
    if model is None:
        small = (augment.resize(augment.to_float(some, "cpu"), 8) for _, some in clips)
        return torch.cat([augment.normalize(x, True).flatten(1) for x in small])
    float32 = torch.autocast("cpu", enabled=False)
    return torch.cat([h for _, (h,) in encode_halves([model], clips, "cpu", float32)])


def average_precision(scores, truth):
    """The mean of the precision at each positive, and of that over the classes that have one.
    scores, truth (n, K). Proved by test_the_probes_precision_by_hand."""
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
        (loss := loss + decay * w.square().sum()).backward()
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


def load_labelled(args, split, classes):
    """The halves of the listed matches, and a row per token of theirs (n, K): stage 3's labels."""
    halves, events, *_ = soccernet.labelled_halves(args.data, args.labels, split, classes)
    return halves, torch.from_numpy(np.concatenate([token_labels(frame_labels(
        events[half.match], half, 0.5, len(classes)), 0, half.n_tokens) for half in halves]))


def main(args):
    classes = soccernet.read_classes(args.classes)
    networks = [load_network(path, "cpu")[0] for path in args.checkpoints]
    (known, labels), (unseen, truth) = (
        load_labelled(args, split, classes) for split in (args.train, args.test))
    if both := {half.match for half in known} & {half.match for half in unseen}:
        raise DataError(f"--test: {sorted(both)[0]!r} is in --train, too ({len(both)} such "
                        "matches); the probe is judged on matches that it has not seen")
    match_of = np.unique([half.match for half in known], return_inverse=True)[1]
    match_of = match_of.repeat([half.n_tokens for half in known])                # (n,)
    torch.manual_seed(0)
    rows = {"random weights": Comedian(networks[0].cfg).eval(), "8x8 pixels": None,
            **dict(zip(args.checkpoints, networks, strict=True))}
    chance = 100 * truth.mean(0)[truth.any(0)].mean()
    print(f"{'':40}   probe  neighbours   rank\n{'chance':40} {chance:7.1f}")
    for name, model in rows.items():
        train, test = (tokens_of(model, known), labels), (tokens_of(model, unseen), truth)
        print(f"{name[-40:]:40} {100 * linear_probe(train, test, match_of):7.1f} "
              f"{100 * neighbours(train, test):11.1f} {effective_rank(train[0]):6.1f}", flush=True)


def parse_args(argv=None):
    p = command.Parser(__doc__)
    add = p.add_argument
    add("checkpoints", nargs="+", help="of any stage")
    add("--data", required=True, help="folder with frames")
    add("--labels", required=True, help="of these matches")
    add("--classes", required=True, help="a file with a class per line")
    add("--train", required=True, help="list of labelled matches that the probe learns from")
    add("--test", required=True, help="list of labelled matches that it is judged on")
    return p.parse_args(argv)


if __name__ == "__main__":
    command.run_as_command(main, parse_args())
