"""A look at the texts of a run before anything is written, so that what is wrong with them is told at once.

The stages read all of them later, and find what is left to find.
"""

from collections.abc import Collection, Iterator, Sequence
from os import PathLike

from rlhf_jax.config import Config
from rlhf_jax.data import task as tasks
from rlhf_jax.data.batches import DistillPlan, DpoPlan, PairPlan, QueryPlan, SftPlan
from rlhf_jax.data.comparisons import load_comparisons, pairs_to_learn
from rlhf_jax.data.records import Example, Record, with_reference
from rlhf_jax.data.visible import has_text

OF_PAIRS = {"reward": PairPlan, "dpo": DpoPlan}  # stages that learn from comparisons
FIRST = 20  # records of a split that are encoded, beside those that speak in other roles


def look(config: Config, wanted: Collection[str]) -> list[Record]:
    """Reads what the stages that are `wanted` will read; some records of every kind, for `encode`.

    Texts that are generated or published are as they should be, and are left to the stages. Raises what these
    would raise: RecordError for a row that cannot be used, BatchError for too few rows.
    """
    task, data = tasks.find(config.data, config.seed), config.data
    learned = [stage for stage in OF_PAIRS if stage in wanted]
    if learned and (data.files or data.comparisons):
        pairs = pairs_to_learn(load_comparisons(data, config.reward.batches))
        for stage in learned:
            OF_PAIRS[stage].full_batches(len(pairs["train"]), getattr(config, stage).batch_size)
    if not data.posts and "files" in task.unread:
        return []
    records, queries = task.records(), task.queries()
    if "sft" in wanted:
        if not any(has_text(record.reference) for record in records["train"]):
            with_reference(records["train"], "sft")  # raises
        if not config.sft.pack:
            SftPlan.full_batches(len(records["train"]), config.sft.batch_size)
    if "distill" in wanted and not config.distill.pack:
        DistillPlan.full_batches(min(len(queries), config.distill.prompts), config.distill.batch_size)
    if "ppo" in wanted:
        QueryPlan.full_batches(len(queries), config.ppo.prompts)
    return [record for each in (*records.values(), queries) for record in _some(each)]


def encode(config: Config, records: Sequence[Record], place: PathLike[str] | None) -> None:
    """Encodes prompts and references by the tokenizer of the folder `place`, or the one that `config` names.

    Raises what that raises: ConfigError for a chat template that is missing or does not compile, RecordError
    for a conversation that it refuses. A tokenizer that is to be trained is not looked at.
    """
    task = tasks.find(config.data, config.seed)
    tokenizer = task.given_tokenizer(place)
    if tokenizer is not None:
        task.encode_prompts(records, tokenizer)
        references = [record.reference for record in records if has_text(record.reference)]
        task.encode_responses(references, tokenizer, config.data.response_tokens)


def _some(records: Sequence[Record]) -> Iterator[Record]:
    """The first ones, and the first of each sequence of roles, of which templates refuse some."""
    seen = set()
    for i, record in enumerate(records):
        if i < FIRST or _roles(record) not in seen:
            yield record
        seen.add(_roles(record))


def _roles(record: Record) -> tuple[str, ...]:
    """Who speaks in a prompt, in turn: nobody in one that is a text."""
    prompt = record.prompt if isinstance(record, Example) else ""
    return () if isinstance(prompt, str) else tuple(turn.role for turn in prompt)
