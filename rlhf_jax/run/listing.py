"""What `rlhf-jax checkpoint` says of the checkpoints in a work folder, on disk or gs://.

rlhf-jax checkpoint list WORKDIR      every step: size, date, state, which one later stages read
rlhf-jax checkpoint verify WORKDIR    reads every file; exit status 1 if one is not what was written
rlhf-jax checkpoint show WORKDIR [--training=ppo] [--step=100]    what the steps hold

`list` looks whether the files are there, `verify` at what they hold. A step is "set aside" after a run
has found it damaged. `show` takes the step that later stages read, unless --step names another.
"""

import json
import math
from datetime import datetime

from absl import flags
from etils.epath import Path
from tqdm import tqdm

from rlhf_jax.command_line import command
from rlhf_jax.run import steps
from rlhf_jax.run.steps import DAMAGED, MANIFEST, META, SHAPES, CheckpointError


def main(argv: list[str]) -> int:
    """Exit status: 0; 1 where `verify` finds anything; 2 after an error of use, told in one line."""
    damaged: list[str] = []
    status = command(argv, lambda: run(argv, damaged))
    return status or (1 if damaged else 0)


def run(argv: list[str], damaged: list[str]) -> None:
    options = flags.FlagValues()
    flags.DEFINE_string("training", None, "the training to show, such as ppo", flag_values=options)
    flags.DEFINE_integer("step", None, "the step to show", flag_values=options)
    wanted, *places = options(argv)[1:] or [""]
    if wanted not in ("list", "verify", "show") or len(places) != 1:
        raise flags.Error("list, verify or show and a work folder are wanted; --help shows the usage")
    workdir = Path(places[0])
    if wanted == "list":
        list_steps(workdir)
    elif wanted == "verify":
        damaged += verify(workdir)
    else:
        show(workdir, options.training, options.step)


def list_steps(workdir: Path) -> None:
    """A line a step."""
    folders = steps.trainings(workdir)
    print(f"{'training':<14}{'step':>9}{'size':>11}  {'written':<17} state")
    for folder in folders:
        preferred = steps.by_preference(folder)
        for path in steps.step_folders(folder):
            sizes = [(path / name).stat() for name in steps.files(path)]
            when = datetime.fromtimestamp(max((stat.mtime for stat in sizes), default=0))
            size = human(sum(stat.length for stat in sizes))
            said = _standing(path, preferred)
            print(f"{folder.name:<14}{path.name:>9}{size:>11}  {when:%Y-%m-%d %H:%M}  {said}")


def verify(workdir: Path) -> list[str]:
    """Hashes every file of every finished step; what is damaged or not of a step, one line each."""
    damaged = []
    for folder in steps.trainings(workdir):
        for path in steps.step_folders(folder):
            if not (path / MANIFEST).exists():
                said = "was set aside as damaged" if (path / DAMAGED).exists() else "was never finished"
            else:
                total = sum((path / name).stat().length for name in steps.files(path))
                with tqdm(total=total, desc=str(path), unit="B", unit_scale=True, leave=False) as bar:
                    fault = steps.fault(path, told=bar.update)
                said = f"is damaged: {fault}" if fault else f"is whole, {human(total)}"
                if not fault and (others := steps.strangers(path)):
                    said += f", but holds what is not of it: {', '.join(others)}"
            print(f"{path} {said}", flush=True)
            if "damaged" in said or "not of it" in said:
                damaged.append(said)
    return damaged


def show(workdir: Path, training: str | None, step: int | None) -> None:
    """Arrays and plain values of the trainings, or of the one that is named."""
    folders = steps.trainings(workdir)
    names = [folder.name for folder in folders]
    if training and training not in names:
        raise CheckpointError(f"--training={training}: {workdir} has {', '.join(names) or 'none'}")
    for folder in folders:
        if training not in (None, folder.name):
            continue
        preferred = steps.by_preference(folder)
        if step is not None and step not in preferred:
            raise CheckpointError(
                f"--step={step}: {folder} has {', '.join(map(str, sorted(preferred))) or 'none'}"
            )
        if preferred:
            _show_step(folder / str(preferred[0] if step is None else step))


def _show_step(path: Path) -> None:
    fault = steps.fault(path, lambda names: [name for name in names if name in (META, SHAPES)])
    if fault:
        raise CheckpointError(f"checkpoint {path} is damaged ({fault})")
    shapes = steps.read_json(path / SHAPES)
    dtypes = shapes.pop("dtypes", {})  # which steps of earlier versions do not tell
    print(path)
    for item, arrays in shapes.items():
        count = sum(math.prod(shape) for shape in arrays.values())
        print(f"  {item}: {len(arrays)} arrays, {count:,} numbers")
        for name, shape in arrays.items():
            print(f"    {name}  {dtypes.get(item, {}).get(name, '')}{shape}")
    print(f"  meta: {json.dumps(steps.read_json(path / META))}\n")


def _standing(path: Path, preferred: list[int]) -> str:
    """State of a step, and its place among the others."""
    if (path / DAMAGED).exists():
        return "damaged, set aside"
    if not (path / MANIFEST).exists():
        return "unfinished"
    gone = steps.fault(path, lambda names: [name for name in names if not (path / name).is_file()])
    if gone:
        return f"damaged: {gone}"
    step, marks = int(path.name), ["whole"]
    if step == max(preferred):
        marks.append("newest")
    if step == preferred[0] and (best := steps.best(path)):
        marks.append(best)
    if step == preferred[0]:
        marks.append("read by later stages")
    return ", ".join(marks)


def human(size: float) -> str:
    """Bytes for people: 1.5 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
