"""
A video file -> its frames at a fixed rate, by time stamp; and a tree of videos -> frames on disk.

    for frame in video.sample("match.mkv", fps=2.0, size=(398, 224)):    # (224, 398, 3) uint8, RGB
    video.extract(...)                                # `python -m comedian.prepare frames`

Frame n is the one that `ffmpeg -vf fps=2` writes at place n. Its filter rounds every time stamp to
the nearest place, and the last frame to arrive at a place stays there: frame n is the last one
whose stamp lies before (n + 0.5) / fps. At 25 fps frame 0 is thus the picture at 0.24 s, frame 1
the one at 0.72 s, and token k, frames 2k and 2k + 1, sees the middle of both halves of its second.

Nothing is derived from a frame count or from the rate in the header: both are often wrong, and
with a variable rate they mean little. Second 0 is the first picture, wherever the file's own clock
starts; sound that begins earlier does not count (OpenCV does not tell when it does).
"""
import concurrent.futures
import math
import os
import re
import shutil
import struct
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from comedian import DataError
from comedian.frames import DEFAULT_FPS, cv2, read_frame

# What FFmpeg and OpenCV print about a bad file is long and names nothing; ours is one line. FFmpeg
# reads the variable when it is first used, and never again.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

SUFFIXES = {".mkv", ".mp4", ".avi", ".mov", ".m4v", ".webm", ".ts", ".mts", ".m2ts", ".mpg",
            ".mpeg", ".wmv", ".flv"}
EARLY_S = 1.0                   # a video may end this much before its header says
SEEK_MARGIN_S = 2.0             # look for the start this much earlier, then go on by time stamp
TIE_S = 1e-6                    # time stamps are exact to this
DAMAGE_PACKETS = 20_000         # so many in a row may be undecodable: 13 minutes at 25 fps
JPEG_QUALITY = 95               # files as large as those of ffmpeg -q:v 1 -qmin 1, and truer


class Video(NamedTuple):
    """What the header of a file says."""
    path: str
    duration_s: float           # of picture or sound, whichever is longer; 0 if it is not known
    fps: float                  # on average; anything at all in some files
    width: int                  # pixels, as shown: rotation is applied
    height: int


# ------------------------------------------------------------------ one file
class Reader:
    """A file, picture after picture: grab() goes one on, `time_s` is where it is, image() shows it.

    Goes on after a damaged stretch; `damaged_s` is where the first one began, or None.
    """

    def __init__(self, path, threads=0):
        self.path, self.threads = str(path), threads
        if not os.path.exists(path):
            raise DataError(f"{path}: no such video")
        if os.path.isdir(path):
            raise DataError(f"{path}: is a folder, not a video")
        if not os.path.getsize(path):
            raise DataError(f"{path}: is empty (0 bytes); copy or download it again")
        self.rewind()

    def rewind(self):
        options = [cv2.CAP_PROP_N_THREADS, self.threads] if self.threads else []
        # An absolute path: "half: 1.mkv" alone would be taken for an address like "http:".
        self.capture = cv2.VideoCapture(os.path.abspath(self.path), cv2.CAP_FFMPEG, options)
        if not self.capture.isOpened():
            raise DataError(f"{self.path}: not a video that OpenCV can read, or cut off before its "
                            "index; does it play? If so: ffmpeg -i OLD -c copy NEW.mkv")
        self.time_s, self.step_s, self.n_grabbed, self.damaged_s = 0.0, 0.0, 0, None

    def grab(self):
        """Goes to the next picture; False at the end of the file. A failure in the middle looks
        like the end, but one can go on after it."""
        failed = 0
        while not self.capture.grab():
            failed += 1
            if failed == DAMAGE_PACKETS:
                return False
        if failed and self.damaged_s is None:
            self.damaged_s = self.time_s
        now_s = max(self.time_s, self.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        self.step_s, self.time_s = now_s - self.time_s, now_s
        self.n_grabbed += 1
        if self.n_grabbed == 3 and now_s == 0:
            raise DataError(f"{self.path}: has no time stamps; ffmpeg -i OLD -c copy NEW.mkv "
                            "writes them")
        return True

    def seek(self, start_s):
        """The next grab() is of a picture before `start_s` (at the start, of the first one)."""
        if start_s <= SEEK_MARGIN_S:
            return
        self.capture.set(cv2.CAP_PROP_POS_MSEC, 1000 * (start_s - SEEK_MARGIN_S))
        if not (self.grab() and self.time_s < start_s):    # no index, or a wrong one: the long way
            self.rewind()
        self.step_s = 0.0                                  # that was a jump, not a step

    def image(self, size=None):
        """(H, W, 3) uint8, red first, the picture just grabbed; size: (width, height) in pixels."""
        seen, image = self.capture.retrieve()
        if not seen:
            raise DataError(f"{self.path}: the picture at {self.time_s:.1f} s cannot be decoded")
        if size is not None and size != (image.shape[1], image.shape[0]):
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def probe(path):
    """What the header of `path` says, as a Video. DataError if it is not a video or shows nothing.
    """
    reader = Reader(path, threads=1)
    if not reader.grab():
        raise DataError(f"{path}: no picture can be read from it; does it play?")
    height, width = reader.image().shape[:2]
    fps, count = (reader.capture.get(name) for name in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
    return Video(str(path), count / fps if fps > 0 and count > 0 else 0.0, fps, width, height)


def sample(path, fps=2.0, start_s=0.0, end_s=None, size=None, threads=0):
    """Yields the frames of a video at `fps`, in order: (H, W, 3) uint8, red first.

    Frame n belongs to second start_s + n / fps, chosen as `ffmpeg -vf fps=...` does (top of the
    file). Where the source has a gap, the picture before it is repeated (the same array).
    end_s: where to stop; None = at the end. size: (width, height) in pixels. threads: that decode,
    0 = one per core. Memory does not grow with the length.

    Raises DataError at once for what is not a video, and after the last good frame if the file
    breaks off more than a second before its end.
    """
    end_s = math.inf if end_s is None else end_s
    if not 0 <= start_s < end_s:
        raise DataError(f"{path}: wants 0 <= start < end, got {start_s:g} and {end_s:g} s")
    said, reader = probe(path), Reader(path, threads)
    reader.seek(start_s)
    n, n_wanted = 0, places(end_s - start_s, fps)
    image, image_s, before_s = None, None, None            # newest converted; newest of all
    if reader.n_grabbed:
        image, image_s, before_s = reader.image(size), reader.time_s, reader.time_s
    reach_s = 1 / fps                     # how far off the next picture may be
    while n < n_wanted and reader.grab():
        now_s = reader.time_s
        while n < n_wanted and before_s is not None and now_s >= due(n, fps, start_s):
            if image_s != before_s:       # a gap, longer than expected: go back for its picture
                image, image_s = picture_at(path, before_s, size, threads), before_s
            yield image
            n += 1
        # To decode a picture is one thing, to convert its colours another: only done for those
        # that may be the last before `due`. The margin follows the irregularities of the source.
        reach_s = max(1.5 * reader.step_s, 0.9 * reach_s)
        if now_s + reach_s >= due(n, fps, start_s):
            image, image_s = reader.image(size), now_s
        before_s = now_s
    if reader.damaged_s is not None:
        print(f"note: {path}: damaged after {reader.damaged_s:.1f} s; the picture before that is "
              "repeated", file=sys.stderr)
    if n == n_wanted:
        return

    # -- the end of the file: the last picture lasts as long as the one before it
    stop_s = reader.time_s + min(reader.step_s, 1 / fps)
    if before_s is not None and image_s != before_s and n < places(stop_s - start_s, fps):
        image = picture_at(path, before_s, size, threads)
    while n < min(n_wanted, places(stop_s - start_s, fps)):
        yield image
        n += 1
    check_end(reader, said, stop_s)
    if not n:
        raise DataError(f"{path}: ends at {stop_s:.2f} s: no frame from {start_s:g} s on at "
                        f"{fps:g} fps (its header says {said.fps:g} fps)")


def due(n, fps, start_s):
    """Second from which a picture is too late for place n."""
    return start_s + (n + 0.5) / fps - TIE_S


def places(length_s, fps):
    """How many frames a stretch gives: its end is rounded to a place like everything else."""
    return length_s if length_s == math.inf else max(0, math.floor(length_s * fps + 0.5 + TIE_S))


def picture_at(path, time_s, size, threads):
    """The picture with this time stamp: for the rare one that had not seemed to be needed."""
    reader = Reader(path, threads)
    reader.seek(time_s)
    while reader.grab() and reader.time_s < time_s - TIE_S:
        pass
    return reader.image(size)


def check_end(reader, said, stop_s):
    """DataError if the file breaks off at `stop_s`; a note if its pictures just end early.

    The header's duration is also that of the sound, and counts what an edit list hides, so a
    shorter picture alone proves nothing: only missing bytes or damage on the way do.
    """
    first_s = reader.capture.get(cv2.CAP_PROP_PTS) / said.fps - reader.time_s if said.fps else 0
    if stop_s + max(0, first_s) > said.duration_s - EARLY_S:
        return
    if reader.damaged_s is not None or not is_whole(reader.path):
        raise DataError(f"{reader.path}: breaks off at {stop_s:.1f} of {said.duration_s:.1f} s; "
                        "copy or download it again")
    print(f"note: {reader.path}: its pictures end at {stop_s:.1f} of {said.duration_s:.1f} s",
          file=sys.stderr)


def is_whole(path):
    """Whether the file has all the bytes that its container announces (True where it is unknown).

    Looks at sizes only: MP4's outer boxes, Matroska's segment, AVI's RIFF. A tail of zeros is a
    download that never finished.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        file.seek(max(0, size - 4096))
        if not any(file.read()):
            return False
        file.seek(0)
        head = file.read(4096)
        segment = head.find(b"\x18\x53\x80\x67") + 4                   # Matroska: id, then the size
        if head.startswith(b"\x1a\x45\xdf\xa3") and segment > 3:
            width = 9 - head[segment].bit_length()                     # leading zero bits: bytes
            value = int.from_bytes(head[segment:segment + width], "big") & ((1 << 7 * width) - 1)
            unknown = value == (1 << 7 * width) - 1                    # written live
            return unknown or segment + width + value <= size
        if head.startswith(b"RIFF"):
            return 8 + struct.unpack_from("<I", head, 4)[0] <= size
        if head[4:8] != b"ftyp":
            return True
        box = 0
        while box + 8 <= size:
            file.seek(box)
            length, _, long = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
            length = {0: size - box, 1: long}.get(length, length)      # 0: to the end of the file
            if length < 8:
                return False
            box += length
        return box == size


# ------------------------------------------------------------------ many files
VIDEO_NAME = re.compile(r"(?:half[_-]?)?([12])(?:_(\d+p|HQ))?", re.IGNORECASE)    # 1_224p, 1, half1


def half_number(path):
    """1 or 2 if the file is named as the half of a match (1_224p.mkv, 2.mp4), else None."""
    name = VIDEO_NAME.fullmatch(Path(path).stem)
    return int(name[1]) if name else None


def resolution(path):
    """How much a file of several for the same half is wanted: 224p, else the smallest above."""
    rows = (VIDEO_NAME.fullmatch(Path(path).stem)[2] or "")[:-1]
    return int(rows) if rows.isdigit() and int(rows) >= 224 else math.inf, Path(path).name


def find_videos(paths):
    """Matches as lists of their halves' files: [[half, half], [half], ...].

    paths: folders, each searched for matches at any depth (1_224p.mkv and 2_224p.mkv in one folder
    are a match, as in SoccerNet; a file of another name is a match of one half), and files, which
    together are the halves of one match, in their order. Says what it leaves out of several
    resolutions. Raises DataError for what does not exist, or for a folder without videos.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    matches, files = [], []
    for path in map(Path, paths):
        if path.is_dir():
            matches += matches_below(path)
        elif path.exists():
            files.append(str(path))
        else:
            raise DataError(f"{path}: no such file or folder of videos")
    return matches + ([files] if files else [])


def matches_below(root):
    """The matches of one folder, sorted by their place in it."""
    matches, left_out = [], []
    for folder, below, names in os.walk(root, followlinks=True):
        below.sort()
        halves = defaultdict(list)
        for name in sorted(names):
            path = os.path.join(folder, name)
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                halves[half_number(path) or path].append(path)
        ranked = {half: sorted(same, key=resolution) if len(same) > 1 else same
                  for half, same in halves.items()}
        left_out += [(same[0], other) for same in ranked.values() for other in same[1:]]
        if match := [ranked[half][0] for half in (1, 2) if half in ranked]:
            matches.append(match)
        matches += [same for half, same in ranked.items() if half not in (1, 2)]
    if not matches:
        raise DataError(f"{root}: no video below it ({', '.join(sorted(SUFFIXES))})")
    if left_out:
        print("video: of several files for one half, the 224p or else smallest is read: "
              f"{left_out[0][0]}, not {Path(left_out[0][1]).name} ({len(left_out)} left out)")
    return matches


# ------------------------------------------------------------------ videos -> frames on disk
class Job(NamedTuple):
    """One half to extract: file, folder of its frames, how."""
    path: str
    folder: Path
    fps: float
    size: tuple                 # width, height in pixels


def plan(root, out, fps, size):
    """A list of Jobs per match below `root`. Frames go to <out>/<folder of the file>/1_224p, as
    frames.find_halves reads them; a video that is not named by its half is half 1 of a match of its
    own, <out>/<folder of the file>/<its name>/1_224p.
    """
    base, jobs, taken = Path(root), [], {}
    base = base if base.is_dir() else base.parent
    for match in find_videos(root):
        jobs.append([])
        for path in map(Path, match):
            place, number = Path(os.path.relpath(path, base)), half_number(path)
            place = place.parent if number else place.with_suffix("")
            folder = Path(out) / place / f"{number or 1}_{size[1]}p"
            if folder in taken:
                raise DataError(f"{path} and {taken[folder]} would both become {folder}; "
                                "rename one of them")
            taken[folder] = path
            jobs[-1].append(Job(str(path), folder, fps, size))
    return jobs


def is_done(job):
    """Whether the frames are there already. DataError if they are others than these."""
    if not job.folder.exists():
        return False
    images = sorted(job.folder.glob("*.jpg"))
    if not images:
        raise DataError(f"{job.folder}: is there already, but without frames; remove it or choose "
                        "another --out")
    rate = job.folder / "fps.txt"
    fps = float(rate.read_text()) if rate.exists() else DEFAULT_FPS
    height, width = read_frame(images[0]).shape[:2]
    if (fps, width, height) != (job.fps, *job.size):
        raise DataError(f"{job.folder}: has frames at {fps:g} fps, {width}x{height} pixels; remove "
                        "it or choose another --out")
    return True


def write_half(job, tell):
    """Extracts one half into a folder that appears when it is whole. Returns how many frames.

    tell(seconds) hears after every frame how much further it is, and may raise to stop.
    """
    unfinished = job.folder.with_name(f".{job.folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)          # left by a run that was killed
    try:
        unfinished.mkdir(parents=True)
        count = 0
        for frame in sample(job.path, job.fps, size=job.size, threads=1):
            count += 1
            _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR),
                                   [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            (unfinished / f"{count:08d}.jpg").write_bytes(jpeg)
            tell(1 / job.fps)
        if job.fps != DEFAULT_FPS:
            (unfinished / "fps.txt").write_text(f"{job.fps!r}\n")
        os.replace(unfinished, job.folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)      # a full disk has room again
        raise
    return count


def extract(args):
    """`python -m comedian.prepare frames`: every video below args.videos, args.jobs at a time.

    In threads, one per half: decoding and compressing happen in OpenCV, which frees Python's lock.
    Raises DataError at the end if some could not be read, and at once if nothing can be written.
    """
    since, size = time.time(), tuple(args.size)
    matches = plan(args.videos, args.out, args.fps, size)
    jobs = [job for match in matches for job in match]
    broken, todo = [], []                                  # messages; (job, seconds)
    for job in jobs:
        try:
            length_s = probe(job.path).duration_s
            if not is_done(job):
                todo.append((job, length_s))
        except DataError as error:
            broken.append(str(error))
    total_s = sum(length_s for _, length_s in todo)
    print(f"frames: {args.videos}: {len(matches)} matches, {len(jobs)} halves; "
          f"{len(jobs) - len(todo) - len(broken)} done before, {len(todo)} to do "
          f"({total_s / 3600:.2f} h of video)")

    stop, frames = threading.Event(), 0
    bar = tqdm(total=round(total_s / 60, 1), unit="min", desc="frames", disable=None,
               bar_format="{l_bar}{bar}| {n:.1f}/{total:.1f} min of video, {remaining} left")

    def tell(seconds):
        bar.update(seconds / 60)
        if stop.is_set():
            raise concurrent.futures.CancelledError

    cv2.setNumThreads(1)                                   # halves run side by side instead
    with bar, concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        running = {pool.submit(write_half, job, tell): job for job, _ in todo}
        try:
            for half in concurrent.futures.as_completed(running):
                try:
                    frames += half.result()
                except DataError as error:
                    broken.append(str(error))
        except OSError as error:
            raise DataError(f"{args.out}: cannot be written ({error.strerror}); "
                            "the halves that are finished stay") from None
        except KeyboardInterrupt:
            raise DataError("stopped; the halves that are finished stay, and the same command goes "
                            "on from there") from None
        finally:                                           # the others end, and clean up
            stop.set()
            pool.shutdown(cancel_futures=True)
    spent_s = time.time() - since
    print(f"frames: {frames:,} new frames in {spent_s:.1f} s, "
          f"{frames / args.fps / 60 / spent_s:.2f} min of video per second; {args.out}")
    for message in broken:
        print(f"error: {message}", file=sys.stderr)
    if broken:
        raise DataError(f"{len(broken)} of {len(jobs)} halves could not be read, the others are "
                        "done. Mend or remove them and run the same command again")
