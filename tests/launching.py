"""Stand-ins of the tools that launch/ drives, which record what they are asked."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(ROOT.glob("launch/*.sh"))
BASICS = "basename bash cat cksum date dirname find grep ls nohup rm sed setsid sleep sort"
TOOLS = "docker env gcloud git mkdir nvidia-smi sbatch scancel scontrol srun xpk"
AWKWARD = [
    "--config=configs/mini.py",
    "two words",
    "it's",
    'a "b"',
    "$HOME",
    "*",
    "back\\slash",
    "",
    "a\nb",
    "é;&|#!",
]

# Records its arguments; answers as answers.json says: {words of the command line: [[output, status], …]}, of
# which the last is repeated. A run that is only checked is always there, and not recorded.
STAND_IN = """
import json, os, sys
name = sys.argv[0] if sys.argv[0].startswith(".venv") else os.path.basename(sys.argv[0])
if "--check" in sys.argv:
    print("gs://bucket/run: ppo")
else:
    with open("{home}/calls.jsonl", "a") as file:
        file.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
answers = json.load(open("{home}/answers.json"))
for words, rows in answers.items():
    if words in " ".join([name, *sys.argv[1:]]):
        output, status = rows[0]
        if len(rows) > 1:
            answers[words] = rows[1:]
            json.dump(answers, open("{home}/answers.json", "w"))
        print(output, end="")
        sys.exit(status)
"""
LIST, STATUS = "queued-resources list", "worker.sh status"
POD = {"PROJECT": "my project", "ZONE": "us-east5-a", "TPU": "v5p-128", "PAUSE": "0"}
GKE = {
    "PROJECT": "my-project",
    "ZONE": "us-east5-a",
    "TPU": "v5p-128",
    "CLUSTER": "pod",
    "IMAGE": "images/rlhf",
}


@dataclass
class Ran:
    status: int
    out: str
    err: str
    calls: list[list[str]]  # since the world began


class World:
    """A copy of launch/ in a folder with a space in its name; a PATH of stand-ins and a few real tools."""

    def __init__(self, home: Path):
        self.home = home
        self.repository = home / "a repository"
        shutil.copytree(ROOT / "launch", self.repository / "launch")
        (home / "bin").mkdir()
        for name in BASICS.split():
            (home / "bin" / name).symlink_to(shutil.which(name) or name)
        for name in (*TOOLS.split(), "rlhf-jax"):
            self.stand_in(home / "bin" / name)
        (self.repository / ".venv/bin").mkdir(parents=True)
        (self.repository / "runs").mkdir()
        for name in ("python", "rlhf-jax"):
            self.stand_in(self.repository / ".venv/bin" / name)
        self.answer({})

    def stand_in(self, file: Path, text: str = STAND_IN) -> None:
        """A program of Python; its first lines are shell as well, since #! takes no path with a space."""
        file.unlink(missing_ok=True)
        start = "#!/bin/sh\n'''exec' \"{python}\" -IS \"$0\" \"$@\"\n' '''\n"
        file.write_text((start + text).format(python=sys.executable, home=self.home))
        file.chmod(0o755)

    def answer(self, answers: dict[str, list]) -> None:
        """A row is an output, or (output, exit status)."""
        rows = {
            words: [[row, 0] if isinstance(row, str) else row for row in rows]
            for words, rows in answers.items()
        }
        (self.home / "answers.json").write_text(json.dumps(rows))

    def environment(self, **variables: str) -> dict[str, str]:
        return {"PATH": str(self.home / "bin"), "HOME": str(self.home), "LC_ALL": "C.UTF-8", **variables}

    def run(self, script: str, *arguments: str, **variables: str) -> Ran:
        command = ["bash", self.repository / "launch" / script, *arguments]
        done = subprocess.run(
            command,
            env=self.environment(**variables),
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Ran(done.returncode, done.stdout, done.stderr, self.calls())

    def calls(self) -> list[list[str]]:
        file = self.home / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def verbs(calls: list[list[str]]) -> list[str]:
    """What was asked of the slice and its workers, a word each."""
    patterns = [r"queued-resources (\w+)", r"worker\.sh (\w+)", r"tpu-vm (scp)", r"--command=(\w+)"]
    lines = [" ".join(call) for call in calls if call[0] == "gcloud"]
    return [next(found[1] for pattern in patterns if (found := re.search(pattern, line))) for line in lines]


def commands(printed: str) -> list[list[str]]:
    """Printed commands as a shell splits them; a quoted word may hold a line break."""
    lexer = shlex.shlex(printed, posix=True, punctuation_chars="\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " ", True, ""
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) == {"\n"}:
            found.append([])
        else:
            found[-1].append(word)
    return [words for words in found if words]


def remote_command(calls: list[list[str]]) -> str:
    return next(word for word in calls[-1] if word.startswith("--command=")).removeprefix("--command=")


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
