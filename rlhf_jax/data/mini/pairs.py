"""Pairs of summaries of one post, to be labelled.

Most pairs have the same form and differ in what they say: which fact, who did it to whom,
one name or verb, the cause, the question. The rest compares forms: references, samples of
a policy, and texts that only an optimizer would write. Form alone would betray the better
one in those, so pairs are thinned: a logistic regression on form predicts the winner, and
a pair is kept the likelier the less its winner was to be expected.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax.data.mini import world
from rlhf_jax.data.mini.judge import edited, judge, read_post, read_summary
from rlhf_jax.data.mini.world import Fact, Question, Story, falsify, other_question, pick, pick_weighted
from rlhf_jax.data.records import Record

MIN_GAP = 0.6  # in the judge's overall score; nothing is learned from closer pairs
SAME_FORM = 0.64  # of the candidates, and about three quarters of what is kept
CANDIDATES = 1.6  # drawn for each pair kept
LEAST_KEPT = 0.4  # of the most predictable pairs

# {a}, {b}, {c}: facts; {r}: a fact given as the reason; {q}: a question.
FORMS = {
    "{a}.": 0.12,
    "{a}. {q}": 0.22,
    "basically {a}. {q}": 0.03,
    "{a} and {b}.": 0.07,
    "{a} and {b}. {q}": 0.12,
    "{a} because {r}.": 0.12,
    "{a} because {r}. {q}": 0.27,
    "{a} and {b} and then {c}.": 0.03,
    "{q}": 0.02,
}
REPEATING = ("{a}. {a}.", "{a}. {a}. {q}", "{a} because {a}. {q}", "{a}. {q} {q}", "{a} and {a} and {a}.")
CHANGES = {"other": 0.40, "roles": 0.26, "person": 0.14, "verb": 0.14, "place": 0.06}
SOURCES = {"form": 0.45, "ref": 0.15, "edited": 0.10, "strange": 0.30}
STRANGE = {"repeating": 2, **dict.fromkeys("unfinished cut salad copied joking vague endless".split(), 1)}


class Unlabelled(NamedTuple):
    """Two summaries of a post and the policies that wrote them."""

    post: Record
    text_a: str
    text_b: str
    policy_a: str
    policy_b: str


def pairs(
    posts: Sequence[Record],
    count: int,
    seed: int,
    sampled: dict[str, list[tuple[str, str]]] | None = None,
) -> list[Unlabelled]:
    """`count` pairs, spread evenly over `posts`, in random order.

    `sampled` maps the id of a post to (text, policy) of summaries that policies wrote; where
    it has any, they stand for half of the texts that are not filled-in forms.
    """
    rng = np.random.default_rng([seed, len(posts)])
    order = rng.permutation(len(posts))
    candidates: list[Unlabelled] = []
    gaps: list[float] = []
    while len(candidates) < CANDIDATES * count:
        post = posts[order[len(candidates) % len(posts)]]
        pair = _candidate(post, (sampled or {}).get(post.id, []), rng)
        gap = judge(post, pair.text_a).overall - judge(post, pair.text_b).overall
        if abs(gap) >= MIN_GAP:
            candidates.append(pair)
            gaps.append(gap)
    surprise = 1 - _expected(candidates, np.array(gaps))
    keep = rng.random(len(candidates)) < np.maximum(2 * surprise, LEAST_KEPT)
    kept = [candidates[i] for i in rng.permutation(np.flatnonzero(keep))]
    return kept[:count]


def _candidate(post: Record, sampled: Sequence[tuple[str, str]], rng: np.random.Generator) -> Unlabelled:
    story = read_post(post.text)
    assert story is not None
    if rng.random() >= SAME_FORM:
        if rng.random() < 0.4:  # the same said in two forms: what a part adds
            said = _draw(story, rng)
            form_a, form_b = pick_weighted(rng, FORMS), pick_weighted(rng, FORMS)
            return Unlabelled(post, form_a.format(**said), form_b.format(**said), "mini", "mini")
        (text_a, policy_a), (text_b, policy_b) = (_any_text(post, story, sampled, rng) for _ in range(2))
        return Unlabelled(post, text_a, text_b, policy_a, policy_b)
    if rng.random() < 0.4:
        form = pick_weighted(rng, FORMS)
        return Unlabelled(post, _fill(form, story, rng), _fill(form, story, rng), "mini", "mini")
    text, policy = _any_text(post, story, sampled, rng)
    altered = _alter(text, story, rng)
    if rng.random() < 0.5:
        return Unlabelled(post, text, altered, policy, "altered")
    return Unlabelled(post, altered, text, "altered", policy)


def _any_text(
    post: Record, story: Story, sampled: Sequence[tuple[str, str]], rng: np.random.Generator
) -> tuple[str, str]:
    """A summary from one of the sources, and the name of its policy."""
    if sampled and rng.random() < 0.5:
        return pick(rng, sampled)
    source = pick_weighted(rng, SOURCES)
    if source == "ref":
        return post.reference, "ref"
    if source == "edited":
        return edited(post, rng), "edited"
    if source == "strange":
        return _strange(post, story, rng), "strange"
    return _fill(pick_weighted(rng, FORMS), story, rng), "mini"


def _fill(form: str, story: Story, rng: np.random.Generator) -> str:
    return form.format(**_draw(story, rng))


def _draw(story: Story, rng: np.random.Generator) -> dict[str, Fact | Question]:
    """Facts and a question for the slots of a form: of the story, or in some cases false."""
    minor = 0.4 / len(story.background)
    first = {i: {story.key: 0.5, story.cause: 0.1}.get(i, minor) for i in range(len(story.facts))}
    a = pick_weighted(rng, first)
    b, c = (int(i) for i in rng.permutation([i for i in first if i != a])[:2])
    r = story.cause if a != story.cause and rng.random() < 0.6 else b
    facts = [story.facts[i] for i in (a, b, c, r)]
    facts = [_falsified(fact, story, rng) if rng.random() < 0.12 else fact for fact in facts]
    question = story.question if rng.random() < 0.75 else other_question(story, rng)
    return dict(zip("abcrq", (*facts, question), strict=True))


def _alter(text: str, story: Story, rng: np.random.Generator) -> str:
    """The text with one of its claims exchanged for another."""
    reading = read_summary(text)
    claims = [*reading.facts, *reading.questions]
    if not claims:
        return text
    claim = pick(rng, claims)
    new: Fact | Question
    if not isinstance(claim, Fact):
        new = other_question(story, rng) if claim == story.question else story.question
    elif rng.random() < CHANGES["other"]:
        new = pick(rng, [fact for fact in story.facts if fact not in claims] or [claim])
    else:
        new = _falsified(claim, story, rng)
    return text.replace(str(claim), str(new), 1)


def _falsified(fact: Fact, story: Story, rng: np.random.Generator) -> Fact:
    kinds = {kind: weight for kind, weight in CHANGES.items() if kind != "other"}
    if not fact.place:
        del kinds["place"]  # a place alone would betray the false fact
    return falsify(story, fact, pick_weighted(rng, kinds), rng)


def _strange(post: Record, story: Story, rng: np.random.Generator) -> str:
    """What no careful author writes, but an optimizer might."""
    kind = pick_weighted(rng, STRANGE)
    if kind == "repeating":
        return _fill(pick(rng, REPEATING), story, rng)
    if kind == "joking":
        jokes = f"{pick(rng, world.JOKES)}.", f"{pick(rng, world.JOKES)}. {story.question}"
        return pick(rng, (*jokes, f"{story.facts[0]} lol."))
    if kind == "vague":
        return f"need advice about {pick(rng, story.people)}."
    if kind == "copied":
        return " ".join(post.text.split()[: int(rng.integers(4, 18))])
    if kind == "endless":
        facts = [story.facts[i] for i in rng.permutation(len(story.facts))]
        return " ".join(" and ".join(map(str, facts)).split()[: int(rng.integers(12, 20))])
    words = _fill(pick_weighted(rng, FORMS), story, rng).split()
    if kind == "salad":
        return " ".join(words[i] for i in rng.permutation(len(words)))
    if kind == "cut":
        return " ".join(words[: int(rng.integers(1, len(words)))])
    return " ".join(words).rstrip(".?")


def _expected(candidates: Sequence[Unlabelled], gaps: np.ndarray, ridge: float = 1.0) -> np.ndarray:
    """Probability of each pair's winner by a logistic regression on the forms of the two texts."""
    forms = [(_form(pair.text_a), _form(pair.text_b)) for pair in candidates]
    kinds = {kind: i for i, kind in enumerate(sorted({kind for pair in forms for kind, _ in pair}))}
    x = np.zeros((len(forms), len(kinds) + 2))
    for row, ((kind_a, size_a), (kind_b, size_b)) in zip(x, forms, strict=True):
        row[kinds[kind_a]] += 1
        row[kinds[kind_b]] -= 1
        row[-2:] = np.subtract(size_a, size_b)
    won, w = gaps > 0, np.zeros(x.shape[1])
    for _ in range(12):
        p = 1 / (1 + np.exp(-x @ w))
        hessian = (x.T * (p * (1 - p))) @ x + ridge * np.eye(len(w))
        w += np.linalg.solve(hessian, x.T @ (won - p) - ridge * w)
    p = 1 / (1 + np.exp(-x @ w))
    return np.where(won, p, 1 - p)


def _form(text: str) -> tuple[tuple[int, ...], tuple[float, float]]:
    """The form of a text: a kind, and (words, places), without what it says."""
    reading = read_summary(text)
    claims = [*reading.facts, *reading.questions]
    kind = (
        len(reading.facts),
        len(reading.questions),
        len(reading.reasons),
        min(reading.stray, 4),
        len(claims) - len(set(claims)),
        reading.finished,
    )
    return kind, (reading.words / 10, sum(fact.place != "" for fact in reading.facts))
