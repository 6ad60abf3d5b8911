"""
What these tests prove about ops.py and csrc/, one class per operator:
  1. the references say what the field's programs say: cases by hand, and the answers of the
     official evaluator, the official COMEDIAN code, the SoccerNet DevKit, CALF and spivak
  2. each kernel equals its reference to the last bit, on ties, NaN, infinities, empty and strided
     input, in both precisions, with one thread and with many
  3. wrong input is refused with a message that names the argument
  4. the registration is sound (torch.library.opcheck)
Then what holds for all operators alike: no tensor, another device, a gradient; torch.compile, vmap
and meta tensors; all of them in a row. At the end what a bad build says.
"""
import inspect
import json
import math
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comedian import ops

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = Path(__file__).resolve().parent / "fixtures"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "fixtures"
NMS_CASES = json.loads((FIXTURES / "nms_cases" / "cases.json").read_text())
MERGE_CASES = json.loads((FIXTURES / "merge_cases" / "cases.json").read_text())


def same(a, b):
    """Equal to the last bit, but for the payload of a NaN."""
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def column(scores, dtype=torch.float32):
    """One class of one half -> scores (T, 1), length (1,)."""
    return torch.tensor(scores, dtype=dtype).reshape(-1, 1), torch.tensor([len(scores)])


def listed(kept):
    """(T, 1) -> [[token, score], ...], the form of the fixtures."""
    return [[t, s] for t, s in enumerate(kept.flatten().tolist()) if s >= 0]


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


def relaid(t, layout):
    """The same values, laid out otherwise in memory."""
    if layout == "contiguous":
        return t
    wide = t.new_full((*t.shape[:-1], 2 * t.shape[-1]), 9)      # every other column of a wider one
    wide[..., ::2] = t
    return wide[..., ::2]


SPECIAL = [0.0, -0.0, .25, .5, 1.0, 2.0, -1.0, math.nan, math.inf, -math.inf]
SCORE = st.one_of(st.sampled_from(SPECIAL), st.floats(0, 1, width=32))
LENGTHS = st.lists(st.integers(0, 25), max_size=4)
DTYPE = st.sampled_from([torch.float32, torch.float64])


def any_table(data, lengths, n_classes, dtype):
    """hypothesis draws: scores (S, K), length (H,)."""
    n = sum(lengths) * n_classes
    scores = torch.tensor(data.draw(st.lists(SCORE, min_size=n, max_size=n)), dtype=dtype)
    return scores.reshape(sum(lengths), n_classes), torch.tensor(lengths, dtype=torch.int64)


def opcheck(name, *arguments):
    torch.library.opcheck(getattr(torch.ops.comedian, name).default, arguments)


# ----- merge_windows ----------------------------------------------------------------------------
def windows(gen, dtype=torch.float32, n=9, window_tokens=16, n_classes=3, longest=50):
    """Some halves, none, short and long, and windows anywhere in them, also beyond their ends."""
    length = torch.randint(0, longest, (4,), generator=gen)
    half = torch.randint(0, 4, (n,), generator=gen).sort().values
    start = torch.randint(0, longest, (n,), generator=gen)
    scores = random_scores(n * window_tokens, n_classes, dtype, int(gen.initial_seed()))
    return scores.reshape(n, window_tokens, n_classes), start, half, length


WINDOWS = {"scores": torch.rand(2, 3, 1), "start": torch.tensor([0, 1]),
           "half": torch.tensor([0, 0]), "length": torch.tensor([4])}


class TestMergeWindows:
    def test_by_hand(self):
        # A half of 8 tokens, windows of 6 at 0 and 2, edge 1: the second window's first token (2)
        # and the first one's last (5) are ignored. The half's own first and last are not.
        scores = torch.tensor([[1., 2, 3, 4, 5, 9], [9, 8, 1, 6, 7, 8]]).unsqueeze(-1)
        args = scores, torch.tensor([0, 2]), torch.tensor([0, 0]), torch.tensor([8]), 1
        for merge in ops.merge_windows_ref, ops.merge_windows:
            assert merge(*args).flatten().tolist() == [1, 2, 3, 8, 5, 6, 7, 8]
            assert merge(*args, mode="mean").flatten().tolist() == [1, 2, 3, 6, 3, 6, 7, 8]

    @pytest.mark.parametrize("case", MERGE_CASES, ids=lambda c: c["name"])
    @pytest.mark.parametrize("merge", [ops.merge_windows_ref, ops.merge_windows])
    def test_equals_the_official_edge_rule(self, case, merge):
        scores = torch.tensor(case["scores"], dtype=torch.float64)
        start = torch.tensor(case["starts"])
        half, length = torch.zeros_like(start), torch.tensor([case["duration_tokens"]])
        for mode in "max", "mean":
            got = merge(scores, start, half, length, case["edge_tokens"], mode)
            torch.testing.assert_close(got, torch.tensor(case[mode], dtype=torch.float64),
                                       rtol=1e-15, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("layout", ["contiguous", "strided"])
    @pytest.mark.parametrize("seed", range(5))
    def test_equals_reference(self, dtype, layout, seed, threads):
        scores, *rest = windows(torch.Generator().manual_seed(seed), dtype)
        for edge in 0, 1, 5, 8, 20:
            for mode in "max", "mean":
                same(ops.merge_windows(relaid(scores, layout), *rest, edge, mode),
                     ops.merge_windows_ref(scores, *rest, edge, mode))

    @pytest.mark.parametrize("n, window_tokens, n_classes",
                             [(0, 4, 2), (3, 0, 2), (3, 4, 0), (1, 1, 1)])
    def test_of_nothing(self, n, window_tokens, n_classes):
        gen = torch.Generator().manual_seed(0)
        args = windows(gen, n=n, window_tokens=window_tokens, n_classes=n_classes)
        same(ops.merge_windows(*args), ops.merge_windows_ref(*args))
        no_halves = args[0][:0], *(torch.zeros(0, dtype=torch.int64),) * 3
        assert ops.merge_windows(*no_halves).shape == (0, n_classes)

    @settings(max_examples=100, deadline=None)
    @given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=3),
           window_tokens=st.integers(1, 12), edge=st.integers(0, 15),
           mode=st.sampled_from(["max", "mean"]), data=st.data())
    def test_of_anything(self, lengths, window_tokens, edge, mode, data):
        where = st.tuples(st.integers(0, len(lengths) - 1), st.integers(0, 40))
        half, start = torch.tensor(sorted(data.draw(st.lists(where, min_size=1, max_size=6)))).T
        n = len(half) * window_tokens
        scores = torch.tensor(data.draw(st.lists(SCORE, min_size=n, max_size=n)))
        args = scores.reshape(-1, window_tokens, 1), start, half, torch.tensor(lengths), edge, mode
        same(ops.merge_windows(*args), ops.merge_windows_ref(*args))

    @pytest.mark.parametrize("wrong, message", [
        ({"mode": "sum"}, "mode must be 'max' or 'mean', got 'sum'"),
        ({"scores": torch.rand(6, 2)}, r"scores must have shape \(N, L, K\), got \(6, 2\)"),
        ({"edge": -1}, "edge must be >= 0 tokens, got -1"),
        ({"start": torch.tensor([0, -1])}, "start must be >= 0, got -1"),
        ({"half": torch.tensor([0, 1])}, r"half must be in \[0, 1\), got 1"),
        ({"half": torch.tensor([1, 0]), "length": torch.tensor([2, 4])},
         "half must not decrease, got 1 then 0 at window 1"),
    ])
    def test_refuses(self, wrong, message):
        with pytest.raises(ValueError, match=message):
            ops.merge_windows(**{**WINDOWS, **wrong})

    def test_opcheck(self):
        opcheck("merge_windows", *WINDOWS.values(), 1, False)


# ----- NMS --------------------------------------------------------------------------------------
REFERENCE = {"soft": ops.soft_nms_ref, "greedy": partial(ops.hard_nms_ref, mode="greedy"),
             "local": partial(ops.hard_nms_ref, mode="local")}
SCORES, LENGTH = torch.rand(6, 2), torch.tensor([2, 4])
WINDOW = torch.tensor([5.0, 2.0], dtype=torch.float64)


def programs(kind):
    """The kernel and the reference of a kind of NMS."""
    return [pytest.param(ops.NMS[kind], id="kernel"), pytest.param(REFERENCE[kind], id="reference")]


def official_comedian(kind):
    """The stored answers of the official COMEDIAN code: (key, scores, window, answer) of each."""
    if not (SHARED / "oracles").is_dir():
        pytest.skip("needs ../shared/fixtures/oracles")
    stored = np.load(SHARED / "oracles/nms_eztorch.npz")
    for key in stored:
        part, of_kind, *_ = key.split("_")
        if of_kind == kind:
            yield (key, torch.from_numpy(stored[f"{part}_scores"]),
                   int(key.split("_w")[1].split("_")[0]), torch.from_numpy(stored[key]))


class AnyNMS:
    """What holds for every kind. The classes below say which kinds they are about."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("layout", ["contiguous", "strided"])
    @pytest.mark.parametrize("levels", [3, 20, 1000])
    def test_equals_reference(self, kind, dtype, layout, levels, threads):
        length = torch.tensor([0, 1, 2, 40, 0, 83, 17])
        scores = random_scores(int(length.sum()), 3, dtype, seed=levels, levels=levels)
        widths = [0, 1, 2, 3, 4.5, 6, 13, 1e9, torch.tensor([5, 0, 20])]
        for window, threshold in zip(widths, [0.0, .001, .3] * 3, strict=True):
            same(ops.NMS[kind](relaid(scores, layout), length, window, threshold),
                 REFERENCE[kind](scores, length, window, threshold))

    def test_on_ramps(self, kind):
        """Monotone scores make the kernels climb the longest way."""
        for ramp in torch.linspace(0, 1, 200), torch.linspace(1, 0, 200), torch.ones(200):
            scores, length = ramp[:, None], torch.tensor([200])
            same(ops.NMS[kind](scores, length, 8), REFERENCE[kind](scores, length, 8))

    def test_of_nothing(self, kind):
        none = torch.zeros(0, dtype=torch.int64)
        assert ops.NMS[kind](torch.zeros(0, 3), none, 5).shape == (0, 3)
        assert ops.NMS[kind](torch.zeros(4, 0), torch.tensor([4]), 5).shape == (4, 0)

    @pytest.mark.parametrize("wrong, message", [
        ({"scores": SCORES.half()}, "scores must be float32 or float64, got float16"),
        ({"scores": SCORES[0]}, r"scores must have shape \(S, K\), got \(2,\)"),
        ({"length": LENGTH.int()}, "length must be int64, got int32"),
        ({"length": LENGTH[:1]}, r"sum\(length\) = 2, got 6 rows"),
        ({"length": torch.tensor([-1, 7])}, "length must be in .* got -1 for half 0"),
        ({"window": -1}, "window must be finite and >= 0 tokens, got -1"),
        ({"window": math.inf}, "window must be finite"),
        ({"window": [1, 2, 3]}, r"window must have shape \(K,\) = \(2,\), got \(3,\)"),
        ({"threshold": -1}, "threshold must be >= 0, got -1"),
        ({"threshold": math.nan}, "threshold must be >= 0, got nan"),
    ])
    def test_refuses(self, kind, wrong, message):
        with pytest.raises(ValueError, match=message):
            ops.NMS[kind](**{"scores": SCORES, "length": LENGTH, "window": 5, **wrong})


class TestSoftNMS(AnyNMS):
    @pytest.fixture(params=["soft"])
    def kind(self, request):
        return request.param

    @pytest.mark.parametrize("nms", programs("soft"))
    @pytest.mark.parametrize("scores, window, kept", [
        ([.5, .9, .8], 4, [.25, .9, .4]),          # radius 2: half is left at distance 1
        ([.5, .5, .5], 4, [.5, .125, .5]),         # tie: the first; then 2; both have halved 1
        ([.9, math.nan, -.9], 4, [.9, -1, -1]),    # neither NaN nor a negative score
        ([.9, .8], 0, [.9, .8])])                  # window 0 decays nothing
    def test_by_hand(self, nms, scores, window, kept):
        same(nms(*column(scores), window), column(kept)[0])

    @pytest.mark.parametrize("case", NMS_CASES, ids=lambda c: f"{c['name']} w{c['window']}")
    @pytest.mark.parametrize("nms", programs("soft"))
    def test_equals_published_programs(self, nms, case):
        expected, window, min_weight = case["expected"], case["window"], case["min_weight"]
        kept = nms(*column(case["scores"]), window, case["threshold"], min_weight)
        assert listed(kept) == expected["eztorch_soft"]
        # spivak: double precision, and its window is our radius.
        scores, length = column(case["scores"])
        kept = nms(scores.double(), length, 2 * window, 1e-5, min_weight)
        assert listed(kept) == expected["spivak_linear"]

    @pytest.mark.parametrize("nms", programs("soft"))
    def test_equals_official_comedian(self, nms):
        compared = []
        for key, scores, window, expected in official_comedian("soft"):
            if key.startswith("b") and nms is ops.soft_nms_ref:        # long for the reference
                continue
            threshold = 0.05 if "thr0.05" in key else 0.001
            min_weight = 0.1 if "minw0.1" in key else 0.0
            kept = nms(scores, torch.tensor([len(scores)]), window, threshold, min_weight)
            same(kept.clamp(min=0), expected.clamp(min=0))
            compared.append(key)
        assert len(compared) == (5 if nms is ops.soft_nms_ref else 10)

    @pytest.mark.parametrize("min_weight", [.1, 1])
    def test_with_a_least_weight_equals_reference(self, min_weight):
        length = torch.tensor([0, 1, 2, 40, 0, 83, 17])
        scores = random_scores(int(length.sum()), 3, torch.float32, seed=0)
        same(ops.soft_nms(scores, length, 7, .001, min_weight),
             ops.soft_nms_ref(scores, length, 7, .001, min_weight))

    @settings(max_examples=150, deadline=None)
    @given(lengths=LENGTHS, n_classes=st.integers(0, 3), data=st.data(),
           window=st.one_of(st.integers(0, 30), st.floats(0, 60)),
           threshold=st.sampled_from([0, .001, .5, 1]),
           min_weight=st.sampled_from([0, .1, .5, 1]), dtype=DTYPE)
    def test_of_anything(self, lengths, n_classes, data, window, threshold, min_weight, dtype):
        table = any_table(data, lengths, n_classes, dtype)
        same(ops.soft_nms(*table, window, threshold, min_weight),
             ops.soft_nms_ref(*table, window, threshold, min_weight))

    def test_refuses_a_weight_above_one(self):
        with pytest.raises(ValueError, match=r"min_weight must be in \[0, 1\], got 2"):
            ops.soft_nms(SCORES, LENGTH, 5, min_weight=2)

    def test_opcheck(self):
        opcheck("soft_nms", SCORES, LENGTH, WINDOW, .1, .0)


class TestHardNMS(AnyNMS):
    @pytest.fixture(params=["greedy", "local"])
    def kind(self, request):
        return request.param

    @pytest.mark.parametrize("nms", programs("greedy"))
    @pytest.mark.parametrize("scores, window, kept", [
        ([.6, .5, .9, .8, .7], 4, [-1, -1, .9, -1, .7]),     # 2 to the left, 1 to the right
        ([.5, .9, .8], 2, [-1, .9, .8]),                     # 1 to the left, none to the right
        ([.3, .3, .3, .3], 4, [.3, -1, .3, -1]),             # ties: the earlier token
        ([.9, .8], 0, [.9, .8])])                            # the DevKit would never end
    def test_greedy_by_hand(self, nms, scores, window, kept):
        same(nms(*column(scores), window), column(kept)[0])

    @pytest.mark.parametrize("nms", programs("local"))
    @pytest.mark.parametrize("scores, window, kept", [
        ([.5, .9, .8, .7], 2, [-1, .9, -1, -1]),       # .8 is suppressed and still suppresses .7
        ([.9, .2, .9], 4, [.9, -1, .9])])              # equal maxima all stay
    def test_local_by_hand(self, nms, scores, window, kept):
        same(nms(*column(scores), window), column(kept)[0])

    @pytest.mark.parametrize("case", NMS_CASES, ids=lambda c: f"{c['name']} w{c['window']}")
    @pytest.mark.parametrize("hard_nms", [ops.hard_nms, ops.hard_nms_ref])
    def test_equals_published_programs(self, hard_nms, case):
        expected, window, threshold = case["expected"], case["window"], case["threshold"]
        table = column(case["scores"])
        if expected["devkit"] != "INFINITE_LOOP":
            assert listed(hard_nms(*table, window, threshold)) == expected["devkit"]
        if expected["calf"] != "INFINITE_LOOP":
            assert listed(hard_nms(*table, window, 0.0)) == expected["calf"]
        kept = hard_nms(*table, window, threshold, mode="local")
        assert listed(kept) == expected["eztorch_hard"]

    @pytest.mark.parametrize("hard_nms", [ops.hard_nms, ops.hard_nms_ref])
    def test_equals_official_comedian(self, hard_nms):
        compared = []
        for key, scores, window, expected in official_comedian("hard"):
            if key.startswith("b") and hard_nms is ops.hard_nms_ref:   # long for the reference
                continue
            kept = hard_nms(scores, torch.tensor([len(scores)]), window, 0.001, mode="local")
            assert torch.equal(kept >= 0, expected), key
            compared.append(key)
        assert len(compared) == (3 if hard_nms is ops.hard_nms_ref else 6)

    @settings(max_examples=150, deadline=None)
    @given(lengths=LENGTHS, n_classes=st.integers(0, 3), data=st.data(),
           window=st.one_of(st.integers(0, 30), st.floats(0, 60)),
           threshold=st.sampled_from([0, .001, .5, 1]), dtype=DTYPE)
    def test_of_anything(self, lengths, n_classes, data, window, threshold, dtype):
        table = any_table(data, lengths, n_classes, dtype)
        for mode in "greedy", "local":
            same(ops.hard_nms(*table, window, threshold, mode),
                 ops.hard_nms_ref(*table, window, threshold, mode))

    def test_refuses_another_mode(self):
        with pytest.raises(ValueError, match="mode must be 'greedy' or 'local', got 'soft'"):
            ops.hard_nms(SCORES, LENGTH, 5, mode="soft")

    def test_opcheck(self):
        opcheck("hard_nms", SCORES, LENGTH, WINDOW, .1, False)


# ----- detections -------------------------------------------------------------------------------
def same_lists(found, expected):
    assert len(found) == len(expected) == 4
    for got, wanted in zip(found, expected, strict=True):
        same(got, wanted)


class TestDetections:
    @pytest.mark.parametrize("detections", [ops.detections_ref, ops.detections])
    def test_by_hand(self, detections):
        """Two halves of 2 tokens and 1; by half, then class, then token. 0 is a score."""
        kept = torch.tensor([[.5, -1], [0, .75], [-1, math.nan]])
        same_lists(detections(kept, torch.tensor([2, 1])),
                   [torch.tensor([0, 0, 0]), torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]),
                    torch.tensor([.5, 0, .75])])

    @pytest.mark.parametrize("layout", ["contiguous", "strided"])
    def test_equals_reference(self, layout, threads):
        length = torch.tensor([0, 5, 70, 0, 33])
        kept = random_scores(108, 4, torch.float32, seed=1)
        same_lists(ops.detections(relaid(kept, layout), length), ops.detections_ref(kept, length))

    def test_of_nothing(self):
        for kept, length in [(torch.full((3, 2), -1.), [3]), (torch.zeros(0, 2), []),
                             (torch.zeros(2, 0), [2])]:
            found = ops.detections(kept, torch.tensor(length, dtype=torch.int64))
            assert [len(x) for x in found] == [0] * 4

    @settings(max_examples=150, deadline=None)
    @given(lengths=LENGTHS, n_classes=st.integers(0, 3), data=st.data(), dtype=DTYPE)
    def test_of_anything(self, lengths, n_classes, data, dtype):
        table = any_table(data, lengths, n_classes, dtype)
        same_lists(ops.detections(*table), ops.detections_ref(*table))

    @pytest.mark.parametrize("kept, length, message", [
        (SCORES, LENGTH[:1], r"kept must have one row per token, sum\(length\) = 2, got 6 rows"),
        (SCORES.half(), LENGTH, "kept must be float32 or float64, got float16"),
        (SCORES, LENGTH.int(), "length must be int64, got int32")])
    def test_refuses(self, kept, length, message):
        with pytest.raises(ValueError, match=message):
            ops.detections(kept, length)

    def test_opcheck(self):
        opcheck("detections", SCORES, LENGTH)


# ----- average_map ------------------------------------------------------------------------------
def average_map_of(predictions, labels, delta_frames, average_map=ops.average_map):
    """Lists of (half, class, frame, score) and (half, class, frame, visible) -> AP (3, D, K)."""
    def columns(rows, last_type):
        *places, last = zip(*rows, strict=True) if rows else [()] * 4
        return (*(torch.tensor(x, dtype=torch.int64) for x in places),
                torch.tensor(last, dtype=last_type))

    return average_map(*columns(predictions, torch.float64), *columns(labels, torch.bool), 2, 1,
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

    def index(high, n):
        return torch.randint(0, high, (n,), generator=gen)

    score = random_scores(n_predictions, 1, torch.float64, seed, levels=[5, 199, 1000][seed % 3])
    return [index(n_halves, n_predictions), index(n_classes, n_predictions),
            index(last_frame, n_predictions), score.flatten(),
            index(n_halves, n_labels), index(n_classes, n_labels), index(last_frame, n_labels),
            torch.rand(n_labels, generator=gen) < .7, n_halves, n_classes,
            torch.tensor([0, 1, 2, 3, 5, 10, 24, 120])]

PLACE = st.integers(0, 1), st.just(0), st.integers(0, 30)      # half, class, frame


class TestAverageMap:
    @pytest.mark.parametrize("predictions, labels, delta, expected", AP_BY_HAND)
    @pytest.mark.parametrize("average_map", [ops.average_map_ref, ops.average_map])
    def test_by_hand(self, predictions, labels, delta, expected, average_map):
        got = average_map_of(predictions, labels, [delta], average_map).flatten()
        torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64),
                                   rtol=1e-15, atol=0)

    @pytest.mark.parametrize("seed", range(12))
    def test_equals_reference(self, seed, threads):
        events = random_events(seed)
        same(ops.average_map(*events), ops.average_map_ref(*events))

    @pytest.mark.parametrize("seed", range(3))
    def test_of_a_crowd_equals_reference(self, seed):
        """Tolerances so wide that the kernel does not look at every prediction near a label."""
        events = random_events(seed, 2, 1, n_predictions=400, n_labels=250, last_frame=300)
        same(ops.average_map(*events), ops.average_map_ref(*events))

    @pytest.mark.parametrize("n_predictions, n_labels", [(0, 0), (0, 9), (9, 0)])
    def test_of_nothing(self, n_predictions, n_labels):
        events = random_events(0, n_predictions=n_predictions, n_labels=n_labels)
        same(ops.average_map(*events), ops.average_map_ref(*events))

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
        """Next to a false alarm one threshold below, a match counts fully. An ulp less, and both
        lie at the same threshold: half the precision. One class per threshold."""
        threshold, n = np.linspace(0, 1, 200), 199
        zeros, classes = torch.zeros(n, dtype=torch.int64), torch.arange(n)
        for score, expected in (threshold[1:], 1.0), (np.nextafter(threshold[1:], 0), .5):
            ap = ops.average_map(zeros.repeat(2), classes.repeat(2), torch.cat([zeros, zeros + 90]),
                                 torch.from_numpy(np.append(score, threshold[:-1])),
                                 zeros, classes, zeros, zeros == 0, 1, n, torch.tensor([10]))
            same(ap[0], torch.full((1, n), expected, dtype=torch.float64))

    def test_at_many_deltas(self):
        """The kernel matches 64 deltas at a time, in whatever order they come."""
        *events, _ = random_events(2)
        deltas = torch.randperm(130, generator=torch.Generator().manual_seed(0))
        same(ops.average_map(*events, deltas), ops.average_map_ref(*events, deltas))

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

    @settings(max_examples=150, deadline=None)
    @given(predictions=st.lists(st.tuples(*PLACE, SCORE), max_size=30),
           labels=st.lists(st.tuples(*PLACE, st.booleans()), max_size=10),
           deltas=st.lists(st.integers(0, 40), min_size=1, max_size=3))
    def test_of_anything(self, predictions, labels, deltas):
        same(average_map_of(predictions, labels, deltas),
             average_map_of(predictions, labels, deltas, ops.average_map_ref))

    @pytest.mark.parametrize("predictions, labels, delta, message", [
        ([(2, 0, 5, .5)], [], 2, r"pred_half must be in \[0, 2\), got 2 at event 0"),
        ([(0, 1, 5, .5)], [], 2, r"pred_class must be in \[0, 1\), got 1"),
        ([], [(0, 0, -5, True)], 2, "gt_frame must be >= 0, got -5"),
        ([], [], -2, "delta_frames must be >= 0, got -2")])
    def test_refuses(self, predictions, labels, delta, message):
        with pytest.raises(ValueError, match=message):
            average_map_of(predictions, labels, [delta])

    def test_refuses_wrong_types(self):
        events = random_events(0)
        for i, wrong, message in [
                (3, events[3].float(), "pred_score must be float64, got float32"),
                (7, events[7].long(), "gt_visible must be bool, got int64"),
                (1, events[1][:5], r"pred_class must have shape \(P,\) = \(120,\), got \(5,\)"),
                (8, 2**62, r"n_halves \* n_classes must be <= ")]:
            with pytest.raises(ValueError, match=message):
                ops.average_map(*events[:i], wrong, *events[i + 1:])

    def test_opcheck(self):
        opcheck("average_map", *random_events(0))


# ----- all operators ----------------------------------------------------------------------------
CALLS = {      # operator -> its arguments
    ops.merge_windows: WINDOWS,
    ops.soft_nms: {"scores": SCORES, "length": LENGTH, "window": WINDOW},
    ops.hard_nms: {"scores": SCORES, "length": LENGTH, "window": WINDOW},
    ops.detections: {"kept": SCORES, "length": LENGTH},
    ops.average_map: dict(zip(inspect.signature(ops.average_map).parameters, random_events(0),
                              strict=True))}
TENSORS = [pytest.param(op, name, id=f"{op.__name__} {name}") for op, arguments in CALLS.items()
           for name, x in arguments.items() if isinstance(x, torch.Tensor)]
EVERY_OPERATOR = pytest.mark.parametrize("op", CALLS, ids=lambda op: op.__name__)


class TestEveryOperator:
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
        elif op in (ops.soft_nms, ops.hard_nms, ops.average_map):
            assert op(**arguments).device.type == "meta"

    @pytest.mark.parametrize("op", [ops.soft_nms, ops.hard_nms, ops.average_map])
    def test_tells_the_shape_of_meta_tensors(self, op):
        """merge_windows and detections cannot: their shapes depend on values."""
        on_meta = {name: x.to("meta") if isinstance(x, torch.Tensor) else x
                   for name, x in CALLS[op].items()}
        got, real = op(**on_meta), op(**CALLS[op])
        assert (got.shape, got.dtype, got.device.type) == (real.shape, real.dtype, "meta")

    @EVERY_OPERATOR
    def test_compiles_as_one_graph(self, op):
        compiled = torch.compile(lambda arguments: op(**arguments), fullgraph=True,
                                 backend="aot_eager")
        torch.testing.assert_close(compiled(CALLS[op]), op(**CALLS[op]), rtol=0, atol=0,
                                   equal_nan=True)

    @pytest.mark.parametrize("op, name", [(ops.soft_nms, "scores"), (ops.soft_nms, "window"),
                                          (ops.hard_nms, "scores"), (ops.merge_windows, "scores"),
                                          (ops.average_map, "pred_score")])
    def test_vmap_is_a_loop(self, op, name):
        x = CALLS[op][name]
        batch = torch.stack([x, x / 2])
        same(torch.vmap(lambda one: op(**{**CALLS[op], name: one}))(batch),
             torch.stack([op(**{**CALLS[op], name: one}) for one in batch]))


def test_thousands_of_halves(threads):
    """Short and empty halves, from window scores to AP."""
    gen = torch.Generator().manual_seed(0)
    n_halves, tokens, n_classes = 3000, 4, 2
    length = torch.randint(0, tokens + 2, (n_halves,), generator=gen)
    half = torch.arange(n_halves)
    windows = (random_scores(n_halves * tokens, n_classes, torch.float32, 0).reshape(-1, tokens, 2),
               torch.randint(0, 3, (n_halves,), generator=gen), half, length)
    merged = ops.merge_windows(*windows, 1)
    same(merged, ops.merge_windows_ref(*windows, 1))
    kept = ops.soft_nms(merged, length, 3)
    same(kept, ops.soft_nms_ref(merged, length, 3))
    same(ops.hard_nms(merged, length, 3), ops.hard_nms_ref(merged, length, 3))
    found = ops.detections(kept, length)
    for got, expected in zip(found, ops.detections_ref(kept, length), strict=True):
        same(got, expected)
    *place, score = found
    labels = half, half % n_classes, length // 2, half % 3 > 0
    events = *place, score.double(), *labels, n_halves, n_classes, torch.tensor([0, 2, 6])
    same(ops.average_map(*events), ops.average_map_ref(*events))


# ----- build ------------------------------------------------------------------------------------
def newer_source(folder):
    (folder / "csrc" / "soft_nms.cpp").write_text("// newer")


def no_extension(folder):
    next(folder.glob("comedian/_C*")).unlink()


def broken_extension(folder):
    next(folder.glob("comedian/_C*")).write_text("not a library")


@pytest.mark.parametrize("spoil, message", [(newer_source, "other sources than csrc/"),
                                            (no_extension, "not built for this Python"),
                                            (broken_extension, "do not fit torch")])
def test_a_bad_build_says_what_to_do(tmp_path, spoil, message):
    """As a user meets it: ops.py, csrc/ and the extension in a folder of their own."""
    (tmp_path / "comedian").mkdir()
    for name in ("__init__.py", "ops.py"):
        shutil.copy(ROOT / "comedian" / name, tmp_path / "comedian")
    shutil.copy(sys.modules["comedian._C"].__file__, tmp_path / "comedian")
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    spoil(tmp_path)
    # An editable install of the project must not stand in for what is missing here.
    script = ("import sys; "
              "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in str(f)]; "
              f"sys.path.insert(0, {str(tmp_path)!r}); from comedian import ops")
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True,
                         text=True, env={**os.environ, "PYTHONPATH": ""})
    assert run.returncode != 0
    last_line = run.stderr.strip().splitlines()[-1]
    assert message in last_line and "python setup.py build_ext --inplace" in last_line
