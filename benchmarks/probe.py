"""
What a spatial encoder knows about the actions of unseen matches, without training it further.

    python benchmarks/probe.py --data data/demo --labels matches --classes matches/classes.txt \
        --train matches/train.txt --test matches/test.txt runs/demo-0/stage1/last.pt

probe       mean average precision of logistic regressions on the tokens of --test, in %; every
            third match of --train chooses the weight decay
neighbours  how many of the 5 training tokens nearest (cosine) to one with an action have it, in %
rank        effective rank of the training tokens; a low one means that the encoder has collapsed
Beside the checkpoints: their network with random weights, 8 x 8 pixels of both frames, and chance.
"""
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from comedian import DataError, augment, command, soccernet  # noqa: E402
from comedian.frames import FrameReader  # noqa: E402
from infer import encode_halves, frame_clips, load_network  # noqa: E402
from model import Comedian  # noqa: E402
from stage3_finetune import frame_labels, token_labels  # noqa: E402


def tokens_of(model, halves):
    """(n, D) float32: the spatial tokens of all clips; model None: 8 x 8 pixels, D = 384."""
    clips = frame_clips(halves, FrameReader(0), 64)
    if model is None:
        small = (augment.resize(augment.to_float(some, "cpu"), 8) for _, some in clips)
        return torch.cat([augment.normalize(x, True).flatten(1) for x in small])
    return torch.cat([h for _, (h,) in encode_halves(
        [model], clips, "cpu", torch.autocast("cpu", enabled=False))])


def average_precision(scores, truth):
    """The mean of the precision at each positive, and of that over the classes that have one.
    scores, truth (n, K). Proved by test_the_probes_precision_by_hand."""
    order = scores.sort(dim=0, descending=True, stable=True).indices
    hits, seen = truth.gather(0, order), truth.sum(0)                            # (n, K), (K,)
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)[:, None]
    return ((precision * hits).sum(0)[seen > 0] / seen[seen > 0]).mean().item()


def fitted(x, y, decay, z):
    """The logits (m, K) of tokens z (m, D), by K logistic regressions of labels y on x (n, D)."""
    w, b = (torch.zeros(*shape, y.shape[1], requires_grad=True) for shape in ([x.shape[1]], []))
    solver = torch.optim.LBFGS([w, b], max_iter=200, line_search_fn="strong_wolfe")
    def closure():
        solver.zero_grad()
        loss = F.binary_cross_entropy_with_logits(x @ w + b, y, reduction="none").mean(0).sum()
        (loss := loss + decay * w.square().sum()).backward()
        return loss
    solver.step(closure)
    return (z @ w + b).detach()


def linear_probe(train, test, left_out):
    """The mean average precision on `test`. train, test: (tokens (n, D), labels (n, K)); left_out
    (n,): the training tokens that choose the weight decay."""
    (x, y), mean, std = train, train[0].mean(0), train[0].std(0) + 1e-6
    x, z = (x - mean) / std, (test[0] - mean) / std
    (known, labels), (held, truth) = ((x[part], y[part]) for part in (~left_out, left_out))
    both = truth.any(0) & labels.any(0)
    if not both.any():
        raise DataError("--train: too few labels to choose the weight decay by; list more matches")
    decay = max((1e-4, 1e-3, 1e-2, 1e-1), key=lambda decay: average_precision(
        fitted(known, labels, decay, held)[:, both], truth[:, both]))
    return average_precision(fitted(x, y, decay, z), test[1])


def neighbours(train, test, n=5):
    """Share of the n nearest training tokens of each labelled test token that share a class."""
    (x, y), (z, truth) = train, (part[test[1].any(1)] for part in test)
    near = F.normalize(z - x.mean(0)) @ F.normalize(x - x.mean(0)).T             # (m, n of train)
    return (y[near.topk(n, 1).indices] * truth[:, None]).any(2).float().mean().item()


def effective_rank(x):
    """exp of the entropy of the normalised eigenvalues of the covariance of x (n, D)."""
    values = torch.linalg.eigvalsh(torch.cov(x.double().T)).clamp(min=0)
    return torch.special.entr(values / values.sum()).sum().exp().item()


def main(args):
    classes = soccernet.read_classes(args.classes)
    networks = {path: load_network(path, "cpu")[0] for path in args.checkpoints}
    halves, labels = [], []                                # of --train, of --test
    for split in (args.train, args.test):
        found, events, *_ = soccernet.labelled_halves(args.data, args.labels, split, classes)
        halves.append(found)
        labels.append(torch.cat([torch.from_numpy(token_labels(frame_labels(
            events[half.match], half, 0.5, len(classes)), 0, half.n_tokens)) for half in found]))
    matches, unseen = (sorted({half.match for half in part}) for part in halves)
    if both := {*matches} & {*unseen}:
        raise DataError(f"--test: {min(both)!r} is in --train, too; list others")
    left_out = torch.cat([torch.full((half.n_tokens,), matches.index(half.match) % 3 == 2)
                          for half in halves[0]])
    torch.manual_seed(0)
    untrained = Comedian(networks[args.checkpoints[0]].cfg).eval()
    print(f"{'':40}   probe  neighbours   rank\n"
          f"{'chance':40} {100 * labels[1].mean(0)[labels[1].any(0)].mean():7.1f}")
    for name, model in {"random weights": untrained, "8x8 pixels": None, **networks}.items():
        train, test = ((tokens_of(model, part), y) for part, y in zip(halves, labels, strict=True))
        print(f"{name[-40:]:40} {100 * linear_probe(train, test, left_out):7.1f} "
              f"{100 * neighbours(train, test):11.1f} {effective_rank(train[0]):6.1f}", flush=True)


def parse_args(argv=None):
    p = command.Parser(__doc__)
    p.add_argument("checkpoints", nargs="+", help="of any stage")
    for flag, text in (("data", "frames"), ("labels", "of these"), ("classes", "a name per line"),
                       ("train", "a list of matches to fit"), ("test", "a list of others")):
        p.add_argument(f"--{flag}", required=True, help=text)
    return p.parse_args(argv)


if __name__ == "__main__":
    command.run_as_command(main, parse_args())
