"""Each post gets its own summary and score, whatever the order, the batch and the padding.

And where networks are found: in runs, exported folders and folders of checkpoints.
"""

import dataclasses
import shutil

import experimenting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from scipy.special import log_softmax

from rlhf_jax import inference
from rlhf_jax.config import DataConfig, ModelConfig
from rlhf_jax.data.batches import left_pad, right_pad
from rlhf_jax.data.comparisons import Pair
from rlhf_jax.data.mini import posts as mini
from rlhf_jax.data.tasks.mini import Mini
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.inference import Network, NetworkError
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import heads, pretrained, transformer
from rlhf_jax.pipeline.export import export
from rlhf_jax.run import checkpoint
from rlhf_jax.run import workdir as runs

MODEL = ModelConfig(width=16, layers=1, heads=2, positions="rotary")
DATA = DataConfig(
    vocabulary=320, query_tokens=60, query_buckets=(26, 60), response_tokens=6, reward_response_tokens=9
)
TASK = Tldr(DATA)
POSTS = [
    dataclasses.replace(post, id=str(i), post=post.post + " and ran" * (i % 5))
    for i, post in enumerate(tiny.posts(11, seed=0))
]
SUMS = tiny.additions(MODEL, 69)  # behind a score; a likelihood is a sum of at most 9 log-probabilities
TEXTS = [f"{post.title} {'sat ' * (i % 3)}" for i, post in enumerate(POSTS)]


@pytest.fixture(scope="module")
def tokenizer():
    return TASK.make_tokenizer(POSTS, None)


def policy_of(tokenizer, seed=0):
    weights = tiny.parameters(transformer.specs(MODEL, tokenizer.vocab_size), seed)
    return Network(weights, MODEL, tokenizer, TASK)


@pytest.fixture(scope="module")
def policy(tokenizer):
    return policy_of(tokenizer)


@pytest.fixture(scope="module")
def other_policy(tokenizer):
    return policy_of(tokenizer, seed=1)


@pytest.fixture(scope="module")
def reward(tokenizer):
    weights = tiny.parameters(heads.specs(MODEL, tokenizer.vocab_size), seed=1)
    return Network(weights, MODEL, tokenizer, TASK)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(inference, "BATCH_SIZE", 4)


@pytest.fixture
def no_mesh():
    """Asked for by tests in which none is set."""


@pytest.fixture(autouse=True)
def one_device(request):
    """A mesh of one device, set in all others."""
    if "no_mesh" in request.fixturenames:
        yield
    else:
        with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
            yield


@pytest.fixture(scope="module")
def summaries(policy):
    with pytest.MonkeyPatch.context() as patch, jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        patch.setattr(inference, "BATCH_SIZE", 4)
        return policy.write(POSTS)


def test_posts_fall_into_both_buckets(tokenizer):
    lengths = [len(TASK.encode(post, tokenizer)) for post in POSTS]
    assert min(lengths) <= 26 < max(lengths) and sum(length <= 26 for length in lengths) % 4


def test_one_summary_a_post_in_order(policy, summaries):
    assert len(summaries) == len(POSTS) and len(set(summaries)) > 5
    order = np.random.default_rng(0).permutation(len(POSTS))
    shuffled = policy.write([POSTS[i] for i in order])
    assert shuffled == [summaries[i] for i in order]


def test_buckets_do_not_change_a_summary(policy, summaries):
    one = Tldr(dataclasses.replace(DATA, query_buckets=(60,)))
    assert policy.on(one).write(POSTS) == summaries


def test_greedy_needs_no_seed_and_samples_come_from_theirs(policy, summaries):
    assert policy.write(POSTS, seed=5) == summaries
    first, again, other = (policy.write(POSTS, temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_several_samples_of_each_post(policy, summaries):
    """Greedily N times the one summary; at a temperature each its own, the same ones again from a seed."""
    assert policy.samples(POSTS, 3) == [[text] * 3 for text in summaries]
    drawn, again = (policy.samples(POSTS[:2], 8, temperature=1.0, seed=3) for _ in range(2))
    assert drawn == again
    assert [len(set(texts)) > 4 for texts in drawn] == [True, True]


def test_a_batch_holds_as_many_samples_as_one_of_single_summaries(monkeypatch):
    monkeypatch.setattr(inference, "BATCH_SIZE", 128)
    assert inference.batch_size(4, 16) == 8
    assert inference.batch_size(1, 6) == 22  # 132 samples: rounded up
    assert inference.batch_size(32, 16) == 32  # a post a shard at least


def test_the_task_decides_what_is_read(policy, summaries):
    class Reversed(Tldr):
        def prompt(self, record):
            return super().prompt(POSTS[len(POSTS) - 1 - int(record.id)])

    backwards = policy.on(Reversed(DATA)).write(POSTS)
    assert backwards == summaries[::-1] != summaries


def test_scores_are_those_of_the_reward_model_one_by_one(tokenizer, reward):
    queries = [TASK.encode(post, tokenizer) for post in POSTS]
    responses, _ = TASK.encode_responses(TEXTS, tokenizer, 9)
    expected = inference.read(
        reward.weights,
        MODEL,
        left_pad(queries, 60, tokenizer.pad_id),
        right_pad(responses, 9, tokenizer.pad_id)[:, None],
        tokenizer.pad_id,
    )[:, 0]
    scores = reward.score(POSTS, TEXTS)
    assert scores.std() > 0.1
    tiny.assert_close(scores, expected, SUMS)


def test_summaries_of_one_text_do_not_see_each_other(reward):
    texts = [(text, post.summary, post.title) for post, text in zip(POSTS, TEXTS, strict=True)]
    together = reward.scores(POSTS, texts)
    for k, alone in enumerate(zip(*texts, strict=True)):
        tiny.assert_close(together[:, k], reward.score(POSTS, alone), SUMS)
    assert np.ptp(together, axis=1).min() > 0.01


def test_likelihood_is_the_product_over_a_summary_s_own_tokens(tokenizer, policy):
    """Each row alone and without padding, one pass over it."""
    found = policy.log_likelihood(POSTS, TEXTS)
    for i in (0, 4, 7):
        query = TASK.encode(POSTS[i], tokenizer)
        (response,), _ = TASK.encode_responses(TEXTS[i : i + 1], tokenizer, 9)
        logits = one_pass(policy.weights, np.array([query + response]))
        logp = log_softmax(logits, axis=-1)[len(query) - 1 : -1]
        tiny.assert_close(found[i], sum(logp[t, token] for t, token in enumerate(response)), SUMS)


def test_margins_turn_round_with_the_pair(reward):
    pairs = [Pair(post, text, post.summary) for post, text in zip(POSTS, TEXTS, strict=True)]
    swapped = [Pair(pair.info, pair.rejected, pair.chosen) for pair in pairs]
    margins = reward.margins(pairs)
    assert np.abs(margins).max() > 0.1
    tiny.assert_close(reward.margins(swapped), -margins, SUMS)
    same = [Pair(pair.info, pair.chosen, pair.chosen) for pair in pairs]
    nothing = reward.margins(same)
    tiny.assert_close(nothing, np.zeros_like(margins), SUMS, scale=tiny.largest(margins))


def test_a_single_post_is_read_as_among_others(policy, reward, summaries):
    """A batch of one row, on a mesh of one device."""
    alone, text = POSTS[:1], TEXTS[:1]
    assert policy.write(alone) == summaries[:1]
    assert len(policy.samples(alone, 3, temperature=1.0)[0]) == 3
    of_all = reward.score(POSTS, TEXTS)
    scale = tiny.largest(of_all)
    tiny.assert_close(reward.score(alone, text), of_all[:1], SUMS, scale)
    three = reward.scores(alone, [[text[0], "cats ran", text[0]]])
    tiny.assert_close(three[0, [0, 2]], of_all[[0, 0]], SUMS, scale)
    likely = policy.log_likelihood(POSTS, TEXTS)
    likely_alone = policy.log_likelihood(alone, text)
    tiny.assert_close(likely_alone, likely[:1], SUMS)


def test_more_summaries_of_a_post_than_a_batch_has_rows(reward):
    texts = [["cats ran " * (i % 3) for i in range(9)] for _ in POSTS[:2]]
    found = reward.scores(POSTS[:2], texts)
    tiny.assert_close(found[:, :3], found[:, 3:6], SUMS)
    assert found.shape == (2, 9) and np.ptp(found[0, :3]) > 0.01


# Draws of the KL -----------------------------------------------------------------------------


def test_a_policy_is_at_no_distance_from_itself(policy):
    texts, kl = policy.samples_with_kl(policy, POSTS, 0.7, seed=3)
    query = np.array([TASK.encode(POSTS[0], policy.tokenizer)], np.int32)
    nats = DATA.response_tokens * tiny.largest(next_token_logprobs(policy, query, 0.7))
    tiny.assert_close(kl, np.zeros_like(kl), SUMS, scale=nats)
    assert texts == policy.write(POSTS, 0.7, seed=3)


def test_the_mean_draw_is_the_kl_of_the_first_token(policy, other_policy, tokenizer, monkeypatch):
    """With one token a response, KL = Σ p (log p − log q) of the two next-token distributions, by hand."""
    monkeypatch.setattr(inference, "BATCH_SIZE", 128)
    task = Tldr(dataclasses.replace(DATA, response_tokens=1))
    _, kl = policy.on(task).samples_with_kl(other_policy.on(task), POSTS[:1] * 512, 0.7, seed=0)
    query = np.array([TASK.encode(POSTS[0], tokenizer)], np.int32)
    logp, ref_logp = (next_token_logprobs(each, query, 0.7) for each in (policy, other_policy))
    exact = float(np.sum(np.exp(logp) * (logp - ref_logp)))
    assert exact > 1 and kl.mean() == pytest.approx(exact, abs=4 * kl.std() / np.sqrt(512))


def next_token_logprobs(policy, query, temperature):
    return log_softmax(one_pass(policy.weights, query)[-1] / temperature)


@jax.jit
def one_pass(weights, tokens):
    """Logits of what follows each token of one row, which has no padding."""
    hidden = transformer.apply(weights, MODEL, tokens, jnp.ones_like(tokens))
    return transformer.logits(weights, MODEL, hidden)[0]


# Texts for records, and what a network cannot do ---------------------------------------------


def test_a_text_stands_for_a_record(policy, reward):
    texts = ["my cat sat and ran", POSTS[3].post]
    records = [TASK.record_of(text) for text in texts]
    assert policy.write(texts) == policy.write(records)
    assert policy.write([texts[0], POSTS[3]]) == [policy.write(texts[:1])[0], policy.write(POSTS[3:4])[0]]
    np.testing.assert_array_equal(reward.score(texts, TEXTS[:2]), reward.score(records, TEXTS[:2]))
    likely = policy.log_likelihood(texts, TEXTS[:2])
    np.testing.assert_array_equal(likely, policy.log_likelihood(records, TEXTS[:2]))
    written, kl = policy.samples_with_kl(policy, texts, 0.7, seed=0)
    assert len(written) == len(kl) == 2


def test_what_a_network_cannot_do_is_told_in_one_line(policy, reward):
    pairs = [Pair(post, post.summary, post.title) for post in POSTS]
    assert reward.is_scalar and not policy.is_scalar
    for ask in (
        lambda: reward.write(POSTS),
        lambda: reward.samples(POSTS, 2),
        lambda: reward.samples_with_kl(policy, POSTS, 1.0, 0),
        lambda: reward.log_likelihood(POSTS, TEXTS),
    ):
        with pytest.raises(NetworkError, match=r"^a reward model scores responses and writes none: [^\n]+$"):
            ask()
    for ask in (
        lambda: policy.score(POSTS, TEXTS),
        lambda: policy.scores(POSTS, [[text] for text in TEXTS]),
        lambda: policy.margins(pairs),
    ):
        with pytest.raises(NetworkError, match=r"^a policy writes responses and scores none: [^\n]+$"):
            ask()


def test_a_text_is_not_read_letter_by_letter(policy):
    with pytest.raises(NetworkError, match=r"write\(\[text\]\)"):
        policy.write("text")


# Where networks are found --------------------------------------------------------------------


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return experimenting.finished_run(tmp_path_factory.mktemp("inference"))


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
    """Policy and reward model as folders for other libraries."""
    out = tmp_path_factory.mktemp("exported")
    for name in ("ppo", "reward"):
        export(workdir, name, out / name)
    return out


def of_network(network):
    """What a network says of two posts and of a lone text."""
    asked = [*mini.posts(0, "test", 2), "text of a post"]
    if network.is_scalar:
        return network.score(asked, ["nora met carl.", "carl sued otto.", "nothing"]).tolist()
    return network.write(asked)


def save_as(workdir, name, weights, meta, step=7):
    checkpoint.save(workdir / "checkpoints" / name, step, params=weights, rest={"n": np.zeros(1)}, meta=meta)


def test_a_network_of_a_run_is_ready_to_be_asked_whether_a_mesh_is_set_or_not(workdir, no_mesh):
    assert jax.sharding.get_mesh().empty
    text = inference.load(str(workdir), "ppo").write(["text of a post"])
    assert len(text) == 1 and isinstance(text[0], str) and text[0]
    assert jax.sharding.get_mesh().empty
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        on_one = inference.load(workdir, "ppo")
        assert on_one.write(["text of a post"]) == text
    with jax.set_mesh(make_mesh(devices=jax.devices()[:2])):
        assert inference.load(workdir, "ppo").write(["text of a post"]) == text
    scores = of_network(inference.load(workdir, "reward"))
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        np.testing.assert_allclose(of_network(inference.load(workdir, "reward")), scores, atol=1e-4)
    assert np.ptp(scores) > 0.01


def test_the_network_is_that_of_the_run_with_its_task_and_tokenizer(workdir):
    network = inference.load(workdir, "ppo")
    tokenizer = network.tokenizer
    tiny.assert_same(network.weights, tiny.parameters(transformer.specs(experimenting.MODEL, 768), 2))
    assert type(network.task) is Mini and network.task.data == experimenting.config().data
    assert network.model.width == experimenting.MODEL.width and tokenizer.vocab_size == 768
    other = Tldr(dataclasses.replace(network.task.data, response_tokens=3))
    assert inference.load(workdir, "ppo", task=other).task is other
    assert inference.load(workdir, "reward").is_scalar


def test_a_configuration_at_hand_holds_before_that_of_the_folder(workdir):
    stored = experimenting.config()
    model, data = dataclasses.replace(MODEL, attention="xla"), dataclasses.replace(stored.data, mini_test=5)
    config = dataclasses.replace(stored, model=model, data=data, seed=8)
    network = inference.load(workdir, "ppo", config=config)
    assert network.model.attention == "xla" != inference.load(workdir, "ppo").model.attention
    assert (network.task.data, network.task.seed) == (data, 8)


def test_the_folder_of_its_checkpoints_is_a_network_too(workdir, monkeypatch):
    expected = {name: of_network(inference.load(workdir, name)) for name in ("ppo", "reward")}
    for name in expected:
        assert of_network(inference.load(workdir / "checkpoints" / name)) == expected[name]
        assert of_network(inference.load(f"{workdir}/checkpoints/{name}/")) == expected[name]
    monkeypatch.chdir(workdir / "checkpoints")
    assert of_network(inference.load("ppo")) == expected["ppo"]


def test_an_exported_folder_is_a_network_too_and_remembers_its_task(workdir, exported):
    for name in ("ppo", "reward"):
        own, theirs = inference.load(workdir, name), inference.load(str(exported / name))
        assert type(theirs.task) is Mini
        for field in inference.TASK_FIELDS:
            assert getattr(theirs.task.data, field) == getattr(own.task.data, field)
        told = of_network(theirs)
        if name == "ppo":
            assert told == of_network(own)
        else:
            np.testing.assert_allclose(told, of_network(own), atol=1e-4)


def test_a_folder_without_a_task_is_read_as_the_default_or_as_it_is_said(exported, tmp_path):
    folder = shutil.copytree(exported / "ppo", tmp_path / "ppo")
    (folder / inference.TASK_FILE).unlink()
    assert type(inference.load(folder).task) is Tldr
    task = Mini(experimenting.config().data)
    assert of_network(inference.load(folder, task=task)) == of_network(inference.load(exported / "ppo"))


def test_the_shipped_base_model_is_computed_as_it_is_asked_for():
    folder = pretrained.folder_of("mini/small")
    config = dataclasses.replace(experimenting.config(), model=ModelConfig(dtype="bfloat16"))
    network = inference.load(folder, config=config, task=Mini(config.data))
    assert network.model.dtype == "bfloat16" and not network.is_scalar
    assert all(network.write(mini.posts(0, "test", 2)))


def test_a_checkpoint_of_an_older_version_is_loaded_by_the_configuration(workdir, tmp_path):
    """It does not say what its network is; a name that begins with reward is that of a reward model."""
    old = shutil.copytree(workdir, tmp_path / "old")
    (old / "run.lock").unlink(missing_ok=True)
    for name in ("ppo", "reward"):
        new = inference.load(workdir, name)
        shutil.rmtree(old / "checkpoints" / name)
        save_as(old, name, new.weights, {})
        loaded = inference.load(old, name)
        assert loaded.model == new.model == experimenting.config().model and loaded.is_scalar == new.is_scalar
        assert of_network(loaded) == of_network(new)


def test_a_checkpoint_says_what_its_network_is_and_the_configuration_where_it_is_computed(workdir, tmp_path):
    folder = shutil.copytree(workdir, tmp_path / "wide")
    config = dataclasses.replace(
        experimenting.config(), model=dataclasses.replace(MODEL, layer_loop="unroll", context=99)
    )
    (folder / "config.json").unlink()
    (folder / "run.lock").unlink(missing_ok=True)
    runs.open_workdir(folder, config)
    wide = dataclasses.replace(MODEL, width=32, layers=2, ff=64, context=64, layer_loop="scan")
    weights = tiny.parameters(transformer.specs(wide, 768), 9)
    save_as(folder, "anything", weights, inference.describe(wide))
    network = inference.load(folder, "anything")
    assert network.model == dataclasses.replace(wide, layer_loop="unroll")
    tiny.assert_same(network.weights, weights)
    scalar = tiny.parameters(heads.specs(wide, 768), 9)
    save_as(folder, "critic", scalar, inference.describe(wide, scalar=True))
    assert inference.load(folder, "critic").is_scalar


def test_the_policies_of_a_run_are_those_that_its_stages_left(workdir, tmp_path):
    assert inference.policies_of(workdir) == ["sft", "ppo"]  # no sft_10x; reward scores
    folder = shutil.copytree(workdir, tmp_path / "run")
    runs.record_stage(folder, "distill", 1.0, networks={"student": "Student", "critic": "Critic"})
    assert inference.policies_of(folder) == ["sft", "ppo"]
    for name, scalar in (("student", False), ("critic", True)):
        network = inference.load(workdir, "reward" if scalar else "sft")
        save_as(folder, name, network.weights, inference.describe(network.model, scalar))
    assert inference.policies_of(folder) == ["sft", "ppo", "student"]


def test_what_is_no_network_is_told_in_one_line(workdir, tmp_path):
    with pytest.raises(NetworkError, match=r"nowhere is neither an exported model nor checkpoints/NAME"):
        inference.load(tmp_path / "nowhere")
    with pytest.raises(checkpoint.CheckpointError, match=r"^[^\n]*checkpoints/ppo2[^\n]*$"):
        inference.load(workdir, "ppo2")
    with pytest.raises(checkpoint.CheckpointError, match=r"^[^\n]*checkpoints/ppo2[^\n]*$"):
        inference.load(workdir / "checkpoints" / "ppo2")
    with pytest.raises(NetworkError, match=r"^[^\n]+which of its networks[^\n]+$"):
        inference.load(workdir)  # of which network?
