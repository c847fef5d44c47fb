"""How far to optimize against a reward model: preference along KL (Stiennon et al. 2020, figure 5).

    rlhf-jax overoptimization --workdir=runs/mini

--workdir=FOLDER   a run with stages sft and reward finished; configuration and data are its own
--kl_coefs=LIST    the KL penalties (0.5,0.2,0.1,0.05,0.02,0.01,0.003,0.001): a PPO run for each
--episodes=N       of each of them; without it, the run's ppo.episodes
--posts=N          unseen posts that every policy summarizes (300)
--pool=N           (512) samples of the SFT policy for each of them, and the largest N of best-of-N

Every policy samples at eval.temperature. Its KL from the SFT policy is measured on those samples, and so
is how often a summary is preferred over the reference: by the reward model that it was trained against and,
where there are any, by the gold judge and by simulated people; and which errors the task finds in it.
Best-of-N is estimated for all N from one pool (evaluation/best_of_n.py), its KL in closed form and as the
scores of the pool show it.

The runs lie in `<workdir>/overoptimization/kl_<coefficient>/`; started again, they resume. The figures are
`<workdir>/overoptimization.json` and .png. Intervals are of 95%, by bootstrap over posts.
"""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from etils.epath import Path

from rlhf_jax.data.records import Record
from rlhf_jax.evaluation import best_of_n
from rlhf_jax.evaluation.intervals import Estimate, mean
from rlhf_jax.evaluation.judges import gold_scores
from rlhf_jax.evaluation.preference import outcomes
from rlhf_jax.experiments.command import Opened, command, numbers, write_figures
from rlhf_jax.pipeline import stages
from rlhf_jax.report.paper_figures import overoptimization_figure
from rlhf_jax.run import fork
from rlhf_jax.run import workdir as runs

KL_COEFS = "0.5,0.2,0.1,0.05,0.02,0.01,0.003,0.001"
PERCENTILE = 99  # of the references' scores; where the paper's policies were best

# "reward model", "gold judge" → a score of every summary; "people" → 1 where they prefer it to the reference
Scores = dict[str, np.ndarray]


def main(argv: list[str]) -> int:
    options = flags.FlagValues()
    flags.DEFINE_list("kl_coefs", KL_COEFS, "KL penalties", flag_values=options)
    flags.DEFINE_integer("episodes", None, "of each PPO run", 1, flag_values=options)
    flags.DEFINE_integer("posts", 300, "that policies summarize", 1, flag_values=options)
    flags.DEFINE_integer("pool", 512, "samples a post", 2, flag_values=options)

    def measure_and_draw(run: Opened) -> None:
        kl_coefs = numbers("kl_coefs", options.kl_coefs)
        for kl_coef in kl_coefs:
            train(run, kl_coef, options.episodes)
        figures = measure(run, kl_coefs, options.posts, options.pool)
        write_figures(run.workdir / "overoptimization.json", figures)
        overoptimization_figure([figures], run.workdir / "overoptimization.png")

    return command(argv, options, measure_and_draw)


def folder_of(workdir: Path, kl_coef: float) -> Path:
    return workdir / "overoptimization" / f"kl_{kl_coef:g}"


def train(run: Opened, kl_coef: float, episodes: int | None) -> None:
    """The PPO run of one coefficient; the run's own policy, where it was trained with that one."""
    episodes = episodes or run.config.ppo.episodes
    ppo = dataclasses.replace(run.config.ppo, kl_coef=kl_coef, kl_controller="fixed", episodes=episodes)
    config = dataclasses.replace(run.config, ppo=ppo)
    taken = ["sft", "collect", "reward"]
    if config == run.config and runs.stage_done(run.workdir, "ppo"):
        taken.append("ppo")
    folder = runs.open_workdir(folder_of(run.workdir, kl_coef), config)
    fork.take_over(run.workdir, folder, {stage: stage for stage in taken}, stages.STAGES)
    stages.run_stages(config, folder, ("ppo",))


def measure(run: Opened, kl_coefs: Sequence[float], count: int, pool: int) -> dict:
    """All figures, as plain JSON values."""
    unseen = run.unseen()
    with run.on_mesh():
        references = scores_of(run, unseen, [record.reference for record in unseen])
        policies = []
        for kl_coef in kl_coefs:
            policy = dataclasses.replace(run, workdir=folder_of(run.workdir, kl_coef))
            policies.append({"kl_coef": kl_coef} | policy_figures(policy, unseen[:count], references))
        pooled = pool_scores(run, unseen[:count], pool)
    return {
        "seed": run.config.seed,
        "posts": len(unseen[:count]),
        "pool": pool,
        "temperature": run.config.eval.temperature,
        "percentile": PERCENTILE,
        "reference_percentile": float(np.percentile(references["reward model"], PERCENTILE)),
        "ppo": policies,
        "best_of_n": [best_of_n_figures(pooled, references, 2**i) for i in range(pool.bit_length())],
    }


def scores_of(run: Opened, posts: Sequence[Record], texts: Sequence[str]) -> Scores:
    """What the reward model and, where there is one, the gold judge give every summary."""
    scores = {"reward model": run.score(posts, texts)}
    if judge := run.task.judge:
        scores["gold judge"] = gold_scores(judge, posts, texts)
    return scores


def verdicts_of(run: Opened, posts: Sequence[Record], texts: Sequence[str]) -> Scores:
    """The same, and which summaries people prefer to the reference, where there are people to ask."""
    references = [post.reference for post in posts]
    asked = {who: judge(posts, texts, references) for who, judge in run.truths.items() if who == "people"}
    return scores_of(run, posts, texts) | asked


def policy_figures(run: Opened, posts: Sequence[Record], references: Scores) -> dict[str, Any]:
    """Of the policy that stage ppo of a run ends with: KL, scores, preference and errors."""
    policy, temperature = run.network("ppo"), run.config.eval.temperature
    texts, kl = policy.samples_with_kl(run.network("sft"), posts, temperature, run.config.seed)
    said = told(verdicts_of(run, posts, texts), references, np.ones((len(posts), 1)))
    return {"kl": mean(kl)} | said | {"errors": errors(run, posts, texts)}


def told(scores: Scores, references: Scores, weights: np.ndarray) -> dict[str, dict[str, Estimate]]:
    """Mean scores and rates of preference of N summaries a post, whose `weights` [posts, N] add up to 1."""
    figures: dict[str, dict[str, Estimate]] = {"score": {}, "preference": {}}
    for who, given in scores.items():
        values = given.reshape(weights.shape)
        won = values
        if who != "people":
            figures["score"][who] = mean((weights * values).sum(axis=1))
            won = outcomes(values, references[who][: len(values), None])
        figures["preference"][who] = mean((weights * won).sum(axis=1))
    return figures


def errors(run: Opened, posts: Sequence[Record], texts: Sequence[str]) -> dict[str, Estimate]:
    """Kind → the share of summaries in which the task finds such an error."""
    found = [run.task.errors(post, text) for post, text in zip(posts, texts, strict=True)]
    return {kind: mean([one[kind] for one in found]) for kind in found[0]}


def pool_scores(run: Opened, posts: Sequence[Record], pool: int) -> Scores:
    """The scores [posts, pool] of the SFT policy's samples, kept on disk once they are made."""
    file = run.workdir / "overoptimization" / f"pool_{len(posts)}x{pool}.npz"
    if not file.exists():
        repeated = [post for post in posts for _ in range(pool)]
        texts = run.network("sft").write(repeated, run.config.eval.temperature, run.config.seed)
        made = verdicts_of(run, repeated, texts)
        written = io.BytesIO()
        shaped: Any = {name: scores.reshape(len(posts), pool) for name, scores in made.items()}
        np.savez(written, **shaped)
        file.write_bytes(written.getvalue())
    return dict(np.load(io.BytesIO(file.read_bytes())))


def best_of_n_figures(pool: Scores, references: Scores, n: int) -> dict[str, Any]:
    """The same of the best of `n` by the reward model, as the pool tells, with its KL in closed form."""
    rewards = pool["reward model"]
    weights = np.array([best_of_n.weights(scores, n) for scores in rewards])
    kl = {
        "kl_closed_form": best_of_n.closed_form_kl(n),
        "kl": mean([best_of_n.measured_kl(scores, n) for scores in rewards]),
    }
    return {"n": n} | kl | told(pool, references, weights)
