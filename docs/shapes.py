"""
Shapes that were seen: what every line with a shape comment makes in a small, real run.

    python docs/shapes.py        # each comment, what was seen, and what does not agree: exit code 1

The five files run on two random halves: each stage for two steps, then infer.py. sys.settrace looks
at a line when the next one begins. A letter has one number in a run, and no two letters have the
same, so that a comment that mixes two up is found. What belongs to a call (B, N, n) is a number
among the function's variables, or what the first line that names it has made, for the whole call.
"""
import ast
import contextlib
import io
import json
import re
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from comedian import command  # noqa: E402

FIVE = ("model", "stage1_spatial", "stage2_distill", "stage3_finetune", "infer")

# Of the run: D is the network's width, D_t the teacher's, S its image's side, H W the frames'.
LETTERS = {"T": 18, "L": 9, "D": 20, "D_t": 13, "K": 5, "S": 45, "H": 48, "W": 64, "masked": 3,
           "ranks": 1}
IN_MAIN = {"B": 12, "b": 4, "n": 4 * 9}                # samples of a step, of a pass; n = b L
WORDS = "ranks|masked|heads|windows|side|n_out|n_tokens|n_frames"
ITEM = rf"(?:\.\.\.|(?:\d+|(?<![A-Za-z_])[A-Za-z](?:_[a-z])?(?!\w)|\b(?:{WORDS})\b|[ */+-])+)"
SHAPE = re.compile(rf"(?:\b(\w+) )?\(({ITEM}(?:, {ITEM})*,?)\)")


class Comment(NamedTuple):
    """A shape comment, the statement that it stands beside, and what it says: per array the name of
    the variable or "", and one or more ("or") shapes, each a list of items."""
    node: ast.AST
    says: list


def read(path):
    """{line: statement} and {line: Comment} of a file; a compound statement has its header's."""
    text, statement, found = path.read_text(encoding="utf-8"), {}, {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt):
            inner = getattr(node, "body", None)
            end = inner[0].lineno - 1 if inner else node.end_lineno
            statement |= dict.fromkeys(range(node.lineno, max(node.lineno, end) + 1), node)
    for n, line in enumerate(text.splitlines(), 1):
        code, _, comment = line.partition("# ")
        says = []
        for shape in SHAPE.finditer(comment):
            if "," in shape[2]:
                items = shape[2].strip(",").split(", ")
                if shape[1] == "or" and says:
                    says[-1][1].append(items)
                else:
                    says.append((shape[1] or "", [items]))
        if code.strip() and says and n in statement:
            found[n] = Comment(statement[n], says)
    return statement, found


def arrays(value):
    """The shapes of all arrays in a value."""
    if isinstance(value, (list, tuple)):
        return [shape for part in value for shape in arrays(part)]
    return [tuple(value.shape)] if len(getattr(value, "shape", ())) else []


def made(node, frame, result):
    """What a statement has made: a function's arguments, what is returned, assigned, appended."""
    scope = frame.f_locals
    if isinstance(node, ast.FunctionDef):
        return [scope.get(arg.arg) for arg in node.args.args]
    if isinstance(node, ast.Return):
        return result
    if isinstance(node, ast.Expr):                         # parts.append(...)
        return eval(ast.unparse(node.value.func.value), frame.f_globals, dict(scope))[-1]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [eval(ast.unparse(target), frame.f_globals, dict(scope)) for target in targets]


def fits(items, shape, known, bound, owner):
    """Whether a shape is what the items say. Letters without a number get it here and keep it in
    `bound`: {letter: (number, comment)}; the same comment may change it, in a loop."""
    rest = items[-1] == "..."
    items = items[:-1] if rest else items
    if len(shape) < len(items) or len(shape) > len(items) and not rest:
        return False
    new = {}
    for bare in (True, False):                             # letters alone first, then products
        for item, size in zip(items, shape, strict=False):
            tokens = re.findall(r"\d+|[A-Za-z]\w*|[*/+-]", item)
            if (len(tokens) == 1) is not bare:
                continue
            text = re.sub(r"(?<=\w) +(?=\w)", " * ", " ".join(tokens))
            old = {k: v for k, (v, by) in bound.items() if by != owner}
            values = old | known | new
            free = {t for t in tokens if t[0].isalpha() and t not in values}
            if len(free) == 1:
                letter = free.pop()
                new[letter] = next((v for v in range(1, 10 ** 5)
                                    if eval(text, values | {letter: v}) == size), 0)
            elif not free and eval(text, dict(values)) != size:
                return False
            if 0 in new.values():
                return False
    bound |= {k: (v, owner) for k, v in new.items() if k != "__builtins__"}
    return True


class Watch:
    """Traces the five files. seen: {(file, line): shapes}, wrong: {(file, line): sentence}."""

    def __init__(self):
        self.files = {str(ROOT / f"{name}.py"): read(ROOT / f"{name}.py") for name in FIVE}
        self.letters, self.in_main, self.seen, self.wrong = {}, {}, {}, {}
        self.line = {id(comment.node): line for _, found in self.files.values()
                     for line, comment in found.items()}

    def look(self, comment, frame, result, bound):
        """Compares a comment with what its line made; False if there is no array yet."""
        shapes, scope = arrays(made(comment.node, frame, result)), frame.f_locals
        if not shapes:
            return False
        file, name = Path(frame.f_code.co_filename).name, frame.f_code.co_name
        known = dict(self.letters)
        if self.letters and name in ("main", "load"):
            known |= IN_MAIN | self.in_main
        if file == "model.py":                             # which is given images of any size
            known = {k: v for k, v in known.items() if k not in "HW"}
        known |= {k: v for k, v in scope.items() if type(v) is int}
        pairs = [(either, shape) for of, either in comment.says if of in scope
                 for shape in arrays(scope[of])]
        plain = [either for of, either in comment.says if of not in scope]
        if len(plain) == 1:                                # of each array
            pairs += [(plain[0], shape) for shape in shapes]
        elif len(plain) == len(shapes) or isinstance(comment.node, ast.FunctionDef):
            pairs += zip(plain, shapes, strict=False)      # an argument may be None
        elif plain:
            pairs.append(([[f"{len(plain)} shapes"]], (len(shapes),)))
        line = self.line[id(comment.node)]
        where = file, line
        seen = list(dict.fromkeys(shape for _, shape in pairs))
        if sum(n > 1 for shape in seen for n in shape) > sum(
                n > 1 for shape in self.seen.get(where, []) for n in shape):
            self.seen[where] = seen                        # of all calls one that is telling
        for either, shape in pairs:
            if not any(fits(items, shape, known, bound, where) for items in either):
                says = " or ".join(f"({', '.join(items)})" for items in either)
                self.wrong.setdefault(where, f"{file}, line {line}, `{name}`: the comment says "
                                      f"{says}, the line made {shape}")
        return True

    def __call__(self, frame, event, arg):
        """sys.settrace's function: a new call."""
        code = frame.f_code
        if code.co_filename not in self.files or code.co_name.startswith("<"):
            return None
        statement, comments = self.files[code.co_filename]
        of = {id(comment.node): comment for comment in comments.values()}
        bound, before, leaving, late = {}, None, None, []

        def step(frame, event, arg):
            nonlocal before, leaving
            now = statement.get(frame.f_lineno)
            comment = of.get(id(before))
            if comment and not isinstance(before, (ast.Return, ast.FunctionDef)) and (
                    event == "return" or event == "line" and now is not before):
                if not self.look(comment, frame, arg, bound):
                    late.append(comment)                   # lists that are filled later
            if event == "line":
                before, leaving = now, now if isinstance(now, ast.Return) else leaving
            elif event == "return":
                for comment in (*late, *filter(None, [of.get(id(leaving))])):
                    self.look(comment, frame, arg, bound)
            return step

        first = statement.get(frame.f_lineno)              # def, or its decorator
        if isinstance(first, ast.FunctionDef) and id(first) in of:
            self.look(of[id(first)], frame, None, bound)
        return step


def write_data(root):
    """Two halves of a match, of 32 and 48 s: noise as frames, features, an action every 4 s."""
    import cv2
    import numpy as np
    rng, match, events = np.random.default_rng(0), root / "league" / "match", []
    for half, seconds in ((1, 32), (2, 48)):
        folder = match / f"{half}_224p"
        folder.mkdir(parents=True)
        for i in range(2 * seconds):
            cv2.imwrite(str(folder / f"{i + 1:08d}.png"),
                        rng.integers(0, 255, (LETTERS["H"], LETTERS["W"], 3), np.uint8))
        np.save(match / f"{half}_teacher.npy",
                rng.standard_normal((seconds, LETTERS["D_t"]), np.float32))
        events += [{"gameTime": f"{half} - 00:{s:02d}", "visibility": "visible",
                    "label": f"class {s // 4 % LETTERS['K']}", "position": str(1000 * s)}
                   for s in range(0, seconds, 4)]
    (match / "Labels-v2.json").write_text(json.dumps({"annotations": events}))
    (root / "classes.txt").write_text("\n".join(f"class {k}" for k in range(LETTERS["K"])))


def record():
    """Runs everything once. Returns the Watch, with every comment of the five files in `comments`:
    {(file, line): Comment}."""
    import infer
    import model
    import stage1_spatial as stage1
    import stage2_distill as stage2
    import stage3_finetune as stage3
    import torch

    from comedian import draw
    watch, before = Watch(), (sys.gettrace(), stage2.CHUNK, draw.curves)
    tiny = model.with_changes("vivit_micro", model="lesson", image_size=LETTERS["S"], patch_size=9,
                              embed_dim=LETTERS["D"], num_heads=(2,), depth=(2,), temporal_heads=2,
                              drop_path=0.1, head_width=24)

    def run(script, *flags, in_main=(), **letters):
        watch.letters, watch.in_main = LETTERS | letters, dict(in_main)
        script.main(script.parse_args([str(flag) for flag in flags]))

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), \
            contextlib.redirect_stderr(io.StringIO()):
        data, out = Path(folder, "data"), Path(folder)
        write_data(data)
        shared = ["--data", data, "--workers", 1, "--device", "cpu", "--no-bf16",
                  "--batch", 12, "--accumulate", 3, "--steps", 2]
        window = ["--window", LETTERS["L"], "--mask", 0.34]
        teacher = [*window, "--features-name", "teacher"]
        stage2.CHUNK, model.MODELS["lesson"], draw.curves = 30, tiny, lambda *args: None
        try:
            threading.settrace(watch)
            sys.settrace(watch)
            run(stage1, *shared, "--model", "lesson", "--queue", 31, "--out", out / "1", M=31)
            run(stage1, *shared, "--model", "lesson", "--out", out / "1b", "--negatives", "batch",
                "--head-norm", "batch", "--halves-per-batch", 1, M=0)
            init = out / "1/last.pt"
            run(stage2, *shared, *teacher, "--init", init, "--out", out / "2", M=80)
            run(stage2, *shared, *teacher, "--init", init, "--bank", "queue", "--out", out / "2q",
                M=65536, in_main={"M": 80})                # of the queue; in main, of the bank
            run(stage3, *shared, *window, "--init", out / "2/last.pt", "--head-phase", "temporal",
                "--head-steps", 1, "--classes", data / "classes.txt", "--out", out / "3")
            spot = ["--data", data, "--checkpoint", out / "3/last.pt", "--workers", 1, "--no-bf16"]
            run(infer, *spot, "--batch", 8, "--out", out / "spots")
            run(infer, *spot, "--batch", 8, "--features", "own", "--out", out / "own")
            watch.letters = {}                             # another network: Swin-T at its own size
            with torch.no_grad():
                model.spatial_encoder(model.MODELS["viswin_tiny"])(torch.rand(2, 2, 3, 224, 224))
        finally:
            threading.settrace(None)
            sys.settrace(before[0])
            stage2.CHUNK, draw.curves = before[1:]
            del model.MODELS["lesson"]
    watch.comments = {(Path(file).name, line): comment for file, (_, found) in watch.files.items()
                      for line, comment in found.items()}
    return watch


def problems(watch):
    """What is wrong, one sentence a comment: letters that disagree, lines that never ran."""
    never = [f"{file}, line {line}: never ran, so its comment is not proved"
             for file, line in watch.comments if (file, line) not in watch.seen]
    return [*watch.wrong.values(), *never]


if __name__ == "__main__":
    command.Parser(__doc__).parse_args()
    watch = record()
    for (file, line), comment in watch.comments.items():
        letters = "; ".join(f"({', '.join(items)})" for _, either in comment.says
                            for items in either)
        print(f"{file}:{line:<4} {letters:45} {watch.seen.get((file, line), '')}")
    print(*problems(watch), sep="\n")
    sys.exit(bool(problems(watch)))
