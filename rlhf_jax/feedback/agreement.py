"""How far people agree about which of two summaries is better, as the paper counts it.

rlhf-jax agreement runs/mini/comparisons.jsonl [FILE…] [--json=agreement.json]

FILE                comparisons as OpenAI publishes them, or a table of your own with votes or workers
--columns=OLD:NEW,… other names for the columns of tables, as data.columns
--researchers=A,B   the workers who are researchers; all others are labelers
--threshold=0.6     who agrees with the others less often than this is named in a warning
--json=FILE         where to write the same figures

An answer is for the first (1–4), for the second (6–9) or a tie (5). Ties are left out, and of several
answers of one person about one pair of summaries the newest counts. Agreement is the share of equal
answers

- over every two people who judged the same pair (`agreement`, and Cohen's kappa of all of them in
  one table), and
- of each answer with the modal answer of the others about that pair (`modal`), unless they are evenly
  divided. Between labelers and researchers: of a labeler's answer with the researchers' modal answer.

Krippendorff's alpha is that of nominal values. Intervals are of 95%, by bootstrap over tasks; for one
person Wilson's.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import permutations

import numpy as np
from absl import flags

from rlhf_jax.command_line import command
from rlhf_jax.data import own_records, recognise, tables
from rlhf_jax.data.columns import Columns, parse_columns
from rlhf_jax.data.preferences import Preference
from rlhf_jax.data.records import Comparison, RecordError
from rlhf_jax.feedback import estimates, quality
from rlhf_jax.feedback.choices import EVERYONE, TIE, Answer, newest_answers
from rlhf_jax.files import write_json

ENOUGH = 30  # answers, to say how one person's agreement moves
RELATIONS = (("labeler", "researcher"), ("labeler", "labeler"), ("researcher", "researcher"))


Groups = dict[str, list[Answer]]  # task → the answers about it, ties left out


def summary(answers: Iterable[Answer], threshold: float = 0.6, resamples: int = 1000) -> dict:
    """All figures, as plain JSON values; None stands where there is nothing to count.

    People are warned about as quality.py says, of agreement below `threshold`.
    """
    newest = newest_answers(answers)
    groups = {task: group for task, group in decided(newest).items() if len(group) > 1}
    workers = sorted({answer.worker for answer in newest})
    people = [person([a for a in newest if a.worker == one], groups) for one in workers]
    for one in people:
        one["warnings"] = quality.warnings(one, newest, threshold)
    return {
        "answers": len(newest),
        "ties": sum(answer.choice == TIE for answer in newest),
        "tasks": len({answer.task for answer in newest}),
        "shared_tasks": len(groups),
        "agreement": {f"{a}_{b}": relation(groups, a, b, resamples) for a, b in RELATIONS},
        "alpha": {role: alpha(groups, [role], resamples) for role in EVERYONE}
        | {"everyone": alpha(groups, EVERYONE, resamples)},
        "people": people,
        "threshold": threshold,
        "warnings": [warning for one in people for warning in one["warnings"]] + quality.colluding(newest),
    }


def decided(answers: Iterable[Answer]) -> Groups:
    groups = defaultdict(list)
    for answer in answers:
        if answer.choice != TIE:
            groups[answer.task].append(answer)
    return groups


def relation(groups: Groups, role: str, other: str, resamples: int) -> dict | None:
    """Agreement of people of one role with those of another, or among themselves."""
    tables = np.array([pair_table(group, role, other) for group in groups.values()]).reshape(-1, 2, 2)
    tables = tables[tables.sum((1, 2)) > 0]
    if not len(tables):
        return None
    hits = []
    for group in groups.values():
        own = [answer for answer in group if answer.role == role]
        agreed = [answer.side == side for answer, side in judged(own, groups, [other])]
        hits.append([sum(agreed), len(agreed)])
    equal = estimates.rate([[np.trace(table), table.sum()] for table in tables], resamples)
    return {
        "tasks": len(tables),
        "pairs": int(tables.sum()),
        "agreement": equal,
        "kappa": estimates.kappa(tables.sum(0), equal),
        "modal": estimates.rate(hits, resamples),
    }


def pair_table(group: Sequence[Answer], role: str, other: str) -> list[list[int]]:
    """How many pairs of people took side i (of `role`) and side j (of `other`), [2, 2].

    Within one role, the person whose name comes first stands in the rows.
    """
    table = [[0, 0], [0, 0]]
    for a, b in permutations(group, 2):
        if (a.role, b.role) == (role, other) and (role != other or a.worker < b.worker):
            table[a.side][b.side] += 1
    return table


def judged(answers: Iterable[Answer], groups: Groups, roles: Collection[str]) -> Iterator[tuple[Answer, int]]:
    """Each answer with the modal side of the other people of these roles, where it and they have one."""
    for answer in answers:
        if answer.choice != TIE:
            others = [a for a in groups.get(answer.task, []) if a.worker != answer.worker and a.role in roles]
            if (side := modal_side(others)) is not None:
                yield answer, side


def modal_side(answers: Iterable[Answer]) -> int | None:
    """The side that most took; None where they are evenly divided, or none."""
    lead = sum(1 if answer.side else -1 for answer in answers)
    return None if lead == 0 else int(lead > 0)


def alpha(groups: Groups, roles: Collection[str], resamples: int) -> dict | None:
    """Krippendorff's alpha among people of these roles."""
    sides = [[a.side for a in group if a.role in roles] for group in groups.values()]
    counts = np.array([[taken.count(0), taken.count(1)] for taken in sides if len(taken) > 1])
    return estimates.alpha(counts, resamples)


def person(answers: Sequence[Answer], groups: Groups) -> dict:
    """Figures of one person, of all their answers in the order of time."""
    by_others, by_researchers = (list(judged(answers, groups, roles)) for roles in (EVERYONE, ["researcher"]))
    agreed = np.array([answer.side == side for answer, side in by_others], bool)
    seconds = [answer.seconds for answer in answers if answer.seconds is not None]
    in_order = len({answer.created for answer, _ in by_others}) > 1
    drift = estimates.drift(agreed) if in_order and len(agreed) >= ENOUGH else None
    return {
        "worker": answers[-1].worker,
        "role": answers[-1].role,
        "answers": len(answers),
        "ties": sum(answer.choice == TIE for answer in answers),
        "median_seconds": float(np.median(seconds)) if seconds else None,
        "modal": estimates.wilson(agreed),
        "with_researchers": estimates.wilson(np.array([a.side == s for a, s in by_researchers], bool)),
        "drift": drift,
    }


def answers_of(comparisons: Iterable[Comparison], researchers: Collection[str] = ()) -> list[Answer]:
    """The answers in OpenAI's records, which hold no ties, and seconds only where the site has written them.

    A pair is the same whichever summary comes first. `extra.confidence` is the choice where it lies on
    the side of the record's own `choice` (1–4 for 0, 6–9 for 1); OpenAI's mapping is not published.
    """
    answers = []
    for comparison in comparisons:
        sure = range(6, 10) if comparison.choice else range(1, 5)
        confidence = comparison.extra.get("confidence", 0)
        choice = confidence if confidence in sure else 6 if comparison.choice else 4
        role = "researcher" if comparison.worker in researchers else "labeler"
        first, second = (one.text for one in comparison.summaries)
        if first > second:  # the task's own order is that of its texts
            choice, first, second = 10 - choice, second, first
        longer = None if len(first) == len(second) else int(len(second) > len(first))
        taken = comparison.extra.get("seconds")
        seconds = taken if isinstance(taken, int | float) else None
        answers.append(
            Answer(task_of(comparison), comparison.worker, role, choice, seconds=seconds, longer=longer)
        )
    return answers


def task_of(comparison: Comparison) -> str:
    """A name of a text and two summaries of it, in whichever order."""
    texts = sorted(one.text for one in comparison.summaries)
    return hashlib.sha256(json.dumps([comparison.info.id, *texts]).encode()).hexdigest()[:16]


def table(figures: dict) -> str:
    """What `summary` returns, as text."""
    lines = [
        "{answers:,} answers, {ties:,} of them ties; {tasks:,} pairs, {shared_tasks:,} decided by "
        "several people".format(**figures),
        "",
        f"{'':24}{'pairs':>7}  {'agreement, %':20}{'kappa':23}with the modal answer, %",
    ]
    for name, found in figures["agreement"].items():
        found = found or {"tasks": 0, "agreement": None, "kappa": None, "modal": None}
        lines.append(
            f"{name.replace('_', '–'):24}{found['tasks']:7,}  {percent(found['agreement']):20}"
            f"{number(found['kappa']):23}{percent(found['modal'])}"
        )
    lines += ["", "Krippendorff's alpha"]
    lines += [f"{name:24}{'':9}{number(found)}" for name, found in figures["alpha"].items()]
    width = max([24, *(len(one["worker"]) + 2 for one in figures["people"])])
    lines += ["", f"{'':{width}}{'answers':>7}  {'ties':<6}{'seconds':9}{'modal answer, %':20}change"]
    for one in figures["people"]:
        seconds = "–" if one["median_seconds"] is None else f"{one['median_seconds']:.0f}"
        change = f"{100 * one['drift']['value']:+.0f} points" if one["drift"] else "–"
        lines.append(
            f"{one['worker']:{width}}{one['answers']:7,}  {one['ties']:<6,}{seconds:9}"
            f"{percent(one['modal']):20}{change}"
        )
    lines += [f"warning: {warning}" for warning in figures["warnings"]]
    return "\n".join(lines)


def percent(found: dict | None) -> str:
    return "{value:.1%} ({low:.1%}–{high:.1%})".format(**found).replace("%", "") if found else "–"


def number(found: dict | None) -> str:
    return "{value:.2f} ({low:.2f} to {high:.2f})".format(**found) if found else "–"


def main(argv: list[str]) -> int:
    def run() -> None:
        files, options = _parse(argv)
        columns = parse_columns(options.columns)
        comparisons = [comparison for file in files for comparison in _read(file, columns)]
        figures = summary(answers_of(comparisons, options.researchers), options.threshold)
        strangers = set(options.researchers) - {comparison.worker for comparison in comparisons}
        figures["warnings"] += [f"--researchers: no answer is of {name}" for name in sorted(strangers)]
        if options.json:
            write_json(options.json, figures)
        print(table(figures))

    return command(argv, run)


def _read(file: str, columns: Columns) -> list[Comparison]:
    """The comparisons in a table; tells what was found where that is not all that stands in it."""
    found = recognise.read(tables.rows(file, columns))
    judged = [one for one in found.examples if isinstance(one, Comparison | Preference)]
    if not judged:
        raise RecordError(f"{file}: {found}; these are no comparisons")
    if found.left_out:
        print(f"{file}: {found}\n")
    return list(own_records.comparisons(judged, "train"))


def _parse(argv: list[str]) -> tuple[list[str], flags.FlagValues]:
    options = flags.FlagValues()
    flags.DEFINE_string("columns", "", "other names for columns, old:new", flag_values=options)
    flags.DEFINE_list("researchers", [], "workers who are researchers", flag_values=options)
    flags.DEFINE_float("threshold", 0.6, "agreement to warn below", 0.0, 1.0, flag_values=options)
    flags.DEFINE_string("json", None, "file to write", flag_values=options)
    files = options(argv)[1:]
    if not files:
        raise flags.Error("no file of comparisons given; --help shows the usage")
    return files, options
