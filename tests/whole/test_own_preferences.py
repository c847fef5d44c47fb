"""Preferences of one's own, from a file to the report, by configuration alone, with a small chat model."""

import json
import re
import sys
from pathlib import Path

import chat_folders
import jax
import programs
import pyarrow
import pyarrow.parquet
import pytest

from rlhf_jax import inference, main
from rlhf_jax.config import (
    Config,
    DataConfig,
    EvalConfig,
    MeshConfig,
    ModelConfig,
    PpoConfig,
    RewardConfig,
    RotaryConfig,
    SftConfig,
)
from rlhf_jax.feedback import viewer
from rlhf_jax.model import params, pretrained, transformer
from rlhf_jax.pipeline import export
from rlhf_jax.training.metrics import read_metrics

BIRDS = "robin wren owl finch crow dove gull hawk swan lark".split()
PLACES = "wood field garden harbour".split()
PAIRS = [
    (f"Where does the {bird} sing in the {place}?", f"The {bird} sings.", "No.")
    for bird in BIRDS
    for place in PLACES
]
SHAPE = ModelConfig(  # that of Qwen2: biases in the attention
    width=16,
    layers=1,
    heads=2,
    kv_heads=1,
    ff=32,
    norm="rms",
    positions="rotary",
    rotary=RotaryConfig(),
    activation="silu",
    gated=True,
    mlp_bias=False,
    tied_head=False,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A chat model with random weights, as transformers would hold it."""
    folder = tmp_path_factory.mktemp("model") / "chat"
    tokenizer = chat_folders.byte_level()
    ends = [tokenizer.token_to_id(name) for name in ("<|im_end|>", "<|endoftext|>")]
    chat_folders.write_folder(folder, *chat_folders.TEMPLATES["qwen2.5"], tokenizer)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    with jax.set_mesh(jax.make_mesh((1, 1, 1), ("replica", "fsdp", "tensor"))):
        specs = transformer.specs(SHAPE, tokenizer.get_vocab_size())
        pretrained.save(folder, params.init(specs, jax.random.key(0)), SHAPE)
    return folder


def as_texts(path: Path) -> Path:
    """Three columns of Parquet."""
    prompt, chosen, rejected = zip(*PAIRS, strict=True)
    table = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    pyarrow.parquet.write_table(pyarrow.table({name: list(x) for name, x in table.items()}), path)
    return path


def as_conversations(path: Path) -> Path:
    """JSON lines whose conversations begin alike."""
    lines = []
    for prompt, *texts in PAIRS:
        asked = {"role": "user", "content": prompt}
        sides = [[asked, {"role": "assistant", "content": text}] for text in texts]
        lines.append(json.dumps(dict(zip(("chosen", "rejected"), sides, strict=True))))
    path.write_text("\n".join(lines))
    return path


def config(source: str, files: Path, model: Path) -> Config:
    return Config(
        mesh=MeshConfig(1, 1, 1),
        model=ModelConfig(pretrained=str(model)),
        data=DataConfig(
            source=source,
            files=str(files),
            query_tokens=128,
            query_buckets=(128,),
            response_tokens=12,
            reward_response_tokens=24,
        ),
        sft=SftConfig(batch_size=8, pack=False),
        reward=RewardConfig(batch_size=8, save_every=1),
        ppo=PpoConfig(episodes=8, batch_size=4, epochs=1),
        eval=EvalConfig(posts=4, best_of=2),
    )


def run(made: Config, workdir: Path, *options: str) -> int:
    source = f"from rlhf_jax.config import *\n\n\ndef get_config():\n    return {made!r}\n"
    workdir.parent.mkdir(parents=True, exist_ok=True)
    file = workdir.parent / "config.py"
    file.write_text(source)
    sys.modules.pop("config_config", None)
    return main.main(["run", f"--config={file}", f"--workdir={workdir}", *options])


def losses(workdir: Path) -> list[float]:
    found = []
    for file in sorted((workdir / "metrics").glob("*.jsonl")):
        for record in read_metrics(file):
            found += [value for name, value in record.items() if "loss" in name or "score" in name]
    return found


@pytest.fixture(scope="module")
def runs(model, tmp_path_factory) -> dict[str, Path]:
    """The same pairs in both formats, each through all stages that train, one of them to the report."""
    folder = tmp_path_factory.mktemp("runs")
    files = {
        "texts": as_texts(folder / "pairs.parquet"),
        "conversations": as_conversations(folder / "pairs.jsonl"),
    }
    with pytest.MonkeyPatch.context() as patch:
        programs.share(patch, {})
        for stage in ("sft", "collect", "reward", "ppo"):
            made = config("chat", files["texts"], model)
            assert run(made, folder / "texts", f"--stage={stage}") == 0
        assert run(config("chat", files["conversations"], model), folder / "conversations") == 0
    return {name: folder / name for name in files}


def test_both_formats_give_the_same_numbers(runs):
    texts, conversations = (losses(runs[name]) for name in ("texts", "conversations"))
    assert len(texts) > 8 and texts == conversations


def test_the_report_speaks_of_prompts_and_responses(runs, tmp_path):
    page = (runs["conversations"] / "report.html").read_text()
    results = json.loads((runs["conversations"] / "results.json").read_text())
    assert set(results["preference_over_reference"]) == {"base", "sft", "ppo", "best_of_2"}
    assert "PPO preferred over the reference" in page and ">Prompts<" in page
    before_settings = page.partition('<h2 id="settings">')[0]
    visible = re.sub("<(style|script).*?</\\1>|<[^>]+>", " ", before_settings, flags=re.DOTALL)
    assert not re.search("summar|post", visible, re.IGNORECASE)
    sample = json.loads((runs["conversations"] / "samples" / "test.jsonl").read_text().splitlines()[0])
    assert sample["post"]["prompt"][0]["role"] == "user"
    samples = runs["conversations"] / "samples" / "test.jsonl"
    assert viewer.main(["view", f"--samples={samples}", f"--out={tmp_path / 'viewer'}"]) == 0


def test_an_exported_policy_chats_as_the_run_does(runs, tmp_path, model):
    export.export(runs["texts"], "ppo", tmp_path / "exported")
    written = inference.load(runs["texts"], "ppo").write(["Where does the owl sing?"])
    assert inference.load(tmp_path / "exported").write(["Where does the owl sing?"]) == written
    theirs = json.loads((model / "generation_config.json").read_text())["eos_token_id"]
    ours = json.loads((tmp_path / "exported" / "generation_config.json").read_text())["eos_token_id"]
    assert ours == theirs
    assert (tmp_path / "exported" / "chat_template.jinja").read_text() == chat_folders.QWEN25
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "apply_chat_template" in card and "pipeline_tag: text-generation" in card
    assert "Responses can say what is not so" in card and "response = tokenizer.decode" in card
