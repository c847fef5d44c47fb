"""Writes a trained model as a folder that the transformers library opens.

rlhf-jax export --workdir=runs/mini --stage=ppo --out=exported/ppo
rlhf-jax export --workdir=runs/mini --stage=reward --out=exported/reward

--workdir=FOLDER  the run
--stage=STAGE     sft, sft_10x, dpo, distill or ppo: a policy, for AutoModelForCausalLM;
                  reward: the reward model, for AutoModelForSequenceClassification
--out=FOLDER      where to write; must be empty or not exist
--dtype=TYPE      float32 (the default: nothing is lost), bfloat16 or float16
--adapter         of a policy trained with model.lora its adapter alone, for PEFT; else it is merged

Beside the weights: tokenizer, generation settings and a model card, README.md.
"""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import jinja2
import tokenizers
from absl import flags

from rlhf_jax import inference
from rlhf_jax.command_line import command, parse_flags
from rlhf_jax.config import Config, ConfigError, fields_of
from rlhf_jax.data.chat import ChatTokenizer
from rlhf_jax.data.sentencepiece_json import tokenizer_json
from rlhf_jax.data.tokenizer import (
    GENERATION_FILE,
    JSON_FILE,
    MODEL_FILE,
    SETTINGS_FILE,
    TEMPLATE_FILE,
    Tokenizer,
)
from rlhf_jax.files import read_object, whole_folder, write_json, write_text
from rlhf_jax.inference import Network
from rlhf_jax.model import heads, lora, params, peft, pretrained, transformer
from rlhf_jax.pipeline import stages
from rlhf_jax.report.figures import anchor_of
from rlhf_jax.run import workdir as runs
from rlhf_jax.training import adapters

# How transformers reads a query: special tokens that somebody typed are text, those of a template are none.
PLAIN_TEXT = {False: "split_special_tokens=True", True: "add_special_tokens=False"}
PAD = "<|pad|>"  # of reward models: transformers finds the last token of a text by it


def main(argv: list[str]) -> int:
    def run() -> None:
        options = _parse(argv)
        export(Path(options.workdir), options.stage, Path(options.out), options.dtype, options.adapter)
        print(f"{options.stage}: {options.out}")

    return command(argv, run)


def _parse(argv: list[str]) -> flags.FlagValues:
    options = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "folder of the run", required=True, flag_values=options)
    names = list(stages.networks())
    flags.DEFINE_enum("stage", None, names, "whose model", required=True, flag_values=options)
    flags.DEFINE_string("out", None, "folder to write", required=True, flag_values=options)
    flags.DEFINE_enum(
        "dtype", "float32", ("float32", "bfloat16", "float16"), "of the weights", flag_values=options
    )
    flags.DEFINE_bool("adapter", False, "the adapter alone", flag_values=options)
    return parse_flags(argv, options)


def export(workdir: Path, name: str, out: Path, dtype: str = "float32", adapter: bool = False) -> None:
    """Writes the newest checkpoint of network `name` as the folder `out`, whole or not at all.

    Adapters are merged into their base, which is read whole for that, or written without it where an
    `adapter` is asked for. Raises ConfigError where `out` holds something already or no family of the
    transformers library has the architecture, CheckpointError where there is no checkpoint.
    """
    with whole_folder(out, ConfigError) as partial:
        _write(workdir, name, partial, dtype, adapter)


def _write(workdir: Path, name: str, out: Path, dtype: str, adapter: bool) -> None:
    config, network = runs.read_config(workdir), inference.load(workdir, name)
    tokenizer, scalar = network.tokenizer, network.is_scalar
    if adapter and scalar:
        raise ConfigError(f"--adapter: PEFT has no place for the shift of {name}: leave it out, to merge it")
    if adapter and not network.base:
        raise ConfigError(f"--adapter: {name} was trained whole, without model.lora: leave it out")
    with inference.on_devices():
        converted = as_json(workdir)
        eos = converted.id_to_token(tokenizer.eos_id)
        pad_id = tokenizer.eos_id  # of a policy: its padding is left out by the attention mask
        if network.base:
            whole = adapters.whole_base_of(network.model, tokenizer.vocab_size)
            network = replace(network, base=whole)
        weights = lora.merged(network.weights, network.model.lora)
        if scalar:
            converted.add_special_tokens([PAD])
            pad_id = converted.encode(PAD, add_special_tokens=False).ids[0]
            embed = weights["transformer"]["embed"]
            more = max(pad_id + 1 - embed["tokens"].shape[0], 0)  # rows of zeros, where there is none for PAD
            embed["tokens"] = jnp.pad(embed["tokens"], ((0, more), (0, 0)))
        bos_id = next(iter(tokenizer.prefix), None)
        fields = {"bos_token_id": bos_id, "eos_token_id": eos_ids(tokenizer), "pad_token_id": pad_id}
        if adapter:
            peft.save(out, network.trained, network.model)
        else:
            pretrained.save(out, weights, network.model, dtype, fields)
    write_json(out / inference.TASK_FILE, inference.task_fields(config.data))
    converted.save(str(out / JSON_FILE))
    settings: dict[str, str | bool | None] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": eos,
        "pad_token": PAD if scalar else eos,
        "padding_side": "right" if scalar else "left",
        "clean_up_tokenization_spaces": False,
    }
    if isinstance(tokenizer, ChatTokenizer):
        template = tokenizer.chat.template
        settings = {**{name: token for name, token in template.special_tokens.items() if token}, **settings}
        write_text(out / TEMPLATE_FILE, template.source)
    write_json(out / SETTINGS_FILE, settings)
    if not scalar:
        generation = {
            "eos_token_id": eos_ids(tokenizer),
            "pad_token_id": pad_id,
            "max_new_tokens": config.data.response_tokens,
            "do_sample": False,
        }
        write_json(out / GENERATION_FILE, generation)
    write_text(out / "README.md", model_card(config, workdir, name, network, adapter))


def eos_ids(tokenizer: Tokenizer) -> int | list[int]:
    """The EOS of a model as transformers writes it, one or several."""
    return tokenizer.eos_id if len(tokenizer.eos_ids) == 1 else list(tokenizer.eos_ids)


def as_json(folder: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a folder in the format of the tokenizers library."""
    if (folder / JSON_FILE).exists():
        return tokenizers.Tokenizer.from_file(str(folder / JSON_FILE))
    return tokenizers.Tokenizer.from_buffer(tokenizer_json((folder / MODEL_FILE).read_bytes()))


def model_card(config: Config, workdir: Path, name: str, network: Network, adapter: bool = False) -> str:
    """README.md of an exported model: what it is, how to use it, data, settings, results and limits."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    results, specs = workdir / "results.json", (heads if network.is_scalar else transformer).specs
    told = read_object(results, ConfigError) if results.exists() else {}
    anchor = anchor_of(told)
    stage = next(stage for stage in stages.STAGES if name in stage.networks)
    shown = ("model.", "data.", f"{stage.name}.")
    words, named = network.task.words, stages.words_of(config)
    description = stages.networks()[name].description.format(**words._asdict(), **named)
    compared = {"collect", "reward"} & set(stage.needs)
    if stage.name == "ppo" and not config.ppo.is_by_model_alone:
        description = f"a policy trained with {named['algorithm']} by the rewards `{config.ppo.reward}`"
        compared = compared if stages.scores_by_model(config) else set()
    described = replace(config, model=network.model)  # a pretrained model's fields are not those of the run
    return environment.get_template("model_card.md.jinja").render(
        name=name,
        task=network.task,
        words=words,
        space=network.task.response("x") == " x",
        chat=isinstance(network.tokenizer, ChatTokenizer),
        plain_text=PLAIN_TEXT[isinstance(network.tokenizer, ChatTokenizer)],
        pipeline_tag=network.task.pipeline_tag,
        anchor=anchor,
        preferences=told.get(f"preference_over_{anchor}") or {},
        compared=bool(compared),
        scalar=network.is_scalar,
        adapter=adapter,
        base=network.model.pretrained,
        description=description,
        run=workdir.resolve().name,
        config=config,
        parameters=params.count(specs(network.model, network.tokenizer.vocab_size)),
        settings=[(field, value) for field, _, value in fields_of(described) if field.startswith(shown)],
        results=told,
    )
