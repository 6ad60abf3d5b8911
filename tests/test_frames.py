"""
What these tests prove about frames.py:
  1. the frame folders found in the wild are read, in numeric order
  2. what is broken in a folder or a file is one line, and nothing is decoded to find it out
  3. reading ahead loses nothing and leaves no thread behind
  4. the official lists of games are the official ones; a game is found in every layout by its name
"""
import os
import re
import struct
import threading
import time

import cv2
import numpy as np
import pytest
import torch

from conftest import half_of, refused

from comedian import DataError, frames


def make_half(folder, names, size=(8, 6)):
    """A folder of PNG-coded images; image i is filled with (i, 100, 255 - i)."""
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        image = np.full((size[1], size[0], 3), (i, 100, 255 - i), np.uint8)
        cv2.imwrite(str(folder / name), image[:, :, ::-1])


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
    half, = frames.find_halves(tmp_path)
    assert half.match == "england_epl/2015-2016/2016-01-02 - 18-00 Reds 2 - 1 Blues"
    assert (half.number, half.first, half.n_frames, half.fps) == (1, first, 12, fps)
    assert half.token_s == pytest.approx(2 / fps) and half.n_tokens == 6
    # Frame 10 comes after frame 9, not after frame 1; red comes first.
    read = frames.FrameReader(2).read([(half, 9), (half, 0)], 2)                  # (B, T, H, W, 3)
    assert read.shape == (2, 2, 6, 8, 3) and read.dtype == torch.uint8
    assert read[0, :, 0, 0].tolist() == [[9, 100, 246], [10, 100, 245]]
    assert read[1, :, 5, 7].tolist() == [[0, 100, 255], [1, 100, 254]]


@pytest.mark.parametrize("folders, found", [
    (["b/x/2_224p", "b/x/1_224p", "a/half2", "a/half1"],
     [("a", 1, "half1"), ("a", 2, "half2"), ("b/x", 1, "1_224p"), ("b/x", 2, "2_224p")]),
    (["games/routine", "games/balance", "games/vault"],    # other sports: a folder for each video
     [("games", 1, "balance"), ("games", 2, "routine"), ("games", 3, "vault")]),
    (["m/10", "m/2", "m/1", "n/set 10", "n/set 9"],        # 2 before 10
     [("m", 1, "1"), ("m", 2, "2"), ("m", 10, "10"), ("n", 1, "set 9"), ("n", 2, "set 10")])])
def test_folders_count_as_people_do(tmp_path, folders, found):
    """A folder of frames alone is a match of its own."""
    for folder in folders:
        make_half(tmp_path / folder, ["1.png"])
    assert found == [(half.match, half.number, half.folder.rsplit("/", 1)[1])
                     for half in frames.find_halves(tmp_path)]
    alone, = frames.find_halves(tmp_path / folders[0])
    assert (alone.match, alone.n_frames) == (".", 1)


def test_what_systems_leave_behind_is_no_frame(tmp_path):
    make_half(tmp_path / "m" / "1", ["1.png", "2.png"])
    for place in ("m/1/._1.png", "m/1/._3.png", "m/1/.DS_Store", "m/__MACOSX/1/1.png",
                  "m/.trash/1/1.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"")
    half, = frames.find_halves(tmp_path)
    assert half.n_frames == 2 and half.folder == str(tmp_path / "m/1")


def test_links_are_followed_once(tmp_path):
    """A link to matches elsewhere is read; one that leads back up ends there."""
    make_half(tmp_path / "disk/a/1", ["1.png"])
    make_half(tmp_path / "root/b/1", ["1.png"])
    (tmp_path / "root/more").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/back").symlink_to(tmp_path / "root")
    (tmp_path / "root/b/loop").symlink_to(tmp_path / "root/b")
    assert [half.match for half in frames.find_halves(tmp_path / "root")] == ["b", "more/a"]


def test_an_odd_last_frame_makes_no_token():
    assert [half_of(n).n_tokens for n in (1, 2, 3, 128)] == [0, 1, 1, 64]
    assert half_of(10, fps=25 / 12).token_s == pytest.approx(0.96)


def test_halves_that_are_too_short(capsys):
    halves = [half_of(20), half_of(200), half_of(127)]
    assert frames.of_length(halves, 64, "a window") == [halves[1]]
    assert "2 of 3 halves are shorter than a window" in capsys.readouterr().out
    message = "no half is as long as a window .128 tokens; the longest has 100.; give longer"
    with pytest.raises(DataError, match=message):
        frames.of_length(halves, 128, "a window")


def test_description(tmp_path):
    """With a hint at frames that are much too large, and at halves that no metric counts."""
    for number in (1, 2, 3, 4):
        make_half(tmp_path / "m" / f"{number}_224p", [f"{i}.png" for i in range(9)], (60, 40))
    *two, _, _ = halves = frames.find_halves(tmp_path)
    for line in (frames.describe(two, tmp_path), frames.describe(two, tmp_path, 25)):
        for part in ("1 matches", "2 halves", "18 frames", "2 fps", "m/1_224p/0.png"):
            assert part in line
        assert "\n" not in line and "spotted" not in line
    hint = frames.describe(two, tmp_path, 24).splitlines()[1]
    assert hint.startswith("hint: the frames have 60x40 pixels, the network's image has 24x24")
    assert "comedian.prepare frames" in hint
    assert "; halves 3, 4 are spotted and trained on, but" in frames.describe(halves, tmp_path)


# ------------------------------------------------------------------ 2. what is broken
@pytest.mark.parametrize("files, message", [
    ([f"m/1/{i:04d}.png" for i in (1, 2, 4)], "1: frame number 3 is missing"),
    ([f"m/1/frame{i}.png" for i in (0, 1, 2, 9, 10, 12)], "1: frame number 3 is missing"),
    (["m/1/1.png", "m/1/01.png", "m/1/3.png"], "1: frame number 2 is missing"),   # and one is twice
    (["m/1/1.png", "m/1/01.png", "m/1/2.png"], "frame number 1 is .*exists twice"),
    (["m/1_224p/1.png", "m/1_720p/1.png"], "two folders for one half .1_224p, 1_720p.; keep one"),
    (["m/1/notes.txt"], "no folder of .jpg or .png frames"),
    (["match.mp4"], "make frames from videos with .*/ holds match.mp4"),
    *(([f"m/1/{name}"], rf"m/1/{re.escape(name)}: the name of a frame must end in its number")
      for name in ("frame (1).jpg", "frame.png", "7_.jpeg"))])
def test_what_is_wrong_in_a_folder_is_one_line(tmp_path, files, message):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    with pytest.raises(DataError, match=message):
        frames.find_halves(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        frames.find_halves(tmp_path / "nothing")


@pytest.mark.parametrize("text", ["fast", "", "-2", "0", "nan", "inf", "1001", "2 2"])
def test_bad_fps(tmp_path, text):
    make_half(tmp_path / "m" / "1", ["1.png"])
    (tmp_path / "m" / "1" / "fps.txt").write_text(text)
    with pytest.raises(DataError, match=f"fps.txt: has '{text}'; write the frames per second"):
        frames.find_halves(tmp_path)


def test_images_that_cannot_be_read(tmp_path):
    make_half(tmp_path / "m" / "1", ["1.png", "2.png", "3.png", "4.png"])
    half, = frames.find_halves(tmp_path)
    reader, last = frames.FrameReader(2), tmp_path / "m/1/4.png"
    wide = cv2.imencode(".png", np.zeros((6, 9, 3), np.uint8))[1].tobytes()
    for content, message in ((last.read_bytes()[:20], "empty or not an image, JPEG or PNG; extract "
                              "this half's frames again"), (b"", "empty or not an image"),
                             (None, "missing, or not a file"), (wide, "9x6 pixels, others have 8")):
        last.unlink() if content is None else last.write_bytes(content)
        with refused(f"4.png: {message}"):
            reader.read([(half, 0), (half, 2)], 2)


def test_a_jpeg_that_was_cut_short_is_refused(tmp_path):
    """OpenCV would fill it up with grey."""
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    path = tmp_path / "1.jpg"
    cv2.imwrite(str(path), image)
    whole = path.read_bytes()
    assert frames.read_frame(path).shape == (48, 64, 3)
    path.write_bytes(whole + bytes(10))                    # some writers fill up with zeros
    assert frames.read_frame(path).shape == (48, 64, 3)
    for kept in (len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:kept])
        assert cv2.imread(str(path)) is not None
        with pytest.raises(DataError, match="1.jpg: cut short"):
            frames.read_frame(path)


@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_a_header_of_terabytes_is_not_decoded(tmp_path, monkeypatch, ending):
    path = tmp_path / f"1{ending}"
    cv2.imwrite(str(path), np.zeros((48, 64, 3), np.uint8))
    whole = path.read_bytes()
    assert frames.promised_pixels(whole) == 48 * 64
    if ending == ".png":
        huge = whole[:16] + struct.pack(">II", 60_000, 60_000) + whole[24:]
    else:
        at = whole.index(b"\xff\xc0") + 5                 # the frame header's height, then width
        huge = whole[:at] + struct.pack(">HH", 60_000, 60_000) + whole[at + 4:]
    path.write_bytes(huge)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match=f"1{ending}: its header claims more than 67,108,864 pix"):
        frames.read_frame(path)


def test_a_fifo_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "1.jpg")
    with pytest.raises(DataError, match="1.jpg: missing, or not a file"):
        frames.read_frame(tmp_path / "1.jpg")


# ------------------------------------------------------------------ 3. ahead
def test_ahead_works_ahead_but_not_far():
    loaded = []
    stream = frames.ahead(map(loaded.append, range(100)), depth=2)
    for _ in range(3):
        next(stream)
    deadline = time.monotonic() + 5
    while len(loaded) < 5 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.02)
    assert loaded == [0, 1, 2, 3, 4]                      # three taken, two waiting
    stream.close()


def test_ahead_keeps_the_order_and_passes_exceptions_on():
    def load(step):
        if step == 23:
            raise DataError("frame 23 is broken")
        return step * step

    taken = []
    with refused("frame 23 is broken"):
        taken.extend(frames.ahead(map(load, range(5, 25))))
    assert taken == [step * step for step in range(5, 23)]
    assert [*frames.ahead(iter(()))] == [] and [*frames.ahead(map(load, range(3)))] == [0, 1, 4]


def test_an_abandoned_ahead_stops_its_thread():
    """A run that ends early (an error, Ctrl-C) does not go on decoding."""
    loaded, before, begun = [], set(threading.enumerate()), threading.Event()

    def load(step):
        loaded.append(step)
        if step == 1:
            begun.set()
            time.sleep(0.3)

    stream = frames.ahead(map(load, range(1000)), depth=2)
    next(stream)
    assert begun.wait(10) and set(threading.enumerate()) - before
    stream.close()                                        # while 1 is being loaded and 2 waits
    assert not set(threading.enumerate()) - before and loaded == [0, 1]


# ------------------------------------------------------------------ 4. lists of games
def test_official_lists():
    """300, 100, 100 and 50 games, none twice; the names are SoccerNet's."""
    games = {name: frames.read_games(name) for name in ("train", "valid", "test", "challenge")}
    assert [len(games[name]) for name in games] == [300, 100, 100, 50]
    assert frames.read_games("train+valid") == games["train"] + games["valid"]
    assert len(set(frames.read_games("train+valid+test+challenge"))) == 550
    assert "england_epl/2014-2015/2015-02-21 - 18-00 Chelsea 1 - 1 Burnley" in games["train"]


def test_official_lists_are_the_packages():
    downloader = pytest.importorskip("SoccerNet.utils", reason="the SoccerNet package is optional")
    for name in ("train", "valid", "test", "challenge"):
        assert frames.read_games(name) == downloader.getListGames(name)


GAMES = frames.read_games("test")


def test_in_split_knows_a_game_in_every_layout(capsys):
    """Below a split's folder or in part of the path, with _ for a space; the order stays."""
    there = [GAMES[7], "elsewhere/2014-2015/some game", f"test/{GAMES[3]}",
             GAMES[5].replace(" ", "_")]
    assert frames.in_split(there, "test", "frames") == [there[0], there[2], there[3]]
    assert capsys.readouterr().out == "data: frames: 3 of the 100 games of test\n"
    assert frames.in_split(there, "valid+test", "frames") == [there[0], there[2], there[3]]
    league, season, game = GAMES[0].split("/")
    assert frames.in_split([game, "other"], "test", f"frames/{league}/{season}") == [game]
    halves = [half_of(100, number, match=match) for match in there[:2] for number in (1, 2)]
    assert frames.in_split(halves, "test", "frames") == halves[:2]
    assert frames.in_split([GAMES[0]] * 2, "test", "frames") == [GAMES[0]] * 2


def test_in_split_from_a_text_file(tmp_path):
    (tmp_path / "my games.txt").write_text("one\n\n  a/b/two \nleague/a/b/three\n")
    there = ["x/one", "a/b/two", "c/b/two", "a/b/three", "four"]
    (tmp_path / "nfd.txt").write_text("Ko\u0308ln")                 # from a Mac
    assert frames.in_split(["K\u00f6ln"], str(tmp_path / "nfd.txt"), "r") == ["K\u00f6ln"]
    assert frames.in_split(there, str(tmp_path / "my games.txt"), "r") == [
        "x/one", "a/b/two", "a/b/three"]


def test_in_split_names_what_is_missing(tmp_path):
    assert frames.in_split(GAMES, "test", "frames", complete=True) == GAMES
    with refused(match=f"^frames: 2 of the 100 games of test are not below it: {GAMES[0]}; "
                       f"{GAMES[1]}$"):
        frames.in_split(GAMES[2:], "test", "frames", complete=True)
    (tmp_path / "empty.txt").write_text("\n")
    for there, split, message in (
            (["a/b/c"], "test", "100 of the 100 games .* and 90 more"),
            (GAMES, "val", "val: neither .*challenge, test, train, valid"),
            (GAMES, "train+", "neither"),
            (GAMES, str(tmp_path / "empty.txt"), "empty list")):
        with refused(match=message):
            frames.in_split(there, split, "frames")
