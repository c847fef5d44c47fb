"""2. Comparisons: which of two responses is better? (Stiennon et al. 2020, §3.2 and §3.3)

Where people were asked, this stage only reads their answers, so that a faulty file is reported before hours
of training. A task with simulated labelers asks them: policies of the run write responses, every two of them
meet equally often on posts that take turns (pipeline/ask.py), and the labelers say which they prefer. Their
choices are kept in OpenAI's format in `<workdir>/comparisons.jsonl`. The labelers know a gold judge, which
chooses no text and no pair: their choices are all that a model sees of it.
"""

from collections import Counter
from pathlib import Path

import jax

from rlhf_jax.config import Config
from rlhf_jax.data import task as tasks
from rlhf_jax.data.comparisons import TEMPERATURE, comparisons_of_run, halved
from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.data.records import Comparison
from rlhf_jax.data.visible import has_text
from rlhf_jax.feedback.tasks import comparison_of
from rlhf_jax.mesh import make_mesh
from rlhf_jax.pipeline import ask
from rlhf_jax.run import hosts

LEAST_HELD_OUT = 500  # pairs of valid1 and of valid2


def run(config: Config, workdir: Path) -> None:
    """Leaves `comparisons.jsonl` where labelers are simulated, and checks the comparisons that there are."""
    file = workdir / "comparisons.jsonl"
    if asks_simulated(config) and not hosts.from_first("comparisons", file.exists):
        made = simulated(config, workdir)
        if hosts.is_first():
            write_jsonl(file, made)
        hosts.gather("the comparisons")
    comparisons = comparisons_of_run(config, workdir)
    splits = Counter(comparison.split for comparison in comparisons)
    blank = sum(not has_text(one.summaries[one.choice].text) for one in comparisons)
    if blank:
        print(f"collect: in {blank:,} of {len(comparisons):,} comparisons the preferred text is blank")
    print(f"collect: {', '.join(f'{count:,} comparisons in {split}' for split, count in splits.items())}")


def asks_simulated(config: Config) -> bool:
    """Whether the task has simulated labelers, and no file says what people chose."""
    return bool(tasks.find(config.data, config.seed).labelers) and not config.data.comparisons


def simulated(config: Config, workdir: Path) -> list[Comparison]:
    """What simulated labelers say of the responses of the run's policies and of people.

    `mini_pairs` pairs in train; a twentieth of that, LEAST_HELD_OUT at least, in valid1 and in valid2.
    """
    task, data = tasks.find(config.data, config.seed), config.data
    assert task.labelers
    posts = halved(task.records())
    held_out = max(LEAST_HELD_OUT, data.mini_pairs // 20)
    asked = []
    with jax.set_mesh(make_mesh(config.mesh)):
        names = data.mini_policies
        policies = ask.find_policies(names, config, workdir, TEMPERATURE, "data.mini_policies")
        for split, count in {"train": data.mini_pairs, "valid1": held_out, "valid2": held_out}.items():
            for pair in ask.draw(policies, posts[split], count, config.seed):
                asked.append(comparison_of(pair, choice=0, split=split, batch="mini"))
    return task.labelers.answer(asked)
