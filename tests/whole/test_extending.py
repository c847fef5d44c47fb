"""A stage and a task of one's own, as docs/howto/ shows them: all else takes them as they are."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import programs
import pytest
import tiny

from rlhf_jax import inference, main
from rlhf_jax.config import (
    Config,
    DataConfig,
    EvalConfig,
    MeshConfig,
    ModelConfig,
    PpoConfig,
    RewardConfig,
    SftConfig,
)
from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.data.records import Comparison, Example, Summary
from rlhf_jax.feedback import viewer
from rlhf_jax.pipeline import ask, export, stages
from rlhf_jax.pipeline.stages import Output, Stage
from rlhf_jax.run import checkpoint
from rlhf_jax.run import workdir as runs
from rlhf_jax.training.metrics import MetricsLog, read_metrics

HOWTO = Path(__file__).parents[2] / "docs" / "howto"


def code(page: str) -> list[str]:
    """The Python of a page, block by block."""
    return re.findall(r"```python\n(.*?)```", (HOWTO / page).read_text(encoding="utf-8"), re.DOTALL)


def config(source: str, **data) -> Config:
    """A run of a minute."""
    return Config(
        mesh=MeshConfig(1, 1, 1),
        model=ModelConfig(width=16, layers=1, heads=2, positions="rotary"),
        data=DataConfig(
            source=source,
            vocabulary=340,  # which the texts of either test fill, so that both runs take the same programs
            query_tokens=96,
            query_buckets=(96,),
            response_tokens=12,
            reward_response_tokens=24,
            mini_posts=64,
            mini_pairs=64,
            mini_policies=(
                "sft",
                "sft",
                "reference",
                "editor",
            ),  # without a pretrained model there is no base
            mini_test=24,
            **data,
        ),
        sft=SftConfig(batch_size=16),
        reward=RewardConfig(batch_size=16, save_every=1),
        ppo=PpoConfig(episodes=32, batch_size=16, epochs=1),
        eval=EvalConfig(posts=12, best_of=2),
    )


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    with pytest.MonkeyPatch.context() as patch:
        programs.share(patch, {})
        yield


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs main with a configuration in folders below `tmp_path`; its output."""
    monkeypatch.chdir(tmp_path)

    def call(made: Config, workdir: str, *options: str) -> str:
        source = f"from rlhf_jax.config import *\n\n\ndef get_config():\n    return {made!r}\n"
        Path("config.py").write_text(source)
        sys.modules.pop("config_config", None)
        assert main.main(["run", "--config=config.py", f"--workdir={workdir}", *options]) == 0
        return capsys.readouterr().out

    return call


@pytest.fixture
def slic(monkeypatch):
    """The stage of the page: its module, with its row in the table."""
    module, row = code("stage.md")
    made = ModuleType("slic")
    exec(compile(module, "slic.py", "exec"), made.__dict__)
    stage = eval(row, {"Stage": Stage, "Output": Output, "slic": made})
    place = stages.names().index("ppo")
    monkeypatch.setattr(stages, "STAGES", [*stages.STAGES[:place], stage, *stages.STAGES[place:]])
    return made


def test_a_stage_of_ones_own_is_a_stage_like_any_other(slic, run, tmp_path, monkeypatch):
    for name in ("sft", "collect"):
        run(config("mini"), "a", f"--stage={name}")
    log = MetricsLog.log

    def stopping(self, i, *more, **read):
        log(self, i, *more, **read)
        if i == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "log", stopping)
        made = ["run", "--config=config.py", "--workdir=a", "--stage=slic"]
        assert main.main(made) == 130
    assert "sft, collect" not in run(config("mini"), "a", "--stage=slic")  # it resumes
    steps = [record["step"] for record in read_metrics(tmp_path / "a" / "metrics" / "slic.jsonl")]
    assert steps == list(range(4))
    run(config("mini"), "a")

    results = json.loads(Path("a/results.json").read_text())
    trained = [name for name in results["policies"] if name in stages.networks()]
    assert trained == ["sft", "slic", "ppo"] and "slic" in results["seconds"]
    page = Path("a/report.html").read_text()
    assert "Sequence likelihood calibration" in page and ">SLiC-HF<" in page
    assert viewer.main(["view", "--samples=a/samples/test.jsonl", "--out=viewer"]) == 0
    assert '"SLiC-HF"' in Path("viewer/data/index.js").read_text()

    export.export(Path("a"), "slic", Path("exported"))
    assert "trained on human comparisons directly" in Path("exported/README.md").read_text()
    texts = inference.load("a", "slic").write(["what happened"])
    assert inference.load("exported").write(["what happened"]) == texts
    options = ["--config=config.py", "--workdir=a", "--policies=slic,sft", "--pairs=4", "--out=tasks.jsonl"]
    assert ask.main(["rlhf-jax ask", *options]) == 0

    tiny.stand_in(monkeypatch, "ppo", lambda config, workdir: None)
    forked = config("mini")
    forked.ppo.kl_coef = 0.2
    told = run(forked, "b", "--fork=a", "--stage=ppo")
    assert "sft, collect, reward, slic of a" in told
    assert runs.stage_done(Path("b"), "slic") and checkpoint.latest_step(Path("b/checkpoints/slic")) == 4


def test_a_task_of_ones_own_goes_through_all_stages(run, tmp_path):
    (module,) = code("task.md")
    Path(tmp_path / "my_task.py").write_text(module)
    records = {
        split: [Example(f"{split}{i}", f"why do {post.post}?", post.summary) for i, post in enumerate(posts)]
        for split, posts in (("train", tiny.posts(48, 0)), ("valid", tiny.posts(16, 1)))
    }
    comparisons = [
        Comparison(
            Example(record.id, record.prompt),
            (Summary(record.reference, "ref"), Summary("cat", "sft")),
            i % 2,
            "ana",
            "b1",
            split,
        )
        for split, of in (("train", "train"), ("valid1", "valid"), ("valid2", "valid"))
        for i, record in enumerate(records[of])
    ]
    write_jsonl(tmp_path / "comparisons" / "b1.jsonl", comparisons)
    for split in records:
        write_jsonl(tmp_path / "questions" / f"{split}.jsonl", records[split])
    made = config("my_task.py", posts="questions", comparisons="comparisons")
    assert "48 comparisons in train" in run(made, "a")
    sample = json.loads(Path("a/samples/test.jsonl").read_text().splitlines()[0])
    first = records["valid"][0]
    assert sample["post"] == {"id": first.id, "prompt": first.prompt, "reference": first.reference}
    assert first.prompt in Path("a/report.html").read_text()
    assert viewer.main(["view", "--samples=a/samples/test.jsonl", "--out=viewer"]) == 0
    network = inference.load("a", "ppo")
    assert network.task.prompt(network.task.record_of("why?")).text == "QUESTION: why?\n\nANSWER:"
