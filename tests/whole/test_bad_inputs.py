"""Inputs that cannot be used end in one line that names the place and the fault, and no traceback.

`python -m pytest tests/whole/test_bad_inputs.py -s` prints how many there are of each kind.
"""

import shutil
import sys
from collections import Counter

import bad_inputs
import pytest
import tiny
from bad_inputs import (
    COMMANDS,
    Bad,
    cut,
    field,
    folder,
    gone,
    header,
    in_step,
    line,
    lines,
    nothing,
    put,
    single,
    sql,
    tensor,
    whole,
)

from rlhf_jax.training.metrics import MetricsLog

POSTS = lines(
    "posts",
    "sft",
    "data/posts/train.jsonl",
    [
        ("no id", "field id is missing", "id"),
        ("a number for an id", "field id should be a string, not a number", "id", 7),
        ("no text", "field post is missing", "post"),
        ("a text of blanks", "field post is empty", "post", " \n"),
        ("a list for a title", "field title should be a string, not a list", "title", []),
        ("no subreddit", "field subreddit is missing", "subreddit"),
    ],
) + single(
    "posts",
    "sft",
    [
        ("an empty file", put("data/posts/valid.jsonl", b""), ("valid.jsonl", "no posts in it")),
        ("no folder", nothing, ("gone/train.jsonl", "No such file"), "--config.data.posts={}/gone"),
        (
            "a home that nobody has",
            nothing,
            ("~no_such_user/x/train.jsonl", "No such file"),
            "--config.data.posts=~no_such_user/x",
        ),
        (
            "longer titles than a query",
            field("data/posts/train.jsonl", "title", "word " * 900),
            ("t02: the query takes", "the limit is 44"),
        ),
    ],
)
COMPARISONS = lines(
    "comparisons",
    "agreement",
    "data/comparisons/pairs.json",
    [
        ("no post", "column info is missing; the rows before have", "info"),
        ("an empty post", "field info.post is empty", "info.post", ""),
        ("one summary", "field summaries should be two summaries, not 1", "summaries", [{}]),
        ("an object of summaries", "field summaries should be two", "summaries", {}),
        ("a number for a text", "field summaries[1].text should be a string", "summaries.1.text", 3),
        ("no policy", "field summaries[0].policy is missing", "summaries.0.policy"),
        ("choice 2", "field choice should be 0 or 1, not 2", "choice", 2),
        ("an unknown split", "field split is 'dev', it should be one of", "split", "dev"),
        ("a post that nobody can see", "field info.post is empty", "info.post", "\u200b\u2060"),
        ("a post and an article", "has both an article and a post", "info.article", "It rained."),
        ("choice true", "field choice should be 0 or 1, not true", "choice", True),
        ("choice 1.0", "field choice should be 0 or 1, not 1.0", "choice", 1.0),
        ("no worker", "field worker is missing", "worker"),
        ("a list for extra", "field extra should be an object", "extra", []),
    ],
    of_folder="no table",
)
COMPARISONS += single(
    "comparisons",
    "agreement",
    [("no line", put("data/comparisons/pairs.json", b""), ("pairs.json", "no rows in it"))],
)
AXIS_RATINGS = lines(
    "axis ratings",
    "axis ratings",
    "axis.jsonl",
    [
        ("no axes", "field summary.axes is missing", "summary.axes"),
        ("8 of 7", "field summary.axes.overall should be 1 to 7, not 8", "summary.axes.overall", 8),
        ("half a point", "field summary.axes.accuracy should be 1 to 7", "summary.axes.accuracy", 4.5),
        ("a text for a summary", "summary should be a JSON object, not a string", "summary", "x"),
    ],
)
TASKS = lines(
    "tasks",
    "serve",
    "tasks.jsonl",
    [
        ("no subreddit", "field subreddit is missing", "subreddit"),
        ("summaries of no post", "field info is missing", "summaries", [{}, {}]),
        ("a summary of no post", "field info is missing", "summary", {"text": "x", "policy": "y"}),
    ],
)
TASKS += single("tasks", "serve", [("no line", put("tasks.jsonl", b"\n"), ("tasks.jsonl", "holds no task"))])
ONBOARDING = lines(
    "onboarding",
    "serve a study",
    "onboarding.jsonl",
    [("no choice", "field choice is missing", "choice"), ("no split", "field split is missing", "split")],
)
ONBOARDING += single(
    "onboarding",
    "serve a study",
    [("no line", put("onboarding.jsonl", b""), ("onboarding.jsonl", "holds no comparison"))],
)
ASKED_BEFORE = [
    bad
    for bad in lines("pairs asked before", "not again", "onboarding.jsonl", [])
    if bad.what not in ("a list", "null", "no onboarding.jsonl")  # lines of other kinds are passed over
]
SAMPLES = lines(
    "samples",
    "viewer",
    "samples.jsonl",
    [
        ("no post", "field post should be an object", "post"),
        ("a list of summaries", "field summaries should be an object", "summaries", []),
        ("a text for a summary", "summaries.sft should be a JSON object", "summaries.sft", "x"),
        ("a word for a score", "summaries.sft.score should be a finite number", "summaries.sft.score", "x"),
        ("a huge score", "summaries.sft.score should be a finite", "summaries.sft.score", 10**400),
    ],
) + single(
    "samples",
    "viewer",
    [
        ("a post twice", field("samples.jsonl", "post.id", "post0"), ("samples.jsonl", "'post0' stands")),
        ("no line", put("samples.jsonl", b""), ("samples.jsonl", "no samples there")),
        ("bad comparisons", nothing, ("tasks.jsonl, line 1", "missing"), "--comparisons={}/tasks.jsonl"),
        ("a folder with other files", nothing, ("--out", "no viewer"), "--out={}/run"),
        ("a file for a folder", nothing, ("config.py",), "--out={}/config.py/x"),
    ],
)
NEWS = [
    bad
    for bad in lines(
        "news ratings",
        "news",
        "ratings/news.jsonl",
        [
            ("no systems", "field systems is missing", "systems"),
            ("a list of systems", "field systems should be an object", "systems", []),
            ("a text for a system", "systems.a should be a JSON object", "systems.a", "x"),
            ("no scores", "field systems.a.scores is missing", "systems.a.scores"),
            ("empty scores", "systems.a.scores should hold at least one", "systems.a.scores", {}),
            ("a word", "systems.b.scores.fluency should be a number", "systems.b.scores.fluency", "4"),
            ("a huge one", "systems.b.scores.fluency should be", "systems.b.scores.fluency", 10**400),
            ("an empty article", "field article is empty", "article", ""),
        ],
    )
    if bad.what != "no news.jsonl"  # of a folder whose files are what is there
] + single(
    "news ratings",
    "news",
    [
        ("no files", gone("ratings/news.jsonl"), ("ratings", "no *.jsonl files")),
        ("1e999", line("ratings/news.jsonl", '{"id": "a", "article": "b", "systems": {"a": {"text": "c", '
         '"scores": {"d": 1e999}}}}'), ("news.jsonl, line 3", "systems.a.scores.d should be a number")),
        ("a file for --out", nothing, ("config.py",), "--out={}/config.py"),
    ],
)  # fmt: skip
METRICS = lines(
    "metrics",
    "resume",
    "run/metrics/sft.jsonl",
    [
        ("no step", "field step should be a whole number", "step"),
        ("step 1.5", "field step should be a whole number", "step", 1.5),
        ("a word for a loss", 'field loss should be a number, not "low"', "loss", "low"),
        ("true for a loss", "field loss should be a number, not true", "loss", True),
    ],
)
METRICS = [bad for bad in METRICS if bad.what != "no sft.jsonl"]  # the first start has none

STUDY = single(
    "study",
    "serve a study",
    [
        (what, put("study.toml", text), ("study.toml", words))
        for what, text, words in (
            ("no TOML", "quota =", "not TOML (Invalid value"),
            ("JSON", '{"quota": 1}', "not TOML"),
            ("no UTF-8", b"name = '\xff'", "not UTF-8 text"),
            ("a key twice", "quota = 1\nquota = 2", "not TOML (Cannot overwrite"),
            ("5,000 digits", "quota = " + "1" * 5_000, "not TOML"),
            ("lists too deep", "kinds = " + "[" * 5_000, "not TOML"),
            ("an unknown field", "quotas = 3", "field quotas is not a setting"),
            ("a negative quota", "quota = -1", "field quota should be a whole number from 0"),
            ("a share of 15", "calibration = 15", "field calibration should be a share"),
            ("no share", "calibration = nan", "field calibration should be a share"),
            ("an unknown kind", 'kinds = ["comparision"]', "field kinds should be some of"),
            ("a half axis", '[[axes]]\nname = "tone"', "field axes[0].question is missing"),
            ("no records", "[onboarding]\nagreement = 0.7", "field onboarding.records is missing"),
            ("a text for a labeler", "[labelers]\nAna = 3", "field labelers.Ana should be a table"),
        )
    ]
    + [
        ("no file", gone("study.toml"), ("study.toml", "No such file")),
        ("a folder", folder("study.toml"), ("study.toml", "Is a directory")),
    ],
)
SENTENCEPIECE = single(
    "sentencepiece model",
    "sft, our tokenizer",
    [
        ("empty", put("sp/tokenizer.model", b""), ("tokenizer.model", "not a sentencepiece model")),
        ("text", put("sp/tokenizer.model", b"hello"), ("tokenizer.model", "not a sentencepiece model")),
        ("half of it", cut("sp/tokenizer.model", 2000), ("tokenizer.model", "not a sentencepiece model")),
        ("a folder", folder("sp/tokenizer.model"), ("tokenizer.model", "Is a directory")),
        ("a folder without", gone("sp/tokenizer.model"), ("sp", "neither tokenizer.json nor")),
        ("no such path", nothing, ("gone", "No such file"), "--config.data.tokenizer={}/gone"),
        ("a JSON file", nothing, ("config.json", "not a tokenizer.json"),
         "--config.data.tokenizer={}/hf/config.json"),
    ],
) + whole(
    "sentencepiece model",
    "sft, our tokenizer",
    "sp/tokenizer_config.json",
    [
        ("vocab_size of a word", "vocab_size 'many' should be a whole number", "vocab_size", "many"),
        ("vocab_size 1e3", "vocab_size 1000.0 should be a whole number", "vocab_size", 1e3),
        ("add_bos_token of a word", "add_bos_token 'no' should be true or false", "add_bos_token", "no"),
    ],
)  # fmt: skip
SENTENCEPIECE += single(
    "sentencepiece model",
    "sft, our tokenizer",
    [("fewer rows than pieces", field("sp/tokenizer_config.json", "vocab_size", 5),
      ("tokenizer.model", "5 rows", "vocab_size in tokenizer_config.json"))],
)  # fmt: skip
TOKENIZER_JSON = single(
    "tokenizer.json",
    "sft, pretrained",
    [
        ("empty", put("hf/tokenizer.json", b""), ("tokenizer.json", "not a tokenizer.json")),
        ("another JSON", put("hf/tokenizer.json", b"{}"), ("tokenizer.json", "not a tokenizer.json")),
        ("half of it", cut("hf/tokenizer.json", 900), ("tokenizer.json", "not a tokenizer.json")),
        ("no UTF-8", put("hf/tokenizer.json", b"\xff"), ("tokenizer.json", "not a tokenizer.json")),
        ("lists too deep", put("hf/tokenizer.json", "[" * 9999), ("tokenizer.json", "not a tokenizer.json")),
        ("a folder", folder("hf/tokenizer.json"), ("tokenizer.json", "Is a directory")),
        ("gone", gone("hf/tokenizer.json"), ("hf", "neither tokenizer.json nor")),
        ("an unknown model", field("hf/tokenizer.json", "model.type", "x"), ("tokenizer.json", "not a")),
        ("no merges", field("hf/tokenizer.json", "model.merges"), ("tokenizer.json", "not a tokenizer.json")),
        ("no EOS", put("hf/tokenizer_config.json", b"{}"), ("tokenizer.json", "no end-of-text token known")),
    ],
) + whole(
    "tokenizer.json",
    "sft, pretrained",
    "hf/tokenizer_config.json",
    [
        (f"EOS {value!r}", f"eos_token {value!r} is not a token of tokenizer.json", "eos_token", value)
        for value in ("</s>", 9999, -1, 1.5, True)
    ]
    + [
        ("a list without EOS", "eos_token None is not a token", "eos_token", []),
        ("EOS without its text", "eos_token None is not a token", "eos_token", {}),
    ],
)
HF_CONFIG = whole(
    "config.json of Hugging Face",
    "sft, pretrained",
    "hf/config.json",
    [
        ("no model_type", "model_type '(none)' is not supported", "model_type"),
        ("another model", "model_type 'mamba' is not supported", "model_type", "mamba"),
        ("a width of a word", "field hidden_size is 'many'", "hidden_size", "many"),
        ("a width of zero", "field hidden_size is 0, it should be positive", "hidden_size", 0),
        ("1.5 layers", "field num_hidden_layers is 1.5", "num_hidden_layers", 1.5),
        ("true heads", "field num_attention_heads is True", "num_attention_heads", True),
        ("5 heads", "5 heads do not fit", "num_attention_heads", 5),
        ("1e400 layers", "should be below 1e+15", "num_hidden_layers", 10**400),
        ("a huge epsilon", "should be below 1e+15", "rms_norm_eps", 10**400),
        ("an unknown activation", "hidden_act 'relu' is not supported", "hidden_act", "relu"),
        ("a number for rope_parameters", "field rope_parameters is 3", "rope_parameters", 3),
        ("an unknown scaling", "'su' is not supported", "rope_parameters", {"rope_type": "su"}),
        ("longrope without factors", "field short_factor is missing", "rope_parameters",
         {"rope_type": "longrope"}),
        ("no factor", "field factor is missing", "rope_parameters", {"rope_type": "linear"}),
        ("llama3 upside down", "should be below its high one", "rope_parameters",
         {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}),
        ("too many dimensions turn", "above 1", "rope_parameters", {"partial_rotary_factor": 2}),
        ("yarn without a base", "a base above 1", "rope_parameters",
         {"rope_type": "yarn", "factor": 2, "rope_theta": 1}),
        ("vocab_size of a word", "vocab_size 'x' should be a whole number", "vocab_size", "x"),
    ],
) + single(
    "config.json of Hugging Face",
    "sft, pretrained",
    [
        ("a billion layers", field("hf/config.json", "num_hidden_layers", 10**9),
         ("model.safetensors", "tensor model.layers.2.input_layernorm.weight is missing")),
        ("gone", gone("hf/config.json"), ("hf/config.json", "No such file")),
        ("a folder", folder("hf/config.json"), ("hf/config.json", "Is a directory")),
    ],
)  # fmt: skip
NORM = "model.norm.weight"
SAFETENSORS = single(
    "safetensors",
    "sft, pretrained",
    [
        (what, edit, ("hf/model.safetensors", words))
        for what, edit, words in (
            ("empty", put("hf/model.safetensors", b""), "not a whole safetensors file"),
            ("7 bytes", cut("hf/model.safetensors", 7), "not a whole safetensors file"),
            ("half a header", cut("hf/model.safetensors", 100), "not a whole safetensors file"),
            ("one byte short", cut("hf/model.safetensors", -1), "not a whole safetensors file"),
            ("a header of 2^63 bytes", put("hf/model.safetensors", b"\xff" * 7 + b"\x7f{}"), "not a whole"),
            ("a header of words", header(lambda h: b"hello"), "not a whole safetensors file"),
            ("a header of a list", header(lambda h: b"[]      "), "not a whole safetensors file"),
            ("a header that is no UTF-8", header(lambda h: h.replace(b"F32", b"F\xff2")), "not a whole"),
            ("an unknown type", header(lambda h: h.replace(b"F32", b"F99", 1)), "not a whole"),
            ("a negative shape", header(lambda h: h.replace(b"[32]", b"[-3]", 1)), "not a whole"),
            ("a shape of 2^70", header(lambda h: h.replace(b"[32]", b"[%d]" % 2**70, 1)), "not a whole"),
            ("tensors one on the other", header(lambda h: h.replace(b"[0,", b"[4,", 1)), "not a whole"),
            ("a tensor too few", tensor(NORM, None), f"tensor {NORM} is missing"),
            ("a tensor too many", tensor("extra", lambda x: x), "tensor extra is not part of this llama"),
            ("another shape", tensor(NORM, lambda x: x[:-1]), f"{NORM} has shape (31,)"),
            ("whole numbers", tensor(NORM, lambda x: x.astype("i8")), f"{NORM} is of type I64"),
            ("a folder", folder("hf/model.safetensors"), "has no model.safetensors"),
        )
        if what != "a folder"
    ]
    + [("gone", gone("hf/model.safetensors"), ("hf", "has no model.safetensors"))],
)
INDEX = "model.safetensors.index.json"


def indexed(text: str):
    """An index in the place of the one file, which would go before it."""

    def edit(place):
        gone("hf/model.safetensors")(place)
        put(f"hf/{INDEX}", text)(place)

    return edit


SAFETENSORS += single(
    "safetensors",
    "sft, pretrained",
    [
        (what, indexed(text), (INDEX, words))
        for what, text, words in (
            ("an index that is no JSON", "{", "not JSON"),
            ("an index of a list", "[]", "should be a JSON object"),
            ("an index too deep", "[" * 100_000, "nested too deeply"),
            ("an index without a map", "{}", "not the index of a sharded model"),
            ("a map of a list", '{"weight_map": []}', "not the index of a sharded model"),
            ("a shard of a number", '{"weight_map": {"a": 3}}', "field weight_map.a: 3 is no file"),
            ("a shard elsewhere", '{"weight_map": {"a": "../b.safetensors"}}', "weight_map.a: '../b"),
            ("a shard without a name", '{"weight_map": {"a": ""}}', "weight_map.a: '' is no file"),
            ("a zero byte", '{"weight_map": {"a": "b\\u0000.safetensors"}}', "tensor"),
            ("an empty map", '{"weight_map": {}}', "tensor embed_tokens.weight is missing"),
        )
    ],
)
CONFIG_FILES = single(
    "configuration file",
    "sft",
    [
        (what, put("config.py", text), words)
        for what, text, words in (
            ("empty", b"", ("config.py", "get_config")),
            ("no Python", b"def get_config(:", ("config.py", "invalid syntax")),
            ("no UTF-8", b"x = '\xff'", ("config.py", "utf-8")),
            ("zero bytes", b"\0", ("config.py", "null bytes")),
            ("a missing module", b"import nowhere", ("config.py", "No module named 'nowhere'")),
            ("an error in it", b"def get_config():\n    return 1 / 0", ("config.py", "division by zero")),
            ("a dictionary", b"def get_config():\n    return {}", ("get_config() returned dict",)),
            ("get_config of a number", b"get_config = 3", ("config.py", "not callable")),
            ("one that ends the program", b"raise SystemExit(7)", ("config.py", "SystemExit")),
        )
    ]
    + [
        (what, put("config.py", f"from rlhf_jax.config import *\ndef get_config():\n    {text}"), words)
        for what, text, words in (
            ("a misspelt section", "return Config(sfft=1)", ("config.py", "sfft")),
            ("a misspelt field", "c = Config(); c.sft.batchsize = 2; return c", ("sft.batchsize",)),
            ("None for a section", "return Config(ppo=None)", ("ppo: None should be a PpoConfig",)),
            ("another section", "return Config(sft=RewardConfig())", ("sft: ", "should be a SftConfig")),
            ("a list for a tuple", "return Config(data=DataConfig(query_buckets=[512]))",
             ("data.query_buckets: [512] should be a tuple of int",)),
            ("infinity", "return Config(ppo=PpoConfig(kl_coef=float('inf')))", ("ppo.kl_coef", "finite")),
        )
    ]
    + [("no file", gone("config.py"), ("--config: no such file", "config.py"))],
)  # fmt: skip
OVERRIDES = single(
    "overrides",
    "sft",
    [
        (argument, nothing, (words,) if isinstance(words, str) else words, argument)
        for argument, words in (
            ("--config.ppo.kl_coeff=0.1", "ppo.kl_coeff: no such field; did you mean ppo.kl_coef"),
            ("--config.ppo=1", "ppo: no such field"),
            ("--config.=1", "no such field"),
            ("--config.seed", "config.seed"),
            ("--config.seed=abc", ("config.seed", "abc")),
            ("--config.seed=1.5", ("config.seed", "1.5")),
            ("--config.seed=-1", "seed: -1 should be 0 or more"),
            ("--config.seed=99999999999999999999", "seed: 99999999999999999999 should be below"),
            ("--config.ppo.kl_coef=nan", "ppo.kl_coef: nan is not a finite number"),
            ("--config.ppo.kl_coef=1e999", "ppo.kl_coef: inf is not a finite number"),
            ("--config.ppo.gamma=1.1", "ppo.gamma: 1.1 should be at most 1"),
            ("--config.sft.optimizer.beta1=1", "sft.optimizer.beta1: 1.0 should be below 1"),
            ("--config.sft.batch_size=0", "sft.batch_size: 0 should be positive"),
            ("--config.sft.pack=perhaps", ("config.sft.pack", "perhaps")),
            ("--config.model.norm=batch", "model.norm: 'batch' is not one of layer, rms"),
            ("--config.model.heads=7", "model.heads: 7 heads do not divide model.width 16"),
            ("--config.model.kv_heads=3", "model.kv_heads: 3 do not divide model.heads 2"),
            ("--config.model.rotary.scaling=yarn", "model.rotary: yarn needs the original context"),
            ("--config.model.positions=learned", "model.context: 40 is shorter than query and response"),
            ("--config.data.query_buckets=(1,2", "query_buckets"),
            ("--config.data.query_buckets=('a',)", "query_buckets"),
            ("--config.data.query_buckets=(44,40)", "data.query_buckets: (44, 40) should be increasing"),
            ("--config.data.query_tokens=45", "data.query_buckets: the last one, 44"),
            ("--config.ppo.batch_size=7", "ppo.batch_size: 7 is not divisible"),
            ("--config.ppo.episodes=7", "ppo.episodes: 7 do not fill one ppo.batch_size of 8"),
            ("--config.mesh.fsdp=0", "mesh.fsdp: 0 should be positive, or -1"),
            ("--config.mesh.tensor=64", "mesh: replica=1 fsdp=1 tensor=64 do not fit"),
            ("--config.reward.microbatches=3", "reward.batch_size: 8 is not divisible"),
            ("--config.model.pretrained=./no/where", "'./no/where': neither a folder nor a name"),
            ("--config.data.vocabulary=5", "tokenizer of 5 pieces"),
        )
    ],
)
RUN = (
    whole(
        "config.json of a run",
        "resume",
        "run/config.json",
        [
            ("another value", "seed: 3 → 0", "seed", 3),
            ("a section of a number", "ppo: 3 → absent", "ppo", 3),
            ("a misspelt field", "ppo.kl_coeff: 0.05 → absent", "ppo.kl_coeff", 0.05),
            ("a field more", "sead: 0 → absent", "sead", 0),
        ],
    )
    + whole(
        "config.json of a run",
        "export",
        "run/config.json",
        [
            ("another value's type", "seed: 'a' should be int", "seed", "a"),
            ("a section of a number", "ppo: 3 should be an object", "ppo", 3),
            ("a field more", "sft.colour: no such field", "sft.colour", "red"),
        ],
    )
    + whole(
        "progress.json",
        "resume",
        "run/progress.json",
        [
            ("a number for a stage", "field sft should have seconds", "sft", 3),
            ("a stage without seconds", "field sft should have seconds", "sft.seconds"),
            ("a word for done", "field sft should have seconds", "sft.done", "yes"),
        ],
    )
)
STEP = "run/checkpoints/sft/1"
NEEDED = ("no whole checkpoint in", "checkpoints/sft")
CHECKPOINTS = [
    bad._replace(edit=in_step(bad.edit))
    for bad in whole(
        "checkpoint",
        "export",
        f"{STEP}/shapes.json",
        [
            ("no parameters", "field params should be an object of shapes", "params"),
            ("a list of shapes", "field params should be an object of shapes", "params", []),
        ],
    )
] + single(
    "checkpoint",
    "export",
    [
        (
            "a word for a shape",
            in_step(field(f"{STEP}/shapes.json", "params.['embed']['tokens']", "big")),
            ("checkpoints/sft/1", "is of another model: params['embed']['tokens'] is big there"),
        )
    ]
    + [
        (f"manifest.json: {what}", put(f"{STEP}/manifest.json", text), (*NEEDED, *words))
        for what, text, words in (
            ("empty", b"", ("manifest.json is unreadable",)),
            ("half of it", b'{"a": ', ("manifest.json is unreadable",)),
            ("no UTF-8", b"\xff", ("manifest.json is unreadable",)),
            ("a list", b"[]", ("manifest.json is unreadable",)),
            ("too deep", b"[" * 100_000, ("manifest.json is unreadable",)),
            ("no file of a step", b'{"a": "b"}', ("manifest.json is not one",)),
            (
                "a number for a hash",
                b'{"meta.json": 5, "shapes.json": ""}',
                ("meta.json is not what was written",),
            ),
        )
    ]
    + [
        ("no manifest", gone(f"{STEP}/manifest.json"), NEEDED),
        ("meta.json changed", put(f"{STEP}/meta.json", b"{} "), (*NEEDED, "meta.json is not what was")),
        ("shapes.json gone", gone(f"{STEP}/shapes.json"), (*NEEDED, "shapes.json is missing")),
        ("no tokenizer", gone("run/tokenizer.model"), ("run", "neither tokenizer.json nor")),
        ("bad results", put("run/results.json", b"[]"), ("results.json", "should be a JSON object")),
    ],
)  # fmt: skip
STORE = single(
    "store of the site",
    "feedback export",
    [
        ("no file", gone("store.sqlite"), ("store.sqlite", "no such store")),
        ("a folder", folder("store.sqlite"), ("store.sqlite", "no such store")),
        ("text", put("store.sqlite", b"hello" * 900), ("store.sqlite", "file is not a database")),
        ("empty", put("store.sqlite", b""), ("store.sqlite", "not a store of the site")),
        ("half of it", cut("store.sqlite", 9000), ("store.sqlite", "damaged")),
        ("another version", sql("PRAGMA user_version = 77"), ("store.sqlite", "a newer version of the site")),
        ("a table less", sql("DROP TABLE answers"), ("store.sqlite", "no such table: answers")),
        ("an answer that is no JSON", sql("UPDATE answers SET answer = '{'"), ("store.sqlite", "damaged")),
        ("an answer of a list", sql("UPDATE answers SET answer = '[]'"),
         ("store.sqlite", "field confidence of")),
        ("an answer without a choice", sql("""UPDATE answers SET answer = '{"notes": []}'"""),
         ("store.sqlite", "field confidence of")),
        ("a record of a number", sql("UPDATE tasks SET record = '3'"),
         ("store.sqlite", "the line should be a JSON object")),
        ("a record without a post", sql("UPDATE tasks SET record = '{}'"), ("store.sqlite", "id is missing")),
        ("another kind of task", sql("UPDATE tasks SET kind = 'edit'"), ("store.sqlite", "not of kind edit")),
        ("a folder with files", nothing, ("--out", "run is not empty"), "--out={}/run"),
    ],
)  # fmt: skip
USE = [
    Bad("command lines", f"{command}: {' '.join(arguments) or 'nothing'}", nothing, command, arguments, words)
    for command, arguments, words in (
        ("main", (), ("--config is missing",)),
        ("main", ("--config={}/config.py",), ("--workdir is missing",)),
        ("main", ("--config=",), ("--config: no such file ''",)),
        ("main", ("--config",), ("--config: no such file ''",)),
        ("main", ("--config={}",), ("--config: no such file",)),
        ("sft", ("more",), ("unexpected argument 'more'",)),
        ("sft", ("--stage=rewards",), ("--stage=rewards", "reward")),
        ("sft", ("--start_timeout=0",), ("start_timeout",)),
        ("sft", ("--wordkir=x",), ("wordkir",)),
        ("sft", ("--flagfile={}/gone",), ("gone",)),
        ("sft", ("--workdir={}/config.py",), ("config.py: File exists; a file stands where",)),
        ("resume", ("--stage=round",), ("round needs stage 'sft', which was stopped",)),
        ("collect", (), ("--workdir",)),
        ("not again", ("--policies=sft",), ("--policies: name two",)),
        ("not again", ("--policies=sft,x",), ("--policies: 'x' is none of",)),
        ("not again", ("--policies=sft,a:{}/data",), ("--policies", "neither an exported model")),
        ("not again", ("--policies=reference,reference",), ("name it once",)),
        ("not again", ("--pairs=0",), ("pairs",)),
        ("not again", ("--pairs=many",), ("pairs", "many")),
        ("not again", ("--temperature=-1",), ("temperature",)),
        ("not again", ("--posts=all",), ("posts", "all")),
        ("not again", ("--not_again={}/gone*",), ("--not_again: there is no file",)),
        ("not again", ("--out={}/tasks.jsonl",), ("--out", "is there already")),
        ("bare export", (), ("--workdir",)),
        ("export", ("--stage=base",), ("stage", "base")),
        ("export", ("--dtype=int8",), ("dtype", "int8")),
        ("export", ("--stage=ppo",), ("checkpoints/ppo", "rlhf-jax run --stage=")),
        ("export", ("--workdir={}/data",), ("data is not the folder of a run",)),
        ("export", ("--out={}/run",), ("--out", "run is not empty")),
        ("export", ("more",), ("unexpected argument 'more'",)),
        ("pretrain", (), ("--out",)),
        ("pretrain", ("--out={}/new", "--steps=0"), ("steps",)),
        ("pretrain", ("--out={}/new", "--heads=5"), ("--heads: 5 heads do not divide --width=72",)),
        ("pretrain", ("--out={}/new", "--rows=9"), ("--rows: 9 should be a multiple of 8",)),
        ("pretrain", ("--out={}/new", "--width=wide"), ("width", "wide")),
        ("pretrain", ("--out={}/new", "--tokenizer={}/gone"), ("gone: cannot be read",)),
        ("pretrain", ("more", "--out={}/new"), ("unexpected argument 'more'",)),
        ("plan", (), ("--config is missing",)),
        ("plan", ("--config={}/config.py",), ("--topology is missing",)),
        ("plan", ("--config={}/config.py", "--topology=abc"), ("--topology: 'abc' is not known",)),
        ("plan", ("--config={}/config.py", "--topology=cpu:0"), ("--topology: 'cpu:0'",)),
        ("plan", ("--config={}/config.py", "--topology=cpu:4096"), ("--topology: 'cpu:4096'",)),
        ("plan", ("--config={}/config.py", "--topology=cpu:8", "--mesh=1,x"), ("--mesh: '1,x'",)),
        ("plan", ("--config={}/config.py", "--topology=cpu:8", "--stage=all_"), ("stage", "all_")),
        ("plan table", (), ("--json",)),
        ("plan table", ("--json={}/config.py", "--out={}/o"), ("config.py", "File exists")),
        ("bare agreement", (), ("no file of comparisons given",)),
        ("agreement", ("--threshold=2",), ("threshold",)),
        ("agreement", ("--json={}/config.py/x",), ("config.py", "File exists")),
        ("bare news", (), ("--ratings",)),
        ("news", ("--gap=0",), ("--gap: 0.0 should be above 0",)),
        ("news", ("--gap=nan",), ("--gap: nan is no number",)),
        ("news", ("--gap=wide",), ("gap", "wide")),
        ("news", ("more",), ("unexpected argument 'more'",)),
        ("bare viewer", (), ("--samples",)),
        ("viewer", ("more",), ("unexpected argument 'more'",)),
        ("bare serve", (), ("--tasks",)),
        ("serve", ("--port=99999",), ("port",)),
        ("serve", ("--host=0.0.0.0",), ("--host=0.0.0.0 needs --url",)),
        ("serve", ("--url=label",), ("--url: label should be like",)),
        ("serve", ("--url=https://[x",), ("--url",)),
        ("serve", ("--store={}/gone/x",), ("gone", "no such folder for the store")),
        ("serve", ("--store={}/config.py",), ("config.py", "not a store")),
        ("bare feedback export", (), ("--store",)),
        ("feedback export", ("more",), ("unexpected argument 'more'",)),
        ("simulated", ("--comparisons={}/pairs.jsonl", "more"), ("unexpected argument 'more'",)),
    )
]
ALL = (
    POSTS + COMPARISONS + AXIS_RATINGS + TASKS + ONBOARDING + ASKED_BEFORE + SAMPLES + NEWS + METRICS
    + STUDY + SENTENCEPIECE + TOKENIZER_JSON + HF_CONFIG + SAFETENSORS + CONFIG_FILES + OVERRIDES + RUN
    + CHECKPOINTS + STORE + USE
)  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    place = tmp_path_factory.mktemp("inputs") / "sound"
    place.mkdir()
    bad_inputs.make_place(place)
    return place


def run(bad: Bad, sound, tmp_path, monkeypatch) -> int:
    place = shutil.copytree(sound, tmp_path / "in")
    sys.modules.pop("config_config", None)  # the last configuration file, whose names would live on
    for name in ("config.py", "run/config.json", "study.toml"):  # that name other files
        file = place / name
        file.write_text(file.read_text().replace(str(sound), str(place)))
    bad.edit(place)
    if bad.command == "resume":  # what a stage does with its files, without what it computes

        def train(config, workdir):
            with MetricsLog(workdir, "sft", 1, 2):
                pass

        tiny.stand_in(monkeypatch, "sft", train)
    monkeypatch.chdir(place)
    command, *arguments = COMMANDS[bad.command]
    more = [argument.replace("{}", str(place)) for argument in (*arguments, *bad.arguments)]
    return command([bad.command, *more])


@pytest.mark.parametrize("bad", ALL, ids=lambda bad: f"{bad.kind}-{bad.what}"[:80])
def test_a_bad_input_is_one_line_that_names_it(bad, sound, tmp_path, monkeypatch, capsys, caplog):
    status = run(bad, sound, tmp_path, monkeypatch)
    errors = capsys.readouterr().err
    told = errors.strip().split("\n")
    assert status == 2 and len(told) == 1 and "Traceback" not in errors, errors
    for words in bad.words:
        assert words.replace("{}", str(tmp_path / "in")) in errors + caplog.text, errors
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.mark.parametrize("command", ["agreement", "axis ratings", "viewer", "news", "feedback export"])
def test_the_sound_inputs_are_read(sound, tmp_path, monkeypatch, command):
    assert run(Bad("", "", nothing, command, (), ()), sound, tmp_path, monkeypatch) == 0


def test_the_table_has_more_than_two_hundred_different_inputs():
    kinds = Counter(bad.kind for bad in ALL)
    print("\n| what is read | bad inputs |\n|---|---|")
    print("\n".join(f"| {kind} | {count} |" for kind, count in kinds.items()))
    print(f"| all | {kinds.total()} |")
    assert len({(bad.kind, bad.command, bad.what) for bad in ALL}) == len(ALL) > 400
