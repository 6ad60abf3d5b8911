"""
Prepares what the stages read from disk: frames, narrow features, a teacher's features.

    python -m comedian.prepare frames --videos soccernet/ --out frames/
    python -m comedian.prepare frames --videos matches --out data/demo --size 48 48   # make demo
    python -m comedian.prepare pca --features soccernet/ --split train    # Baidu's: 8,576 to 512
    python -m comedian.prepare features --data frames/ --backbone timm:vit_small_patch14_dinov2

`frames` turns every video into a folder of JPEGs, two per second: video.py.
`pca` writes <half>_<out-name>.npy beside every <half>_<name>.npy, in the basis that it fits and
saves as <out-name>.npz, or in that of --basis. After an interruption it continues half by half.
`features` writes the features of any image network, as a teacher: backbone.py. (Those of a network
that was trained here: infer.py --features NAME.) Letters and terms: docs/method.md.

A command imports FFmpeg or torch only when it needs them, so that --help answers at once.
"""
import argparse
import concurrent.futures
import itertools
import json
import os
import re
import shutil
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from comedian import DataError, command, formats, lock, write_file
from comedian.command import device_name, file_name, number
from comedian.frames import (
    DEFAULT_FPS, half_number, in_split, opencv, read_frame, read_rate, walk)

JPEG_QUALITY = 95               # files as large as those of ffmpeg -q:v 1 -qmin 1, and truer


# ------------------------------------------------------------------ frames: a tree of videos
class Job(NamedTuple):
    """One half to extract: file, folder of its frames, how."""
    path: str
    folder: Path
    fps: float
    size: tuple                 # width, height in pixels


def find_jobs(root, out, fps, size):
    """A list of Jobs per match below `root`. Frames go to <out>/<folder of the file>/1_224p, where
    frames.find_halves finds them; a video whose name contains no half is half 1 of its own match,
    <out>/<folder of the file>/<its name>/1_224p.
    """
    from comedian import video
    base, jobs, sources = Path(root), [], {}
    base = base if base.is_dir() else base.parent
    for match in video.find_videos(root):
        jobs.append([])
        for path in map(Path, match):
            place, number = Path(os.path.relpath(path, base)), half_number(path)
            place = place.parent if number else place.with_suffix("")
            folder = Path(out) / place / f"{number or 1}_{size[1]}p"
            if folder in sources:
                raise DataError(f"{path} and {sources[folder]} would both become {folder}; "
                                "rename one of them")
            sources[folder] = path
            jobs[-1].append(Job(str(path), folder, fps, size))
    return jobs


def description(job, n_frames):
    """The content of a frame folder's made.json: the source of the frames and the settings."""
    return {"video_bytes": os.path.getsize(job.path), "fps": job.fps, "size": list(job.size),
            "frames": n_frames}


def read_made(job):
    """The content of a frame folder's made.json; {} if another program made the frames."""
    path = job.folder / "made.json"
    made = formats.read_json(path, "a made.json of this command") if path.exists() else {}
    return made if isinstance(made, dict) else {}


def is_done(job):
    """Whether the frames exist already. DataError if some are missing or the settings differ."""
    if not job.folder.exists():
        return False
    images = sorted(job.folder.glob("*.jpg"))
    wanted = description(job, len(images))
    if not images:
        raise DataError(f"{job.folder}: exists already, but has no frames; remove it or choose "
                        "another --out")
    if (job.folder / "made.json").exists():
        found = dict.fromkeys(wanted) | read_made(job)
    else:                             # by another program: rate and size are all that tells
        height, width = read_frame(images[0]).shape[:2]
        found = {"fps": read_rate(job.folder / "fps.txt"), "size": [width, height]}
    for key in wanted.keys() & found:
        if found[key] != wanted[key]:
            raise DataError(f"{job.folder}: exists already, made with other settings ({key}: "
                            f"{found[key]}, now {wanted[key]}); remove it or choose another --out")
    return True


def write_half(job, advance):
    """Extracts one half into a folder that appears when it is whole. Returns how many frames.

    advance(seconds) is called after every frame, with the time that it adds, and may raise to stop.
    """
    from comedian import video
    cv2, made = opencv(), {}

    def note(text):
        if "is cut off" in text:                           # stored, and printed by every run
            made["cut_off"] = text.removeprefix(f"{job.path}: ")
        else:
            video.print_note(text)

    unfinished = job.folder.with_name(f".{job.folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)          # left by a run that was killed
    try:
        unfinished.mkdir(parents=True)
        count = 0
        for frame in video.sample(job.path, job.fps, size=job.size, threads=1, note=note):
            count += 1
            _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR),
                                   [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            (unfinished / f"{count:08d}.jpg").write_bytes(jpeg)
            advance(1 / job.fps)
        if job.fps != DEFAULT_FPS:
            (unfinished / "fps.txt").write_text(f"{job.fps!r}\n")
        (unfinished / "made.json").write_text(json.dumps(description(job, count) | made) + "\n")
        os.replace(unfinished, job.folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)      # a full disk has room again
        raise
    return count


def extract(args):
    """`python -m comedian.prepare frames`: every video below args.videos.

    Raises DataError at the end if some could not be read, and at once if nothing can be written or
    another process writes there. Ctrl-C, SIGTERM and SIGHUP end it with a line and an exit code.
    """
    def stopped():
        done = sum(job.folder.exists() for job in jobs)
        return (f"stopped; {done} of {len(jobs)} halves are finished in {args.out}; the same "
                "command continues from there")

    matches = find_jobs(args.videos, args.out, args.fps, tuple(args.size))
    jobs = [job for match in matches for job in match]
    try:
        os.makedirs(args.out, exist_ok=True)
        lock_file = lock(args.out)
    except OSError as error:
        raise DataError(f"{args.out}: cannot be written ({error.strerror}); choose another --out"
                        ) from None
    try:
        with command.stoppable(stopped):
            extract_all(args, jobs, len(matches))
    finally:
        os.close(lock_file)


def extract_all(args, jobs, n_matches):
    """Runs the Jobs that are not done yet, args.jobs at a time, each in a thread: FFmpeg decodes
    and OpenCV compresses, and both free Python's lock."""
    from comedian import video
    from tqdm import tqdm
    begin, total_s = time.time(), 0
    broken, todo, ready = [], [], []                       # messages; jobs; jobs
    for job in jobs:
        try:
            length_s = video.probe(job.path).duration_s
            if is_done(job):
                ready.append(job)
            else:
                todo.append(job)
                total_s += length_s
        except DataError as error:
            broken.append(str(error))
    print(f"frames: {args.videos}: {n_matches} matches, {len(jobs)} halves; {len(ready)} done "
          f"before, {len(todo)} to do ({total_s / 3600:.2f} h of video)")

    stop, frames = threading.Event(), 0
    bar = tqdm(total=round(total_s / 60, 1), unit="min", desc="frames", disable=None,
               bar_format="{l_bar}{bar}| {n:.1f}/{total:.1f} min of video, {remaining} left")

    def advance(seconds):
        bar.update(seconds / 60)
        if stop.is_set():
            raise concurrent.futures.CancelledError

    opencv().setNumThreads(1)                              # halves run side by side instead
    with bar, concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        running = {pool.submit(write_half, job, advance): job for job in todo}
        try:
            for half in concurrent.futures.as_completed(running):
                try:
                    frames += half.result()
                    ready.append(running[half])
                except DataError as error:
                    broken.append(str(error))
        except OSError as error:
            raise DataError(f"{args.out}: cannot be written ({error.strerror}); "
                            "finished halves are kept") from None
        finally:                                           # the others end, and clean up
            stop.set()
            pool.shutdown(cancel_futures=True)
    spent_s = time.time() - begin
    cut = [job for job in ready if "cut_off" in read_made(job)]
    for job in cut:
        video.print_note(f"{job.path}: {read_made(job)['cut_off']}")
    print(f"frames: {frames:,} new frames in {spent_s:.1f} s, "
          f"{frames / args.fps / 60 / spent_s:.2f} min of video per second; {args.out}"
          + (f"; videos that are cut off: {len(cut)}" if cut else ""))
    if len(jobs) == len(broken) == 1:
        raise DataError(broken[0])
    for message in broken:
        command.print_error(message)
    if broken:
        raise DataError(f"{len(broken)} of {len(jobs)} halves could not be read, the others are "
                        "done; repair or remove them and run the same command again")


# ------------------------------------------------------------------ pca: wide features to narrow
# All rows of all halves are read once, and only their mean and covariance are kept, in float64:
# D x D numbers, 588 MB for Baidu's 8,576, however many matches there are. Each dimension is divided
# by its standard deviation first, as for the official pca_512_std features. No whitening and no
# unit length: stage 2 sees to the latter.
ROWS = 4096                           # read at a time
PANELS = 8                            # of columns of the covariance; what lies below is not summed


class FeatureFile(NamedTuple):
    """The features of a half on disk."""
    match: str
    number: int
    path: Path


class Basis(NamedTuple):
    """Turns rows x (r, D) into (x - mean) / scale @ components.T (r, width). Float64."""
    mean: np.ndarray                  # (D,)
    scale: np.ndarray                 # (D,): standard deviations, or ones
    components: np.ndarray            # (width, D): orthonormal rows
    explained_variance: np.ndarray    # (width,): falling
    total_variance: np.ndarray        # (): the same of all D directions
    sources: np.ndarray               # the files it was fitted on: "match/1_name.npy"


def find_features(root, name):
    """Every FeatureFile of this name below `root`, sorted. DataError if there is none."""
    pattern, found = re.compile(rf"(\d+)_{re.escape(name)}\.npy"), []
    for folder, _, files in walk(root):
        found += [FeatureFile(Path(folder).relative_to(root).as_posix(), int(m[1]),
                              Path(folder, m[0]))
                  for m in map(pattern.fullmatch, files) if m]
    if not found:
        raise DataError(f"{root}: no <match>/<half>_{name}.npy below it; check --features, --name")
    return sorted(found)


def open_rows(file):
    """The formats.Header of (seconds, D) features, or DataError."""
    header = formats.open_array(file.path)
    if len(header.shape) != 2 or 0 in header.shape or header.dtype.kind not in "fiu":
        raise DataError(f"{file.path}: features must be numbers of shape (seconds, width), got "
                        f"{header.shape} of {header.dtype}; save them in this shape")
    return header


def map_rows(file):
    """The rows (seconds, D), memory-mapped. A map keeps its file open: a system may allow 1,024
    open files, and SoccerNet has 1,100 halves."""
    header = open_rows(file)
    return np.memmap(file.path, header.dtype, "r", header.data_start, header.shape,
                     "F" if header.fortran_order else "C")


def blocks(file):
    """Yields the rows in blocks, (ROWS or fewer, D) float64. DataError if a square overflows."""
    import torch
    rows = map_rows(file)
    for start in range(0, len(rows), ROWS):
        x = torch.from_numpy(np.array(rows[start:start + ROWS], np.float64))
        bad = ~(x.abs() <= 1e100).all(1)                   # squares of larger ones overflow
        if bad.any():
            raise DataError(f"{file.path}: row {start + int(bad.int().argmax())} is not finite, or "
                            "beyond 1e100; extract this half's features again, or remove the file")
        yield x


def fit_basis(files, width, standardize, device):
    """The Basis of the `width` directions of largest variance, from one pass over all rows.

    Signs are fixed: the largest entry of a component is positive.
    """
    import torch
    from tqdm import tqdm
    # A row is subtracted, so that little cancels and what never changes has variance 0, exactly.
    shift = next(blocks(files[0]))[0].to(device)                      # (D,)
    D, n = len(shift), 0
    total = torch.zeros(D, dtype=torch.float64, device=device)
    products = torch.zeros(D, D, dtype=torch.float64, device=device)
    edges = [D * i // PANELS for i in range(PANELS + 1)]
    for file in tqdm(files, desc="covariance", unit="half", disable=None):
        for x in blocks(file):
            x = x.to(device) - shift                                  # (r, D)
            n += len(x)
            total += x.sum(0)
            for left, right in itertools.pairwise(edges):             # on and above the diagonal
                products[:right, left:right].addmm_(x[:, :right].T, x[:, left:right])
    covariance = products.addr_(total, total, alpha=-1 / n).div_(n - 1)
    scale = torch.ones_like(total)
    if standardize:
        scale = (covariance.diagonal() * (n - 1) / n).clamp(min=0).sqrt()
        scale[scale == 0] = 1
        covariance.div_(scale).div_(scale[:, None])
    total_variance = covariance.trace()
    print(f"pca: computing the {width} components of {n:,} rows x {D:,}"
          + " (minutes at this width)" * (D > 4000), flush=True)
    variance, vectors = torch.linalg.eigh(covariance, UPLO="U")       # rising; (D,), (D, D)
    components = vectors[:, -width:].flip(1).T                        # (width, D)
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    components = components * largest.sign()
    return Basis(*(value.cpu().numpy() for value in (
        shift + total / n, scale, components, variance[-width:].flip(0), total_variance)),
        sources=np.array(source_names(files)))


def source_names(files):
    """The names under which a Basis lists the files it was fitted on."""
    return [f"{file.match}/{file.path.name}" for file in files]


def check_basis(path, basis, sources, standardize):
    """DataError if the basis at `path`, of an earlier call, was fitted otherwise than this call
    would fit it."""
    others = sorted(set(basis.sources.tolist()) ^ set(sources))
    if others:
        raise DataError(f"{path}: was fitted on other files ({len(others)} differ, for example "
                        f"{others[0]}); add --basis {path} to use it, or another --out-name to fit "
                        "a new one")
    if standardize != bool((basis.scale != 1).any()):
        raise DataError(f"{path}: was fitted with{'out' * standardize} --standardize; choose "
                        "another --out-name, or remove it")


def read_basis(path):
    """The Basis that an earlier call saved; DataError if the file is missing or damaged."""
    what = "a basis of this command"
    if not path.exists():
        raise DataError(f"{path}: no such basis; leave out --basis to fit one")
    if not path.is_file() or not formats.is_zip(path):
        raise formats.refused(path, what, "not an .npz")
    arrays = formats.read_npz(path, what)
    try:
        mean, scale, components, explained, total = (
            formats.checked_array(arrays, name, "f", n_dims).astype(np.float64)
            for name, n_dims in zip(Basis._fields[:5], (1, 1, 2, 1, 0), strict=True))
        sources = formats.checked_array(arrays, "sources", "U", 1)
        width, D = components.shape
        if not 0 < width <= D or mean.shape != (D,) or scale.shape != (D,) or explained.shape != (
                width,):
            raise ValueError(f"components of shape {components.shape} do not fit the rest")
        if scale.min() <= 0 or total <= 0:
            raise ValueError("a scale or the variance is 0 or less")
        if abs(components).max() > 1.1 or not np.allclose(
                components @ components.T, np.eye(width), atol=1e-6):
            raise ValueError("its components are not orthonormal")
    except ValueError as error:
        raise formats.refused(path, what, error) from None
    return Basis(mean, scale, components, explained, total, sources)


def project(x, basis):
    """(r, D) float64 -> (r, width) float32."""
    import torch
    x = (x - torch.from_numpy(basis.mean)) / torch.from_numpy(basis.scale)
    return (x @ torch.from_numpy(basis.components).T).float().numpy()


def pca(args):
    root, out = Path(args.features), Path(args.out or args.features)
    files = find_features(root, args.name)
    shapes = {file: open_rows(file).shape for file in files}
    D = shapes[files[0]][1]
    for file, (_, own) in shapes.items():
        if own != D:
            raise DataError(f"{file.path}: {own} wide, but {files[0].path} is {D}; give features "
                            "of each width a --name of their own")
    matches, numbers = (sorted({file[i] for file in files}) for i in (0, 1))
    print(f"data: {root}: {len(matches)} matches, {len(files)} halves, "
          f"{sum(n for n, _ in shapes.values()):,} rows of {D:,}")
    for match, n in sorted({*itertools.product(matches, numbers)} - {file[:2] for file in files}):
        print(f"data: {root / match}: no {n}_{args.name}.npy; continuing without it")

    # -- the basis: given, of an earlier call, or of these files
    out_name = args.out_name or (Path(args.basis).stem if args.basis else
                                 f"pca_{args.width}_{'std_' * args.standardize}{args.name}")
    path = Path(args.basis or out / f"{out_name}.npz")
    if args.split and not args.basis:
        matches = in_split(matches, args.split, root)
    used = [file for file in files if file.match in set(matches)]
    if args.basis or path.exists():
        basis = read_basis(path)
        print(f"pca: {path}: fitted before, on {len(basis.sources)} halves")
        if not args.basis:
            check_basis(path, basis, source_names(used), args.standardize)
    else:
        n = sum(shapes[file][0] for file in used)
        if args.width > min(D, n - 1):
            raise DataError(f"--width {args.width}: {n:,} rows of {D:,} numbers have at most "
                            f"{min(D, n - 1):,} directions; give a smaller --width")
        print(f"pca: fitting on {len(used)} halves; the covariance takes {8 * D * D / 1e6:,.1f} "
              "MB, its components about four times that")
        basis = fit_basis(used, args.width, args.standardize, args.device)
        write_file(path, lambda file: np.savez(file, **basis._asdict()))
    width = len(basis.components)
    if basis.components.shape[1] != D or (not args.basis and width != args.width):
        raise DataError(f"{path}: reduces {basis.components.shape[1]} to {width} numbers, not "
                        f"{D} to {args.width}; choose another --out-name, or remove it")
    print(f"pca: {path}: {width} of {D:,} directions hold "
          f"{basis.explained_variance.sum() / basis.total_variance:.1%} of the variance")

    # -- every half
    import torch
    from tqdm import tqdm
    n_done = 0
    for file in tqdm(files, desc="pca", unit="half", disable=None):
        path = out / file.match / f"{file.number}_{out_name}.npy"
        if path.exists():                                 # from an earlier call, by the same basis?
            done = FeatureFile(file.match, file.number, path)
            again = project(torch.from_numpy(np.array(map_rows(file)[[0, -1]], np.float64)), basis)
            if (open_rows(done).shape != (shapes[file][0], width)
                    or not np.allclose(map_rows(done)[[0, -1]], again, atol=1e-3)):
                raise DataError(f"{path}: exists already, from another basis or other features; "
                                "remove it or choose another --out-name")
            n_done += 1
            continue
        reduced = np.concatenate([project(x, basis) for x in blocks(file)])
        if not np.isfinite(reduced).all():
            raise DataError(f"{args.basis or file.path}: reduces to values that are not finite; "
                            "fit another basis, or extract these features again")
        write_file(path, lambda to, reduced=reduced: np.save(to, reduced))
    print(f"pca: {len(files) - n_done} halves written, {n_done} existed already; "
          f"{out}/<match>/<half>_{out_name}.npy, {width} wide")


# ------------------------------------------------------------------ command line
def features(args):
    """`python -m comedian.prepare features`."""
    from comedian import backbone
    backbone.write_features(args)


def parse_args(argv=None):
    p = command.Parser(__doc__)
    commands = p.add_subparsers(dest="command", required=True, prog=p.prog)
    s = commands.add_parser("frames", help="make frames from a folder of videos, for all stages")
    s.add_argument("--videos", required=True,
                   help="folder with <match>/1_224p.mkv and 2_224p.mkv, or any other videos")
    s.add_argument("--out", required=True, help="folder for <match>/1_224p/00000001.jpg ...")
    s.add_argument("--fps", type=number(0.01, 1000), default=DEFAULT_FPS,
                   help="frames per second (paper: 2)")
    s.add_argument("--size", type=number(16, 8192), nargs=2, default=[398, 224],
                   metavar=("WIDTH", "HEIGHT"), help="pixels (SoccerNet: 398 224)")
    s.add_argument("--jobs", type=number(1, 1024), default=os.cpu_count(),
                   help="halves decoded at a time")
    s.set_defaults(run=extract)

    s = commands.add_parser("pca", help="reduce features to their main directions")
    s.add_argument("--features", required=True, help="folder with <match>/<half>_<name>.npy")
    s.add_argument("--name", type=file_name, default="baidu_soccer_embeddings",
                   help="name of the features to reduce")
    s.add_argument("--out-name", type=file_name, help="name of the reduced features; default: "
                   "pca_<width>_std_<name> (no std_ with --no-standardize), which stage 2 looks "
                   "for if the width is 512; with --basis, its name")
    s.add_argument("--out", help="folder for the reduced features; default: --features")
    s.add_argument("--width", type=number(1, 65_536), default=512,
                   help="directions to keep (paper: 512)")
    s.add_argument("--standardize", action=argparse.BooleanOptionalAction, default=True,
                   help="divide each number by its standard deviation first (official code)")
    s.add_argument("--split", help="fit on these games only: train, train+valid, ... or a text "
                   "file; all halves are reduced")
    s.add_argument("--basis", metavar="FILE", help="reduce with this .npz of an earlier call, "
                   "instead of fitting one")
    s.add_argument("--device", type=device_name, default="cpu",
                   help="device that sums the covariance")
    s.set_defaults(run=pca)

    s = commands.add_parser("features", help="make a teacher for stage 2 from any image network")
    s.add_argument("--data", required=True, help="folder with frames")
    s.add_argument("--split", help="only these games: train, train+valid, ... or a text file")
    s.add_argument("--backbone", required=True, help="timm:NAME (pip install timm), or "
                   "file.py:function, which returns (network, size, mean, std)")
    s.add_argument("--weights", metavar="FILE", help="weights of a timm network; without it timm "
                   "downloads them")
    s.add_argument("--out", help="folder for <match>/<half>_<name>.npy; default: --data")
    s.add_argument("--name", type=file_name, help="name of the features; default: the network's")
    s.add_argument("--batch", type=number(1, 65_536), default=32, help="frames at a time")
    s.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    s.add_argument("--workers", type=number(0, 1024), default=0, help="decoding threads; 0 = one "
                   "per core")
    s.add_argument("--device", type=device_name, default="cpu", help="cpu, cuda, cuda:1, ...")
    s.set_defaults(run=features)
    return p.parse_args(argv)


if __name__ == "__main__":
    args = parse_args()
    command.run_as_command(args.run, args, stopped="stopped; the same command continues from here")
