"""Human comparisons: finding, selecting, and what a reward model reads of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from etils.epath import Path

from rlhf_jax.config import Config, DataConfig
from rlhf_jax.data import recognise, tables
from rlhf_jax.data.download import download
from rlhf_jax.data.own_tables import gather
from rlhf_jax.data.record_json import read_comparisons
from rlhf_jax.data.records import Comparison, Record, RecordError
from rlhf_jax.files import matching, named_by

PUBLISHED = (
    *(f"batch{i}" for i in (*range(3, 21), 22)),
    *("batch0_cnndm", "cnndm0", "cnndm2", "edit_b2_eval_test"),
)

TEMPERATURE = 1.0  # of samples to compare: more varied than PPO's, so that the reward model sees more


class Pair(NamedTuple):
    """Two summaries of one text, the preferred one first."""

    info: Record
    chosen: str
    rejected: str


def comparisons_of_run(config: Config, workdir: Path) -> list[Comparison]:
    """The comparisons of a run: those collected in its folder, or those that its configuration names."""
    file = workdir / "comparisons.jsonl"
    if file.exists():
        return list(read_comparisons(file))
    return load_comparisons(config.data, config.reward.batches)


def load_comparisons(data: DataConfig, batches: Sequence[str] = ()) -> list[Comparison]:
    """The comparisons of a configuration: all, or those to train on of some labelling batches alone.

    They come from the tables of `data.files`, where there are some, or from those of the folder or glob
    `data.comparisons`; where that is empty, from OpenAI's files, downloaded to `data.cache`.
    """
    place = data.files or data.comparisons
    if data.files:
        found = gather(data).comparisons
    elif data.comparisons:
        found = [comparison for path in _find(data.comparisons) for comparison in _read(path)]
    else:
        place = Path(data.cache).expanduser() / "comparisons"
        found = list(_published(data.url, place))
    there = {comparison.batch for comparison in found if comparison.split == "train"}
    if missing := set(batches) - there:
        names = ", ".join(map(repr, sorted(missing)))
        raise RecordError(
            f"{place}: no comparisons to train on of batch {names}; there are {', '.join(sorted(there))}."
            """ --config.reward.batches="('a','b')" selects, --config.reward.batches="()" takes all"""
        )
    return [one for one in found if not batches or one.split != "train" or one.batch in batches]


def pairs_to_learn(comparisons: Iterable[Comparison]) -> dict[str, list[Pair]]:
    """Those of `train`, and those of `valid1`, by which one of several reward models is chosen.

    Raises RecordError where there are none.
    """
    found = list(comparisons)
    pairs = {split: pairs_of(found, split) for split in ("train", "valid1")}
    for split in pairs:
        if not pairs[split]:
            raise RecordError(
                f"no comparisons of split {split}; a reward model needs some of train and of valid1 "
                "(data.files, data.comparisons, reward.batches)"
            )
    return pairs


def pairs_of(comparisons: Iterable[Comparison], split: str | None = None) -> list[Pair]:
    """The pairs of one split (train, valid1, valid2), or of all, in order."""
    return [
        Pair(c.info, c.summaries[c.choice].text, c.summaries[1 - c.choice].text)
        for c in comparisons
        if split in (None, c.split)
    ]


def _published(url: str, folder: Path) -> Iterator[Comparison]:
    """Those of OpenAI's files, which are downloaded to `folder`."""
    for name in PUBLISHED:
        yield from _read(download(f"{url}/dataset/comparisons/{name}.json", folder / f"{name}.json"))


def _read(path: Path) -> Iterable[Comparison]:
    if path.suffix in (".json", ".jsonl"):
        return read_comparisons(path)
    found = recognise.read(tables.rows(path))
    if not isinstance(found.examples[0], Comparison):
        raise RecordError(f"{path}: {found}; comparisons have info, summaries and choice (or use data.files)")
    return found.examples


def _find(pattern: str) -> list[Path]:
    paths = named_by(pattern)
    if len(paths) == 1 and paths[0].is_dir():
        paths = [path for path in matching(paths[0], "*") if path.name.endswith(tuple(tables.READERS))]
    if not paths:
        raise RecordError(f"{pattern}: no *.json, *.jsonl or other tables there (data.comparisons)")
    return paths


def halved(records: Mapping[str, Sequence[Record]]) -> dict[str, Sequence[Record]]:
    """The records by the splits of comparisons, to which valid1 and valid2, the halves of valid, belong."""
    half = len(records["valid"]) // 2
    return {**records, "valid1": records["valid"][:half], "valid2": records["valid"][half:]}
