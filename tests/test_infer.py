"""
What these tests prove about infer.py:
  1. encoding each clip once per half gives the scores of encoding every window, in any batches
  2. every second of a half is scored: the last ones, and halves shorter than a window, too
  3. what is written is what the official evaluator reads, at the right times, and can be read again
  4. what is printed on the way is what the file says in the end
  5. a video gives the scores of its frames; a broken one costs no other
  6. several networks are averaged per second, whatever their windows
  7. a submission holds the games of its split, and the official evaluator agrees with the table
  8. a mistake is one line, exit code 2
"""
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import N_FRAMES
from torch import nn

import infer
from comedian import augment, evaluate, ops, report, video
from comedian import frames as data
from comedian.public_weights import save_checkpoint
from model import Comedian, with_changes

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
CLASSES = ("Goal", "Foul", "Corner")
WINDOW = 8


@pytest.fixture(scope="module")
def net():
    """A network whose scores vary over time and classes: weights larger than at a usual start."""
    torch.manual_seed(0)
    model = Comedian(with_changes("vivit_micro", window_tokens=WINDOW, classes=CLASSES)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.15)
    return model


@pytest.fixture(scope="module")
def checkpoint(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "last.pt"
    save_checkpoint(path, stage=3, step=1, config=asdict(net.cfg), model=net.state_dict())
    return path


def infer_main(*options):
    infer.main(infer.parse_args([*map(str, options), "--device", "cpu", "--workers", "1"]))


def encode(net, halves, **options):
    return list(infer.encode_halves(net, halves, data.FrameReader(1), CPU,
                                    contextlib.nullcontext(), **options))


# ------------------------------------------------------------------ 1. once is enough
@pytest.mark.parametrize("stride", [1, 3, 4, 8])
@torch.no_grad()
def test_one_pass_equals_encoding_every_window(stride, net, matches):
    """For every window of every half: its frames through the whole network."""
    reader = data.FrameReader(1)
    for half, h in encode(net, data.find_halves(matches)):
        assert h.shape == (half.n_tokens, 128)
        scores, starts = infer.window_scores(net, h, stride, contextlib.nullcontext())
        assert starts.tolist() == data.window_starts(half.n_tokens, WINDOW, stride)
        for start, got in zip(starts.tolist(), scores, strict=True):
            frames = reader.read([(half, 2 * start)], 2 * WINDOW)                 # (1, T, H, W, 3)
            x = augment.resize(augment.to_float(frames, CPU), net.cfg.image_size)
            expected = net.spot(net.tokens(augment.normalize(x, per_frame=True))).sigmoid()[0]
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)      # other batch sizes
        assert scores.std(1).mean() > 0.01                # the comparison is not one of constants


@pytest.mark.parametrize("batch", [1, 7])
@torch.no_grad()
def test_batches_change_nothing(batch, net, matches):
    halves = data.find_halves(matches)
    for (half, h), (other, small) in zip(encode(net, halves), encode(net, halves, batch=batch),
                                         strict=True):
        assert half == other
        torch.testing.assert_close(small, h, rtol=0, atol=1e-5)
        together = infer.window_scores(net, h, 2, contextlib.nullcontext())[0]
        apart = infer.window_scores(net, h, 2, contextlib.nullcontext(), batch=batch)[0]
        torch.testing.assert_close(apart, together, rtol=0, atol=1e-5)


@torch.no_grad()
def test_mirrored_tokens(net, matches):
    """What stage 3 caches with flip: the tokens of mirrored frames."""
    half = data.find_halves(matches)[0]
    (_, plain), = encode(net, [half])
    (_, mirrored), = encode(net, [half], flip=True)
    frames = data.FrameReader(1).read([(half, 2 * k) for k in range(half.n_tokens)], 2)
    x = augment.resize(augment.to_float(frames, CPU), net.cfg.image_size).flip(4)
    expected = net.encode(augment.normalize(x, per_frame=True))
    torch.testing.assert_close(mirrored, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(mirrored, plain, atol=1e-2)


@torch.no_grad()
def test_a_network_in_training_is_evaluated(matches):
    """Stage 3 validates between its steps: drop path must not reach the scores."""
    torch.manual_seed(0)
    cfg = with_changes("vivit_micro", window_tokens=WINDOW, classes=CLASSES, drop_path=0.9)
    model, half = Comedian(cfg).train(), data.find_halves(matches)[0]
    (_, h), = encode(model, [half])
    scores, _ = infer.window_scores(model, h, 4, contextlib.nullcontext())
    (_, again), = encode(model.eval(), [half])
    assert torch.equal(h, again)
    assert torch.equal(scores, infer.window_scores(model, h, 4, contextlib.nullcontext())[0])


# ------------------------------------------------------------------ 2. every second
def planted(n_tokens, events, stride):
    """Window scores as if the network saw nothing but `events`, pairs (token, class)."""
    truth = torch.full((max(n_tokens, WINDOW), 3), 1e-4)
    for token, label in events:
        truth[token, label] = 0.9
    starts = data.window_starts(n_tokens, WINDOW, stride)
    return torch.stack([truth[s:s + WINDOW] for s in starts]), torch.tensor(starts), n_tokens


@pytest.mark.parametrize("nms", evaluate.NMS)
def test_first_and_last_seconds_are_spotted(nms):
    """The official code never predicts in the last 12 s of a half; here its very last token counts,
    whichever seconds of a window are ignored."""
    halves = [planted(30, [(0, 0), (15, 1), (29, 2)], 4), planted(21, [(20, 0)], 4),
              planted(8, [(0, 2), (7, 1)], 4)]
    which, label, token, confidence = infer.detect(
        infer.stack_halves(halves), ignore=2, nms=nms, nms_window=3)
    found = sorted(zip(which.tolist(), token.tolist(), label.tolist(), strict=True))
    assert found == [(0, 0, 0), (0, 15, 1), (0, 29, 2), (1, 20, 0), (2, 0, 2), (2, 7, 1)]
    torch.testing.assert_close(confidence, torch.full((6,), 0.9))


@pytest.mark.parametrize("n_tokens", [1, 5, 7])
@torch.no_grad()
def test_a_half_shorter_than_the_window(n_tokens, net):
    """It is one short window: no padding is seen by the network or spotted in."""
    h = torch.randn(n_tokens, 128)
    scores, starts = infer.window_scores(net, h, 4, contextlib.nullcontext())
    assert scores.shape == (1, WINDOW, 3) and starts.tolist() == [0]
    expected = net.spot(net.contextualize(h[None])).sigmoid()[0]
    torch.testing.assert_close(scores[0, :n_tokens], expected)
    assert (scores[0, n_tokens:] == 0).all()
    _, _, token, confidence = infer.detect(
        infer.stack_halves([(scores, starts, n_tokens)]), ignore=2, nms="hard local", nms_window=0)
    assert set(token.tolist()) == set(range(n_tokens)) and len(token) == 3 * n_tokens
    assert sorted(confidence.tolist()) == pytest.approx(sorted(expected.flatten().tolist()))


def test_what_is_ignored_by_default():
    assert evaluate.default_ignore(64) == 12 and evaluate.default_ignore(32) == 6  # App. B


@pytest.mark.parametrize("stride, ignore", [(5, 2), (9, 0), (1, 4)])
def test_gaps_are_refused(stride, ignore, matches, checkpoint, tmp_path):
    """Windows further apart than what is left of them would leave seconds without a score."""
    message = rf"--stride {stride} with --ignore {ignore} leaves seconds that no window of 8 scores"
    with pytest.raises(data.DataError, match=message):
        infer_main("--data", matches, "--checkpoint", checkpoint, "--out", tmp_path,
                   "--stride", stride, "--ignore", ignore)
    infer_main("--data", matches, "--checkpoint", checkpoint, "--out", tmp_path,
               "--stride", 4, "--ignore", 2)


# ------------------------------------------------------------------ 3. what is written
def test_results_and_table(matches, checkpoint, tmp_path, capsys):
    """SoccerNet's format, sorted by half and time; as there are labels, the table is printed."""
    infer_main("--data", matches, "--checkpoint", checkpoint, "--out", tmp_path)
    for match in ("league/one", "league/two"):
        result = json.loads((tmp_path / match / "results_spotting.json").read_text())
        assert set(result) == {"UrlLocal", "predictions"} and result["UrlLocal"] == match
        order = [(int(p["half"]), int(p["position"])) for p in result["predictions"]]
        assert len(order) > 5 and order == sorted(order) and {half for half, _ in order} == {1, 2}
        for p in result["predictions"]:
            assert set(p) == {"gameTime", "label", "position", "half", "confidence"}
            assert isinstance(p["position"], str) and int(p["position"]) % 1000 == 0
            assert p["gameTime"] == f"{p['half']} - 00:{int(p['position']) // 1000:02d}"
            assert p["label"] in CLASSES and 0.001 <= p["confidence"] <= 1
    printed = capsys.readouterr().out
    assert "t-AmAP" in printed and "Corner" in printed and "min of video in" in printed


def test_without_labels_there_is_no_table(matches, checkpoint, tmp_path, capsys):
    shutil.copytree(matches / "league" / "two", tmp_path / "data" / "m",
                    ignore=shutil.ignore_patterns("Labels-v2.json"))
    infer_main("--data", tmp_path / "data", "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert "t-AmAP" not in capsys.readouterr().out
    assert (tmp_path / "out" / "m" / "results_spotting.json").exists()
    infer_main("--data", tmp_path / "data", "--checkpoint", checkpoint, "--out", tmp_path / "out",
               "--labels", matches)                        # as league/two there
    assert f"No table: no {matches / 'm/Labels-v2.json'}" in capsys.readouterr().out


def test_a_perfect_network_gets_full_marks(matches, checkpoint, tmp_path, monkeypatch):
    """Scores planted where the labels are, from the first to the last second: t-AmAP 100 % needs
    every position within half a second, in the right half, with the right class."""
    events = {("one", 1): [(0, 0), (14, 1), (29, 2)], ("one", 2): [(19, 0), (3, 1)],
              ("two", 1): [(25, 2)], ("two", 2): [(22, 1), (7, 0)]}
    for match in ("one", "two"):
        labels = [{"gameTime": f"{half} - 00:00", "label": CLASSES[label],
                   "position": str(1000 * token)} for half in (1, 2)
                  for token, label in events[match, half]]
        folder = tmp_path / "labels" / "league" / match
        folder.mkdir(parents=True)
        (folder / "Labels-v2.json").write_text(json.dumps({"annotations": labels}))
    of_length = {n_frames // 2: events[half] for half, n_frames in N_FRAMES.items()}

    def score_windows(model, h, starts, autocast):
        truth, _, _ = planted(len(h), of_length[len(h)], 1)
        return truth[starts]

    monkeypatch.setattr(infer, "score_windows", score_windows)
    results, score = [], evaluate.score
    monkeypatch.setattr(evaluate, "score", lambda *a: results.append(score(*a)) or results[-1])
    infer_main("--data", matches, "--labels", tmp_path / "labels", "--checkpoint", checkpoint,
               "--out", tmp_path / "out")
    assert results[0]["at1"]["a_mAP"] == results[0]["tight"]["a_mAP"] == pytest.approx(1.0)


def test_positions_at_another_frame_rate(matches, checkpoint, tmp_path):
    """At 25/12 fps (E2E-Spot's frames) a token lasts 0.96 s: token k is reported at 960 k ms."""
    shutil.copytree(matches / "league" / "two" / "1_224p", tmp_path / "data" / "m" / "1_224p")
    (tmp_path / "data" / "m" / "1_224p" / "fps.txt").write_text("2.0833333333")
    infer_main("--data", tmp_path / "data", "--checkpoint", checkpoint, "--out", tmp_path / "out",
               "--nms", "hard local", "--nms-window", "0")
    found = data.read_predictions(tmp_path / "out" / "m" / "results_spotting.json", CLASSES)
    assert sorted(set(found.position_ms)) == [960 * k for k in range(26)] and set(found.half) == {1}


def test_stored_scores_give_the_same_spots(matches, checkpoint, tmp_path):
    """evaluate.py --sweep starts from them: merged and suppressed again they give the spots."""
    infer_main("--data", matches, "--checkpoint", checkpoint, "--out", tmp_path)
    stored = evaluate.read_scores(tmp_path)
    assert stored.matches == ["league/one", "league/two"] and stored.classes == CLASSES
    assert stored.windows[-1].tolist() == [30, 20, 26, 23] and stored.token_s == 1.0
    which, label, token, confidence = infer.detect(stored.windows)
    for g, match in enumerate(stored.matches):
        written = data.read_predictions(tmp_path / match / "results_spotting.json", CLASSES)
        mine = (which // 2 == g).numpy()
        again = (column.numpy()[mine] for column in (which % 2 + 1, label, 1000 * token,
                                                     confidence.double()))
        again = sorted(zip(*again, strict=True))
        assert again == sorted(zip(*written, strict=True))


# ------------------------------------------------------------------ 4. as it goes
def feed(net, half, stride, ignore, batch):
    """Yields a Spotter after every `batch` clips of a half, and once more at its end."""
    spotter = infer.Spotter(infer.Network(net, stride, ignore), CPU, contextlib.nullcontext())
    for _, clips in infer.frame_clips([half], data.FrameReader(1), batch):
        spotter.take(clips)
        yield spotter
    spotter.finish()
    yield spotter


@pytest.mark.parametrize("stride, ignore", [(1, 0), (1, 3), (3, 2), (4, 0), (4, 2), (8, 0)])
@pytest.mark.parametrize("batch", [1, 5, 64])
def test_a_spotter_knows_what_will_stay(stride, ignore, batch, net, matches):
    """The merged scores of the first `known` tokens are final, to the bit; and no token could have
    been known sooner without looking at its window, less a stride."""
    for half in data.find_halves(matches):
        snapshots = [(spotter.known, spotter.merged("max"), spotter.merged("mean"))
                     for spotter in feed(net, half, stride, ignore, batch)]
        *before, (known, *final) = snapshots
        assert known == len(final[0]) == half.n_tokens
        for known, *merged in before:
            for now, last in zip(merged, final, strict=True):
                assert torch.equal(now[:known], last[:known])
                assert len(now) - known <= WINDOW
        if batch == 1 and stride == 1:
            assert len({known for known, *_ in before}) > half.n_tokens - WINDOW


@pytest.mark.parametrize("stride", [1, 3, 8])
def test_a_spotter_scores_the_windows_of_a_half(stride, net, matches):
    half = data.find_halves(matches)[1]
    *_, spotter = feed(net, half, stride, 0, 5)
    (_, h), = encode(net, [half])
    scores, starts = infer.window_scores(net, h, stride, contextlib.nullcontext())
    assert torch.equal(spotter.windows()[1], starts)
    torch.testing.assert_close(spotter.windows()[0], scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("nms", evaluate.NMS)
@pytest.mark.parametrize("window_s", [0, 3, 6.5, 10])
def test_settled_rows_stay_whatever_follows(nms, window_s):
    """Random futures after random pasts: rows before `settled` are always the same."""
    rng, post, progress = np.random.default_rng(0), {"nms": nms, "nms_window": window_s}, []

    def rows(merged, until):
        found = zip(*infer.suppress(merged, torch.tensor([len(merged)]), **post), strict=True)
        return [(int(k), int(t), c.item()) for _, k, t, c in found if t < until and c >= 0.3]

    for _ in range(40):
        merged = torch.from_numpy(rng.random((90, 2)).astype(np.float32) ** rng.integers(1, 6))
        known = int(rng.integers(1, 90))
        until = infer.settled(merged, known, int(np.ceil(window_s / 2)), 0.3)
        for _ in range(5):
            other = torch.cat([merged[:known], torch.from_numpy(
                rng.random((90 - known, 2)).astype(np.float32) ** rng.integers(1, 6))])
            assert rows(merged, until) == rows(other, until)
        progress.append(known - until)
    assert min(progress) < 8 and max(progress) <= 90       # it is not always "nothing yet"


def test_how_far_a_chain_reaches():
    merged = torch.zeros(40, 2)
    merged[[5, 12, 17, 22, 30], 0] = 0.5                   # steps of 7, 5, 5, 8
    for known, reach, first in [(40, 5, 40), (35, 5, 30), (34, 4, 30), (27, 5, 12), (27, 4, 27),
                                (27, 7, 5), (13, 5, 12), (1, 5, 1)]:
        assert infer.settled(merged, known, reach, 0.5) == first
    merged[26, 1] = 0.5                                    # the class that is last settled decides
    assert infer.settled(merged, 27, 4, 0.5) == 26
    assert infer.settled(merged, 27, 4, 0.6) == 27
    assert infer.settled(merged, 27, 5, 0.5, since=15) == 17


ROW = r" *(\d+):(\d\d)  (\w+) +(0\.\d\d|1\.00)"


def printed_rows(text):
    """[(match, half)] and for each the rows [(second, class, confidence as printed)]."""
    halves = re.findall(r"^(\S+), half (\d)$", text, re.MULTILINE)
    parts = re.split(r"^\S+, half \d$", text, flags=re.MULTILINE)[1:]
    return {half: [(60 * int(m) + int(s), name, c) for m, s, name, c in re.findall(ROW, part)]
            for half, part in zip(halves, parts, strict=True)}


@pytest.mark.parametrize("options", [
    [], ["--nms", "hard local", "--merge", "mean"], ["--nms", "hard greedy", "--nms-window", "3"],
    ["--stride", "1", "--ignore", "3", "--nms-window", "4"]])
def test_what_is_printed_is_what_the_file_says(options, matches, checkpoint, tmp_path, capsys):
    """With a threshold low enough for many rows and high enough for many updates in between."""
    show = 0.6
    infer_main("--data", matches, "--checkpoint", checkpoint, "--out", tmp_path, "--batch", 3,
               "--show", show, *options)
    rows = printed_rows(capsys.readouterr().out)
    assert list(rows) == [(f"league/{m}", h) for m in ("one", "two") for h in "12"]
    assert sum(map(len, rows.values())) > 15
    for (match, half), printed in rows.items():
        written = json.loads((tmp_path / match / evaluate.PREDICTIONS).read_text())["predictions"]
        kept = [(int(p["position"]) // 1000, p["label"], f"{p['confidence']:.2f}") for p in written
                if p["half"] == half and p["confidence"] >= show]
        assert sorted(kept, key=lambda row: (row[0], CLASSES.index(row[1]))) == printed
        assert (tmp_path / match / f"timeline_{half}.png").exists()


def test_rows_come_before_the_end(matches, checkpoint, tmp_path, monkeypatch):
    """The first half has 30 s, windows 8: some of its rows are there when its end is not."""
    heard, told = [], []
    monkeypatch.setattr(infer.tqdm, "write", lambda text, **_: told.append(text))
    take = infer.Spotter.take
    monkeypatch.setattr(infer.Spotter, "take", lambda self, clips: (
        heard.append(len(told)), take(self, clips)))
    infer_main("--data", matches, "--checkpoint", checkpoint, "--out", tmp_path, "--batch", 2,
               "--show", 0.7, "--nms-window", 2)
    n_batches = 15
    assert heard[0] == 1 and heard[n_batches - 1] > 2      # the half's title, then rows of it
    assert len(set(heard[:n_batches])) > 3


# ------------------------------------------------------------------ 5. videos
FPS, SIZE = 10, (480, 270)


def write_video(path, seconds, seed=0):
    """Coarse patterns that change 10 times a second, without loss."""
    rng = np.random.default_rng(seed)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), FPS, SIZE)
    assert writer.isOpened()
    frames = [cv2.resize(rng.integers(0, 256, (4, 6, 3), np.uint8), SIZE)
              for _ in range(int(FPS * seconds))]
    for frame in frames:
        writer.write(frame)
    writer.release()
    return frames


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A folder with one match of two halves, 26 and 17.5 s; and its frames at 2 fps, 398x224."""
    root = tmp_path_factory.mktemp("film")
    for half, seconds in ((1, 26), (2, 17.5)):
        (root / "videos/league/game").mkdir(parents=True, exist_ok=True)
        (root / f"frames/league/game/{half}_224p").mkdir(parents=True)
        path = root / f"videos/league/game/{half}_720p.mkv"
        write_video(path, seconds, half)
        for n, frame in enumerate(video.sample(path, size=(398, 224))):
            cv2.imwrite(str(root / f"frames/league/game/{half}_224p/{n + 1:08d}.png"),
                        cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return root


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes longer than all else in a test; test_report.py looks at pictures."""
    monkeypatch.setattr(report, "draw_timeline", lambda *_: None)


def test_a_video_gives_the_scores_of_its_frames(film, checkpoint, tmp_path, capsys):
    """A larger one is shrunk to 398x224 first, as its frames on disk are: both go one way."""
    common = ["--checkpoint", checkpoint, "--batch", 5]
    infer_main("--video", film / "videos", "--out", tmp_path / "v", *common)
    printed = capsys.readouterr().out
    assert "data: league/game: half 1 " in printed and ", half 2 " in printed
    infer_main("--data", film / "frames", "--out", tmp_path / "f", *common)
    ours, frames = (np.load(tmp_path / out / "league/game/scores.npz") for out in "vf")
    assert set(ours) == set(frames) and ours["tokens_1"] == 26 and ours["tokens_2"] == 17
    for name in ours:
        assert np.array_equal(ours[name], frames[name])
    assert (tmp_path / "v/league/game/results_spotting.json").read_bytes() == (
        tmp_path / "f/league/game/results_spotting.json").read_bytes()
    assert (tmp_path / "v/league/game/timeline_2.png").exists()
    assert not (tmp_path / "f/league/game/timeline_1.png").exists()


def test_files_are_the_halves_of_a_match(film, checkpoint, tmp_path, no_pictures):
    """And a part of them keeps its times: --start 4 gives the tokens from there on."""
    files = [film / f"videos/league/game/{half}_720p.mkv" for half in (1, 2)]
    infer_main("--video", *files, "--checkpoint", checkpoint, "--out", tmp_path / "whole",
               "--ignore", 0, "--stride", 1)
    infer_main("--video", *files, "--checkpoint", checkpoint, "--out", tmp_path / "part",
               "--ignore", 0, "--stride", 1, "--start", "0:04", "--end", "15")
    whole, part = (np.load(tmp_path / out / "game/scores.npz") for out in ("whole", "part"))
    assert part["start_s"] == 4 and part["tokens_1"] == part["tokens_2"] == 11
    for half in (1, 2):                                    # windows of 8: those at 4, 5, 6, 7
        np.testing.assert_allclose(part[f"windows_{half}"], whole[f"windows_{half}"][4:8],
                                   rtol=0, atol=1e-5)
    times = data.read_predictions(tmp_path / "part/game/results_spotting.json", CLASSES).position_ms
    assert times.min() >= 4000 and times.max() == 14000


def test_what_videos_are_called(film, tmp_path):
    """As in stage0_prepare.py frames: after the folder, or after a file of another name."""
    source = film / "videos/league/game/2_720p.mkv"
    for place in ("a/1_224p.mkv", "a/2_224p.mkv", "b/only 1.mkv", "b/two.mkv", "c/d/2.mkv"):
        (tmp_path / "root" / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / "root" / place)
    halves = infer.video_halves([str(tmp_path / "root")])
    assert {(half.match, half.number) for half in halves} == {
        ("a", 1), ("a", 2), ("b/only 1", 1), ("b/two", 1), ("c/d", 2)}
    assert {half.size for half in halves} == {(398, 224)} and halves[0].n_tokens == 17
    one, = infer.video_halves([tmp_path / "root/b/two.mkv"])
    assert (one.match, one.number) == ("two", 1)
    pair = infer.video_halves([tmp_path / "root/b/two.mkv", tmp_path / "root/b/only 1.mkv"])
    assert [(half.match, half.number) for half in pair] == [("b", 1), ("b", 2)]
    with pytest.raises(data.DataError, match="another match is called 'a', too"):
        infer.video_halves([tmp_path / "root", tmp_path / "root/a"])
    with pytest.raises(data.DataError, match="two.mkv: ends at 00:17, before --start 00:18"):
        infer.video_halves([tmp_path / "root/b/two.mkv"], start_s=18)


def test_a_small_video_is_not_enlarged(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "find_videos", lambda paths: [paths])
    monkeypatch.setattr(video, "probe", lambda path: video.Video(path, 0.0, 25.0, 64, 48))
    half, = infer.video_halves([tmp_path / "x.mp4"], start_s=3)
    assert half.size is None and half.n_tokens == 0        # a header without a duration


def test_a_video_that_breaks_off_costs_no_other(film, checkpoint, tmp_path, no_pictures,
                                                monkeypatch):
    """What came before is spotted, the other half too; the mistake is told, with exit code 2."""
    sample = video.sample

    def breaks_off(path, *more):
        for n, frame in enumerate(sample(path, *more)):
            if "1_720p" in path and n == 41:
                raise data.DataError(f"{path}: breaks off at 20.5 of 26.0 s")
            yield frame

    monkeypatch.setattr(video, "sample", breaks_off)
    with pytest.raises(data.DataError, match="1_720p.mkv: breaks off at 20.5"):
        infer_main("--video", film / "videos", "--checkpoint", checkpoint, "--out", tmp_path,
                   "--batch", 8)
    stored = np.load(tmp_path / "league/game/scores.npz")
    assert stored["tokens_1"] == 20 and stored["tokens_2"] == 17
    found = data.read_predictions(tmp_path / "league/game" / evaluate.PREDICTIONS, CLASSES)
    assert set(found.half) == {1, 2}


def test_a_video_of_no_second(film, checkpoint, tmp_path, capsys):
    """Less than a clip is left out with a line; if nothing else is there, that is a mistake."""
    write_video(tmp_path / "2_224p.mkv", 0.6)
    with pytest.raises(data.DataError, match="nothing to spot"):
        infer_main("--video", tmp_path / "2_224p.mkv", "--checkpoint", checkpoint, "--out",
                   tmp_path / "out")
    assert "2_224p.mkv: shorter than one clip: left out" in capsys.readouterr().out


def test_reading_ahead_is_bounded():
    """However slow the network: 2 batches wait, one is being decoded, no more (memory!)."""
    made = []

    def stream():
        for i in range(20):
            made.append(i)
            yield i

    for i in infer.read_ahead(stream(), depth=2):
        time.sleep(0.02)
        assert len(made) <= i + 4
    assert made == list(range(20)) and i == 19


def test_a_jpeg_that_was_cut_short_is_refused(tmp_path):
    """OpenCV would fill it up with grey."""
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    path = tmp_path / "1.jpg"
    cv2.imwrite(str(path), image)
    whole = path.read_bytes()
    assert data.read_frame(path).shape == (48, 64, 3)
    path.write_bytes(whole + bytes(10))                    # some writers fill up with zeros
    assert data.read_frame(path).shape == (48, 64, 3)
    for kept in (len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:kept])
        assert cv2.imread(str(path)) is not None
        with pytest.raises(data.DataError, match="1.jpg: cut short"):
            data.read_frame(path)


# ------------------------------------------------------------------ 6. several networks
@pytest.fixture(scope="module")
def second_checkpoint(tmp_path_factory):
    """Another network of the same classes, with windows of 6 s."""
    torch.manual_seed(1)
    model = Comedian(with_changes("vivit_micro", window_tokens=6, classes=CLASSES)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.15)
    path = tmp_path_factory.mktemp("run") / "second.pt"
    save_checkpoint(path, stage=3, step=1, config=asdict(model.cfg), model=model.state_dict())
    return path


@pytest.mark.parametrize("merge", ["max", "mean"])
def test_an_ensemble_is_the_average_per_second(merge, matches, checkpoint, second_checkpoint,
                                               tmp_path):
    """By hand: each network's stored windows merged by the reference, averaged, suppressed."""
    for name, paths in (("a", [checkpoint]), ("b", [second_checkpoint]),
                        ("ab", [checkpoint, second_checkpoint])):
        infer_main("--data", matches, "--checkpoint", *paths, "--out", tmp_path / name,
                   "--merge", merge, "--nms-window", 4)
    for match in ("league/one", "league/two"):
        a, b, ab = (np.load(tmp_path / name / match / "scores.npz") for name in ("a", "b", "ab"))
        rows = []
        for h in (1, 2):
            n = int(a[f"tokens_{h}"])
            mean = torch.stack([ops.merge_windows_ref(
                torch.from_numpy(one[f"windows_{h}"]), torch.from_numpy(one[f"starts_{h}"]),
                torch.zeros(len(one[f"starts_{h}"]), dtype=torch.int64), torch.tensor([n]),
                evaluate.default_ignore(one[f"windows_{h}"].shape[1]), merge)
                for one in (a, b)]).mean(0)                                       # (n, K)
            assert a[f"windows_{h}"].shape[1] == 8 and b[f"windows_{h}"].shape[1] == 6
            assert np.array_equal(ab[f"merged_{h}"], mean[None].numpy())
            kept = ops.soft_nms_ref(mean, torch.tensor([n]), 4)
            rows += [(h, k, 1000 * t, kept[t, k].item()) for t, k in (kept >= 0).nonzero().tolist()]
        written = data.read_predictions(tmp_path / "ab" / match / evaluate.PREDICTIONS, CLASSES)
        assert sorted(zip(*written, strict=True)) == sorted(rows)
    stored = evaluate.read_scores(tmp_path / "ab")
    assert stored.merged and stored.windows[-1].tolist() == [30, 20, 26, 23]


def test_networks_of_other_classes_are_not_averaged(net, matches, checkpoint, tmp_path):
    cfg = asdict(net.cfg) | {"classes": CLASSES[::-1]}
    save_checkpoint(tmp_path / "b.pt", stage=3, step=1, config=cfg, model=net.state_dict())
    with pytest.raises(data.DataError, match="b.pt: has other classes than .*last.pt, or in anoth"):
        infer_main("--data", matches, "--checkpoint", checkpoint, tmp_path / "b.pt",
                   "--out", tmp_path)


# ------------------------------------------------------------------ 7. submissions
@pytest.fixture
def split(matches, tmp_path, monkeypatch):
    """(root, list of games): two games in SoccerNet's depth, one with _ for a space, and a third
    match that is not on the list "test"."""
    root, games = tmp_path / "root", ["league/2031/game one", "league/2031/game two"]
    for match, place in (("one", "test/league/2031/game one"), ("two", "test/league/2031/game_two"),
                         ("two", "valid/league/2031/other")):
        shutil.copytree(matches / "league" / match, root / place)
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/test.txt").write_text("\n".join(games))
    monkeypatch.setattr(data, "SPLITS", tmp_path / "splits")
    return root, games


def test_a_submission_and_the_official_evaluator(split, checkpoint, tmp_path):
    official = pytest.importorskip(
        "SoccerNet.Evaluation.ActionSpotting",
        reason="the official evaluator is absent: pip install --no-deps SoccerNet==0.2.0")
    root, games = split
    infer_main("--data", root, "--split", "test", "--checkpoint", checkpoint, "--out",
               tmp_path / "out", "--zip", tmp_path / "spots.zip", "--json", tmp_path / "table.json")
    assert zipfile.ZipFile(tmp_path / "spots.zip").namelist() == [
        f"{game}/results_spotting.json" for game in games]
    ours = json.loads((tmp_path / "table.json").read_text())
    for game, place in zip(games, ("game one", "game_two"), strict=True):
        (tmp_path / "labels" / game).mkdir(parents=True)
        shutil.copy(root / "test/league/2031" / place / evaluate.LABELS, tmp_path / "labels" / game)
    for metric, result in ours.items():
        theirs = official.evaluate(
            str(tmp_path / "labels"), str(tmp_path / "spots.zip"), metric=metric, dataset=None,
            EVENT_DICTIONARY={name: k for k, name in enumerate(CLASSES)})
        assert result == {key: np.asarray(value).tolist() for key, value in theirs.items()}
    assert ours["loose"]["a_mAP"] > 0.01


def test_challenge_games_have_no_labels(split, checkpoint, tmp_path, capsys):
    root, games = split
    for labels in root.rglob(evaluate.LABELS):
        labels.unlink()
    infer_main("--data", root, "--split", "test", "--checkpoint", checkpoint, "--out",
               tmp_path / "out", "--zip", tmp_path / "spots.zip")
    out = capsys.readouterr().out
    assert "t-AmAP" not in out and f"{tmp_path / 'spots.zip'}: 2 games" in out


def test_a_submission_must_be_complete(split, checkpoint, tmp_path, monkeypatch):
    """All of it is refused before anything is encoded."""
    root, games = split
    out = tmp_path / "out"
    monkeypatch.setattr(infer, "spot_match", lambda *a: pytest.fail("work began"))

    def refuses(message):
        with pytest.raises(data.DataError, match=message):
            infer_main("--data", root, "--split", "test", "--checkpoint", checkpoint, "--out", out,
                       "--zip", tmp_path / "spots.zip")

    (out / "old").mkdir(parents=True)
    (out / "old" / evaluate.PREDICTIONS).write_text("{}")
    refuses("out: nothing is zipped, for 1 games are not of this split: old; .* --out of its own")
    shutil.rmtree(out)
    shutil.rmtree(root / "test/league/2031/game one/2_224p")
    refuses("halves 1 and 2: nothing is zipped, for 1 games are missing: test/league/2031/game one")
    shutil.rmtree(root / "test/league/2031/game one")
    refuses("1 of the 2 games of test are not below it: league/2031/game one")
    assert not (tmp_path / "spots.zip").exists()
    with pytest.raises(data.DataError, match="for 5 games are missing: a; b; c and 2 more;"):
        infer.check_games([], list("abcde"), out)


def test_replaced_results_are_announced(matches, checkpoint, tmp_path, capsys):
    common = ["--data", matches, "--checkpoint", checkpoint, "--out", tmp_path]
    infer_main(*common)
    assert "will be replaced" not in capsys.readouterr().out
    infer_main(*common)
    assert f"{tmp_path}: results of 2 of these matches are there and will be replaced" in (
        capsys.readouterr().out)


def test_no_zip_is_left_half_written(split, checkpoint, tmp_path, monkeypatch):
    root, games = split

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "write", full)
    with pytest.raises(data.DataError, match="spots.zip: cannot be written .No space left"):
        infer_main("--data", root, "--split", "test", "--checkpoint", checkpoint, "--out",
                   tmp_path / "out", "--zip", tmp_path / "spots.zip")
    assert not list(tmp_path.glob("spots.zip*"))


# ------------------------------------------------------------------ 8. mistakes
@pytest.mark.parametrize("text, seconds", [("754", 754), ("12:34", 754), ("1:02:03", 3723),
                                           ("0:10.5", 10.5)])
def test_times_are_seconds_or_minutes(text, seconds):
    assert infer.clock_s(text) == seconds and infer.clock(754.9) == "12:34"


@pytest.mark.parametrize("options, message", [
    ("--checkpoint c", "one of the arguments --video --data is required"),
    ("--data d --video v --checkpoint c", "not allowed with argument"),
    ("--data d --checkpoint c --start 5", "--start and --end cut videos"),
    ("--data d --checkpoint c --end 5", "--start and --end cut videos"),
    ("--video v --checkpoint c --start 1:00 --end 60", "--end must be later"),
    ("--video v --checkpoint c --split test", "--split chooses among the games of --data"),
    ("--data d --checkpoint c --zip z", "--zip wants --split"),
    ("--video v --checkpoint c --start soon", "argument --start: wants seconds or mm:ss"),
    ("--video v --checkpoint c --start 1:-5", "argument --start: wants seconds or mm:ss"),
    ("--video v --checkpoint c --end 1:2:3:4", "argument --end: wants seconds or mm:ss"),
    ("--video v --checkpoint c --end inf", "argument --end: wants seconds or mm:ss"),
    ("--video v --checkpoint c --show 2", "argument --show: wants a number"),
])
def test_options_that_do_not_fit(options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        infer.parse_args(options.split())
    assert stop.value.code == 2
    error, = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and message in error


def test_what_cannot_be_written_is_said_first(matches, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(infer, "spot_match", lambda *a: pytest.fail("work began"))
    (tmp_path / "file").touch()
    for options, message in [(["--out", tmp_path / "file"], "file: cannot be made a folder"),
                             (["--out", tmp_path / "o", "--json", tmp_path / "no/x"],
                              "no/x: its folder does not exist")]:
        with pytest.raises(data.DataError, match=message):
            infer_main("--data", matches, "--checkpoint", checkpoint, *options)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(data.DataError, match="results_spotting.json: cannot be written"):
        infer_main("--data", matches, "--checkpoint", checkpoint, "--out", tmp_path / "o")


def test_a_full_disk_leaves_what_is_finished(matches, checkpoint, tmp_path, monkeypatch):
    savez = np.savez

    def full_at_the_second(file, **arrays):
        savez(file, **arrays)
        if arrays["url_local"] == "league/two":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_at_the_second)
    with pytest.raises(data.DataError, match="two/scores.npz: cannot be written .No space left"):
        infer_main("--data", matches, "--checkpoint", checkpoint, "--out", tmp_path)
    assert sorted(os.listdir(tmp_path / "league/one")) == [evaluate.PREDICTIONS, evaluate.SCORES]
    assert os.listdir(tmp_path / "league/two") == []


def test_stopping_is_one_line(matches, checkpoint, tmp_path, monkeypatch, capsys):
    spot_match = infer.spot_match

    def stopped_at_the_second(match, *more):
        if match == "league/two":
            raise KeyboardInterrupt
        spot_match(match, *more)

    monkeypatch.setattr(infer, "spot_match", stopped_at_the_second)
    with pytest.raises(SystemExit) as stop:
        infer_main("--data", matches, "--checkpoint", checkpoint, "--out", tmp_path)
    assert stop.value.code == 130
    assert f"error: stopped; 1 matches are finished in {tmp_path}" in capsys.readouterr().err


def test_a_checkpoint_without_a_head_is_refused(net, matches, tmp_path):
    save_checkpoint(tmp_path / "last.pt", stage=1, step=1, config=asdict(net.cfg), model={})
    with pytest.raises(data.DataError, match="last.pt: comes from stage 1 and has no trained head"):
        infer_main("--data", matches, "--checkpoint", tmp_path / "last.pt", "--out", tmp_path)


def test_a_mistake_is_one_line_and_exit_code_2(matches, tmp_path):
    done = subprocess.run([sys.executable, ROOT / "infer.py", "--data", matches, "--checkpoint",
                           tmp_path / "none.pt"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    line, = done.stderr.splitlines()
    assert line == f"error: {tmp_path / 'none.pt'}: no such checkpoint"
