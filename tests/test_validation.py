import dataclasses

import pytest
from tiny import config_with

from rlhf_jax.config import Config, ConfigError, ModelConfig, OptimizerConfig, RotaryConfig
from rlhf_jax.validation import check_context, validate


def test_the_defaults_are_valid():
    config = Config()
    assert validate(config) is config


@pytest.mark.parametrize(
    "name, value, why",
    [
        ("seed", "1", "should be int"),
        ("seed", True, "should be int"),
        ("seed", -1, "0 or more"),
        ("sft.batch_size", 0, "positive"),
        ("reward.batch_size", -64, "positive"),
        ("ppo.episodes", 1e6, "should be int"),
        ("ppo.kl_coef", -0.05, "0 or more"),
        ("ppo.kl_coef", float("nan"), "not a finite number"),
        ("ppo.temperature", float("inf"), "not a finite number"),
        ("ppo.gamma", 1.5, "at most 1"),
        ("sft.optimizer.beta2", 1.0, "below 1"),
        ("model.norm", "batch", "not one of layer, rms"),
        ("reward.optimizer.schedule", "cosin", "not one of cosine, linear, constant"),
        ("ppo.optimizer.schedule", "cosin", "not one of cosine, linear, constant"),
        ("sft.pack", 1, "should be bool"),
        ("health.spike_sigma", -6.0, "0 or more"),
        ("health.patience", 0, "positive"),
        ("data.query_buckets", [256, 512], "a tuple of int"),
        ("data.query_buckets", (256.0, 512), "a tuple of int"),
        ("data.query_buckets", (512, 256), "increasing"),
        ("data.query_buckets", (0, 512), "positive"),
        ("data.query_buckets", (128, 256), "data.query_tokens 512"),
        ("model.heads", 3, "do not divide model.width 256"),
        ("model.kv_heads", 3, "do not divide model.heads 4"),
        ("model.rotary.fraction", 1.25, "at most 1"),
        ("model.lora.rank", -1, "0 or more"),
        ("model.lora.rank", 8, "name it in model.pretrained"),
        ("model.lora.start", "a folder", "needs model.lora.rank"),
        ("model.lora.targets", ("attention", "norm"), "'norm' is not one of attention, mlp, query"),
        ("model.lora.targets", (), "should name a matrix"),
        ("model.lora.base", "int8", "a model that stays, which it does with model.lora.rank"),
        ("model.rematerialize_but", "products", "without model.rematerialize products stay anyway"),
        ("model.weights", "float16", "not one of float32, bfloat16"),
        ("ppo.optimizer.name", "sgd", "not one of adamw, adamw_8bit, adafactor, muon"),
        ("model.layer_pattern", ("global", "wide"), "'wide' is not one of global, local, nope"),
        ("model.layer_pattern", (), "should name the kind of one layer"),
        ("model.layer_pattern", "local", "should be a tuple of str"),
        ("model.window", 16, "model.layer_pattern global: local layers have a window, and only they"),
        ("mesh.fsdp", 0, "positive, or -1"),
        ("mesh.fsdp", -2, "positive, or -1"),
        ("mesh.tensor", -1, "positive"),
        ("ppo.batch_size", 513, "not divisible by ppo.minibatches"),
        ("sft.batch_size", 127, "not divisible by sft.microbatches"),
        ("reward.batch_size", 63, "not divisible by reward.microbatches"),
        ("dpo.batch_size", 63, "not divisible by dpo.microbatches"),
        ("dpo.label_smoothing", 0.5, "below 0.5"),
        ("dpo.margin", 2.0, "read by dpo.algorithm=simpo and not by dpo: leave it at 1.0"),
        ("distill.batch_size", 127, "not divisible by distill.microbatches"),
        ("policies", ("ppo", "sft"), "'sft' is not one of dpo, distill, ppo"),
        ("policies", (), "should name a stage"),
        ("policies", ("dpo,ppo",), """ppo; several are --config.policies="('dpo', 'ppo')\""""),
        ("ppo.ensemble", "mean", "set reward.seeds to 2 or more"),
        ("reward.shared_head", True, "set reward.seeds to 2 or more"),
        ("sft.batchsize", 64, "did you mean sft.batch_size"),
        ("ppo.optimizer.learningrate", 1e-3, "did you mean ppo.optimizer.learning_rate"),
    ],
)
def test_the_wrong_field_is_named(name, value, why):
    config = config_with(name, value)
    for stage in (config.sft, config.reward, config.dpo, config.distill, config.ppo):
        stage.microbatches = 2
    with pytest.raises(ConfigError) as error:
        validate(config)
    assert str(error.value).startswith(f"{name}: ") and why in str(error.value)
    assert "\n" not in str(error.value)


def test_an_integer_is_good_where_a_float_is_declared():
    validate(config_with("sft.epochs", 2))


def test_a_rotary_model_has_no_longest_context():
    config = config_with("model.context", 8)
    config.model.positions = "rotary"
    validate(config)


def test_a_context_too_short_for_query_and_response_is_told():
    with pytest.raises(
        ConfigError, match="model.context: 512 is shorter than query and response, 640 tokens"
    ):
        check_context(Config(), ModelConfig(context=512))
    check_context(Config(), ModelConfig(context=640))
    check_context(Config(), ModelConfig(context=512, positions="rotary"))
    longrope = RotaryConfig(scaling="longrope")  # whose frequencies are others beyond its context
    with pytest.raises(ConfigError, match="model.context: 512 is shorter"):
        check_context(Config(), ModelConfig(context=512, positions="rotary", rotary=longrope))


def test_a_text_beyond_what_a_rotary_model_was_trained_at_is_told(capsys):
    config, model = Config(), ModelConfig(context=512, positions="rotary")
    check_context(config, model)  # trained here, at whatever the texts have
    config.model.pretrained = "some/model"
    check_context(config, dataclasses.replace(model, context=640))
    assert not capsys.readouterr().err
    check_context(config, model)
    told = "model.context: query and response, 640 tokens, go beyond the 512 that this model was trained at\n"
    assert capsys.readouterr().err == told


def test_a_context_too_short_for_the_examples_of_a_prompt_is_told():
    config = Config(model=ModelConfig(pretrained="some/model"))
    needed = 3 * (512 + 53 + 8) + 53  # two examples and the post, then a response
    with pytest.raises(ConfigError, match=f"eval.shots: a prompt with 2 examples .* {needed} tokens"):
        check_context(config, ModelConfig(context=needed - 1))
    check_context(config, ModelConfig(context=needed))


def test_what_an_optimizer_does_not_read_stays_at_its_default():
    config = Config()
    config.reward.optimizer = OptimizerConfig(name="adafactor", weight_decay=0.1)
    validate(config)
    config.reward.optimizer.beta1 = 0.5
    readers = "adamw and adamw_8bit and muon"
    told = f"reward.optimizer.beta1: 0.5 is read by {readers} and not by adafactor: leave it at 0.9"
    with pytest.raises(ConfigError, match=f"^{told}$"):
        validate(config)


@pytest.mark.parametrize(
    "fields, told",
    [
        ({"algorithm": "remax"}, "ppo.algorithm: 'remax' is not one of ppo, rloo, grpo, reinforce"),
        ({"samples": 0}, "ppo.samples: 0 should be positive"),
        ({"samples": 3}, "ppo.samples: 3 do not divide ppo.batch_size 512"),
        ({"samples": 4, "rollout_rows": 2}, "ppo.rollout_rows: 2 is no multiple of the 4 of ppo.samples"),
        ({"algorithm": "rloo"}, "ppo.samples: rloo compares responses to one prompt: 2 or more, not 1"),
        ({"algorithm": "grpo"}, "ppo.samples: grpo compares responses to one prompt: 2 or more, not 1"),
        ({"algorithm": "reinforce", "batch_size": 1}, "ppo.batch_size: reinforce compares the responses"),
        (
            {"algorithm": "reinforce", "lam": 0.9},
            "ppo.lam: 0.9 is read by ppo.algorithm=ppo and not by reinfo",
        ),
        ({"algorithm": "rloo", "samples": 2, "gamma": 0.9}, "ppo.gamma: 0.9 is read by ppo.algorithm=ppo"),
        ({"algorithm": "rloo", "samples": 2, "divide_by_std": False}, "ppo.divide_by_std: False is read by"),
        ({"algorithm": "grpo", "samples": 2, "value_coef": 1.0}, "ppo.value_coef: 1.0 is read by ppo.algor"),
        ({"algorithm": "grpo", "samples": 2, "clip_value": 1.0}, "ppo.clip_value: 1.0 is read by ppo.algor"),
        ({"algorithm": "grpo", "samples": 2, "whiten_rewards": True}, "ppo.whiten_rewards: True is read by"),
        ({"divide_by_std": False}, "ppo.divide_by_std: False is read by ppo.algorithm=grpo and not by ppo"),
        ({"ratio": "sequence", "loss_mean": "rows"}, "ppo.ratio: sequence needs one advantage a response"),
        ({"algorithm": "rloo", "samples": 2, "ratio": "sequence"}, "ppo.ratio: with sequence every response"),
        (
            {"algorithm": "grpo", "samples": 2, "ratio": "gspo", "loss_mean": "constant"},
            "ppo.ratio: with gspo every response weighs the same",
        ),
        ({"algorithm": "online_dpo"}, "ppo.samples: online_dpo compares responses to one prompt: 2 or more"),
        ({"algorithm": "online_dpo", "samples": 2, "kl_coef": 0.0}, "ppo.kl_coef: with 0 the loss of"),
        (
            {"algorithm": "online_dpo", "samples": 2, "loss_mean": "rows"},
            "ppo.loss_mean: the loss of online_dpo, of pairs and with its own KL penalty, does not read it",
        ),
        ({"loss_mean": "constant"}, "ppo.loss_mean: constant is not for ppo, which has a value loss"),
        ({"kl_in": "loss"}, "ppo.kl_estimator: in the loss the gradient of k1 is 0 on average"),
        (
            {"kl_in": "loss", "kl_estimator": "k3", "kl_controller": "adaptive"},
            "ppo.kl_controller: adaptive changes the weight of the penalty in the reward",
        ),
    ],
)
def test_settings_of_ppo_that_make_no_sense_together_are_told(fields, told):
    config = Config()
    config.ppo = dataclasses.replace(config.ppo, **fields)
    with pytest.raises(ConfigError) as error:
        validate(config)
    assert str(error.value).startswith(told) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"samples": 4},
        {"kl_in": "loss", "kl_estimator": "k2"},
        {"algorithm": "reinforce"},
        {"algorithm": "online_dpo", "samples": 2},
        {"algorithm": "rloo", "samples": 2, "ratio": "sequence", "loss_mean": "rows"},
        {"algorithm": "grpo", "samples": 8, "kl_in": "loss", "kl_estimator": "k3", "loss_mean": "rows"},
        {"algorithm": "grpo", "samples": 8, "divide_by_std": False, "loss_mean": "constant"},
        {"algorithm": "grpo", "samples": 8, "ratio": "gspo", "loss_mean": "rows"},
    ],
)
def test_published_algorithms_are_valid(fields):
    config = Config()
    config.ppo = dataclasses.replace(config.ppo, **fields)
    validate(config)


def test_all_responses_to_a_prompt_share_a_microbatch():
    config = config_with("ppo.samples", 4)
    config.ppo.microbatches = 128
    validate(config)
    config.ppo.microbatches = 256  # which 512 episodes would fill
    told = "ppo.batch_size: 512 / ppo.samples 4 = 128 is not divisible by ppo.minibatches"
    with pytest.raises(ConfigError, match=told):
        validate(config)


def test_muon_is_of_whole_matrices():
    config = Config()
    config.sft.optimizer.name = "muon"
    validate(config)
    config.model.pretrained, config.model.lora.rank = "a folder", 8
    with pytest.raises(ConfigError, match=r"^sft\.optimizer\.name: muon is of whole matrices"):
        validate(config)


def test_adapters_have_no_frozen_networks_that_could_wait_on_the_host():
    config = Config()
    config.ppo.frozen_on_host = True
    validate(config)
    config.model.pretrained, config.model.lora.rank = "a folder", 8
    with pytest.raises(ConfigError, match=r"^ppo\.frozen_on_host: with model\.lora\.rank"):
        validate(config)


@pytest.mark.parametrize(
    "field, value, told",
    [("best_of", 1, "of one response none is chosen"), ("prompts", 8, "8 fill no batch")],
)
def test_distillation_has_something_to_choose_and_a_batch(field, value, told):
    config = Config()
    setattr(config.distill, field, value)
    with pytest.raises(ConfigError, match=rf"^distill\.{field}: {told}"):
        validate(config)
