import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import chat_folders
import jax
import numpy as np
import pytest
import tiny
from tiny import stand_in

from rlhf_jax.config import ConfigError
from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.main import main
from rlhf_jax.pipeline import rounds
from rlhf_jax.pipeline import stages as table
from rlhf_jax.run import checkpoint

TESTS = Path(__file__).parent
CONFIG = "from rlhf_jax.config import Config\n\n\ndef get_config():\n    return Config()\n"


@pytest.fixture
def config_file(tmp_path):
    file = tmp_path / "tiny.py"
    file.write_text(CONFIG)
    return file


@pytest.fixture
def start(config_file, tmp_path, capsys):
    """Runs main in `tmp_path/run`; returns (exit status, stdout, stderr)."""

    def call(*arguments, config=config_file):
        status = main(["rlhf-jax run", f"--config={config}", f"--workdir={tmp_path / 'run'}", *arguments])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def stages(monkeypatch):
    """Stands in for the stages; returns the list of those that ran."""
    ran = []
    for name in table.names():
        stand_in(monkeypatch, name, lambda config, workdir, name=name: ran.append(name))
    return ran


def assert_one_line(outcome, *parts):
    status, _, stderr = outcome
    assert status == 2
    assert stderr.count("\n") == 1 and stderr.startswith("rlhf-jax run: ") and "Traceback" not in stderr
    for part in parts:
        assert part in stderr


@pytest.mark.parametrize(
    "argument, parts",
    [
        ("--config.ppo.kl_coeff=0.1", ("ppo.kl_coeff: no such field", "ppo.kl_coef")),
        ("--config.ppo=1", ("ppo: no such field",)),
        ("--noconfig.sft.packs", ("sft.packs: no such field", "sft.pack")),
        ("--config.seed=abc", ("config.seed", "abc")),
        ("--config.ppo.epochs=1.5", ("config.ppo.epochs", "1.5")),
        ("--config.ppo.kl_coef=low", ("config.ppo.kl_coef", "low")),
        ("--config.sft.batch_size=-4", ("sft.batch_size: -4 should be positive",)),
        ("--config.model.norm=batch", ("model.norm", "layer, rms")),
        ("--config.data.query_buckets=abc", ("data.query_buckets", "tuple of int")),
        ("--stage=rewards", ("--stage=rewards", "reward")),
        ("--stagee=ppo", ("stagee",)),
        ("mini", ("unexpected argument 'mini'",)),
    ],
)
def test_wrong_argument_is_told_in_one_line(start, tmp_path, argument, parts):
    assert_one_line(start(argument), *parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "source, parts",
    [
        ("def get_config():\n    return {}\n", ("get_config() returned dict",)),
        (CONFIG.replace("Config()", "Config(sead=1)"), ("tiny.py", "sead")),
        (
            CONFIG.replace("return Config()", "c = Config()\n    c.sft.batchsize = 2\n    return c"),
            ("sft.batch_size",),
        ),
    ],
)
def test_wrong_config_file_is_told_in_one_line(start, config_file, source, parts):
    config_file.write_text(source)
    assert_one_line(start(), *parts)


def test_missing_config_file_is_named(start, tmp_path):
    assert_one_line(start(config=tmp_path / "none.py"), "--config: no such file", "none.py")
    assert_one_line(start("--config.seed=1", config=tmp_path / "none.py"), "none.py")


def test_missing_workdir_is_asked_for(config_file, capsys):
    status = main(["rlhf-jax run", f"--config={config_file}"])
    assert_one_line((status, *capsys.readouterr()), "--workdir is missing")


def test_a_run_that_is_only_checked_leaves_nothing(start, config_file, tmp_path, stages, monkeypatch):
    monkeypatch.setattr(jax, "devices", None)  # nobody asks for an accelerator
    assert start("--check") == (0, f"{tmp_path / 'run'}: sft, collect, reward, ppo, eval\n", "")
    assert start("--check", "--stage=round")[1] == f"{tmp_path / 'run'}: round\n"
    elsewhere = ("--config.model.pretrained=some/model", "--config.model.lora.start=an/adapter")
    told = start("--check", *elsewhere, "--config.model.lora.rank=8")[2]
    assert "model.pretrained: some/model is no folder here, and the hub is not asked\n" in told
    assert "model.lora.start: an/adapter is no folder here, and the hub is not asked\n" in told
    for wrong, told in [
        ("--config.ppo.epoch=1", "ppo.epoch: no such field; did you mean ppo.epochs"),
        ("--config.data.source=tldrr", "data.source: 'tldrr' is none of"),
        ("--config.model.context=100", "model.context: 100"),
        ("--workdir=", "--workdir is missing"),
    ]:
        assert_one_line(start("--check", wrong), told)
    assert stages == [] and list(tmp_path.iterdir()) == [config_file]


def test_a_check_looks_into_folders_of_this_machine(start, config_file, tmp_path, stages):
    assert start()[0] == 0
    assert_one_line(start("--check", "--config.seed=9"), "written with other values (seed: 0 → 9)")
    assert_one_line(start("--check", f"--workdir={config_file}"), "is a file; name a folder")
    assert_one_line(start("--check", f"--fork={tmp_path / 'nowhere'}"), "is not the folder of a run")
    assert start("--check")[1] == f"{tmp_path / 'run'}: nothing; all stages have finished\n"


def test_a_check_reads_tables_of_this_machine(start, tmp_path):
    def checked(files: str) -> tuple:
        small = ("--config.reward.batch_size=4", "--config.ppo.batch_size=4")
        return start("--check", "--config.data.source=plain", f"--config.data.files={files}", *small)

    file = tmp_path / "pairs.jsonl"
    pairs = [{"prompt": f"{i}?", "chosen": "a", "rejected": "b"} for i in range(60)]
    write_jsonl(file, pairs)
    status, out, err = checked(file)
    assert (status, out) == (0, f"{tmp_path / 'run'}: sft, collect, reward, ppo, eval\n")
    assert f"{file}: 60 rows: prompt, chosen, rejected\n" in err
    write_jsonl(file, [*pairs, {"prompt": "?", "chosen": "", "rejected": "b"}])
    assert_one_line(checked(file), f"{file}, line 61: column chosen is empty")
    assert_one_line(checked(""), "data.files: name a table of plain")
    status, _, err = checked(f"{file},someone/pairs,gs://b/pairs.jsonl")
    assert status == 0 and err.startswith("data.files: not read, for not all of ")
    assert not (tmp_path / "run").exists()


BAD_TEXTS = {  # what is wrong → file, its line, the options that read it, words of the message
    "an empty column": (
        "pairs.jsonl",
        {"prompt": "?", "chosen": "", "rejected": "b"},
        ("source=plain", "files={}/pairs.jsonl"),
        "pairs.jsonl, line 61: column chosen is empty",
    ),
    "a post without a text": (
        "posts/train.jsonl",
        {"id": "1", "subreddit": "", "title": "", "summary": "a"},
        ("posts={}/posts", "comparisons={}/comparisons"),
        "train.jsonl, line 41: field post is missing",
    ),
    "a comparison without summaries": (
        "comparisons/pairs.json",
        {"info": {"id": "1", "post": "a"}, "choice": 0},
        ("posts={}/posts", "comparisons={}/comparisons"),
        "pairs.json, line 41: field ",
    ),
}


@pytest.mark.parametrize("what", BAD_TEXTS)
def test_bad_texts_leave_nothing_and_the_corrected_command_works(start, stages, tmp_path, what):
    name, line, options, words = BAD_TEXTS[what]
    tiny.write_data(tmp_path)
    pairs = [{"prompt": f"{i}?", "chosen": "a", "rejected": "b"} for i in range(60)]
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    arguments = [f"--config.data.{option.format(tmp_path)}" for option in options]
    arguments += [f"--config.{stage}.batch_size=4" for stage in ("sft", "reward", "ppo")]
    file = tmp_path / name
    good = file.read_text() if file.exists() else ""
    file.write_text(good + json.dumps(line) + "\n")
    status, _, err = start(*arguments)
    assert status == 2 and words in err and stages == [] and not (tmp_path / "run").exists()
    file.write_text(good or (tmp_path / "pairs.jsonl").read_text())
    assert start(*arguments)[0] == 0 and stages == ["sft", "collect", "reward", "ppo", "eval"]


def test_a_check_and_a_run_ask_the_chat_template_before_anything_is_written(start, stages, tmp_path):
    folder = tmp_path / "model"
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "?"}]
    answer = [{"role": "assistant", "content": "Yes."}]
    rows = [{"prompt": turns + [turns[1]] * i, "completion": answer} for i in range(60)]
    write_jsonl(tmp_path / "talks.jsonl", rows)
    arguments = ["--config.data.source=chat", f"--config.data.files={tmp_path / 'talks.jsonl'}"]
    arguments += [f"--config.data.tokenizer={folder}", "--stage=sft"]
    chat_folders.write_folder(
        folder, chat_folders.GEMMA2, {"eos_token": "<end_of_turn>", "bos_token": "<bos>"}
    )
    for more in ([], ["--check"]):
        status, _, err = start(*arguments, *more)
        assert status == 2 and "System role not supported" in err and not (tmp_path / "run").exists()
    chat_folders.write_folder(folder, chat_folders.SMOLLM2, {"eos_token": "<|im_end|>"})
    assert start(*arguments)[0] == 0 and stages == ["sft"]


def test_a_start_that_came_to_nothing_leaves_the_folder_to_other_values(start, stages, tmp_path, monkeypatch):
    def refused(config, workdir):
        raise ConfigError("sft.batch_size: too large")

    with monkeypatch.context() as patch:
        stand_in(patch, "sft", refused)
        assert_one_line(start(), "sft.batch_size: too large")
    assert start("--config.sft.batch_size=2")[0] == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["sft"]["batch_size"] == 2
    assert_one_line(start("--config.sft.batch_size=4"), "2 → 4", f"--fork={tmp_path / 'run'} takes over")


def test_a_check_starts_no_backend(config_file):
    code = (
        "import jax, rlhf_jax.main as main\n"
        f"assert main.main(['run', '--config={config_file}', '--workdir=gs://b/x', '--check']) == 0\n"
        "assert not jax._src.xla_bridge.backends_are_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_stages_run_in_order_and_a_second_start_skips_them(start, stages):
    status, stdout, _ = start()
    assert status == 0 and stages == ["sft", "collect", "reward", "ppo", "eval"]
    status, stdout, _ = start()
    assert status == 0 and stages == ["sft", "collect", "reward", "ppo", "eval"]
    assert [line.split(":")[0] for line in stdout.splitlines()] == stages
    assert stdout.count("skipped") == 5


def test_a_named_stage_runs_alone_even_if_it_has_finished(start, stages):
    start("--stage=sft")
    start("--stage=sft")
    assert stages == ["sft", "sft"]
    start()
    assert stages == ["sft", "sft", "collect", "reward", "ppo", "eval"]


def test_overrides_reach_the_stage_and_the_workdir(start, stages, tmp_path, monkeypatch):
    seen = []
    stand_in(monkeypatch, "sft", lambda config, workdir: seen.append(config))
    start(
        "--stage=sft",
        "--config.data.query_buckets=(256,512)",
        "--config.ppo.kl_coef=0.1",
        "--noconfig.sft.pack",
    )
    (config,) = seen
    assert config.data.query_buckets == (256, 512) and config.ppo.kl_coef == 0.1 and config.sft.pack is False
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["data"]["query_buckets"] == [256, 512] and stored["ppo"]["kl_coef"] == 0.1


def test_workdir_of_another_config_is_refused(start, stages):
    start("--stage=sft")
    assert_one_line(start("--stage=sft", "--config.seed=5"), "seed: 0 → 5", "another --workdir")
    assert stages == ["sft"]


def test_missing_checkpoint_names_the_stage_to_run(start, stages, monkeypatch):
    def train(config, workdir):
        checkpoint.require(workdir, "reward")

    stand_in(monkeypatch, "ppo", train)
    assert_one_line(start("--stage=ppo"), "run/checkpoints/reward", "(there are: none)")


def test_compiled_programs_are_kept_where_the_environment_says(config_file, tmp_path):
    """A second run in another folder compiles none of the first one's programs again."""
    config_file.write_text(tiny.CONFIG_FILE.format(data=str(tmp_path / "data")))
    kept = tmp_path / "kept"
    variables = {"JAX_COMPILATION_CACHE_DIR": str(kept), "JAX_ENABLE_COMPILATION_CACHE": "true"}
    variables |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    variables |= {"PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    times = []
    for name in ("first", "second"):
        command = [sys.executable, "-m", "rlhf_jax", "run", f"--config={config_file}", "--stage=sft"]
        subprocess.run(
            [*command, f"--workdir={tmp_path / name}"], env=os.environ | variables, check=True, timeout=300
        )
        times.append({file.name: file.stat().st_mtime_ns for file in kept.glob("*-cache")})
    assert times[0] and times[0] == times[1]


def test_sigterm_between_trainings_is_told_in_one_line(start, stages, monkeypatch):
    def terminated(config, workdir):
        os.kill(os.getpid(), signal.SIGTERM)

    stand_in(monkeypatch, "reward", terminated)
    before = signal.getsignal(signal.SIGTERM)
    try:
        status, _, stderr = start()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (status, stderr) == (143, "rlhf-jax run: stopped by SIGTERM; the same command resumes\n")


def test_stage_after_one_that_was_stopped_is_refused(start, stages, monkeypatch):
    def stopped(config, workdir):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        stand_in(patch, "reward", stopped)
        status, _, stderr = start()
        assert status == 130 and "resumes" in stderr
    assert_one_line(start("--stage=ppo"), "stage 'reward'", "stopped", "--stage=reward")
    start()
    assert stages == ["sft", "collect", "reward", "ppo", "eval"]


@pytest.mark.parametrize("stopped_in", ["collect", "reward"])
def test_a_stage_that_no_reward_asks_for_may_have_been_stopped(
    start, stages, tmp_path, monkeypatch, stopped_in
):
    def stopped(config, workdir):
        raise KeyboardInterrupt

    (tmp_path / "own.py").write_text(
        "def short(prompts, responses, rows):\n    return [0.0] * len(prompts)\n"
    )
    own = f"--config.ppo.reward={tmp_path / 'own.py'}:short"
    start("--stage=sft", own)
    with monkeypatch.context() as patch:
        stand_in(patch, stopped_in, stopped)
        assert start(f"--stage={stopped_in}", own)[0] == 130
    assert start("--stage=ppo", own)[0] == start("--stage=eval", own)[0] == 0
    assert stages == ["sft", "ppo", "eval"]


def test_rounds_come_after_the_supervised_policy_alone(start, stages, monkeypatch):
    """They are no stage of an ordinary run, and are told how to run one in a folder of theirs."""
    started = []

    def run(config, workdir):
        started.append(workdir.name)
        table.run_stages(config, workdir)

    monkeypatch.setattr(rounds, "run", run)
    with monkeypatch.context() as patch:
        stand_in(patch, "sft", lambda config, workdir: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            start("--stage=sft")
    assert_one_line(start("--stage=round"), "round needs stage 'sft', which was stopped", "--stage=sft")
    start("--stage=sft")
    status, stdout, _ = start("--stage=round")
    assert status == 0 and started == ["run"] and stages == ["sft", "collect", "reward", "ppo", "eval"]


def test_a_bug_keeps_its_traceback(start, stages, monkeypatch):
    def broken(config, workdir):
        raise ValueError("operands could not be broadcast")

    stand_in(monkeypatch, "sft", broken)
    with pytest.raises(ValueError, match="broadcast"):
        start("--stage=sft")


@pytest.mark.parametrize("allocate", [lambda: jax.numpy.zeros(1 << 46), lambda: np.zeros(1 << 50)])
def test_out_of_memory_is_told_in_one_line(start, stages, monkeypatch, allocate):
    """On the devices, and on the host."""
    stand_in(monkeypatch, "sft", lambda config, workdir: allocate())
    assert_one_line(start("--stage=sft"), "out of memory (", "the checkpoints are whole")


def test_a_fork_starts_with_the_stages_that_do_not_differ(start, stages, tmp_path):
    start()
    stages.clear()
    fork = (f"--fork={tmp_path / 'run'}", f"--workdir={tmp_path / 'fork'}", "--config.ppo.kl_coef=0.1")
    status, stdout, _ = start(*fork)
    assert status == 0 and stages == ["ppo", "eval"]
    assert "sft, collect, reward of" in stdout and "ppo.kl_coef: 0.05 → 0.1" in stdout
    assert start(*fork)[0] == 0 and stages == ["ppo", "eval"]


def test_missing_data_file_is_named(start, stages, tmp_path, monkeypatch):
    missing = tmp_path / "train.jsonl"
    stand_in(monkeypatch, "sft", lambda config, workdir: missing.read_text())
    assert_one_line(start("--stage=sft"), f"{missing}: No such file")


def test_the_report_is_named_at_the_end(start, stages, tmp_path):
    start()
    report = tmp_path / "run" / "report.html"
    report.write_text("")
    assert start()[1].splitlines()[-1] == f"report: {report}"


def test_command_from_a_shell(config_file, tmp_path):
    def command(*arguments):
        line = [sys.executable, "-m", "rlhf_jax", "run", *arguments]
        return subprocess.run(line, capture_output=True, text=True, timeout=60)

    wrong = command(f"--config={config_file}", f"--workdir={tmp_path / 'run'}", "--config.sft.batchsize=4")
    assert_one_line((wrong.returncode, wrong.stdout, wrong.stderr), "sft.batch_size")
    usage = command("--help")
    assert usage.returncode == 0 and usage.stderr == "" and "--config=configs/mini.py" in usage.stdout
