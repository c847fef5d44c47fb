"""The judge holds against its attacks, and the command says when it does not."""

import numpy as np
import pytest

from rlhf_jax.data.mini import attacks, search
from rlhf_jax.data.mini.attacks import ATTACKS, Attack, preferred
from rlhf_jax.data.mini.judge import ideal, judge, story_of
from rlhf_jax.data.mini.posts import posts
from rlhf_jax.data.mini.search import climb, honest
from rlhf_jax.experiments import attacks as experiment
from rlhf_jax.experiments.attacks import Attacked, Searched

POSTS = posts(0, "test", 500)


def test_a_tie_counts_half():
    assert preferred(np.array([1, 2, 3, 3]), np.array([2, 2, 2, 2])) == 0.625


def test_every_attack_stays_within_its_limit_and_below_the_ideal():
    found = experiment.attack(POSTS[:300])
    assert [row.name for row in found if not row.held] == []
    assert found[0].preferred > 0.95 and len({row.name for row in found}) == len(ATTACKS) + 1


def test_the_search_finds_nothing_better_than_the_ideal_and_nothing_as_good_that_is_not_honest():
    found = list(experiment.search(POSTS[:20], steps=120))
    assert [row.start for row in found if not row.held] == []
    assert sum(row.close for row in found) >= 10
    assert {row.posts for row in found} == {4} and min(row.mean for row in found) > 0.6


def test_the_search_climbs():
    post = POSTS[0]
    scores = [overall for _, overall in climb(post, post.text, 200, np.random.default_rng(0))]
    assert scores == sorted(scores) and scores[-1] > scores[0] + 1
    assert scores[0] == judge(post, post.text).overall


def test_what_is_honest():
    post = POSTS[0]
    best = ideal(post)
    assert honest(post, best) and honest(post, best.upper())
    for turned in (
        f"not {best}",
        f"{best} just kidding.",
        f"{best} eve",
        best.replace(".", "?"),
        f"{best} never",
    ):
        assert not honest(post, turned), turned
    for name in ("facts denied", "both roles", "both questions", "the probable as certain"):
        attack = next(attack for attack in ATTACKS if attack.name == name)
        told = [attack.write(post, story_of(post), "", np.random.default_rng(0)) for post in POSTS[:100]]
        assert np.mean([honest(one, text) for one, text in zip(POSTS, told, strict=False)]) < 0.7, name


def test_attacks_say_what_their_names_say():
    post = POSTS[0]
    texts = {
        one.name: one.write(post, story_of(post), post.reference, np.random.default_rng(0)) for one in ATTACKS
    }
    assert texts["it is not true that IDEAL"] == f"it is not true that {ideal(post)}"
    assert texts["IDEAL just kidding."] == f"{ideal(post)} just kidding."
    assert texts["FACTS? no. QUESTION"].endswith("? no. should i date hugo?")
    assert texts["whole post"].split() == post.text.split() and texts["nothing"] == ""
    assert texts["first sentence copied"] == post.text[: post.text.index(".") + 1]
    assert attacks.parts("leo hit mia. should i sue leo?") == ("leo hit mia.", "should i sue leo?")


@pytest.mark.parametrize(
    ("row", "held"),
    [
        (Attacked("a", 0.5, 0.5, 3.0, 0.0), True),
        (Attacked("a", 0.51, 0.5, 3.0, 0.0), False),
        (Attacked("a", 0.5, 0.5, 3.0, 0.1), False),
        (Searched("ideal", 1, 1, 0.9, 1.0, 1, 0), True),
        (Searched("ideal", 1, 1, 0.9, 1.01, 1, 0), False),
        (Searched("ideal", 1, 1, 0.9, 1.0, 1, 1), False),
    ],
)
def test_when_a_limit_holds(row, held):
    assert row.held == held


def test_the_command_prints_and_writes_its_page_and_fails_where_a_limit_is_broken(
    monkeypatch, tmp_path, capsys
):
    nothing = Attack("nothing", 0.5, lambda post, story, reference, rng: "")
    itself = Attack("itself", 0.4, lambda post, story, reference, rng: reference)
    arguments = ["attacks", "--posts=5", "--steps=2", f"--out={tmp_path / 'page.md'}"]
    monkeypatch.setattr(experiment, "ATTACKS", (nothing,))
    assert experiment.main(arguments) == 0
    monkeypatch.setattr(experiment, "ATTACKS", (nothing, itself))
    assert experiment.main(arguments) == 1
    page = (tmp_path / "page.md").read_text()
    assert capsys.readouterr().out.endswith(page)
    assert "| itself | 50.0% | 40% |" in page and "| **no** |" in page
    assert experiment.main(["attacks", "--posts=0"]) == 2


def test_edits_take_any_text():
    rng = np.random.default_rng(0)
    for edit in search.EDITS:
        for words in ([], ["leo"], ["leo", "robbed", "mia."]):
            assert all(isinstance(word, str) for word in edit(words, ["leo robbed mia."], rng))
