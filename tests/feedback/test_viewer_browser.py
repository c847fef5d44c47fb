"""The sample viewer in Chromium: from the disk, and below an address of a web server."""

import functools
import http.server
import shutil
import threading

import pytest

from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.data.records import Comparison, Post, Summary
from rlhf_jax.feedback import viewer

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]
playwright = pytest.importorskip("playwright.sync_api")

ATTACK = "<script>document.title = 'stolen'</script><img src=x onerror=\"document.title = 'stolen'\">"
POLICIES = ("sft", "ppo", "best_of_16", "other")


def sample(i):
    """Of even posts the reward model prefers PPO; the gold judge always does."""
    post = {
        "id": f"t3/{i} é",
        "subreddit": "advice" if i % 3 else "pets",
        "title": f"Question {i} {ATTACK}",
        "post": f"{ATTACK}\n\n"
        + "My dog ate the letter. " * (i % 40 + 1)
        + ("A needle." if i == 180 else ""),
        "summary": "Dog ate a letter.",
    }
    written = {
        name: {
            "text": f" {name} wrote {i}. {ATTACK}",
            "score": k * (-1) ** i / 2,
            "gold": 2.0 + k,
            "key_fact": k > 1,
        }
        for k, name in enumerate(POLICIES)
    }
    return {"post": post, "summaries": written}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("viewer")
    write_jsonl(folder / "test.jsonl", [sample(i) for i in range(200)])
    compared = []
    for i in range(4):  # PPO over SFT, which the reward model finds on even posts alone
        texts = [Summary(sample(i)["summaries"][name]["text"], name) for name in ("sft", "ppo")]
        info = Post(f"t3/{i} é", "advice", "title", "post")
        compared.append(Comparison(info, (texts[0], texts[1]), 1, "ana", "b", "valid2", {}))
    write_jsonl(folder / "comparisons.jsonl", compared)
    for name, more in (("gold", []), ("people", [f"--comparisons={folder / 'comparisons.jsonl'}"])):
        arguments = [f"--samples={folder / 'test.jsonl'}", f"--out={folder / 'below' / name}", *more]
        assert viewer.main(["rlhf-jax view", *arguments]) == 0
    return folder


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as play:
        quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        browser = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--no-first-run", *quiet]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(folder):
    """Of a server that has the viewers below /below/."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/below"
        server.shutdown()


@pytest.fixture
def page(browser):
    """A page on which nothing may go wrong: no error, no message of the security policy."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(30_000)
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text))
    yield page
    title = page.title()
    page.close()
    assert complaints == [] and title != "stolen"


def position(page):
    return page.text_content(".position")


def wait_for_position(page, text):
    playwright.expect(page.locator(".position")).to_have_text(text, timeout=30_000)


def titles(page):
    return page.locator(".list .title").all_text_contents()


@pytest.mark.parametrize("place", ["disk", "server"])
def test_samples_are_read_from_start_to_end_with_the_keyboard(folder, address, page, place):
    page.goto(f"{address}/gold/" if place == "server" else (folder / "below/gold/index.html").as_uri())
    page.wait_for_selector(".card")
    assert position(page) == "1 of 200"
    assert page.text_content("h2") == f"Question 0 {ATTACK}"
    for key in ("ArrowRight", "j", "ArrowLeft", "j", "k", "j"):
        page.keyboard.press(key)
    wait_for_position(page, "3 of 200")
    playwright.expect(page.locator("h2")).to_have_text(f"Question 2 {ATTACK}")
    page.go_back()
    wait_for_position(page, "2 of 200")


def test_every_policy_stands_beside_the_post_with_its_scores_as_text(folder, page):
    page.goto((folder / "below/gold/index.html").as_uri() + "#t3%2F3%20%C3%A9")
    page.wait_for_selector(".card")
    assert position(page) == "4 of 200"
    cards = page.locator(".card")
    assert cards.locator("h3").all_text_contents() == ["Reference", "SFT", "PPO", "Best of 16", "other"]
    assert cards.nth(2).locator(".text").text_content() == f"ppo wrote 3. {ATTACK}"
    assert cards.nth(2).locator("dl").inner_text().split() == "RM −0.50 gold 3.0 key fact –".split()
    assert cards.nth(4).locator("dl").inner_text().split() == "RM −1.50 gold 5.0 key fact ✓".split()
    assert cards.locator(".best dd").all_text_contents() == ["+0.00", "5.0"]
    assert page.locator("article script, article img, .list script, .list img").count() == 0
    assert "disagrees with the gold judge on 100% of the pairs" in page.text_content(".verdicts")


def test_policies_can_be_left_out(folder, page):
    page.goto((folder / "below/gold/index.html").as_uri())
    page.wait_for_selector(".card")
    for name in ("Reference", "other"):
        page.get_by_label(name, exact=True).uncheck()
    page.keyboard.press("j")
    wait_for_position(page, "2 of 200")
    assert page.locator(".card h3").all_text_contents() == ["SFT", "PPO", "Best of 16"]


def test_search_finds_what_is_not_yet_loaded(folder, page):
    page.goto((folder / "below/gold/index.html").as_uri())
    page.wait_for_selector(".card")
    page.keyboard.press("/")
    page.keyboard.type("A NEEDLE")
    wait_for_position(page, "1 of 1")
    page.wait_for_selector("mark")
    assert page.locator(".body mark").all_text_contents() == ["A needle"]
    assert page.url.endswith("#t3%2F180%20%C3%A9")
    page.fill("[name=query]", "there is no such thing")
    playwright.expect(page.locator(".found")).to_have_text("0 of 200 samples")
    assert position(page) == "not among those found"
    page.get_by_text("Reset").click()
    wait_for_position(page, "181 of 200")


def test_filters_show_what_they_say(folder, page):
    page.goto((folder / "below/gold/index.html").as_uri())
    page.wait_for_selector(".card")
    page.get_by_label("Source").select_option("r/pets")
    wait_for_position(page, "1 of 67")
    assert titles(page)[1].startswith("Question 3 ")
    page.get_by_label("Reward model").select_option(label="disagrees with gold judge")
    wait_for_position(page, "1 of 33")
    assert [title.split()[1] for title in titles(page)][:3] == ["3", "9", "15"]
    page.get_by_label("Order").select_option(label="longest first")
    playwright.expect(page.locator("h2")).to_have_text(f"Question 39 {ATTACK}")
    words = [int(text.split(" · ")[1].split()[0]) for text in page.locator(".list .soft").all_text_contents()]
    assert words == sorted(words, reverse=True) and len(words) == 33
    page.get_by_label("Length").select_option("short")
    assert len(titles(page)) < 33
    assert page.locator(".if-judged").is_visible()


def test_verdicts_of_people(folder, page):
    page.goto((folder / "below/people/index.html").as_uri())
    page.wait_for_selector(".card")
    assert page.text_content(".verdicts li") == (
        "PPO over SFT: 1 of 1 person. The reward model agrees, +0.50 against +0.00."
    )
    page.get_by_label("Reward model").select_option(label="disagrees with people")
    wait_for_position(page, "1 of 2")
    page.wait_for_selector(".verdicts .warn")
    assert [title.split()[1] for title in titles(page)] == ["1", "3"]
    page.get_by_label("Reward model").select_option(label="where people compared")
    wait_for_position(page, "2 of 4")


def test_a_missing_file_is_told(folder, browser, tmp_path):
    page = browser.new_page()
    shutil.copytree(folder / "below/gold", tmp_path / "broken")
    (tmp_path / "broken/data/0.js").unlink()
    page.goto((tmp_path / "broken/index.html").as_uri())
    page.wait_for_selector("article .warn")
    assert page.text_content("article .warn") == "data/0.js could not be loaded."
    page.close()


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_runs_over_the_side(folder, browser, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto((folder / "below/people/index.html").as_uri())
    page.wait_for_selector(".card")
    if page.locator(".toggle").is_visible():
        assert not page.locator(".filters").is_visible()
        page.click(".toggle")
    assert page.locator(".filters").is_visible() and page.locator(".list").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for selector in (".next", ".card h3", ".list a"):
        box = page.locator(selector).first.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
    page.close()


def test_controls_have_names(folder, page):
    page.goto((folder / "below/people/index.html").as_uri())
    page.wait_for_selector(".card")
    names = page.evaluate(
        """() => [...document.querySelectorAll("input, select, button")].map(control =>
            control.labels?.[0]?.textContent || control.ariaLabel || control.textContent)"""
    )
    assert len(names) > 10 and all(name.strip() for name in names)
