from dataclasses import dataclass, replace

import numpy as np
import pytest
import tiny

from rlhf_jax import inference
from rlhf_jax.config import Config, EvalConfig, ModelConfig
from rlhf_jax.data import task as tasks
from rlhf_jax.data.task import Task
from rlhf_jax.evaluation import policies

POSTS = tiny.posts(3, 0)
REWARDS = [[0.1, 0.9, -3, 0.2], [-5, -6, -4, -9], [1, 1.5, 1.2, 2]]


@dataclass(frozen=True)
class Policy:
    """Stands in for a network: its texts tell who wrote them, and `asked` how."""

    name: str
    task: Task
    asked: list

    def on(self, task):
        return replace(self, task=task)

    def write(self, records):
        self.asked.append((self.name, "write", self.task, list(records)))
        written = (f"{self.name} {i}\nSubreddit: r/pets\nmore" for i in range(len(records)))
        return [self.task.text(response) for response in written]

    def samples(self, records, count, temperature, seed):
        self.asked.append((self.name, "samples", temperature, seed))
        return [[f"{record.id} sample {i}" for i in range(count)] for record in records]

    def log_likelihood(self, records, responses):
        assert responses == [record.reference for record in records]
        return -np.arange(1.0, 1 + len(records)) * len(self.name)


@pytest.fixture
def config(tmp_path):
    return Config(data=tiny.write_data(tmp_path), eval=EvalConfig(best_of=4, temperature=0.9), seed=7)


@pytest.fixture
def task(config):
    return tasks.find(config.data, config.seed)


@pytest.fixture
def tokenizer(task):
    return task.make_tokenizer(POSTS, None)


def score(posts, texts):
    assert all(text.startswith(post.id) for post, own in zip(posts, texts, strict=True) for text in own)
    return np.array(REWARDS)


def responses(config, tmp_path, task, tokenizer, monkeypatch, examples=()):
    """What `policies.responses` gives, and how the networks were asked."""
    asked, given = [], config

    def load(folder, name="", *, task=task, config, **_):
        assert config is given
        return Policy(name or "base", task, asked)

    monkeypatch.setattr(inference, "load", load)
    monkeypatch.setattr(inference, "policies_of", lambda workdir: ["sft", "another", "ppo"])
    monkeypatch.setattr(policies.checkpoint, "require", lambda *_: None)  # there are no checkpoints
    found = policies.responses(config, tmp_path, task, tokenizer, POSTS, examples, score)
    return *found, asked


def test_best_of_n_is_the_best_of_each_posts_own_samples(task):
    asked = []
    best = policies.best_of_n(Policy("sft", task, asked), POSTS, 4, 0.9, 7, score)
    assert best == [f"{POSTS[0].id} sample 1", f"{POSTS[1].id} sample 2", f"{POSTS[2].id} sample 3"]
    assert asked == [("sft", "samples", 0.9, 7)]


def test_all_that_respond_do_so_to_the_same_posts(config, tmp_path, task, tokenizer, monkeypatch):
    written, nats, asked = responses(config, tmp_path, task, tokenizer, monkeypatch)
    assert list(written) == ["reference", "title", "lead", "sft", "another", "ppo", "best_of_4"]
    assert written["reference"] == [post.summary for post in POSTS]
    assert written["title"] == [post.title for post in POSTS]
    assert written["lead"] == task.baselines(POSTS, tokenizer)["lead"]
    assert written["ppo"][1] == "ppo 1\nSubreddit: r/pets\nmore"  # of a base model alone is the end cut off
    assert written["best_of_4"][2] == f"{POSTS[2].id} sample 3"
    assert nats == {"sft": 6, "another": 14, "ppo": 6}  # the mean of 1, 2 and 3, times the name's letters
    assert [one for one in asked if one[1] == "samples"] == [("sft", "samples", 0.9, 7)]
    assert all(one[2:] == (task, POSTS) for one in asked if one[1] == "write")


def test_the_base_model_sees_examples_and_its_summary_ends_at_the_newline(
    config, tmp_path, task, tokenizer, monkeypatch
):
    examples = tiny.posts(2, 5)
    config = replace(config, model=ModelConfig(pretrained="mini/small"))
    written, nats, asked = responses(config, tmp_path, task, tokenizer, monkeypatch, examples)
    assert list(written)[3:5] == ["base", "sft"]
    assert written["base"] == ["base 0", "base 1", "base 2"] and nats["base"] == 8
    name, _, read, records = asked[0]
    assert name == "base" and records == POSTS
    for post in POSTS:
        prompt = tokenizer.decode(read.encode(post, tokenizer))
        places = [prompt.index(f"TL;DR: {example.summary}\n\n=====") for example in examples]
        assert places == sorted(places)
        assert prompt.endswith(f"{post.post}\n\nTL;DR:") and prompt.count("TL;DR:") == 3
