"""
What stands in the lesson: the passages of docs/method.md, functions and tests, and which of them
belong together, all found by their names. docs/lesson.py makes pages of it, docs/exercise.py tasks.
"""
import ast
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FIVE = ("model", "stage1_spatial", "stage2_distill", "stage3_finetune", "infer")
# A passage ends with the paragraph that names its code or its tests, or the pictures behind it.
PASSAGE = r".+?\b(?:Code|Tests?):\s.+?(?=\n\n(?!<img|\*[^*])|\Z)"
TEST = r"\b(?:test_\w+|Test[A-Z]\w+)\b"
STEP = "what this stage is about"                          # a heading in main of each stage


class Passage(NamedTuple):
    """A piece of docs/method.md: its heading, text, page, and the functions and tests it names."""
    title: str
    text: str
    page: str
    code: list
    tests: list


class Cell(NamedTuple):
    """A row: a function, class, part of main, or "" for what stands between; its section, its
    docstring, the other lines."""
    name: str
    section: str
    words: str
    path: Path
    lines: list


def defs(path):
    """{name: node} of the functions, classes and methods ("Class.method") of a file."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
            found |= {f"{node.name}.{part.name}": part for part in node.body
                      if isinstance(node, ast.ClassDef) and isinstance(part, ast.FunctionDef)}
    return found


def first_line(node):
    return min([node.lineno, *(d.lineno for d in node.decorator_list)])


def passages():
    """The Passages of docs/method.md in order. Tests that the docstring of this code names are its
    tests, too. page "": it comes before the first of the five."""
    text, page, found = (ROOT / "docs/method.md").read_text(encoding="utf-8"), "", []
    proofs = {name: re.findall(TEST, ast.get_docstring(node) or "")
              for file in FIVE for name, node in defs(ROOT / f"{file}.py").items()}
    for section in re.split(r"^#{2,3} ", text, flags=re.M)[1:]:
        title, body = section.strip().split("\n", 1)
        page = next(iter(re.findall(rf"\]\(\.\./({'|'.join(FIVE)})\.py\)", body)), page)
        parts, tests, of_section = re.findall(PASSAGE, body, re.S) or [""], [], []
        parts[-1] += body[len("".join(parts)):]
        for part in reversed(parts):                       # without tests: those of the next one
            code = re.findall(r"`([A-Za-z_][\w.]*)`", "".join(part.partition("Code:")[1:]))
            tests = list(dict.fromkeys(re.findall(rf"`({TEST})`", part))) or tests
            more = [test for name in code for test in proofs.get(name, ()) if test not in tests]
            of_section.append(Passage(title, part.strip(), page, code, tests + more))
        found += reversed(of_section)
    return found


def find_test(name, file):
    """(path, node) of a test: of a stage its own or that of all runs. KeyError if there is none."""
    own = ["test_runs", f"test_{Path(file).stem.partition('_')[0]}"]
    for path in sorted((ROOT / "tests").glob("test_*.py"), reverse=True,
                       key=lambda path: own.index(path.stem) if path.stem in own else -1):
        for full, node in defs(path).items():
            if full.split(".")[-1] == name:
                return path, node
    raise KeyError(f"{name}: no test has this name")


def test_source(name, file):
    """(name of its file, source) of a test, with the short functions of that file that it calls:
    often these have the loops."""
    path, node = find_test(name, file)
    lines = path.read_text(encoding="utf-8").splitlines()
    used = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    called = [other for full, other in defs(path).items() if full in used and other is not node
              and other.end_lineno - other.lineno < 25]
    return path.name, "\n\n\n".join(
        textwrap.dedent("\n".join(lines[first_line(part) - 1:part.end_lineno]))
        for part in (node, *called))


def cells(path):
    """The Cells of a file in order. One begins at each function, each method that has a docstring,
    each heading, and behind each function."""
    text = path.read_text(encoding="utf-8")
    body = ast.parse(text).body
    start = max(n.end_lineno for n in body if isinstance(n, (ast.Import, ast.ImportFrom))) + 1
    found, section, marks = [Cell("", "imports", "", path, [])], "", {start: ("", "")}
    hidden = {*range(1, body[0].end_lineno + 1)}           # shown as words, not as code
    for name, node in defs(path).items():
        if doc := ast.get_docstring(node) or "":
            hidden |= {*range(node.body[0].lineno, node.body[0].end_lineno + 1)}
        if "." not in name:
            marks[node.end_lineno + 1] = "", ""
        if doc or "." not in name:
            marks[first_line(node)] = name, doc
    for n, line in enumerate(text.splitlines(), 1):
        rule = re.match(r"# -{10,} (.+)", line)
        heading = re.match(r" +# -- (.+?)(?: -{5,})?$", line)
        section = rule[1] if rule else section
        mark = ("", "") if rule else heading[1].partition(": ")[::2] if heading else marks.get(n)
        if mark:
            found.append(Cell(mark[0], section, mark[1], path, []))
        if not (rule or heading or n in hidden) and (line.strip() or found[-1].name):
            found[-1].lines.append(n)
    return [cell for cell in found if cell.lines]


def rows_of(page):
    """[(Cell, its passages, its tests)] of a page."""
    def bare(cell):
        return cell, [], re.findall(TEST, cell.words)

    rows = [*map(bare, cells(ROOT / f"{page}.py"))]
    source = ["", *(ROOT / f"{page}.py").read_text(encoding="utf-8").splitlines()]
    of_five = {name for other in FIVE for name in defs(ROOT / f"{other}.py")}
    for passage in passages():
        here = [row for row in rows if row[0].name in passage.code]
        if passage.page == page and not of_five & {*passage.code}:
            pantry = [bare(cell._replace(section="from the pantry")) for link in
                      re.findall(r"\]\(\.\./(comedian/\w+\.py)\)", passage.text)
                      for cell in cells(ROOT / link) if cell.name.split(".")[0] in passage.code]
            rows += pantry
            here = here or pantry or [row for row in rows if {*row[2]} & {*passage.tests}] or [
                row for row in rows if row[0].name == (STEP if "stage" in page else "main")]
        numbers = set(re.findall(r"\\qquad \((\d)\)", passage.text))
        for one in rows:                                   # a comment that has these equations
            if here and not one[0].name and numbers & {
                    source[n][-2:-1] for n in one[0].lines if re.search(r" \(\d\)$", source[n])}:
                here.insert(0, one)
        for _, told, tests in here:
            told.append(passage)
            tests.extend(test for test in passage.tests if test not in tests)
    return rows
