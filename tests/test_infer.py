"""
What these tests prove about infer.py:
  1. encoding each clip once per half gives the scores of encoding every window, in any batches
  2. every second of a half is scored: the last ones, and halves shorter than a window, too
  3. what is written is what the official evaluator reads, at the right times, and can be read again
  4. a mistake is one line, exit code 2
"""
import contextlib
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from conftest import N_FRAMES
from torch import nn

import augment
import data
import evaluate
import infer
from model import Comedian, with_changes
from weights import save_checkpoint

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
    assert "t-AmAP" in printed and "Corner" in printed and "h of video in" in printed


def test_without_labels_there_is_no_table(matches, checkpoint, tmp_path, capsys):
    shutil.copytree(matches / "league" / "two", tmp_path / "data" / "m",
                    ignore=shutil.ignore_patterns("Labels-v2.json"))
    infer_main("--data", tmp_path / "data", "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert "t-AmAP" not in capsys.readouterr().out
    assert (tmp_path / "out" / "m" / "results_spotting.json").exists()


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


# ------------------------------------------------------------------ 4. mistakes
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
