from rlhf_jax.data.records import Comparison, Post, Summary
from rlhf_jax.experiments.probes import edits


def test_edits_are_the_comparisons_of_editors():
    post = Post("1", "pets", "t", "p")

    def comparison(batch, policy, choice):
        summaries = Summary("first", "ref"), Summary("second", policy)
        return Comparison(post, summaries, choice, "w", batch, "train")

    records = [("site", "edit", 1), ("edit_b2_eval_test", "sup", 0), ("batch3", "sup", 0)]
    found = edits([comparison(*record) for record in records])
    assert found == [(post, "second", "first"), (post, "first", "second")]
