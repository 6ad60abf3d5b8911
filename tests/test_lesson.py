"""
What these tests prove about the lesson's pages (docs/lesson.py) and exercises (docs/exercise.py):
  1. a shape comment of the five files says what its line made in a real run; a wrong one is found
  2. every equation of docs/method.md stands beside code, with all tests that prove it; every
     "Proved by" leads to its test; links lead somewhere; nothing is loaded from a network
  3. a blank fails its test, and what was cut out, put back, is the file again; an empty test kills
     no wrong version, a real one all
"""
import ast
import html
import os
import re
import subprocess
import sys
from collections import Counter

import conftest
import pytest

sys.path.insert(0, str(conftest.ROOT / "docs"))
import exercise  # noqa: E402
import lesson  # noqa: E402
import outline  # noqa: E402
import shapes  # noqa: E402
from exercise import EXERCISES  # noqa: E402

ROOT = conftest.ROOT
BLANKS = [number for number, exercise in EXERCISES.items() if exercise.tests]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """{file name: text} of all pages, without shapes."""
    out = tmp_path_factory.mktemp("lesson")
    lesson.write(out)
    return {path.name: path.read_text(encoding="utf-8") if path.suffix == ".html" else ""
            for path in out.iterdir()}


# ------------------------------------------------------------------ 1. shapes
def test_shape_comments_say_what_was_made():
    watch = shapes.record()
    assert shapes.problems(watch) == []
    assert len(watch.seen) > 80 and {file for file, _ in watch.seen} == {
        f"{name}.py" for name in outline.FIVE}
    numbers = [*shapes.LETTERS.values(), *shapes.IN_MAIN.values(), 31, 80, 65536]      # three M
    assert len({*numbers}) == len(numbers)                 # else a mix-up could pass
    file = ROOT / "stage1_spatial.py"
    loss, = (cell for cell in outline.cells(file) if cell.name == "moco_loss")
    code = lesson.code(loss, lesson.colour(file.read_text(encoding="utf-8")), watch)
    assert "# (B, 1 + M), positives first</span> <span class=\"seen\">4 × 32</span>" in code


@pytest.mark.parametrize("comment, shape, right", [
    ("(B, L, D)", (4, 9, 20), True), ("(B, D, L)", (4, 9, 20), False),
    ("(B, L)", (4, 9, 20), False), ("(B, L, ...)", (4, 9, 20), True),
    ("(B, T / 2, D)", (4, 9, 20), True), ("(B, T, D)", (4, 9, 20), False),
    ("(2B, B)", (8, 4), True), ("(B, 2B)", (8, 4), False), ("(B L, D)", (36, 20), True),
    ("(B L, D)", (35, 20), False), ("(B, B)", (4, 5), False), ("(L - masked, 1)", (6, 1), True),
    ("(B, L, D) or (B, L)", (4, 9), True), ("(c,)", (7,), True)])
def test_letters_are_numbers(comment, shape, right, tmp_path):
    """L and D have numbers; B and c get theirs from the shape, and keep them."""
    file = tmp_path / "code.py"
    file.write_text(f"x = 1     # {comment}\n")
    (found,) = shapes.read(file)[1].values()
    (name, either), = found.says
    assert name == "" and right == any(
        shapes.fits(items, shape, shapes.LETTERS, {}, "here") for items in either)


# ------------------------------------------------------------------ 2. pages
def test_every_equation_stands_beside_code_with_its_proof(pages):
    text = (ROOT / "docs/method.md").read_text(encoding="utf-8")
    equations = re.findall(r"```math\n(.*?)```", text, re.S)
    numbers = [n for tex in equations for n in re.findall(r"\\qquad \((\d)\)", tex)]
    assert len(equations) > 14 and numbers == list("1234567")
    for tex in equations:
        shown = lesson.convert(tex.strip().partition("\\qquad (")[0], display="block")
        there = [page for page in pages.values() if shown in page]
        assert there, tex
        for page in there:
            proof = re.match(r'.*?</div>\s*<p class="proof">(.*?)</p>', page.split(shown)[1])
            proofs = re.findall(r'href="#t-(.*?)"', proof[1])
            assert proofs and all(f'<pre id="t-{test}">' in page for test in proofs), tex
            assert [test for p in outline.passages() if tex in p.text for test in p.tests] == proofs
    of_the_loss = [p.tests for p in outline.passages() if "(6)" in p.text and "sce_loss" in p.code]
    assert of_the_loss == [["test_equations_3_to_6", "test_soft_targets", "test_the_divergence",
                            "test_a_broken_teacher_shows"]]         # the last two: its docstring


@pytest.mark.parametrize("name", outline.FIVE)
def test_every_proof_is_in_the_page(name, pages):
    text, page = (ROOT / f"{name}.py").read_text(encoding="utf-8"), pages[f"{name}.html"]
    for test in conftest.named_tests(text):
        shown = page.partition(f'id="t-{test}">')[2].partition("</pre>")[0]
        shown = html.unescape(re.sub("<.*?>", "", shown))
        assert re.search(rf"(def|class) {test}\b", shown)


def test_links_lead_somewhere_and_nothing_is_loaded(pages):
    for name, page in pages.items():
        ids = Counter(re.findall(r'\bid="([^"]+)"', page))
        assert not [one for one, n in ids.items() if n > 1], name
        for target in re.findall(r'href="(?!https?:)([^"]+)"', page):
            file, _, place = target.partition("#")
            assert not place or f'id="{place}"' in pages[file or name], (name, target)
            assert (file or name) in pages, (name, target)
        assert all(source in pages for source in re.findall(r'src="([^"]+)"', page))
        assert not re.search(r"<(script|link|iframe|object)|@import|url\(|src=.?http", page), name


def test_every_passage_is_shown(pages):
    """By a row or, before the first of the five files, in the index; each picture with it. No
    paragraph is in none."""
    text = (ROOT / "docs/method.md").read_text(encoding="utf-8").partition("\n## ")[2]
    written = "\n\n".join(passage.text for passage in outline.passages())
    assert [one for one in text.split("\n\n")[1:] if one.strip() not in written
            and not one.startswith("#")] == []
    told = {passage.text for name in outline.FIVE for _, of_row, _ in outline.rows_of(name)
            for passage in of_row}
    assert [p.title for p in outline.passages() if p.page and p.text not in told] == []
    assert {picture for picture in pages if picture.endswith(".png")} == {"flow.png", *(
        picture for p in outline.passages() for picture in re.findall('<img src="(.*?)"', p.text))}


# ------------------------------------------------------------------ 3. exercises
@pytest.mark.parametrize("number", BLANKS)
def test_only_bodies_are_cut_out(number, tmp_path):
    """The solution: put back, they make the file that it was, whose tests run here anyway."""
    task, lines = EXERCISES[number], []
    text = (ROOT / task.file).read_text(encoding="utf-8").splitlines()
    blank = exercise.blanked(number)
    (tmp_path / "blank.py").write_text(blank, encoding="utf-8")
    nodes = outline.defs(tmp_path / "blank.py")
    for name in [name for name in task.bodies if ": " not in name]:
        *doc, last = nodes[name].body
        had = ast.get_docstring(outline.defs(ROOT / task.file)[name])
        assert isinstance(last, ast.Raise) and len(doc) == bool(had)
    for first, last in sorted(exercise.bodies(task).values()):
        lines.append("\n".join(text[first - 1:last]))
    mark = re.compile(r" *# Exercise .*\n.*raise NotImplementedError.*")
    assert mark.sub(lambda _: lines.pop(0), blank).splitlines() == text and not lines
    words = exercise.task(number)
    assert len(words) > 400 and not re.search(r"]\(\.\.|<img", words)
    assert all(test in words or number in (4, 9, 10) for test in task.tests), words


def run(folder, *words):
    done = subprocess.run([sys.executable, *words], cwd=folder, text=True, capture_output=True,
                          env={**os.environ, "PYTHONPATH": "", "COLUMNS": "300"})
    return done.returncode, done.stdout + done.stderr


def test_blanks_fail(tmp_path):
    """All in one copy: of each exercise a test fails at what is to be written."""
    exercise.copy_to(tmp_path)
    for number in BLANKS:
        task = EXERCISES[number]
        (tmp_path / task.file).write_text(exercise.blanked(number, tmp_path))
    ids = {f"tests/{outline.find_test(test, task.file)[0].name}::{test}"
           + "::test_by_hand" * test.startswith("Test")               # a class: its quickest
           for task in EXERCISES.values() for test in task.tests}
    code, output = run(tmp_path, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", *ids)
    failed = re.findall(r"^FAILED \S+?::(\w+).* - NotImplementedError: (.*)", output, re.M)
    assert code == 1, output
    for number in BLANKS:
        task = EXERCISES[number]
        assert any(test in task.tests and body in task.bodies for test, body in failed), number


def test_a_blank_is_named_before_tests_run(tmp_path, capsys):
    exercise.make(1, tmp_path)
    assert not exercise.grade(1, tmp_path)
    out = capsys.readouterr().out
    assert out.startswith("Still to be written: momentum_at, main: if len(queue), in ")


GRADE = """
import sys
from pathlib import Path
sys.path[:0] = ["docs", "tests"]
import exercise
folder = Path("build/exercise-12").absolute()
print(exercise.grade(12, folder))
(folder / "tests/test_mine.py").write_text(sys.argv[1])
print(exercise.grade(12, folder))
"""
MINE = """
import torch
import stage3_finetune

def test_mine():
    x, lam = torch.eye(4), torch.tensor([0.1, 0.2, 0.3, 0.4])
    for mixed in stage3_finetune.mixup(x, x.clone(), lam):
        for i, other in enumerate([1, 0, 3, 2]):
            torch.testing.assert_close(mixed[i], lam[i] * x[i] + (1 - lam[i]) * x[other])
"""


def test_a_test_is_graded_by_what_it_kills(tmp_path):
    """In a copy of the project, as a learner does it. All five have several wrong versions."""
    sys.path.insert(0, str(ROOT / "tests"))
    counts = [len(exercise.wrong_versions(task)) for task in EXERCISES.values() if not task.tests]
    assert len(counts) == 5 and min(counts) > 2
    exercise.copy_to(tmp_path)
    code, output = run(tmp_path, "docs/exercise.py", "12")
    assert code == 0 and "build/exercise-12/tests/test_mine.py" in output
    code, output = run(tmp_path, "-c", GRADE, MINE)       # as by two calls more, but torch is there
    assert code == 0 and re.findall("kills (.*) wrong|(True|False)", output) == [
        ("0 of 3", ""), ("", "False"), ("3 of 3", ""), ("", "True")], output
    code, output = run(tmp_path, "docs/exercise.py", "99")
    assert code == 2 and "invalid choice: 99 (choose from 1, 2, " in output.splitlines()[-1]
