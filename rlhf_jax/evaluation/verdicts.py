"""Which of two summaries, A or B, a judge calls the better one in words.

The last line says it: by the letter alone, in either case and however it is set off, or by a sentence that
calls one better, or both equal. Whatever else stands there is no verdict: nothing is guessed.
"""

import re

LEADING = (  # words that may stand before the letter and change nothing
    "answer be believe best better boxed choice chosen conclusion decision final finally hence i in is "
    "judgement judgment letter my one option overall pick preference preferred response so stronger summary "
    "superior that the therefore think thus to verdict winner winning would"
)
_LEAD = f"(?:(?:{'|'.join(LEADING.split())}|=) )*"
_NAME = "(?:the )?(?:(?:summary|option|response) )?"
_BUT = "but|however|although|though|yet|while|whereas|otherwise|unless|except|if|or"
_WORDS = rf"(?: (?!(?:not|no|never|neither|less|hardly|cannot|\w+n't|{_BUT})\b)[\w'-]+)"  # without a denial
_END = rf"\b(?!.*\b(?:{_BUT})\b).*"
_BETTER = "(?:better|best|preferred|preferable|superior|stronger|winner|choice|pick|answer)"
_VERB = "(?:is|was|seems|appears|looks|does|reads|covers|captures|conveys|summari[sz]es|tells)"
_CHOOSE = "(?:prefer|choose|pick|select|favou?r|go with|vote for)"
_BOTH = "(?:they|both|(?:the |both |these |the two )?summaries|(?:summary )?a and (?:summary )?b)"

_FOR = [
    re.compile(f"{_LEAD}([ab])"),
    re.compile(f"{_LEAD}([ab]) (?:{_VERB}{_WORDS}{{0,8}}? {_BETTER}|wins|beats|outperforms){_END}"),
    re.compile(f"i(?:'d|'ll)?{_WORDS}{{0,2}}? {_CHOOSE} {_NAME}([ab])(?: (?:over|to|because|as){_END})?"),
    re.compile(f"{_LEAD}([ab]) (?:over|>+) {_NAME}[ab]"),
]
_AGAINST = re.compile(
    f"{_LEAD}([ab]) {_VERB}{_WORDS}{{0,3}}? (?:worse|weaker|inferior) (?:than|to) {_NAME}[ab]{_END}"
)
_TIE = [
    re.compile(f"{_LEAD}(?:(?:it's|it|this) )?(?:is )?(?:an? )?(?:tie|tied|draw|equal|both|neither|same)"),
    re.compile(f"{_BOTH} (?:are|is){_WORDS}{{0,2}}? (?:tied|a tie|equal|equally|the same|identical){_END}"),
    re.compile(f"neither{_WORDS}{{0,4}}? is{_WORDS}{{0,2}}? better{_END}"),
]


def verdict(reply: str) -> float | None:
    """1 where a reply ends by calling A the better one, 0 for B, ½ for a tie; None where it says neither."""
    lines = reply.strip().splitlines()
    for sentence in reversed(re.split(r"(?<=[.!?])\s+", lines[-1]) if lines else []):
        if (found := _read(_plain(sentence))) is not None:
            return found
    return None


def letter(reply: str) -> float | None:
    """The same where the letter stands alone on the last line: even a reply that was cut off may end so."""
    lines = reply.strip().splitlines()
    return {"a": 1.0, "b": 0.0}.get(_plain(lines[-1]) if lines else "")


def _read(sentence: str) -> float | None:
    for form in _FOR:
        if found := form.fullmatch(sentence):
            return float(found[1] == "a")
    if found := _AGAINST.fullmatch(sentence):
        return float(found[1] == "b")
    return 0.5 if any(form.fullmatch(sentence) for form in _TIE) else None


def _plain(sentence: str) -> str:
    """In lower case, without marks of emphasis and punctuation."""
    return " ".join(re.sub(r"[^\w\s'=>-]|_|-(?!\w)", " ", sentence.replace("’", "'")).lower().split())
