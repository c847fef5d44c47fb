"""rlhf-jax: every command is there under its name, and so are the configurations, from any folder."""

import functools
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from absl import flags

from rlhf_jax.__main__ import COMMANDS, main
from rlhf_jax.run.config_flags import CONFIGS, parse_config


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs rlhf-jax with arguments: (exit status, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rlhf-jax", *arguments])
        return main(), *capsys.readouterr()

    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_its_usage(call, name):
    status, out, err = call(name, "--help")
    assert status == 0 and err == "" and f"rlhf-jax {name}" in out


def test_without_a_command_all_are_listed(call):
    assert call() == call("--help")
    status, out, _ = call()
    assert status == 0 and all(f"\n  {name} " in out for name in COMMANDS)


def test_an_unknown_command_is_told_in_one_line(call):
    status, out, err = call("trian")
    assert (status, out) == (2, "") and err == "rlhf-jax: 'trian' is no command; rlhf-jax --help lists them\n"


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("rlhf_jax.pipeline.export", "export"),
        ("rlhf_jax.plan", "plan"),
        ("rlhf_jax.checkpoint", "checkpoint"),
        ("rlhf_jax.experiments.agreement", "metric-agreement"),
        ("rlhf_jax.collect", "ask"),
    ],
)
def test_a_module_that_is_run_tells_its_command_and_runs_it(module, command):
    done = subprocess.run([sys.executable, "-m", module, "a b", "--help"], capture_output=True, text=True)
    told = f"python -m {module} is now rlhf-jax {command}\n"
    assert (done.returncode, done.stderr) == (0, told) and f"rlhf-jax {command} " in done.stdout


@pytest.mark.parametrize("words", [["-mrlhf_jax.main"], ["-um", "rlhf_jax.main"], ["-m", "rlhf_jax.main"]])
def test_job_scripts_that_run_the_module_run_the_command(words):
    done = subprocess.run([sys.executable, *words, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "rlhf-jax run" in done.stdout


def test_without_a_place_to_print_the_status_is_the_command_s_own(tmp_path):
    words = [sys.executable, "-m", "rlhf_jax", "checkpoint", "list", str(tmp_path / "nowhere")]
    script = f"{shlex.join(words)} >&-"
    done = subprocess.run(script, shell=True, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_a_run_starts_without_what_other_commands_need():
    heavy = "matplotlib scipy.stats sklearn krippendorff nltk tensorboardX google.cloud.storage sqlalchemy"
    kernel = "jax.experimental.pallas.ops.tpu.splash_attention"
    script = (
        f"import sys, rlhf_jax.main; print([m for m in {[*heavy.split(), kernel]!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("platform", ["cuda", "tpux"])
def test_a_platform_that_is_not_there_is_told_in_one_line(tmp_path, platform):
    script = (
        "import jax, sys; from rlhf_jax.command_line import command; sys.exit(command(['x'], jax.devices))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": platform},
    )
    assert done.returncode == 2 and done.stderr.startswith(
        f"x: JAX_PLATFORMS={platform}: JAX has no such device here"
    )
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("seconds", [0.3, 0.6])
def test_ctrl_c_while_a_command_starts_ends_it(seconds):
    """Also while extensions are imported, which may lose Python's exception."""
    words = [sys.executable, "-m", "rlhf_jax", "ask", "--workdir=nowhere", "--policies=sft,ref", "--out=x"]
    heard = functools.partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # jobs in the background ignore it
    started = subprocess.Popen([*words, "--config=mini"], stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    time.sleep(seconds)
    started.send_signal(signal.SIGINT)
    _, told = started.communicate(timeout=600)
    assert (started.returncode, told) == (130, "rlhf-jax ask: stopped by SIGINT\n")


def test_no_option_is_no_number(call):
    for word in ("nan", "NaN", "-nan"):
        status, _, err = call("ratings", "--ratings=x", "--out=y", f"--gap={word}")
        assert status == 2 and "--gap: nan is no number" in err


def test_a_former_name_is_told_the_new_one(call):
    status, out, err = call("collect", "--help")
    assert (status, err) == (0, "rlhf-jax: collect is now ask\n") and "rlhf-jax ask" in out


def test_a_reader_that_has_enough_ends_it_without_a_traceback():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "rlhf_jax"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_usage_is_shown_without_importing_jax():
    program = (
        "import sys; from rlhf_jax.__main__ import usage; usage('rlhf_jax.main'); print('jax' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"


def test_an_error_of_use_names_the_command(call):
    status, _, err = call("export", "--stage=ppo")
    assert status == 2 and err.startswith("rlhf-jax export: ") and err.count("\n") == 1


@pytest.mark.parametrize("name", sorted(file.stem for file in CONFIGS[1].glob("*.py")))
def test_a_configuration_has_a_name_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("config_config", None)
    named = parse_config(["run", f"--config={name}"], flags.FlagValues())
    sys.modules.pop("config_config", None)
    assert named == parse_config(["run", f"--config={CONFIGS[1] / name}.py"], flags.FlagValues())


def test_a_name_that_is_none_is_told_with_those_that_are(call, tmp_path):
    status, _, err = call("run", "--config=minni", f"--workdir={tmp_path / 'run'}")
    assert status == 2 and err.count("\n") == 1 and "'minni'" in err and " mini, " in err


def test_a_file_goes_before_a_name(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    Path("mini.py").write_text("def get_config():\n    return 5\n")
    sys.modules.pop("config_config", None)
    status, _, err = call("run", "--config=mini.py", "--workdir=run")
    assert status == 2 and "get_config() returned int" in err
