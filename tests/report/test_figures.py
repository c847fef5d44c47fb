from rlhf_jax.report.figures import figures


def test_figures_have_dotted_names_and_keep_their_intervals():
    results = {
        "split": "test",
        "posts": 500,
        "preference_over_reference": {"ppo": {"rate": 0.9, "stderr": 0.01, "low": 0.88, "high": 0.92}},
        "policies": {"ppo": {"rouge": {"rougeL": 0.25}, "preference_at_equal_length": None}},
        "notes": ["one"],
        "likert": None,
    }
    assert figures(results) == {
        "posts": {"value": 500},
        "preference_over_reference.ppo": {"value": 0.9, "low": 0.88, "high": 0.92},
        "policies.ppo.rouge.rougeL": {"value": 0.25},
    }


def test_an_interval_that_stands_apart_comes_to_its_figure():
    accuracy = {"value": 0.7, "low": 0.6, "high": 0.8}
    results = {"reward_model": {"valid_accuracy": 0.7, "intervals": {"valid_accuracy": accuracy}}}
    assert figures(results) == {"reward_model.valid_accuracy": accuracy}
