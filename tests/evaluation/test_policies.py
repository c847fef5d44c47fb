import numpy as np
import pytest
import tiny

from rlhf_jax import inference
from rlhf_jax.config import Config, EvalConfig, ModelConfig
from rlhf_jax.data import sources
from rlhf_jax.data.records import Post
from rlhf_jax.evaluation import policies

POSTS = tiny.posts(3, 0)


@pytest.fixture
def config(tmp_path):
    return Config(data=tiny.write_data(tmp_path), eval=EvalConfig(best_of=4, temperature=0.9), seed=7)


@pytest.fixture
def tokenizer(config):
    return sources.make_tokenizer(POSTS, config.data, None)


def test_best_of_n_is_the_best_of_each_posts_own_samples(config, tokenizer, monkeypatch):
    asked = {}

    def samples(weights, posts, count, *, temperature, seed, **setting):
        asked.update(temperature=temperature, seed=seed)
        return [[f"{post.id} sample {i}" for i in range(count)] for post in posts]

    rewards = [[0.1, 0.9, -3, 0.2], [-5, -6, -4, -9], [1, 1.5, 1.2, 2]]

    def score(posts, texts):
        assert all(text.startswith(post.id) for post, own in zip(posts, texts, strict=True) for text in own)
        return np.array(rewards)

    monkeypatch.setattr(inference, "samples", samples)
    best = policies.best_of_n(None, config, ModelConfig(), tokenizer, POSTS, score)
    assert best == [f"{POSTS[0].id} sample 1", f"{POSTS[1].id} sample 2", f"{POSTS[2].id} sample 3"]
    assert asked == {"temperature": 0.9, "seed": 7}


def test_the_base_model_sees_examples_and_its_summary_ends_at_the_newline(config, tokenizer, monkeypatch):
    read = []

    def summarize(weights, posts, *, data, encode, **setting):
        read.extend(encode(post, tokenizer, data.query_tokens) for post in posts)
        return ["cat sat\nSubreddit: r/pets\nmore", "", "dog ran"]

    monkeypatch.setattr(inference, "summarize", summarize)
    examples = tiny.posts(2, 5)
    written = policies.few_shot(None, config, tiny.GPT2, tokenizer, POSTS, examples)
    assert written == ["cat sat", "", "dog ran"]
    for ids, post in zip(read, POSTS, strict=True):
        prompt = tokenizer.decode(ids)
        places = [prompt.index(f"TL;DR: {example.summary}\n\n=====") for example in examples]
        assert places == sorted(places)
        assert prompt.endswith(f"{post.post}\n\nTL;DR:") and prompt.count("TL;DR:") == 3


def test_lead_is_as_much_of_the_post_as_a_summary_may_hold(tokenizer):
    post = Post("1", "pets", "title", "the cat sat and the cat ran and the dog hid and the hen ate")
    text = policies.lead(post, tokenizer, 8)
    assert post.post.startswith(text) and text.startswith("the cat")
    assert len(tokenizer.encode(" " + text)) == 7  # and EOS
    assert policies.lead(post, tokenizer, 100) == post.post
