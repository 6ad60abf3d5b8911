"""
What these tests prove about infer.py:
  1. encoding each clip once per half gives the scores of encoding every window, in any batches
  2. every second of a half is scored: the last ones, and halves shorter than a window, too
  3. what is written is what the official evaluator reads, at the right times, and can be read again
  4. what is printed when a half is done is what the file says in the end
  5. a video gives the scores of its frames; a broken one costs no other
  6. several networks are averaged per second, whatever their windows
  7. a submission holds the games of its split, and the official evaluator agrees with the table
  8. --features writes what the network makes of every second, in the middle of its window
  9. a mistake is one line, before the work begins (and exit code 2: test_runs.py)
"""
import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import zipfile
from dataclasses import asdict

import cv2
import numpy as np
import pytest
import torch
from conftest import CLASSES, N_FRAMES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import infer
import stage2_distill
from comedian import (
    DataError, augment, bank, draw, evaluate, lock, ops, page, prepare, reference, results,
    soccernet, video)
from comedian import frames as on_disk
from comedian.frames import FrameReader, Half, find_halves
from comedian.labels import clock_flag
from comedian.soccernet import LABELS, PREDICTIONS, SCORES
from comedian.checkpoint import save_checkpoint
from model import Comedian, load_checkpoint, with_changes

CPU, PLAIN = torch.device("cpu"), contextlib.nullcontext()
WINDOW = 8


def save_network(path, stage=3, window=WINDOW, **changes):
    """Saves a network as its stage leaves it, and returns it. Weights larger than at a usual start,
    so that scores vary; drop path, as the paper's have it: infer.py must turn it off."""
    torch.manual_seed(stage + window)
    model = Comedian(with_changes("vivit_micro", window_tokens=window, drop_path=0.5, **changes))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.15)
    parts = ("spatial.", "temporal.", "head.")[:stage]
    save_checkpoint(path, stage=stage, config=asdict(model.cfg), model={
        name: value for name, value in model.state_dict().items() if name.startswith(parts)})
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tmp_path_factory.mktemp("run") / "last.pt"


@pytest.fixture(scope="module", autouse=True)
def net(checkpoint):
    """The network in `checkpoint`."""
    return save_network(checkpoint, classes=CLASSES)


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes longer than all else in a test; test_report.py looks at pictures."""
    monkeypatch.setattr(draw, "timeline", lambda *_: None)
    monkeypatch.setattr(page, "from_results", lambda *_: None)


@pytest.fixture
def no_work(monkeypatch):
    monkeypatch.setattr(infer, "encode_clips", lambda *_: pytest.fail("work began"))


def infer_main(source, checkpoint, out, *options):
    """The command. source: a folder of frames, or a list of videos."""
    source = ["--video", *source] if isinstance(source, list) else ["--data", source]
    infer.main(infer.parse_args([*map(str, (*source, "--checkpoint", checkpoint, "--out", out,
                                            *options)), "--device", "cpu", "--workers", "1"]))


def encode(net, halves, batch=64, **more):
    """[(half, its spatial tokens (n_tokens, D))]."""
    clips = infer.frame_clips(halves, FrameReader(1), batch)
    return [(half, h) for half, (h,) in infer.encode_halves([net], clips, CPU, PLAIN, **more)]


def scores_of(net, h, stride, **more):
    """window_scores of a network whose windows lie `stride` apart: (N, L, K), (N,)."""
    return infer.window_scores(infer.Network(net, stride, 0), h, PLAIN, **more)


def frames_of(half, model):
    """All whole clips of a half, as the network wants them: (1, T, 3, S, S)."""
    clips = FrameReader(1).read([(half, 0)], 2 * half.n_tokens)
    x = augment.resize(augment.to_float(clips, CPU), model.cfg.image_size)
    return augment.normalize(x, model.cfg.normalize_per_frame)


def flags(**changes):
    """What as_network and spot read of the command line."""
    return argparse.Namespace(**dict(stride=0, ignore=None, nms="soft", nms_window=10,
                                     threshold=0.001) | changes)


ROW = r" *(\d+):(\d\d)  (\w+) +(0\.\d\d|1\.00)"


def printed_rows(text):
    """[(match, half)] and for each the rows [(second, class, confidence as printed)]."""
    halves = re.findall(r"^(\S+), half (\d)$", text, re.MULTILINE)
    parts = re.split(r"^\S+, half \d$", text, flags=re.MULTILINE)[1:]
    return {half: [(60 * int(m) + int(s), name, c) for m, s, name, c in re.findall(ROW, part)]
            for half, part in zip(halves, parts, strict=True)}


# ------------------------------------------------------------------ 1. once is enough
@pytest.mark.parametrize("stride, batch", [(1, 64), (3, 1), (8, 7)])
@torch.no_grad()
def test_one_pass_equals_encoding_every_window(stride, batch, net, matches):
    """For every window of two halves: its frames through the whole network."""
    for half, h in encode(net, find_halves(matches)[1::2], batch):
        assert h.shape == (half.n_tokens, 128)
        scores, starts = scores_of(net, h, stride, batch=batch)
        assert starts.tolist() == infer.window_starts(half.n_tokens, WINDOW, stride)
        frames = frames_of(half, net)
        for start, got in zip(starts.tolist(), scores, strict=True):
            window = frames[:, 2 * start:2 * (start + WINDOW)]
            expected = net.spot(net.tokens(window)).sigmoid()[0]
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)      # other batch sizes
        assert scores.std(1).mean() > 0.01                # the comparison is not one of constants


@torch.no_grad()
def test_mirrored_tokens(net, matches):
    """What stage 3 caches with flip: the tokens of mirrored frames."""
    half = find_halves(matches)[0]
    (_, plain), = encode(net, [half])
    (_, mirrored), = encode(net, [half], flip=True)
    expected = net.encode(frames_of(half, net)[0].unflatten(0, (-1, 2)).flip(4))
    torch.testing.assert_close(mirrored, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(mirrored, plain, atol=1e-2)


# ------------------------------------------------------------------ 2. every second
@settings(max_examples=300, deadline=None)
@given(n=st.integers(0, 400), window=st.integers(1, 128), share=st.floats(0, 1))
def test_windows_cover_every_token(n, window, share):
    stride = max(1, round(share * window))
    starts = infer.window_starts(n, window, stride)
    covered = {t for s in starts for t in range(s, min(s + window, n))}
    assert covered == set(range(n))
    assert starts == sorted(set(starts)) and starts[0] == 0
    if n > window:
        assert starts[-1] + window == n                   # no window is cut
        assert all(b - a == stride for a, b in zip(starts[:-2], starts[1:-1], strict=True))
        assert starts[-1] - starts[-2] <= stride
    else:
        assert starts == [0]


def planted(n_tokens, events, stride):
    """Window scores as if the network saw nothing but `events`, pairs (token, class)."""
    truth = torch.full((max(n_tokens, WINDOW), 3), 1e-4)
    for token, label in events:
        truth[token, label] = 0.9
    starts = infer.window_starts(n_tokens, WINDOW, stride)
    return torch.stack([truth[s:s + WINDOW] for s in starts]), torch.tensor(starts)


def half_of(n_tokens, number=1, fps=2.0):
    return Half("m", number, "", "", 8, ".jpg", 1, 2 * n_tokens, fps)


@pytest.mark.parametrize("nms", ops.NMS)
def test_first_and_last_seconds_are_spotted(nms):
    """The very last token counts, whichever are ignored; officially the last 12 s never do."""
    network = infer.Network(None, 4, ignore=2)
    halves = {30: [(0, 0), (15, 1), (29, 2)], 21: [(20, 0)], 8: [(0, 2), (7, 1)]}
    merged = [infer.merge_half([network], [planted(n, where, 4)], n, "max")
              for n, where in halves.items()]
    of = [half_of(n, number) for number, n in enumerate(halves, 1)]
    found = infer.spot(of, merged, flags(nms=nms, nms_window=3))
    events = [(number, label, 1000 * token + 250)
              for number, where in enumerate(halves.values(), 1) for token, label in where]
    assert sorted(zip(*(c.tolist() for c in found[:3]), strict=True)) == sorted(events)
    np.testing.assert_allclose(found.confidence, 0.9, rtol=1e-6)


def test_the_nms_window_is_in_seconds():
    """3 s are 3 tokens at 2 fps, 7.5 at 5 fps: of peaks 3 tokens apart both stay, or one goes."""
    merged = torch.full((20, 3), 1e-4)
    merged[5, 0], merged[8, 0] = 0.9, 0.8
    for fps, expected_ms in ((2.0, [5250, 8250]), (5.0, [2100])):
        found = infer.spot([half_of(20, fps=fps)], [merged], flags(nms="local", nms_window=3))
        assert found.position_ms.tolist() == expected_ms
    both = infer.spot([half_of(20), half_of(20, 2, fps=5.0)], 2 * [merged],
                      flags(nms="local", nms_window=3, threshold=0.5))
    assert both.position_ms.tolist() == [5250, 8250, 2100]            # each by its own rate


@pytest.mark.parametrize("n_tokens", [1, 5, 7])
@torch.no_grad()
def test_a_half_shorter_than_the_window(n_tokens, net):
    """It is one short window: no padding is seen by the network or spotted in."""
    h = torch.randn(n_tokens, 128)
    scores, starts = scores_of(net, h, 4)
    assert scores.shape == (1, WINDOW, 3) and starts.tolist() == [0]
    of_the_start = h[None] + net.temporal.pos_embed[:, :n_tokens]     # positions 0, 1, ...
    expected = net.spot(net.temporal.norm(net.temporal.blocks(of_the_start))).sigmoid()[0]
    torch.testing.assert_close(scores[0, :n_tokens], expected)
    assert (scores[0, n_tokens:] == 0).all()
    merged = infer.merge_half([infer.Network(net, 4, 2)], [(scores, starts)], n_tokens, "max")
    found = infer.spot([half_of(n_tokens)], [merged], flags(nms="local", nms_window=0))
    assert sorted(set(found.position_ms)) == [1000 * k + 250 for k in range(n_tokens)]
    assert sorted(found.confidence) == pytest.approx(sorted(expected.flatten().tolist()))


def test_what_is_ignored_by_default(net):
    """Half a window from one to the next: officially 84 in 2,700 s. 12 of 64 tokens (App. B)."""
    starts = infer.window_starts(2700, 64, 32)
    assert len(starts) == 84 and starts[-1] == 2636
    for window, ignore in ((64, 12), (32, 6), (8, 1), (1, 0)):
        model = Comedian(with_changes("vivit_micro", window_tokens=window))
        assert infer.as_network(model, flags())[1:] == (max(1, window // 2), ignore)
    assert infer.as_network(net, flags(stride=3, ignore=2))[1:] == (3, 2)


# ------------------------------------------------------------------ 3. what is written
def test_results_and_table(matches, checkpoint, tmp_path, capsys):
    """SoccerNet's format, sorted by half and time; as there are labels, the table is printed."""
    infer_main(matches, checkpoint, tmp_path)
    for match in ("league/one", "league/two"):
        result = json.loads((tmp_path / match / PREDICTIONS).read_text())
        assert set(result) == {"UrlLocal", "predictions", "about"} and result["UrlLocal"] == match
        order = [(int(p["half"]), int(p["position"])) for p in result["predictions"]]
        assert len(order) > 5 and order == sorted(order) and {half for half, _ in order} == {1, 2}
        for p in result["predictions"]:
            assert set(p) == {"gameTime", "label", "position", "half", "confidence"}
            assert isinstance(p["position"], str) and int(p["position"]) % 1000 == 250
            assert p["gameTime"] == f"{p['half']} - 00:{int(p['position']) // 1000:02d}"
            assert p["label"] in CLASSES and 0.001 <= p["confidence"] <= 1
    printed = capsys.readouterr().out
    assert "t-AmAP" in printed and "Corner" in printed and "will be replaced" not in printed
    # 30 + 20 + 26 + 23 tokens of a second; no terminal is there that a bar could count on.
    assert "infer: 1.6 min of video in" in printed
    old = [tmp_path / "league/one" / name for name in (
        "page.html", "timeline_2.png", "actions.csv", "actions.json", "actions_1.xml")]
    for path in (*old, mine := tmp_path / "league/one/actions_of_mine.csv"):
        path.touch()
    infer_main(matches, checkpoint, tmp_path)
    printed = capsys.readouterr().out
    assert f"{tmp_path}: results of 2 of these matches exist and will be replaced" in printed
    assert printed.count("removed, it belongs to older results") == len(old) and mine.exists()
    assert not any(path.exists() for path in old)


def test_labels_that_reach_no_frame(matches, checkpoint, tmp_path, capsys, request):
    """Those of --labels are refused before the work, as are labels of no match here; others, beside
    the frames, are told of; where there are none, there is no table."""
    data, table = tmp_path / "data", tmp_path / "data/labels.csv"
    shutil.copytree(matches / "league/two", data / "m", ignore=shutil.ignore_patterns(LABELS))
    infer_main(data, checkpoint, tmp_path / "out")
    assert "t-AmAP" not in capsys.readouterr().out
    table.write_text("video,time,label\nm/1.mkv,12:34:00,Goal\nM.mkv,3,Goal\n")
    infer_main(data, checkpoint, tmp_path / "out")
    out = capsys.readouterr().out
    assert "1 of the videos that it names are not here: 'M' (did you mean 'm'?)" in out
    assert "1 of 1 labels reach no frame: 1 after the end (first: Goal at 12:34:00" in out
    assert re.search(r"\nall +1 +0.00", out)
    request.getfixturevalue("no_work")
    with pytest.raises(DataError, match="labels.csv: none of its 1 labels reaches a frame: 1 aft"):
        infer_main(data, checkpoint, tmp_path / "out", "--labels", table)
    (tmp_path / "x.csv").write_text("video,time,label\nM.mkv,3,Goal\n")
    for labels, message in (
            (matches, "has no labels of the 1 .* .for example 'm'., but of 'league/one'"),
            (tmp_path / "x.csv", "but of 'M' .did you mean 'm'..; correct these names"),
            (tmp_path / "none", "no such folder or table of labels; give one that exists; "),
            (checkpoint, "is neither a folder with a .* nor a table .*; unpack it, or save it"),
            (data / "m", "none of the 1 matches has a Labels-v2.json; give --labels")):
        with pytest.raises(DataError, match=f"{labels}: .*{message}"):
            infer_main(data, checkpoint, tmp_path / "out", "--labels", labels)


def test_a_perfect_network_gets_full_marks(matches, checkpoint, tmp_path, monkeypatch):
    """Planted where labels are, first and last second too: right to half a second, half, class."""
    events = {("one", 1): [(0, 0), (14, 1), (29, 2)], ("one", 2): [(19, 0), (3, 1)],
              ("two", 1): [(25, 2)], ("two", 2): [(22, 1), (7, 0)]}
    rows = [f"league/{match}/{half}.mkv,{token + 0.25},{CLASSES[label]}"
            for (match, half), where in events.items() for token, label in where]
    (tmp_path / "labels.csv").write_text("\n".join(["video,time,label", *rows]))
    of_length = {n_frames // 2: events[half] for half, n_frames in N_FRAMES.items()}
    monkeypatch.setattr(infer, "window_scores", lambda network, h, autocast: planted(
        len(h), of_length[len(h)], network.stride))
    infer_main(matches, checkpoint, tmp_path / "out", "--labels", tmp_path / "labels.csv",
               "--json", tmp_path / "table.json")
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["at1"]["a_mAP"] == table["tight"]["a_mAP"] == pytest.approx(1.0)


def test_positions_at_another_frame_rate(matches, checkpoint, tmp_path, monkeypatch, capsys):
    """At 25/12 fps (E2E-Spot) token k lies at 960 k + 240 ms: on screen, in file and picture."""
    shutil.copytree(matches / "league/two/1_224p", tmp_path / "data/m/1_224p")
    (tmp_path / "data/m/1_224p/fps.txt").write_text("2.0833333333")
    drawn = []
    monkeypatch.setattr(draw, "timeline", lambda *drawing: drawn.append(drawing))
    infer_main(tmp_path / "data", checkpoint, tmp_path / "out",
               "--nms", "local", "--nms-window", "0", "--show", "0")
    found = soccernet.read_predictions(tmp_path / "out/m" / PREDICTIONS, CLASSES)
    times_ms = [960 * k + 240 for k in range(26)]
    assert sorted(set(found.position_ms)) == times_ms and set(found.half) == {1}
    rows, = printed_rows(capsys.readouterr().out).values()
    assert [second for second, *_ in rows[::3]] == [ms // 1000 for ms in times_ms]   # 3 classes
    (_, _, number, scores, token_s, start_s, _, spotted, *_), = drawn
    assert (number, len(scores), token_s, start_s) == (1, 26, pytest.approx(0.96), 0)
    assert sorted(set(spotted.position_ms)) == times_ms


@pytest.mark.parametrize("nms, options, window_s, threshold", [
    ("soft", "", 10, 0.001),                               # as it is by default
    *((nms, f"--nms {nms} --nms-window 3 --threshold 0.4", 3, 0.4) for nms in ops.NMS)])
def test_stored_scores_give_the_same_spots(nms, options, window_s, threshold, matches, checkpoint,
                                           tmp_path):
    """By the reference of each NMS they give the spots, and the metric is that of the files."""
    infer_main(matches, checkpoint, tmp_path, "--json", tmp_path / "table.json", *options.split())
    stored = soccernet.read_scores(tmp_path)
    length = stored.windows[-1]
    assert stored.matches == ["league/one", "league/two"] and stored.classes == CLASSES
    assert length.tolist() == [30, 20, 26, 23] and stored.token_s == 1.0
    merged = reference.merge_windows(*stored.windows, edge=1)
    kept = reference.NMS[nms](merged, length, window_s, threshold)
    which, label, token, confidence = reference.detections(kept, length)
    assert len(which) > 20 and (kept != merged).any()
    again = zip(which.tolist(), label.tolist(), (1000 * token + 250).tolist(),
                confidence.double().tolist(), strict=True)
    written = [(2 * g + half - 1, *row) for g, match in enumerate(stored.matches)
               for half, *row in zip(*soccernet.read_predictions(
                   tmp_path / match / PREDICTIONS, CLASSES), strict=True)]
    assert sorted(again) == sorted(written)
    truth = evaluate.label_columns({match: soccernet.read_labels(matches / match / LABELS, CLASSES)
                                    for match in stored.matches})
    table = json.loads((tmp_path / "table.json").read_text())["tight"]
    assert evaluate.tight(kept, stored, truth)[0] == table["a_mAP"] > 0


# ------------------------------------------------------------------ 4. half by half
@pytest.mark.parametrize("options", [
    [], ["--nms", "local", "--merge", "mean"], ["--nms", "greedy", "--nms-window", "3"],
    ["--stride", "1", "--ignore", "3", "--nms-window", "4"]])
def test_what_is_printed_is_what_the_file_says(options, matches, checkpoint, tmp_path, capsys,
                                               no_pictures):
    """Halves are suppressed one by one for the screen, a match at once for the file."""
    infer_main(matches, checkpoint, tmp_path, "--batch", 3, "--show", 0.6, *options)
    rows = printed_rows(capsys.readouterr().out)
    assert list(rows) == [(f"league/{m}", h) for m in ("one", "two") for h in "12"]
    assert sum(map(len, rows.values())) > 15
    for (match, half), printed in rows.items():
        written = json.loads((tmp_path / match / PREDICTIONS).read_text())["predictions"]
        kept = [(int(p["position"]) // 1000, p["label"], f"{p['confidence']:.2f}") for p in written
                if p["half"] == half and p["confidence"] >= 0.6]
        assert sorted(kept, key=lambda row: (row[0], CLASSES.index(row[1]))) == printed


def test_rows_come_when_their_half_is_done(matches, checkpoint, tmp_path, monkeypatch, no_pictures):
    """Those of half 1 are there while half 2 is still being read."""
    read, told = [], []
    monkeypatch.setattr(results.tqdm, "write", lambda text, **_: told.append((text, len(read))))
    clips = infer.frame_clips
    monkeypatch.setattr(infer, "frame_clips", lambda *a: (
        read.append(pair[0]) or pair for pair in clips(*a)))
    infer_main(matches, checkpoint, tmp_path, "--batch", 2, "--show", 0.6)
    titles = np.array([n for text, n in told if ", half " in text])
    ahead = titles - np.cumsum([(n // 2 + 1) // 2 for n in N_FRAMES.values()])     # 2 clips each
    assert ((0 <= ahead) & (ahead <= 5)).all()


# ------------------------------------------------------------------ 5. videos
FPS, SIZE = 4, (480, 270)


def write_video(path, seconds, seed=0):
    """Coarse patterns, another in every picture, without loss."""
    rng = np.random.default_rng(seed)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), FPS, SIZE)
    assert writer.isOpened()
    for _ in range(int(FPS * seconds)):
        writer.write(cv2.resize(rng.integers(0, 256, (4, 6, 3), np.uint8), SIZE))
    writer.release()


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A folder with one match of two halves, 26 and 17.5 s; and its frames at 2 fps, 398x224."""
    root = tmp_path_factory.mktemp("film")
    (root / "videos/league/game").mkdir(parents=True)
    for half, seconds in ((1, 26), (2, 17.5)):
        frames, path = (root / f"frames/league/game/{half}_224p",
                        root / f"videos/league/game/{half}_720p.mkv")
        frames.mkdir(parents=True)
        write_video(path, seconds, half)
        for n, frame in enumerate(video.sample(path, size=(398, 224))):
            cv2.imwrite(str(frames / f"{n + 1:08d}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return root


def test_a_video_gives_the_scores_of_its_frames(film, checkpoint, tmp_path, capsys):
    """A larger one is shrunk to 398x224 first, as its frames on disk are: both go one way."""
    infer_main([film / "videos"], checkpoint, tmp_path / "v", "--batch", 5)
    printed = capsys.readouterr().out
    assert "data: league/game: half 1 " in printed and ", half 2 " in printed
    infer_main(film / "frames", checkpoint, tmp_path / "f", "--batch", 5)
    of_video, of_frames = (tmp_path / out / "league/game" for out in "vf")
    ours, frames = (np.load(out / SCORES) for out in (of_video, of_frames))
    assert set(ours) == set(frames) and ours["tokens_1"] == 26 and ours["tokens_2"] == 17
    assert all(np.array_equal(ours[name], frames[name]) for name in ours)
    results = [json.loads((out / PREDICTIONS).read_text()) for out in (of_video, of_frames)]
    assert results[0]["predictions"] == results[1]["predictions"]
    about = results[0]["about"]
    assert about["classes"] == list(CLASSES) and about["fps"] == 2.0
    assert about["settings"]["nms"] == "soft" and about["checkpoint"] == [str(checkpoint)]
    for result, place in zip(results, ("videos/league/game/2_720p.mkv",
                                       "frames/league/game/2_224p"), strict=True):
        assert (of_video / result["about"]["videos"]["2"]).samefile(film / place)
    html = (of_video / "page.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', html)[1])
    assert [half["end"] for half in data["halves"]] == [26, 17] and data["truth"] is None
    assert len(data["events"]) > 20 and all(picture for *_, picture in data["events"])
    merged = page.read_half(of_video, 1)[0]              # the curve that NMS saw
    assert np.array_equal(merged, ours["curve_1"])
    assert (of_video / "timeline_2.png").exists() and not (of_frames / "timeline_1.png").exists()


def test_files_are_the_halves_of_a_match(film, checkpoint, tmp_path, no_pictures):
    """And a part of them keeps its times: --start 4 gives the tokens from there on."""
    files = [film / f"videos/league/game/{half}_720p.mkv" for half in (1, 2)]
    for out, stretch in (("whole", []), ("part", ["--start", "0:04", "--end", "15"])):
        infer_main(files, checkpoint, tmp_path / out, "--ignore", 0, "--stride", 1, *stretch)
    whole, part = (np.load(tmp_path / out / "game" / SCORES) for out in ("whole", "part"))
    assert part["start_s"] == 4 and part["tokens_1"] == part["tokens_2"] == 11
    for half in (1, 2):                                    # windows of 8: those at 4, 5, 6, 7
        np.testing.assert_allclose(part[f"windows_{half}"], whole[f"windows_{half}"][4:8],
                                   rtol=0, atol=1e-5)
    times_ms = soccernet.read_predictions(tmp_path / "part/game" / PREDICTIONS, CLASSES).position_ms
    assert times_ms.min() >= 4250 and times_ms.max() == 14250


def test_what_videos_are_called(film, tmp_path, monkeypatch):
    """After the folder, or a file of another name. And their size: no small one is enlarged."""
    source, root = film / "videos/league/game/2_720p.mkv", tmp_path / "root"
    for place in ("a/1_224p.mkv", "a/2_224p.mkv", "b/only 1.mkv", "b/two.mkv", "c/d/2.mkv"):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, root / place)
    halves = video.halves([str(root)])
    for paths, names in (([root], {("a", 1), ("a", 2), ("b/only 1", 1), ("b/two", 1), ("c/d", 2)}),
                         ([root / "b/two.mkv"], {("two", 1)}),
                         ([root / "b/two.mkv", root / "b/only 1.mkv"], {("b", 1), ("b", 2)})):
        assert {(half.match, half.number) for half in video.halves(paths)} == names
    assert {half.size for half in halves} == {(398, 224)} and halves[0].n_tokens == 17
    with pytest.raises(DataError, match="another match has the same name, 'a'; run"):
        video.halves([root, root / "a"])
    with pytest.raises(DataError, match="two.mkv: ends at 00:17, before --start 00:18"):
        video.halves([root / "b/two.mkv"], start_s=18)
    monkeypatch.setattr(video, "probe", lambda path: video.Video(path, 0.0, 25.0, 64, 48))
    small, = video.halves([root / "b/two.mkv"], start_s=3)
    assert small.size is None and small.n_tokens == 0      # a header without a duration


def test_a_video_that_breaks_off_costs_no_other(film, checkpoint, tmp_path, no_pictures,
                                                monkeypatch):
    """What came before is spotted, the other half too; the mistake is told, with exit code 2."""
    sample = video.sample

    def breaks_off(path, *more):
        for n, frame in enumerate(sample(path, *more)):
            if "1_720p" in path and n == 41:
                raise DataError(f"{path}: breaks off at 20.5 of 26.0 s")
            yield frame

    monkeypatch.setattr(video, "sample", breaks_off)
    with pytest.raises(DataError, match="1_720p.mkv: breaks off at 20.5"):
        infer_main([film / "videos"], checkpoint, tmp_path, "--batch", 8)
    stored = np.load(tmp_path / "league/game" / SCORES)
    assert stored["tokens_1"] == 20 and stored["tokens_2"] == 17
    found = soccernet.read_predictions(tmp_path / "league/game" / PREDICTIONS, CLASSES)
    assert set(found.half) == {1, 2}


def test_a_video_of_no_second(checkpoint, tmp_path, capsys):
    """Less than a clip is left out with a line; if nothing else is there, that is a mistake."""
    write_video(tmp_path / "2_224p.mkv", 0.6)
    with pytest.raises(DataError, match="nothing to spot"):
        infer_main([tmp_path / "2_224p.mkv"], checkpoint, tmp_path / "out")
    assert "2_224p.mkv: shorter than one clip: left out" in capsys.readouterr().out


# ------------------------------------------------------------------ 6. several networks
@pytest.mark.parametrize("merge", ["max", "mean"])
def test_an_ensemble_is_the_average_per_second(merge, matches, checkpoint, tmp_path):
    """By hand: stored windows, one network's of 6 s, merged, averaged and suppressed."""
    save_network(tmp_path / "b.pt", window=6, classes=CLASSES)
    options = ["--merge", merge, "--nms-window", 4]
    infer_main(matches, checkpoint, tmp_path / "a", *options)
    infer_main(matches, tmp_path / "b.pt", tmp_path / "b", *options)
    infer_main(matches, checkpoint, tmp_path / "ab", "--checkpoint", checkpoint, tmp_path / "b.pt",
               *options)
    for match in ("league/one", "league/two"):
        a, b, ab = (np.load(tmp_path / name / match / SCORES) for name in ("a", "b", "ab"))
        rows = []
        for h in (1, 2):
            n, alone = torch.tensor([int(a[f"tokens_{h}"])]), []
            for one, window in ((a, 8), (b, 6)):
                windows, starts = (torch.from_numpy(one[f"{name}_{h}"])
                                   for name in ("windows", "starts"))
                assert windows.shape[1] == window
                alone.append(reference.merge_windows(windows, starts, torch.zeros_like(starts), n,
                                                     ops.default_ignore(window), merge))
            mean = torch.stack(alone).mean(0)                                    # (n, K)
            assert np.array_equal(ab[f"merged_{h}"], mean[None].numpy())
            kept = reference.soft_nms(mean, n, 4)
            rows += [(h, k, 1000 * t + 250, kept[t, k].item())
                     for t, k in (kept >= 0).nonzero().tolist()]
        written = soccernet.read_predictions(tmp_path / "ab" / match / PREDICTIONS, CLASSES)
        assert sorted(zip(*written, strict=True)) == sorted(rows)
    stored = soccernet.read_scores(tmp_path / "ab")
    assert stored.merged and stored.windows[-1].tolist() == [30, 20, 26, 23]


# ------------------------------------------------------------------ 7. submissions
GAMES = ["league/2031/game one", "league/2031/game two"]


@pytest.fixture
def split(matches, tmp_path, monkeypatch):
    """Its root and the options: two games in SoccerNet's depth, one with _ for a space, and a third
    match that is not on the list "test"."""
    root = tmp_path / "root"
    for match, place in (("one", "test/league/2031/game one"), ("two", "test/league/2031/game_two"),
                         ("two", "valid/league/2031/other")):
        shutil.copytree(matches / "league" / match, root / place)
    (tmp_path / "test.txt").write_text("\n".join(GAMES))
    monkeypatch.setattr(on_disk, "SPLITS", tmp_path)
    return root, ["--split", "test", "--zip", tmp_path / "spots.zip"]


def test_a_submission_and_the_official_evaluator(split, checkpoint, tmp_path):
    official = pytest.importorskip(
        "SoccerNet.Evaluation.ActionSpotting",
        reason="the official evaluator is absent: pip install --no-deps SoccerNet==0.2.0")
    root, options = split
    infer_main(root, checkpoint, tmp_path / "out", *options, "--json", tmp_path / "table.json")
    assert zipfile.ZipFile(tmp_path / "spots.zip").namelist() == [
        f"{game}/results_spotting.json" for game in GAMES]
    ours = json.loads((tmp_path / "table.json").read_text())
    for game, place in zip(GAMES, ("game one", "game_two"), strict=True):
        (tmp_path / "labels" / game).mkdir(parents=True)
        shutil.copy(root / "test/league/2031" / place / LABELS, tmp_path / "labels" / game)
    assert len(ours.pop("receipt")["sha256"]) == 2
    for metric, result in ours.items():
        theirs = official.evaluate(
            str(tmp_path / "labels"), str(tmp_path / "spots.zip"), metric=metric, dataset=None,
            EVENT_DICTIONARY={name: k for k, name in enumerate(CLASSES)})
        assert result == {key: np.asarray(value).tolist() for key, value in theirs.items()}
    assert ours["loose"]["a_mAP"] > 0.01


def test_challenge_games_have_no_labels(split, checkpoint, tmp_path, capsys):
    root, options = split
    for labels in root.rglob(LABELS):
        labels.unlink()
    infer_main(root, checkpoint, tmp_path / "out", *options)
    out = capsys.readouterr().out
    assert "t-AmAP" not in out and f"{tmp_path / 'spots.zip'}: 2 games" in out


def test_a_submission_must_be_complete(split, checkpoint, tmp_path, no_work):
    """All of it is refused before anything is encoded."""
    (root, options), old = split, tmp_path / "out/old"

    def refuses(message):
        with pytest.raises(DataError, match=message):
            infer_main(root, checkpoint, tmp_path / "out", *options)

    old.mkdir(parents=True)
    (old / PREDICTIONS).write_text("{}")
    refuses("out: not zipped, because 1 games are not of this split: old; .* --out of its own")
    shutil.rmtree(old)
    shutil.rmtree(root / "test/league/2031/game one/2_224p")
    refuses("halves 1 and 2: not zipped, because 1 games are missing: test/league/2031/game one")
    shutil.rmtree(root / "test/league/2031/game one")
    refuses("1 of the 2 games of test are not below it: league/2031/game one")
    assert not (tmp_path / "spots.zip").exists()


# ------------------------------------------------------------------ 8. features of a teacher
def write_features(matches, checkpoint, out, *options):
    infer_main(matches, checkpoint, out, "--features", "own", *options)


@torch.no_grad()
def test_features_of_a_stage_1_network(matches, tmp_path, capsys):
    """Row k is the token of second k, of all whole clips; stage 2 reads it for that token."""
    model, out = save_network(tmp_path / "1.pt", 1, image_size=24), tmp_path / "out"
    write_features(matches, tmp_path / "1.pt", out, "--batch", 7)
    assert "tokens of the spatial encoder" in capsys.readouterr().out
    halves = find_halves(matches)
    for half in halves:
        rows = np.load(out / half.match / f"{half.number}_own.npy")
        tokens = model.encode(frames_of(half, model)[0].unflatten(0, (-1, 2)))    # (n_tokens, D)
        assert rows.dtype == np.float32 and rows.shape == (half.n_frames // 2, 128)
        np.testing.assert_allclose(rows, tokens.numpy(), atol=2e-5)
    teacher = bank.Bank([bank.open_features(out, half, "own") for half in halves],
                        halves, CPU, torch.float32)
    p, _ = teacher.of_windows([(3, 10)], 8, "middle")             # tokens 5 .. 12 of the last half
    torch.testing.assert_close(p[0], F.normalize(tokens[5:13], dim=1), rtol=0, atol=2e-5)
    assert not list(matches.rglob("*own*"))


@pytest.mark.parametrize("stage, window", [(2, 7), (3, 8), (3, 64)])   # 64: longer than any half
@torch.no_grad()
def test_features_with_context_are_those_in_the_middle_of_a_window(stage, window, matches,
                                                                     tmp_path):
    model = save_network(tmp_path / "3.pt", stage, window, image_size=24)
    write_features(matches / "league/two", tmp_path / "3.pt", tmp_path / "out")
    for half in find_halves(matches / "league/two"):
        rows = np.load(tmp_path / "out" / half.match / f"{half.number}_own.npy")
        frames, n = frames_of(half, model), half.n_tokens
        length, best = min(window, n), {}
        for start in {*range(0, n - length + 1, window // 2), n - length}:
            tokens = model.tokens(frames[:, 2 * start:2 * (start + length)])[0]   # (L, D)
            for i in range(length):
                off = abs(i - (length - 1) / 2)
                if (off, start) < best.get(start + i, (np.inf,))[:2]:     # ties: the earlier
                    best[start + i] = (off, start, tokens[i])
        assert len(rows) == n == len(best)
        for k in range(n):
            np.testing.assert_allclose(rows[k], best[k][2].numpy(), atol=5e-4)


@pytest.mark.parametrize("fps, n_frames, expected", [
    (2.0, 9, [0, 1, 2, 3]),                                # the odd frame is no clip
    (1.0, 8, [0, 0, 1, 1, 2, 2, 3, 3]),                    # a token is 2 s long
    (5.0, 20, [1, 3, 6, 8]),                               # 0.4 s: around 0.5, 1.5, 2.5, 3.5 s
    (5.0, 25, [1, 3, 6, 8]),                               # 4.8 s: the last 0.8 are no second
    (25 / 12 + 1e-8, 50, [*range(12), *range(13, 25)]),    # a rounded rate: 24 s, not 23.999...
    (25.0, 10, [4])])                                      # shorter than a second: its last clip
def test_a_row_is_the_token_of_its_second(fps, n_frames, expected):
    half = Half("m", 1, "f", "", 8, ".jpg", 1, n_frames, fps)
    rows = bank.per_second(np.arange(half.n_tokens)[:, None], half)
    assert rows[:, 0].tolist() == expected
    seconds = np.arange(len(rows)) + 0.5                   # by time: the clip holds the middle
    inside = seconds < half.n_tokens * half.token_s
    off = np.abs((rows[:, 0] + 0.5) * half.token_s - seconds)
    assert (off[inside] <= half.token_s / 2 + 1e-9).all()


def test_features_resume(matches, tmp_path, monkeypatch, capsys):
    """What is whole stays; what was being written is made again."""
    save_network(tmp_path / "1.pt", 1, image_size=24)
    save, saved = np.save, []

    def killed(file, array):
        if len(saved) == 2:
            file.write(b"half a file")
            signal.raise_signal(signal.SIGTERM)
        saved.append(array)
        save(file, array)

    monkeypatch.setattr(np, "save", killed)
    with pytest.raises(SystemExit, match="143"):
        write_features(matches, tmp_path / "1.pt", tmp_path / "out")
    assert "stopped; the same command continues from here" in capsys.readouterr().err
    monkeypatch.setattr(np, "save", save)
    then = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npy")}
    assert len(then) == 2
    write_features(matches, tmp_path / "1.pt", tmp_path / "out")
    assert "2 of 4 halves exist already" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == time for path, time in then.items())
    write_features(matches, tmp_path / "1.pt", tmp_path / "whole")
    for path in (tmp_path / "whole").rglob("*.npy"):
        again = tmp_path / "out" / path.relative_to(tmp_path / "whole")
        assert again.read_bytes() == path.read_bytes()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["league", "own.json"]


def test_features_of_another_network_are_not_mixed_in(matches, tmp_path):
    """The record beside them says by the checkpoint's hash what made them."""
    record = tmp_path / "out/own.json"
    for stage in (1, 2):
        save_network(tmp_path / f"{stage}.pt", stage, image_size=24)
    write_features(matches, tmp_path / "1.pt", tmp_path / "out")
    digest = hashlib.sha256((tmp_path / "1.pt").read_bytes()).hexdigest()
    assert json.loads(record.read_text()) == {"checkpoint_sha256": digest, "bf16": False}
    with pytest.raises(DataError, match="own.json: another network or other flags made"):
        write_features(matches, tmp_path / "2.pt", tmp_path / "out")
    record.unlink()
    with pytest.raises(DataError, match="out: features called own exist, but this command did"):
        write_features(matches, tmp_path / "2.pt", tmp_path / "out")


def test_features_of_several_networks_stand_side_by_side(matches, tmp_path):
    """Each of unit length, also of other widths and stages; alone they are as they were made."""
    data = matches / "league/two"
    save_network(tmp_path / "1.pt", 1, image_size=24)
    save_network(tmp_path / "2.pt", 2, image_size=24, embed_dim=64)
    for name, paths in (("a", ["1.pt"]), ("b", ["2.pt"]), ("both", ["1.pt", "2.pt"])):
        infer_main(data, "", tmp_path / "out", "--features", name, "--checkpoint",
                   *(tmp_path / path for path in paths))
    for half in find_halves(data):
        a, b, both = (np.load(tmp_path / "out" / half.match / f"{half.number}_{name}.npy")
                      for name in ("a", "b", "both"))
        assert both.shape == (half.n_frames // 2, 128 + 64) and abs(np.linalg.norm(a[0]) - 1) > 0.1
        for alone, part in ((a, both[:, :128]), (b, both[:, 128:])):
            norm = np.linalg.norm(alone, axis=1, keepdims=True)
            np.testing.assert_allclose(part, alone / norm, atol=1e-5)
    sums = [hashlib.sha256((tmp_path / f"{i}.pt").read_bytes()).hexdigest() for i in (1, 2)]
    assert json.loads((tmp_path / "out/both.json").read_text())["checkpoint_sha256"] == sums


def test_stage_2_learns_from_these_features(matches, tmp_path):
    """A fine-tuned network as teacher, through PCA, beside the frames unless --out says where."""
    data = tmp_path / "data"
    save_network(tmp_path / "3.pt", image_size=24)
    shutil.copytree(matches / "league/two", data / "two")
    infer.main(infer.parse_args(f"--data {data} --checkpoint {tmp_path}/3.pt --features own "
                                "--device cpu".split()))
    args = prepare.parse_args(f"pca --features {data} --name own --width 16".split())
    args.run(args)
    stage2_distill.main(stage2_distill.parse_args(
        f"--data {data} --features-name pca_16_std_own --batch 2 --model vivit_micro --window 8 "
        f"--steps 1 --device cpu --out {tmp_path}/run".split()))
    assert load_checkpoint(tmp_path / "run/last.pt")["step"] == 1


# ------------------------------------------------------------------ 9. mistakes
@pytest.mark.parametrize("text, seconds", [("754", 754), ("12:34", 754), ("1:02:03", 3723),
                                           ("0:10.5", 10.5)])
def test_times_are_seconds_or_minutes(text, seconds):
    assert clock_flag(text) == seconds and video.clock(754.9) == "12:34"


@pytest.mark.parametrize("options, message", [
    ("--checkpoint c", "one of the arguments --video --data is required"),
    ("--data d --video v --checkpoint c", "not allowed with argument"),
    ("--data d --checkpoint c --start 5", "--start and --end cut videos"),
    ("--data d --checkpoint c --end 5", "--start and --end cut videos"),
    ("--video v --checkpoint c --start 1:00 --end 60", "--end must be later"),
    ("--video v --checkpoint c --split test", "--split chooses among the games of --data"),
    ("--data d --checkpoint c --zip z", "--zip needs --split"),
    *((f"--video v --checkpoint c {flag} {text}", f"argument {flag}: must be seconds or mm:ss")
      for flag, text in (("--start", "soon"), ("--start", "1:-5"), ("--end", "1:2:3:4"),
                         ("--end", "inf"))),
    ("--video v --checkpoint c --features own", "--features needs --data"),
    ("--data d --checkpoint c --features a\x7fb", "must be a name without /, \\ and control ch"),
    ("--data d --checkpoint c --nms hard", "argument --nms: invalid choice: 'hard' (choose from"),
])
def test_options_that_do_not_fit(options, message, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        infer.parse_args(options.split())
    error, = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and message in error


CHANCE = "--chance scores each match with another one's pred"
GAPS = "leaves seconds that no window of 8 scores"
REFUSED = {                           # options, the one line
    "gaps of one second": ("--stride 5 --ignore 2", f"--stride 5 with --ignore 2 {GAPS}"),
    "wide gaps": ("--stride 9 --ignore 0", f"--stride 9 with --ignore 0 {GAPS}"),
    "nothing left": ("--stride 1 --ignore 4", f"--stride 1 with --ignore 4 {GAPS}"),
    "other classes": ("--checkpoint {checkpoint} {tmp}/other.pt",
                      "other.pt: has other classes than .*last.pt, or in anoth"),
    "no head": ("--checkpoint {tmp}/1.pt", "1.pt: comes from stage 1 and has no trained head"),
    "chance of one match": ("--data {matches}/league/one --chance", CHANCE),
    "chance, one with labels": ("--data {tmp}/data --chance", CHANCE),
    "a file for a folder": ("--out {tmp}/1.pt", "1.pt: cannot be created"),
    "no folder": ("--json {tmp}/no/x", "no/x: its folder does not exist")}


@pytest.mark.parametrize("options, message", REFUSED.values(), ids=REFUSED)
def test_refused_before_the_work_begins(options, message, matches, checkpoint, tmp_path, no_work):
    """Windows that leave gaps; networks that cannot spot together; where nothing can be written."""
    save_network(tmp_path / "1.pt", 1)
    save_network(tmp_path / "other.pt", classes=CLASSES[::-1])
    shutil.copytree(matches / "league", tmp_path / "data")
    (tmp_path / "data/two" / LABELS).unlink()
    with pytest.raises(DataError, match=message):
        infer_main(matches, checkpoint, tmp_path / "out", *options.format(
            matches=matches, checkpoint=checkpoint, tmp=tmp_path).split())


def test_a_folder_that_cannot_be_written(matches, checkpoint, tmp_path, monkeypatch, no_work):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DataError, match="results_spotting.json: cannot be written"):
        infer_main(matches, checkpoint, tmp_path)


@pytest.mark.parametrize("error, ends, said", [
    (OSError(28, "No space left on device"), DataError,
     "two/scores.npz: cannot be written .No space left"),
    *((number, SystemExit, str(128 + number))
      for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))])
def test_what_is_finished_stays(error, ends, said, matches, checkpoint, tmp_path, monkeypatch,
                                capsys):
    """After a full disk; after a signal, with a line, and signals do again what they did."""
    savez = np.savez
    signal.signal(signal.SIGHUP, signal.SIG_DFL)          # nohup may have started the tests
    signal.signal(signal.SIGINT, signal.default_int_handler)        # or a script, with &

    def breaks_off_at_the_second(file, **arrays):
        savez(file, **arrays)
        if arrays["url_local"] == "league/two":
            if isinstance(error, OSError):
                raise error
            signal.raise_signal(error)

    monkeypatch.setattr(np, "savez", breaks_off_at_the_second)
    with pytest.raises(ends, match=said):
        infer_main(matches, checkpoint, tmp_path)
    assert sorted(os.listdir(tmp_path / "league/one")) == [PREDICTIONS, SCORES]
    assert os.listdir(tmp_path / "league/two") == []
    assert (f"error: stopped; 1 matches are finished in {tmp_path}; run the command again\n"
            in capsys.readouterr().err) == (ends is SystemExit)
    assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


@pytest.mark.parametrize("options", [[], ["--features", "own"]])
def test_one_folder_is_written_by_one_infer(options, matches, checkpoint, tmp_path, no_work):
    held = lock(tmp_path)
    with pytest.raises(DataError, match="another run is writing there; wait for its end or choose"):
        infer_main(matches, checkpoint, tmp_path, *options)
    assert not list(tmp_path.iterdir())
    os.close(held)
