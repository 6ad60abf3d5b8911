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
NAMED = re.compile(r"\b(?:Code|Tests?):\s")               # in a paragraph that ends a passage
TEST = r"\b(?:test_\w+|Test[A-Z]\w+)\b"
STEP = "what this stage is about"                          # a heading in main of each stage


class Passage(NamedTuple):
    """A piece of docs/method.md: its heading, text, page, and the functions and tests it names."""
    title: str
    text: str
    page: str
    code: list
    tests: list


def passages():
    """The Passages of docs/method.md in order. Each ends with the paragraph that names its code or
    its tests, or with the pictures after it. Tests that the docstring of this code names are its
    tests, too. page "": it comes before the first of the five."""
    text, page, found = (ROOT / "docs/method.md").read_text(encoding="utf-8"), "", []
    proofs = {name: re.findall(TEST, ast.get_docstring(node) or "")
              for file in FIVE for name, node in defs(ROOT / f"{file}.py").items()}
    for section in re.split(r"^#{2,3} ", text, flags=re.M)[1:]:
        title, body = section.split("\n", 1)
        page = next(iter(re.findall(rf"\]\(\.\./({'|'.join(FIVE)})\.py\)", body)), page)
        paragraphs, parts = re.split(r"\n\s*\n", body.strip()), [[]]
        for i, paragraph in enumerate(paragraphs):
            if any(map(NAMED.search, parts[-1])) and not re.match(r"<img|\*[^*]", paragraph) and (
                    paragraph.startswith("**") or any(map(NAMED.search, paragraphs[i:]))):
                parts.append([])
            parts[-1].append(paragraph)
        tests, of_section = [], []
        for part in reversed(parts):                       # without tests: those of the next one
            whole = "\n\n".join(part)
            code = re.findall(r"`([A-Za-z_][\w.]*)`", "".join(whole.partition("Code:")[1:]))
            tests = list(dict.fromkeys(re.findall(rf"`({TEST})`", whole))) or tests
            more = [test for name in code for test in proofs.get(name, ()) if test not in tests]
            of_section.append(Passage(title, whole, page, code, tests + more))
        found += reversed(of_section)
    return found


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


class Cell(NamedTuple):
    """A row: a function, class, part of main, or "" for what stands between; its section, its
    docstring, the other lines."""
    name: str
    section: str
    words: str
    path: Path
    lines: list


def function_cell(name, section, path, node):
    """A whole function, with its docstring as the words."""
    doc = ast.get_docstring(node) or ""
    hidden = range(node.body[0].lineno, node.body[0].end_lineno + 1) if doc else ()
    return Cell(name, section, doc, path, [n for n in range(first_line(node), node.end_lineno + 1)
                                           if n not in hidden])


def parts_of(cell, node, source):
    """The parts of a class, each method that has a docstring, or of main, by its headings."""
    first, marks, hidden = cell.lines[0], [], set()
    if isinstance(node, ast.ClassDef):
        methods = [function_cell(f"{cell.name}.{part.name}", cell.section, cell.path, part)
                   for part in node.body if isinstance(part, ast.FunctionDef)]
        for method in filter(lambda method: method.words, methods):
            marks.append((method.lines[0], method.name, method.words))
            hidden |= {*range(method.lines[0], method.lines[-1] + 1)} - {*method.lines}
    elif cell.name == "main":
        for n in cell.lines:
            if heading := re.match(r"\s+# -- (.+?)(?: -{5,})?$", source[n]):
                title, _, words = heading[1].partition(": ")
                marks.append((n, title, words))
                hidden.add(n)
    marks = [(first, cell.name, cell.words), *marks, (cell.lines[-1] + 1, "", "")]
    return [cell._replace(name=name, words=words, lines=[
                n for n in cell.lines if at <= n < stop and n not in hidden])
            for (at, name, words), (stop, *_) in zip(marks, marks[1:], strict=False)]


def cells(path):
    """The Cells of a file in order."""
    text, found, section = path.read_text(encoding="utf-8"), [], ""
    source, body = ["", *text.splitlines()], ast.parse(text).body
    start = max(n.end_lineno for n in body if isinstance(n, (ast.Import, ast.ImportFrom))) + 1
    found.append(Cell("", "imports", "", path, list(range(body[0].end_lineno + 1, start))))
    for name, node in defs(path).items():
        if "." not in name:
            between = [n for n in range(start, first_line(node)) if source[n].strip()]
            rules = [n for n in between if re.match("# -{10,}", source[n])]
            section = source[rules[-1]].strip("# -") if rules else section
            if between != rules:
                found.append(Cell("", section, "", path,
                                  [n for n in range(start, first_line(node)) if n not in rules]))
            found += parts_of(function_cell(name, section, path, node), node, source)
            start = node.end_lineno + 1
    return found


def rows_of(page):
    """[(Cell, its passages, its tests)] of a page."""
    path = ROOT / f"{page}.py"
    rows = [(cell, [], re.findall(TEST, cell.words)) for cell in cells(path)]
    source = ["", *path.read_text(encoding="utf-8").splitlines()]
    of_five = {name for other in FIVE for name in defs(ROOT / f"{other}.py")}
    for passage in passages():
        here = [row for row in rows if row[0].name in passage.code]
        if passage.page == page and not of_five & {*passage.code}:
            for link in re.findall(r"\]\(\.\./(comedian/\w+\.py)\)", passage.text):
                for name, node in defs(ROOT / link).items():
                    if name in passage.code:
                        cell = function_cell(name, "from the pantry", ROOT / link, node)
                        here.append((cell, [], re.findall(TEST, cell.words)))
                        rows.append(here[-1])
            here = here or [row for row in rows if {*row[2]} & {*passage.tests}] or [
                row for row in rows if row[0].name == (STEP if "stage" in page else "main")]
        numbers = set(re.findall(r"\\qquad \((\d)\)", passage.text))
        for row in rows:                                   # a comment that has these equations
            if here and not row[0].name and numbers & {
                    source[n][-2:-1] for n in row[0].lines if re.search(r" \(\d\)$", source[n])}:
                here.insert(0, row)
        for _, told, tests in here:
            told.append(passage)
            tests.extend(test for test in passage.tests if test not in tests)
    return rows
