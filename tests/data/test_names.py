import pytest

from rlhf_jax.data.names import spoken, titled


@pytest.mark.parametrize(
    "name, told, heading",
    [
        ("ppo", "PPO", "PPO"),
        ("base", "pretrained", "Pretrained"),
        ("best_of_16", "best of 16", "Best of 16"),
        ("rougeL", "ROUGE-L", "ROUGE-L"),
        ("10_people", "10 people", "10_people"),
    ],
)
def test_names_are_told_in_words(name, told, heading):
    assert (spoken(name), titled(name)) == (told, heading)


def test_a_run_has_names_for_its_own_networks():
    labels = {"student": "a student", "ppo": "PPO, longer"}
    assert spoken("student", labels) == "a student" and titled("student", labels) == "A student"
    assert titled("ppo", labels) == "PPO, longer" and titled("sft", labels) == "SFT"
