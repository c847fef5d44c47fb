"""The event files that TensorBoard reads.

Written in the caller's thread: tensorboardX's own writer has another one, and waits for it for ever once a
full disk has ended that. To be imported where a log is opened: the library brings a cloud client with it.
"""

import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils.epath import Path
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import hparams, text


class EventFile:
    """A new file in a folder; what older ones there say of `resume_step` and later is void."""

    def __init__(self, folder: Path, resume_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._writer = RecordWriter(str(file))
        self._write(file_version="brain.Event:2")
        self._write(step=resume_step, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step=step, summary=Summary(value=scalars))

    def hyperparameters(self, step: int, fields: Mapping[str, Any], figures: Sequence[str] = ()) -> None:
        """What stands under HParams, beside the scalars that are named."""
        told = {
            name: value if isinstance(value, int | float) else str(value) for name, value in fields.items()
        }
        for summary in hparams(told, dict.fromkeys(figures)):
            self._write(step=step, summary=summary)

    def table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """What stands under Text."""
        lines = [columns, ["---"] * len(columns), *rows]
        cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in line] for line in lines]
        markdown = "\n".join(f"| {' | '.join(line)} |" for line in cells)
        self._write(step=step, summary=text(name, markdown))

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _write(self, **fields: Any) -> None:
        self._writer.write(Event(wall_time=time.time(), **fields).SerializeToString())
