"""Stage eval on an invented data set with networks of random weights, and its figures computed by hand."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from rlhf_jax.config import Config, ModelConfig
from rlhf_jax.data import task as tasks
from rlhf_jax.data.comparisons import Pair
from rlhf_jax.data.mini import posts as mini
from rlhf_jax.data.mini.errors import KINDS
from rlhf_jax.data.mini.judge import ideal, judge
from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.data.records import Comparison, Post, Summary
from rlhf_jax.data.tasks.mini import Mini, rate
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.evaluation import judges, policies
from rlhf_jax.files import write_text
from rlhf_jax.inference import Network
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import heads, pretrained, transformer
from rlhf_jax.pipeline import evaluate, stages
from rlhf_jax.run import checkpoint
from rlhf_jax.run.checkpoint import CheckpointError
from rlhf_jax.run.workdir import open_workdir, record_stage
from rlhf_jax.validation import validate

MODEL = ModelConfig(width=16, layers=1, heads=2, positions="rotary")
FREE = ("reference", "title", "lead")
BIGGER = dataclasses.replace(MODEL, width=32)
POLICIES = ("reference", "title", "lead", "base", "sft", "sft_10x", "ppo", "best_of_2")
PPO = [
    {
        "step": i,
        "objective/kl": 0.1 * i,
        "objective/score": -1 + 0.1 * i,
        "objective/entropy": 10.0 - i,
        "objective/eos_rate": 0.5,
        "episodes": 8 * (i + 1),
        "episodes_per_second": 100.0 if i else 1.0,  # the first iteration compiles
    }
    for i in range(20)
]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    data = tiny.write_data(folder)
    write_jsonl(folder / "comparisons" / "valid2.json", tiny.comparisons("valid2", 11, 4))
    tokenizer = tasks.find(data, 0).make_tokenizer(tiny.posts(40, 0), None)
    for name, model in {"base": MODEL, "bigger": BIGGER}.items():
        weights = tiny.parameters(transformer.specs(model, tokenizer.vocab_size), seed=9)
        pretrained.save(folder / name, weights, model)
        tokenizer.save(folder / name)
    config = tiny.run_config(data)
    config.model.pretrained, config.sft.bigger_pretrained = str(folder / "base"), str(folder / "bigger")
    config.eval.best_of, config.eval.shots = 2, 1
    return validate(config)


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    """A run whose earlier stages left random networks."""
    workdir = open_workdir(tmp_path_factory.mktemp("run"), config)
    tokenizer = tasks.find(config.data, 0).make_tokenizer(tiny.posts(40, 0), None)
    tokenizer.save(workdir)
    specs = {
        "sft": transformer.specs(MODEL, tokenizer.vocab_size),
        "sft_10x": transformer.specs(BIGGER, tokenizer.vocab_size),
        "reward": heads.specs(MODEL, tokenizer.vocab_size),
        "ppo": transformer.specs(MODEL, tokenizer.vocab_size),
    }
    with jax.set_mesh(make_mesh(config.mesh)):
        for seed, name in enumerate(specs):
            weights = tiny.parameters(specs[name], seed)
            folder = workdir / "checkpoints" / name
            checkpoint.save(folder, 1, params=weights, rest={"step": jnp.int32(1)}, meta={})
    write_text(workdir / "metrics" / "ppo.jsonl", "".join(json.dumps(record) + "\n" for record in PPO))
    for stage, seconds in {"sft": 3.0, "reward": 2.0, "ppo": 5.0, "eval": 0.0}.items():
        record_stage(workdir, stage, seconds, **stages.find(stage).about(Config()))
    evaluate.run(config, workdir)
    return workdir


def link(workdir, folder, *names):
    """Makes `folder` a run that has the tokenizer, the reward model and the files named of another."""
    for name in ("tokenizer.model", "checkpoints/reward", *names):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(workdir / name)


@pytest.fixture(scope="module")
def results(workdir):
    return json.loads((workdir / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def samples(workdir):
    return [json.loads(line) for line in (workdir / "samples" / "test.jsonl").open(encoding="utf-8")]


def test_results_have_the_fields_that_others_read(results):
    rates = results["preference_over_reference"]
    assert tuple(rates) == POLICIES[1:]
    assert all(rate.keys() == {"rate", "stderr", "low", "high"} for rate in rates.values())
    assert tuple(results["policies"]) == POLICIES
    for name, figures in results["policies"].items():
        at_equal_length = figures["preference_at_equal_length"]
        baseline = name in FREE
        assert at_equal_length is None if baseline else 0 <= at_equal_length["value"] <= 1
    figures = results["reward_model"]
    assert all(0 <= figures[name] <= 1 for name in ("valid_accuracy", "blind_accuracy"))
    assert figures["gold_accuracy"] is None  # no gold judge has read real posts
    assert {"kl", "score_start", "score_end", "episodes", "episodes_per_second"} <= results["ppo"].keys()


def test_of_real_texts_nothing_is_told_that_nobody_knows(results):
    assert results["people"] == "people" and "people_over_reference" not in results
    assert results["reward_model"]["by_change"] == {}
    for figures in results["policies"].values():
        assert figures["diversity"].keys() == {"distinct", "distinct_share"} and "errors" not in figures


def test_each_network_is_asked_how_likely_the_references_are(config, results, samples, workdir):
    nats = {name: figures.get("reference_nats") for name, figures in results["policies"].items()}
    assert [name for name, value in nats.items() if value] == ["base", "sft", "sft_10x", "ppo"]
    tokenizer = load_tokenizer(workdir)
    posts = [Post(**sample["post"]) for sample in samples]
    weights = tiny.parameters(transformer.specs(MODEL, tokenizer.vocab_size), seed=3)  # those of ppo above
    network = Network(weights, MODEL, tokenizer, Tldr(config.data))
    with jax.set_mesh(make_mesh(config.mesh)):
        likelihood = network.log_likelihood(posts, [post.summary for post in posts])
    sums = tiny.additions(MODEL, config.data.query_tokens + config.data.response_tokens)
    tiny.assert_close(nats["ppo"], -likelihood.mean(), sums)


def test_without_test_split_valid_stands_in_and_that_is_said(results):
    assert results["split"] == "valid" and results["posts"] == 8
    assert results["notes"] == [
        "There is no test split: the valid split stands in for it.",
        "Only 8 of 500 posts asked for are there.",
    ]


def test_the_reward_model_is_judged_on_pairs_that_did_not_select_it(results):
    assert results["reward_model"]["pairs"] == 11  # of valid2; valid1 has 8


def test_seconds_are_those_of_the_stages(results):
    assert results["seconds"].keys() == {"sft", "reward", "ppo", "eval"}
    assert [results["seconds"][stage] for stage in ("sft", "reward", "ppo")] == [3.0, 2.0, 5.0]
    assert 0 < results["seconds"]["eval"] < 600


def test_every_policy_summarizes_the_same_posts(samples):
    valid = tiny.posts(8, 1)
    assert [sample["post"]["id"] for sample in samples] == [post.id for post in valid]
    for sample, post in zip(samples, valid, strict=True):
        texts = {name: summary["text"] for name, summary in sample["summaries"].items()}
        assert tuple(texts) == POLICIES
        assert (texts["reference"], texts["title"]) == (post.summary, post.title)
        assert post.post.startswith(texts["lead"]) and "\n" not in texts["base"]
    assert len({sample["summaries"]["sft"]["text"] for sample in samples}) > 1


def test_each_policy_writes_with_its_own_weights(config, workdir, samples):
    tokenizer = load_tokenizer(workdir)
    written = {}
    with jax.set_mesh(make_mesh(config.mesh)):
        for name, (seed, model) in {"sft": (0, MODEL), "sft_10x": (1, BIGGER), "ppo": (3, MODEL)}.items():
            weights = tiny.parameters(transformer.specs(model, tokenizer.vocab_size), seed)
            written[name] = Network(weights, model, tokenizer, Tldr(config.data)).write(tiny.posts(8, 1))
    for name, texts in written.items():
        assert [sample["summaries"][name]["text"] for sample in samples] == texts
    assert written["sft"] != written["ppo"] != written["sft_10x"]


def test_rates_and_means_follow_from_the_samples(results, samples):
    def scores(name):
        return [sample["summaries"][name]["score"] for sample in samples]

    def assert_mean(found, name):
        tiny.assert_close(found, np.mean(scores(name)), len(samples), scale=tiny.largest(scores(name)))

    assert_mean(results["reward_model"]["reference_mean"], "reference")
    for name in POLICIES[1:]:
        both = zip(scores(name), scores("reference"), strict=True)
        won = [1.0 if ours > theirs else 0.5 if ours == theirs else 0.0 for ours, theirs in both]
        assert results["preference_over_reference"][name]["rate"] == pytest.approx(np.mean(won))
        assert_mean(results["policies"][name]["reward"], name)
    assert results["judge"] == "reward model"


def test_the_report_shows_it(workdir):
    page = (workdir / "report.html").read_text(encoding="utf-8")
    assert "Best of 2" in page and "Lead" in page and "stands in for it" in page


def test_a_missing_stage_is_named_before_any_summary_is_written(config, workdir, tmp_path, monkeypatch):
    link(workdir, tmp_path, "checkpoints/sft", "checkpoints/sft_10x")
    monkeypatch.setattr(Network, "write", lambda *_, **__: pytest.fail("wrote a summary"))
    with pytest.raises(CheckpointError, match="no whole checkpoint in .*ppo"):
        evaluate.run(config, tmp_path)


def test_in_the_miniature_the_gold_judge_decides(config, workdir, tmp_path, monkeypatch):
    """The reward model prefers the references; the judge, who is asked, prefers the ideal summaries."""
    link(workdir, tmp_path, "config.json", "metrics")
    mini_config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, source="mini", posts="", mini_posts=4, mini_test=6)
    )
    posts = mini.posts(config.seed, "test", 6)
    asked = [
        Comparison(post, (Summary(ideal(post), "ideal"), Summary(post.title, "title")), 0, "", "b", split)
        for split in ("train", "valid1", "valid2")
        for post in mini.posts(0, "valid", 12)
    ]
    records = Mini(mini_config.data).labelers.answer(asked)
    write_jsonl(tmp_path / "comparisons.jsonl", records)

    def responses(config, workdir, task, tokenizer, posts, examples, score):
        texts = {"reference": [post.summary for post in posts], "ppo": [ideal(post) for post in posts]}
        return texts, {"ppo": 12.5}

    def scores(self, posts, texts):
        return np.array(
            [[float(text == post.summary) for text in own] for post, own in zip(posts, texts, strict=True)]
        )

    monkeypatch.setattr(policies, "responses", responses)
    monkeypatch.setattr(Network, "scores", scores)
    monkeypatch.setattr(Network, "margins", lambda self, pairs: np.ones(len(pairs)))
    evaluate.run(mini_config, tmp_path)

    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["judge"] == "gold judge" and results["split"] == "test"
    assert results["preference_over_reference"]["ppo"]["rate"] > 0.9
    assert results["policies"]["ppo"]["reward"] == 0 and results["policies"]["ppo"]["key_fact"] == 1
    assert results["policies"]["ppo"]["reference_nats"] == 12.5
    assert results["reward_model"]["valid_accuracy"] == 1
    chosen = [record.choice == 0 for record in records if record.split == "valid2"]  # the ideal, by people
    assert results["reward_model"]["gold_accuracy"] == pytest.approx(np.mean(chosen))
    assert results["people"] == "simulated people"
    assert results["people_over_reference"].keys() == results["preference_over_reference"].keys() == {"ppo"}
    assert results["people_over_reference"]["ppo"].keys() == {"rate", "stderr", "low", "high"}
    changed = results["reward_model"]["by_change"]
    assert changed["question"] == {"pairs": 6, "value": 1, "low": 1, "high": 1}
    figures = results["policies"]["ppo"]
    assert figures["diversity"] | {"forms": 0, "commonest_form": 0} == {
        "distinct": 6,
        "distinct_share": 1,
        "forms": 0,
        "commonest_form": 0,
        "ideal": 1,
        "ideal_claims": 1,
    }
    assert set(figures["errors"].values()) == {0} and figures["errors"].keys() == {"any", *KINDS}
    lines = (tmp_path / "samples" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    for post, sample in zip(posts, map(json.loads, lines), strict=True):
        assert sample["summaries"]["ppo"]["gold"] == pytest.approx(judge(post, ideal(post)).overall)
        assert sample["summaries"]["ppo"]["key_fact"] is True


def test_the_split_asked_for_is_taken_where_it_is():
    notes = []
    assert evaluate.choose_split({"valid1": ["a"], "valid2": ["b"]}, "valid2", "valid1", notes) == "valid2"
    assert notes == []
    assert evaluate.choose_split({"valid1": ["a"], "valid2": []}, "valid2", "valid1", notes) == "valid1"
    assert notes == ["There is no valid2 split: the valid1 split stands in for it."]


def test_gold_and_labels_are_two_measures():
    """Half of the labels are wrong: a model that follows them is right about the judge half of the time."""
    some = mini.posts(0, "test", 40)
    right = [Pair(post, ideal(post), "so much drama.") for post in some]
    labelled = [Pair(p.info, p.rejected, p.chosen) if i % 2 else p for i, p in enumerate(right)]
    gaps = judges.gaps(rate, labelled)
    assert [gap > 0 for gap in gaps] == [i % 2 == 0 for i in range(40)]
    references = np.array([-0.3, 0.1, 0.5])

    def figures(margins):
        return evaluate.reward_model_figures(margins, right, labelled, references, rate)

    follows_judge, follows_labels = figures(gaps), figures(np.abs(gaps))
    assert (follows_judge["gold_accuracy"], follows_judge["valid_accuracy"]) == (1.0, 0.5)
    assert (follows_labels["gold_accuracy"], follows_labels["valid_accuracy"]) == (0.5, 1.0)
    assert follows_judge["blind_accuracy"] == 1.0  # form alone tells, and it is held to the judge too
    assert follows_judge["reference_mean"] == pytest.approx(0.1)


def test_the_judge_reads_the_miniature():
    some = mini.posts(0, "test", 5)
    best = judges.ratings(rate, some, [ideal(post) for post in some])
    nothing = judges.ratings(rate, some, [""] * 5)
    assert best["key_fact"].all() and best["overall"].min() > 5
    assert not nothing["key_fact"].any() and nothing["overall"].max() < 1.5


def test_preference_at_equal_length_takes_out_what_length_wins(config):
    """Long on 8 posts, of which it wins 6, as long as the reference on 8, of which it wins 4: σ⁻¹(½) = 0."""
    posts = tiny.posts(16, 3)
    tokenizer = tasks.find(config.data, 0).make_tokenizer(posts, None)
    texts = {"reference": ["cat sat"] * 16, "sft": ["cat sat on the cat"] * 8 + ["cat sat"] * 8}
    scores = {"reference": np.zeros(16), "sft": np.repeat([1, -1, 1, -1], [6, 2, 4, 4])}
    figures = evaluate.policy_figures(
        posts, texts, scores, scores, {}, tokenizer, Tldr(config.data), FREE, "reference"
    )
    assert figures["sft"]["preference_at_equal_length"]["value"] == pytest.approx(0.5, abs=1e-4)
    assert figures["reference"]["preference_at_equal_length"] is None
    assert figures["sft"]["words"] == 3.5 and figures["sft"]["reward"] == pytest.approx(0.25)
    assert figures["reference"]["rouge"]["rougeL"] == 1.0


def test_baselines_of_another_length_leave_the_networks_alone(config):
    posts = tiny.posts(8, 3)
    tokenizer = tasks.find(config.data, 0).make_tokenizer(posts, None)
    texts = {"reference": ["cat sat"] * 8, "sft": ["cat sat on"] * 4 + ["cat"] * 4}
    scores = {"reference": np.zeros(8), "sft": np.array([1, 1, 1, -1, 1, -1, -1, -1])}
    alone = evaluate.policy_figures(
        posts, texts, scores, scores, {}, tokenizer, Tldr(config.data), FREE, "reference"
    )
    texts |= {"title": [""] * 8, "lead": ["cat " * 30] * 8}
    scores |= {"title": -np.ones(8), "lead": np.ones(8)}
    beside = evaluate.policy_figures(
        posts, texts, scores, scores, {}, tokenizer, Tldr(config.data), FREE, "reference"
    )
    assert beside["sft"] == alone["sft"]
    assert beside["title"]["preference_at_equal_length"] is None


def test_ppo_ends_at_the_mean_of_its_last_tenth():
    figures = evaluate.ppo_figures(PPO)  # 20 iterations: the last two
    assert figures["kl"] == pytest.approx(1.85) and figures["score_end"] == pytest.approx(0.85)
    assert figures["score_start"] == -1.0 and figures["entropy"] == pytest.approx(-8.5)
    assert figures["episodes"] == 160 and figures["episodes_per_second"] == 100.0
