"""Stories: what weighs how much, and what is false."""

from dataclasses import replace

import numpy as np
import pytest

from rlhf_jax.data.mini import world
from rlhf_jax.data.mini.world import CHANGES, DEEDS, SPLITS, Fact, Question, Story, falsify, split_of

ROBBED = Fact("leo", "robbed", "mia", place="work", effect="fled", affected="mia")
HIT = Fact("ben", "hit", "leo", day="monday")
MOCKED = Fact("mia", "mocked", "ben", sure=False)
HIRED = Fact("ben", "hired", "mia", denied=True)
STORY = Story((HIRED, MOCKED, HIT, ROBBED), Question("sue", "leo"), titled="ben", repeated=frozenset({2}))


def many(count=200, split="train"):
    return [world.tell(np.random.default_rng(i), split, {4: 1, 5: 1}) for i in range(count)]


def test_weights_computed_by_hand():
    # Denied 0.5, probable 0.7, grave 3; the asked does 2.5 or suffers 1.5; in the title 1.5; told twice 2.5.
    assert STORY.weights == pytest.approx((0.5 * 1.5, 0.7 * 1.5, 1.5 * 1.5 * 2.5, 3 * 2.5))
    assert STORY.ranked == (3, 2, 1, 0) and STORY.key_fact == ROBBED
    mild, slight = (replace(STORY, facts=(replace(ROBBED, effect=word),)) for word in ("cried", "yawned"))
    assert mild.weights + slight.weights == pytest.approx((1.7 * 2.5, 0.7 * 2.5))


def test_of_equal_facts_the_earlier_ranks_first():
    twins = Story((Fact("ben", "hit", "mia"), Fact("mia", "hit", "ben")), Question("sue", "leo"))
    assert twins.ranked == (0, 1)


def test_a_claim_may_leave_out_but_not_alter():
    assert (
        STORY.holds(ROBBED)
        and STORY.holds(Fact("leo", "robbed", "mia"))
        and STORY.holds(replace(MOCKED, sure=True))
    )
    for part, other in {
        "place": "home",
        "day": "monday",
        "effect": "quit",
        "affected": "leo",
        "denied": True,
    }.items():
        assert not STORY.holds(replace(ROBBED, **{part: other})), part
    assert not STORY.holds(Fact("mia", "robbed", "leo"))


def test_each_cast_belongs_to_one_split_whatever_the_order():
    told = {
        split: {frozenset(story.people) for story in many(100, split) if len(story.people) == 4}
        for split in SPLITS
    }
    assert not told["train"] & told["valid"] and not told["train"] & told["test"]
    assert not told["valid"] & told["test"] and all(len(casts) > 50 for casts in told.values())
    assert split_of(["leo", "mia", "ben", "cora"]) == split_of(["cora", "ben", "mia", "leo"])


def test_the_facts_of_a_story_share_their_words_and_no_two_are_the_same():
    for story in many():
        assert len({fact.triple for fact in story.facts}) == len(story.facts) in (4, 5)
        for part in ("deed", "place", "day"):
            assert len({getattr(fact, part) for fact in story.facts} - {""}) <= world.SHARED
        assert len(story.people) <= world.CAST and story.question.person in story.people
        assert all(story.facts[i].sure and not story.facts[i].denied for i in story.repeated)
        assert all(fact.affected in (("",) if not fact.effect else fact.people) for fact in story.facts)


@pytest.mark.parametrize("kind", CHANGES)
def test_what_is_falsified_is_no_statement_of_the_story(kind):
    changed = {"roles": {"subject", "object"}, "denied": {"denied", "effect", "affected"}}
    changed |= {
        "subject": {"subject", "affected"},
        "object": {"object", "affected"},
        "effect": {"effect", "affected"},
    }
    found = 0
    for i, story in enumerate(many()):
        for fact in story.facts:
            false = falsify(story, fact, kind, np.random.default_rng(i))
            if false is None:
                assert kind in ("place", "day", "effect", "roles")
                continue
            found += 1
            differing = {name for name in vars(fact) if getattr(fact, name) != getattr(false, name)}
            assert not story.holds(false)
            assert kind in differing or kind == "roles" or differing == {"affected"}
            assert differing <= changed.get(kind, {kind})
    assert found > 300


def test_another_question_is_about_someone_of_the_story():
    for i, story in enumerate(many(50)):
        other = world.other_question(story, np.random.default_rng(i))
        assert other != story.question and other.person in story.people
        assert (other.person == story.question.person) != (other.action == story.question.action)


def test_no_word_has_two_meanings():
    kinds = (world.NAMES, [*DEEDS, *DEEDS.values()], world.PLACES, world.DAYS, world.EFFECTS, world.ACTIONS)
    words = [word for kind in kinds for word in kind]
    assert len(set(words)) == len(words)


def test_draws_follow_their_weights():
    rng = np.random.default_rng(0)
    drawn = [world.pick_weighted(rng, {"a": 3, "b": 1, "c": 0}) for _ in range(2000)]
    assert drawn.count("a") / 2000 == pytest.approx(0.75, abs=0.03) and "c" not in drawn
