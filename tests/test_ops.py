"""
What these tests prove about reference.py, ops.py and csrc/:
  1. the references say what the field's programs say: cases by hand, and the answers of the
     official evaluator, the official COMEDIAN code, the SoccerNet DevKit, CALF and spivak
  2. each kernel equals its reference to the last bit, on ties, NaN, infinities, empty and strided
     input, in both precisions, with one thread and with many
     (a class per operator; all in a row, on many halves and on halves as long as real ones)
  3. wrong input is refused with a message that names the argument: values, types and shapes, no
     tensor, another device, a gradient
  4. the registration is sound: torch.library.opcheck, torch.compile, vmap, meta tensors
  5. a bad build says what to do
"""
import inspect
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comedian import ops, reference

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests/fixtures"
NMS_CASES = json.loads((FIXTURES / "nms_cases/cases.json").read_text())
MERGE_CASES = json.loads((FIXTURES / "merge_cases/cases.json").read_text())
OFFICIAL = dict(np.load(FIXTURES / "nms_cases/official.npz"))
NONE = torch.zeros(0, dtype=torch.int64)
BOTH = pytest.mark.parametrize("of", [pytest.param(ops, id="kernel"),
                                      pytest.param(reference, id="reference")])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
LAYOUTS = pytest.mark.parametrize("layout", ["contiguous", "strided"])


def same(a, b, what=""):
    """Equal to the last bit, but for the payload of a NaN. what: stands before the message."""
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=lambda text: what + text)


def agree(operator, table, *more, layout="contiguous"):
    """A kernel's result, which its reference returns too. operator: its name, or a kind of NMS."""
    kernel, twin = (of.NMS.get(operator) or getattr(of, operator) for of in (ops, reference))
    expected = twin(table, *more)
    if layout == "strided":                                     # every other column of a wider one
        table = torch.stack([table, torch.full_like(table, 9)], -1)[..., 0]
    result = kernel(table, *more)
    numbers = [x for x in more if not isinstance(x, torch.Tensor)]
    same(result, expected, f"{operator}(..., {numbers}): a is the kernel's, b the reference's. ")
    return result


def column(scores):
    """One class of one half -> scores (T, 1), length (1,)."""
    return torch.tensor(scores).reshape(-1, 1), torch.tensor([len(scores)])


@pytest.fixture(params=[1, 4], ids=["1 thread", "4 threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def random_scores(n, n_classes, dtype, seed, levels=20):
    """(n, n_classes) on few levels, so that ties are common, with NaN, infinities and negatives."""
    gen = torch.Generator().manual_seed(seed)
    s = (torch.rand(n, n_classes, generator=gen, dtype=dtype) * levels).round() / levels
    odd = torch.rand(n, n_classes, generator=gen)
    for value, below in [(math.nan, .02), (math.inf, .03), (-math.inf, .04), (-.5, .08), (-0., .1)]:
        s[(odd < below) & (odd >= below - .02)] = value
    return s


SPECIAL = [0.0, -0.0, .25, .5, 1.0, 2.0, -1.0, math.nan, math.inf, -math.inf]
SCORE = st.one_of(st.sampled_from(SPECIAL), st.floats(0, 1, width=32))
LENGTHS = st.lists(st.integers(0, 25), max_size=4)
DTYPE = st.sampled_from([torch.float32, torch.float64])
ANYTHING = settings(max_examples=100, deadline=None)


def any_table(data, lengths, n_classes, dtype):
    """hypothesis draws: scores (S, K), length (H,)."""
    n = sum(lengths) * n_classes
    scores = torch.tensor(data.draw(st.lists(SCORE, min_size=n, max_size=n)), dtype=dtype)
    return scores.reshape(sum(lengths), n_classes), torch.tensor(lengths, dtype=torch.int64)


# ----- merge_windows ----------------------------------------------------------------------------
def windows(gen, dtype=torch.float32, n=9, window_tokens=16, n_classes=3, longest=50):
    """Some halves, none, short and long, and windows anywhere in them, also beyond their ends."""
    length = torch.randint(0, longest, (4,), generator=gen)
    half = torch.randint(0, 4, (n,), generator=gen).sort().values
    start = torch.randint(0, longest, (n,), generator=gen)
    scores = random_scores(n * window_tokens, n_classes, dtype, int(gen.initial_seed()))
    return scores.reshape(n, window_tokens, n_classes), start, half, length


class TestMergeWindows:
    @BOTH
    def test_by_hand(self, of):
        # A half of 8 tokens, windows of 6 at 0 and 2, edge 1: the second window's first token (2)
        # and the first one's last (5) are ignored. The half's own first and last are not.
        scores = torch.tensor([[1., 2, 3, 4, 5, 9], [9, 8, 1, 6, 7, 8]]).unsqueeze(-1)
        args = scores, torch.tensor([0, 2]), torch.tensor([0, 0]), torch.tensor([8]), 1
        assert of.merge_windows(*args).flatten().tolist() == [1, 2, 3, 8, 5, 6, 7, 8]
        assert of.merge_windows(*args, mode="mean").flatten().tolist() == [1, 2, 3, 6, 3, 6, 7, 8]

    @BOTH
    @pytest.mark.parametrize("case", MERGE_CASES, ids=lambda c: c["name"])
    def test_equals_the_official_edge_rule(self, of, case):
        scores = torch.tensor(case["scores"], dtype=torch.float64)
        start = torch.tensor(case["starts"])
        half, length = torch.zeros_like(start), torch.tensor([case["duration_tokens"]])
        for mode in "max", "mean":
            got = of.merge_windows(scores, start, half, length, case["edge_tokens"], mode)
            torch.testing.assert_close(got, torch.tensor(case[mode], dtype=torch.float64),
                                       rtol=1e-15, atol=0)

    @DTYPES
    @LAYOUTS
    @pytest.mark.parametrize("seed", range(5))
    def test_equals_reference(self, dtype, layout, seed, threads):
        args = windows(torch.Generator().manual_seed(seed), dtype)
        for edge in 0, 1, 5, 8, 20:
            for mode in "max", "mean":
                agree("merge_windows", *args, edge, mode, layout=layout)

    @pytest.mark.parametrize("n, window_tokens, n_classes",
                             [(0, 4, 2), (3, 0, 2), (3, 4, 0), (1, 1, 1)])
    def test_of_nothing(self, n, window_tokens, n_classes):
        scores, *rest = windows(torch.Generator().manual_seed(0), n=n, n_classes=n_classes,
                                window_tokens=window_tokens)
        agree("merge_windows", scores, *rest)
        agree("merge_windows", scores[:0], NONE, NONE, NONE)

    @ANYTHING
    @given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=3),
           window_tokens=st.integers(1, 12), edge=st.integers(0, 15),
           mode=st.sampled_from(["max", "mean"]), data=st.data())
    def test_of_anything(self, lengths, window_tokens, edge, mode, data):
        where = st.tuples(st.integers(0, len(lengths) - 1), st.integers(0, 40))
        half, start = torch.tensor(sorted(data.draw(st.lists(where, min_size=1, max_size=6)))).T
        n = len(half) * window_tokens
        scores = torch.tensor(data.draw(st.lists(SCORE, min_size=n, max_size=n)))
        agree("merge_windows", scores.reshape(-1, window_tokens, 1), start, half,
              torch.tensor(lengths), edge, mode)


# ----- NMS --------------------------------------------------------------------------------------
KINDS = pytest.mark.parametrize("kind", ops.NMS)


class TestNMS:
    @BOTH
    @pytest.mark.parametrize("kind, scores, window, kept", [
        ("soft", [.5, .9, .8], 4, [.25, .9, .4]),        # radius 2: half is left at distance 1
        ("soft", [.5, .5, .5], 4, [.5, .125, .5]),       # ties: 0, then 2; both have halved 1
        ("soft", [.9, math.nan, -.9], 4, [.9, -1, -1]),  # neither NaN nor a negative score
        ("soft", [.9, .8], 0, [.9, .8]),                 # window 0 decays nothing
        ("greedy", [.6, .5, .9, .8, .7], 4, [-1, -1, .9, -1, .7]),   # 2 to the left, 1 to the right
        ("greedy", [.5, .9, .8], 2, [-1, .9, .8]),       # 1 to the left, none to the right
        ("greedy", [.3, .3, .3, .3], 4, [.3, -1, .3, -1]),           # ties: the earlier token
        ("greedy", [.9, .8], 0, [.9, .8]),               # the DevKit would never end
        ("local", [.5, .9, .8, .7], 2, [-1, .9, -1, -1]),            # .8, suppressed, suppresses .7
        ("local", [.9, .2, .9], 4, [.9, -1, .9])])       # equal maxima all stay
    def test_by_hand(self, of, kind, scores, window, kept):
        same(of.NMS[kind](*column(scores), window), column(kept)[0])

    @BOTH
    @pytest.mark.parametrize("case", NMS_CASES, ids=lambda c: f"{c['name']} w{c['window']}")
    def test_equals_published_programs(self, of, case):
        (scores, length), expected = column(case["scores"]), case["expected"]
        window, threshold, weight = case["window"], case["threshold"], case["min_weight"]
        for program, kept in {
                "eztorch_soft": of.soft_nms(scores, length, window, threshold, weight),
                # double precision, and its window is our radius
                "spivak_linear": of.soft_nms(scores.double(), length, 2 * window, 1e-5, weight),
                "devkit": of.hard_nms(scores, length, window, threshold),
                "calf": of.hard_nms(scores, length, window, 0.0),
                "eztorch_hard": of.hard_nms(scores, length, window, threshold, "local")}.items():
            found = [[t, s] for t, s in enumerate(kept.flatten().tolist()) if s >= 0]
            assert expected[program] in (found, "INFINITE_LOOP"), program

    @BOTH
    def test_equals_official_comedian(self, of):
        """On longer tables, whose names say the settings: "b_soft_w20_minw0.1"."""
        stored = {key: torch.from_numpy(x) for key, x in OFFICIAL.items()}
        assert len(stored) == 2 + 10 + 6
        for key, expected in stored.items():
            table, kind, window, *more = (key + "__").split("_")[:4]
            args = stored[table + "_scores"], torch.tensor([len(expected)])
            if kind == "soft":
                kept = of.soft_nms(*args, int(window[1:]), .05 if "thr0.05" in more else .001,
                                   .1 if "minw0.1" in more else 0)
                same(kept.clamp(min=0), expected.clamp(min=0))
            elif kind == "hard":
                same(of.hard_nms(*args, int(window[1:]), .001, "local") >= 0, expected)

    @KINDS
    @DTYPES
    @LAYOUTS
    @pytest.mark.parametrize("levels", [3, 20, 1000])
    def test_equals_reference(self, kind, dtype, layout, levels, threads):
        length = torch.tensor([0, 1, 2, 40, 0, 83, 17])
        scores = random_scores(int(length.sum()), 3, dtype, seed=levels, levels=levels)
        widths = [0, 1, 2, 3, 4.6, 6, 13, 1e9, torch.tensor([5, 0, 20])]
        for i, window in enumerate(widths):
            weight = [[0, 0, .1, 1][i % 4]] if kind == "soft" else []
            agree(kind, scores, length, window, [0.0, .001, .3][i % 3], *weight, layout=layout)

    @KINDS
    def test_on_ramps(self, kind):
        """Monotone scores make the kernels climb the longest way."""
        for ramp in torch.linspace(0, 1, 200), torch.linspace(1, 0, 200), torch.ones(200):
            agree(kind, ramp[:, None], torch.tensor([200]), 8)

    @KINDS
    @ANYTHING
    @given(lengths=LENGTHS, n_classes=st.integers(0, 3), data=st.data(),
           window=st.one_of(st.integers(0, 30), st.floats(.001, 60)),     # 1 / 1e-308 is no float32
           threshold=st.sampled_from([0, .001, .5, 1]),
           weight=st.sampled_from([0, .1, .5, 1]), dtype=DTYPE)
    def test_of_anything(self, kind, lengths, n_classes, data, window, threshold, weight, dtype):
        agree(kind, *any_table(data, lengths, n_classes, dtype), window, threshold,
              *[weight] * (kind == "soft"))

    @pytest.mark.parametrize("operator", [*ops.NMS, "detections"])
    def test_of_nothing(self, operator):
        for table, length in [(torch.zeros(0, 3), NONE), (torch.zeros(4, 0), torch.tensor([4])),
                              (torch.full((3, 2), -1.), torch.tensor([3]))]:
            agree(operator, table, length, *[5] * (operator in ops.NMS))


# ----- detections -------------------------------------------------------------------------------
class TestDetections:
    @BOTH
    def test_by_hand(self, of):
        """Two halves of 2 tokens and 1; by half, then class, then token. 0 is a score."""
        kept = torch.tensor([[.5, -1], [0, .75], [-1, math.nan]])
        same(of.detections(kept, torch.tensor([2, 1])),
             (torch.tensor([0, 0, 0]), torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]),
              torch.tensor([.5, 0, .75])))

    @LAYOUTS
    def test_equals_reference(self, layout, threads):
        length = torch.tensor([0, 5, 70, 0, 33])
        agree("detections", random_scores(108, 4, torch.float32, seed=1), length, layout=layout)

    @ANYTHING
    @given(lengths=LENGTHS, n_classes=st.integers(0, 3), data=st.data(), dtype=DTYPE)
    def test_of_anything(self, lengths, n_classes, data, dtype):
        agree("detections", *any_table(data, lengths, n_classes, dtype))


# ----- average_map ------------------------------------------------------------------------------
def events_of(predictions, labels, delta_frames):
    """Lists of (half, class, frame, score) and (half, class, frame, visible) of two halves and one
    class -> the arguments of average_map."""
    def columns(rows, last_type):
        *places, last = zip(*rows, strict=True) if rows else [()] * 4
        return (*(torch.tensor(x, dtype=torch.int64) for x in places),
                torch.tensor(last, dtype=last_type))

    return (*columns(predictions, torch.float64), *columns(labels, torch.bool), 2, 1,
            torch.tensor(delta_frames))


AP_BY_HAND = [   # predictions, labels, delta, AP (any, visible, unshown), with the reason
    ([(0, 0, 10, .9)], [(0, 0, 10, True)], 2, (1, 1, 0)),
    ([(0, 0, 11, .9)], [(0, 0, 10, True)], 2, (1, 1, 0)),        # 1 <= 2 / 2: a match
    ([(0, 0, 9, .9)], [(0, 0, 10, True)], 2, (1, 1, 0)),         # on the other side, too
    ([(0, 0, 8, .9)], [(0, 0, 10, True)], 2, (0, 0, 0)),
    ([(0, 0, 12, .9)], [(0, 0, 10, True)], 2, (0, 0, 0)),
    ([(1, 0, 10, .9)], [(0, 0, 10, True)], 2, (0, 0, 0)),        # the other half
    ([(0, 0, 10, .9), (0, 0, 11, .8)], [(0, 0, 10, True)], 4, (1, 1, 0)),  # a duplicate below
    ([(0, 0, 10, .8), (0, 0, 11, .9)], [(0, 0, 10, True)], 4, (1, 1, 0)),  # not the nearest
    ([(0, 0, 50, .9), (0, 0, 10, .8)], [(0, 0, 10, True)], 2, (.5, .5, 0)),  # a false alarm
    ([(0, 0, 50, .9), (0, 0, 50, -1.), (0, 0, 10, .8)], [(0, 0, 10, True)], 2, (1, 1, 0)),  # erased
    ([(0, 0, 10, .9)], [(0, 0, 10, False)], 2, (1, 0, 1)),
    ([(0, 0, 10, .9)], [(0, 0, 10, True), (0, 0, 90, True)], 2, (6 / 11, 6 / 11, 0)),  # recall 0.5
    ([], [(0, 0, 10, True)], 2, (0, 0, 0)),
    ([(0, 0, 10, .9)], [], 2, (0, 0, 0)),
]


def random_events(seed, n_halves=5, n_classes=3, n_predictions=120, n_labels=25, last_frame=60):
    """Arguments of average_map, unordered, some twice; scores tied, negative, NaN or infinite."""
    gen = torch.Generator().manual_seed(seed)

    def places(n):
        return [torch.randint(0, high, (n,), generator=gen)
                for high in (n_halves, n_classes, last_frame)]

    score = random_scores(n_predictions, 1, torch.float64, seed, levels=[5, 199, 1000][seed % 3])
    return [*places(n_predictions), score.flatten(), *places(n_labels),
            torch.rand(n_labels, generator=gen) < .7, n_halves, n_classes,
            torch.tensor([0, 1, 2, 3, 5, 10, 24, 120])]


PLACE = st.integers(0, 1), st.just(0), st.integers(0, 30)      # half, class, frame


class TestAverageMap:
    @BOTH
    @pytest.mark.parametrize("predictions, labels, delta, expected", AP_BY_HAND)
    def test_by_hand(self, predictions, labels, delta, expected, of):
        got = of.average_map(*events_of(predictions, labels, [delta])).flatten()
        torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64),
                                   rtol=1e-15, atol=0)

    @pytest.mark.parametrize("of_events", [
        *({"seed": seed} for seed in range(12)),
        # tolerances so wide that the kernel does not look at every prediction near a label
        *({"seed": seed, "n_halves": 2, "n_classes": 1, "n_predictions": 400, "n_labels": 250,
           "last_frame": 300} for seed in range(3)),
        *({"seed": 0, "n_predictions": p, "n_labels": g} for p, g in [(0, 0), (0, 9), (9, 0)])],
        ids=str)
    def test_equals_reference(self, of_events, threads):
        agree("average_map", *random_events(**of_events))

    def test_does_not_depend_on_order(self):
        """Events as ops.detections orders them are used where they lie, others are sorted."""
        half, cls, frame, score, *rest = random_events(1)
        places = torch.stack([half, cls, frame], 1).tolist()
        last = dict(zip(map(tuple, places), score.tolist(), strict=True))
        ordered = torch.tensor([(*place, last[place]) for place in sorted(last)],
                               dtype=torch.float64)
        same(ops.average_map(*ordered[:, :3].long().T, ordered[:, 3], *rest),
             ops.average_map(half, cls, frame, score, *rest))

    def test_at_every_threshold(self):
        """A false alarm one threshold below costs nothing; an ulp less, at the same one, half."""
        threshold, n = np.linspace(0, 1, 200), 199
        zeros, classes = torch.zeros(n, dtype=torch.int64), torch.arange(n)
        for score, expected in (threshold[1:], 1.0), (np.nextafter(threshold[1:], 0), .5):
            ap = ops.average_map(zeros.repeat(2), classes.repeat(2), torch.cat([zeros, zeros + 90]),
                                 torch.from_numpy(np.append(score, threshold[:-1])),
                                 zeros, classes, zeros, zeros == 0, 1, n, torch.tensor([10]))
            same(ap[0], torch.full((1, n), expected, dtype=torch.float64))

    def test_at_many_deltas(self):
        """The kernel matches 64 deltas at a time, in whatever order they come."""
        *events, _ = random_events(2, n_classes=2)
        deltas = torch.randperm(130, generator=torch.Generator().manual_seed(0))
        agree("average_map", *events, deltas)

    @pytest.mark.parametrize("seed", range(6))
    def test_equals_the_official_evaluator(self, seed):
        """On its own arrays: (rows, classes) per half; labels 0, 1, -1; no prediction is -1."""
        official = pytest.importorskip("SoccerNet.Evaluation.ActionSpotting")
        n_halves, n_classes, rows = 6, 4, 120
        events = random_events(seed, n_halves, n_classes, 200, 40, rows)
        events[3] = events[3].nan_to_num(nan=-1.0)                # its arrays hold no NaN
        targets = np.zeros((n_halves, rows, n_classes))
        found = -np.ones((n_halves, rows, n_classes))
        for h, k, f, s in zip(*(x.tolist() for x in events[:4]), strict=True):
            found[h, f, k] = s
        for h, k, f, visible in zip(*(x.tolist() for x in events[4:8]), strict=True):
            targets[h, f, k] = 1 if visible else -1
        closest = np.zeros_like(targets) - 1
        for h in range(n_halves):
            for k in range(n_classes):
                frames = np.flatnonzero(targets[h, :, k])
                cuts = [0, *((frames[1:] + frames[:-1]) // 2), rows]
                for i, f in enumerate(frames):
                    closest[h, cuts[i]:cuts[i + 1], k] = targets[h, f, k]
        events[-1] = torch.tensor([2, 4, 10, 60])             # 1, 2, 5, 30 s at 2 frames a second
        ap = ops.average_map(*events)
        for d, delta_s in enumerate([1, 2, 5, 30]):
            _, any_, _, visible, _, unshown = official.average_mAP(targets, found, closest, 2,
                                                                   deltas=np.array([delta_s]))
            same(ap[:, d], torch.tensor(np.array([any_, visible, unshown])))

    @ANYTHING
    @given(predictions=st.lists(st.tuples(*PLACE, SCORE), max_size=30),
           labels=st.lists(st.tuples(*PLACE, st.booleans()), max_size=10),
           deltas=st.lists(st.integers(0, 40), min_size=1, max_size=3))
    def test_of_anything(self, predictions, labels, deltas):
        agree("average_map", *events_of(predictions, labels, deltas))


class TestResampledMap:
    """Each resample is what average_map makes of a list of matches with copies, to the bit."""

    @pytest.mark.parametrize("match_halves, picks", [
        (2, [[0, 1, 2], [2, 2, 2], [1, 0, 1]]), (1, [[5, 5, 0, 3, 1]]), (3, [[], []]), (6, [[0]])])
    def test_equals_reference(self, match_halves, picks, threads):
        for events in (random_events(0, 6), random_events(1, 6, n_predictions=0), random_events(
                2, 6, 1, 900, 250, 300)):
            agree("resampled_map", *events, match_halves, torch.tensor(picks, dtype=torch.int64))

    def test_every_match_once_is_no_resample(self):
        events = random_events(3, 4)
        for picks in ([0, 1], [1, 0]):
            same(ops.resampled_map(*events, 2, torch.tensor([picks]))[0], ops.average_map(*events))


# ----- all operators ----------------------------------------------------------------------------
SCORES, LENGTH = torch.rand(6, 2), torch.tensor([2, 4])
WINDOW = torch.tensor([5.0, 2.0], dtype=torch.float64)
CALLS = {      # operator -> its arguments
    ops.merge_windows: {"scores": torch.rand(2, 3, 1), "start": torch.tensor([0, 1]),
                        "half": torch.tensor([0, 0]), "length": LENGTH},
    ops.soft_nms: {"scores": SCORES, "length": LENGTH, "window": WINDOW},
    ops.hard_nms: {"scores": SCORES, "length": LENGTH, "window": WINDOW},
    ops.detections: {"kept": SCORES, "length": LENGTH},
    ops.average_map: dict(zip(inspect.signature(ops.average_map).parameters, random_events(0),
                              strict=True)),
    ops.resampled_map: dict(zip(
        inspect.signature(ops.resampled_map).parameters,
        [*random_events(0), 5, torch.zeros(2, 3, dtype=torch.int64)], strict=True))}
NAMED = {op.__name__: op for op in CALLS}
OF_A_TABLE = [       # what each operator on a table (S, K) refuses; its name for the table is {}
    ("{}", SCORES.half(), "{} must be float32 or float64, got float16"),
    ("{}", SCORES[0], r"{} must have shape \(S, K\), got \(2,\)"),
    ("length", LENGTH.int(), "length must be int64, got int32"),
    ("length", LENGTH[:1], r"{} must have one row per token, sum\(length\) = 2, got 6 rows"),
    ("length", torch.tensor([-1, 7]), "length must be in .* got -1 for half 0")]
OF_NMS = [
    ("window", -1, "window must be finite and >= 0 tokens, got -1"),
    ("window", math.inf, "window must be finite"),
    ("window", [1, 2, 3], r"window must have shape \(K,\) = \(2,\), got \(3,\)"),
    ("threshold", -1, "threshold must be >= 0, got -1"),
    ("threshold", math.nan, "threshold must be >= 0, got nan")]
REFUSED = [
    *((op, name.format(table), wrong, message.replace("{}", table))
      for op, table in [("soft_nms", "scores"), ("hard_nms", "scores"), ("detections", "kept")]
      for name, wrong, message in OF_A_TABLE),
    *((op, *row) for op in ("soft_nms", "hard_nms") for row in OF_NMS),
    ("soft_nms", "min_weight", 2, r"min_weight must be in \[0, 1\], got 2"),
    ("hard_nms", "mode", "soft", "mode must be 'greedy' or 'local', got 'soft'"),
    ("merge_windows", "mode", "sum", "mode must be 'max' or 'mean', got 'sum'"),
    ("merge_windows", "scores", SCORES, r"scores must have shape \(N, L, K\), got \(6, 2\)"),
    ("merge_windows", "edge", -1, "edge must be >= 0 tokens, got -1"),
    ("merge_windows", "start", torch.tensor([0, -1]), "start must be >= 0, got -1"),
    ("merge_windows", "half", torch.tensor([0, 2]), r"half must be in \[0, 2\), got 2"),
    ("merge_windows", "half", torch.tensor([1, 0]), "half .* decrease, got 1 then 0 at window 1"),
    ("average_map", "pred_half", torch.full((120,), 5), r"pred_half .* \[0, 5\), got 5 at event 0"),
    ("average_map", "pred_class", torch.full((120,), 3), r"pred_class .* in \[0, 3\), got 3"),
    ("average_map", "pred_class", NONE, r"pred_class .* shape \(P,\) = \(120,\), got \(0,\)"),
    ("average_map", "pred_score", torch.zeros(120), "pred_score must be float64, got float32"),
    ("average_map", "gt_frame", torch.full((25,), -5), "gt_frame must be >= 0, got -5"),
    ("average_map", "gt_visible", torch.zeros(25).long(), "gt_visible must be bool, got int64"),
    ("average_map", "n_halves", 2**62, r"n_halves \* n_classes must be <= "),
    ("average_map", "delta_frames", torch.tensor([-2]), "delta_frames must be >= 0, got -2"),
    ("resampled_map", "match_halves", 2, "match_halves .* divide n_halves, 5, got 2"),
    ("resampled_map", "match_halves", 0, "match_halves must be > 0"),
    ("resampled_map", "picks", torch.ones(1, 1).long(), r"picks must be in \[0, 1\), got 1"),
    ("resampled_map", "picks", torch.tensor([[-1]]), "picks must be in .* got -1"),
    ("resampled_map", "picks", NONE, r"picks must have shape \(R, M\), got \(0,\)"),
    ("resampled_map", "picks", torch.zeros(1, 1), "picks must be int64, got float32")]
TENSORS = [pytest.param(op, name, id=f"{op.__name__} {name}") for op, arguments in CALLS.items()
           for name, x in arguments.items() if isinstance(x, torch.Tensor)]


class TestEveryOperator:
    @pytest.mark.parametrize("op, name, wrong, message", REFUSED)
    def test_refuses(self, op, name, wrong, message):
        with pytest.raises(ValueError, match=message):
            NAMED[op](**{**CALLS[NAMED[op]], name: wrong})

    @pytest.mark.parametrize("op, more", [
        ("merge_windows", (1, False)), ("soft_nms", (.1, .0)), ("hard_nms", (.1, False)),
        ("detections", ()), ("average_map", ()), ("resampled_map", ())])
    def test_opcheck(self, op, more):
        ops.require_build()
        torch.library.opcheck(getattr(torch.ops.comedian, op).default,
                              (*CALLS[NAMED[op]].values(), *more))

    @pytest.mark.parametrize("op, name", [x for x in TENSORS if x.values[1] != "window"])
    def test_wants_tensors(self, op, name):
        x = CALLS[op][name]
        for wrong, kind in (x.numpy(), "ndarray"), (x.tolist(), "list"), (None, "NoneType"):
            with pytest.raises(TypeError, match=f"^{name} must be a tensor, got {kind}; "):
                op(**{**CALLS[op], name: wrong})

    @pytest.mark.parametrize("window", [[5, 2], np.array([5, 2]), torch.tensor([5, 2])])
    def test_takes_any_list_of_window_widths(self, window):
        for op in ops.soft_nms, ops.hard_nms:
            same(op(SCORES, LENGTH, window), op(SCORES, LENGTH, WINDOW))

    @pytest.mark.parametrize("op, name", [x for x in TENSORS if x.values[1] in
                                          ("scores", "window", "kept", "pred_score")])
    def test_has_no_gradient_and_says_so(self, op, name):
        arguments = {**CALLS[op], name: CALLS[op][name].clone().requires_grad_()}
        message = rf"^{name} must not require a gradient, {op.__name__} has none; pass .*detach\(\)"
        with pytest.raises(ValueError, match=message):
            op(**arguments)
        with torch.no_grad():
            op(**arguments)

    @pytest.mark.parametrize("op, name", TENSORS)
    def test_never_mixes_real_and_meta_tensors(self, op, name):
        """The result would be memory that nobody has written."""
        first, arguments = next(iter(CALLS[op])), {**CALLS[op], name: CALLS[op][name].to("meta")}
        if name != first:
            with pytest.raises(ValueError, match=f"^{name} must be on the CPU as {first} is"):
                op(**arguments)
        elif op not in (ops.merge_windows, ops.detections):
            assert op(**arguments).device.type == "meta"

    @pytest.mark.parametrize("op", [ops.soft_nms, ops.hard_nms, ops.average_map, ops.resampled_map])
    def test_tells_the_shape_of_meta_tensors(self, op):
        """merge_windows and detections cannot: their shapes depend on values."""
        on_meta = {name: x.to("meta") if isinstance(x, torch.Tensor) else x
                   for name, x in CALLS[op].items()}
        got, real = op(**on_meta), op(**CALLS[op])
        assert (got.shape, got.dtype, got.device.type) == (real.shape, real.dtype, "meta")

    @pytest.mark.parametrize("op", CALLS, ids=lambda op: op.__name__)
    def test_compiles_as_one_graph(self, op):
        expected = op(**CALLS[op])
        compiled = torch.compile(lambda arguments: op(**arguments), fullgraph=True,
                                 backend="aot_eager")
        same(compiled(CALLS[op]), expected)

    @pytest.mark.parametrize("op, name", [(ops.soft_nms, "scores"), (ops.soft_nms, "window"),
                                          (ops.hard_nms, "scores"), (ops.merge_windows, "scores"),
                                          (ops.average_map, "pred_score")])
    def test_vmap_is_a_loop(self, op, name):
        x = CALLS[op][name]
        batch = torch.stack([x, x / 2])
        same(torch.vmap(lambda one: op(**{**CALLS[op], name: one}))(batch),
             torch.stack([op(**{**CALLS[op], name: one}) for one in batch]))


@pytest.mark.parametrize("threads, length, window_tokens, n_classes, dtype, threshold", [
    (1, torch.arange(1000) % 6, 4, 2, torch.float32, .001),
    (4, torch.arange(1000) % 6, 4, 2, torch.float32, .001),
    (4, torch.tensor([2700, 5400]), 64, 5, torch.float32, .9),      # 45 minutes at 1 and at 2 Hz
    (1, torch.tensor([2700]), 64, 1, torch.float64, .2),
], indirect=["threads"], ids=["many", "many, 4 threads", "real, 4 threads", "real"])
def test_from_windows_to_precision(length, window_tokens, n_classes, dtype, threshold, threads):
    """Halves short and empty, and as long as real ones: every kernel equals its reference."""
    start = [torch.arange(0, max(1, T), window_tokens // 2) for T in length.tolist()]
    half = torch.arange(len(length)).repeat_interleave(torch.tensor([len(s) for s in start]))
    scores = random_scores(len(half) * window_tokens, n_classes, dtype, seed=0)
    windows = scores.reshape(-1, window_tokens, n_classes), torch.cat(start), half, length
    agree("merge_windows", *windows, window_tokens // 6, "mean")
    merged = agree("merge_windows", *windows, window_tokens // 6)
    for kind in ops.NMS:
        *place, score = agree("detections", agree(kind, merged, length, 10, threshold), length)
    halves = torch.arange(len(length)).repeat_interleave(40)
    frame = torch.arange(40).repeat(len(length)) * length[halves] // 40
    events = *place, score.double(), halves, frame % n_classes, frame, frame % 3 > 0
    agree("average_map", *events, len(length), n_classes, torch.tensor([0, 2, 6]))


# ----- build ------------------------------------------------------------------------------------
@pytest.mark.parametrize("file, content, message", [
    ("comedian/_C*", None, "are not built for this Python"),
    ("comedian/_C*", "no library", "do not fit torch"),
    ("csrc/soft_nms.cpp", "// newer", "were built from other sources than csrc/")])
def test_a_bad_build_says_what_to_do(file, content, message, matches, tmp_path):
    """As a user meets it: stage 3 would validate in the end, and says so at its beginning."""
    ops.require_build()
    shutil.copytree(Path(ops.__file__).parent, tmp_path / "comedian")
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    for script in ROOT.glob("*.py"):
        shutil.copy(script, tmp_path)
    spoiled, = tmp_path.glob(file)
    spoiled.unlink()
    if content:
        spoiled.write_text(content)
    # An editable install of the project must not stand in for what is missing here.
    script = ("import sys, runpy; "
              "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in str(f)]; "
              "runpy.run_path('stage3_finetune.py', run_name='__main__')")
    flags = (f"--valid {matches} --classes {matches}/classes.txt --model vivit_micro --window 8 "
             "--head-epochs 0 --steps 1")
    ran = subprocess.run([sys.executable, "-c", script, "--data", matches, *flags.split()],
                         cwd=tmp_path, capture_output=True, text=True,
                         env={**os.environ, "PYTHONPATH": ""})
    assert ran.returncode == 2 and "have labels" in ran.stdout and "step" not in ran.stdout
    assert re.fullmatch(f"error: the kernels {message}.*; run: python setup.py build_ext --inplace"
                        ".*\n", ran.stderr), ran.stderr
