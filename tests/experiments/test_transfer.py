"""Transfer to the miniature's news, with random networks and a supervised policy of a few steps."""

import json
import re

import experimenting
import numpy as np
import pytest

from rlhf_jax.data.mini import news
from rlhf_jax.data.mini.judge import ideal
from rlhf_jax.data.tasks.mini import rate
from rlhf_jax.evaluation.judges import gold_scores
from rlhf_jax.experiments import findings
from rlhf_jax.experiments.transfer import against_gold, main
from rlhf_jax.run import checkpoint


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = experimenting.finished_run(tmp_path_factory.mktemp("transfer"))
    assert main(["rlhf-jax transfer", f"--workdir={workdir}", "--count=8", "--train=16"]) == 0
    return workdir


@pytest.fixture(scope="module")
def figures(workdir):
    return json.loads((workdir / "transfer.json").read_text())


def test_policies_and_baselines_are_there(figures):
    baselines = ["lead_3", "first_sentence", "first_two_sentences", "template", "key_sentences"]
    policies = ["sft", "ppo", "best_of_2", "sft_on_news"]
    assert list(figures["policies"]) == ["reference", *baselines, *policies]  # no titles
    for name, one in figures["policies"].items():
        assert ("preference" in one) == (name != "reference")
        assert "gold judge" in one.get("preference", {"gold judge": None})
    assert figures["policies"]["reference"]["rougeL"]["value"] == 1
    assert figures["policies"]["lead_3"]["copying"]["value"] == pytest.approx(1)
    assert list(figures["over_sft"]) == ["ppo", "best_of_2"]


def test_the_page_of_findings_reads_them(figures):
    assert "first three sentences" in findings.transfer([figures]).body


def test_the_lead_is_judged_on_the_article(figures):
    articles = news.articles(0, "test", 8)
    leads = [" ".join(re.split(r"(?<=[.?!]) ", article.article)[:3]) for article in articles]
    assert figures["policies"]["lead_3"]["judged"]["value"] == pytest.approx(
        gold_scores(rate, articles, leads).mean()
    )


def test_a_supervised_policy_was_trained_on_news_beside_the_run(workdir):
    assert checkpoint.latest_step(workdir / "transfer" / "checkpoints" / "sft") > 0
    assert checkpoint.latest_step(workdir / "checkpoints" / "sft") == 5


def test_the_reward_model_is_held_to_the_gold_judge():
    articles = news.articles(0, "test", 20)
    judged = {"best": gold_scores(rate, articles, [ideal(a) for a in articles]), "none": np.ones(20)}
    assert against_gold(articles, judged, judged)["value"] == 1
    against = against_gold(articles, {name: -scores for name, scores in judged.items()}, judged)
    assert against == {"pairs": 20, "value": 0, "low": 0, "high": 0}


def test_real_posts_need_real_news(tmp_path, capsys):
    workdir = experimenting.finished_run(tmp_path)
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["source"] = "tldr"
    (workdir / "config.json").write_text(json.dumps(config))
    assert main(["rlhf-jax transfer", f"--workdir={workdir}"]) == 2
    assert "--articles is missing" in capsys.readouterr().err
