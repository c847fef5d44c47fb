from rlhf_jax.config import Config, fields_of


def test_names_are_dotted_and_distinct():
    names = [name for name, _, _ in fields_of(Config())]
    assert "ppo.optimizer.learning_rate" in names and "seed" in names and len(names) == len(set(names))
