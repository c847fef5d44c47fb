"""How a study asks people: its kinds of task, instructions, axes and shares, from a TOML file.

    name = "Summaries of posts, round 1"
    instructions = "A good summary tells somebody who has not read the post …"
    kinds = ["comparison", "likert"]
    steps = ["interpret", "choose"]  # of a comparison; without "interpret" the post shows at once
    quota = 200                      # tasks a labeler does; 0: as many as there are
    calibration = 0.15               # share of them that everybody does
    people_per_task = 1              # people who do each of the other tasks
    batch = "round1"                 # of exported records whose task names none

    [[axes]]                         # of Likert tasks; without any, the paper's four
    name = "accuracy"
    question = "Does everything the summary says stand in the post?"
    low = "says what the post does not"
    high = "all of it stands in the post"

    [onboarding]
    records = "onboarding.jsonl"     # comparisons that researchers have answered, beside this file
    agreement = 0.7                  # share of their choices that a new labeler must reach
    seconds = 300                    # median time a task that the labeler must stay below

    [labelers."Ana"]                 # what one labeler does, by the name on the administrator's page
    quota = 50                       # in place of the study's
    kinds = ["comparison"]           # these of the study's kinds alone
    batches = ["round2"]             # tasks of these batches alone

Every field may be left out, `onboarding.records` alone not where there is an onboarding.
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

KINDS = ("comparison", "likert", "demonstration", "edit", "explanation")
STEPS = ("interpret", "choose")
INSTRUCTIONS = """\
A good summary tells somebody who has not read the post what the writer would want them to know: \
what happened, and what is asked. It is true to the post, leaves out what matters least, and reads \
well on its own.

Judge the summary, not the writer of the post. Where two summaries are equally good, say so. \
Take the time you need; ask when a task is unclear, the answer helps everybody."""


class StudyError(ValueError):
    """A study's settings that cannot be used; names file and field."""


@dataclass(frozen=True)
class Axis:
    """One quality that a Likert task rates from 1 (`low`) to 7 (`high`)."""

    name: str
    question: str
    low: str = "very bad"
    high: str = "could not be better"


AXES = (
    Axis(
        "coherence",
        "Read on its own, is the summary clear?",
        "impossible to follow",
        "clear at the first reading",
    ),
    Axis(
        "accuracy",
        "Does everything the summary says stand in the post?",
        "says what the post does not",
        "all of it stands in the post",
    ),
    Axis(
        "coverage",
        "Does the summary hold what somebody needs to know to understand the situation in the post?",
        "misses what matters",
        "nothing that matters is missing",
    ),
    Axis(
        "overall",
        "All in all, how well does the summary stand for the post?",
        "worse than none",
        "could not be better",
    ),
)


@dataclass(frozen=True)
class Onboarding:
    """The training set before real tasks: `records`, a file of answered comparisons, and the pass mark."""

    records: Path
    agreement: float = 0.7
    seconds: float = 300.0


@dataclass(frozen=True)
class Labeler:
    """What is given to one labeler. `quota` None: the study's; no kinds or batches: all of them."""

    quota: int | None = None
    kinds: tuple[str, ...] = ()
    batches: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """The settings of a labelling site; see the module's example."""

    name: str = "Summaries"
    instructions: str = INSTRUCTIONS
    kinds: tuple[str, ...] = ("comparison", "likert", "demonstration")
    steps: tuple[str, ...] = STEPS
    axes: tuple[Axis, ...] = AXES
    quota: int = 0
    calibration: float = 0.15
    people_per_task: int = 1
    batch: str = "site"
    onboarding: Onboarding | None = None
    labelers: Mapping[str, Labeler] = field(default_factory=dict)

    def quota_of(self, name: str) -> int:
        """Tasks that a labeler does; 0: as many as there are."""
        own = self.labelers.get(name, Labeler()).quota
        return self.quota if own is None else own


def read_study(path: Path) -> Study:
    """Raises StudyError naming the file and, for a bad setting, its field."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise StudyError(f"{path}: not UTF-8 text") from None
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits, or a list as deep
        raise StudyError(f"{path}: not TOML ({error})") from None
    try:
        study = _parse(Study, table, "", path.parent)
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from None
    if study.onboarding and "comparison" not in study.kinds:
        raise StudyError(f"{path}: field onboarding needs comparisons, which field kinds does not name")
    for name, labeler in study.labelers.items():
        for kind in labeler.kinds:
            if kind not in study.kinds:
                raise StudyError(
                    f"{path}: field labelers.{name}.kinds has {kind}, which field kinds does not name"
                )
    return study


def _parse(cls: type, table, where: str, folder: Path) -> Any:
    if not isinstance(table, dict):
        raise StudyError(f"field {where} should be a table")
    prefix = f"{where}." if where else ""
    names = {f.name for f in fields(cls)}
    for name in table:
        if name not in names:
            raise StudyError(f"field {prefix}{name} is not a setting; there are {', '.join(sorted(names))}")
    required = REQUIRED.get(cls, ())
    for name in required:
        if name not in table:
            raise StudyError(f"field {prefix}{name} is missing")
    return cls(
        **{name: PARSERS[cls, name](table[name], prefix + name, folder) for name in names & table.keys()}
    )


def _text(value, where: str, folder: Path) -> str:
    if not isinstance(value, str) or not value.strip():
        raise StudyError(f"field {where} should be a text, not {value!r}")
    return value


def _whole(least: int) -> Callable:
    def parse(value, where: str, folder: Path) -> int:
        if type(value) is not int or value < least:
            raise StudyError(f"field {where} should be a whole number from {least} up, not {value!r}")
        return value

    return parse


def _share(value, where: str, folder: Path) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise StudyError(f"field {where} should be a share from 0 to 1, not {value!r}")
    return float(value)


def _seconds(value, where: str, folder: Path) -> float:
    if type(value) not in (int, float) or not value > 0:
        raise StudyError(f"field {where} should be a number of seconds above 0, not {value!r}")
    return float(value)


def _some_of(known: tuple[str, ...]) -> Callable:
    def parse(value, where: str, folder: Path) -> tuple[str, ...]:
        if not isinstance(value, list) or not value or any(item not in known for item in value):
            raise StudyError(f"field {where} should be some of {', '.join(known)}, not {value!r}")
        return tuple(item for item in known if item in value)

    return parse


def _steps(value, where: str, folder: Path) -> tuple[str, ...]:
    if value not in (["choose"], list(STEPS)):
        raise StudyError(f'field {where} should be ["interpret", "choose"] or ["choose"], not {value!r}')
    return tuple(value)


def _axes(value, where: str, folder: Path) -> tuple[Axis, ...]:
    if not isinstance(value, list) or not value:
        raise StudyError(f"field {where} should be one or more tables [[{where}]]")
    axes = tuple(_parse(Axis, item, f"{where}[{i}]", folder) for i, item in enumerate(value))
    if len({axis.name for axis in axes}) < len(axes):
        raise StudyError(f"field {where} names an axis twice")
    return axes


def _texts(value, where: str, folder: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise StudyError(f"field {where} should be a list of one or more texts, not {value!r}")
    return tuple(_text(item, f"{where}[{i}]", folder) for i, item in enumerate(value))


def _labelers(value, where: str, folder: Path) -> dict[str, Labeler]:
    if not isinstance(value, dict):
        raise StudyError(f"field {where} should be tables [{where}.NAME]")
    return {name: _parse(Labeler, table, f"{where}.{name}", folder) for name, table in value.items()}


def _axis_name(value, where: str, folder: Path) -> str:
    if not isinstance(value, str) or not value.isidentifier():
        raise StudyError(f"field {where} should be one word, such as accuracy, not {value!r}")
    return value


def _beside(value, where: str, folder: Path) -> Path:
    return folder / _text(value, where, folder)


def _onboarding(value, where: str, folder: Path) -> Onboarding:
    return _parse(Onboarding, value, where, folder)


REQUIRED = {Axis: ("name", "question"), Onboarding: ("records",)}
PARSERS: dict[tuple[type, str], Callable] = {
    (Study, "name"): _text,
    (Study, "instructions"): _text,
    (Study, "kinds"): _some_of(KINDS),
    (Study, "steps"): _steps,
    (Study, "axes"): _axes,
    (Study, "quota"): _whole(0),
    (Study, "calibration"): _share,
    (Study, "people_per_task"): _whole(1),
    (Study, "batch"): _text,
    (Study, "onboarding"): _onboarding,
    (Study, "labelers"): _labelers,
    (Labeler, "quota"): _whole(0),
    (Labeler, "kinds"): _some_of(KINDS),
    (Labeler, "batches"): _texts,
    (Axis, "name"): _axis_name,
    (Axis, "question"): _text,
    (Axis, "low"): _text,
    (Axis, "high"): _text,
    (Onboarding, "records"): _beside,
    (Onboarding, "agreement"): _share,
    (Onboarding, "seconds"): _seconds,
}
