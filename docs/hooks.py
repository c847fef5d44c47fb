"""What mkdocs does to the pages beside it.

A fence of the language `source` names functions or classes, one a line, and becomes their code as it stands
in the repository, without the docstring. Formulas become MathML, which browsers show by themselves: no
script, no font and no network. A drawing (SVG) becomes part of the page, so that its colours are the theme's.
"""

import ast
import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

DOCS = Path(__file__).parent
ROOT = DOCS.parent
SOURCE = re.compile(r"^```source\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r'<(div|span) class="arithmatex">\\[\[(](.*?)\\[\])]</\1>', re.DOTALL)
DRAWING = re.compile(r'<img [^>]*src="([^":]+\.svg)"[^>]*>')


def on_page_markdown(markdown, **_):
    return SOURCE.sub(lambda fence: "\n\n".join(map(code_of, fence[1].split())), markdown)


def on_page_content(content, page, **_):
    content = FORMULA.sub(lambda found: mathml(html.unescape(found[2]), found[1] == "div"), content)
    folder = DOCS / Path(page.file.dest_uri).parent
    return DRAWING.sub(lambda found: (folder / found[1]).read_text(encoding="utf-8"), content)


def code_of(name: str) -> str:
    """The code of `package.module.name`, as a block under the name of its file."""
    module, _, attribute = name.rpartition(".")
    path = Path(*module.split(".")).with_suffix(".py")
    text = (ROOT / path).read_text(encoding="utf-8")
    found = [node for node in ast.parse(text).body if getattr(node, "name", None) == attribute]
    if not found:
        raise PluginError(f"{path} has no {attribute}")
    node = found[0]
    first = min(each.lineno for each in [node, *node.decorator_list])
    lines = text.splitlines()[first - 1 : node.end_lineno]
    if ast.get_docstring(node) is not None:
        docstring = node.body[0]
        del lines[docstring.lineno - first : docstring.end_lineno - first + 1]
    return f'``` {{ .python title="{path.as_posix()}" }}\n' + "\n".join(lines) + "\n```"


def mathml(latex: str, block: bool) -> str:
    return convert(latex.strip(), display="block" if block else "inline")
