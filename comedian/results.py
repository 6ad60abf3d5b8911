"""
What infer.py is asked for and what it leaves: its flags, and per match the files, the page and the
table. It knows nothing of networks; infer.py has the method, from clips to actions.

    with Results(args, processes, halves, classes, bf16) as results:
        for match, ... in ... results.watch(clips of results.mine):
            results.write(match, windows and scores per half, actions)
    results.finish()                                       # the table, the submission

Before the work begins everything is refused that could not be written or scored at its end.
"""
import collections
import contextlib
import os
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from comedian import DataError, __version__, command, draw, evaluate, frames, page, run, soccernet
from comedian.command import number
from comedian.evaluate import check_writable
from comedian.export import OUTPUTS, remove
from comedian.formats import sha256
from comedian.soccernet import PREDICTIONS, match_labels, read_labels, unreachable, warn_unmatched

SHOW = 0.3      # ours: at 0.3 the demo lists 210 actions where there are 249; 95 are right


# ------------------------------------------------------------------ the flags
def add_post_flags(parser, title="scores -> actions"):
    """How scores become actions: the same flags here and for stage 3's validation."""
    add = parser.add_argument_group(title).add_argument
    add("--stride", type=number(0), default=0,
        help="tokens from window to window; 0 = half a window (paper)")
    add("--ignore", type=number(0), metavar="TOKENS",
        help="ignored at each edge of a window; default: 3/16 of it (paper's best: 12 of 64)")
    add("--merge", choices=evaluate.MERGES, default="max", help="of overlapping windows")
    add("--nms", choices=evaluate.NMS, default="soft",
        help="soft: paper's best; local: hard NMS as in the official code; greedy: hard NMS as in "
             "the SoccerNet baselines")
    add("--nms-window", type=number(0.0), default=10, metavar="SECONDS",
        help="full width (paper: soft 10, hard 3)")
    add("--threshold", type=number(0.0, 1.0), default=0.001,
        help="lowest score of an action (official code)")


def add_valid_flags(parser):
    """Which matches stage 3 validates on, and how they are spotted."""
    add = parser.add_argument_group("validation").add_argument
    add("--valid", help="folder with labelled matches to choose best.pt on; default: none")
    add("--valid-split", help="which of SoccerNet's games below --valid, as --split")
    add("--valid-labels", help="root of their labels; default: --valid")
    add("--valid-every", type=number(1), default=5, help="epochs between validations")
    add_post_flags(parser, "validation: scores -> actions")


def add_output_flags(parser):
    """What infer.py leaves of a match: the flags of its outputs."""
    add = parser.add_argument_group("what comes out").add_argument
    add("--out", default=lambda given: given.data if given.features else "runs/infer",
        help="folder for results_spotting.json and scores.npz per match; default: "
        "runs/infer, with --features that of --data")
    add("--show", type=number(0.0, 1.0), metavar="CONFIDENCE",
        default=lambda given: SHOW if given.video else None,
        help="print each action of this confidence or more when its half is done, and draw a "
        f"timeline per half; default: {SHOW} for --video, nothing for --data")
    add("--labels", help="root of the labels, or a labels.csv; default: where the frames or videos "
        "are")
    add("--encoding", type=command.text_encoding, help=command.ENCODING_HELP)
    add("--chance", action="store_true", help="beside the table, what chance reaches "
        "(comedian.evaluate)")
    add("--json", metavar="FILE", help="write every number of the table here")
    add("--zip", metavar="FILE", help="write the games of --split as a submission")
    add("--features", type=command.file_name, metavar="NAME", help="write the network's tokens as "
        "features for stage 2 and spot nothing; the checkpoint may be of any stage; of several, "
        "the tokens side by side, each of unit length")


def check_flags(parser, args):
    """Refuses flags of infer.py that contradict each other; returns them."""
    wrong = {
        "--start and --end cut videos; --data has frames":
            args.data and (args.start or args.end is not None),
        "--end must be later than --start": args.end is not None and args.end <= args.start,
        "--split chooses among the games of --data": args.split and not args.data,
        "--zip needs --split, the games of the submission":
            args.zip and not args.split,
        "--features needs --data": args.features and not args.data}
    for message in (message for message, is_so in wrong.items() if is_so):
        parser.error(message)
    return args


# ------------------------------------------------------------------ before the work
def labels_to_score(args, halves, classes):
    """{match: labels} of infer.py's halves, with its flags. Says which names of labels fit none.
    DataError before the work begins, if --labels has none that fits, or none that reaches a frame;
    what is only found beside a video and cannot be read is told and left out."""
    matches, root = {half.match for half in halves}, args.labels or args.data
    if not root:                      # below which a video has its match's name: <root>/<match>.mp4
        path, names = Path(halves[0].path).absolute(), Path(halves[0].match).parts
        places = [place.parents[len(names) - 1] for place in (path.parent, path.with_suffix(""))
                  if place.parts[-len(names):] == names]     # or <root>/<match>/1_224p.mkv
        if not places:
            return {}
        root = places[0]
    try:
        found, others = match_labels(root, matches, args.encoding)
        events = {match: read_labels(labels, classes) for match, labels in found.items()}
    except DataError as error:
        if args.labels or args.data:
            raise
        print(f"warning: {error}; continuing without labels")
        return {}
    folders = (soccernet.unmatched_folders(root, matches, found)
               if args.labels or args.data else [])        # all disks may lie above a video
    if args.split:                    # those of other splits are there
        others = {name: of for name, of in others.items() if not Path(args.data, name).is_dir()}
        folders = [name for name in folders if not Path(args.data, name).is_dir()]
    if args.labels and not found:
        raise DataError(soccernet.no_labels(root, matches, [*others, *folders]))
    warn_unmatched(others, matches, found, folders)
    if args.labels and not args.start and args.end is None:
        unreachable(events, {
            (half.match, half.number): (-np.inf, (half.n_tokens + 1) * half.token_s
                                        if half.n_tokens else evaluate.HALF_S) for half in halves},
            classes, args.labels)
    return found


def check_output(args, halves, labels):
    """Refuses, before the work begins, what could not be written or scored at its end. labels: of
    the matches that have any. Returns the submission's {match: game}; without --zip, {}."""
    out, matches = Path(args.out), sorted({half.match for half in halves})
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be created ({error.strerror}); "
                        "choose another --out") from None
    if args.chance and len(labels) < 2:
        raise DataError("--chance scores each match with another one's predictions, and "
                        f"{len(labels)} match here has labels; leave it out, or give more matches")
    again = [match for match in matches if (out / match / PREDICTIONS).exists()]
    if again:
        print(f"{out}: results of {len(again)} of these matches exist and will be replaced")
    check_writable(out / PREDICTIONS)
    if args.json:
        check_writable(args.json, ".json")
    if not args.zip:
        return {}
    check_writable(args.zip, ".zip")
    names = soccernet.games_of(halves, args.data, args.split)
    there = {(half.match, half.number) for half in halves}
    soccernet.check_games([match for match in names if {(match, 1), (match, 2)} <= there], names,
                          f"{args.data}, halves 1 and 2")
    before = {file.parent.relative_to(out).as_posix() for file in out.rglob(PREDICTIONS)}
    soccernet.check_games(before | names.keys(), names, out)
    return names


def remove_outputs(folder, new=()):
    """Removes what was drawn or exported beside older results in `folder`, before others take their
    place; says so of what is not written `new`."""
    names = sorted(name for name in (os.listdir(folder) if folder.is_dir() else ())
                   if OUTPUTS.fullmatch(name))
    for name in names if (folder / PREDICTIONS).exists() else ():
        remove(folder / name, None if name in new else "it belongs to older results")


# ------------------------------------------------------------------ the results
class Results:
    """The results of the matches that a run of infer.py spots, below --out. Every process enters
    and leaves it; each spots the halves `mine`, and within it no other run writes to --out.

    halves: of all processes; classes: of the networks; bf16: whether they compute in it.
    """

    def __init__(self, args, halves, classes, bf16, rank, ranks):
        self.args, self.halves, self.classes, self.bf16 = args, halves, classes, bf16
        self.rank, self.ranks, self.out = rank, ranks, Path(args.out)
        self.labels = labels_to_score(args, halves, classes)
        self.submission = check_output(args, halves, self.labels)
        self.sums = [sha256(path) for path in args.checkpoint]     # now: a stage may go on writing
        matches = list(dict.fromkeys(half.match for half in halves))
        self.mine = [half for half in halves if matches.index(half.match) % ranks == rank]
        self.done, self.n_tokens, self.broken = [], 0, []      # matches, their tokens, DataErrors
        self.seen = collections.defaultdict(dict)              # (match, half) -> {s: small JPEG}
        self.since = time.time()

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            stack.enter_context(run.stoppable(self.stopped))
            stack.enter_context(run.locked(self.out, self.rank))  # all looked before one writes
            self.bar = stack.enter_context(tqdm(
                total=sum(half.n_tokens for half in self.mine) or None, desc="infer", unit=" clips",
                disable=None if self.rank == 0 else True))
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        if error[0] is None:
            everyone = run.all_gather_objects(
                (self.done, self.n_tokens, [str(error) for error in self.broken]))
            done, n_tokens, broken = zip(*everyone, strict=True)
            self.done, self.n_tokens = sorted(sum(done, [])), sum(n_tokens)
            self.broken = sum(broken, [])
        return self.stack.__exit__(*error)

    def stopped(self):
        who = f" by process {self.rank}" * (self.ranks > 1)
        return (f"stopped; {len(self.done)} matches are finished{who} in {self.out}; run the "
                "command again")

    def watch(self, clips):
        """Passes on pairs (half, clips (b, 2, H, W, 3) uint8): counts them, and with --show keeps a
        small picture of each for the page."""
        for half, some in clips:
            if self.args.show is not None:
                seen = self.seen[half.match, half.number]
                for clip in some.numpy():
                    at_s = self.args.start + half.token_s * (len(seen) + 0.25)
                    seen[at_s] = page.small_picture(clip[0])
            yield half, some
            self.bar.update(len(some))

    def print_half(self, half, found):
        """Prints the Detections of a half that reach --show: time, class and confidence."""
        tqdm.write(f"\n{half.match}, half {half.number}")
        for i in np.lexsort((found.label, found.position_ms)).tolist():
            if found.confidence[i] >= self.args.show:
                minute, second = divmod(int(found.position_ms[i] / 1000), 60)
                tqdm.write(f"{f'{minute:02d}:{second:02d}':>7}  "
                           f"{self.classes[found.label[i]]:{max(map(len, self.classes))}}  "
                           f"{found.confidence[i]:.2f}")

    def write(self, match, spotted, found):
        """Writes scores.npz and results_spotting.json of a match and, with --show, a timeline per
        half and the page.

        spotted: per half (half, windows, merged), as of infer.score_halves; found: the Detections.
        """
        args, folder, labels = self.args, self.out / match, self.labels.get(match)
        halves, windows, merged = zip(*spotted, strict=True)
        remove_outputs(folder, () if args.show is None else
                       ("page.html", *(f"timeline_{half.number}.png" for half in halves)))
        about = {"program": f"comedian {__version__}", "checkpoint": args.checkpoint,
                 "checkpoint_sha256": self.sums,
                 "settings": {name: vars(args)[name] for name in
                              ("stride", "ignore", "merge", "nms", "nms_window", "threshold")},
                 "fps": frames.CLIP_FRAMES / halves[0].token_s,
                 "videos": {str(half.number): os.path.relpath(
                     half.path if args.video else half.folder, folder) for half in halves},
                 "classes": self.classes}
        soccernet.write_scores(folder / soccernet.SCORES, match, self.classes, halves, merged,
                               [of_half[0] if len(of_half) == 1 else None for of_half in windows],
                               args.start, self.bf16)
        soccernet.write_predictions(folder / PREDICTIONS, match, found, self.classes, about)
        if args.show is not None:
            events = read_labels(labels, self.classes) if labels else None
            for half, table in zip(halves, merged, strict=True):
                draw.timeline(folder / f"timeline_{half.number}.png", soccernet.match_title(match),
                              half.number, table.numpy(), half.token_s, args.start, self.classes,
                              found, events, args.show)
            page.from_results(folder, match, labels, args.show,
                       {half.number: self.seen.pop((match, half.number), {}) for half in halves})
        self.done.append(match)
        self.n_tokens += sum(map(len, merged))

    def finish(self):
        """Says what was spotted, prints the table if there are labels, writes the submission;
        DataError if a video broke. The first process speaks for all."""
        if self.rank:
            return
        args, done, broken = self.args, self.done, self.broken
        if not done:
            raise DataError(broken[0] if broken else "--video: nothing to spot, no video lasts a "
                            "second; see --start and --end")
        where = self.out / (done[0] if len(done) == 1 else "<match>")
        print(f"infer: {self.n_tokens * self.halves[0].token_s / 60:.1f} min of video in "
              f"{time.time() - self.since:.1f} s; {where}/{PREDICTIONS}"
              + (f", {where}/page.html" if args.show is not None else ""))
        if any(match in self.labels for match in done):
            if args.start or args.end is not None:
                print("No table: --start and --end leave out events that the labels have.")
            else:
                beside = next(self.labels[match] for match in done if match in self.labels)
                evaluate.score_files(args.out, args.labels or args.data or beside, self.classes,
                                     done, True, args.chance, args.json, args.encoding, self.labels)
        elif args.labels:
            print(f"No table: {args.labels} has no labels of the spotted matches.")
        for error in broken[:-1]:
            print(f"error: {error}", file=sys.stderr)
        if broken:                                         # one error ends the command; no zip then
            raise DataError(broken[-1])
        if args.zip:
            soccernet.write_zip(args.zip, self.out, self.submission)
