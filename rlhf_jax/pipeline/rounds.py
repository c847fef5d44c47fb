"""Stage round: ask people, train on all they said so far, ask them about what came of it (§3.1, figure 2).

Round k is a run of its own in `<workdir>/rounds/<k>`, which starts with the SFT policy of `workdir`:

    tasks.jsonl        pairs that people are asked to compare: in round 1 of samples of the SFT policy and
                       references, later also of samples of the PPO policy of the round before
    collected/         what they said, as `rlhf-jax answers` writes it
    comparisons.jsonl  that of rounds 1 to k, which the reward model is trained on
    checkpoints/, results.json, report.html, …  of stages reward, ppo and eval

The stage goes on until it waits for people, and says so; in the miniature the simulated labelers
answer at once. Stopped at any point, it resumes. `<workdir>/rounds.html` shows all rounds.

Departure from the paper: PPO starts from the SFT policy in every round.
"""

from dataclasses import replace

import jax
from etils.epath import Path

from rlhf_jax.config import Config
from rlhf_jax.data import task as tasks
from rlhf_jax.data.comparisons import TEMPERATURE
from rlhf_jax.data.record_json import read_comparisons, read_jsonl, write_jsonl
from rlhf_jax.data.records import Comparison, RecordError, with_reference
from rlhf_jax.data.task import Labelers, Splits
from rlhf_jax.data.visible import has_text
from rlhf_jax.feedback.splits import by_hash
from rlhf_jax.feedback.tasks import comparison_of
from rlhf_jax.mesh import make_mesh
from rlhf_jax.pipeline import ask, stages
from rlhf_jax.report.rounds_page import write_rounds_report
from rlhf_jax.run import checkpoint, fork
from rlhf_jax.run import workdir as runs

COLLECTED = "collected/comparisons.jsonl"


def run(config: Config, workdir: Path) -> None:
    """Goes through the rounds that are not finished, until one waits for people."""
    if jax.process_count() > 1:
        raise ask.TaskError("stage round runs on one host; the stages of a round run on many, one by one")
    if not stages.scores_by_model(config):
        raise ask.TaskError("stage round asks people for a reward model: put model into ppo.reward")
    if "ppo" not in config.policies:
        raise ask.TaskError("stage round asks people about PPO's policy: put ppo into policies")
    checkpoint.require(workdir, "sft")
    task = tasks.find(config.data, config.seed)
    if not folder_of(workdir, 1).exists():
        check_references(task.records())
    for number in range(1, len(config.rounds.pairs) + 1):
        folder = folder_of(workdir, number)
        if not runs.stage_done(folder, "eval"):
            runs.open_workdir(folder, config)
            fork.take_over(workdir, folder, {"sft": "sft"}, stages.STAGES)
            if not (folder / "tasks.jsonl").exists():
                write_jsonl(folder / "tasks.jsonl", draw(config, workdir, number))
            if task.labelers and not (folder / COLLECTED).exists():
                write_jsonl(folder / COLLECTED, simulate(folder, task.labelers))
            if not (folder / COLLECTED).exists():
                print(waiting(workdir, number))
                return
            if not (folder / "comparisons.jsonl").exists():
                write_jsonl(folder / "comparisons.jsonl", gather(workdir, number))
            print(f"round {number} of {len(config.rounds.pairs)}: {folder}", flush=True)
            stages.run_stages(config, folder)
        write_rounds_report(workdir, number)
    print(f"all {len(config.rounds.pairs)} rounds are finished (rounds.pairs): {workdir / 'rounds.html'}")


def check_references(records: Splits) -> None:
    """Raises TaskError where policies have no references to be compared with, by people or in evaluation."""
    for split in ("train", "test" if records.get("test") else "valid"):
        if not any(has_text(record.reference) for record in records[split]):
            raise ask.TaskError(
                f"stage round compares policies with references, and no record of {split} has one: add "
                "some, or go through the stages once, without --stage=round"
            )


def folder_of(workdir: Path, number: int) -> Path:
    return workdir / "rounds" / str(number)


def draw(config: Config, workdir: Path, number: int) -> list[dict]:
    """The pairs that a round asks about, of training posts; none was asked about before."""
    policies = ["sft", "sft", ask.REFERENCE]
    if number > 1:
        before = folder_of(workdir, number - 1) / "checkpoints" / "ppo"
        newest = f"ppo_round{number - 1}:{before}"
        policies = [newest, newest, "sft", ask.REFERENCE]
    asked = ask.asked_in(folder_of(workdir, earlier) / "tasks.jsonl" for earlier in range(1, number))
    task = tasks.find(config.data, config.seed)
    posts = with_reference(task.records()["train"], "round")
    posts = task.filtered(posts, task.load_tokenizer(workdir))
    with jax.set_mesh(make_mesh(config.mesh)):
        found = ask.find_policies(policies, config, workdir, TEMPERATURE)
        pairs = ask.draw(found, posts, config.rounds.pairs[number - 1], config.seed, asked)
    return [pair | {"batch": batch_of(number)} for pair in pairs]


def batch_of(number: int) -> str:
    return f"round{number}"


def simulate(folder: Path, labelers: Labelers) -> list[Comparison]:
    """What simulated labelers say of a round's tasks, of which a post has the same split in every round."""
    asked = list(read_jsonl(folder / "tasks.jsonl", lambda line: comparison_of(line, choice=0)))
    return [
        replace(answer, batch=one.batch, split=one.split or by_hash(one.info.id))
        for one, answer in zip(asked, labelers.answer(asked), strict=True)
    ]


def gather(workdir: Path, number: int) -> list[Comparison]:
    """What people said in this round and all before; each export may hold the others' answers too."""
    found = []
    for each in range(1, number + 1):
        file = folder_of(workdir, each) / COLLECTED
        own = [comparison for comparison in read_comparisons(file) if comparison.batch == batch_of(each)]
        if not own:
            raise RecordError(
                f"{file}: no comparisons of batch {batch_of(each)}; is it the export of that round?"
            )
        found += own
    return found


def waiting(workdir: Path, number: int) -> str:
    """What to do where a round waits for people."""
    folder, store = folder_of(workdir, number), workdir / "feedback.sqlite"
    return (
        f"round {number} waits for people. Ask them, export what they said, and run this command again:\n"
        f"  rlhf-jax serve --tasks={folder / 'tasks.jsonl'} --store={store}\n"
        f"  rlhf-jax answers --store={store} --out={(folder / COLLECTED).parent}"
    )
