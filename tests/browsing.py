"""People at browsers of the labelling site, who never touch a mouse."""

import shutil
from pathlib import Path

CHROMIUM = shutil.which("chromium")
DESK, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}


class Person:
    """Somebody at a browser of their own, who never touches a mouse."""

    def __init__(self, browser, server, pictures: str | None, **options):
        self.context = browser.new_context(viewport=DESK, accept_downloads=True, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._console)
        self.errors: list[str] = []
        self.url, self.pictures = server.url, pictures

    def _console(self, message) -> None:
        if message.type == "error" and "ERR_INTERNET_DISCONNECTED" not in message.text:
            self.errors.append(message.text)

    def join(self, link: str) -> None:
        self.page.goto(link)
        self.at("Begin")
        self.press("Enter")
        self.page.wait_for_url(f"{self.url}/")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def type(self, text: str) -> None:
        self.page.keyboard.type(text)

    def focused(self) -> str:
        """What a screen reader would call the element in focus."""
        return self.page.evaluate(
            """() => {
              const one = document.activeElement;
              const labels = [...(one.labels || [])].map((label) => label.textContent).join(" ");
              return (one.getAttribute("aria-label") || labels || one.textContent || "").trim();
            }"""
        )

    def at(self, name: str) -> None:
        """Waits until the page itself has put the focus there."""
        self.page.wait_for_function(
            "name => document.activeElement.matches('button, a, input, textarea')"
            " && ((document.activeElement.textContent || '') + "
            " [...(document.activeElement.labels || [])].map((l) => l.textContent).join(' ')).includes(name)",
            arg=name,
        )

    def tab_to(self, name: str) -> None:
        for _ in range(60):
            self.press("Tab")
            if self.focused().startswith(name):
                return
        raise AssertionError(f"the Tab key does not reach {name!r}")

    def see(self, text: str) -> None:
        self.page.get_by_text(text).first.wait_for()

    def saved(self, state: str) -> None:
        self.page.wait_for_selector(f'#saved[data-state="{state}"]')

    def picture(self, name: str) -> None:
        """The page as it is, and the same on a phone; nothing may stick out at its side or lack a name."""
        unnamed = self.page.evaluate(
            """() => [...document.querySelectorAll("a, button, textarea, input:not([type=hidden])")]
              .filter((one) => !(one.getAttribute("aria-label") || one.textContent.trim()
                || [...(one.labels || [])].some((label) => label.textContent.trim())))
              .map((one) => one.outerHTML)"""
        )
        assert unnamed == [] and self.page.locator("h1").count() == 1
        for width, size in (("desk", DESK), ("phone", PHONE)):
            self.page.set_viewport_size(size)
            wide = self.page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert wide <= 0, f"{name}: {wide} pixels too wide on a {width}"
            if self.pictures:
                folder = Path(self.pictures)
                folder.mkdir(parents=True, exist_ok=True)
                self.page.screenshot(path=folder / f"{name}-{width}.png", full_page=width == "phone")
        self.page.set_viewport_size(DESK)


def invite(boss: Person, name: str) -> str:
    """From any page, by keyboard: the new person's link."""
    boss.tab_to("People")
    boss.press("Enter")
    boss.page.wait_for_url("**/admin")
    boss.tab_to("Name")
    boss.type(name)
    boss.press("Enter")
    boss.at("The link for")
    return boss.page.input_value("#link")


def interpret(person: Person, first: str, second: str) -> None:
    person.at("In your words")
    person.type(first)
    person.press("Tab")
    person.type(second)
    person.press("Control+Enter")
    person.page.wait_for_selector("#choice")


def choose(person: Person, digit: str) -> None:
    before = person.page.url
    person.page.wait_for_selector("#choice")
    person.press(digit, "Enter")
    person.page.wait_for_function("before => location.href !== before", arg=before)
