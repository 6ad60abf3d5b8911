"""
What these tests prove about data.py:
  1. the frame folders found in the wild are read, in numeric order; what is broken is one line
  2. labels are the official evaluator's events, and the official code's positive frames and tokens
  3. windows cover every token of a half; reading ahead loses nothing and leaves no thread behind
  4. the official lists of games are the official ones; a game is found in every layout by its name
(The predictions on disk are proven in test_evaluate.py.)
"""
import json
import threading
import time

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comedian import frames as data
from comedian.frames import DataError, Half


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


# ------------------------------------------------------------------ 4. lists of games
def test_official_lists():
    """300, 100, 100 and 50 games, none twice; the names are SoccerNet's."""
    games = {name: data.read_games(name) for name in ("train", "valid", "test", "challenge")}
    assert [len(games[name]) for name in games] == [300, 100, 100, 50]
    assert data.read_games("train+valid") == games["train"] + games["valid"]
    assert len(set(data.read_games("train+valid+test+challenge"))) == 550
    assert "england_epl/2014-2015/2015-02-21 - 18-00 Chelsea 1 - 1 Burnley" in games["train"]


def test_official_lists_are_the_packages():
    downloader = pytest.importorskip("SoccerNet.utils", reason="the SoccerNet package is optional")
    for name in ("train", "valid", "test", "challenge"):
        assert data.read_games(name) == downloader.getListGames(name)


GAMES = data.read_games("test")


def test_in_split_knows_a_game_in_every_layout(capsys):
    """With the split as a folder or without, with part of the path in the root, with _ for a
    space; halves and matches; the order stays."""
    there = [GAMES[7], "elsewhere/2014-2015/some game", f"test/{GAMES[3]}",
             GAMES[5].replace(" ", "_")]
    assert data.in_split(there, "test", "frames") == [there[0], there[2], there[3]]
    assert capsys.readouterr().out == "data: frames: 3 of the 100 games of test\n"
    assert data.in_split(there, "valid+test", "frames") == [there[0], there[2], there[3]]
    league, season, game = GAMES[0].split("/")
    assert data.in_split([game, "other"], "test", f"frames/{league}/{season}") == [game]
    halves = [data.Half(match, number, "", "", 8, ".jpg", 1, 100)
              for match in there[:2] for number in (1, 2)]
    assert data.in_split(halves, "test", "frames") == halves[:2]
    assert data.in_split([GAMES[0]] * 2, "test", "frames") == [GAMES[0]] * 2


def test_in_split_from_a_text_file(tmp_path):
    (tmp_path / "my games.txt").write_text("one\n\n  a/b/two \nleague/a/b/three\n")
    there = ["x/one", "a/b/two", "c/b/two", "a/b/three", "four"]
    assert data.in_split(there, str(tmp_path / "my games.txt"), "r") == [
        "x/one", "a/b/two", "a/b/three"]


def test_in_split_names_what_is_missing(tmp_path):
    with pytest.raises(data.DataError) as error:
        data.in_split(GAMES[2:], "test", "frames", complete=True)
    assert str(error.value) == (f"frames: 2 of the 100 games of test are not below it: "
                                f"{GAMES[0]}; {GAMES[1]}")
    assert data.in_split(GAMES, "test", "frames", complete=True) == GAMES
    with pytest.raises(data.DataError, match="100 of the 100 games .* and 90 more"):
        data.in_split(["a/b/c"], "test", "frames")
    with pytest.raises(data.DataError, match=r"val: neither .*challenge, test, train, valid"):
        data.in_split(GAMES, "val", "frames")
    with pytest.raises(data.DataError, match="neither"):
        data.in_split(GAMES, "train+", "frames")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(data.DataError, match="empty list"):
        data.in_split(GAMES, str(tmp_path / "empty.txt"), "frames")
