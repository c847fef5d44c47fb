import dataclasses

import experimenting
import jax
import numpy as np
import pytest
import tiny

from rlhf_jax import inference
from rlhf_jax.data.mini import posts as mini
from rlhf_jax.data.tldr import encode_query
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.evaluation.sampling import sampled
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import transformer
from rlhf_jax.model.pretrained import SHIPPED

CONFIG = experimenting.config()
TOKENIZER = load_tokenizer(SHIPPED / "small")
SETTING = {"model": experimenting.MODEL, "tokenizer": TOKENIZER, "data": CONFIG.data}


@pytest.fixture(scope="module")
def weights():
    specs = transformer.specs(experimenting.MODEL, TOKENIZER.vocab_size)
    return [tiny.parameters(specs, seed) for seed in range(2)]


@pytest.fixture(scope="module", autouse=True)
def mesh():
    with jax.set_mesh(make_mesh(CONFIG.mesh)):
        yield


def test_a_policy_is_at_no_distance_from_itself(weights):
    posts = mini.posts(0, "test", 5)
    texts, kl = sampled(weights[0], weights[0], posts, **SETTING, temperature=0.7, seed=3)
    query = np.array([encode_query(posts[0], TOKENIZER, 48)], np.int32)
    nats = CONFIG.data.response_tokens * tiny.largest(next_token_logprobs(weights[0], query, 0.7))
    sums = tiny.additions(experimenting.MODEL, 48 + CONFIG.data.response_tokens)
    tiny.assert_close(kl, np.zeros_like(kl), sums, scale=nats)
    assert texts == inference.summarize(weights[0], posts, **SETTING, temperature=0.7, seed=3)


def test_the_mean_draw_is_the_kl_of_the_first_token(weights):
    """With one token a response, KL = Σ p (log p − log q) of the two next-token distributions, by hand."""
    post = mini.posts(0, "test", 1)[0]
    data = dataclasses.replace(CONFIG.data, response_tokens=1)
    _, kl = sampled(*weights, [post] * 512, **SETTING | {"data": data}, temperature=0.7, seed=0)
    query = np.array([encode_query(post, TOKENIZER, 48)], np.int32)
    logp, ref_logp = (next_token_logprobs(each, query, 0.7) for each in weights)
    exact = float(np.sum(np.exp(logp) * (logp - ref_logp)))
    assert exact > 1 and kl.mean() == pytest.approx(exact, abs=4 * kl.std() / np.sqrt(512))


def next_token_logprobs(weights, query, temperature):
    hidden = transformer.apply(weights, experimenting.MODEL, query, np.ones_like(query))
    return jax.nn.log_softmax(transformer.logits(weights, experimenting.MODEL, hidden)[0, -1] / temperature)
