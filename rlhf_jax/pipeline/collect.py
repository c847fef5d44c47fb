"""2. Comparisons: which of two responses is better? (Stiennon et al. 2020, §3.2 and §3.3)

Where people were asked, this stage only reads their answers, so that a faulty file is reported before hours
of training. Where none were, a task with simulated labelers asks them: the fine-tuned policy writes
responses, pairs of them and of others are made, and the labelers say which they prefer. Their choices are
kept in OpenAI's format in `<workdir>/comparisons.jsonl`. The miniature's labelers know a gold judge, which
also has a say in what they are asked: of pairs that it calls close, or whose winner their form betrays, all
or most are left out.
"""

from collections import Counter
from pathlib import Path

import jax

from rlhf_jax import inference
from rlhf_jax.config import Config
from rlhf_jax.data import task as tasks
from rlhf_jax.data.comparisons import TEMPERATURE, comparisons_of_run
from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.data.records import Comparison
from rlhf_jax.data.visible import has_text
from rlhf_jax.mesh import make_mesh
from rlhf_jax.run import hosts


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
    """What simulated labelers say of the fine-tuned policy's responses and of others."""
    with jax.set_mesh(make_mesh(config.mesh)):
        policy = inference.load(workdir, "sft", config=config)
        assert policy.task.labelers
        return policy.task.labelers.compare(
            lambda records, count: policy.samples(records, count, TEMPERATURE, config.seed)
        )
