import dataclasses

import pytest

from rlhf_jax.config import Config
from rlhf_jax.pipeline import stages


@pytest.mark.parametrize("algorithm", ["ppo", "rloo", "grpo", "reinforce"])
def test_a_run_is_called_by_its_algorithm(algorithm):
    config = Config()
    config.ppo = dataclasses.replace(config.ppo, algorithm=algorithm)
    name = algorithm.upper()
    assert stages.find("ppo").about(config) == {"label": name, "networks": {"ppo": name}}


def test_no_other_label_depends_on_the_configuration():
    for stage in stages.STAGES:
        if stage.name != "ppo":
            networks = {name: left.label for name, left in stage.networks.items()}
            assert stage.about(Config()) == {"label": stage.label, "networks": networks}
