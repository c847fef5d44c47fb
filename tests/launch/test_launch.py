"""The scripts of launch/ against stand-ins of the tools they drive, which record what they are asked."""

import itertools
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
        word
        for file in ROOT.glob("launch/**/*")
        if file.is_file()
        for word in re.findall(r"\bEXTRA[=:] ?(\w+)", file.read_text())
    }
    assert named == {"cuda", "gs", "tpu"} and named <= set(extras)


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


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_is_the_head_of_the_script(world, script):
    if not script.read_text().startswith("#!"):
        return  # it is sourced
    lines = script.read_text().splitlines(keepends=True)[1:]
    head = "".join(line[1:].removeprefix(" ") for line in itertools.takewhile(lambda x: x[0] == "#", lines))
    for word in ("--help", "-h"):
        ran = world.run(script.name, word)
        assert (ran.status, ran.calls, ran.err) == (0, [], "")
        assert ran.out == head and head


@pytest.mark.parametrize(
    ("script", "words", "told"),
    [
        ("tpu_pod.sh", ["create", "--spot"], "'--spot' is not an option"),
        ("tpu_pod.sh", ["status", "now"], "'now' is not an option"),
        ("gke.sh", ["status", "--all"], "'--all' is not an option"),
        ("gpu.sh", ["--docker", "--gpus=1", "--", "a"], "'--docker --gpus=1' is not --docker"),
        ("worker.sh", ["status", "--all"], "'--all': only start takes arguments"),
        ("worker.sh", ["--all"], "'--all' is not install, start, stop or status"),
        ("install.sh", ["--force"], "'--force': it takes variables"),
        ("figures.sh", ["--seeds=1"], "'--seeds=1': it takes variables"),
    ],
)
def test_unknown_options_are_refused(world, script, words, told):
    ran = world.run(script, *words, **(POD | GKE))
    assert (ran.status, ran.calls) == (2, [])
    assert ran.err.startswith(f"{script}: {told}") and ran.err.count("\n") == 1


# --- nothing is asked of a cloud for what cannot run ---

RUNS = [
    ("tpu_pod.sh", ["run"]),
    ("tpu_pod.sh", ["all"]),
    ("gke.sh", ["run"]),
    ("gpu.sh", []),
    ("gpu.sh", ["--docker"]),
    ("slurm.sh", []),
]
CLOUDS = [row for row in RUNS if row[0] in ("tpu_pod.sh", "gke.sh")]


def refusal(world: World, script: str, words: list[str], *run: str, **variables: str) -> str:
    """The line with which a start and a dry run are refused, before any command."""
    before = world.calls()
    given = [*words, "--", *(run or ["a"])]
    real, dry = (world.run(script, *more, *given, **(POD | GKE | variables)) for more in ([], ["--dry-run"]))
    assert (real.status, dry.status) == (2, 2) and real.err == dry.err and real.err.count("\n") <= 1
    assert [call for call in dry.calls if call not in before and call[0] != "git"] == []
    return real.err


@pytest.mark.parametrize(("script", "words"), RUNS)
def test_a_run_that_cannot_be_is_refused(world, script, words):
    world.answer({"run a --check": [("", 2)]})  # rlhf-jax has said why
    assert refusal(world, script, words) == ""


@pytest.mark.parametrize(("script", "words"), RUNS)
def test_where_nothing_is_active_the_environment_of_the_repository_checks(world, script, words):
    (world.home / "bin/rlhf-jax").unlink()
    install = world.repository / "launch/install.sh"
    install.write_text(f"echo setup\necho $EXTRA >>'{world.home}/installed'\n")
    world.stand_in(world.repository / ".venv/bin/rlhf-jax", "raise SystemExit('run: not such a run')")
    given = [*words, "--dry-run", "--", "a"]
    ran = world.run(script, *given, **(POD | GKE))
    assert (ran.status, ran.out, ran.err) == (2, "", "setup\nrun: not such a run\n")
    assert (world.home / "installed").read_text() == "\n"  # once, without the accelerator's packages


@pytest.mark.parametrize(("script", "words"), CLOUDS)
def test_a_work_folder_of_one_machine_is_no_place_for_many(world, script, words):
    world.answer({"--check": ["runs/a: b: sft, ppo\n"]})
    assert "--workdir=runs/a: b is of one machine alone" in refusal(world, script, words)


def test_a_container_keeps_two_folders(world):
    for workdir in ("/home/me/run", "run", "runs/../run", "runs"):
        world.answer({"--check": [f"{workdir}: ppo\n"]})
        assert f"--workdir={workdir} ends with the container" in refusal(world, "gpu.sh", ["--docker"])
    for workdir in ("runs/a", "./data/a", "gs://bucket/a"):
        world.answer({"--check": [f"{workdir}: ppo\n"]})
        assert world.run("gpu.sh", "--docker", "--", "a").status == 0


@pytest.mark.parametrize(("script", "words"), [*CLOUDS, ("gpu.sh", ["--docker"])])
def test_files_of_this_machine_alone_are_refused(world, script, words):
    """A slice gets what git tracks, an image all but data/ and runs/, a container has these two as well."""
    (world.repository / "data").mkdir()
    (world.repository / "mine.py").touch()
    (world.home / "posts").touch()
    world.answer({"error-unmatch -- mine.py": [""], "git ls-files": [("", 1)]})
    for place in (str(world.home / "posts"), "~/posts", "../posts"):
        assert f"{Path(place).name} of this machine" in refusal(
            world, script, words, "--config.data.posts", place
        )
    kept = ["--config=mine.py", *(["--config.data.posts=data"] if script == "gpu.sh" else [])]
    assert world.run(script, "--dry-run", *words, "--", *kept, **(POD | GKE)).status == 0
    if script != "gpu.sh":
        assert "data of this machine is not where the run" in refusal(world, script, words, "--config.x=data")


@pytest.mark.parametrize(("script", "words"), [("tpu_pod.sh", ["create"]), *CLOUDS[1:]])
def test_slices_that_there_are_not(world, script, words):
    for name in ("v5p-13", "v5p-4", "v5p-1", "v5p-100", "v5p-192", "v5p-12416", "v4-8320", "v5litepod-12"):
        assert f"TPU is '{name}'" in refusal(world, script, words, TPU=name)
    for name in ("v6e-2", "v6e-512", "v6e", "v5p-", "v5p-08", "v5p-128x", "v5e-16", "H100"):
        assert f"TPU is '{name}'" in refusal(world, script, words, TPU=name)


def test_slices_that_there_are(world):
    """Of the tables in Google's pages of TPU versions; shapes 2x2x1, 4x4x12, 4x4x28 and 16x16x24 of v5p."""
    for name in ("v5p-8", "v5p-384", "v5p-896", "v5p-12288", "v4-4096", "v5litepod-1", "v6e-256"):
        ran = world.run("tpu_pod.sh", "create", **(POD | {"TPU": name}))
        assert ran.status == 0 and f"--accelerator-type={name}" in ran.calls[-1]
    assert world.run("gke.sh", "run", "--", "a", **(GKE | {"TPU": "tpu7x-128"})).status == 0


@pytest.mark.parametrize(
    ("script", "words", "variables"),
    [
        ("tpu_pod.sh", ["all"], {"PAUSE": "1m"}),
        ("tpu_pod.sh", ["all"], {"CAPACITY": "free"}),
        ("gke.sh", ["run"], {"SLICES": "two"}),
        ("gke.sh", ["run"], {"MAX_RESTARTS": "-1"}),
        ("slurm.sh", [], {"NODES": "a4"}),
        ("slurm.sh", [], {"GPUS": "8.0"}),
    ],
)
def test_variables_that_mean_nothing(world, script, words, variables):
    ((name, value),) = variables.items()
    assert f"{name} is '{value}'" in refusal(world, script, words, **variables)


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
        ["env", "EXTRA=cuda", "bash", "launch/install.sh"],
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


def test_slurm_takes_the_cluster_from_variables_or_a_file(world):
    file = world.repository / "launch/slurm.env"
    file.write_text("# ours\nPARTITION=gpu large\nACCOUNT=lab\nMODULES=cuda/13 gcc\nGPUS=4")
    world.stand_in(world.home / "bin/module")
    calls = world.run("slurm.sh", "--qos=high", "--", "a", ACCOUNT="mine", TIME="12:00:00").calls
    assert calls[0] == ["module", "load", "cuda/13", "gcc"]
    assert {"--partition=gpu large", "--account=mine", "--time=12:00:00", "--gres=gpu:4"} <= set(calls[-1])
    assert calls[-1][calls[-1].index("--qos=high") :] == [
        "--qos=high",
        *("launch/slurm.sh", "cuda/13", "gcc", "--", "a"),
    ]
    for line in ("QOS=high", "export ACCOUNT=lab", "partition"):
        file.write_text(f"TIME=1:00\n{line}\n")
        assert f"launch/slurm.env, line 2: '{line}' is not PARTITION=" in refusal(world, "slurm.sh", [])


def test_slurm_job_loads_its_modules_by_a_function_of_the_shell(world):
    """Which a batch job must read first, and which may use variables that are not set."""
    init = world.home / "modules/init/bash"
    init.parent.mkdir(parents=True)
    init.write_text('module() { env module "$@" $NOT_SET; }\n')
    job = {"SLURM_JOB_ID": "12", "MODULESHOME": str(world.home / "modules")}
    assert world.run("slurm.sh", "cuda/13", "gcc", "--", "a", **job).calls == [
        ["env", "module", "load", "cuda/13", "gcc"],
        ["srun", "--cpu-bind=none", ".venv/bin/rlhf-jax", "run", "a"],
    ]
    without = world.run("slurm.sh", "cuda/13", "--", "a", SLURM_JOB_ID="12")
    assert without.status == 2 and "module is not installed" in without.err


def test_slurm_within_an_allocation_runs_there(world):
    """As after salloc in another folder, which is then SLURM_SUBMIT_DIR."""
    allocation = {"SLURM_JOB_ID": "12", "SLURM_SUBMIT_DIR": str(world.home)}
    assert [call[0] for call in world.run("slurm.sh", "--", "a", **allocation).calls] == ["srun"]
    refused = world.run("slurm.sh", "--partition=gpu", "--", "a", **allocation)
    assert refused.status == 2 and "this is job 12 already" in refused.err


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
    (world.repository / "launch/worker.sh").write_text("#!/bin/sh\nenv worker $1\n")

    def do(part: str, **given: str) -> tuple[int, list[list[str]]]:
        """The exit status and the calls of one part of the task."""
        before = len(world.calls())
        environment = world.environment(**(task["envs"] | given))
        done = subprocess.run(["bash", "-c", task[part]], env=environment, cwd=world.repository, timeout=20)
        return done.returncode, world.calls()[before:]

    good = {"WORKDIR": "gs://b/two words", "OPTIONS": "--stage=ppo --config.seed=1"}
    assert do("setup", **good) == (0, [["env", "worker", "install"]])
    main = ["run", f"--config={task['envs']['CONFIG']}", "--workdir=gs://b/two words"]
    assert do("run", **good) == (0, [[".venv/bin/rlhf-jax", *main, "--stage=ppo", "--config.seed=1"]])
    assert do("setup", WORKDIR="runs/local") == (2, [])  # before anything is installed
    world.answer({"--check": [("", 2)]})
    assert do("setup", **good) == (2, [["env", "worker", "install"]])
