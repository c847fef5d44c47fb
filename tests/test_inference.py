"""Each post gets its own summary and score, whatever the order, the batch and the padding."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from rlhf_jax import inference
from rlhf_jax.config import DataConfig, ModelConfig
from rlhf_jax.data import sources
from rlhf_jax.data.batches import left_pad, right_pad
from rlhf_jax.data.comparisons import Pair
from rlhf_jax.data.records import Post
from rlhf_jax.data.tldr import encode_query, encode_response
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import heads, transformer

MODEL = ModelConfig(width=16, layers=1, heads=2, positions="rotary")
DATA = DataConfig(
    vocabulary=320, query_tokens=60, query_buckets=(26, 60), response_tokens=6, reward_response_tokens=9
)
POSTS = [
    dataclasses.replace(post, id=str(i), post=post.post + " and ran" * (i % 5))
    for i, post in enumerate(tiny.posts(11, seed=0))
]
SUMS = tiny.additions(MODEL, 69)  # behind a score; a likelihood is a sum of at most 9 log-probabilities
TEXTS = [f"{post.title} {'sat ' * (i % 3)}" for i, post in enumerate(POSTS)]


@pytest.fixture(scope="module")
def setting():
    tokenizer = sources.make_tokenizer(POSTS, DATA, None)
    return {"model": MODEL, "tokenizer": tokenizer, "data": DATA}


@pytest.fixture(scope="module")
def policy(setting):
    return tiny.parameters(transformer.specs(MODEL, setting["tokenizer"].vocab_size))


@pytest.fixture(scope="module")
def reward(setting):
    return tiny.parameters(heads.specs(MODEL, setting["tokenizer"].vocab_size), seed=1)


@pytest.fixture(autouse=True)
def small_batches_on_a_mesh(monkeypatch):
    monkeypatch.setattr(inference, "BATCH_SIZE", 4)
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        yield


@pytest.fixture(scope="module")
def summaries(setting, policy):
    with pytest.MonkeyPatch.context() as patch, jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        patch.setattr(inference, "BATCH_SIZE", 4)
        return inference.summarize(policy, POSTS, **setting)


def test_posts_fall_into_both_buckets(setting):
    lengths = [len(encode_query(post, setting["tokenizer"], 60)) for post in POSTS]
    assert min(lengths) <= 26 < max(lengths) and sum(length <= 26 for length in lengths) % 4


def test_one_summary_a_post_in_order(setting, policy, summaries):
    assert len(summaries) == len(POSTS) and len(set(summaries)) > 5
    order = np.random.default_rng(0).permutation(len(POSTS))
    shuffled = inference.summarize(policy, [POSTS[i] for i in order], **setting)
    assert shuffled == [summaries[i] for i in order]


def test_buckets_do_not_change_a_summary(setting, policy, summaries):
    one = dataclasses.replace(DATA, query_buckets=(60,))
    assert inference.summarize(policy, POSTS, **(setting | {"data": one})) == summaries


def test_greedy_needs_no_seed_and_samples_come_from_theirs(setting, policy, summaries):
    assert inference.summarize(policy, POSTS, seed=5, **setting) == summaries
    first, again, other = (
        inference.summarize(policy, POSTS, temperature=1.0, seed=seed, **setting) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_several_samples_of_each_post(setting, policy, summaries):
    """Greedily N times the one summary; at a temperature each its own, the same ones again from a seed."""
    assert inference.samples(policy, POSTS, 3, **setting) == [[text] * 3 for text in summaries]
    drawn, again = (
        inference.samples(policy, POSTS[:2], 8, temperature=1.0, seed=3, **setting) for _ in range(2)
    )
    assert drawn == again
    assert [len(set(texts)) > 4 for texts in drawn] == [True, True]


def test_a_batch_holds_as_many_samples_as_one_of_single_summaries(monkeypatch):
    monkeypatch.setattr(inference, "BATCH_SIZE", 128)
    assert inference.batch_size(4, 16) == 8
    assert inference.batch_size(1, 6) == 22  # 132 samples: rounded up
    assert inference.batch_size(32, 16) == 32  # a post a shard at least


def test_the_encoder_decides_what_is_read(setting, policy, summaries):
    def reversed_posts(post: Post, tokenizer, limit):
        return encode_query(POSTS[len(POSTS) - 1 - int(post.id)], tokenizer, limit)

    backwards = inference.summarize(policy, POSTS, encode=reversed_posts, **setting)
    assert backwards == summaries[::-1] != summaries


def test_scores_are_those_of_the_reward_model_one_by_one(setting, reward):
    tokenizer = setting["tokenizer"]
    queries = [encode_query(post, tokenizer, 60) for post in POSTS]
    responses = [encode_response(text, tokenizer, 9) for text in TEXTS]
    expected = inference.read(
        reward,
        MODEL,
        left_pad(queries, 60, tokenizer.pad_id),
        right_pad(responses, 9, tokenizer.pad_id)[:, None],
        tokenizer.pad_id,
    )[:, 0]
    scores = inference.score(reward, POSTS, TEXTS, **setting)
    assert scores.std() > 0.1
    tiny.assert_close(scores, expected, SUMS)


def test_summaries_of_one_text_do_not_see_each_other(setting, reward):
    texts = [(text, post.summary, post.title) for post, text in zip(POSTS, TEXTS, strict=True)]
    together = inference.scores(reward, POSTS, texts, **setting)
    for k, alone in enumerate(zip(*texts, strict=True)):
        tiny.assert_close(together[:, k], inference.score(reward, POSTS, alone, **setting), SUMS)
    assert np.ptp(together, axis=1).min() > 0.01


def test_likelihood_is_the_product_over_a_summary_s_own_tokens(setting, policy):
    """Token by token, each from the text before it alone, without padding."""
    tokenizer = setting["tokenizer"]
    found = inference.log_likelihood(policy, POSTS, TEXTS, **setting)
    for i in (0, 4, 7):
        query = encode_query(POSTS[i], tokenizer, 60)
        response = encode_response(TEXTS[i], tokenizer, 9)
        total = 0.0
        for t, token in enumerate(response):
            seen = np.array([query + response[:t]])
            hidden = transformer.apply(policy, MODEL, seen, np.ones_like(seen), seen.shape[1] - 1)
            total += jax.nn.log_softmax(transformer.logits(policy, MODEL, hidden))[0, 0, token]
        tiny.assert_close(found[i], total, SUMS)


def test_margins_turn_round_with_the_pair(setting, reward):
    pairs = [Pair(post, text, post.summary) for post, text in zip(POSTS, TEXTS, strict=True)]
    swapped = [Pair(pair.info, pair.rejected, pair.chosen) for pair in pairs]
    margins = inference.margins(reward, pairs, **setting)
    assert np.abs(margins).max() > 0.1
    tiny.assert_close(inference.margins(reward, swapped, **setting), -margins, SUMS)
    same = [Pair(pair.info, pair.chosen, pair.chosen) for pair in pairs]
    nothing = inference.margins(reward, same, **setting)
    tiny.assert_close(nothing, np.zeros_like(margins), SUMS, scale=tiny.largest(margins))


def test_a_single_post_is_read_as_among_others(setting, policy, reward, summaries):
    """A batch of one row, on a mesh of one device."""
    alone, text = POSTS[:1], TEXTS[:1]
    assert inference.summarize(policy, alone, **setting) == summaries[:1]
    assert len(inference.samples(policy, alone, 3, temperature=1.0, **setting)[0]) == 3
    of_all = inference.score(reward, POSTS, TEXTS, **setting)
    scale = tiny.largest(of_all)
    tiny.assert_close(inference.score(reward, alone, text, **setting), of_all[:1], SUMS, scale)
    three = inference.scores(reward, alone, [[text[0], "cats ran", text[0]]], **setting)
    tiny.assert_close(three[0, [0, 2]], of_all[[0, 0]], SUMS, scale)
    likely = inference.log_likelihood(policy, POSTS, TEXTS, **setting)
    likely_alone = inference.log_likelihood(policy, alone, text, **setting)
    tiny.assert_close(likely_alone, likely[:1], SUMS)


def test_more_summaries_of_a_post_than_a_batch_has_rows(setting, reward):
    texts = [["cats ran " * (i % 3) for i in range(9)] for _ in POSTS[:2]]
    found = inference.scores(reward, POSTS[:2], texts, **setting)
    tiny.assert_close(found[:, :3], found[:, 3:6], SUMS)
    assert found.shape == (2, 9) and np.ptp(found[0, :3]) > 0.01
