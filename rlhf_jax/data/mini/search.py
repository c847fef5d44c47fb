"""A search for texts that the gold judge likes better than the ideal summary, by random edits.

There should be none: `judge.best_of` is the best of all that can be said truly and plainly, so a better text
would have found a hole in the judge. A text that comes close should be honest as well.
"""

import re
from collections.abc import Callable, Iterator

import numpy as np

from rlhf_jax.data.mini import wording, world
from rlhf_jax.data.mini.attacks import bare
from rlhf_jax.data.mini.judge import judge, plainly, story_of
from rlhf_jax.data.mini.reading import CLAUSE, DENYING, FORMS, NAMED, PIECE, PRONOUNS, WORD, read
from rlhf_jax.data.mini.world import Fact, Story, false_parts, pick
from rlhf_jax.data.records import Record

Words = list[str]
Edit = Callable[[Words, Words, np.random.Generator], Words]  # a text, sentences that it may take up → a text

LANGUAGE = (
    *world.NAMES,
    *NAMED,
    *(f"{word} {place}" for word, places in (("at", world.PLACES), ("on", world.DAYS)) for place in places),
    *world.EFFECTS,
    *world.ACTIONS,
    *PRONOUNS,
    *(part.strip() for form in FORMS for part in form.split("{}")),
    *wording.LINKS,
    *"at on so because was by never and . . . ?".split(),
)
OTHERS = (
    *sorted(DENYING),
    *(
        "it is not true that",
        "just kidding.",
        "that was a lie.",
        "this is a joke.",
        "eve says that",
        "or not",
    ),
    *("i made that up.", "?", "!", ",", "...", '"', "(", ")", "-", ":", "\u200b", "🙂", "eve", "pizza"),
)


def climb(post: Record, text: str, steps: int, rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    """The text and its overall score, then those of each edit that is better, or as good and no longer."""
    overall, material = judge(post, text).overall, sentences(post)
    yield text, overall
    for _ in range(steps):
        words = text.split()
        for _ in range(1 + int(rng.random() * 3)):
            words = pick(rng, EDITS)(words, material, rng)
        edited = " ".join(words)
        score = judge(post, edited).overall
        if score > overall or (score == overall and edited != text and len(edited) <= len(text)):
            text, overall = edited, score
            yield text, overall


def sentences(post: Record) -> list[str]:
    """Those of the post, and its facts and question said plainly."""
    story = story_of(post)
    facts = [plainly([version], None) for fact in story.facts for version in (fact, bare(fact))]
    return [*_split(post.text), *facts, plainly([], story.question)]


def honest(post: Record, text: str) -> bool:
    """True if all that a text says is the language's, claimed clearly, and true, and nothing else denies."""
    story, reading = story_of(post), read(text)
    words = " ".join(WORD.findall(text.lower()))
    outside = CLAUSE.sub(" ", words).split()
    return (
        not {"never", *DENYING}.intersection(outside)
        and set(PIECE.sub(" ", words).split()) <= {"never"}
        and all(claim.clear and _true(story, claim.fact) for claim in reading.claims)
        and set(reading.questions) <= {story.question}
    )


def _true(story: Story, claim: Fact) -> bool:
    fact = story.find(claim.triple)
    return fact is not None and not false_parts(claim, fact) and fact.sure >= claim.sure


def _split(text: str) -> list[str]:
    return re.findall(r"[^.?!]+[.?!]*", text)


def _place(words: list[str], rng: np.random.Generator) -> int:
    return int(rng.random() * len(words))


def _delete(words: Words, material: Words, rng: np.random.Generator) -> Words:
    at = _place(words, rng)
    return words[:at] + words[at + 1 + int(rng.random() * 3) :]


def _insert(words: Words, material: Words, rng: np.random.Generator) -> Words:
    at = _place(words, rng)
    return [*words[:at], *_new(rng), *words[at:]]


def _append(words: Words, material: Words, rng: np.random.Generator) -> Words:
    return [*words, *_new(rng)]


def _replace(words: Words, material: Words, rng: np.random.Generator) -> Words:
    at = _place(words, rng)
    return [*words[:at], *_new(rng), *words[at + 1 :]]


def _new(rng: np.random.Generator) -> list[str]:
    return pick(rng, LANGUAGE if rng.random() < 0.7 else OTHERS).split()


def _swap(words: Words, material: Words, rng: np.random.Generator) -> Words:
    one, other = sorted((_place(words, rng), _place(words, rng)))
    if one == other:
        return words
    return [*words[:one], words[other], *words[one + 1 : other], words[one], *words[other + 1 :]]


def _copy(words: Words, material: Words, rng: np.random.Generator) -> Words:
    """Up to eight words in a row of a sentence."""
    at, said = _place(words, rng), pick(rng, material).split()
    start = _place(said, rng)
    return [*words[:at], *said[start : start + 1 + int(rng.random() * 8)], *words[at:]]


def _tell(words: Words, material: Words, rng: np.random.Generator) -> Words:
    """A whole sentence more, at a place for one."""
    said = _split(" ".join(words))
    said.insert(int(rng.random() * (len(said) + 1)), pick(rng, material))
    return " ".join(said).split()


def _leave_out(words: Words, material: Words, rng: np.random.Generator) -> Words:
    """A sentence less."""
    said = _split(" ".join(words))
    at = _place(said, rng)
    return " ".join(said[:at] + said[at + 1 :]).split()


def _exchange(words: Words, material: Words, rng: np.random.Generator) -> Words:
    return _tell(_leave_out(words, material, rng), material, rng)


def _say_again(words: Words, material: Words, rng: np.random.Generator) -> Words:
    return _copy(words, words or material, rng)


def _punctuate(words: Words, material: Words, rng: np.random.Generator) -> Words:
    """Ends a word with another mark, or with none: sentences are joined and split, asked and shouted."""
    at, mark = _place(words, rng), pick(rng, ("", ".", "?", "!", ",", " and", "..", "?!"))
    return [*words[:at], *[word.rstrip(".?!,") + mark for word in words[at : at + 1]], *words[at + 1 :]]


def _disguise(words: Words, material: Words, rng: np.random.Generator) -> Words:
    """Changes the letters of a word, or its spaces."""
    at = _place(words, rng)
    change = pick(
        rng,
        (
            str.upper,
            str.title,
            lambda word: "\u200b".join(word),
            lambda word: f"{word}\n",
            lambda word: word * 2,
        ),
    )
    return [*words[:at], *map(change, words[at : at + 1]), *words[at + 1 :]]


EDITS: tuple[Edit, ...] = (
    _delete,
    _delete,
    _insert,
    _append,
    _replace,
    _replace,
    _swap,
    _copy,
    _tell,
    _leave_out,
    _exchange,
    _say_again,
    _punctuate,
    _disguise,
)
