"""
What these tests prove about video.py and `python -m comedian.prepare frames`:
  1. frame n is the one that `ffmpeg -vf fps=2` puts there: by its rule, written down once more
     here, and by ffmpeg itself where it is installed
  2. a stretch of a video, gaps, sizes, names; nothing is converted that is not asked for
  3. time is right from the video to the metric: a network that reads the time off the pixels gets
     full marks at the tightest tolerance, whatever the rate
  4. which files are which halves
  5. frames on disk: whole or not there, never twice, and broken files are named
  6. a mistake is one line
Pictures carry their time as a bar code. Motion JPEG in Matroska may have any time stamps; H.264
needs the program ffmpeg.
"""
import argparse
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from conftest import record, refused

import infer
from comedian import DataError, evaluate, labels, lock, prepare, soccernet, video
from comedian.frames import VIDEO_SUFFIXES, FrameReader, find_halves, read_frame

VIDEOS = Path(__file__).parent / "fixtures" / "videos"
FFMPEG = shutil.which("ffmpeg")
needs_ffmpeg = pytest.mark.skipif(not FFMPEG, reason="ffmpeg is not installed")

# ------------------------------------------------------------------ videos that tell the time
BITS, SIZE = 13, (104, 32)                        # a bar of 8 pixels per bit of the time in 10 ms


def picture(time_s):
    """(32, 104, 3): the time in hundredths of a second as 13 black or white bars."""
    bars = round(100 * time_s) >> np.arange(BITS) & 1
    return np.broadcast_to((bars * 255).astype(np.uint8).repeat(8)[None, :, None],
                           (SIZE[1], SIZE[0], 3)).copy()


def read_time(image):
    """Seconds off a picture of any size, compressed or not."""
    bars = cv2.resize(image, (BITS, 1), interpolation=cv2.INTER_AREA)[0].mean(-1) > 127
    return int(bars @ (1 << np.arange(BITS))) / 100


def write_mkv(path, stamps_s, offset_s=0.0, header_fps=None, shown=picture):
    """Matroska with Motion JPEG: picture i says stamps_s[i], its stamp is offset_s later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = shown(0).shape[:2]
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_mux_stream("mjpeg", header_fps, width=width, height=height)
        container.start_encoding()
        for time_s in stamps_s:
            packet = av.Packet(cv2.imencode(".jpg", shown(time_s))[1].tobytes())
            packet.stream, packet.time_base = stream, Fraction(1, 1000)
            packet.pts = packet.dts = round(1000 * (offset_s + time_s))
            container.mux(packet)
    return path


def steady(fps, seconds):
    return np.arange(round(seconds * fps)) / fps


def unsteady(seconds, seed=0):
    """Steps of 10 to 60 ms, and a hole of 1.7 s in the middle."""
    steps = np.random.default_rng(seed).uniform(0.01, 0.06, round(40 * seconds))
    stamps = np.cumsum(steps) - steps[0]
    stamps[stamps > seconds / 2] += 1.7
    return stamps[stamps < seconds].round(3)


RATES = {"24": 24, "25": 25, "29.97": 30000 / 1001, "50": 50}
STAMPS = {"25": steady(25, 9.3), "29.97": steady(RATES["29.97"], 9), "50": steady(50, 7.77),
          "24": steady(24, 8), "1.5": steady(1.5, 12), "2": steady(2, 10), "unsteady": unsteady(12)}


def chosen(stamps_s, fps=2):
    """The rule of ffmpeg's filter: a picture goes to the place nearest to its time, halves up; the
    last one stays. Returns which picture is at place 0, 1, ..."""
    ms = np.round(1000 * np.asarray(stamps_s))                   # as Matroska stores them
    place = np.floor(ms * fps / 1000 + 0.5)
    end = np.floor((2 * ms[-1] - ms[-2]) * fps / 1000 + 0.5)
    return [np.flatnonzero(place <= n)[-1] for n in range(int(end))]


def by_rule(stamps_s, fps=2, start_s=0):
    """What the bar codes of the frames say, in hundredths of a second."""
    return [round(100 * stamps_s[i]) / 100 for i in chosen(stamps_s - start_s, fps)]


def times(path, **options):
    return [read_time(image) for image in video.sample(path, **options)]


def ffmpeg(*arguments, **options):
    return subprocess.run(["ffmpeg", "-loglevel", "error", "-y", *map(str, arguments)], check=True,
                          stdout=subprocess.PIPE, **options).stdout


def times_by_ffmpeg(path, *before, fps=2):
    raw = ffmpeg(*before, "-i", path, "-vf", f"fps={fps},scale={SIZE[0]}:{SIZE[1]}", "-vsync",
                 "cfr", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    return [read_time(image) for image in np.frombuffer(raw, np.uint8).reshape(-1, *SIZE[::-1], 3)]


def write_h264(path, stamps_s, *options):
    """The same pictures, encoded by ffmpeg."""
    ffmpeg("-i", write_mkv(path.with_name("source.mkv"), stamps_s), "-c:v", "libx264", "-preset",
           "ultrafast", "-pix_fmt", "yuv420p", "-vsync", "vfr", *options, path)
    return path


# ------------------------------------------------------------------ 1. the instants
@pytest.mark.parametrize("kind, offset_s, fps, header_fps", [
    *((kind, offset_s, 2, None) for kind in STAMPS for offset_s in (0.0, 1.4)),
    *(("25", 0, fps, None) for fps in (1, 5, 12.5)),
    *(("25", 0, 2, header_fps) for header_fps in (1000, 90000, 10))])      # a header that is wrong
def test_frames_are_those_of_the_rule_and_of_ffmpeg(kind, offset_s, fps, header_fps, tmp_path):
    path = write_mkv(tmp_path / "v.mkv", STAMPS[kind], offset_s, header_fps)
    assert times(path, fps=fps) == by_rule(STAMPS[kind], fps)
    if FFMPEG:
        assert times(path, fps=fps) == times_by_ffmpeg(path, fps=fps)


def test_a_picture_exactly_between_two_places_goes_to_the_later(tmp_path):
    """In spite of 0.1 + 0.5 / 2.5 > 0.3 in floating point."""
    path = write_mkv(tmp_path / "v.mkv", steady(50, 4))
    assert times(path, fps=2.5, start_s=0.1)[:3] == [0.28, 0.68, 1.08]


@needs_ffmpeg
@pytest.mark.parametrize("container, rate", [
    ("h264", "25"), *itertools.product(("mkv", "mp4", "ts"), (*RATES, "unsteady"))])
def test_h264_with_pictures_out_of_order(container, rate, tmp_path):
    """B-frames; MP4 shifts them by an edit list, a bare stream has a rate and no stamps."""
    stamps = unsteady(8) if rate == "unsteady" else steady(RATES[rate], 8)
    path = write_h264(tmp_path / f"v.{container}", stamps, "-bf", 2)
    assert times(path) == times_by_ffmpeg(path) and times(path)[:12] == by_rule(stamps)[:12]
    assert times(path, start_s=5, end_s=7) == times(path)[10:14]


@needs_ffmpeg
def test_a_trimmed_mp4_begins_where_its_edit_list_says(tmp_path, capsys):
    """As phones and `ffmpeg -ss -c copy` trim: the pictures before the cut are there but hidden."""
    long, cut = write_h264(tmp_path / "long.mp4", steady(25, 8), "-g", 75), tmp_path / "cut.mp4"
    ffmpeg("-ss", "4.4", "-i", long, "-c", "copy", cut)
    assert times(cut) == times_by_ffmpeg(cut) and times(cut)[0] > 4.4
    assert capsys.readouterr().err == ""


# ------------------------------------------------------------------ 2. stretches, gaps, sizes
@pytest.mark.parametrize("start_s, end_s", [(0, 3), (0.3, 4.6), (3.2, None), (6.01, 7), (7.3, 60)])
@pytest.mark.parametrize("kind", ["25", "29.97", "50", "unsteady"])
def test_a_stretch(kind, start_s, end_s, tmp_path):
    """Frame n is the one shown at start_s + n / fps; the seek lands on the right picture."""
    path, last_s = write_mkv(tmp_path / "v.mkv", STAMPS[kind]), (end_s or 60) - start_s
    expected = by_rule(STAMPS[kind], start_s=start_s)[:int(2 * last_s + 0.5)]
    assert times(path, start_s=start_s, end_s=end_s) == expected


@needs_ffmpeg
@pytest.mark.parametrize("name, value", [("MOST_WAITING", 0), ("seek_before", lambda *_: False)])
def test_a_stretch_of_h264(name, value, tmp_path, monkeypatch):
    """Far from key frames, as after ffmpeg's -ss. A seek leads to the last, or waits in vain."""
    monkeypatch.setattr(video, name, value)
    decoded = record(monkeypatch, video.Stamps, "__call__")
    path = write_h264(tmp_path / "v.mp4", steady(25, 30), "-bf", 2, "-g", 250)
    for start_s, length_s in [(3.3, 4.0), (12.0, 5.3), (25.5, 10)]:
        assert (times(path, start_s=start_s, end_s=start_s + length_s)
                == times_by_ffmpeg(path, "-ss", start_s, "-t", length_s))
    assert len(decoded) < 700                             # for all three; else 1,365


def test_a_gap_repeats_the_picture_before_it(tmp_path):
    stamps = np.concatenate([steady(25, 4), 7.3 + steady(25, 2)])
    shown = list(video.sample(write_mkv(tmp_path / "v.mkv", stamps)))
    got = [read_time(image) for image in shown]
    assert got[:8] == by_rule(stamps)[:8]
    assert got[8:15] == [3.96] * 7 and got[15] == 7.74       # 7.3 lies after 7 + 0.25
    assert all(image is shown[8] for image in shown[9:15])                # not decoded again


def test_only_pictures_that_are_needed_are_converted(tmp_path, monkeypatch):
    """At 25 fps two in 25 are; the rest are decoded, which costs less."""
    calls = record(monkeypatch, video, "to_rgb")
    assert len(list(video.sample(write_mkv(tmp_path / "v.mkv", steady(25, 40))))) == 80
    assert len(calls) == 80


def test_size_colour_and_header(tmp_path):
    def red(time_s):
        return np.full((33, 57, 3), (10, 20, 240), np.uint8)              # OpenCV: blue first
    path = write_mkv(tmp_path / "v.mkv", steady(25, 2), header_fps=25, shown=red)
    assert video.probe(path) == (str(path), 2.0, 25.0, 57, 33)
    for size, shape in ((None, (33, 57, 3)), ((398, 224), (224, 398, 3)), ((20, 10), (10, 20, 3))):
        frames = np.stack([*video.sample(path, size=size)])
        assert frames.shape == (4, *shape) and frames.dtype == np.uint8
        assert np.abs(frames.mean((1, 2)) - (240, 20, 10)).max() < 6


@pytest.mark.parametrize("name", ["a b.mkv", "it's \"1\".mkv", "Žižkov Łódź 東京.mkv", "a: 1.mkv",
                                  "100%d.mkv", "-i.mkv"])
def test_names(name, tmp_path, monkeypatch):
    write_mkv(tmp_path / name, steady(25, 2))
    monkeypatch.chdir(tmp_path)
    assert len(times(name)) == len(times(tmp_path / name)) == 4


# ------------------------------------------------------------------ 3. time, end to end
EVENTS = [(0, 0), (3, 1), (14, 2), (15, 0), (27, 1), (37, 2), (41, 1), (54, 2), (58, 0)]  # s, class
CLASSES = ("Goal", "Foul", "Corner")


@pytest.mark.parametrize("kind, offset_s", [("25", 0), ("29.97", 0), ("50", 0), ("25", 1.4),
                                            ("29.97", 0.733), ("unsteady", 0), ("unsteady", 3.21)])
def test_a_perfect_network_gets_full_marks(kind, offset_s, tmp_path):
    """Video -> frames on disk -> tokens -> detections -> results JSON -> metric."""
    stamps = unsteady(60) if kind == "unsteady" else steady(RATES[kind], 60)
    write_mkv(tmp_path / "videos" / "m" / "1_224p.mkv", stamps, offset_s)
    frames(tmp_path)
    half, = find_halves(tmp_path / "frames")
    clips = FrameReader(1).read([(half, 2 * k) for k in range(half.n_tokens)], 2)
    seen = [[int(read_time(image)) for image in clip] for clip in clips.numpy()]
    scores = torch.full((1, half.n_tokens, len(CLASSES)), 1e-4)              # (1, n_tokens, K)
    for second, label in EVENTS:
        for token, clip in enumerate(seen):
            if clip == [second, second]:                   # both frames of the token agree
                scores[0, token, label] = 0.9
    found = infer.spot([half], [scores[0]], infer.parse_args("--data x --checkpoint y".split()))
    path = tmp_path / "results_spotting.json"
    soccernet.write_predictions(path, "m", found, CLASSES)
    truth = {"m": [soccernet.Event(1, label, 1000 * second, True) for second, label in EVENTS]}
    result = evaluate.score(truth, {"m": soccernet.read_predictions(path, CLASSES)}, CLASSES)
    assert result["at1"]["a_mAP"] == result["tight"]["a_mAP"] == pytest.approx(1.0)


# ------------------------------------------------------------------ 4. files and halves
def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_matches_of_a_tree(tmp_path, capsys):
    touch(tmp_path, "l/s/a b/1_224p.mkv", "l/s/a b/2_224p.mkv", "l/s/a b/1_720p.mkv",
          "l/s/c/1.mp4", "l/s/c/2.MP4", "l/s/c/highlights.mp4", "l/s/c/Labels-v2.json",
          "l/s/ball/224p.mp4", "l/s/ball/720p.mp4", "l/s/ball/._224p.mp4", "__MACOSX/l/1.mkv",
          "l/s/d/2_HQ.mkv", "l/s/d/1_720p.mkv", "l/s/d/1_360p.mkv", "l/s/d/._1_224p.mkv",
          "cup final.webm", "3_points.avi", "l/s/e/1_720p.mxf", "l/s/e/2.OGV", "labels.csv",
          "l/s/e/video.ini", "l/s/e/thumb.JPG", "list.m3u8", "l/s/e/2.ogv.part", "a.part", "README",
          "l/s/c/3.mp4")
    (tmp_path / "l/back").symlink_to(tmp_path)             # a loop of links is visited once
    found = [[Path(half).relative_to(tmp_path).as_posix() for half in match]
             for match in video.find_videos(tmp_path)]
    assert found == [["3_points.avi"], ["cup final.webm"],
                     ["l/s/a b/1_224p.mkv", "l/s/a b/2_224p.mkv"], ["l/s/ball/224p.mp4"],
                     ["l/s/c/1.mp4", "l/s/c/2.MP4"], ["l/s/c/3.mp4"], ["l/s/c/highlights.mp4"],
                     ["l/s/d/1_360p.mkv", "l/s/d/2_HQ.mkv"], ["l/s/e/1_720p.mxf", "l/s/e/2.OGV"]]
    left_out, alone, passed_over = capsys.readouterr().out.splitlines()
    assert "1_224p.mkv, not 1_720p.mkv (3 left out)" in left_out
    assert "so it is a match of its own (1 such files)" in alone
    assert passed_over == (f"video: {tmp_path}: skipped 4 files without the suffix of a video: "
                           ".part 2, without a suffix 1, .m3u8 1")


def test_a_match_has_the_name_that_labels_give_it(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "probe", lambda path: video.Video(path, 60, 25, 64, 48))
    for suffix in VIDEO_SUFFIXES:
        touch(tmp_path, "final v1.2" + suffix)
        half, = video.halves([tmp_path / ("final v1.2" + suffix)])
        assert ("final v1.2", 1) == (half.match, half.number) == labels.video_of(
            "final v1.2" + suffix)


def test_matches_of_files(tmp_path):
    touch(tmp_path, "x.mkv", "y.mkv", "m/1.mkv")
    x, y, m = (str(tmp_path / name) for name in ("x.mkv", "y.mkv", "m"))
    assert video.find_videos([y]) == video.find_videos(y) == [[y]]
    assert video.find_videos([y, x]) == [[y, x]]                          # in the order given
    assert video.find_videos([m, x]) == [[m + "/1.mkv"], [x]]
    (tmp_path / "empty").mkdir()
    for paths, message in (([x, y, tmp_path / "m/../x.mkv"], "x.mkv: is given twice"),
                           ([x, tmp_path / "z.mkv"], "z.mkv: no such file or folder"),
                           (tmp_path / "empty", "empty: no video below it .*empty/ holds nothing")):
        with refused(match=message):
            video.find_videos(paths)


# ------------------------------------------------------------------ 5. frames on disk
def frames(root, **changes):
    prepare.extract(argparse.Namespace(**{
        "videos": str(root / "videos"), "out": str(root / "frames"), "fps": 2.0,
        "size": list(SIZE), "jobs": 2, **changes}))


def tree(root):
    return {path.relative_to(root).as_posix(): path.read_bytes()
            for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture
def library(tmp_path):
    """videos/: a match of two halves, one of another name."""
    write_mkv(tmp_path / "videos/l/a b/1_224p.mkv", steady(25, 5))
    write_mkv(tmp_path / "videos/l/a b/2_224p.mkv", steady(50, 4))
    write_mkv(tmp_path / "videos/cup final.mkv", steady(30000 / 1001, 3))
    return tmp_path


def test_frames_are_laid_out_as_data_reads_them(library, capsys):
    frames(library, size=[398, 224])
    said = capsys.readouterr().out
    assert "2 matches, 3 halves; 0 done before, 3 to do" in said and "24 new frames" in said
    halves = find_halves(library / "frames")
    assert [(half.match, half.number, half.n_frames, half.fps) for half in halves] == [
        ("cup final", 1, 6, 2.0), ("l/a b", 1, 10, 2.0), ("l/a b", 2, 8, 2.0)]
    assert Path(halves[1].path(0)).relative_to(library) == Path("frames/l/a b/1_224p/00000001.jpg")
    for half in halves:
        shown = [read_time(read_frame(half.path(n))) for n in range(half.n_frames)]
        name = "cup final.mkv" if half.match == "cup final" else f"l/a b/{half.number}_224p.mkv"
        assert shown == times(library / "videos" / name)
        assert read_frame(half.path(0)).shape == (224, 398, 3)
    frames(library, fps=5.0, out=library / "more")
    assert {half.fps for half in find_halves(library / "more")} == {5.0}


def test_what_is_done_is_left_alone(library, capsys):
    frames(library)
    before, match = tree(library / "frames"), library / "frames/l/a b"
    shutil.rmtree(match / "2_32p")
    (match / "1_32p/00000003.jpg").write_bytes(b"mine")
    touch(match, ".2_32p.unfinished/00000099.jpg")                       # of a run that was killed
    capsys.readouterr()
    frames(library)
    assert "2 done before, 1 to do" in capsys.readouterr().out
    assert tree(library / "frames") == {**before, "l/a b/1_32p/00000003.jpg": b"mine"}


@pytest.mark.parametrize("lost, changes, n_refused, why", [
    ("nothing", {"fps": 4.0}, 3, "fps: 2.0, now 4.0"),
    ("nothing", {"size": [52, 32]}, 3, "size: [104, 32], now [52, 32]"),
    ("00000010.jpg", {}, 1, "frames: 10, now 9"),                         # only one half has it
    ("made.json", {"fps": 4.0}, 3, "fps: 2.0, now 4.0"),                  # by another program
    ("made.json", {"size": [52, 32]}, 3, "size: [104, 32], now [52, 32]"),
    ("made.json", {}, 0, "")])
def test_frames_made_otherwise_are_not_mixed_in(lost, changes, n_refused, why, library, capsys):
    frames(library)
    for path in (library / "frames").rglob(lost):
        path.unlink()
    before = tree(library / "frames")
    with pytest.raises(DataError, match=f"{n_refused} of 3 halves") if why else nullcontext():
        frames(library, **changes)
    assert capsys.readouterr().err.count(
        f"_32p: exists already, made with other settings ({why})") == n_refused
    assert tree(library / "frames") == before


def test_broken_files_are_named_and_the_others_done(library):
    """By the command."""
    good = (library / "videos/l/a b/1_224p.mkv").read_bytes()
    (library / "videos/cut.mkv").write_bytes(good[:len(good) // 2])
    (library / "videos/empty.mp4").touch()
    (library / "videos/text.mp4").write_text("not a video\n" * 100)
    flags = "-m comedian.prepare frames --videos videos --out frames --size 104 32 --jobs 1"
    done = subprocess.run([sys.executable, *flags.split()], capture_output=True, text=True,
                          cwd=library)
    assert done.returncode == 2 and "24 new frames" in done.stdout
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert all(done.stderr.count(name) == 1 for name in ("cut.mkv", "empty.mp4", "text.mp4"))
    assert ("error: videos/empty.mp4: is empty (0 bytes); copy or download it again"
            in errors and len(errors) == 4 and "Traceback" not in done.stderr)
    assert errors[-1] == ("error: 3 of 6 halves could not be read, the others are done; repair or "
                          "remove them and run the same command again")
    assert len(find_halves(library / "frames")) == 3
    assert not list((library / "frames").rglob(".*"))                     # nothing half-done


@pytest.mark.parametrize("problem", [PermissionError(13, "Permission denied"),
                                     OSError(28, "No space left on device")])
def test_a_disk_that_takes_nothing_more(problem, library, monkeypatch):
    """From the second half on: the first stays, of the others nothing; one line."""
    write, written = Path.write_bytes, []

    def full(path, content):
        written.append(path)
        if len(written) > 15:
            raise problem
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match=f"frames: cannot be written .{problem.strerror}"):
        frames(library, jobs=1)
    assert [half.n_frames for half in find_halves(library / "frames")] == [6]
    assert not list((library / "frames").rglob(".*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_what_is_finished(number, library, monkeypatch, capsys):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)          # nohup may have started the tests
    signal.signal(signal.SIGINT, signal.default_int_handler)        # or a script, with &
    waited, before = prepare.concurrent.futures.as_completed, signal.getsignal(number)

    def interrupted(running):
        yield next(waited(running))
        os.kill(os.getpid(), number)
        time.sleep(9)

    monkeypatch.setattr(prepare.concurrent.futures, "as_completed", interrupted)
    with pytest.raises(SystemExit) as ended:
        frames(library, jobs=1)
    monkeypatch.undo()
    line, = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    done = len(find_halves(library / "frames"))
    assert ended.value.code == 128 + number and signal.getsignal(number) == before
    assert line == (f"error: stopped; {done} of 3 halves are finished in {library / 'frames'}; "
                    "the same command continues from there")
    assert not list((library / "frames").rglob(".*"))
    frames(library)
    assert len(find_halves(library / "frames")) == 3


def test_one_folder_is_written_by_one_process(library):
    (library / "frames").mkdir()
    held = lock(library / "frames")
    with pytest.raises(DataError, match="frames: another run is writing there; wait for its end"):
        frames(library)
    assert not list((library / "frames").iterdir())
    os.close(held)
    frames(library)


def test_a_half_that_lacks_its_end_is_named_in_every_run(library, capsys):
    """Half a second is missing: it gives frames. With a second it would be refused."""
    path = library / "videos/l/a b/1_224p.mkv"
    content = path.read_bytes()
    path.write_bytes(content[:len(content) * 9 // 10])
    for new in (23, 0):
        frames(library)
        printed = capsys.readouterr()
        note, = (line for line in printed.err.splitlines() if line.startswith("note: "))
        assert note == (f"note: {path}: is cut off at 4.6 of 5.0 s; if the original is longer, "
                        "copy or download it again")
        last = printed.out.splitlines()[-1]
        assert f"{new} new frames" in last and "; videos that are cut off: 1" in last


def test_two_videos_for_one_folder_are_refused(tmp_path):
    touch(tmp_path / "videos", "x.mkv", "x.mp4")
    with pytest.raises(DataError, match="x.mp4 and .*x.mkv would both become"):
        frames(tmp_path)


# ------------------------------------------------------------------ 6. mistakes
@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
@pytest.mark.parametrize("make, message", [
    (lambda path: None, "no such video"), (Path.touch, "is empty"), (Path.mkdir, "is a folder"),
    (lambda path: path.write_text("Goal! " * 1000), "not a video|no picture"),
    (lambda path: path.write_bytes(np.random.default_rng(0).bytes(20_000)),
     "not a video|no picture"),
    (lambda path: write_mkv(path, []), "not a video|no picture"),
    (lambda path: path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n"      # a playlist
                                  "http://127.0.0.1:9/a.ts\n"), "not a video|no picture"),
    (lambda path: path.write_bytes((VIDEOS / "rot90.mp4").read_bytes()[:100]),
     "cut off before its index")])
def test_what_is_no_video_is_refused(make, message, name, tmp_path, capfd):
    make(tmp_path / name)
    for read in (video.probe, times):
        with pytest.raises(DataError, match=f"{name}: .*({message})"):
            read(tmp_path / name)
    assert capfd.readouterr().err == ""                   # FFmpeg does not speak between the lines


@pytest.mark.parametrize("suffix, tail", [
    *(("mkv", tail) for tail in ("missing", "zeros")),
    *(pytest.param(suffix, tail, marks=needs_ffmpeg) for suffix, tail in [
        ("mp4", "missing"), ("mp4", "zeros"), ("mp4", "noise"), ("flv", "zeros")])])
def test_a_truncated_file_gives_what_it_has(suffix, tail, tmp_path):
    path = (write_mkv(tmp_path / "v.mkv", steady(25, 20)) if suffix == "mkv" else
            write_h264(tmp_path / f"v.{suffix}", steady(25, 20), "-g", 25,
                       *["-movflags", "faststart"] * (suffix == "mp4")))
    whole, content, got = times(path), path.read_bytes(), []
    kept, lost = content[:len(content) // 2], len(content) - len(content) // 2
    path.write_bytes(kept + {"missing": b"", "zeros": bytes(lost),
                             "noise": np.random.default_rng(0).bytes(lost)}[tail])
    with pytest.raises(DataError, match=rf"{path}: is cut off at \d+\.\d of 20\.0 s; copy or"):
        got.extend(map(read_time, video.sample(path)))
    assert len(whole) == 40 and 14 <= len(got) <= 24 and got[:-1] == whole[:len(got) - 1]


def test_a_stretch_that_is_not_there(tmp_path):
    path = write_mkv(tmp_path / "v.mkv", steady(25, 5))
    for start_s, end_s, said in (*((*part, "do not fit; give 0 <= start < end") for part in (
            (-1, None), (3, 3), (3, 2))), (9, None, "v.mkv: ends at 5.00 s: no frame from 9 s on")):
        with refused(said):
            times(path, start_s=start_s, end_s=end_s)
    with pytest.raises(DataError, match="no frame from 0 s on at 2 fps"):       # 80 ms
        times(write_mkv(tmp_path / "short.mkv", steady(25, 0.08)))
