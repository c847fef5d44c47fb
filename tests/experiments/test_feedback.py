"""Kinds of feedback: what hours buy, what becomes of each kind, and the command on tiny models."""

import json
from dataclasses import replace

import experimenting
import numpy as np
import pytest
import tiny

from rlhf_jax.config import ConfigError
from rlhf_jax.data.comparisons import comparisons_of_run
from rlhf_jax.data.mini import explanations
from rlhf_jax.data.mini.editor import revised
from rlhf_jax.data.mini.explanations import Explanation
from rlhf_jax.data.mini.judge import ideal
from rlhf_jax.data.mini.posts import posts
from rlhf_jax.data.record_json import read_comparisons, read_posts
from rlhf_jax.data.records import Comparison, Summary
from rlhf_jax.experiments import feedback_kinds as kinds
from rlhf_jax.experiments.feedback import TAUGHT, Purchase, main
from rlhf_jax.experiments.feedback_kinds import KINDS, PRICES, Material, prices_of
from rlhf_jax.experiments.findings_on_feedback import feedback
from rlhf_jax.inference import Network
from rlhf_jax.run import checkpoint
from rlhf_jax.run import workdir as runs

POSTS = posts(0, "train", 40)


def material(count: int = 40) -> Material:
    """Of each post its reference beside a policy's summary, which is an ideal one, unlabelled."""
    asked = [
        Comparison(
            replace(post, summary=""),
            (Summary(post.summary, "ref"), Summary(ideal(post), "sft")),
            1,
            "ana",
            "mini",
            "train",
            {"confidence": 8},
        )
        for post in POSTS[:count]
    ]
    return Material(asked, POSTS, seed=0)


def test_hours_buy_as_many_answers_as_fit():
    assert Purchase("comparison", 1.0, 240.0).answers == 15
    assert Purchase("demonstration", 1066, 390).answers == 9840
    assert Purchase("rating", 0.1, 120).answers == 3  # 360 seconds, of which floats make less
    assert Purchase("edit", 0.05, 270).answers == 0


def test_prices_are_the_sources_or_what_is_given():
    assert prices_of([]) == {name: price.seconds for name, price in PRICES.items()}
    given = prices_of(["comparison:30", "edit:90.5"])
    assert (given["comparison"], given["edit"], given["rating"]) == (30, 90.5, 195)
    assert {kind.price for kind in KINDS.values()} == set(PRICES)


@pytest.mark.parametrize("given", ["comparison", "comparison:", "comparison:0", "choice:30", "edit:inf"])
def test_a_price_that_is_none_is_refused(given):
    with pytest.raises(ConfigError, match=f"--seconds: '{given}' should be one of comparison, nine_point"):
        prices_of([given])


def test_comparisons_are_those_of_the_run():
    assert kinds.compared(material(), 3) == list(material().comparisons[:3])
    assert KINDS["nine_point"].ask(material(), 3) == kinds.compared(material(), 3)
    with pytest.raises(ConfigError, match=r"--budgets: .* 41 of what the run has 40 of"):
        kinds.compared(material(), 41)


def test_ratings_are_of_both_summaries_and_prefer_the_higher(monkeypatch):
    monkeypatch.setattr(kinds, "rate", lambda asked, seed: [2, 5, 4, 4, 6, 1][: len(asked)])
    found = kinds.rated(material(), 7)  # a seventh would be of half a pair
    assert [one.extra for one in found] == [{"ratings": [2, 5]}, {"ratings": [4, 4]}, {"ratings": [6, 1]}]
    assert [one.choice for one in found] == [1, 0, 0]
    assert [one.summaries for one in found] == [one.summaries for one in material().comparisons[:3]]


def test_demonstrations_are_of_all_posts_before_one_comes_again():
    found = kinds.demonstrated(material(), 50)
    assert {one.id for one in found[:40]} == {post.id for post in POSTS}
    own = {post.id: post.summary for post in POSTS}
    assert np.mean([one.summary == own[one.id] for one in found]) < 0.2  # hired authors write anew
    assert found[:10] == kinds.demonstrated(material(), 50)[:10]


def test_edits_are_preferred_to_what_a_policy_wrote():
    found, targets = kinds.edited(material(), 40), kinds.edit_targets(material(), 40)
    rng = np.random.default_rng([0, 3])
    texts = [revised(post, ideal(post), rng) for post in POSTS]
    assert [one.summary for one in targets] == texts
    changed = [(text, ideal(post)) for text, post in zip(texts, POSTS, strict=True) if text != ideal(post)]
    assert 0 < len(changed) < 40  # the editor leaves good ones as they are
    assert [tuple(one.text for one in pair.summaries) for pair in found] == changed
    assert {pair.choice for pair in found} == {0}


def test_explanations_prefer_the_summary_that_says_instead_what_they_say(monkeypatch):
    said = {1: Explanation("should", "question", "do")}
    texts = [ideal(post) for post in POSTS]
    monkeypatch.setattr(explanations, "explain", lambda post, text, rng: said.get(texts.index(text)))
    (found,) = kinds.explained(material(), 4)
    assert [one.text for one in found.summaries] == [texts[1].replace("should", "do"), texts[1]]
    assert (found.choice, found.extra, found.info.id) == (0, {"kind": "question"}, POSTS[1].id)


def test_summaries_of_policies_count_once():
    twice = Material([*material().comparisons, *material().comparisons], POSTS, seed=0)
    assert [summary.text for _, summary in twice.written] == [ideal(post) for post in POSTS]


ASKED = "--kinds=comparison,nine_point,rating,demonstration"
ARGUMENTS = [
    ASKED,
    "--budgets=16",
    "--posts=6",
    "--seconds=comparison:3600,nine_point:3600,rating:1800,demonstration:3600",
]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return experimenting.finished_run(tmp_path_factory.mktemp("feedback"))


@pytest.fixture(scope="module")
def figures(workdir):
    """Reward models and fine-tuning are real, policies of PPO random."""

    def save_policy(config, folder):
        experimenting.save(folder, "ppo", seed=len(str(folder)))

    with pytest.MonkeyPatch.context() as patch:
        tiny.stand_in(patch, "ppo", save_policy)
        assert main(["feedback", f"--workdir={workdir}", *ARGUMENTS]) == 0
        first = (workdir / "feedback.json").read_bytes()
        tiny.stand_in(patch, "reward", lambda config, folder: pytest.fail("trained again"))
        assert main(["feedback", f"--workdir={workdir}", *ARGUMENTS]) == 0
        assert (workdir / "feedback.json").read_bytes() == first
    return json.loads(first)


def test_every_kind_is_a_run_of_its_own_from_the_same_supervised_policy(workdir, figures):
    losses = {"comparison": "choice", "nine_point": "confidence", "rating": "ratings"}
    for kind, loss in losses.items():
        folder = workdir / "feedback" / f"{kind}_16"
        assert runs.read_config(folder).reward.loss == loss
        assert checkpoint.latest_step(folder / "checkpoints" / "reward") == 2  # 16 pairs in batches of 8
        theirs = [one for one in comparisons_of_run(experimenting.config(), workdir) if one.split != "train"]
        ours = list(read_comparisons(folder / "comparisons.jsonl"))
        assert [one for one in ours if one.split != "train"] == theirs
        assert sum(one.split == "train" for one in ours) == 16
    taught = workdir / "feedback" / "demonstration_16"
    assert checkpoint.latest_step(taught / "checkpoints" / TAUGHT) == 2
    assert checkpoint.latest_step(taught / "checkpoints" / "sft") == 5
    assert len(list(read_posts(taught / "demonstrations.jsonl"))) == 16


def test_figures_of_every_purchase(workdir, figures):
    assert figures["posts"] == 6 and set(figures["sft"]) == {"people", "gold judge"}
    assert figures["prices"]["rating"] == {"seconds": 1800, "source": "given"}
    assert figures["prices"]["edit"]["source"] == PRICES["edit"].source
    found = {one["kind"]: one for one in figures["points"]}
    assert {kind: one["answers"] for kind, one in found.items()} == {
        "comparison": 16,
        "nine_point": 16,
        "rating": 32,
        "demonstration": 16,
    }
    for kind, one in found.items():
        assert one["hours"] == 16 and set(one["preference"]) == {"people", "gold judge"}
        assert ("accuracy" in one) == (kind != "demonstration")
        for each in (one["preference"], one.get("accuracy", {})):
            assert all(0 <= share["low"] <= share["value"] <= share["high"] <= 1 for share in each.values())
        assert 0 < max(one["errors"].values()) == one["errors"]["any"] <= 1
    assert found["rating"]["pairs"] == 16 and found["rating"]["accuracy"]["people"]["pairs"] == 16
    assert (workdir / "feedback.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_of_findings_reads_them(figures):
    assert "| demonstration | 16 | 16 |" in feedback([figures]).body


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--kinds=comparison,vote"], "--kinds: 'vote' is none of comparison, nine_point"),
        (["--budgets=much"], "--budgets: 'much' should be numbers"),
        (
            ["--kinds=comparison", "--budgets=16", "--seconds=comparison:3601"],
            "its answers cost 3600.0 seconds",
        ),
        (
            ["--kinds=edit,comparison", "--budgets=17", "--seconds=comparison:3600,edit:3600"],
            "asks about 17 of",
        ),
        (["--nothing=1"], "nothing"),
    ],
)
def test_what_cannot_be_bought_is_told_in_one_line(workdir, figures, capsys, arguments, told):
    assert main(["rlhf-jax feedback", f"--workdir={workdir}", *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_a_run_on_anything_else_has_no_such_people(tmp_path, capsys):
    workdir = experimenting.finished_run(tmp_path)
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["source"] = "tldr"
    (workdir / "config.json").write_text(json.dumps(config))
    assert main(["rlhf-jax feedback", f"--workdir={workdir}"]) == 2
    assert "is a run on tldr" in capsys.readouterr().err


def test_writing_is_greedy(monkeypatch, workdir, figures):
    """Policies of all kinds are measured as evaluation measures them."""
    temperatures = []

    def write(self, records, temperature=0.0, seed=0):
        temperatures.append(temperature)
        return ["so much drama."] * len(records)

    monkeypatch.setattr(Network, "write", write)
    assert main(["feedback", f"--workdir={workdir}", *ARGUMENTS]) == 0
    assert temperatures == [0.0] * 5
