"""The documentation: it builds, its links lead somewhere, its commands name what is there, its code runs."""

import functools
import http.server
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("mkdocs")

from mkdocs.exceptions import PluginError  # noqa: E402

from rlhf_jax.__main__ import COMMANDS  # noqa: E402
from rlhf_jax.config import Config, fields_of  # noqa: E402
from rlhf_jax.data.record_json import (
    from_json,
    write_jsonl,  # noqa: E402
)
from rlhf_jax.data.records import Comparison, Post, RecordError  # noqa: E402
from rlhf_jax.evaluation import intervals  # noqa: E402

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
FIELDS = {name for name, _, _ in fields_of(Config())}
MARKERS = {
    line.partition(":")[0]
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"][
        "markers"
    ]
}
PLACEHOLDERS = {"FILE", "…"}  # for a configuration of the reader's own
CHROMIUM = shutil.which("chromium")


# --- the site ---


class Page(HTMLParser):
    """What a page points to, what it loads by itself, and the names that others can point to."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.loads, self.names = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.names |= {values[key] for key in ("id", "name") if values.get(key)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        elif tag in ("script", "img", "iframe", "source") and values.get("src"):
            self.loads.append(values["src"])
        elif tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.loads.append(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built where no network answers; a warning fails the build."""
    folder = tmp_path_factory.mktemp("site")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | nowhere | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0 and "WARNING" not in built.stderr, built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    found = sorted(site.rglob("*.html"))
    return {path: Page(path) for path in found if path.name != "404.html"}  # which any address may show


def test_every_page_is_built(pages, site):
    built = {path.relative_to(site).with_suffix("") for path in pages}
    assert {path.relative_to(DOCS).with_suffix("") for path in PAGES[1:]} <= built
    assert Path("results") in built


def test_every_link_leads_somewhere(pages):
    for path, page in pages.items():
        for link in page.links + page.loads:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path}: {link}"
            if url.fragment and target in pages:
                assert unquote(url.fragment) in pages[target].names, f"{path}: {link}"


def test_pages_load_nothing_from_elsewhere(pages):
    assert [load for page in pages.values() for load in page.loads if urlsplit(load).netloc] == []


def test_links_of_the_readme_lead_somewhere(pages, site):
    for link in re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if not urlsplit(link).scheme:
            assert (ROOT / path).exists(), link
            if anchor:
                built = site / Path(path).relative_to("docs").with_suffix(".html")
                assert anchor in pages[built].names, link


def test_names_in_the_drawing_are_there():
    text = (DOCS / "images" / "method.svg").read_text(encoding="utf-8")
    for label in re.findall(r'class="file"[^>]*>([^<]+)<', text):
        folder = Path("rlhf_jax")
        for name in label.split(", "):  # a folder before the first file holds for those that follow
            path = Path("rlhf_jax") / name if "/" in name else folder / name
            folder = path.parent if path.suffix else folder
            assert (ROOT / path).exists(), label


def test_the_tree_of_the_readme_is_there():
    (tree,) = re.findall(
        r"```\n(rlhf_jax/\n.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    folders: list[str] = []
    for line in filter(re.compile(r" *[\w.]+(\.py|/)").match, tree.splitlines()):
        depth = (len(line) - len(line.lstrip())) // 2
        if depth > 2:
            continue  # goes on about the line before
        name = line.split()[0]
        folders[depth:] = [name.rstrip("/")]
        assert (ROOT / "/".join(folders)).exists(), line


def test_formulas_are_mathml_and_code_is_the_sources(site):
    text = (site / "mathematics.html").read_text(encoding="utf-8")
    source = (DOCS / "mathematics.md").read_text(encoding="utf-8")
    assert text.count('display="block"') == source.count("$$") // 2
    assert "arithmatex" not in text and "\\(" not in text
    assert text.count("rlhf_jax/functional/losses.py") == source.count("\nrlhf_jax.functional.losses.")


def test_the_drawing_is_part_of_the_page(site):
    """So that its colours are the theme's."""
    text = (site / "index.html").read_text(encoding="utf-8")
    assert text.count('<svg class="method"') == 1 and "method.svg" not in text


# --- in a browser ---


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--no-first-run", *quiet]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def addresses(site):
    """Of the site: on a server, and on disk."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"server": f"http://127.0.0.1:{server.server_port}", "disk": site.as_uri()}
        server.shutdown()


@pytest.mark.browser
@pytest.mark.parametrize("place", ["server", "disk"])
def test_the_search_needs_no_network(browser, addresses, place):
    page = browser.new_page()
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{addresses[place]}/howto/gpu.html")
    page.keyboard.press("/")
    page.keyboard.type("whitening")
    page.locator(".md-search-result__item a", has_text="Whitening").first.click(timeout=30_000)
    page.wait_for_url("**/mathematics.html*")
    page.close()
    elsewhere = [url for url in asked if not url.startswith((addresses[place], "about:", "data:", "blob:"))]
    assert elsewhere == [] and errors == []


@pytest.mark.browser
@pytest.mark.parametrize("system", ["light", "dark"])
def test_the_theme_is_the_systems_until_a_reader_chooses(browser, addresses, system):
    page = browser.new_page(color_scheme=system)
    page.goto(f"{addresses['server']}/index.html")

    def seen(selector: str, of: str) -> int:
        """How light a colour is, 0 to 255."""
        colour = page.eval_on_selector(selector, f"element => getComputedStyle(element).{of}")
        return max(map(int, re.findall(r"\d+", colour)[:3]))

    def is_dark() -> bool:
        paper, ink = seen("body", "backgroundColor"), seen(".method .name", "fill")
        assert abs(paper - ink) > 128  # the drawing is legible
        return paper < ink

    assert is_dark() == (system == "dark")
    shown = []
    for _ in range(3):  # light, dark, as the system
        page.locator("[data-md-component=palette] label:visible").click()
        shown.append(is_dark())
    page.close()
    assert shown == [False, True, system == "dark"]


# --- hooks ---


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_code_is_shown_without_its_docstring(hooks):
    shown = hooks.on_page_markdown("before\n\n```source\nrlhf_jax.evaluation.best_of_n.closed_form_kl\n```\n")
    assert shown.splitlines() == [
        "before",
        "",
        '``` { .python title="rlhf_jax/evaluation/best_of_n.py" }',
        "def closed_form_kl(n: int) -> float:",
        "    return math.log(n) - (n - 1) / n",
        "```",
    ]


def test_decorators_are_shown(hooks):
    assert "@dataclass\nclass EvalConfig:" in hooks.code_of("rlhf_jax.config.EvalConfig")


def test_a_name_that_is_not_there_is_an_error(hooks):
    with pytest.raises(PluginError, match=r"rlhf_jax/pipeline/ppo\.py has no lost"):
        hooks.code_of("rlhf_jax.pipeline.ppo.lost")


# --- commands ---


def commands(text: str) -> list[str]:
    """Every command of bash blocks, continued lines joined, and those that stand in a sentence or table."""
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`((?:[A-Z]+=\S+ )*(?:python -m|rlhf-jax|\./launch/|pytest) ?[^`]+)`", text)
    return [line for line in lines + inline if line]


def faults(command: str) -> list[str]:
    """What a command names that is not there."""
    words = shlex.split(command, comments=True)
    found = [
        word
        for word in words
        if re.match(r"(\./)?launch/", word) and not (ROOT / word.lstrip("./")).is_file()
    ]
    for word in words:
        name, _, value = word.partition("=")
        files = (ROOT / value, ROOT / "configs" / f"{value}.py")
        if name == "--config" and value not in PLACEHOLDERS and not any(map(Path.is_file, files)):
            found.append(word)
        if name.startswith("--config.") and name.removeprefix("--config.") not in FIELDS:
            found.append(word)
    if "pytest" in words:
        return found + faults_of_pytest(words[words.index("pytest") + 1 :])
    for before, module in zip(words, words[1:], strict=False):
        if before == "rlhf-jax":
            if module not in COMMANDS and module != "--help":
                found.append(module)
            elif module in COMMANDS:
                file = f"rlhf_jax.{COMMANDS[module][0]}"
                found += faults_of_module(file, words[words.index(module) + 1 :])
        if before == "-m" and module.split(".")[0] in ("rlhf_jax", "benchmarks"):
            found += faults_of_module(module, words[words.index(module) + 1 :])
    return found


def faults_of_module(module: str, arguments: list[str]) -> list[str]:
    """The module itself, or options that neither its file nor one named there speaks of."""
    path = ROOT / module.replace(".", "/")
    files = [file for file in (path.with_suffix(".py"), path / "__main__.py") if file.is_file()]
    if not files or "def main(" not in (source := files[0].read_text(encoding="utf-8")):
        return [module]
    source += "".join(
        (ROOT / name).read_text(encoding="utf-8") for name in re.findall(r"rlhf_jax/[\w/]+\.py", source)
    )
    options = [word.partition("=")[0].removeprefix("--") for word in arguments if word.startswith("--")]
    return [
        f"--{option}"
        for option in options
        if not option.startswith("config.")
        and not re.search(rf'(--|"){option}\b', source)
        and option != "help"
    ]


def faults_of_pytest(arguments: list[str]) -> list[str]:
    """Files, markers and tests that are not there."""
    files = [word for word in arguments if word.startswith("tests/")]
    found = [file for file in files if not (ROOT / file).is_file()]
    paths = [ROOT / file for file in files if file not in found] or sorted(
        (ROOT / "tests").rglob("test_*.py")
    )
    tests = [
        name for path in paths for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))
    ]
    for option, expression in zip(arguments, arguments[1:], strict=False):
        names = set(re.findall(r"\w+", expression)) - {"and", "or", "not"}
        if option == "-m":
            found += sorted(names - MARKERS)
        if option == "-k":
            found += sorted(name for name in names if not any(name in test for test in tests))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_name_what_is_there(page):
    wrong = {command: faults(command) for command in commands(page.read_text(encoding="utf-8"))}
    assert {command: found for command, found in wrong.items() if found} == {}


def test_every_command_is_on_the_page_of_options():
    rows = re.findall(
        r"^\| (`rlhf-jax .*?) \|", (DOCS / "options.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    named = [name for row in rows for name in re.findall(r"`(?:rlhf-jax )?([\w-]+)`", row)]
    assert sorted(named) == sorted(COMMANDS)


def test_commands_are_found():
    block = "```bash\npython -m a \\\n    --b=1   # why\n./launch/c.sh\n```\n"
    found = commands(f"{block}\nor `FUZZ=2 python -m pytest d`, not `e`\n")
    assert [shlex.split(each, comments=True) for each in found] == [
        ["python", "-m", "a", "--b=1"],
        ["./launch/c.sh"],
        ["FUZZ=2", "python", "-m", "pytest", "d"],
    ]


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("python -m rlhf_jax.mian --workdir=x", ["rlhf_jax.mian"]),
        ("python -m rlhf_jax.training.state", ["rlhf_jax.training.state"]),  # no command
        ("rlhf-jax run --wrokdir=x", ["--wrokdir"]),
        ("rlhf-jax run --config=configs/none.py", ["--config=configs/none.py"]),
        ("rlhf-jax run --config=none", ["--config=none"]),
        ("rlhf-jax run --config=mini", []),
        ("rlhf-jax run --config.ppo.kl=1", ["--config.ppo.kl=1"]),
        ("python -m benchmarks.none", ["benchmarks.none"]),
        ("./launch/none.sh", ["./launch/none.sh"]),
        ("python -m pytest tests/test_none.py", ["tests/test_none.py"]),
        ("pytest -m slwo tests/whole/test_docs.py", ["slwo"]),
        ("pytest tests/whole/test_docs.py -k 'readme or nothing_such'", ["nothing_such"]),
        ("./launch/demo.sh --config.seed=1 # --config.ppo.kl=1", []),
        ("rlhf-jax plan --config=… --topology=v5p:4x4x4 --config.mesh.fsdp=8", []),
    ],
)
def test_a_planted_fault_is_found(command, wrong):
    assert faults(command) == wrong


# --- examples ---


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_code_of_the_api_page():
    _, code = blocks("api/index.md", "python")  # the first needs a finished run
    exec(code, names := {})
    assert names["logits"].shape == (1, 3, 100)
    assert names["advantages"][0].tolist() == pytest.approx([0.95**2, 0.95, 1.0])


def test_records_and_errors_of_the_data_page():
    post, comparison = (json.loads(block) for block in blocks("howto/data.md", "json"))
    assert from_json(Post, post).summary and from_json(Comparison, comparison).choice == 0
    del post["title"]
    comparison["choice"] = 2
    wrong = ((Post, post), (Comparison, comparison))
    for (kind, record), line in zip(wrong, blocks("howto/data.md", "text")[0].splitlines(), strict=True):
        with pytest.raises(RecordError) as error:
            from_json(kind, record)
        assert line.endswith(f": {error.value}")


def test_code_of_the_judge_page(tmp_path, monkeypatch):
    monkeypatch.setattr(intervals, "FITS", 10)
    posts = [{"id": f"p{i}", "subreddit": "a", "title": "t", "post": f"one two three {i}"} for i in range(8)]
    texts = {"sft": "one two three", "ppo": "four five", "reference": "one two six"}
    summaries = {name: {"text": text, "score": 0.0, "gold": None} for name, text in texts.items()}
    samples = [{"post": post | {"summary": texts["reference"]}, "summaries": summaries} for post in posts]
    write_jsonl(tmp_path / "samples" / "test.jsonl", samples)
    names = {"run": tmp_path}
    for block in blocks("howto/judge.md", "python"):
        exec(block, names)
    rates = names["figures"]["preference_over_reference"]
    assert rates["sft"]["value"] == 0.0 and rates["ppo"]["value"] == 1.0
