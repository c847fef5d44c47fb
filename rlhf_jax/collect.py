"""Collects comparisons: samples pairs of summaries for people, and finds what was collected.

python -m rlhf_jax.collect --config=configs/mini.py --workdir=runs/mini \\
    --policies=sft,ppo,reference --out=tasks.jsonl

--config=FILE, --config.FIELD=VALUE, --workdir=FOLDER  the run, as of rlhf_jax.main
--policies=LIST    two or more whose summaries are compared, with commas: reference is the post's own summary;
                   sft, sft_10x and ppo are of the work folder; NAME:FOLDER is another one, FOLDER an exported
                   model or another run's checkpoints, such as old:runs/old/checkpoints/ppo. Samples of a
                   policy that is named twice are also compared with each other
--out=FILE         where to write: comparison records without a choice, for rlhf_jax.feedback.serve
--pairs=NUMBER     (1000) of pairs to write
--posts=SPLIT      posts of train, valid1, valid2 (the halves of valid) or test, which the records then name;
                   without it, of train, and the export draws which are held out
--temperature=T    (1.0) of the samples
--not_again=GLOB   files of tasks or comparisons whose pairs are not asked again

In the miniature a run asks simulated labelers: the SFT policy writes summaries, pairs of them and of
others are made, and the labelers say which they prefer. That is kept as OpenAI's records in
`<workdir>/comparisons.jsonl`; nothing else of the gold judge reaches a model.
"""

import glob
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags, logging

from rlhf_jax import checkpoint, hosts, inference, tasks
from rlhf_jax.command_line import command
from rlhf_jax.config import Config, ModelConfig
from rlhf_jax.config_flags import parse_config
from rlhf_jax.data import sources
from rlhf_jax.data.comparisons import load_comparisons
from rlhf_jax.data.mini.pairs import pairs
from rlhf_jax.data.records import Comparison, Post, RecordError, read_comparisons, write_jsonl
from rlhf_jax.data.tokenizer import Tokenizer, load_tokenizer
from rlhf_jax.feedback.simulated import label
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import params, transformer

SAMPLES = 2  # summaries that the SFT policy writes for a post
SPLITS = ("train", "valid1", "valid2", "test")


def main(argv: list[str]) -> int:
    """Exit status: 0, or 2 after an error of use, told in one line."""
    logging.set_verbosity(logging.WARNING)  # Orbax tells every file it reads
    return command(argv, "rlhf_jax.collect", __doc__, lambda: ask(*_parse(argv)))


def _parse(argv: list[str]) -> tuple[Config, flags.FlagValues]:
    options = flags.FlagValues()
    for name, meaning in (("workdir", "folder of the run"), ("out", "file to write")):
        flags.DEFINE_string(name, None, meaning, required=True, flag_values=options)
    flags.DEFINE_list("policies", None, "whose summaries meet", required=True, flag_values=options)
    flags.DEFINE_integer("pairs", 1000, "number of pairs", lower_bound=1, flag_values=options)
    flags.DEFINE_enum("posts", None, SPLITS, "of these posts alone", flag_values=options)
    flags.DEFINE_float("temperature", tasks.TEMPERATURE, "of the samples", 0.0, flag_values=options)
    flags.DEFINE_string("not_again", "", "files of earlier tasks", flag_values=options)
    return parse_config(argv, options), options


def ask(config: Config, options: flags.FlagValues) -> None:
    """Writes the file of tasks that the options describe."""
    out = Path(options.out)
    if out.exists():
        raise RecordError(f"--out: {out} is there already; name a new file")
    earlier = sorted(glob.glob(options.not_again))
    if options.not_again and not earlier:
        raise RecordError(f"--not_again: there is no file {options.not_again}")
    source = options.posts or "train"
    posts = halved(sources.load_posts(config.data, config.seed)).get(source, [])
    if config.data.filters:
        posts = sources.filtered(posts, config.data, load_tokenizer(options.workdir))
    if not posts:
        raise RecordError(f"--posts: the data have no posts in {source}")
    with jax.set_mesh(make_mesh(config.mesh)):
        policies = tasks.find_policies(options.policies, config, Path(options.workdir), options.temperature)
        pairs = tasks.draw(policies, posts, options.pairs, config.seed, tasks.asked_in(earlier))
    split = {"split": options.posts} if options.posts else {}
    write_jsonl(out, [pair | split for pair in pairs])
    print(f"{out}: {len(pairs):,} pairs; python -m rlhf_jax.feedback.serve --tasks={out} asks them")


def halved(posts: dict[str, list[Post]]) -> dict[str, list[Post]]:
    """The posts by the splits of comparisons, to which valid1 and valid2 the halves of valid belong."""
    half = len(posts["valid"]) // 2
    return posts | {"valid1": posts["valid"][:half], "valid2": posts["valid"][half:]}


def collect(config: Config, workdir: Path, model: ModelConfig, tokenizer: Tokenizer) -> list[Comparison]:
    """The comparisons of a run, made on the first call in the miniature. Needs a mesh set."""
    file = workdir / "comparisons.jsonl"
    if config.data.source == "mini" and not hosts.from_first("comparisons", file.exists):
        made = _compare(config, workdir, model, tokenizer)
        if hosts.is_first():
            write_jsonl(file, made)
        hosts.gather("the comparisons")
    return load(config, workdir)


def load(config: Config, workdir: Path) -> list[Comparison]:
    """The comparisons of a run: those collected in its folder, or the published ones."""
    file = workdir / "comparisons.jsonl"
    if config.data.source == "mini" or file.exists():
        return list(read_comparisons(file))
    return load_comparisons(config.data, config.reward.batches)


def _compare(config: Config, workdir: Path, model: ModelConfig, tokenizer: Tokenizer) -> list[Comparison]:
    """`mini_pairs` labelled pairs in train; a twentieth of that, 500 at least, in valid1 and in valid2."""
    like = params.abstract(transformer.specs(model, tokenizer.vocab_size), jax.sharding.get_mesh())
    policy = checkpoint.restore_params(*checkpoint.require(workdir, "sft", "reward"), like)
    posts = halved(sources.load_posts(config.data, config.seed))
    half = len(posts["valid"]) // 2
    held_out = max(500, config.data.mini_pairs // 20)
    wanted = {
        "train": (posts["train"], config.data.mini_sampled, config.data.mini_pairs),
        "valid1": (posts["valid1"], half, held_out),
        "valid2": (posts["valid2"], half, held_out),
    }
    labelled = []
    for split, (candidates, sampled, count) in wanted.items():
        written = _samples(policy, candidates[:sampled], config, model, tokenizer)
        labelled += label(pairs(candidates, count, config.seed, written), config.seed, split)
    return labelled


def _samples(
    policy, posts: Sequence[Post], config: Config, model: ModelConfig, tokenizer: Tokenizer
) -> dict[str, list[tuple[str, str]]]:
    """Post id → (text, policy) of what the SFT policy wrote for it."""
    texts = inference.samples(
        policy,
        posts,
        SAMPLES,
        model=model,
        tokenizer=tokenizer,
        data=config.data,
        temperature=tasks.TEMPERATURE,
        seed=config.seed,
    )
    return {post.id: [(text, "sft") for text in own] for post, own in zip(posts, texts, strict=True)}


if __name__ == "__main__":
    sys.exit(main(sys.argv))
