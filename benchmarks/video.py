"""
comedian/video.py against the program ffmpeg: the same pictures, how fast, in how much memory.

    python benchmarks/video.py                    # some minutes; nothing else running, please
    python benchmarks/video.py --only kinds       # or: speed, memory

Wants the program ffmpeg (the numbers in video.txt are of 5.1.9). "kinds" makes a file of each kind
with ffmpeg and counts the pictures of `ffmpeg -i FILE -vf fps=2` that come out of video.sample at
the same place: "equal" is a mean difference below 2 of 255 levels (10 bit becomes 8 otherwise in
other versions of FFmpeg; the rest is below 0.1); the next picture of the source is 4 or more away.
Interlaced files go through bwdif=mode=send_frame:deint=interlaced there. "speed" is seconds per
minute of video down to 398x224 at 2 frames a second, of both in turn; "memory" is what three hours
of video take.
"""
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.throughput import machine  # noqa: E402
from comedian import command, video  # noqa: E402
from comedian.frames import DataError  # noqa: E402

SIZE = (398, 224)
X264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p"
SD, FIELDS = "testsrc2=s=400x224:d=10:r=25", "testsrc2=s=400x224:d=10:r=50"
SINE = "-f lavfi -i sine=d=13"
HDR = ("-c:v libx265 -preset ultrafast -x265-params log-level=none -pix_fmt yuv420p10 "
       "-color_primaries bt2020 -colorspace bt2020nc -color_trc")

# kind: (file, arguments of ffmpeg between its input and the file; {base}: a plain file made before)
PLAIN = {
    "H.264, B-frames, mp4": ("b.mp4", f"{X264} -preset veryfast -g 50 -bf 3"),
    "H.264, transport stream": ("b.ts", f"{X264} -g 50"),
    "H.264, mkv": ("b.mkv", f"{X264} -g 50"), "H.264, avi (no stamps)": ("b.avi", f"{X264} -bf 2"),
    "H.264, flv": ("b.flv", X264),
    "H.265": ("h.mp4", "-c:v libx265 -preset ultrafast -x265-params log-level=none"),
    "AV1": ("a.mkv", "-c:v libsvtav1 -preset 10"), "VP9": ("v.webm", "-c:v libvpx-vp9 -cpu-used 8"),
    "MPEG-2, program stream": ("m.mpg", "-c:v mpeg2video -q:v 3"),
    "MPEG-2, B-frames, transport stream": ("m.ts", "-c:v mpeg2video -q:v 3 -bf 2"),
    "MPEG-4 (DivX), avi": ("x.avi", "-c:v mpeg4 -q:v 4 -bf 2"), "WMV": ("w.wmv", "-c:v wmv2"),
    "Motion JPEG, odd size": ("j.mkv", "-vf scale=397:223 -c:v mjpeg -pix_fmt yuvj444p -q:v 2"),
    "ProRes": ("p.mov", "-c:v prores_ks"), "HDR, HLG": ("hlg.mp4", f"{HDR} arib-std-b67"),
    "HDR, PQ": ("pq.mp4", f"{HDR} smpte2084"),
    "variable rate, a gap": ("vfr.mp4", "-vf select='not(between(n,60,140))*lt(mod(n,17),9)' "
                                        f"-vsync vfr {X264}"),
    "one picture in two seconds": ("slow.mp4", f"-vf setpts=50*PTS -r 1/2 {X264}"),
    "one picture a second": ("one.mkv", f"-vf setpts=25*PTS -r 1 {X264}"),
    "1000 pictures a second": ("fast.mkv", f"-r 1000 {X264}"),
    "29.97": ("ntsc.mp4", f"-r 30000/1001 {X264}")}
INTERLACED = {
    "interlaced H.264, mkv": ("i.mkv", f"-vf interlace=scan=tff {X264} -x264opts tff=1"),
    "interlaced H.264, bottom first": ("i.ts", f"-vf interlace=scan=bff {X264} -x264opts bff=1"),
    "interlaced MPEG-2, ts": ("i2.ts", "-vf interlace=scan=tff,setfield=tff -c:v mpeg2video "
                                       "-flags +ilme+ildct -q:v 3"),
    "interlaced MPEG-2, mpg": ("i2.mpg", "-vf interlace=scan=tff,setfield=tff -c:v mpeg2video "
                                         "-flags +ilme+ildct -q:v 3 -bf 2"),
    "interlaced DV": ("dv.avi", "-vf scale=720:576,interlace=scan=bff,setfield=bff -pix_fmt yuv420p"
                                " -c:v dvvideo"),
    "interlaced ProRes": ("ip.mov", "-vf interlace=scan=tff,setfield=tff -c:v prores_ks "
                                    "-flags +ilme+ildct")}
# a second step: (file, made with ffmpeg from ...)
DERIVED = {
    "cut with an edit list": ("cut.mp4", "-ss 4.4 -i b.mp4 -c copy"),
    "cut, transport stream": ("cut.ts", "-ss 4.4 -i b.mp4 -c copy"),
    "fragmented mp4": ("frag.mp4", "-i b.mp4 -c copy -movflags +frag_keyframe+empty_moov"),
    "mkv written live": ("live.mkv", "-i b.mp4 -c copy -live 1"),
    "rotated by 90": ("rot.mp4", "-i b.mp4 -c copy -metadata:s:v rotate=90"),
    "begins at 10 h": ("hours.ts", "-i b.ts -c copy -output_ts_offset 36000"),
    "clock wraps (33 bits)": ("wrap.ts", "-i b.ts -c copy -output_ts_offset 95440"),
    "sound 3 s before the picture": ("sound.mp4", f"-itsoffset 3 -i b.ts {SINE} {X264} -c:a aac"),
    "the same, mkv": ("sound.mkv", f"-itsoffset 3 -i b.ts {SINE} {X264} -c:a aac"),
    "sound and picture, ts": ("both.ts", f"-i b.ts {SINE} -c:v copy -c:a aac -shortest"),
    "two picture streams": ("two.mkv", f"-f lavfi -i color=red:s=160x90:d=10:r=25 -i b.ts -map 0 "
                                       f"-map 1 {X264} -disposition:v:1 default")}


def run(*arguments, **options):
    return subprocess.run([str(a) for a in arguments], check=False, capture_output=True, **options)


def make_all(folder):
    """{kind: file}, each made once."""
    made = {}
    for kinds, source in ((PLAIN, SD), (INTERLACED, FIELDS)):
        for kind, (name, how) in kinds.items():
            run("ffmpeg", "-y", "-f", "lavfi", "-i", source, *how.split(), name, cwd=folder)
            made[kind] = folder / name
    for kind, (name, how) in DERIVED.items():
        run("ffmpeg", "-y", *how.split(), name, cwd=folder)
        made[kind] = folder / name
    run("ffmpeg", "-y", "-i", "b.ts", "-c", "copy", "-output_ts_offset", "5000", "late.ts",
        cwd=folder)
    plain, late, mpeg = ((folder / name).read_bytes() for name in ("b.ts", "late.ts", "m.mpg"))
    random = np.random.default_rng(0).bytes
    half = len(plain) // 2
    for kind, name, content in (
            ("two recordings joined, ts", "join.ts", plain + plain),
            ("two recordings joined, mpg", "join.mpg", mpeg + mpeg),
            ("clock jumps on by 83 minutes", "on.ts", plain + late),
            ("clock jumps back", "back.ts", late + plain),
            ("begins between key pictures, ts", "mid.ts", plain[188 * 60:]),
            ("begins between key pictures, mpg", "mid.mpg", mpeg[60_001:]),
            ("damaged, ts", "dam.ts", plain[:half] + random(2000) + plain[half + 2000:]),
            ("cut off, ts", "off.ts", plain[:half]), ("cut off, mpg", "off.mpg",
                                                      mpeg[:len(mpeg) // 2])):
        (folder / name).write_bytes(content)
        made[kind] = folder / name
    return made


def kinds(folder):
    print(f"{'kind':36}{'pictures equal / all':>22}   notes of video.py")
    for kind, path in make_all(folder).items():
        notes, ours = [], []
        try:
            ours.extend(video.sample(path, note=notes.append))
        except DataError as error:
            notes.append(f"error: {error}")
        deinterlace = "bwdif=mode=send_frame:deint=interlaced," if kind in INTERLACED else ""
        raw = run("ffmpeg", "-i", path, "-vf", f"{deinterlace}fps=2", "-vsync", "cfr", "-f",
                  "rawvideo", "-pix_fmt", "rgb24", "-").stdout
        shape = ours[0].shape if ours else (0, 1, 1)
        theirs = np.frombuffer(raw, np.uint8).reshape(-1, *shape) if ours else []
        equal = sum(np.abs(a.astype(int) - b).mean() < 2
                    for a, b in zip(ours, theirs, strict=False))
        count = f"{equal} / {max(len(theirs), len(ours))}"
        said = "; ".join(note.replace(f"{path}: ", "") for note in notes)
        print(f"{kind:36}{count:>22}   {said}", flush=True)


def render(folder, width, height, interlaced, seconds):
    path = folder / f"{width}x{height}{'i' if interlaced else ''}.{'ts' if interlaced else 'mp4'}"
    fields = "-vf interlace=scan=tff -x264opts tff=1" if interlaced else ""
    source = f"testsrc2=s={width}x{height}:d={seconds}:r={50 if interlaced else 25}"
    run("ffmpeg", "-y", "-f", "lavfi", "-i", f"{source},noise=alls=4:allf=t", *fields.split(),
        *X264.split(), "-preset", "veryfast", "-crf", "25", "-g", "50", path)
    return path


def cost(work):
    """(seconds, processor seconds on all cores) of a function, child processes included."""
    def spent():
        return sum(u.ru_utime + u.ru_stime for u in map(
            resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
    began, cpu = time.perf_counter(), spent()
    work()
    return time.perf_counter() - began, spent() - cpu


def speed(folder, seconds, repeats):
    print(f"seconds per minute of video (processor seconds on all cores), down to "
          f"{SIZE[0]}x{SIZE[1]} at 2 a second;\nmedian of {repeats}, least to most\n")
    print(f"{'':12}{'Mbit/s':>8}{'video.py':>34}{'ffmpeg':>34}{'open, ms':>10}")
    for width, height, interlaced in ((398, 224, False), (1280, 720, False), (1920, 1080, False),
                                      (1920, 1080, True)):
        path = render(folder, width, height, interlaced, seconds)
        filters = "bwdif=mode=send_frame:deint=interlaced," * interlaced + (
            f"fps=2,scale={SIZE[0]}:{SIZE[1]}:flags=area")

        def ours(path=path):
            assert sum(1 for _ in video.sample(path, size=SIZE)) == 2 * seconds

        def theirs(path=path, filters=filters):
            raw = run("ffmpeg", "-i", path, "-vf", filters, "-f", "rawvideo", "-pix_fmt", "rgb24",
                      "-").stdout
            assert len(raw) == 2 * seconds * SIZE[0] * SIZE[1] * 3

        both, opens = {ours: [], theirs: []}, []
        for _ in range(repeats):
            for work, times in both.items():
                times.append([60 / seconds * t for t in cost(work)])
            opens.append(1000 * cost(lambda path=path: video.probe(path))[0])
        cells = []
        for times in both.values():
            wall, cpu = zip(*times, strict=True)
            cells.append(f"{statistics.median(wall):.2f} ({min(wall):.2f}-{max(wall):.2f}), cpu "
                         f"{statistics.median(cpu):.2f}")
        rate = 8e-6 * os.path.getsize(path) / seconds
        print(f"{path.stem:12}{rate:>8.1f}{cells[0]:>34}{cells[1]:>34}"
              f"{statistics.median(opens):>10.0f}", flush=True)


def memory(folder, hours):
    """Resident memory while a long video is read: a minute of it, copied."""
    minute = render(folder, 398, 224, False, 60)
    path = folder / "long.ts"
    run("ffmpeg", "-y", "-stream_loop", round(60 * hours) - 1, "-i", minute, "-c", "copy", path)
    print(f"memory: {video.probe(path).duration_s / 3600:.2f} h of 398x224, "
          f"{os.path.getsize(path) / 1e6:.0f} MB")
    began, marks = time.perf_counter(), (60, 600, 3600, 7200, 10_700)
    for n, _ in enumerate(video.sample(path, size=SIZE)):
        if n in (2 * second for second in marks):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            print(f"  after {n / 2 / 60:6.1f} min: {pages * resource.getpagesize() / 1e6:.0f} MB",
                  flush=True)
    print(f"  {n + 1:,} frames in {time.perf_counter() - began:.0f} s; peak "
          f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")


def main(args):
    if not shutil.which("ffmpeg"):
        sys.exit("error: the program ffmpeg is not installed; apt install ffmpeg")
    version = run("ffmpeg", "-version", text=True).stdout.split()[2]
    print(f"{machine(torch.device('cpu'))}; "
          f"PyAV {av.__version__} (FFmpeg {av.ffmpeg_version_info}), ffmpeg {version}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.only in (None, "kinds"):
            kinds(folder)
            print()
        if args.only in (None, "speed"):
            speed(folder, args.seconds, args.repeats)
            print()
        if args.only in (None, "memory"):
            memory(folder, args.hours)


if __name__ == "__main__":
    parser = command.Parser(__doc__)
    parser.add_argument("--only", choices=("kinds", "speed", "memory"))
    parser.add_argument("--seconds", type=int, default=20, help="length of the timed videos")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--hours", type=float, default=3.0)
    main(parser.parse_args())
