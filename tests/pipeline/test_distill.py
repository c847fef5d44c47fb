import json
from types import SimpleNamespace

import numpy as np
import pytest
import tiny

from rlhf_jax import inference
from rlhf_jax.config import Config, MeshConfig
from rlhf_jax.data.batches import DistillPlan
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.pipeline import distill

POSTS = tiny.posts(12, 0)


@pytest.fixture
def config():
    config = Config(mesh=MeshConfig(1, 1, 1))
    config.distill.best_of = 3
    return config


@pytest.fixture
def asked(monkeypatch):
    """A reward model that likes long responses; what a policy was asked for."""
    lengths = SimpleNamespace(scores=lambda _, texts: np.array([[len(t) for t in own] for own in texts]))
    monkeypatch.setattr(inference, "load", lambda *_, **__: lengths)
    return []


def policy(config, asked):
    def samples(records, count, temperature, seed):
        asked.append((count, temperature))
        return [
            ["a " * (1 + (i + k) % count) + post.id for k in range(count)] for i, post in enumerate(records)
        ]

    return SimpleNamespace(samples=samples, task=Tldr(config.data))


def test_the_best_response_of_each_prompt_is_kept_and_learned(config, asked, tmp_path):
    best = distill.best_responses("distill", policy(config, asked), POSTS, config, tmp_path)
    assert [post.reference for post in best] == [f"a a a {post.id}" for post in POSTS]
    assert [post.post for post in best] == [post.post for post in POSTS]
    rows = [json.loads(line) for line in (tmp_path / "distill.jsonl").read_text().splitlines()]
    assert [(row["prompt"]["id"], row["response"]) for row in rows] == [
        (post.id, post.reference) for post in best
    ]
    again = distill.best_responses("distill", policy(config, asked), POSTS, config, tmp_path)
    assert again == best and asked == [(3, 0.7)]  # not drawn a second time


def test_each_round_learns_from_the_policy_of_the_one_before(config, monkeypatch, tmp_path):
    task = SimpleNamespace(queries=lambda: POSTS, filtered=lambda records, *_, **__: records)
    sft = SimpleNamespace(task=task, tokenizer=None, name="sft")
    made = []

    def fine_tune(name, policy, records, *_):
        made.append((policy.name, name, [post.id for post in records]))
        return SimpleNamespace(name=name)

    monkeypatch.setattr(inference, "load", lambda *_, **__: sft)
    monkeypatch.setattr(distill.inputs, "hold", lambda *_, **__: None)
    monkeypatch.setattr(distill, "best_responses", lambda name, policy, records, *_: records)
    monkeypatch.setattr(distill, "fine_tune", fine_tune)
    config.distill.rounds, config.distill.prompts = 3, 8
    distill.train(config, tmp_path)
    assert [(before, after) for before, after, _ in made] == [
        ("sft", "distill_round1"),
        ("distill_round1", "distill_round2"),
        ("distill_round2", "distill"),
    ]
    drawn = [ids for _, _, ids in made]
    assert all(len(set(ids)) == 8 for ids in drawn) and len(set(map(tuple, drawn))) == 3


def test_too_few_prompts_are_told_by_their_own_field():
    with pytest.raises(ValueError, match="^distill.batch_size: 3 rows do not fill a batch of 4"):
        DistillPlan.full_batches(3, 4)
