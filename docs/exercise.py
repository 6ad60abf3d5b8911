"""
Exercises: write what the lesson explains, and let the test that proves it grade you.

    source .venv/bin/activate          # first, for the Python that has what the tests need
    python docs/exercise.py            # the list
    python docs/exercise.py 4          # makes build/exercise-4; again: grades what you wrote there
    python docs/exercise.py 4 --anew   # throws it away and makes it again

1 to 10: a copy of the project in which a body is missing. TASK.md has the words of docs/method.md,
the docstring the shapes. 11 to 15, the other way round: the code is there, and you write its test
in tests/test_mine.py. It must pass, and fail on the wrong versions of tests/mutants.py.
"""
import ast
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from outline import ROOT, defs, find_test, passages

sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from comedian import command  # noqa: E402


class Exercise(NamedTuple):
    """What it is about, its file, the bodies to write or to test, the tests that grade: none where
    the test is to be written. "main: if x" is the body of that statement in main."""
    title: str
    file: str
    bodies: list
    tests: list


EXERCISES = dict(enumerate([
    Exercise("momentum and queue", "stage1_spatial.py", ["momentum_at", "main: if len(queue)"],
             ["test_momentum_encoder", "test_the_queue_is_first_in_first_out"]),
    Exercise("contrast, Eq. 2", "stage1_spatial.py", ["moco_loss"], ["test_equation_1_and_2"]),
    Exercise("soft targets, Eq. 4", "stage2_distill.py", ["soft_targets"], ["test_soft_targets"]),
    Exercise("the streamed bank", "stage2_distill.py",
             ["attend", "BankLogSumExp.forward", "BankLogSumExp.backward"],
             ["test_equations_3_to_6", "test_gradient_of_the_streamed_logsumexp",
              "test_tokens_times_bank_is_never_stored"]),
    Exercise("mixup", "stage3_finetune.py", ["mixup"], ["test_mixup"]),
    Exercise("labels of a token", "stage3_finetune.py", ["token_labels"],
             ["test_labels_of_a_token"]),
    Exercise("merging windows", "comedian/reference.py", ["merge_windows"], ["TestMergeWindows"]),
    Exercise("soft NMS", "comedian/reference.py", ["soft_nms"], ["TestNMS"]),
    Exercise("average precision", "comedian/reference.py", ["eleven_points"], ["TestAverageMap"]),
    Exercise("warm-up", "stage1_spatial.py", ["lr_at"],
             ["test_learning_rate", "test_warmups_that_are_no_whole_number_of_steps"]),
    Exercise("a test of the divergence", "stage2_distill.py", ["sce_loss"], []),
    Exercise("a test of mixup", "stage3_finetune.py", ["mixup"], []),
    Exercise("a test of the labels of a frame", "stage3_finetune.py", ["frame_labels"], []),
    Exercise("a test of the windows of a step", "stage2_distill.py", ["pick_windows"], []),
    Exercise("a test of the two phases' rates", "stage3_finetune.py", ["lr_at"], [])], 1))

TO_TEST = ('"""Your test of {} in {}. types.SimpleNamespace can stand for halves and args."""\n'
           'import {}\n\n\ndef test_mine():\n    ...\n')


# ------------------------------------------------------------------ the blank
def bodies(exercise, root=ROOT):
    """{name: (first, last line)} of the bodies of an exercise, without their docstrings."""
    nodes, found = defs(root / exercise.file), {}
    for name in exercise.bodies:
        function, _, statement = name.partition(": ")
        node = next(part for part in ast.walk(nodes[function]) if isinstance(part, ast.stmt)
                    and ast.unparse(part).startswith(statement and f"{statement}:"))
        body = node.body[bool(not statement and ast.get_docstring(node)):]
        found[name] = body[0].lineno, node.end_lineno
    return found


def blanked(number, root=ROOT):
    """The text of an exercise's file without its bodies."""
    exercise = EXERCISES[number]
    lines = (root / exercise.file).read_text(encoding="utf-8").splitlines()
    for name, (first, last) in reversed(bodies(exercise, root).items()):      # from the last on
        indent = re.match(" *", lines[first - 1])[0]
        lines[first - 1:last] = [f"{indent}# Exercise {number}, {exercise.title}: see TASK.md",
                                 f'{indent}raise NotImplementedError("{name}")']
    return "\n".join(lines) + "\n"


def wrong_versions(exercise):
    """The mutants of an exercise's functions: [(file, old, new)]. Not those of a docstring."""
    from mutants import MUTANTS
    text, spans = (ROOT / exercise.file).read_text(encoding="utf-8"), bodies(exercise).values()
    parts = ["\n".join(text.splitlines()[first - 1:last]) + "\n" for first, last in spans]
    found = [(exercise.file, old, new) for changes in MUTANTS[exercise.file].values()
             for old, new in changes if any(old in part for part in parts)]
    return [change for change in dict.fromkeys(found) if text.count(change[1]) == 1]


# ------------------------------------------------------------------ make, grade
def task(number):
    """TASK.md."""
    exercise = EXERCISES[number]
    wanted = {*exercise.bodies, *exercise.tests}
    told = "\n\n".join(p.text for p in passages() if wanted & {*p.code, *p.tests})
    told = re.sub(r"^<img .*?$\n*(^\*.*?(\n\n|\Z))?", "", told, flags=re.M | re.S)    # no pictures
    told = re.sub(r"\]\((?!http)(\.\./)?", lambda link: "](" if link[1] else "](docs/", told)
    names = " and ".join(f"`{name}`" for name in exercise.bodies)
    names = re.sub("`main: (.*)`", r"`\1` in main,", names)
    graded = ", ".join(f"`{test}`" for test in exercise.tests) or "how many wrong versions it kills"
    what = "Write the body of" if exercise.tests else "In tests/test_mine.py write a test of"
    return (f"# Exercise {number}: {exercise.title}\n\n{what} {names} in {exercise.file}. The "
            "docstring and comments there have the shapes; `make lesson` sets these formulas.\n\n"
            f"What grades it: {graded}. To grade, in the project's own folder: "
            f"`python docs/exercise.py {number}`. The solution is the project's own file.\n\n"
            f"What docs/method.md says:\n\n{told}\n")


def copy_to(folder, source=ROOT):
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(
        ".*", "__pycache__", "data", "matches", "runs", "build", "*.png"))


def make(number, folder):
    """The copy. Returns the name of the file to write in."""
    copy_to(folder)
    (folder / "TASK.md").write_text(task(number), encoding="utf-8")
    exercise = EXERCISES[number]
    file, text = (exercise.file, blanked(number)) if exercise.tests else (
        "tests/test_mine.py", TO_TEST.format(" and ".join(exercise.bodies), exercise.file,
                                             Path(exercise.file).stem))
    (folder / file).write_text(text, encoding="utf-8")
    return file


def verdicts(jobs, source=ROOT):
    """[(pytest's exit code, output)] of jobs (change or None, tests), in copies of `source`."""
    import mutants
    with tempfile.TemporaryDirectory(prefix="exercise-") as root:
        folders, found = [Path(root, str(i)) for i in range(mutants.WORKERS)], {}
        for folder in folders:
            copy_to(folder, source)
        mutants.run_all([(i, *job) for i, job in enumerate(jobs)], folders,
                        lambda i, code, output, seconds: found.update({i: (code, output)}))
    return [found[i] for i in range(len(jobs))]


def grade(number, folder):
    """Says how it went. Returns whether all is done."""
    exercise = EXERCISES[number]
    if exercise.tests:
        text = (folder / exercise.file).read_text(encoding="utf-8")
        if missing := re.findall(r'^ +raise NotImplementedError\("(.*)"\)', text, re.M):
            print(f"Still to be written: {', '.join(missing)}, in {folder / exercise.file}")
            return False
        ids = [f"tests/{find_test(test, exercise.file)[0].name}::{test}" for test in exercise.tests]
        done = not subprocess.call([sys.executable, "-m", "pytest", "-q", "-x", *ids], cwd=folder)
        print(f"Exercise {number} is {'done.' if done else 'not right yet: a test above fails.'}")
        return done
    changes = wrong_versions(exercise)
    (code, output), = verdicts([(None, ["test_mine.py"])], folder)
    if code != 0:
        print(f"{output}\n\nYour test, {folder / 'tests/test_mine.py'}, must first pass on the "
              "right code; its name begins with test_.")
        return False
    others = verdicts([(change, ["test_mine.py"]) for change in changes], folder)
    for (_, old, new), (code, _) in zip(changes, others, strict=True):
        print("killed  " if code == 1 else "SURVIVED", " ".join(old.split())[:70],
              f"\n      -> {' '.join(new.split())[:70]}")
    killed = sum(code == 1 for code, _ in others)
    print(f"Your test kills {killed} of {len(changes)} wrong versions.")
    return killed == len(changes)


def main():
    parser = command.Parser(__doc__)
    parser.add_argument("number", type=int, nargs="?", choices=EXERCISES, metavar="NUMBER",
                        help="of the exercise; without: the list")
    parser.add_argument("--anew", action="store_true", help="make it again; what you wrote is lost")
    args = parser.parse_args()
    if args.number is None:
        for number, exercise in EXERCISES.items():
            print(f"{number:3} {exercise.title:34} {exercise.file}: {', '.join(exercise.bodies)}")
        return
    folder = ROOT / "build" / f"exercise-{args.number}"
    if args.anew:
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        if not importlib.util.find_spec("pytest"):
            sys.exit("error: this Python has no pytest; that of .venv has, after `make test`")
        sys.exit(not grade(args.number, folder))
    file, where = make(args.number, folder), folder.relative_to(ROOT)
    lines = (folder / file).read_text(encoding="utf-8").splitlines()
    places = [n for n, line in enumerate(lines, 1) if re.search("# Exercise|^def test_mine", line)]
    print(f"Exercise {args.number}: {EXERCISES[args.number].title}\nread   {where}/TASK.md\n"
          f"write  {where}/{file}, line {', '.join(map(str, places))}\n"
          f"grade  python docs/exercise.py {args.number}")


if __name__ == "__main__":
    main()
