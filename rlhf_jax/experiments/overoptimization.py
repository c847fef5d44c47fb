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

from collections.abc import Sequence

import numpy as np
from absl import flags
from etils.epath import Path

from rlhf_jax.config import Settings, changed
from rlhf_jax.evaluation import best_of_n
from rlhf_jax.experiments.command import Opened, branch, command, numbers, write_figures
from rlhf_jax.experiments.written import by_best_of_n, by_policy, figures_of, pool_of, scores_of
from rlhf_jax.report.paper_figures import overoptimization_figure

KL_COEFS = "0.5,0.2,0.1,0.05,0.02,0.01,0.003,0.001"
PERCENTILE = 99  # of the references' scores; where the paper's policies were best


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
    """The PPO run of one coefficient."""
    settings: Settings = {"ppo.kl_coef": kl_coef, "ppo.kl_controller": "fixed"}
    if episodes:
        settings["ppo.episodes"] = episodes
    branch(run, folder_of(run.workdir, kl_coef), changed(run.config, settings), "ppo")


def measure(run: Opened, kl_coefs: Sequence[float], count: int, pool: int) -> dict:
    """All figures, as plain JSON values."""
    unseen = run.unseen()
    posts = unseen[:count]
    with run.on_mesh():
        references = scores_of(run, unseen, [record.reference for record in unseen])
        policies = []
        for kl_coef in kl_coefs:
            written = by_policy(run, run.network("ppo", folder_of(run.workdir, kl_coef)), posts)
            policies.append({"kl_coef": kl_coef} | figures_of(run, written, references))
        pooled = pool_of(run, posts, pool)
    best = [
        {"n": n, "kl_closed_form": best_of_n.closed_form_kl(n)}
        | figures_of(run, by_best_of_n(pooled, n), references)
        for n in (2**i for i in range(pool.bit_length()))
    ]
    return {
        "seed": run.config.seed,
        "posts": len(posts),
        "pool": pool,
        "temperature": run.config.eval.temperature,
        "percentile": PERCENTILE,
        "reference_percentile": float(np.percentile(references["reward model"], PERCENTILE)),
        "ppo": policies,
        "best_of_n": best,
    }
