"""
The page: one HTML file with a match's video, its spotted actions, and their scores over time.

    python -m comedian.report page runs/infer --labels videos      # <match>/page.html
    python -m comedian.report page --video match.mp4 --classes classes.txt     # to label it

It works offline, from the disk. The video is not in it but beside it, by a relative path; where the
browser cannot play it, the page asks for another file of it. page.html is the page but for its
program, page.js, and its data, which stands in it as JSON. The browser keeps what a person reviews
under the name of the match and a hash of its actions and labels.
"""
import base64
import hashlib
import itertools
import json
import os
from pathlib import Path
from urllib.parse import quote

import cv2
import numpy as np

from comedian import DataError, __version__, export, formats, frames, soccernet, write_text
from comedian.labels import video_of, without

PICTURE = (112, 63)                   # pixels that the small pictures fit into
MOST_PICTURES, MOST_ACTIONS = 250, 1500               # of a half, the surest: it stays below 3 MB
LEAST = 0.02                          # lowest confidence in the page; its slider begins there
FPS = 25                              # of a video that does not say: the step of a frame


def small_picture(frame):
    """(H, W, 3) uint8, red first -> the bytes of a small JPEG of the same shape."""
    scale = min(PICTURE[0] / frame.shape[1], PICTURE[1] / frame.shape[0])
    size = [max(1, round(scale * side)) for side in frame.shape[1::-1]]
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes()


def pictures_of(source, times_s):
    """{time: bytes of a JPEG} from a half's video or folder of frames; {} where it is gone."""
    source = Path(source)
    if source.is_dir():
        if not (half := half_of(source)):
            return {}
        numbers = {s: min(max(0, int(s * half.fps)), half.n_frames - 1) for s in times_s}
        return {s: small_picture(frames.read_frame(half.path(n))) for s, n in numbers.items()}
    if not source.is_file() or not len(times_s):
        return {}
    from comedian import video        # here: it needs PyAV
    wanted, found = sorted(times_s), {}
    for n, frame in enumerate(video.sample(source, 2.0, size=video.FRAME_SIZE)):
        while wanted and n / 2 >= wanted[0] - 0.5:
            found[wanted.pop(0)] = small_picture(frame)
        if not wanted:
            break
    return found


def half_of(folder):
    """The frames.Half of a folder of frames, or None."""
    try:
        images = [m for m in map(frames.IMAGE_NAME.fullmatch, os.listdir(folder)) if m]
        return frames.frame_folder("", 1, folder, images) if images else None
    except (DataError, OSError):
        return None


def frame_rate(source):
    """Pictures a second of a half's video, as its header says."""
    from comedian import video        # here: it needs PyAV
    try:
        fps = video.probe(source).fps
    except DataError:
        return FPS
    return fps if 1 <= fps <= 240 else FPS


def write_page(path, match, curves, classes, actions, about, labels=None, pictures=None, least=0.3,
               spotted=True):
    """Writes the page of a match to `path`.

    curves    {half: (scores (n_tokens, K) in [0, 1], token_s, start_s)}
    actions   [export.Action]; labels: as soccernet.find_labels has them, None: the truth is unknown
    about     what the results say of themselves; its "videos" are relative to the folder of `path`
    pictures  {half: {s: JPEG}} or None: they are read from the videos
    least     confidence at which the slider stands first
    spotted   False: there are no results; the curves only say how long the halves are
    """
    index, folder = {name: k for k, name in enumerate(classes)}, Path(path).parent
    halves, rows = [], []
    head, truth = rows_to_keep(labels)

    def place(source):                # by its name, as a browser goes; the folder may be to come
        return Path(os.path.normpath(folder / source))

    for number, (scores, token_s, start_s) in sorted(curves.items()):
        source = about.get("videos", {}).get(str(number), "")
        half = {"n": number, "start": start_s, "end": start_s + token_s * len(scores),
                "token": token_s, "name": export.video_name(match, number, about),
                "table": export.table_name(match, number),
                "video": link(source), "frames": None, "fps": FPS, "curves": base64.b64encode(
                    np.round(255 * scores).astype(np.uint8).tobytes()).decode()}
        if source and place(source).is_dir() and (found := half_of(place(source))):
            half["frames"] = {"path": link(f"{source}/{found.prefix}"), "digits": found.digits,
                              "suffix": found.suffix, "first": found.first, "fps": found.fps,
                              "n": found.n_frames}
            half["fps"] = found.fps
        elif source and place(source).is_file():
            half["fps"] = frame_rate(place(source))
        halves.append(half)
        of_half = sorted((action for action in actions
                          if action.half == number and action.confidence >= LEAST),
                         key=lambda action: -action.confidence)[:MOST_ACTIONS]
        true = [row for row in truth or () if row[0] == number and row[2] in index]
        times_s = [action.position_ms / 1000 for action in of_half[:MOST_PICTURES]] + [
            row[1] / 1000 for row in true[:MOST_PICTURES // 2]]
        if pictures is not None:
            seen = nearest(pictures.get(number, {}), times_s)
        else:
            seen = pictures_of(place(source), times_s) if source else {}

        def picture(position_ms, seen=seen):
            return base64.b64encode(seen.get(position_ms / 1000, b"")).decode()

        rows += [(number, action.position_ms, index[action.label], action.confidence,
                  picture(action.position_ms))
                 for action in sorted(of_half, key=lambda action: action.position_ms)]
        for row in true:
            row[4] = picture(row[1])
    content = [classes, [[half["n"], half["start"], half["end"]] for half in halves],
               [row[:4] for row in rows], [row[:4] for row in truth or ()]]
    if not spotted:                   # nothing else tells videos of one name apart
        content += [os.path.getsize(place(source)) for source in about["videos"].values()]
    content = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    data = {"title": soccernet.match_title(match), "match": match, "classes": classes,
            "halves": halves, "events": rows, "about": describe(about), "least": max(LEAST, least),
            "truth": truth, "head": head, "spotted": spotted, "hash": content}
    page, program = (Path(__file__).with_name(name).read_text(encoding="utf-8")
                     for name in ("page.html", "page.js"))
    # No text in the data can end the script: < is written as JSON lets one write any character.
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    write_text(path, page.replace("__SCRIPT__", program).replace("__DATA__", text))


def rows_to_keep(labels):
    """({what a Labels-v2.json says at its top}, [[half, ms, name, {what else it says of it}, ""]])
    of labels: all that a person would miss in the file that the page saves. ({}, None) for None."""
    if labels is None:
        return {}, None
    is_listed = isinstance(labels, soccernet.Listed)
    head = {} if is_listed else without(formats.read_json(labels, "a SoccerNet label file"),
                                        "UrlLocal", "annotations", "review") or {}
    rows = [[row.half, row.position_ms, row.name,
             {"visibility": "visible" if row.visible else "not shown"} | (row.more or {}), ""]
            for row in (labels.rows if is_listed else soccernet.read_rows(labels))]
    return json.loads(json.dumps([head, rows]), parse_constant=str)       # NaN is no JSON


def link(path):
    """A path as a page asks for it, byte by byte: its name may not be UTF-8."""
    return quote(path.encode(errors="surrogateescape"))


def nearest(pictures, times_s):
    """{time: the picture, of those at other times, that is closest to it}."""
    there = np.array(sorted(pictures))
    return {s: pictures[there[np.abs(there - s).argmin()]] for s in times_s} if len(there) else {}


def describe(about):
    """What results say about themselves, on one line for the foot of the page."""
    parts = [str(about.get("program", "results of another program"))]
    if paths := about.get("checkpoint"):                  # others may write one, or anything
        paths = paths if isinstance(paths, list) else [paths]
        parts.append("checkpoint " + ", ".join(map(str, paths)))
    settings = about.get("settings")
    if isinstance(settings, dict):
        parts.append(", ".join(f"{name} {value}" for name, value in settings.items()
                               if value is not None))         # None: as the network's window says
    return " · ".join(parts)


# ------------------------------------------------------------------ the results of infer.py
def read_half(folder, half):
    """(scores (n_tokens, K) in [0, 1], token_s, start_s, classes) of a half, merged as by infer.py
    (of older files: as it does by default).

    Token k stands at start_s + (k + 1/4) * token_s seconds of the video. Raises DataError if
    infer.py stored no such half.
    """
    from comedian import ops          # here: it brings torch, which takes longer than a picture
    stored = soccernet.read_scores(folder)
    curve = soccernet.read_curve(folder, half)
    if curve is not None:
        return curve, stored.token_s, stored.start_s, stored.classes
    window, length = stored.windows[0].shape[1], stored.windows[3].tolist()
    if not length[half - 1]:
        raise DataError(f"{Path(folder) / soccernet.SCORES}: no half {half} in it; "
                        f"see --half {2 - bool(length[0])}")
    merged = ops.merge_windows(*stored.windows, edge=ops.default_ignore(window))  # (S, K)
    return (merged.split(length)[half - 1].numpy(), stored.token_s, stored.start_s,
            stored.classes)


def from_results(folder, match, labels=None, threshold=0.3, pictures=None, videos=None):
    """page.html of a match from the results in `folder`; labels as soccernet.find_labels has them.
    videos: {half: path} to show instead of frames. Returns its path."""
    folder = Path(folder)
    match = folder.resolve().name if match == "." else match
    curves, length = {}, soccernet.read_scores(folder).windows[3].tolist()        # tokens of each
    for half in (1, 2):
        if length[half - 1]:
            *curves[half], classes = read_half(folder, half)
    if not curves:
        raise DataError(f"{folder / soccernet.SCORES}: no scores of a half in it; run infer.py")
    actions, _, about = export.actions_of(folder / soccernet.PREDICTIONS, LEAST, classes)
    if videos:
        about = about | {"videos": about.get("videos", {}) | {
            str(half): os.path.relpath(path, folder) for half, path in videos.items()}}
    write_page(folder / "page.html", match, curves, classes, actions, about,
               labels, pictures, threshold)
    return folder / "page.html"


def videos_of(root):
    """{match: {half: path}} of the videos below `root`, called as `prepare frames` calls them."""
    from comedian import video
    found = {}
    for path in itertools.chain(*video.find_videos([root])):
        match, half = video_of(Path(os.path.relpath(path, root)).as_posix())
        found.setdefault(match, {})[half] = path
    return found


def to_label(videos, classes, labels, encoding, out):
    """Yields the path of a page without results for each match of these videos, on which a person
    labels it from nothing, or goes on with its labels."""
    from comedian import video
    matches = {}
    for half in video.halves(videos):
        matches.setdefault(half.match, []).append(half)
    found = soccernet.find_labels(labels, list(matches), encoding) if labels else {}
    classes = (soccernet.classes_of(found.values()) if found and not classes else
               soccernet.read_classes(classes))
    if found and (names := soccernet.label_names(found.values(), without=classes)):
        print(f"note: labels of no class here are not shown, but saved: {names}")
    for match, halves in matches.items():
        if labels and match not in found:
            print(f"note: {match}: no labels of it in {labels}; its page starts empty")
        path = Path(out, match, "page.html")
        curves = {half.number: (np.zeros((half.n_tokens + 1, len(classes))), 1.0, 0.0)
                  for half in halves}
        write_page(path, match, curves, classes, [], {
            "program": f"comedian {__version__}", "videos": {
                str(half.number): os.path.relpath(half.path, path.parent) for half in halves}},
            found.get(match), {}, spotted=False)
        yield path
