"""Folders of Hugging Face with the chat templates of published models, in short, and conversations."""

import json
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from rlhf_jax.data.records import Turn

# Qwen2.5: a system turn of its own where none is given.
QWEN25 = """\
{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant") %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""  # noqa: E501

# Qwen3: reasoning is kept after the last question alone, and an empty one asks for none.
QWEN3 = """\
{%- set ns = namespace(last=0) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == "user" and not ns.last %}{%- set ns.last = index %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- content.lstrip('\\n') + '<|im_end|>\\n' }}
    {%- elif message.role in ("user", "system") %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

# Llama 3: a header for any role, trimmed contents, the date.
LLAMA3 = """\
{{- bos_token }}
{%- if strftime_now is defined %}{%- set date = strftime_now("%d %b %Y") %}{%- else %}{%- set date = "?" %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday: " + date + "\\n\\n" + system + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""  # noqa: E501

# Gemma 2: no system turn, strict alternation, another name for the assistant.
GEMMA2 = """\
{{ bos_token }}\
{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate user/assistant/user/...') }}
{% endif %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}
"""

# Gemma 3: a system prompt inside the first question, contents that may come in parts.
GEMMA3 = """\
{{ bos_token }}
{%- set told = messages[0]['role'] == 'system' %}
{%- set system = messages[0]['content'] + '\\n\\n' if told else '' %}
{%- for message in (messages[1:] if told else messages) -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Roles must alternate user/assistant/user/...') }}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (system if loop.first else '') }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for part in message['content'] if part.type == 'text' -%}{{ part.text | trim }}{%- endfor -%}
    {%- else -%}
        {{ raise_exception('Invalid content type') }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}
"""

# SmolLM2: one loop that puts its own system turn first.
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are Smol.<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# Mistral: a system prompt inside the first question, no generation prompt, EOS after each answer.
MISTRAL = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system = messages[0]["content"] %}{%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in turns %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("After the optional system message, roles must alternate user/assistant") }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.first and system is defined %}
            {{- "[INST] " + system + "\\n\\n" + message["content"] + " [/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + " [/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {%- generation %}{{- " " + message["content"] + eos_token }}{%- endgeneration %}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported!") }}
    {%- endif %}
{%- endfor %}
"""

TEMPLATES = {
    "qwen2.5": (QWEN25, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None}),
    "qwen3": (QWEN3, {"eos_token": "<|im_end|>"}),
    "llama3": (LLAMA3, {"eos_token": "<|eot_id|>", "bos_token": "<|begin_of_text|>"}),
    "gemma2": (GEMMA2, {"eos_token": "<eos>", "bos_token": {"__type": "AddedToken", "content": "<bos>"}}),
    "gemma3": (GEMMA3, {"eos_token": "<eos>", "bos_token": "<bos>"}),
    "smollm2": (SMOLLM2, {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}),
    "mistral": (MISTRAL, {"eos_token": "</s>", "bos_token": "<s>"}),
}
SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|begin_of_text|> <|start_header_id|> <|end_header_id|> "
    "<|eot_id|> <bos> <eos> <start_of_turn> <end_of_turn> <s> </s> [INST] [/INST]"
).split()
ORDINARY = ["<think>", "</think>"]  # added tokens that are not special, as in Qwen3
TEXTS = ["system user assistant model the robin sang 'hello' because it was spring\n\n"] * 20

Q, A = "Why did it sing?", "Because it was spring."
EXAMPLES = {
    "one": [Turn("user", Q)],
    "two": [Turn("user", Q), Turn("assistant", A)],
    "many": [Turn("user", Q), Turn("assistant", A), Turn("user", "And then?"), Turn("assistant", "It left.")],
    "blank": [Turn("user", ""), Turn("assistant", " \n"), Turn("user", "\n"), Turn("assistant", "")],
    "spaces": [Turn("user", "  a\tb \n\n"), Turn("assistant", "\n\n c  "), Turn("user", "\u00a0d\u2003")],
    "unicode": [Turn("user", "naïve 日本語 👩‍👩‍👧 e\u0301 \x00\ufeff"), Turn("assistant", "Ωmega ½ ﬁ \r\n")],
    "parts": [Turn("user", "im_end|> <|im_ <"), Turn("assistant", "|>INST] </"), Turn("user", "user")],
}
SYSTEMS = ["", "  You are a robin.\n", "日本"]


def byte_level(normalizer=None, special=SPECIAL, ordinary=ORDINARY) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    if normalizer:
        made.normalizer = normalizer
    made.add_special_tokens(special)
    made.add_tokens([AddedToken(token, normalized=False) for token in ordinary])
    return made


def byte_fallback() -> tokenizers.Tokenizer:
    """Of the form of Llama 2's and Gemma's: bytes for what is no piece, as the newline; 999 ends a text."""
    named = ["</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "<unk>", "▁", "a", "b"]
    vocabulary = {name: 999 + i for i, name in enumerate(named)}
    made = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens(["</s>"])
    return made


def write_folder(folder: Path, template, settings: dict, tokenizer=None, **objects) -> Path:
    """A folder of Hugging Face with that chat template; each of `objects` becomes <name>.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (tokenizer or byte_level()).save(str(folder / "tokenizer.json"))
    fields = settings | {"tokenizer_class": "PreTrainedTokenizerFast"}
    if template is not None:
        fields["chat_template"] = template
    for name, value in (objects | {"tokenizer_config": fields}).items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def write_folders(root: Path) -> dict[str, Path]:
    """A folder for each of TEMPLATES."""
    made = {name: write_folder(root / name, *TEMPLATES[name]) for name in TEMPLATES}
    ends = [byte_level().token_to_id(token) for token in ("<eos>", "<end_of_turn>")]
    for name in ("gemma2", "gemma3"):
        (made[name] / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return made


def written(folder: Path, ids) -> list[str]:
    """Each token as text."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [tokenizer.decode([i], skip_special_tokens=False) for i in ids]
