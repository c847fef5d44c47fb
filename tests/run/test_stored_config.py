import json

import pytest
from tiny import config_with

from rlhf_jax.config import Config, ConfigError, ModelConfig, RotaryConfig
from rlhf_jax.run.stored_config import differences, from_dict, to_dict, upgraded


def test_every_leaf_survives_json():
    assert differences(Config(), json.loads(json.dumps(to_dict(Config())))) == []


@pytest.mark.parametrize(
    "name, value",
    [("seed", 7), ("ppo.optimizer.warmup", 7), ("data.query_buckets", (512,)), ("reward.batches", ("b3",))],
)
def test_one_changed_field_is_the_one_difference(name, value):
    (line,) = differences(config_with(name, value), to_dict(Config()))
    assert line.startswith(f"{name}: ")


def test_a_field_that_has_come_since_counts_as_its_default():
    stored = to_dict(Config())
    del stored["ppo"]["lam"]
    assert differences(Config(), stored) == []
    assert differences(config_with("ppo.lam", 0.9), stored) == ["ppo.lam: 0.95 → 0.9"]


def test_a_field_that_is_no_longer_there_is_a_difference():
    stored = to_dict(Config())
    stored["ppo"]["lambda"] = 0.95
    assert differences(Config(), stored) == ["ppo.lambda: 0.95 → absent"]


def test_a_configuration_survives_its_dictionary():
    config = Config(seed=3, model=ModelConfig(rotary=RotaryConfig(0.25, scaling="linear", factor=2.0)))
    config.reward.batches = ("batch3", "batch4")
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    with pytest.raises(ConfigError, match="ppo.colour: no such field"):
        from_dict({"ppo": {"colour": "red"}})


def test_a_gated_activation_of_an_older_version_is_read_as_two_fields():
    stored = to_dict(Config())
    stored["model"]["activation"] = "silu_gated"
    del stored["model"]["gated"]
    assert from_dict(upgraded(stored)) == Config(model=ModelConfig(activation="silu", gated=True))
    assert stored["model"]["activation"] == "silu_gated"  # what was handed in stays


@pytest.mark.parametrize("stored", [to_dict(Config()), {"seed": 1}, {"model": "small"}])
def test_what_is_of_today_stays_as_it_is(stored):
    assert upgraded(stored) == stored
