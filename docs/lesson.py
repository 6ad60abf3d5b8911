"""
The lesson side by side: a page for each of the five files, the code left, what it means right.

    make lesson                                  # build/lesson/index.html
    python docs/lesson.py --out FOLDER

Nothing is written twice or placed by line number. Beside a function stand its docstring and the
passage of docs/method.md that names it ("Code: `f`"). A passage that names none stands by the
function whose docstring names its test, else by main; one whose equations a comment repeats, by
that comment. Under an equation is a link to its test, whose source is in the page. What a passage
names of the pantry comes at the end of its page. Beside a shape comment stands the shape that
docs/shapes.py has seen. No page needs a network or a script.
"""
import ast
import functools
import html
import re
import shutil
import textwrap
from itertools import groupby
from pathlib import Path

import shapes
from exercise import EXERCISES
from latex2mathml.converter import convert
from outline import FIVE, ROOT, STEP, TEST, passages, rows_of, test_source
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from comedian import command

FOLDED = ("imports", "options", "set-up", "everything below is bookkeeping")
WIDTH = 102                                                # columns of code, shapes included
INLINE = re.compile(r"`([^`]+)`|\$([^$]+)\$|\[([^\]]+)\]\(([^)\s]+)\)|\*\*(.+?)\*\*"
                    rf"|(?<![\w*])\*([^\s*][^*]*)\*|({TEST})|\bEq\. (\d)")


# ------------------------------------------------------------------ HTML
def inline(text, links):
    """Marks, formulas, links inside a paragraph. links: {a function, test, equation: where}."""
    def link(name, shown):
        return f'<a href="{links[name]}">{shown}</a>' if name in links else shown

    out, end = [], 0
    for m in INLINE.finditer(text):
        code, tex, label, target, bold, italic, test, number = m.groups()
        out.append(html.escape(text[end:m.start()], False))
        end = m.end()
        if code:
            out.append(link(code, f"<code>{html.escape(code, False)}</code>"))
        elif tex:
            out.append(convert(tex))
        elif label:
            name = Path(target).stem
            target = target if target.startswith("http") else f"{name}.html" if name in FIVE else 0
            out.append(f'<a href="{target}">{label}</a>' if target else label)
        elif test or number:
            out.append(link(test or f"eq-{number}", m[0]))
        else:
            tag = "b" if bold else "i"
            out.append(f"<{tag}>{inline(bold or italic, links)}</{tag}>")
    return "".join(out) + html.escape(text[end:], False)


def prose(text, links, tests=()):
    """The Markdown of docs/method.md and of docstrings; tests: what proves the equations."""
    out = []
    for block in filter(str.strip, re.split(r"\n\s*\n|\n(?=- )", text)):
        lines = block.splitlines()
        if block.startswith("```math"):
            tex, _, number = block[7:-3].strip().partition("\\qquad (")
            here = f' id="eq-{number[0]}"' if number else ""
            shown = convert(tex, display="block") + f"<span>({number}</span>" * bool(number)
            out.append(f'<div class="eq" tabindex="0"{here}>{shown}</div>')
            proofs = [f'<a href="{links[test]}">{test}</a>' for test in tests]
            out.append(f'<p class="proof">proved by {", ".join(proofs)}</p>' * bool(proofs))
        elif block.startswith("<img"):
            src, alt = re.search('src="([^"]+)".*alt="([^"]+)"', block).groups()
            out.append(f'<a href="{src}"><img src="{src}" alt="{alt}" loading="lazy"></a>')
        elif block.startswith("|"):
            rows = [[f"<td>{inline(cell.strip(), links)}" for cell in line.strip("|").split("|")]
                    for line in lines if not line.startswith("|---")]
            rows[0] = [cell if "<math" in cell else cell.replace("td", "th", 1) for cell in rows[0]]
            out.append("<table><tr>" + "<tr>".join(map("".join, rows)) + "</table>")
        elif block.strip("\n").startswith("Reads  "):
            out.append(f"<pre>{html.escape(block, False)}</pre>")
        else:
            for indented, part in groupby(lines, key=lambda line: line.startswith("    ")):
                if indented:
                    part = html.escape(textwrap.dedent("\n".join(part)), False)
                    out.append(f"<pre>{part}</pre>")
                else:
                    part = " ".join(part)
                    out.append(("<p class=item>" if part.startswith("- ") else "<p>")
                               + inline(part.removeprefix("- "), links) + "</p>")
    return "\n".join(out)


def code(cell, coloured, watch):
    """The lines of a Cell in colour, with the shapes that were seen."""
    out = []
    for n in cell.lines:
        line, shown = coloured[n - 1], ""
        if seen := watch and watch.seen.get((cell.path.name, n)):
            shown = ", ".join(" × ".join(map(str, shape)) for shape in seen)
            shown = f' <span class="seen">{shown}</span>'
        wide = len(html.unescape(re.sub("<.*?>", "", line + shown))) + 2       # 2: a small triangle
        line = re.sub(r'  ( *)(?=<span class="c1">)', lambda gap, wide=wide: (
            f'<span class="gap">  {gap[1][max(0, wide - WIDTH):]}</span>'), line)
        out.append(line + shown)
    lines = "".join(f"<span>{line}</span>" for line in out)
    lines = re.sub("^(<span></span>)+|(<span></span>)+$", "", lines)
    return f'<pre class="code"><code>{lines}</code></pre>'


@functools.cache
def colour(text):
    """The lines of Python code, each as HTML."""
    return highlight(text, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)).splitlines()


def row(cell, told, tests, page, links, shown, watch):
    """A row: the words first, which is their order on a phone. shown: what the page has already."""
    name, todo = "-".join(cell.name.split()) or f"from-{cell.lines[0]}", ""
    for number, exercise in EXERCISES.items():
        bodies = [STEP if ":" in body else body for body in exercise.bodies]
        if cell.path == ROOT / exercise.file and cell.name in bodies:
            what = "write this yourself" if exercise.tests else "write a test of this"
            todo += (f'<p class="todo"><b>Exercise {number}</b>, {exercise.title}: {what}. '
                     f"<code>python docs/exercise.py {number}</code></p>")
    words = [f"<h3>{html.escape(cell.name)}</h3>" * bool(cell.name), prose(cell.words, links)]
    for passage in told:
        if passage.text not in shown:
            shown[passage.text] = f"p-{len(shown)}"
            words.append(f'<div class="told" id="{shown[passage.text]}"><p class="of">'
                         f"{passage.title}</p>{prose(passage.text, links, passage.tests)}</div>")
        else:
            words.append(f'<p class="mute">{passage.title}: <a href="#{shown[passage.text]}">'
                         "the passage above</a></p>")
    for test in [test for test in tests if test not in shown]:
        file, source = test_source(test, page)
        words.append(f"<details><summary>{test}, in tests/{file}</summary>"
                     f'<pre id="t-{test}">{"<br>".join(colour(source))}</pre></details>')
        shown[test] = name
    left = code(cell, colour(cell.path.read_text(encoding="utf-8")), watch) if cell.lines else ""
    if {cell.section, cell.name} & {*FOLDED}:
        left = f"<details><summary>{len(cell.lines)} lines, folded</summary>{left}</details>"
    return (f'<div class="row" id="{name}"><div class="words">{"".join(words)}{todo}</div>'
            f'<div class="left">{left}</div></div>')


def write(out, watch=None):
    """All pages. watch: what shapes.record() has seen, or None."""
    pages, functions, told = {page: rows_of(page) for page in FIVE}, {}, passages()
    for page, rows in pages.items():
        functions |= {cell.name: f"{page}.html#{cell.name}" for cell, *_ in rows
                      if cell.name.isidentifier() or "." in cell.name}
        functions |= {f"eq-{n}": f"{page}.html#eq-{n}" for _, of_row, _ in rows
                      for p in of_row for n in re.findall(r"\\qquad \((\d)\)", p.text)}
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    template, start = template.split("<!-- the index -->\n")
    run = ", ".join(f"{k} = {v}" for k, v in (shapes.LETTERS | shapes.IN_MAIN).items())
    body, tasks = {"index": ""}, ""
    for page, rows in pages.items():
        shown, section, parts = {}, "", []
        links = functions | {cell.name.split(".")[-1]: f"#{cell.name}" for cell, *_ in rows
                             if f"{page}.html#{cell.name}" in functions.values()}
        links |= {test: f"#t-{test}" for *_, tests in rows for test in tests}
        for cell, of_row, tests in rows:
            parts.append(f"<h2>{cell.section}</h2>" * (cell.section not in (section, "")))
            section = cell.section
            parts.append(row(cell, of_row, tests, page, links, shown, watch))
        doc = ast.get_docstring(ast.parse((ROOT / f"{page}.py").read_text(encoding="utf-8")))
        body[page] = (f"<header><h1>{page}.py</h1>{prose(doc, links)}<p class=mute>After a shape: "
                      f'<span class="seen">what the line made</span> in a small run, in which '
                      f"{run}.</p></header>" + "\n".join(parts))
        what = html.escape(doc.partition("\n\n")[0])
        body["index"] += f'<p><a href="{page}.html">{page}.py</a> {what}</p>'
    for number, (title, file, (first, *_), _) in EXERCISES.items():
        page = Path(file).stem if Path(file).stem in FIVE else FIVE[-1]
        tasks += prose(f"- {number}. {title}: `{first}`", {first: f"{page}.html#{first}"})
    first = "".join(f"<h2>{p.title}</h2>{prose(p.text, functions)}" for p in told if not p.page)
    body["index"] = (start.replace("PAGES", body["index"]).replace("PASSAGES", first)
                     .replace("TASKS", tasks))
    out.mkdir(parents=True, exist_ok=True)
    for page, text in body.items():
        nav = " ".join(f'<a href="{other}.html"{" aria-current=page" * (other == page)}>'
                       f"{other}</a>" for other in body)
        (out / f"{page}.html").write_text(template.replace("TITLE", page).replace("NAV", nav)
                                          .replace("BODY", text), encoding="utf-8")
        for picture in re.findall(r'<img src="([^"]+)"', text):
            shutil.copy2(ROOT / "docs" / picture, out / picture)


if __name__ == "__main__":
    parser = command.Parser(__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build/lesson", help="their folder")
    out = parser.parse_args().out
    write(out, shapes.record())
    print(f"{out}/index.html")
