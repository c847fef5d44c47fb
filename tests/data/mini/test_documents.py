import numpy as np
import pytest

from rlhf_jax.data.mini.documents import (
    COURSE,
    KINDS,
    POSTS,
    STORY_WEIGHT,
    claims_of,
    document,
    documents,
    draw_claim,
)
from rlhf_jax.data.mini.posts import write_post
from rlhf_jax.data.mini.reading import read
from rlhf_jax.data.mini.wording import Writer
from rlhf_jax.data.mini.world import split_of


def of_kind(kind, count=60, lesson=POSTS):
    lesson = lesson._replace(kinds={kind: 1.0})
    return [document(lesson, np.random.default_rng(i)).spans for i in range(count)]


def told(spans):
    """The story of a document, from what stands before the comment."""
    said = spans[0][0]
    return read(said[said.find("POST:") + 5 :].removesuffix("COMMENT:") if "POST:" in said else said)


def test_a_document_depends_on_seed_place_and_length_of_the_course():
    some = list(documents(0, 10, 20, 100))
    assert list(documents(0, 0, 20, 100))[10:] == some
    assert list(documents(1, 10, 20, 100)) != some
    assert next(documents(0, 50, 51, 100)) != next(documents(0, 50, 51, 1_000_000))  # another lesson


def test_lessons_follow_each_other_and_the_last_ends_the_course():
    ends = [until for until, _ in COURSE]
    assert ends == sorted(ends) and ends[-1] == 1.0
    for lesson in {id(lesson): lesson for _, lessons in COURSE for lesson in lessons}.values():
        assert sum(lesson.kinds.values()) == pytest.approx(1)
        assert sum(lesson.facts.values()) == pytest.approx(1)


def test_a_lesson_of_one_kind_of_change_has_no_other():
    lesson = POSTS._replace(posts=0.0, changes=[["denied"]])
    for spans in of_kind("check", 40, lesson):
        for (claim, _), (verdict, _) in zip(spans[1::2], spans[2::2], strict=True):
            fact = read(claim).facts[0]
            about = next(known for known in told(spans).facts if known.triple == fact.triple)
            assert (verdict == " true.") == (fact.denied == about.denied)


def test_what_is_put_in_comes_from_the_story_as_often_as_asked():
    for within, least, most in ((1.0, 1.0, 1.0), (0.0, 0.0, 0.4)):  # by chance a name from outside is inside
        lesson = POSTS._replace(posts=0.0, changes=[["object"]], within=within, facts={5: 1.0})
        found = []
        for spans in of_kind("check", 60, lesson):
            people = {person for fact in told(spans).facts for person in fact.people}
            false = [
                claim
                for (claim, _), (verdict, _) in zip(spans[1::2], spans[2::2], strict=True)
                if "f" in verdict
            ]
            found += [read(claim).facts[0].object in people for claim in false]
        assert least <= np.mean(found) <= most


def test_only_what_happened_weighs_little():
    for spans in of_kind("restate"):
        assert [weight for _, weight in spans] == [STORY_WEIGHT, 1.0]
    for spans in of_kind("check"):
        assert {text for text, weight in spans if weight == 1.0} <= {" true.", " false."}


def test_people_of_documents_meet_in_training_alone():
    for spans in of_kind("restate"):
        people = {person for fact in told(spans).facts for person in fact.people}
        if len(people) == 4:
            assert split_of(sorted(people)) == "train"


def test_restated_facts_are_those_of_the_post():
    for spans in of_kind("restate"):
        assert {fact.triple for fact in read(spans[1][0]).facts} == {
            fact.triple for fact in told(spans).facts
        }


def test_verdicts_are_right():
    seen = set()
    for spans in of_kind("check", 100):
        reading = told(spans)
        known = {fact.triple: fact for fact in reversed(reading.facts)}  # told again, it has no effect
        for (claim, _), (verdict, _) in zip(spans[1::2], spans[2::2], strict=True):
            said = read(claim)
            if said.questions:
                right = said.questions[0] in reading.questions
            else:
                (fact,) = said.facts
                about = known.get(fact.triple)
                right = about is not None and fact.denied == about.denied
                right = right and fact.place in ("", about.place) and fact.day in ("", about.day)
                right = right and (
                    not fact.effect or (fact.effect, fact.affected) == (about.effect, about.affected)
                )
            assert verdict == (" true." if right else " false.")
            seen.add(right)
    assert seen == {True, False}


def test_a_slip_is_put_right_at_the_next_word():
    slips = 0
    for spans in of_kind("slips"):
        words = spans[1][0].replace(".", " .").replace("?", " ?").split()
        right = [word for i, word in enumerate(words) if word != "no" and words[i + 1 : i + 2] != ["no"]]
        slips += words.count("no")
        text = " ".join(right).replace(" .", ".").replace(" ?", "?")
        known = {fact.triple for fact in told(spans).facts}
        assert {fact.triple for fact in read(text).facts} <= known
        assert set(read(text).questions) <= set(told(spans).questions)
    assert slips > 60


def test_an_answer_is_the_missing_word():
    for spans in of_kind("answer"):
        for (asked, _), (answer, _) in zip(spans[1::2], spans[2::2], strict=True):
            word = answer.strip(" .")
            holes = {"who", "did", "where", "when"}
            filled = " ".join(word if one in holes else one for one in asked.rstrip("?").split())
            (fact,) = read(f"{filled}.").facts
            assert fact.triple in {known.triple for known in told(spans).facts}


@pytest.mark.parametrize("kind", KINDS)
def test_a_statement_and_its_change_differ_in_what_they_claim(kind):
    rng, found = np.random.default_rng(0), 0
    while found < 40:
        post, story = write_post(rng, "train", "")
        if claims := claims_of(story, Writer(rng, pronouns=0.0), kind):
            true, false = map(read, claims)
            found += 1
            if kind == "question":
                assert true.questions == (story.question,) != false.questions
            else:
                assert story.holds(true.facts[0]) and not story.holds(false.facts[0])


def test_a_fact_without_the_part_has_no_claim_of_its_kind():
    rng = np.random.default_rng(0)
    _, story = write_post(rng, "train", "")
    bare = story.__class__(tuple(fact.__class__(*fact.triple) for fact in story.facts), story.question)
    assert draw_claim(bare, rng, "place") is None and draw_claim(bare, rng, "effect") is None
