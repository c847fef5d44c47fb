"""Learning to summarize from human feedback, in JAX.

The pipeline, in the order of the files:

    records → queries            data/       posts, comparisons, tokenizer, batches; the miniature
    SFT                          sft.py      fine-tune on human summaries
    comparisons → reward model   reward.py   Bradley–Terry on pairs of summaries
    rollout → PPO                rollout.py, ppo.py   one compiled iteration, KL penalty included
    evaluation → report          evaluation/ preference against the reference, report.html

Everything is one decoder-only transformer (`model/transformer.py`) with other parameters and a
few short formulas (`functional/`).

Letters in array shapes: B rows, Q query tokens, R response tokens, T tokens of a whole row,
V vocabulary, D width, H key-value heads, G query heads a key-value head, K head dimension,
F hidden units, L layers, N samples.
"""
