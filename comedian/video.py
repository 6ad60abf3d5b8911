"""
A video file -> its frames at a fixed rate, by time stamp; and which files are whose halves.

    for frame in video.sample("match.mkv", fps=2.0, size=(398, 224)):    # (224, 398, 3) uint8, RGB
    halves = video.halves(["match/"])                 # its 1_720p.mkv and 2_720p.mkv

Frame n is the one that `ffmpeg -i FILE -vf fps=2` writes at place n. Its filter rounds every time
stamp to the nearest place, and the last picture to arrive at a place stays there: frame n is the
last picture whose stamp lies before (n + 0.5) / fps. At 25 fps frame 0 is thus the picture at
0.24 s, frame 1 the one at 0.72 s, and token k, frames 2k and 2k + 1, sees the middle of both halves
of its second. Before a late first picture that picture is shown.

FFmpeg itself decodes (PyAV has it inside). Its filter `fps` is the one line `place` below, so that
only the pictures that are wanted, two of 25, are deinterlaced and converted. Nothing is derived
from a frame count or from the rate in the header: both are often wrong, and with a variable rate
they mean little. docs/video.md has the kinds of files and how they compare.
"""
import contextlib
import itertools
import math
import os
import re
import struct
import sys
from collections import Counter, defaultdict
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from comedian import DataError
from comedian.frames import (
    CLIP_FRAMES, DEFAULT_FPS, VIDEO_NAME, VIDEO_SUFFIXES, describe_content, half_number, walk)

BESIDE = set(".json .csv .xml .txt .md .pdf .ini .db .log .npy .npz .zip .jpg .jpeg .png .srt .vtt "
             ".ass .wav .mp3 .m4a .aac".split())           # labels, features, sound: not mentioned
EARLY_S = 1.0                   # a video may end this much before its header says
OTHER_HALF = re.compile(r"(half[_-]?)?\d{1,2}(_(\d+p|HQ))?", re.IGNORECASE)  # beside 1, 2: note
UNKNOWN = 2 ** 30               # frames of an AVI that was never finished, as FFmpeg writes them
CLOCK_JUMPS = av.format.Flags.ts_discont.value             # formats where that may happen
SEEK_MARGIN_S = 2               # begin to decode this much before the start, then go by time stamp
MOST_WAITING = 2000             # compressed pictures kept on the way to the start
COMB = 12                       # of 255: rows that differ less do not show as a comb
JUMP_S, BACK_S = 10, 0.1        # a larger step on or back is a new clock (ffmpeg.c)
NO_PICTURE = ("no picture can be read from it, or it is cut off before its index; does it play? "
              "If so: ffmpeg -i OLD -c:v libx264 -crf 18 NEW.mkv")
FRAME_SIZE = (398, 224)         # width, height of SoccerNet's frames
STILL_S = 120                   # no football match shows one picture for so long
CHUNKS = {"mkv": b"\x1aE\xdf\xa3", "avi": b"RIFF", "flv": b"FLV", "asf": b"0&\xb2u",   # how files
          "mp4": b"....(ftyp|styp|moov|mdat|wide|free|skip)"}                          # begin
PACK = b"\0\0\1\xba"            # begins MPEG program streams, and every pack in them
ENDS = 2 ** 16                  # bytes looked at of either end of a file: a page of Ogg, or more
MXF = b"\x06\x0e+4\x02\x05\x01\x01\r\x01\x02\x01\x01"      # begins all parts; then what kind it is
ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
HDR = {16: "PQ", 18: "HLG"}     # transfer functions, as FFmpeg numbers them


class Video(NamedTuple):
    """The header of a video file."""
    path: str
    duration_s: float           # of picture or sound, whichever is longer; 0 if it is not known
    fps: float                  # on average; anything at all in some files; 0 if it is not known
    width: int                  # pixels, as shown: rotation is applied
    height: int


def print_note(message):
    print(f"note: {message}", file=sys.stderr)


# ------------------------------------------------------------------ one file
def open_video(path, threads=0):
    """(container, stream) of a file: of several picture streams the one that ffmpeg takes, the
    largest, where being the default counts as 5 million pixels more. DataError if it is no video.
    """
    if not os.path.exists(path):
        raise DataError(f"{path}: no such video")
    if not os.path.isfile(path):
        raise DataError(f"{path}: is {'a folder' if os.path.isdir(path) else 'no file'}, not a "
                        "video; give a video file")
    if not os.path.getsize(path):
        raise DataError(f"{path}: is empty (0 bytes); copy or download it again")
    try:
        # An absolute path: "half: 1.mkv" alone would be taken for an address like "http:". And a
        # playlist that is called .mkv fetches nothing from elsewhere.
        container = av.open(os.path.abspath(path), options={"protocol_whitelist": "file"},
                            metadata_errors="replace")
    except av.FFmpegError as error:
        raise DataError(f"{path}: not a video that FFmpeg can read, or cut off before its index "
                        f"({error.strerror}); does it play? If so: ffmpeg -i OLD -c copy NEW.mkv"
                        ) from None
    streams = picture_streams(container)
    if not streams:
        container.close()
        raise DataError(f"{path}: {NO_PICTURE}")
    stream = max(streams, key=lambda s: (s.width * s.height if s.codec_context else 0)
                 + 5_000_000 * bool(s.disposition & av.stream.Disposition.default))
    if stream.codec_context is None:
        codec = codec_name(container, stream)
        container.close()
        raise DataError(f"{path}: its codec ({codec}) cannot be decoded here; "
                        "ffmpeg -i OLD -c:v libx264 -crf 18 NEW.mkv")
    stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
    if stream.name == "hevc":               # else damage hides all up to the next key picture
        stream.codec_context.flags |= av.codec.context.Flags.output_corrupt
    return container, stream


def picture_streams(container):
    """The streams of pictures of a file, without cover art."""
    return [stream for stream in container.streams.video
            if not stream.disposition & av.stream.Disposition.attached_pic]


def codec_name(container, stream):
    """What FFmpeg calls the codec of a stream that it has no decoder for."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)                  # its listing is a message of the log
    listing = container.dumps_format()
    av.logging.set_level(level)
    name = re.search(rf"#0:{stream.index}\b.*?Video: ([^,\n]*)", listing)
    return name[1].strip() if name else "unknown"


def rescale(value, ratio):
    """value * ratio as a whole number, the nearest, halves up: FFmpeg's rounding of stamps."""
    return math.floor(value * ratio + Fraction(1, 2))


def frame_rate(stream):
    """Pictures per second as the header has it; only where a stamp or a duration is missing."""
    return stream.average_rate or stream.guessed_rate or Fraction(25)


def packets(container, stream, findings):
    """The compressed pictures of a stream, then an empty packet. Their stamps count from the start
    of the file, as in a player, and go on where the clock of a transport stream starts again or
    jumps; findings["jumps"] gets (second, by how many). This is what the program ffmpeg does with
    stamps before it decodes (version 5.1, ffmpeg.c), in whole microseconds as there.
    """
    us, second = stream.time_base * 1_000_000, 1_000_000
    may_jump = container.format.flags & CLOCK_JUMPS
    zero_us, next_us, last_us = container.start_time or 0, None, 0
    if may_jump and stream.start_time is not None:         # here sound that begins earlier does not
        zero_us = max(zero_us, rescale(stream.start_time, us))                           # count
    with contextlib.suppress(av.FFmpegError):
        for packet in container.demux(stream):
            if packet.size == 0:                           # the end: the decoder gives what it has
                yield packet
                return
            shift = -rescale(zero_us, 1 / us)
            if packet.dts is None:
                next_us = next_us or 0
                packet.dts = rescale(next_us, 1 / us)
            else:
                dts_us = rescale(packet.dts + shift, us)
                if may_jump and next_us is not None and (abs(dts_us - next_us) > JUMP_S * second
                                                         or dts_us + BACK_S * second < last_us):
                    findings["jumps"].append((next_us / second, (dts_us - next_us) / second))
                    zero_us += dts_us - next_us
                    shift, dts_us = -rescale(zero_us, 1 / us), next_us
                packet.dts += shift
                next_us = dts_us
            if packet.pts is not None:
                packet.pts += shift
            last_us = next_us
            next_us += (rescale(packet.duration, us) if packet.duration else
                        rescale(second, 1 / frame_rate(stream)))
            yield packet
    findings["damaged"].append((next_us or 0) / second)    # reading failed: as if it ended there
    last = av.Packet()
    last.stream = stream
    yield last


def seek_before(container, stream, to_s):
    """Seeks a key picture before second `to_s`. False if that fails, or if the clock may jump in
    between."""
    if container.format.flags & CLOCK_JUMPS:
        return False
    ticks = rescale(Fraction(to_s) + Fraction(container.start_time or 0, 1_000_000),
                    1 / stream.time_base)
    with contextlib.suppress(av.FFmpegError, StopIteration):
        container.seek(ticks, stream=stream)
        first = next(container.demux(stream))
        stamp = first.dts if first.pts is None else first.pts
        container.seek(ticks, stream=stream)
        return first.size > 0 and stamp is not None and stamp <= ticks
    return False


class Stamps:
    """FFmpeg's "best effort" at the time of a decoded frame: its own stamp, or, if that is missing
    or such stamps have gone back more often, the one of its place in the file (H.264 in AVI)."""

    def __init__(self):
        self.last, self.faults = {}, {"pts": 0, "dts": 0}

    def __call__(self, frame):
        pts, dts = frame.pts, frame.dts
        for name, stamp in (("dts", dts), ("pts", dts if pts is None else pts)):
            if stamp is not None:
                self.faults[name] += stamp <= self.last.get(name, -math.inf)
                self.last[name] = stamp
        go_by_place = pts is None or (dts is not None and self.faults["pts"] > self.faults["dts"])
        return dts if go_by_place else pts


def pictures(path, start_s, threads, findings):
    """Yields (second, frame) in the order of showing, from a little before `start_s` on; after the
    last picture (second where it ends, None), if there was one.

    What cannot be decoded is left out. Problems are added to `findings`, a defaultdict of lists:
    "jumps" of the clock (second, by how much), the seconds "damaged", how the stream was "chosen".
    """
    container, stream = open_video(path, threads)
    begin_s = start_s - SEEK_MARGIN_S
    if begin_s > 0 and not seek_before(container, stream, begin_s):
        container.close()                                  # then all the way from the start
        container, stream = open_video(path, threads)
    unit, step = stream.time_base, 1 / frame_rate(stream)
    if (count := len(picture_streams(container))) > 1:
        findings["chosen"].append(f"has {count} picture streams; stream {stream.index} "
                                  f"({stream.width}x{stream.height}) is read")
    best_effort = Stamps()
    waiting, now_s, end_s, zero = [], 0.0, None, 0
    with container:
        for packet in packets(container, stream, findings):
            if packet.size:
                now_s = float((packet.dts if packet.pts is None else packet.pts) * unit)
                # Before begin_s nothing is decoded but what follows the last key picture.
                if now_s <= begin_s and len(waiting) < MOST_WAITING:
                    waiting = [packet] if packet.is_keyframe else [*waiting, packet]
                    continue
            for ready in [*waiting, packet]:
                try:
                    frames = ready.decode()
                    damaged = ready.is_corrupt or any(frame.is_corrupt for frame in frames)
                except av.FFmpegError:
                    frames, damaged = [], True
                if damaged:
                    findings["damaged"].append(now_s)
                for frame in frames:
                    stamp = best_effort(frame)
                    if stamp is None:
                        continue
                    if end_s is None and container.start_time is None:     # a bare stream, without
                        zero = stamp                                       # any stamp: first is 0
                    end_s = (stamp - zero) * unit + (frame.duration * unit or step)
                    yield (stamp - zero) * unit, frame
            waiting = []
    if end_s is not None:
        yield end_s, None


def is_combed(before, frame, after):
    """Whether a picture that is flagged as interlaced is. In doubt it is.

    Between two rows of a field come, in an interlaced picture, rows of another instant, as near in
    time to the picture before as to itself, or to the picture after. In a progressive picture they
    fit best, its neighbours fit equally badly on both sides (FFmpeg's filter idet asks for the
    same), and hardly anywhere do two shades alternate over several rows.
    """
    def rows(picture):                                     # brightness; every fourth column will do
        bits = picture.format.components[0].bits
        values = np.frombuffer(picture.planes[0], np.uint16 if bits > 8 else np.uint8)
        values = values.reshape(picture.height, -1)[:, :picture.width:4].astype(np.int32)
        return values >> max(0, bits - 8)

    own, early, late = map(rows, (frame, before, after))   # (H, W / 4), 0 to 255
    step = np.diff(own, axis=0)
    turns = ((step[:-1] * step[1:] < -COMB * COMB)
             & (2 * np.abs(step[:-1] + step[1:]) < np.abs(step[:-1])))
    around = own[:-2] + own[2:]
    own, early, late = (np.abs(around - 2 * middle[1:-1]).sum(1) for middle in (own, early, late))
    # If the upper field is the first, the lower rows are near to `after`, the upper to `before`.
    one, other = (early[i::2].sum() + late[1 - i::2].sum() for i in (0, 1))
    return (max(one, other) > 1.04 * min(one, other) or min(one, other) <= 1.5 * own.sum()
            or (turns[:-3] & turns[1:-2] & turns[2:-1] & turns[3:]).mean() > 0.001)


def deinterlace(before, frame, after):
    """The picture with its second field replaced by what was there at the time of the first."""
    graph = av.filter.Graph()
    graph.link_nodes(graph.add_buffer(template=frame, time_base=frame.time_base),
                     graph.add("bwdif", "mode=send_frame:deint=all"),
                     graph.add("buffersink")).configure()
    for picture in (before, frame, after):
        graph.push(picture)
    graph.pull()
    return graph.pull()


def shown_size(frame):
    """(width, height) of a frame as it is shown."""
    turned = round(frame.rotation / 90) % 2
    return (frame.height, frame.width) if turned else (frame.width, frame.height)


def to_rgb(before, frame, after, size, scaler):
    """A decoded frame as (H, W, 3) uint8, red first, upright; before, after: its neighbours."""
    before, after = (other if other and (other.width, other.height, other.format.name)
                     == (frame.width, frame.height, frame.format.name) else frame
                     for other in (before, after))
    if frame.interlaced_frame and is_combed(before, frame, after):
        frame = deinterlace(before, frame, after)
    turns = round(frame.rotation / 90) % 4                 # quarters, counter-clockwise
    width, height = size[::-1] if turns % 2 else size
    image = scaler.reformat(frame, width, height, "rgb24", interpolation="AREA", threads=1)
    return np.ascontiguousarray(np.rot90(image.to_ndarray(), turns))


def probe(path):
    """The header of `path` as a Video. DataError if it is not a video or has no picture."""
    container, stream = open_video(path, threads=1)
    with container:
        fps, duration_s = float(stream.average_rate or 0), duration(container, stream)
    for _, frame in pictures(path, 0.0, 1, defaultdict(list)):
        return Video(str(path), duration_s, fps, *shown_size(frame))
    raise DataError(f"{path}: {NO_PICTURE}")


def sample(path, fps=2.0, start_s=0.0, end_s=None, size=None, threads=0, note=print_note):
    """Yields the frames of a video at `fps`, in order: (H, W, 3) uint8, red first.

    Frame n belongs to second start_s + n / fps, chosen as `ffmpeg -vf fps=...` does (top of the
    file). Where the source has a gap, the picture before it is repeated (the same array).
    end_s: where to stop; None = at the end. size: (width, height) in pixels; None = as the first
    picture is. threads: that decode, 0 = one per core. note(text) is called for each problem of
    the file. Memory does not grow with the length.

    Raises DataError at once for what is not a video, and after the last good frame if the file
    is cut off more than a second before its end.
    """
    end_s = math.inf if end_s is None else end_s
    if not 0 <= start_s < end_s:
        raise DataError(f"{path}: start {start_s:g} s and end {end_s:g} s do not fit; give "
                        "0 <= start < end")
    rate, start = (Fraction(number).limit_denominator(1_000_000) for number in (fps, start_s))

    def place(second):
        """Where in the output a time belongs: the nearest place, halves up."""
        return math.floor((Fraction(second) - start) * rate + Fraction(1, 2))

    n_wanted = place(Fraction(end_s).limit_denominator(1_000_000)) if end_s < math.inf else end_s
    n, scaler, findings = 0, VideoReformatter(), defaultdict(list)
    before = frame = image = None         # the two pictures up to now, and how the second one looks
    first = last = None                   # the first one's place; the last image that was yielded
    since, stop_s = 0, start_s            # its place; where the pictures end
    for second, after in pictures(path, start_s, threads, findings):
        if first is None:
            first, size = place(second), size or shown_size(after)
            if after.color_trc in HDR:
                note(f"{path}: HDR ({HDR[after.color_trc]}), so its colours look pale; ffmpeg's "
                     "filters zscale and tonemap convert it")
            for choice in findings["chosen"]:
                note(f"{path}: {choice}")
            if second - start_s > 1:
                note(f"{path}: its first picture is at {float(second):.1f} s; it is also used for "
                     "the time before")
        # The fps filter and -vsync cfr: the last picture that came to a place stays there, gaps are
        # filled with the picture before, and what comes before the first place with the first's.
        while n < min(place(second), n_wanted) and place(second) > first:
            if image is None:
                image = to_rgb(before, frame, after, size, scaler)
            if last is None or not np.array_equal(image, last):
                last, since = image, n
            elif n - since == round(STILL_S * fps):
                note(f"{path}: its picture does not change for {STILL_S} s from "
                     f"{start_s + since / fps:.1f} s on")
            yield image
            n += 1
        if n == n_wanted:
            break
        before, frame, image, stop_s = frame, after, None, float(second)
    cut, short, where = (False, False, "") if n == n_wanted else end_of(path, stop_s, findings)
    jumps = findings["jumps"]
    joints = {int(at_s) + i for at_s, _ in jumps for i in (-1, 0)}
    damaged = {int(s) for s in findings["damaged"] if not (cut and s > stop_s - EARLY_S)} - joints
    if jumps:
        note(f"{path}: its clock jumps by {jumps[0][1]:+.1f} s at {jumps[0][0]:.1f} s "
             f"({len(jumps)} in all); the time continues there")
    if damaged:
        note(f"{path}: damaged in {len(damaged)} of its seconds, first at {min(damaged)} s; "
             "pictures there are broken or repeated")
    if first is None:
        raise DataError(f"{path}: {NO_PICTURE}")
    if cut and short:
        raise DataError(f"{path}: is cut off at {where} s; copy or download it again")
    if cut:
        note(f"{path}: is cut off at {where} s; if the original is longer, copy or download it "
             "again")
    elif short:
        note(f"{path}: its pictures end at {where} s")
    if not n:
        raise DataError(f"{path}: ends at {stop_s:.2f} s: no frame from {start_s:g} s on at "
                        f"{fps:g} fps; begin earlier, or read more frames per second")


def duration(container, stream):
    """Seconds that the header promises, 0 if it does not. In formats whose clock may jump that is
    the difference of the first and the last stamp: believed if some on the way rise evenly."""
    said_s = max(0, container.duration or 0) / 1e6
    if container.format.name == "avi":                     # FFmpeg's shrinks with what is left
        return max(said_s, float(stream.frames / frame_rate(stream))) * (stream.frames < UNKNOWN)
    if container.format.name == "asf":                     # and this one is gone
        return max(said_s, asf_duration(container.name))
    if not container.format.flags & CLOCK_JUMPS:
        return said_s
    stamps = [stream.start_time or 0]
    for part in range(1, 16):
        with contextlib.suppress(av.FFmpegError):
            container.seek(container.size * part // 16, unsupported_byte_offset=True)
            stamps += [p.dts for p in itertools.islice(container.demux(stream), 5) if p.dts][:1]
    steps = [float((b - a) * stream.time_base) for a, b in itertools.pairwise(stamps)]
    return said_s * all(-1 <= step <= JUMP_S + said_s / 4 for step in steps)


def end_of(path, stop_s, findings):
    """How a file ends whose pictures end at `stop_s`: whether it is cut off, whether that is more
    than a second too early, and "11.0 of 20.0" if its header has the full length, else "11.0".

    The header's duration is also that of the sound, and counts what an edit list hides, so a
    shorter picture alone proves nothing: only missing bytes or damage at the end do.
    """
    container, stream = open_video(path, threads=1)
    with container:
        said_s, grows = duration(container, stream), container.format.flags & CLOCK_JUMPS
        if not grows:                                      # some count from 0, not from the start
            said_s -= max(0, container.start_time or 0) / 1e6
        grows |= "mp4" in container.format.name and not stream.frames         # in fragments
    short = stop_s < said_s - EARLY_S
    broken = max(findings["damaged"], default=0) > stop_s - EARLY_S
    whole = is_whole(path, short)
    cut = (broken if whole is None else not whole) or (short and broken)
    known = said_s > stop_s + 0.1 and not (cut and grows)  # what is there so far is no promise
    return cut, short, f"{stop_s:.1f}" + (f" of {said_s:.1f}" if known else "")


def is_whole(path, short):
    """Whether the file has all the bytes that its container announces; None if neither sizes nor
    the end of the file show it. short: whether its pictures end too early; if they do, zeros at the
    end mean a download that never finished."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(ENDS)
        file.seek(max(0, size - ENDS))
        tail = file.read()
        if short and not any(tail[-4096:]):
            return False
        for kind, beginning in CHUNKS.items():
            if re.match(beginning, head, re.DOTALL):
                return ends_with_chunk(file, size, kind)
        if head.startswith(PACK):                          # after any of these it may go on, or not
            return ends_with_chunk(file, size, "mpg", size - len(tail) + tail.find(PACK)) and None
    if head.startswith(b"OggS"):                           # the last page is whole and marked so
        last = tail[tail.rfind(b"OggS"):].ljust(27, b"\0")
        return last[5] & 4 > 0 and 27 + last[26] + sum(last[27:27 + last[26]]) <= len(last)
    if head.startswith(MXF):                               # a footer, or the table of all parts
        return MXF + b"\x04" in tail or MXF + b"\x11" in tail
    if head.startswith(b"\x1f\x07\0"):                   # DV: whole frames, one after the other
        rest = size % (144_000 if head[3] & 0x80 else 120_000)
        return None if not tail[len(tail) - min(rest, len(tail)):].strip(b"\0\r\n") else False
    for length, clock, parity in ((188, 0, 0), (192, 4, 0), (204, 0, 16)):     # transport streams
        first = [i for i in range(length) if head[i:i + 4 * length:length] == b"GGGG"]
        if first and ((size - first[0] + clock) % length or tail[-188 - parity] != ord("G")):
            # Zeros or an empty line after the last packet, which may end with some zeros itself?
            kept = len(tail.rstrip(b"\0\r\n"))
            missing = (first[0] - clock - size + len(tail) - kept) % length
            sync = kept + missing - 188 - parity
            if missing > 16 or not 0 <= sync < len(tail) - 187 or tail[sync] != ord("G"):
                return False
    return None


def ends_with_chunk(file, size, kind, at=0):
    """Whether a file ends where the last of its chunks from byte `at` on does; None if one of them
    does not say how long it is, as in a stream, or if damage hides it."""
    while at < size:
        file.seek(at)
        length = chunk_length(kind, file.read(24).ljust(24, b"\0"))
        if length is None:
            return None
        at += length
    return at == size


def chunk_length(kind, head):
    """Bytes of the chunk that begins with these 24; None if it is none, or does not tell. Of one
    that was written live, or never finished, those before its content: there the next begins."""
    if kind == "mkv":
        known = re.match(rb"[\xa0\xa3\xa7\xab\xbf\xe7\xec]|\x1aE|\x18S|[\x10\x1f]C|[\x12\x16]T|"
                         rb"\x11M|\x15I|\x19A|\x1cS", head)
        n_id = 9 - head[0].bit_length()                    # leading zero bits: bytes
        n_size = 9 - head[n_id].bit_length() if known else 9
        length = int.from_bytes(head[n_id:n_id + n_size], "big") & (most := (1 << 7 * n_size) - 1)
        return n_id + n_size + length % most if n_size <= 8 else None
    if kind == "avi":
        length, = struct.unpack_from("<I", head, 4)
        if head[:4] in (b"RIFF", b"LIST") and length in (0, 2 ** 32 - 1):
            return 12
        known = re.match(rb"RIFF|LIST|JUNK|idx1|ix\d\d|\d\d[a-z]{2}", head)
        return 8 + length + length % 2 if known else None
    if kind == "flv":
        tag = 15 + int.from_bytes(head[1:4], "big") if head[0] in (8, 9, 18) else None
        return 13 if head.startswith(b"FLV") else tag
    if kind == "mpg":                                      # end code, pack of MPEG-2 or 1, packet
        if head.startswith((PACK, b"\0\0\1\xb9")):
            return 4 if head[3] == 0xB9 else 14 + head[13] % 8 if head[4] >> 6 == 1 else 12
        return 6 + int.from_bytes(head[4:6], "big") if head[:3] == PACK[:3] else None
    if kind == "asf":
        length, = struct.unpack_from("<Q", head, 16)
        return length if length > 50 else None
    length, kind, long = struct.unpack_from(">I4sQ", head)             # mp4
    length = long if length == 1 else length
    # 0: to the end of the file. Something else than letters: what follows the last chunk.
    return length if length >= 8 and re.fullmatch(rb"[ -~\xa9]{4}", kind) else None


def asf_duration(path):
    """Seconds that the header of an ASF or WMV file promises, 0 if it was written live."""
    with open(path, "rb") as file:
        found = re.search(ASF_PROPERTIES + b"(.{76})", file.read(ENDS), re.DOTALL)
    ticks, preroll_ms, flags = struct.unpack_from("<48xQ8xQI", found[1]) if found else (0, 0, 0)
    return 0 if flags & 1 else ticks / 1e7 - preroll_ms / 1e3


# ------------------------------------------------------------------ many files
def resolution(path):
    """How much a file of several for the same half is wanted: 224p, else the smallest above."""
    name = VIDEO_NAME.fullmatch(Path(path).stem)
    rows = (name[2] or name[3] or "")[:-1]
    return int(rows) if rows.isdigit() and int(rows) >= 224 else math.inf, Path(path).name


def find_videos(paths):
    """Matches as lists of their halves' files: [[half, half], [half], ...].

    paths: folders, each searched for matches at any depth (1_224p.mkv and 2_224p.mkv in one folder
    are a match, as in SoccerNet; a file of another name is a match of one half), and files, which
    together are the halves of one match, in their order. Of several resolutions it prints those
    that it leaves out. DataError for a path that does not exist, or a folder without videos.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    matches, files, seen = [], [], set()
    for path in map(Path, paths):
        if path.is_dir():
            matches += matches_below(path)
        elif os.path.realpath(path) in seen:
            raise DataError(f"{path}: is given twice; give each half once")
        elif path.exists():
            files.append(str(path))
            seen.add(os.path.realpath(path))
        else:
            raise DataError(f"{path}: no such file or folder of videos"
                            f"{describe_content(path.parent)}")
    return matches + ([files] if files else [])


def matches_below(root):
    """The matches of one folder, sorted by their path. Prints how many files it skips whose suffix
    is neither a video's nor usual beside videos: one may be a video after all."""
    matches, left_out, others, alone = [], [], Counter(), []
    for folder, _, names in walk(root):
        halves = defaultdict(list)
        for name in sorted(names):
            path, suffix = os.path.join(folder, name), Path(name).suffix.lower()
            if suffix in VIDEO_SUFFIXES:
                halves[half_number(path) or path].append(path)
            elif suffix not in BESIDE:
                others[suffix or "without a suffix"] += 1
        ranked = {half: sorted(same, key=resolution) if len(same) > 1 else same
                  for half, same in halves.items()}
        left_out += [(same[0], other) for same in ranked.values() for other in same[1:]]
        if match := [ranked[half][0] for half in (1, 2) if half in ranked]:
            matches.append(match)
            alone += [half for half in ranked if half not in (1, 2) and OTHER_HALF.fullmatch(
                Path(half).stem)]
        matches += [same for half, same in ranked.items() if half not in (1, 2)]
    if not matches:
        raise DataError(f"{root}: no video below it ({', '.join(sorted(VIDEO_SUFFIXES))})"
                        f"{describe_content(root)}")
    if left_out:
        print("video: several files for one half: reads the 224p one, else the smallest: "
              f"{left_out[0][0]}, not {Path(left_out[0][1]).name} ({len(left_out)} left out)")
    if alone:
        print(f"video: {alone[0]}: its name is of neither half 1 nor half 2, so it is a match of "
              f"its own ({len(alone)} such files); to join halves, give their files in order")
    if others:
        print(f"video: {root}: skipped {others.total()} files without the suffix of a video: "
              + ", ".join(f"{suffix} {count}" for suffix, count in others.most_common(9)))
    return matches


class VideoHalf(NamedTuple):
    """A half as a video file, or a part of one; frames.Half is a half as a folder of frames."""
    match: str
    number: int
    path: str
    start_s: float
    end_s: float                      # None: to its end
    size: tuple                       # (width, height) to shrink frames to; None: as they are
    n_tokens: int                     # that its header promises; 0 if it does not say
    token_s: float = CLIP_FRAMES / DEFAULT_FPS             # from one token to the next


def halves(paths, start_s=0.0, end_s=None):
    """A VideoHalf per file that `find_videos` finds, match by match.

    A match has the name of its folder, or of its file if the file's name contains no half.
    """
    roots, found_halves = [Path(path) for path in paths if Path(path).is_dir()], []
    for files in find_videos(paths):
        first = Path(files[0])
        numbers = [half_number(file) for file in files]
        whole = first.parent if numbers[0] or len(files) > 1 else first.with_suffix("")
        if None in numbers or len(set(numbers)) < len(files):
            numbers = range(1, len(files) + 1)             # any other names: in their order
        root = next((root for root in roots if root in first.parents and root != whole), None)
        match = whole.relative_to(root).as_posix() if root else whole.resolve().name
        if any(half.match == match for half in found_halves):
            raise DataError(f"{first}: another match has the same name, {match!r}; run them one by "
                            "one, each with its own --out")
        for which, file in zip(numbers, files, strict=True):
            found = probe(file)
            if 0 < found.duration_s <= start_s:
                raise DataError(f"{file}: ends at {clock(found.duration_s)}, before --start "
                                f"{clock(start_s)}; give an earlier --start")
            last_s = min(found.duration_s, math.inf if end_s is None else end_s)
            larger = found.width > FRAME_SIZE[0] or found.height > FRAME_SIZE[1]
            n_tokens = max(0, int((last_s - start_s) * DEFAULT_FPS / CLIP_FRAMES))
            found_halves.append(VideoHalf(match, which, str(file), start_s, end_s,
                                          FRAME_SIZE if larger else None, n_tokens))
    return found_halves


def clock(seconds):
    """754.0 -> 12:34."""
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


def describe(halves):
    """Prints the halves of each match, their files and how long they are."""
    for match, group in itertools.groupby(halves, key=lambda half: half.match):
        print(f"data: {match}: " + ", ".join(
            f"half {half.number} {half.path} ({clock(half.n_tokens * half.token_s)})"
            for half in group))


def clips(halves, batch, broken):
    """Yields (half, clips (b, 2, H, W, 3) uint8) of halves that are videos, `batch` clips at a time
    or fewer; an odd last frame has no partner and is left out.

    Frames are shrunk to the size of SoccerNet's first, so that what a network sees of a video and
    of the frames extracted from it is the same. The DataError of a video that breaks off is added
    to the list `broken`; the part before it is spotted, and so are the other videos.
    """
    import torch                      # here: `prepare frames` needs neither
    from tqdm import tqdm

    def stack(frames):
        n = len(frames) // CLIP_FRAMES * CLIP_FRAMES
        return torch.from_numpy(np.stack(frames[:n])).unflatten(0, (-1, CLIP_FRAMES))

    for half in halves:
        frames, n_clips = [], 0
        try:
            for frame in sample(half.path, DEFAULT_FPS, half.start_s, half.end_s, half.size):
                frames.append(frame)
                if len(frames) == CLIP_FRAMES * batch:
                    yield half, stack(frames)                                 # (b, 2, H, W, 3)
                    frames, n_clips = [], n_clips + batch
        except DataError as error:
            broken.append(DataError(f"{error}; the part before it is spotted"
                                    if n_clips or frames else str(error)))
        if len(frames) >= CLIP_FRAMES:
            yield half, stack(frames)
        elif not n_clips:
            tqdm.write(f"data: {half.path}: shorter than one clip: left out")
