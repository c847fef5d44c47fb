"""Does the product run on this card as it stands, and how long does each stage take?

python -m benchmarks.accelerator.product --out=FOLDER [--dry] [--seconds=N]

demo      configs/mini.py by `rlhf-jax run`, stage by stage, and what came out; FOLDER/mini_report.html
one_gpu   a model of SmolLM2's 135M shape with random weights in bfloat16, N+'s batches, and invented posts
          as long as real ones: some steps of SFT, reward model and PPO

The times are those of whole processes, so that starting and compiling count.
"""

import dataclasses
import functools
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.accelerator import shapes
from benchmarks.accelerator.part import Group, Part, main, read, run_process
from benchmarks.compare import ROOT
from rlhf_jax.config import Config
from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.data.records import Comparison, Post, Summary
from rlhf_jax.pipeline import stages
from rlhf_jax.recipes import n_plus
from rlhf_jax.training.metrics import read_metrics

WORDS = 1000  # that invented posts are made of: about a token each
SMALLER = (  # of the demo, for dry runs
    "data.mini_posts=300",
    "data.mini_pairs=256",
    "data.mini_test=80",
    "sft.bigger_pretrained=",
    "ppo.episodes=128",
    "ppo.batch_size=64",
    "eval.posts=16",
    "eval.best_of=2",
)
CONFIG = """from benchmarks.accelerator import product


def get_config():
    return product.configuration({folder!r}, {dry})
"""


def demo(part: Part) -> None:
    config = ROOT / "configs" / "mini.py"
    with tempfile.TemporaryDirectory(prefix="accelerator_") as temporary:
        workdir = Path(temporary) / "mini"
        run_stages(part, config, workdir, tuple(stages.names()), SMALLER if part.dry else ())
        part.measure("results", functools.partial(results, workdir))
        if (workdir / "report.html").exists():
            shutil.copy(workdir / "report.html", part.folder / "mini_report.html")


def run_stages(part: Part, config: Path, workdir: Path, names: tuple[str, ...], fields=()) -> None:
    """Each as a process of its own, until one fails."""
    for stage in names:
        command = [sys.executable, "-m", "rlhf_jax", "run", f"--config={config}", f"--workdir={workdir}"]
        command += [f"--stage={stage}", *(f"--config.{field}" for field in fields)]

        def run(command: list[str] = command) -> dict:
            fault = run_process(command, part.left, {})
            if fault:
                raise RuntimeError(fault)
            return {}

        if not part.measure(stage, run):
            return


def results(workdir: Path) -> dict:
    """What the README's table holds, and the reward model's agreement."""
    found = read(workdir / "results.json")
    return {
        "preferred": {
            name: [rate["rate"], rate["stderr"]] for name, rate in found["preference_over_reference"].items()
        },
        "key_fact": {name: figures.get("key_fact") for name, figures in found["policies"].items()},
        "reward_model": found["reward_model"],
        "ppo": found["ppo"],
    }


# One GPU -------------------------------------------------------------------------------------


def one_gpu(part: Part) -> None:
    with tempfile.TemporaryDirectory(prefix="accelerator_") as temporary:
        folder = Path(temporary)
        write_data(folder, part.dry)
        config = folder / "one_gpu.py"
        config.write_text(CONFIG.format(folder=str(folder), dry=part.dry), encoding="utf-8")
        workdir = folder / "run"
        run_stages(part, config, workdir, ("sft", "collect", "reward", "ppo"))
        for log in ("sft", "reward_seed0", "ppo"):
            part.measure(f"steps of {log}", functools.partial(steps, workdir / "metrics" / f"{log}.jsonl"))


def configuration(folder: str, dry: bool) -> Config:
    """N+'s for one GPU, on what `write_data` has written to the folder; all queries padded alike."""
    config = n_plus("", microbatches=2 if dry else 8)
    config.model = dataclasses.replace(shapes.TOY if dry else shapes.SMOLLM2, rematerialize=True)
    config.data.posts, config.data.comparisons = f"{folder}/posts", f"{folder}/comparisons"
    config.data.vocabulary = 512 if dry else 2048
    rows = 8 if dry else 128
    config.data.query_buckets = (512,)
    config.sft.batch_size, config.reward.batch_size, config.ppo.batch_size = rows, rows // 2, 4 * rows
    config.ppo.episodes = (1 if dry else 4) * config.ppo.batch_size
    for stage in (config.sft, config.reward, config.ppo):
        stage.optimizer.learning_rate = 1e-5
    return config


def write_data(folder: Path, dry: bool) -> None:
    """Posts and comparisons in OpenAI's formats, of random words."""
    rng = np.random.default_rng(0)
    syllables = [consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeiou"]
    words = ["".join(rng.choice(syllables, 3)) for _ in range(100 if dry else WORDS)]
    sizes = shapes.lengths()

    def text(count: int) -> str:
        return " ".join(rng.choice(words, max(count, 1)))

    def post(i: int) -> Post:
        query, response = sizes[i % len(sizes)]
        return Post(f"t{i}", "relationships", text(8), text(query - 40), text(response - 2))

    train = [post(i) for i in range(40 if dry else 1024)]
    for name, some in (("train", train), ("valid", train[:8]), ("test", train[:8])):
        write_jsonl(folder / "posts" / f"{name}.jsonl", some)
    comparisons = [
        Comparison(post, (Summary(post.summary, "ref"), Summary(text(24), "sup")), i % 2, "w", "b", split)
        for split, count in (("train", len(train) // 2), ("valid1", 8))
        for i, post in enumerate(train[:count])
    ]
    write_jsonl(folder / "comparisons" / "pairs.json", comparisons)


def steps(log: Path) -> dict:
    """Of the steps after the first two: the first compiles, and the second is measured from its end."""
    records = read_metrics(log) if log.exists() else []
    if not records:
        raise RuntimeError("no step was logged")
    rates = [name for name in records[-1] if name.endswith("_per_second")]
    rest = records[2:] or records[-1:]
    shown = ("loss", "objective/kl", "objective/score", "policy/ratio", "skipped")
    return {
        "steps": len(records),
        "median": {name: median(record[name] for record in rest) for name in rates},
        "last": {name: records[-1][name] for name in shown if name in records[-1]},
    }


GROUPS = {"demo": Group(demo, seconds=180), "one_gpu": Group(one_gpu)}

if __name__ == "__main__":
    sys.exit(main(sys.argv, __doc__, GROUPS))
