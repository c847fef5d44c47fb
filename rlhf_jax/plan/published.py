"""Shapes of public models, so that a run can be planned before anything is downloaded.

The fields of their config.json that count, under the names of the Hugging Face hub, as their makers published
them there. Later tunings of a model, such as for chats, have the shape of the model.
"""

from typing import Any

GPT2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024}
SMOLLM2_135M = {
    "model_type": "llama",
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100_000,
    "tie_word_embeddings": True,
}
PYTHIA = {
    "model_type": "gpt_neox",
    "max_position_embeddings": 2048,
    "rotary_pct": 0.25,
    "rotary_emb_base": 10_000,
    "use_parallel_residual": True,
    "tie_word_embeddings": False,
}
QWEN3_06B = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "sliding_window": None,
    "use_sliding_window": False,
    "rope_theta": 1_000_000,
    "rope_scaling": None,
    "tie_word_embeddings": True,
}
GEMMA3_1B = {
    "model_type": "gemma3_text",
    "hidden_size": 1152,
    "num_hidden_layers": 26,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "query_pre_attn_scalar": 256,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "rope_theta": 1_000_000,
    "rope_local_base_freq": 10_000,
    "rope_scaling": None,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
}
LLAMA32_3B = {
    "model_type": "llama",
    "hidden_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": True,
}
QWEN25_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "max_position_embeddings": 131072,
    "max_window_layers": 28,
    "sliding_window": 131072,
    "use_sliding_window": False,
    "rope_theta": 1_000_000,
    "tie_word_embeddings": False,
}


def _pythia(width: int, layers: int, heads: int) -> dict[str, Any]:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width}
    return PYTHIA | sizes | {"num_hidden_layers": layers, "num_attention_heads": heads}


SHAPES: dict[str, tuple[dict[str, Any], int]] = {
    "openai-community/gpt2": (GPT2, 50_257),
    "HuggingFaceTB/SmolLM2-135M": (SMOLLM2_135M, 49_152),
    "HuggingFaceTB/SmolLM2-135M-Instruct": (SMOLLM2_135M, 49_152),
    "EleutherAI/pythia-160m-deduped": (_pythia(768, 12, 12), 50_304),
    "EleutherAI/pythia-1b-deduped": (_pythia(2048, 16, 8), 50_304),
    "EleutherAI/pythia-2.8b-deduped": (_pythia(2560, 32, 32), 50_304),
    "EleutherAI/pythia-6.9b-deduped": (_pythia(4096, 32, 32), 50_432),
    "Qwen/Qwen3-0.6B-Base": (QWEN3_06B, 151_936),
    "Qwen/Qwen3-0.6B": (QWEN3_06B, 151_936),
    "google/gemma-3-1b-pt": (GEMMA3_1B, 262_144),
    "google/gemma-3-1b-it": (GEMMA3_1B, 262_144),
    "meta-llama/Llama-3.2-3B": (LLAMA32_3B, 128_256),
    "meta-llama/Llama-3.2-3B-Instruct": (LLAMA32_3B, 128_256),
    "Qwen/Qwen2.5-7B": (QWEN25_7B, 152_064),
    "Qwen/Qwen2.5-7B-Instruct": (QWEN25_7B, 152_064),
}
"""Name → (config.json, rows of the embedding)."""
