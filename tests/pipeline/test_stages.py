import dataclasses

import pytest

from rlhf_jax.config import Config
from rlhf_jax.pipeline import stages


@pytest.mark.parametrize(
    ("algorithm", "name"),
    [
        ("ppo", "PPO"),
        ("rloo", "RLOO"),
        ("grpo", "GRPO"),
        ("reinforce", "REINFORCE"),
        ("online_dpo", "online DPO"),
    ],
)
def test_a_run_is_called_by_its_algorithm(algorithm, name):
    config = Config()
    config.ppo = dataclasses.replace(config.ppo, algorithm=algorithm)
    assert stages.find("ppo").about(config) == {"label": name, "networks": {"ppo": name}}


@pytest.mark.parametrize(("algorithm", "name"), [("dpo", "DPO"), ("ipo", "IPO"), ("simpo", "SimPO")])
def test_so_is_what_learned_from_pairs_directly(algorithm, name):
    config = Config()
    config.dpo = dataclasses.replace(config.dpo, algorithm=algorithm)
    assert stages.find("dpo").about(config) == {"label": name, "networks": {"dpo": name}}


def test_no_other_label_depends_on_the_configuration():
    for stage in stages.STAGES:
        if stage.name not in ("dpo", "ppo"):
            networks = {name: left.label for name, left in stage.networks.items()}
            assert stage.about(Config()) == {"label": stage.label, "networks": networks}


def test_a_run_trains_the_policies_that_it_is_asked_for():
    config = Config(policies=("ppo", "distill", "dpo"))
    assert stages.planned(config) == stages.names()
    config.policies = ("dpo",)
    assert stages.planned(config) == ["sft", "collect", "reward", "dpo", "eval"]
    config.ppo.reward = "own.py:f"  # by which evaluation measures: DPO needs people's pairs alone
    assert stages.planned(config) == ["sft", "collect", "dpo", "eval"]
    config.policies = ("distill",)
    assert stages.planned(config) == ["sft", "distill", "eval"]
