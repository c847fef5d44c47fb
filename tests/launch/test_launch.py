"""The scripts of launch/ against stand-ins of the tools they drive, which record what they are asked."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from launching import AWKWARD, GKE, LIST, POD, ROOT, SCRIPTS, STATUS, World, commands, remote_command, until
from packaging.requirements import Requirement


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# --- what all scripts share ---


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script):
    tool = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if tool is None:
        pytest.skip("shellcheck is not installed")
    found = subprocess.run([tool, "--external-sources", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    "name", ["tpu_pod.sh", "worker.sh", "gke.sh", "slurm.sh", "gpu.sh", "skypilot.yaml", "Dockerfile"]
)
def test_head_says_what_what_it_costs_and_how(name):
    lines = [
        line for line in (ROOT / "launch" / name).read_text().splitlines()[:4] if not line.startswith("#!")
    ]
    assert all(line.startswith("# ") for line in lines[:3])
    assert re.search(r"billed|charged|price|[Cc]osts", lines[1])
    assert "launch/" in lines[2] and ("--" in lines[2])


def test_extras_are_those_of_the_package():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {
        word for file in ROOT.glob("launch/*") for word in re.findall(r"\bEXTRA[=:] ?(\w+)", file.read_text())
    }
    assert named == {"cuda", "tpu"} and named <= set(extras)


def test_what_ci_runs_is_what_the_package_asks_for():
    """Every dependency has a lower bound, and is pinned at it or above."""
    pinned = dict(re.findall(r"^([\w-]+)\S*?==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    for dependency in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        wanted = Requirement(dependency)
        assert [bound.operator for bound in wanted.specifier] == [">="], dependency
        assert pinned[wanted.name] in wanted.specifier, dependency


def test_the_newest_versions_have_a_folder_of_their_own(world):
    for name in ("requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, world.repository)
    (world.home / "bin/cksum").symlink_to(shutil.which("cksum") or "cksum")
    newest = world.repository / ".venv-newest"
    (newest / "bin").mkdir(parents=True)
    world.stand_in(newest / "bin/python")
    world.stand_in(world.home / "bin/python3")
    assert world.run("setup.sh", NEWEST="1").status == 0
    packages = (newest / "requirements.txt").read_text()
    assert "\njax\n" in packages and "\netils[epath]\n" in packages and "==" not in packages
    (install,) = (call for call in world.calls() if "install" in call)
    assert ".venv-newest/requirements.txt" in install
    assert not (world.repository / ".venv/stamp").exists()


ALL_ANSWERS = {LIST: ["", "ACTIVE"], STATUS: ["", "rlhf_jax: exit 0\nrlhf_jax: exit 0\n"]}


@pytest.mark.parametrize(
    ("script", "words", "variables", "answers"),
    [
        ("tpu_pod.sh", ["create"], POD, {}),
        ("tpu_pod.sh", ["wait"], POD, {LIST: ["ACTIVE"]}),
        ("tpu_pod.sh", ["install"], POD, {}),
        ("tpu_pod.sh", ["run", "--", *AWKWARD], POD, {}),
        ("tpu_pod.sh", ["logs", "all"], POD, {}),
        ("tpu_pod.sh", ["status"], POD, {LIST: ["ACTIVE"]}),
        ("tpu_pod.sh", ["delete"], POD, {}),
        ("tpu_pod.sh", ["all", "--", *AWKWARD], POD, ALL_ANSWERS),
        ("gke.sh", ["run", "--", *AWKWARD], GKE, {}),
        ("gke.sh", ["status"], GKE, {}),
        ("gke.sh", ["delete"], GKE, {}),
        ("slurm.sh", ["--comment=a b", "--", *AWKWARD], {}, {}),
        ("gpu.sh", ["--", *AWKWARD], {}, {}),
        ("gpu.sh", ["--docker", "--", *AWKWARD], {}, {}),
    ],
    ids=lambda value: value[0].lstrip("-") if isinstance(value, list) else None,
)
def test_dry_run_prints_the_commands_and_calls_nothing(world, script, words, variables, answers):
    world.answer(answers)
    dry = world.run(script, "--dry-run", *words, **variables)
    assert dry.status == 0 and not dry.err and not dry.calls
    real = world.run(script, *words, **variables)
    assert real.status == 0, real.err
    assert commands(dry.out) == real.calls


@pytest.mark.parametrize("script", ["tpu_pod.sh", "gke.sh"])
def test_missing_variable(world, script):
    ran = world.run(script, "delete", PROJECT="my-project")
    assert (ran.status, ran.calls) == (2, [])
    assert re.fullmatch(rf"{script}: ZONE is not set: for example ZONE=us-east5-a .*/{script} …\n", ran.err)


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("tpu_pod.sh", ["up"], "'up' is not create, wait, install, run, logs, status, stop, delete or all"),
        ("tpu_pod.sh", ["run"], "nothing stands after --"),
        ("tpu_pod.sh", ["all", "--"], "nothing stands after --"),
        ("gke.sh", ["run"], "nothing stands after --"),
        ("gke.sh", [], "'' is not run, status or delete"),
        ("slurm.sh", ["--config=x"], "nothing stands after --"),
        ("gpu.sh", ["--config=x", "--", "a"], "'--config=x' is not --docker or --dry-run"),
    ],
)
def test_wrong_words(world, script, words, message):
    ran = world.run(script, *words, **(POD | GKE))
    assert (ran.status, ran.calls) == (2, [])
    assert ran.err.startswith(f"{script}: {message}") and ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "words", "tool"),
    [
        ("tpu_pod.sh", ["create"], "gcloud"),
        ("gke.sh", ["status"], "xpk"),
        ("gke.sh", ["run", "--", "a"], "docker"),
        ("slurm.sh", ["--", "a"], "sbatch"),
        ("gpu.sh", ["--docker", "--", "a"], "docker"),
    ],
)
def test_missing_and_failing_tool(world, script, words, tool):
    world.answer({tool: [("", 7)]})
    failed = world.run(script, *words, **(POD | GKE))
    assert failed.status == 7
    assert failed.calls[-1][0] == tool  # nothing follows what failed
    (world.home / "bin" / tool).unlink()
    missing = world.run(script, *words, **(POD | GKE))
    assert (missing.status, missing.err) == (2, f"{script}: {tool} is not installed or not on PATH\n")


# --- arguments arrive as they were given ---


def test_arguments_reach_main_on_a_worker(world):
    """tpu_pod.sh's ssh command is given to a shell, as sshd would, and runs the real worker.sh."""
    calls = world.run("tpu_pod.sh", "run", "--", *AWKWARD, **POD).calls
    (world.home / "rlhf_jax").symlink_to(world.repository)
    subprocess.run(
        ["bash", "-c", remote_command(calls)], env=world.environment(), cwd=world.home, check=True, timeout=20
    )
    until((world.repository / "runs/worker.exit").exists)
    assert world.calls()[-1] == [".venv/bin/rlhf-jax", "run", *AWKWARD]


def test_arguments_reach_main_in_a_container(world):
    calls = world.run("gke.sh", "run", "--", *AWKWARD, **GKE).calls
    assert [call[0] for call in calls] == ["docker", "docker", "xpk"]
    command = remote_command(calls).replace("cd /rlhf_jax && rlhf-jax", "show")
    split = subprocess.run(
        ["bash", "-c", f"show() {{ printf '%s\\0' \"$@\"; }}; {command}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert split.stdout.split("\0")[:-1] == ["run", *AWKWARD]


def test_arguments_reach_main_on_gpus(world):
    main = ["run", *AWKWARD]
    assert world.run("gpu.sh", "--", *AWKWARD).calls == [
        ["nvidia-smi", "--list-gpus"],
        ["env", "EXTRA=cuda", "bash", "-e", "launch/setup.sh"],
        [".venv/bin/rlhf-jax", *main],
    ]
    call = world.run("gpu.sh", "--docker", "--", *AWKWARD).calls[-1]
    assert call[:2] == ["docker", "run"] and call[-len(main) - 2 :] == ["rlhf_jax", "rlhf-jax", *main]
    world.answer({"nvidia-smi": [("", 9)]})
    assert "no GPU answers" in world.run("gpu.sh", "--", "a").err


# --- SLURM and SkyPilot ---


def test_slurm_submits_one_task_a_gpu(world):
    calls = world.run("slurm.sh", "--partition=gpu", "--", *AWKWARD, NODES="4", GPUS="2").calls
    assert [call[0] for call in calls] == ["mkdir", "env", "sbatch"]
    options = calls[-1][1 : calls[-1].index("launch/slurm.sh")]
    assert {"--nodes=4", "--ntasks-per-node=2", "--gres=gpu:2", "--requeue", "--partition=gpu"} <= set(
        options
    )
    assert calls[-1][calls[-1].index("launch/slurm.sh") + 1 :] == ["--", *AWKWARD]


def test_slurm_job_runs_its_arguments(world):
    job = {"SLURM_JOB_ID": "12", "SLURM_SUBMIT_DIR": str(world.repository)}
    spooled = world.home / "spooled job"
    spooled.mkdir()
    shutil.copy(world.repository / "launch/slurm.sh", spooled / "slurm_script")  # SLURM runs a copy
    command = ["bash", spooled / "slurm_script", "--", *AWKWARD]
    world.answer({"srun": [("", 5)]})
    done = subprocess.run(command, env=world.environment(**job), cwd="/", capture_output=True, timeout=20)
    assert done.returncode == 5  # and it is not queued again: it would fail again
    assert world.calls() == [["srun", "--cpu-bind=none", ".venv/bin/rlhf-jax", "run", *AWKWARD]]


def test_slurm_job_near_its_limit_ends_its_tasks_and_queues_again(world):
    waiting = """
import os, time
open("{home}/began", "w")
while not os.path.exists("{home}/calls.jsonl"):
    time.sleep(0.01)
time.sleep(0.2)
open("{home}/ended", "w")
"""
    world.stand_in(world.home / "bin/srun", waiting)
    job = {"SLURM_JOB_ID": "12", "SLURM_SUBMIT_DIR": str(world.repository)}
    script = subprocess.Popen(
        ["bash", world.repository / "launch/slurm.sh", "--", "a"],
        env=world.environment(**job),
        stdout=subprocess.DEVNULL,
    )
    until((world.home / "began").exists)
    script.send_signal(signal.SIGUSR1)
    script.wait(timeout=20)
    assert world.calls() == [["scancel", "--signal=TERM", "12"], ["scontrol", "requeue", "12"]]
    assert (world.home / "ended").exists()


def test_skypilot_task(world):
    task = yaml.safe_load((ROOT / "launch/skypilot.yaml").read_text())
    assert set(task) == {"name", "workdir", "resources", "envs", "setup", "run"}
    assert task["envs"]["WORKDIR"] is None  # sky asks for it
    assert (ROOT / task["envs"]["CONFIG"]).exists()
    assert task["resources"]["job_recovery"] == {"recover_on_exit_codes": [3]}
    program, action = task["setup"].split()
    assert os.access(ROOT / program, os.X_OK) and action == "install"
    envs = task["envs"] | {"WORKDIR": "gs://b/two words", "OPTIONS": "--stage=ppo --config.seed=1"}
    subprocess.run(
        ["bash", "-c", task["run"]],
        env=world.environment(**envs),
        cwd=world.repository,
        check=True,
        timeout=20,
    )
    main = ["run", f"--config={envs['CONFIG']}", "--workdir=gs://b/two words"]
    assert world.calls() == [[".venv/bin/rlhf-jax", *main, "--stage=ppo", "--config.seed=1"]]
