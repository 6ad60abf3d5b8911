"""
What these tests prove about video.py: the kinds of files that television, phones and joined
recordings give.
  1. the files of fixtures/videos show the pictures that ffmpeg gives
  2. interlaced material: the comb is gone; pictures that are only flagged stay as they are
  3. clocks that jump, restart or wrap; --start and --end keep absolute times
  4. several streams, HDR, slow rates, starts in the middle
  5. damage and truncation are told in one line
  6. what cannot be decoded, what cannot be right
No ffmpeg binary is needed: PyAV writes what the fixtures lack. docs/video.md has the comparison
with ffmpeg itself.
"""
import functools
import json
import re
import struct
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from test_video import VIDEOS, chosen, steady, write_mkv

from comedian import video
from comedian.frames import DataError

WIDTH, HEIGHT = 160, 96


def number(image):
    """The number off a picture with a bar code: 16 columns, upper third against middle third."""
    upper, middle = (image[y:y + 3].mean((0, 2)) for y in (len(image) // 6, len(image) // 2))
    centres = ((np.arange(16) + 0.5) * image.shape[1] / 16).astype(int)
    return int((upper > middle)[centres] @ (1 << np.arange(16)))


def picture(i, flat=False):
    """(H, W, 3): number i as a bar code, with a box below that moves 4 pixels a picture."""
    bars = (i >> np.arange(16) & 1).repeat(WIDTH // 16)
    image = np.full((HEIGHT, WIDTH), 60, np.uint8)
    if not flat:
        image[:HEIGHT // 3], image[HEIGHT // 3:2 * HEIGHT // 3] = 16 + 219 * bars, 235 - 219 * bars
    left = 4 * i % (WIDTH - 60)
    image[2 * HEIGHT // 3 + 4:-4, left:left + 60] = 220
    return image[..., None].repeat(3, 2)


def write(path, images, codec="libx264", fps=25, pixels="yuv420p", fields=None, offset_s=0,
          options=None, stream_options=None, sound=None, **context):
    """A video by FFmpeg's encoders. fields: "tff" flags all pictures as interlaced. sound: its
    codec. context: attributes of the encoder."""
    rate = Fraction(fps)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=stream_options or {})
        noise = container.add_stream(sound, rate=48000, bit_rate=64000) if sound else None
        for name, value in {"width": WIDTH, "height": HEIGHT, "pix_fmt": pixels, **context}.items():
            setattr(stream.codec_context, name, value)

        def mux(packets):
            for packet in packets:
                packet.pts += round(offset_s / packet.time_base)
                packet.dts += round(offset_s / packet.time_base)
                container.mux(packet)

        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pixels)
            if fields:
                graph = av.filter.Graph()
                graph.link_nodes(graph.add_buffer(template=frame, time_base=1 / rate),
                                 graph.add("setfield", fields), graph.add("buffersink")).configure()
                graph.push(frame)
                frame = graph.pull()
            frame.pts, frame.time_base = i, 1 / rate
            mux(stream.encode(frame))
            if sound:
                samples = np.random.default_rng(i).integers(-999, 999, (1, 48000 // fps), np.int16)
                heard = av.AudioFrame.from_ndarray(samples, "s16", "mono")
                heard.rate, heard.pts, heard.time_base = 48000, i * 48000 // fps, Fraction(1, 48000)
                container.mux(noise.encode(heard))
        mux(stream.encode())
        container.mux(noise.encode() if sound else [])
    return path


def numbers(path, **options):
    return [number(image) for image in video.sample(path, **options)]


def by_rule(n, fps=25):
    """The numbers that `ffmpeg -vf fps=2` gives of n pictures at a steady rate."""
    return chosen(np.arange(n) / float(fps))


# ------------------------------------------------------------------ 1. the fixtures
EXPECTED = json.loads((VIDEOS / "expected.json").read_text())


@pytest.mark.parametrize("name", EXPECTED)
def test_known_pictures(name):
    """null: before a late start. A stretch keeps absolute times, across a joint and a gap, too."""
    shown, expected = numbers(VIDEOS / name), EXPECTED[name]
    first = next(n for n in expected if n is not None)
    assert shown == [first if n is None else n for n in expected] and len(shown) > 8
    assert numbers(VIDEOS / name, start_s=4, end_s=7) == shown[8:14]


def test_a_phone_video_is_upright():
    expected = np.array(json.loads((VIDEOS / "rotated.json").read_text())["rot90.mp4"])
    image = next(video.sample(VIDEOS / "rot90.mp4", size=(398, 224)))
    grid = [[image[28 * y:28 * y + 28, round(x * 49.75):round((x + 1) * 49.75)].mean((0, 1))
             for x in range(8)] for y in range(8)]
    assert np.abs(np.array(grid) - expected).mean() < 3
    assert video.probe(VIDEOS / "rot90.mp4")[3:] == (224, 400)


# ------------------------------------------------------------------ 2. interlaced
def comb(image):
    """How many pixels lie between rows that alternate: the mark of two instants in one picture."""
    step = np.diff(image.mean(2), axis=0)
    turns = step[:-1] * step[1:] < -400
    return int((turns[:-1] & turns[1:]).sum())


def woven(i, flat):
    """Picture of two fields: upper rows of instant 2i, lower rows of 2i + 1. Not flat: with bars
    above, others in every picture but the same in both fields: much of it is not combed."""
    image = picture(2 * i, flat=True)
    image[1::2] = picture(2 * i + 1, flat=True)[1::2]
    if not flat:
        bars = np.random.default_rng(i).integers(0, 2, 16).repeat(WIDTH // 16)
        image[:76] = (16 + 219 * bars)[:, None]
    return image


INTERLACED = {"il.mkv": ("libx264", {"crf": "10", "x264-params": "tff=1"}),
              "il.ts": ("libx264", {"crf": "10", "x264-params": "tff=1"}),
              "il.mpg": ("mpeg2video", {"qscale": "2"}), "mpeg2.ts": ("mpeg2video", {})}


def write_flagged(path, images):
    """Flagged as interlaced. Returns the pictures as FFmpeg decodes them."""
    codec, options = INTERLACED[path.name]
    write(path, images, codec, fields="tff", stream_options={**options, "flags": "+ildct+ilme"})
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert all(frame.interlaced_frame for frame in frames)
    return frames


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("name", INTERLACED)
def test_no_comb_is_left_on_a_moving_shape(name, flat, tmp_path):
    frames = write_flagged(tmp_path / name, [woven(i, flat) for i in range(75)])
    assert comb(frames[18].to_ndarray(format="rgb24")) > 100               # it was there
    for image, i in zip(video.sample(tmp_path / name), by_rule(75), strict=True):
        assert comb(image) < 20                            # noise of MPEG-2
        box = np.flatnonzero(image[80].mean(1) > 140)      # where it was in the first field
        assert abs(box[0] - 8 * i % (WIDTH - 60)) <= 2 and len(box) in range(56, 66)


@pytest.mark.parametrize("name", INTERLACED)
def test_progressive_pictures_that_are_only_flagged_stay_sharp(name, tmp_path):
    """bwdif alone would take every second row of what moves from its neighbours."""
    texture = np.random.default_rng(0).integers(40, 220, (HEIGHT, 4 * WIDTH, 1))
    texture = (sum(np.roll(texture, k, 0) for k in range(4)) // 4).astype(np.uint8).repeat(3, 2)
    frames = write_flagged(tmp_path / name, [texture[:, 3 * i:3 * i + WIDTH] for i in range(75)])
    for image, i in zip(video.sample(tmp_path / name), by_rule(75), strict=True):
        np.testing.assert_array_equal(image, frames[i].to_ndarray(format="rgb24",
                                                                  interpolation="AREA"))


# ------------------------------------------------------------------ 3. clocks
@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """make(offset_s): bytes of a transport stream of 10 s whose clock begins there."""
    folder = tmp_path_factory.mktemp("ts")
    return functools.cache(lambda offset_s: write(
        folder / f"{offset_s}.ts", map(picture, range(250)), offset_s=offset_s,
        stream_options={"g": "50"}).read_bytes())


@pytest.mark.parametrize("second_s", [0, 3, 5000, 90000])
def test_time_continues_where_the_clock_jumps(second_s, recording, tmp_path, capsys):
    path = tmp_path / "joined.ts"
    path.write_bytes(recording(0) + recording(second_s))
    assert numbers(path) == 2 * by_rule(250)
    said = capsys.readouterr().err
    by_s = float(re.search(r"clock jumps by (\S+) s at 9.9 s .1 in all.; the time", said)[1])
    assert by_s == pytest.approx(second_s - 10, abs=0.15) and said.count("\n") == 1
    assert numbers(path, start_s=12, end_s=15) == by_rule(250)[4:10]
    assert video.probe(path).duration_s == 0               # nothing is promised


def test_a_gap_of_some_seconds_stays_a_gap(recording, tmp_path):
    path = tmp_path / "gap.ts"
    path.write_bytes(recording(0) + recording(15))
    assert numbers(path)[:20] == by_rule(250) and len(numbers(path)) == 50


@pytest.mark.parametrize("offset_s", [36000, 95438, 95441])     # 33 bits end at 95,443.7 s
def test_a_clock_that_wraps(offset_s, recording, tmp_path, capsys):
    path = tmp_path / "wrap.ts"
    path.write_bytes(recording(offset_s))
    assert numbers(path) == by_rule(250)
    assert video.probe(path).duration_s == pytest.approx(10, abs=0.1)
    assert capsys.readouterr().err == ""


# ------------------------------------------------------------------ 4. other kinds
def test_the_default_stream_is_read_and_named(capsys):
    """The note goes where it is asked for."""
    heard, said = [], str(VIDEOS / "two.mkv: has 2 picture streams; stream 1 (400x224) is read")
    assert numbers(VIDEOS / "two.mkv") == numbers(VIDEOS / "two.mkv", note=heard.append)
    assert heard == [said] and capsys.readouterr().err == f"note: {said}\n"


def test_a_small_stream_may_be_the_default(tmp_path):
    """ffmpeg's rule: the largest, where being the default counts as 5 million pixels."""
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        streams = [container.add_stream("ffv1", rate=25) for _ in range(2)]
        for stream, size, default in zip(streams, (160, 64), (0, 1), strict=True):
            stream.width = stream.height = size
            stream.pix_fmt, stream.disposition = "yuv420p", default
        for i in range(25):
            for stream in streams:
                frame = av.VideoFrame(stream.width, stream.height, "yuv420p")
                frame.pts, frame.time_base = i, Fraction(1, 25)
                container.mux(stream.encode(frame))
    assert next(video.sample(tmp_path / "v.mkv")).shape == (64, 64, 3)


@pytest.mark.parametrize("transfer, name", [(16, "PQ"), (18, "HLG")])
def test_hdr_prints_a_note(transfer, name, tmp_path, capsys):
    path = write(tmp_path / "v.mkv", map(picture, range(50)), "libx265", pixels="yuv420p10le",
                 color_trc=transfer, stream_options={"x265-params": "log-level=none"})
    assert numbers(path) == by_rule(50)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"v.mkv: HDR ({name}), so its colours look pale" in said


@pytest.mark.parametrize("fps", ["1/2", "1", "3/2", "2", "3"])
@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts", "avi"])
def test_slow_rates(fps, suffix, tmp_path):
    """The last picture lasts as long as the others."""
    path = write(tmp_path / f"v.{suffix}", map(picture, range(12)),
                 "libx264" if suffix == "ts" else "mpeg4", fps)
    assert numbers(path) == by_rule(12, Fraction(fps))


def test_a_recording_that_begins_between_key_pictures(recording, tmp_path, capsys):
    """The first picture that can be decoded is that of second 2; it is shown before that, too."""
    path = tmp_path / "v.ts"
    path.write_bytes(recording(0))
    with av.open(str(path)) as container:
        fourth = [packet.pos for packet in container.demux(video=0)][3]
    path.write_bytes(recording(0)[fourth:])
    shown = numbers(path)
    assert shown[4:] == [n + 3 for n in by_rule(250) if n > 50] and len(set(shown[:4])) == 1
    assert "its first picture is at 1.8 s; it is also used" in capsys.readouterr().err


# ------------------------------------------------------------------ 5. damage
CONTAINERS = {      # codecs of picture and sound, options, whether the header has the full length
    "v.mp4": ("libx264", "aac", {"movflags": "faststart"}, True),
    "frag.mp4": ("libx264", "aac", {"movflags": "frag_keyframe+empty_moov"}, False),
    "v.3gp": ("mpeg4", "aac", {"movflags": "faststart"}, True),
    "v.mkv": ("libx264", "aac", {}, True), "live.mkv": ("libx264", "aac", {"live": "1"}, False),
    "v.webm": ("libvpx", "opus", {}, True), "v.avi": ("mpeg4", "mp2", {}, True),
    "silent.avi": ("mjpeg", None, {}, True), "v.wmv": ("wmv2", "wmav2", {}, True),
    "v.flv": ("flv", "libmp3lame", {}, True), "v.mxf": ("mpeg2video", "pcm_s16le", {}, True),
    "live.flv": ("libx264", "aac", {"flvflags": "no_duration_filesize"}, False),
    "v.ogv": ("libvpx", "opus", {}, False), "v.ts": ("libx264", "mp2", {}, False),
    "v.m2ts": ("mpeg2video", "ac3", {"mpegts_m2ts_mode": "1"}, False),
    "v.mpg": ("mpeg2video", None, {}, False), "v.vob": ("mpeg2video", "ac3", {}, False),
    "v.rm": ("rv10", None, {}, True)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """make(name): the path of a whole file of six seconds; libx264 makes B-frames."""
    folder = tmp_path_factory.mktemp("whole")

    @functools.cache
    def make(name):
        codec, sound, options, _ = CONTAINERS[name]
        return write(folder / name, map(picture, range(150)), codec, sound=sound, options=options,
                     pixels="yuvj420p" if codec == "mjpeg" else "yuv420p",
                     stream_options={"g": "50", "b": "200k", "cpu-used": "8", "threads": "1"})
    return make


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_file_that_is_cut_off_prints_a_note(name, whole, tmp_path, capsys):
    """An error if the header lacks more than a second, else a note; none of a whole file."""
    assert len(numbers(whole(name))) == 12 and capsys.readouterr().err == ""
    content, path = whole(name).read_bytes(), tmp_path / name
    for part in (0.3, 0.55, 0.8, 0.95):
        path.write_bytes(content[:int(len(content) * part) + 77 | 1])  # not between two packets
        images, errors = [], []
        try:
            images.extend(video.sample(path))
        except DataError as error:
            errors = [f"error: {error}"]
        line, = capsys.readouterr().err.splitlines() + errors
        found = re.fullmatch(r"(note|error): (.*): is cut off at (\d\.\d)( of 6\.\d)? s; .*", line)
        assert found and found[2] == str(path), line
        assert abs(2 * float(found[3]) - len(images)) <= 0.6 and abs(6 * part - len(images) / 2) < 2
        in_header, end_s = CONTAINERS[name][3], float(found[3])
        assert bool(found[4]) == in_header or in_header and end_s > 5.8, line   # all but sound
        assert (found[1] == "error") == (in_header and end_s < 5), line


@pytest.mark.parametrize("name, more", [
    ("v.mp4", struct.pack(">I4s", 8200, b"free") + bytes(8192)), ("v.avi", b"made with a tool"),
    ("v.ts", (b"G\x1f\xff\x10" + b"\xff" * 184) * 50), ("v.mp4", bytes(8192)),
    ("v.avi", bytes(8192)), ("v.mp4", b"\r\n"), ("v.mp4", bytes(range(128, 256)) * 24),
    ("v.ts", b"\n"), ("v.ts", bytes(5000)), ("v.m2ts", b"\r\n"), ("v.m2ts", bytes(188 * 192))])
def test_what_follows_a_whole_file_makes_no_note(name, more, whole, tmp_path, capsys):
    (tmp_path / name).write_bytes(whole(name).read_bytes() + more)
    assert len(numbers(tmp_path / name)) == 12 and capsys.readouterr().err == ""


def test_a_dv_file_that_is_cut_off_prints_a_note(tmp_path, capsys):
    path, images = tmp_path / "v.dv", np.zeros((25, 576, 720, 3), np.uint8)
    write(path, images, "dvvideo", width=720, height=576)
    content = path.read_bytes()
    for kept, note in ((content, ""), (content + b"\n", ""), (content[:-70_001], "is cut off at")):
        path.write_bytes(kept)
        assert len(list(video.sample(path))) == 2
        assert note in (said := capsys.readouterr().err) and bool(said) == bool(note), said


LIVE = {"v.ts": ("libx264", None), "v.mpg": ("mpeg2video", None),
        "v.mkv": ("libx264", {"live": "1"}), "v.flv": ("flv", None), "v.mp4": ("libx264", None)}


@pytest.mark.parametrize("name", LIVE)                                         # AVI has no stamps
def test_damage_prints_a_note_and_is_skipped(name, tmp_path, capsys):
    codec, options = LIVE[name]
    path = write(tmp_path / name, map(picture, range(250)), codec, options=options,
                 stream_options={"g": "25"})
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle:middle + 600] = np.random.default_rng(1).bytes(600)
    path.write_bytes(content)
    got, expected = numbers(path), by_rule(250)
    assert len(got) == 20 and got[:7] == expected[:7] and got[-6:] == expected[-6:]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "seconds, first at" in said and "damaged in" in said


# ------------------------------------------------------------------ 6. what cannot be right
def test_a_codec_without_a_decoder_is_named(tmp_path):
    path = write_mkv(tmp_path / "v.mkv", steady(25, 2))
    path.write_bytes(path.read_bytes().replace(b"V_MJPEG", b"V_AVS2\0"))
    for read in (video.probe, lambda path: list(video.sample(path))):
        with pytest.raises(DataError, match=r"v.mkv: its codec \(avs2.*\) cannot be decoded here; "
                                            "ffmpeg -i OLD -c:v libx264 -crf 18 NEW.mkv"):
            read(path)


def test_a_file_without_pictures_is_refused(tmp_path):
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.float32), "fltp", "mono")
        sound.rate = 48000
        container.mux([*stream.encode(sound), *stream.encode()])
    with pytest.raises(DataError, match="v.mkv: no picture can be read"):
        video.probe(tmp_path / "v.mkv")


def test_a_picture_that_does_not_change_prints_a_note(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(video, "STILL_S", 4)
    moving, still = [picture(i) for i in range(50)], [picture(50)] * 150
    assert len(numbers(write(tmp_path / "v.mkv", moving + still, "ffv1"))) == 16
    assert capsys.readouterr().err.splitlines() == [
        f"note: {tmp_path}/v.mkv: its picture does not change for 4 s from 2.0 s on"]
    assert len(numbers(write(tmp_path / "v.mkv", moving + still[:75], "ffv1"))) == 10
    assert capsys.readouterr().err == ""


def test_the_kernels_need_no_video_library():
    code = "import sys; sys.modules['av'] = None; from comedian import ops"
    subprocess.run([sys.executable, "-c", code], check=True)
