"""
What these tests prove about data.py:
  1. the frame folders found in the wild are read, in numeric order; what is broken is one line
  2. labels are the official evaluator's events, and the official code's positive frames and tokens
  3. windows cover every token of a half; reading ahead loses nothing and leaves no thread behind
  4. a batched augmentation equals a plain per-sample reference; frames of a sample share one draw
(The predictions on disk are proven in test_evaluate.py.)
"""
import colorsys
import json
import threading
import time

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import data
from data import DataError, Half

CPU = torch.device("cpu")


def make_half(folder, names, size=(8, 6)):
    """A folder of PNG-coded images; image i is filled with (i, 100, 255 - i)."""
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        image = np.full((size[1], size[0], 3), (i, 100, 255 - i), np.uint8)
        cv2.imwrite(str(folder / name), image[:, :, ::-1])


def half_of(n_frames, number=1, fps=2.0):
    return Half("m", number, "f", "", 8, ".jpg", 1, n_frames, fps)


# ------------------------------------------------------------------ 1. matches, halves, frames
LAYOUTS = {                           # folder, names, fps.txt -> first number, fps
    "SoccerNet, eztorch": ("1_224p", [f"{i:08d}.png" for i in range(1, 13)], None, 1, 2.0),
    "E2E-Spot, UGLF": ("1", [f"{i:06d}.png" for i in range(12)], "2.0833333", 0, 2.0833333),
    "T-DEED": ("half1", [f"frame{i}.png" for i in range(12)], None, 0, 2.0),
    "two digits, then three": ("1_720p", [f"{i:02d}.png" for i in range(94, 106)], "1", 94, 1),
}


@pytest.mark.parametrize("folder, names, fps_txt, first, fps", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(tmp_path, folder, names, fps_txt, first, fps):
    match = tmp_path / "england_epl" / "2015-2016" / "2016-01-02 - 18-00 Reds 2 - 1 Blues"
    make_half(match / folder, names)
    if fps_txt:
        (match / folder / "fps.txt").write_text(fps_txt + "\n")
    (match / "Labels-v2.json").write_text("{}")    # other files do not disturb
    half, = data.find_halves(tmp_path)
    assert half.match == "england_epl/2015-2016/2016-01-02 - 18-00 Reds 2 - 1 Blues"
    assert (half.number, half.first, half.n_frames, half.fps) == (1, first, 12, fps)
    assert half.token_s == pytest.approx(2 / fps) and half.n_tokens == 6
    # Frame 10 comes after frame 9, not after frame 1; red comes first.
    read = data.FrameReader(2).read([(half, 9), (half, 0)], 2)                    # (B, T, H, W, 3)
    assert read.shape == (2, 2, 6, 8, 3) and read.dtype == torch.uint8
    assert read[0, :, 0, 0].tolist() == [[9, 100, 246], [10, 100, 245]]
    assert read[1, :, 5, 7].tolist() == [[0, 100, 255], [1, 100, 254]]


def test_order_of_halves_and_matches(tmp_path):
    for match, folder in (("b/x", "2_224p"), ("b/x", "1_224p"), ("a", "half2"), ("a", "half1")):
        make_half(tmp_path / match / folder, ["1.png", "2.png"])
    found = [(half.match, half.number) for half in data.find_halves(tmp_path)]
    assert found == [("a", 1), ("a", 2), ("b/x", 1), ("b/x", 2)]


def test_folders_with_other_names_count_in_order(tmp_path):
    """Other sports: <root>/<video>/000000.jpg. A folder of frames alone is a match of its own."""
    for video in ("routine", "balance", "vault"):
        make_half(tmp_path / "games" / video, ["0.png"])
    found = [(half.match, half.number, half.folder.rsplit("/", 1)[1])
             for half in data.find_halves(tmp_path)]
    assert found == [("games", 1, "balance"), ("games", 2, "routine"), ("games", 3, "vault")]
    alone, = data.find_halves(tmp_path / "games" / "vault")
    assert (alone.match, alone.number, alone.n_frames) == (".", 1, 1)


def test_an_odd_last_frame_makes_no_token():
    assert [half_of(n).n_tokens for n in (1, 2, 3, 128)] == [0, 1, 1, 64]
    assert half_of(10, fps=25 / 12).token_s == pytest.approx(0.96)


@pytest.mark.parametrize("names, missing", [
    ([f"{i:04d}.png" for i in (1, 2, 4)], 3),
    ([f"frame{i}.png" for i in (0, 1, 2, 9, 10, 12)], 3),
    (["1.png", "01.png", "3.png"], 2)])                  # as many images as numbers, and yet a hole
def test_a_hole_in_the_numbering(tmp_path, names, missing):
    make_half(tmp_path / "m" / "1", names)
    with pytest.raises(DataError, match=f"1: frame number {missing} is missing"):
        data.find_halves(tmp_path)


def test_two_images_with_one_number(tmp_path):
    make_half(tmp_path / "m" / "1", ["1.png", "01.png", "2.png"])
    with pytest.raises(DataError, match="frame number 1 is .*there twice"):
        data.find_halves(tmp_path)


def test_two_folders_for_one_half(tmp_path):
    make_half(tmp_path / "m" / "1_224p", ["1.png"])
    make_half(tmp_path / "m" / "1_720p", ["1.png"])
    with pytest.raises(DataError, match="two folders for one half .1_224p, 1_720p.; keep one"):
        data.find_halves(tmp_path)


def test_no_frames(tmp_path):
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "notes.txt").write_text("")
    with pytest.raises(DataError, match="no folder of .jpg or .png frames"):
        data.find_halves(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        data.find_halves(tmp_path / "nothing")


@pytest.mark.parametrize("text, message", [
    ("fast", "wants one number, got 'fast'"), ("", "wants one number"),
    ("-2", "must be positive"), ("nan", "must be positive")])
def test_bad_fps(tmp_path, text, message):
    make_half(tmp_path / "m" / "1", ["1.png"])
    (tmp_path / "m" / "1" / "fps.txt").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        data.find_halves(tmp_path)
    assert "fps.txt" in str(error.value)


def test_images_that_cannot_be_read(tmp_path):
    make_half(tmp_path / "m" / "1", ["1.png", "2.png", "3.png", "4.png"])
    half, = data.find_halves(tmp_path)
    reader = data.FrameReader(2)
    (tmp_path / "m/1/4.png").write_bytes((tmp_path / "m/1/4.png").read_bytes()[:20])
    with pytest.raises(DataError, match="4.png: missing, empty or not an image"):
        reader.read([(half, 0), (half, 2)], 2)
    (tmp_path / "m/1/4.png").unlink()
    with pytest.raises(DataError, match="4.png: missing"):
        reader.read([(half, 0), (half, 2)], 2)
    cv2.imwrite(str(tmp_path / "m/1/4.png"), np.zeros((6, 9, 3), np.uint8))
    with pytest.raises(DataError, match="4.png: 9x6 pixels, others have 8x6"):
        reader.read([(half, 0), (half, 2)], 2)


def test_halves_that_are_too_short(capsys):
    halves = [half_of(20), half_of(200), half_of(127)]
    assert data.of_length(halves, 64, "a window") == [halves[1]]
    assert "2 of 3 halves are shorter than a window" in capsys.readouterr().out
    message = "no half is as long as a window .128 tokens; the longest has 100"
    with pytest.raises(DataError, match=message):
        data.of_length(halves, 128, "a window")


def test_description(tmp_path):
    for number in (1, 2):
        make_half(tmp_path / "m" / f"{number}_224p", [f"{i}.png" for i in range(9)])
    line = data.describe(data.find_halves(tmp_path), tmp_path)
    for part in ("1 matches", "2 halves", "18 frames", "2 fps", "m/1_224p/0.png"):
        assert part in line
    assert "\n" not in line


def test_classes(tmp_path):
    assert len(data.read_classes()) == 17 and data.read_classes()[16] == "Yellow->red card"
    (tmp_path / "classes.txt").write_text("jump\n\n spin \n")
    assert data.read_classes(tmp_path / "classes.txt") == ("jump", "spin")
    for text in ("", "jump\njump\n"):
        (tmp_path / "classes.txt").write_text(text)
        with pytest.raises(DataError, match="classes.txt: needs one class name per line"):
            data.read_classes(tmp_path / "classes.txt")
    with pytest.raises(DataError, match="cannot read the list of classes"):
        data.read_classes(tmp_path / "none.txt")


# ------------------------------------------------------------------ 2. labels
def write_labels(path, *annotations):
    path.write_text(json.dumps({"UrlLocal": "x", "annotations": annotations}))
    return path


def annotation(time="1 - 00:31", label="Foul", **more):
    return {"gameTime": time, "label": label, "team": "home", "visibility": "visible"} | more


LABEL_CASES = [                       # annotation -> half, position_ms, visible, as officially read
    (annotation(position="31480"), (1, 31480, True)),
    (annotation(position=31480), (1, 31480, True)),
    (annotation(position=31480.9), (1, 31480, True)),                # a JSON float is truncated
    (annotation("2 - 45:07"), (2, 2_707_000, True)),                 # no position: minutes, seconds
    (annotation("2 - 45:07", position="0"), (2, 0, True)),           # position counts, even 0
    (annotation("1 - 100:30"), (1, 30_000, True)),                   # three digits lose the first
    (annotation(visibility="not shown"), (1, 31_000, False)),
    (annotation(visibility="Not shown"), (1, 31_000, True)),         # the exact string or nothing
    (annotation(position="-1500"), (1, -1500, True)),
    (annotation("3 - 00:01"), (3, 1_000, True)),                     # a half that no video has
]


@pytest.mark.parametrize("entry, expected", LABEL_CASES)
def test_labels_as_the_official_evaluator_reads_them(tmp_path, entry, expected):
    event, = data.read_labels(write_labels(tmp_path / "L.json", entry), ("Goal", "Foul"))
    assert (event.half, event.position_ms, event.visible) == expected and event.label == 1


def test_labels_keep_file_order_and_leave_out_other_classes(tmp_path):
    path = write_labels(tmp_path / "L.json", annotation(label="Foul", position=9000),
                        annotation(label="Dance"), annotation(label="Goal", position=1000))
    events = data.read_labels(path, ("Goal", "Foul"))
    assert [(e.label, e.position_ms) for e in events] == [(1, 9000), (0, 1000)]
    missing = annotation(position=5)
    del missing["visibility"]
    assert data.read_labels(write_labels(tmp_path / "L.json", missing), ("Foul",))[0].visible


@pytest.mark.parametrize("text, message", [
    ("[1", "not a SoccerNet label file"), ("{}", "not a SoccerNet label file"),
    ("[]", "not a SoccerNet label file"),
    ('{"annotations": 3}', "not a SoccerNet label file"),
    (json.dumps({"annotations": [annotation(), annotation("kick-off")]}), "annotation 1 has a mal"),
    (json.dumps({"annotations": [annotation(position="12.5")]}), "annotation 0 has a malformed"),
    (json.dumps({"annotations": [{"gameTime": "1 - 00:00"}]}), "annotation 0 has a malformed"),
    (json.dumps({"annotations": [{"label": "Foul", "position": "3"}]}), "annotation 0 has a mal"),
    (json.dumps({"annotations": ["Foul"]}), "annotation 0 has a malformed")])
def test_bad_labels(tmp_path, text, message):
    (tmp_path / "Labels-v2.json").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        data.read_labels(tmp_path / "Labels-v2.json", ("Foul",))
    assert "Labels-v2.json" in str(error.value)


@pytest.mark.parametrize("fps", [2.0, 25 / 12])
def test_frame_labels(fps):
    """|i / fps - t| <= radius, spelled as loops; other halves' events do not count."""
    rng = np.random.default_rng(0)
    events = [data.Event(*row.tolist(), True)
              for row in rng.integers((1, 0, 0), (3, 3, 30_000), (20, 3))]
    events += [data.Event(1, 2, 5000, False), data.Event(1, 2, 40_000, True)]
    got = data.frame_labels(events, half_of(50, fps=fps), 0.5, 3)
    for i in range(50):
        for c in range(3):
            near = [e for e in events if abs(i / fps - e.position_ms / 1000) <= 0.5]
            assert got[i, c] == any(e.half == 1 and e.label == c for e in near)


def test_the_radius_is_inclusive():
    labels = data.frame_labels([data.Event(1, 0, 5000, True)], half_of(20), 0.5, 1)
    assert labels.nonzero()[0].tolist() == [9, 10, 11]


def test_positive_frames_per_event():
    """Facts, section 4: 2 frames are positive for an event between frames."""
    for position_ms in range(5001, 6000, 7):
        if position_ms % 500:
            event = data.Event(1, 0, position_ms, True)
            assert data.frame_labels([event], half_of(30), 0.5, 1).sum() == 2


# ------------------------------------------------------------------ 3. features, windows, ahead
def test_features(tmp_path):
    (tmp_path / "lg" / "m").mkdir(parents=True)
    half = Half("lg/m", 2, "f", "", 8, ".jpg", 1, 10)
    with pytest.raises(DataError, match="2_teacher.npy: no teacher features for this half"):
        data.open_features(tmp_path, half, "teacher")
    path = tmp_path / "lg" / "m" / "2_teacher.npy"
    rows = np.arange(20, dtype=np.float32).reshape(5, 4)
    np.save(path, rows)
    assert np.array_equal(data.open_features(tmp_path, half, "teacher"), rows)
    for wrong in (np.zeros(5), np.zeros((5, 1, 4)), np.zeros((0, 4))):
        np.save(path, wrong)
        with pytest.raises(DataError, match="2_teacher.npy: features must have shape"):
            data.open_features(tmp_path, half, "teacher")
    np.save(path, np.array({"features": rows}, dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="2_teacher.npy: not a plain .npy array"):
        data.open_features(tmp_path, half, "teacher")
    path.write_bytes(b"")
    with pytest.raises(DataError, match="2_teacher.npy: not a plain .npy array"):
        data.open_features(tmp_path, half, "teacher")


@settings(max_examples=300, deadline=None)
@given(n=st.integers(0, 400), window=st.integers(1, 128), share=st.floats(0, 1))
def test_windows_cover_every_token(n, window, share):
    stride = max(1, round(share * window))
    starts = data.window_starts(n, window, stride)
    covered = {t for s in starts for t in range(s, min(s + window, n))}
    assert covered == set(range(n))
    assert starts == sorted(set(starts)) and starts[0] == 0
    if n > window:
        assert starts[-1] + window == n                   # no window is cut
        assert all(b - a == stride for a, b in zip(starts[:-2], starts[1:-1], strict=True))
        assert starts[-1] - starts[-2] <= stride
    else:
        assert starts == [0]


def test_windows_of_a_match():
    """2,700 s in windows of 64 s with half overlap: 84, as the official code (facts, section 5)."""
    starts = data.window_starts(2700, 64, 32)
    assert len(starts) == 84 and starts[-1] == 2636


def test_ahead_keeps_the_order():
    assert list(data.ahead(lambda step: step * step, range(5, 25))) == [s * s for s in range(5, 25)]
    assert list(data.ahead(lambda step: step, range(0))) == []


def test_ahead_works_ahead_but_not_far():
    loaded = []
    stream = data.ahead(loaded.append, range(100), depth=2)
    for _ in range(3):
        next(stream)
    deadline = time.monotonic() + 5
    while len(loaded) < 5 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.02)
    assert loaded == [0, 1, 2, 3, 4]                      # three taken, two waiting
    stream.close()


def test_ahead_passes_exceptions_on():
    def load(step):
        if step == 3:
            raise DataError("frame 3 is broken")
        return step

    stream, taken = data.ahead(load, range(10)), []
    with pytest.raises(DataError, match="frame 3 is broken"):
        for item in stream:
            taken.append(item)
    assert taken == [0, 1, 2]


def test_an_abandoned_ahead_stops_its_thread():
    """A run that ends early (an error, Ctrl-C) does not go on decoding."""
    loaded, before = [], set(threading.enumerate())

    def load(step):
        loaded.append(step)
        time.sleep(0.3 * (step == 1))

    stream = data.ahead(load, range(1000), depth=2)
    next(stream)
    assert set(threading.enumerate()) - before
    stream.close()                                        # while 1 is being loaded and 2 waits
    assert not set(threading.enumerate()) - before and loaded == [0, 1]


# ------------------------------------------------------------------ 4. augmentations
def images(B=3, T=2, H=9, W=13):
    """(B, T, 3, H, W) in [0, 1], every frame another."""
    torch.manual_seed(1)
    return torch.rand(B, T, 3, H, W)


def pixels(x):
    """(sample, frame, row, column) of every pixel."""
    return np.ndindex(*x.shape[:2], *x.shape[3:])


def grey(rgb):
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def plain_brightness(frame, factor):
    """frame (3, H, W), numpy; so for the next three."""
    return np.clip(frame * factor, 0, 1)


def plain_contrast(frame, factor):
    return np.clip(factor * frame + (1 - factor) * grey(frame).mean(), 0, 1)


def plain_saturation(frame, factor):
    return np.clip(factor * frame + (1 - factor) * grey(frame), 0, 1)


def plain_hue(frame, shift):
    out = np.empty_like(frame)
    for r, c in np.ndindex(frame.shape[1:]):
        h, s, v = colorsys.rgb_to_hsv(*frame[:, r, c])
        out[:, r, c] = colorsys.hsv_to_rgb((h + shift) % 1, s, v)
    return out


PLAIN = {"brightness": plain_brightness, "contrast": plain_contrast,
         "saturation": plain_saturation, "hue": plain_hue}


def per_sample(x, plain, draws):
    """The reference: one sample, one frame after the other."""
    samples = zip(x.double().numpy(), draws, strict=True)
    return torch.from_numpy(np.stack([[plain(frame, draw) for frame in sample]
                                      for sample, draw in samples]))


@pytest.mark.parametrize("name, draws", [
    ("brightness", [0.0, 0.7, 1.6]), ("contrast", [0.0, 0.7, 1.8]), ("saturation", [0.0, 0.4, 1.7]),
    ("hue", [-0.5, 0.13, 0.4])])
def test_colour_operations(name, draws):
    x = images()
    x[1, 0, :, :3] = torch.tensor([0.3, 0.3, 0.3])[:, None, None]    # grey has no hue
    x[2, 1, :, 0], x[2, 1, :, 1] = 0, 1                                           # black and white
    got = getattr(data, name)(x.clone(), torch.tensor(draws))
    torch.testing.assert_close(got.double(), per_sample(x, PLAIN[name], draws), rtol=0, atol=2e-6)


def test_colour_jitter(monkeypatch):
    """Four operations in one of 24 orders, each with a factor per sample within its strength."""
    calls = []

    def spy(name, original):
        def called(x, draw):
            calls.append((name, draw))
            return original(x, draw)
        return called

    for name in PLAIN:
        monkeypatch.setattr(data, name, spy(name, getattr(data, name)))
    orders, drawn = set(), {name: [] for name in PLAIN}
    for seed in range(60):
        x = images(B=4, T=1, H=3, W=3)
        torch.manual_seed(seed)
        calls.clear()
        got = data.color_jitter(x.clone(), [0.8, 0.7, 0.4, 0.2], p=1.0)
        expected = x
        for name, draw in calls:
            expected = per_sample(expected, PLAIN[name], draw.tolist())
            drawn[name].append(draw)
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-5)
        orders.add(tuple(name for name, _ in calls))
    assert len(orders) > 15 and all(sorted(order) == sorted(PLAIN) for order in orders)
    for name, low, high in (("brightness", 0.2, 1.8), ("contrast", 0.3, 1.7),
                            ("saturation", 0.6, 1.4), ("hue", -0.2, 0.2)):
        draws = torch.cat(drawn[name])
        assert draws.min() >= low and draws.max() <= high
        spread = (draws - low) / (high - low)             # uniform: mean 1/2, deviation 0.29
        assert spread.mean() == pytest.approx(0.5, abs=0.1)
        assert spread.std() == pytest.approx(0.289, abs=0.05)


def test_strength_0_is_off(monkeypatch):
    """Stage 3 leaves the hue alone: cards keep their colour, to the last bit."""
    monkeypatch.setattr(data, "hue", None)
    x = images()
    assert not torch.equal(data.color_jitter(x.clone(), [0.4, 0.4, 0.4, 0.0], p=1.0), x)
    assert torch.equal(data.color_jitter(x.clone(), [0, 0, 0, 0], p=1.0), x)


def test_grayscale():
    x = images()
    got = data.grayscale(x.clone(), p=1.0)
    for b, t, r, c in pixels(x):
        level = grey(x[b, t, :, r, c].double())
        assert (got[b, t, :, r, c].double() - level).abs().max() < 1e-6


def test_solarize():
    x = images()
    x[0, 0, 0, 0, 0] = 0.5                                # at the threshold: inverted, to 0.5
    x[0, 0, 0, 0, 1] = 0.25
    got = data.solarize(x.clone(), p=1.0, threshold=0.25)
    for b, t, r, c in pixels(x):
        for k in range(3):
            value = x[b, t, k, r, c]
            assert got[b, t, k, r, c] == (1 - value if value >= 0.25 else value)
    assert got[0, 0, 0, 0, 1] == 0.75


def test_hflip():
    x = images()
    got = data.hflip(x.clone(), p=1.0)
    for b, t, r, c in pixels(x):
        assert torch.equal(got[b, t, :, r, c], x[b, t, :, r, -1 - c])


@pytest.mark.parametrize("size", [(20, 224), (48, 48), (30, 112)])
def test_gaussian_blur(size, monkeypatch):
    """An explicit convolution, edges reflected; sigma and the 23 taps are those of 224 pixels."""
    sigmas, original = [], data.blur_matrix
    monkeypatch.setattr(data, "blur_matrix", lambda *a: sigmas.append(a[0]) or original(*a))
    x = images(3, 1, *size)
    got = data.gaussian_blur(x.clone(), p=1.0)
    radius = {224: 11, 48: 2, 112: 6}[size[1]]            # 11 x 48 / 224 = 2.36; 5.5 rounds to even
    assert torch.equal(sigmas[0], sigmas[1])              # the same for rows and columns
    assert sigmas[0].min() >= 0.1 * size[1] / 224 and sigmas[0].max() <= 2 * size[1] / 224
    for b, sigma in enumerate(sigmas[0].double().tolist()):
        kernel = np.array([np.exp(-d * d / (2 * sigma ** 2)) for d in range(-radius, radius + 1)])
        kernel /= kernel.sum()
        frame = x[b, 0].double().numpy()
        frame = np.pad(frame, ((0, 0), (radius,) * 2, (radius,) * 2), mode="reflect")
        rows = sum(w * frame[:, i:i + size[0]] for i, w in enumerate(kernel))
        expected = sum(w * rows[:, :, i:i + size[1]] for i, w in enumerate(kernel))
        np.testing.assert_allclose(got[b, 0].double().numpy(), expected, atol=2e-6)


def test_crop_and_resize():
    """One box per sample: torch's antialiased bilinear resize of it, rounded to grey levels."""
    torch.manual_seed(0)
    x = torch.randint(0, 256, (5, 2, 3, 40, 71)).float()
    box = torch.tensor([[0., 0, 40, 71], [3, 10, 30, 50], [0, 0, 7, 5], [39, 70, 1, 1],
                        [10, 20, 24, 24]])
    got = data.crop_resize(x.clone(), box, 24)             # (B, T, 3, 24, 24)
    assert got.shape == (5, 2, 3, 24, 24)
    for b, (top, left, height, width) in enumerate(box.int().tolist()):
        crop = x[b, :, :, top:top + height, left:left + width]
        expected = F.interpolate(crop, (24, 24), mode="bilinear", antialias=True).round()
        off = (got[b] * 255 - expected).abs()
        assert off.max() < 1.001 and (off > 0.001).float().mean() < 1e-3   # ties at .5
    assert torch.allclose(got[4], x[4, :, :, 10:34, 20:44] / 255)      # nothing to resize


def test_resize():
    torch.manual_seed(0)
    x = torch.randint(0, 256, (2, 2, 3, 30, 50)).float()
    expected = F.interpolate(x.flatten(0, 1), (24, 24), mode="bilinear", antialias=True).round()
    off = (data.resize(x.clone(), 24).flatten(0, 1) * 255 - expected).abs()
    assert off.max() < 1.001 and (off > 0.001).float().mean() < 1e-3
    square = torch.randint(0, 256, (2, 2, 3, 24, 24)).float()
    assert torch.equal(data.resize(square.clone(), 24), square / 255)


def plain_box(rng, height, width, scale, ratio):
    """torchvision's RandomResizedCrop, one box: its documented rule."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = np.exp(rng.uniform(*np.log(ratio)))
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    if width / height < ratio[0]:
        w, h = width, round(width / ratio[0])
    elif width / height > ratio[1]:
        w, h = round(height * ratio[1]), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("height, width, scale, ratio", [
    (224, 398, (0.2, 1.0), (1.3275, 2.2125)),             # stage 1's crops (facts, section 2)
    (20, 60, (0.5, 1.0), (0.8, 1.2)),                     # most tries do not fit
    (6, 8, (0.2, 1.0), (0.25, 4.0))])                      # few pixels, wide range
def test_random_boxes(height, width, scale, ratio):
    """Legal, and spread like the boxes of the plain rule: each tenth of the frame has its share."""
    torch.manual_seed(0)
    boxes = data.random_boxes(40_000, height, width, scale, ratio).numpy()
    top, left, h, w = boxes.T
    assert (boxes == boxes.round()).all()
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] >= 1).all()
    assert (top + h <= height).all() and (left + w <= width).all()
    rng = np.random.default_rng(0)
    plain = np.array([plain_box(rng, height, width, scale, ratio) for _ in range(20_000)])
    for column, full in zip(range(4), (height, width, height, width), strict=True):
        got, expected = (np.histogram(b[:, column], bins=10, range=(0, full))[0] / len(b)
                         for b in (boxes, plain))
        np.testing.assert_allclose(got, expected, atol=0.02)      # 5 standard deviations


@pytest.mark.parametrize("height, width, ratio, box", [
    (10, 10, (4.0, 4.0), [4, 0, 2, 10]),                  # 2.5 rows round to even; centred
    (10, 60, (0.8, 1.2), [0, 24, 10, 12]),
    (60, 10, (0.8, 1.2), [24, 0, 12, 10])])
def test_box_when_no_try_fits(height, width, ratio, box):
    boxes = data.random_boxes(50, height, width, (1.0, 1.0), ratio)
    assert boxes.tolist() == [box] * 50
    assert plain_box(np.random.default_rng(0), height, width, (1.0, 1.0), ratio) == tuple(box)


def test_normalize():
    x = images()
    torch.testing.assert_close(data.normalize(x.clone()), (x - 0.45) / 0.225)
    got = data.normalize(x.clone(), per_frame=True)
    for b, t, c in np.ndindex(3, 2, 3):
        channel = x[b, t, c].double()
        expected = (channel - channel.mean()) / (channel.std(correction=0) + 1e-3)
        torch.testing.assert_close(got[b, t, c].double(), expected, rtol=0, atol=1e-5)
    flat = torch.full((1, 1, 3, 4, 4), 0.3)               # a black screen must not explode
    assert data.normalize(flat, per_frame=True).abs().max() < 1e-3


def test_to_float():
    frames = torch.randint(0, 256, (2, 3, 4, 5, 3), dtype=torch.uint8)    # (B, T, H, W, 3)
    x = data.to_float(frames, CPU)
    assert x.dtype == torch.float32 and torch.equal(x, frames.permute(0, 1, 4, 2, 3).float())


RANDOM = {                            # an operation, and its share of touched samples
    "colour": (lambda x, p: data.color_jitter(x, [0.4, 0.4, 0.4, 0.1], p), 0.8),
    "grey": (data.grayscale, 0.2), "solarize": (data.solarize, 0.2), "flip": (data.hflip, 0.5),
    "blur": (lambda x, p: data.gaussian_blur(x, p, sigma=(2.0, 4.0)), 0.5)}    # enough to be seen


@pytest.mark.parametrize("operation, p", RANDOM.values(), ids=RANDOM)
def test_a_draw_per_sample_that_all_frames_share(operation, p):
    """Of B samples a share p is touched; the T frames of one all alike, others not at all."""
    torch.manual_seed(0)
    frame = torch.rand(3, 6, 80)
    x = frame.expand(800, 3, -1, -1, -1).clone()     # (B, T, 3, H, W)
    got = operation(x.clone(), p)
    assert torch.equal(got[:, 0], got[:, 1]) and torch.equal(got[:, 0], got[:, 2])
    touched = (got[:, 0] != frame).flatten(1).any(1)    # (B,)
    assert touched.float().mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / 800) ** 0.5)
    changes = (touched[1:] != touched[:-1]).float().mean().item()
    assert changes == pytest.approx(2 * p * (1 - p), abs=0.09)   # neighbours are independent
    assert torch.equal(operation(x.clone(), 0.0), x)
    assert (operation(x.clone(), 1.0) != x).flatten(1).any(1).all()


@pytest.mark.parametrize("name", ["colour", "blur"])
def test_the_draws_of_two_samples_differ(name):
    torch.manual_seed(0)
    x = torch.rand(3, 6, 80).expand(20, 1, -1, -1, -1).clone()
    got = RANDOM[name][0](x, 1.0)
    for a in range(20):
        for b in range(a):
            assert not torch.allclose(got[a], got[b], atol=1e-5)


def test_touched_samples_are_those_alone():
    """With every sample another, those that are not drawn come out bit by bit as they went in."""
    for operation, _ in RANDOM.values():
        x = images(B=40, T=1, H=6, W=80)
        got = operation(x.clone(), 0.5)
        same = (got == x).flatten(1).all(1)
        assert 5 < same.sum() < 35
        assert got.isfinite().all() and got.min() >= 0 and got.max() <= 1 + 1e-5


def test_same_seed_same_draws():
    x = images(B=8, T=2, H=6, W=80)
    for operation, p in RANDOM.values():
        results = []
        for seed in (7, 7, 8):
            torch.manual_seed(seed)
            results.append(operation(x.clone(), p))
        assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
