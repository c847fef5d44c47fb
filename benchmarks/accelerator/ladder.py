"""The miniature's base models, all sizes at once on the same documents, pretrained on this card.

python -m benchmarks.accelerator.ladder --out=FOLDER [--dry] [--seconds=N]

bases    `rlhf-jax pretrain` as it stands: how fast it reads, and what each base passed at its gates;
         FOLDER/bases.tar, with what the last save left where the time did not suffice
"""

import functools
import os
import sys
import tarfile
import tempfile
from pathlib import Path

from benchmarks.accelerator.part import Group, Part, main, read, run_process
from rlhf_jax.pipeline import pretrain
from rlhf_jax.training.metrics import read_metrics

SHORT = ("--sizes=tiny", "--tokens=10000", "--save_every=2", "--pairs=10")  # of dry runs
RESERVED = 10.0  # seconds, to pack what there is


def bases(part: Part) -> None:
    with tempfile.TemporaryDirectory(prefix="accelerator_") as temporary:
        folder = Path(temporary)
        command = [sys.executable, "-m", "rlhf_jax", "pretrain", f"--out={folder}"]
        command += SHORT if part.dry else [f"--workers={max((os.cpu_count() or 2) - 2, 1)}"]

        def run() -> dict:
            fault = run_process(command, part.left - RESERVED, {})
            if fault and not any(folder.glob("*/gates.json")):
                raise RuntimeError(fault)
            return {"ended": fault or "passed all gates"}

        part.measure("pretrain", run)
        part.measure("speed", lambda: speed(folder))
        with tarfile.open(part.folder / "bases.tar", "w") as packed:
            for size in (size for size in pretrain.SIZES if (folder / size).exists()):
                packed.add(folder / size, size)
                if (gates := folder / size / "gates.json").exists():
                    part.measure(size, functools.partial(read, gates))


def speed(folder: Path) -> dict:
    """Of all sizes together; the first updates compile."""
    records = read_metrics(folder / "metrics" / "pretrain.jsonl")
    rates = sorted(record["tokens_per_second"] for record in records[2:])
    return {"updates": len(records), "tokens_per_second": rates[len(rates) // 2]}


GROUPS = {"bases": Group(bases)}

if __name__ == "__main__":
    sys.exit(main(sys.argv, __doc__, GROUPS))
