import dataclasses
import math

import jax
import jax.extend
import jax.numpy as jnp
import pytest
import tiny

from rlhf_jax.config import (
    Config,
    DataConfig,
    DistillConfig,
    DpoConfig,
    LoraConfig,
    ModelConfig,
    PpoConfig,
    RewardConfig,
    SftConfig,
)
from rlhf_jax.model import transformer
from rlhf_jax.plan import flops

# Width 4, 2 heads of 3, 1 key-value head, 5 hidden units, 2 layers.
SMALL = ModelConfig(width=4, layers=2, heads=2, kv_heads=1, head_size=3, ff=5)
ONE_CHIP = {"replica": 1, "fsdp": 1, "tensor": 1}
DATA = DataConfig(query_tokens=6, query_buckets=(6,), response_tokens=3, reward_response_tokens=4)
CONFIG = Config(
    model=SMALL,
    data=DATA,
    sft=SftConfig(batch_size=8),
    dpo=DpoConfig(batch_size=8),
    distill=DistillConfig(batch_size=8),
    reward=RewardConfig(batch_size=8, microbatches=2),
    ppo=PpoConfig(batch_size=8, epochs=2, minibatches=2, microbatches=2),
)


def test_entries_of_a_layer_by_hand():
    assert flops.layer_matrices(SMALL) == (2 * 4 * 3, 2 * 4 * 6 + 2 * 4 * 5)  # K and V; query, out, up, down
    gated = dataclasses.replace(SMALL, gated=True)
    assert flops.layer_matrices(gated) == (24, 48 + 3 * 20)


def test_forward_by_hand():
    # Five tokens, two of them read. First layer: 2·5·(24 + 88) + 4·6·(1+2+3+4+5).
    # Last layer: keys and values 2·5·24, the others 2·2·88, and the keys that positions 4 and 5 see.
    assert flops.forward(SMALL, 5, 2) == (1120 + 24 * 15) + (240 + 352 + 24 * (4 + 5))
    assert flops.logits(SMALL, 11, 2) == 2 * 2 * 4 * 11


def test_a_window_by_hand():
    # As above, but the first layer sees 1, 2, 3, 3 and 3 keys.
    local = dataclasses.replace(SMALL, layer_pattern=("local", "global"), window=3)
    assert flops.forward(local, 5, 2) == (1120 + 24 * 12) + (240 + 352 + 24 * (4 + 5))
    everywhere = dataclasses.replace(local, layer_pattern=("local",))
    assert flops.forward(everywhere, 5, 2) == (1120 + 24 * 12) + (240 + 352 + 24 * (3 + 3))
    # A query of two tokens and two responses of three, whose tokens all see three keys.
    first = 2 * 8 * (24 + 88) + 24 * (1 + 2 + 2 * (3 + 3 + 3))
    assert flops.forward_to_ends(everywhere, 2, 2, 3) == first + 2 * 8 * 24 + 2 * (2 * 88 + 24 * 3)
    # Each of two decoded tokens reads two keys of each query in the first layer, six in the second.
    (_, decode), (_, whole) = (
        flops.phases("eval.write", CONFIG, model, 11, ONE_CHIP) for model in (local, SMALL)
    )
    assert whole.traffic - decode.traffic == 8 * 2 * (6 - 2) * 2 * 3 * 4


def test_responses_to_one_query_by_hand():
    # A query of two tokens and two responses of three: eight tokens. First layer: the query's see 1 and 2
    # keys, a response's 3, 4 and 5. Last layer: keys and values of all, the rest at two ends that see 5.
    first = 2 * 8 * (24 + 88) + 24 * (1 + 2 + 2 * (3 + 4 + 5))
    assert flops.forward_to_ends(SMALL, 2, 2, 3) == first + 2 * 8 * 24 + 2 * (2 * 88 + 24 * 5)
    assert flops.forward_to_ends(SMALL, 6, 1, 4) == flops.forward(SMALL, 10, 1)


def test_responses_share_their_query():
    """First layer: 2 + 2 · 2 tokens, which see 1 + 2 keys and twice 3 + 4; second: the first is not read."""
    first = 2 * 6 * 112 + 24 * (3 + 2 * 7)
    assert flops.forward_to_responses(SMALL, 2, 2, 3) == first + 2 * (6 * 24 + 5 * 88) + 24 * (2 + 2 * 7)
    assert flops.forward_to_responses(SMALL, 6, 1, 4) == flops.forward(SMALL, 9, 4)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_forward_is_what_the_traced_transformer_multiplies(family):
    """Counted independently: every dot product in the program, the masked half of attention taken off."""
    model, tokens, outputs = dataclasses.replace(tiny.FAMILIES[family], layer_loop="unroll"), 12, 5
    weights = tiny.parameters(transformer.specs(model, tiny.VOCABULARY))
    ids = jnp.zeros((1, tokens), jnp.int32)
    program = jax.make_jaxpr(
        lambda w: transformer.apply(w, model, ids, jnp.ones_like(ids), tokens - outputs)
    )(weights)
    attention = 4 * model.heads * (model.width // model.heads)
    masked = tokens**2 - flops.pairs(tokens, tokens) + outputs * tokens - flops.pairs(tokens, outputs)
    assert dot_products(program.jaxpr) == flops.forward(model, tokens, outputs) + attention * masked


def dot_products(jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            total += dot_products(inner)
    return total


def total(program, config=CONFIG):
    return sum(phase.flops for phase in flops.phases(program, config, config.model, 11, ONE_CHIP))


def test_flops_of_the_stages_are_sums_of_passes():
    policy = flops.forward(SMALL, 8, 3) + flops.logits(SMALL, 11, 3)
    value, score = flops.forward(SMALL, 8, 3), flops.forward(SMALL, 9, 1)
    assert total("sft") == 8 * 3 * policy
    assert total("reward") == 8 * 3 * flops.forward_to_ends(SMALL, 6, 2, 4)
    # The prompt is read once, and predicts both first tokens at once.
    pair = flops.forward_to_responses(SMALL, 6, 2, 4) + flops.logits(SMALL, 11, 1 + 2 * 3)
    assert total("dpo") == 8 * 3 * pair and total("distill") == total("sft")
    # Sampling costs a pass of the policy; two log-probabilities, values, score; two epochs of both networks.
    assert total("ppo") == 8 * (3 * policy + value + score + 2 * 3 * (policy + value))


def test_without_a_value_network_no_pass_of_it_is_counted_and_a_prompt_is_read_once():
    def ppo(**fields) -> float:
        return total("ppo", dataclasses.replace(CONFIG, ppo=dataclasses.replace(CONFIG.ppo, **fields)))

    value = flops.forward(SMALL, 8, 3)
    assert ppo() - ppo(algorithm="reinforce") == 8 * (value + 2 * 3 * value)
    prompt = flops.forward(SMALL, 6, 1) + flops.logits(SMALL, 11, 1)  # in sampling
    scored = 2 * flops.forward_to_ends(SMALL, 6, 1, 3) - flops.forward_to_ends(SMALL, 6, 2, 3)
    read = 2 * value - flops.forward_to_responses(SMALL, 6, 2, 3)  # by 3 networks, in 2 epochs by 2 of them
    predicted = flops.logits(SMALL, 11, 1)
    assert ppo() - ppo(samples=2) == 4 * (prompt + scored + (3 + 12) * read + (2 + 6) * predicted)


def test_each_of_several_reward_models_scores():
    several = dataclasses.replace(CONFIG, ppo=dataclasses.replace(CONFIG.ppo, ensemble="worst"))
    several.reward = dataclasses.replace(CONFIG.reward, seeds=3)
    assert total("ppo", several) - total("ppo") == 2 * 8 * flops.forward(SMALL, 9, 1)


def test_without_a_reward_model_no_pass_of_it_is_counted():
    def ppo(reward: str) -> float:
        return total("ppo", dataclasses.replace(CONFIG, ppo=dataclasses.replace(CONFIG.ppo, reward=reward)))

    assert ppo("model") - ppo("own.py:short") == 8 * flops.forward(SMALL, 9, 1)
    assert ppo("model") == ppo("model,own.py:short")


def test_sampling_token_by_token_costs_what_one_pass_over_them_does():
    """Eight queries are read once; 16 samples of each are written."""
    prefill = flops.forward(SMALL, 6, 1) + flops.logits(SMALL, 11, 1)
    steps = flops.forward(SMALL, 7, 1) - flops.forward(
        SMALL, 6, 0
    )  # the seventh token alone, then the eighth
    steps += flops.forward(SMALL, 8, 1) - flops.forward(SMALL, 7, 0) + flops.logits(SMALL, 11, 2)
    assert total("eval.write") == 8 * prefill + 128 * steps
    assert total("eval.read") == 8 * flops.forward_to_ends(SMALL, 6, 16, 4)


def test_recomputation_is_no_useful_work():
    again = dataclasses.replace(CONFIG, model=dataclasses.replace(SMALL, rematerialize=True))
    assert total("sft", again) == total("sft")
    (phase,) = flops.phases("sft", again, again.model, 11, ONE_CHIP)
    assert phase.recomputed == 8 * flops.forward(SMALL, 8, 3)


def test_traffic_by_hand():
    matrices, head = 2 * (24 + 88), 44  # float32
    (update,) = flops.phases("reward", CONFIG, SMALL, 11, ONE_CHIP)
    assert update.traffic == 2 * 2 * 4 * matrices + 28 * matrices  # 2 microbatches, forward and backward
    _, decode = flops.phases("eval.write", CONFIG, SMALL, 11, ONE_CHIP)
    slot = 2 * 2 * 3 * 4  # keys and values of one token in two layers
    assert decode.traffic == 2 * 4 * (matrices + head) + (8 * 2 * 6 + 128 * (1 + 2)) * slot


def test_fsdp_splits_rows_and_optimizer_but_every_device_reads_all_weights():
    (one,) = flops.phases("reward", CONFIG, SMALL, 11, ONE_CHIP)
    (eight,) = flops.phases("reward", CONFIG, SMALL, 11, ONE_CHIP | {"fsdp": 4, "tensor": 2})
    assert eight.traffic == 2 * 2 * 4 * 224 / 2 + 28 * 224 / 8
    assert eight.flops == one.flops


def test_beside_a_frozen_model_there_are_no_gradients_of_its_matrices():
    """Two passes of work for three, and an optimizer that goes over adapters: of rank 2, by hand."""
    adapted = dataclasses.replace(SMALL, lora=LoraConfig(rank=2, targets=("query", "down")))
    whole, beside = (
        flops.train("update", flops.Placed(model, 11, 1, 1, 1), 1000.0, 3, 1) for model in (SMALL, adapted)
    )
    assert beside.flops * 3 == whole.flops * 2
    matrices = 2 * 112 + 44
    assert whole.traffic - beside.traffic == 28 * (matrices - 2 * 2 * ((4 + 6) + (5 + 4)))


def test_a_quantized_base_is_read_in_its_bytes():
    """224 entries of the layers' matrices at 4, 1 and ½ bytes, and 44 of the output matrix at 4."""
    for base, size in {"whole": 4, "int8": 1, "nf4": 0.5}.items():
        held = dataclasses.replace(SMALL, lora=LoraConfig(rank=2, base=base))
        assert flops.pass_bytes(flops.Placed(held, 11, 1, 1, 1), 3) == size * 224 + 4 * 44


def test_products_that_are_kept_are_not_computed_again():
    kept = dataclasses.replace(SMALL, rematerialize=True, rematerialize_but="products")
    ours, theirs = (flops.train("update", flops.Placed(x, 11, 1, 1, 1), 9.0, 3, 1) for x in (kept, SMALL))
    assert ours == theirs
