"""PyTorch and transformers: eager training steps with our losses, and generation by the library.

Each computes logits where they are read alone; rows of one batch go together unless MICROBATCH_ROWS says
otherwise. The heads of value networks and reward models get a bias, as ours have one.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from benchmarks.worker import Arrays, Side, Work, serve

CLIP, VALUE_COEF = 0.2, 0.1
ADAM_EPSILON = 1e-5


def causal(work: Work, name: str) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(work.folder / name, dtype=torch.float32).train()


def scalar(work: Work, name: str) -> torch.nn.Module:
    model = AutoModelForSequenceClassification.from_pretrained(work.folder / name, dtype=torch.float32)
    model.score = with_bias(model.score)
    return model.train()


def with_bias(linear: torch.nn.Linear) -> torch.nn.Linear:
    wider = torch.nn.Linear(linear.in_features, linear.out_features)
    with torch.no_grad():
        wider.weight.copy_(linear.weight)
        wider.bias.zero_()
    return wider


def tensors(batch: Arrays) -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(x).long() if x.dtype.kind == "i" else torch.from_numpy(x)
        for name, x in batch.items()
    }


def hidden(body: torch.nn.Module, tokens: Tensor, pad: int) -> Tensor:
    """States after the last norm [B, T, D]; positions count real tokens."""
    mask = tokens != pad
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    read = None if bool(mask.all()) else mask  # without padding attention needs no mask but the causal one
    ids = tokens.masked_fill(~mask, 0)
    out = body(input_ids=ids, attention_mask=read, position_ids=positions, use_cache=False)
    return out.last_hidden_state


def optimizer_of(models: list[torch.nn.Module], work: Work) -> torch.optim.Optimizer:
    weights = [weight for model in models for weight in model.parameters()]
    return torch.optim.AdamW(
        weights, work.fields["learning_rate"], eps=ADAM_EPSILON, weight_decay=0.0, fused=True
    )


def generation(work: Work) -> Side:
    policy = causal(work, "policy").eval()
    pad, eos, longest = (work.fields[name] for name in ("pad", "eos", "response_tokens"))

    @torch.inference_mode()
    def write(batch: Arrays, **how) -> Tensor:
        query = tensors(batch)["query"]
        mask = query != pad
        return policy.generate(
            input_ids=query.masked_fill(~mask, 0),
            attention_mask=mask.long(),
            max_new_tokens=longest,
            eos_token_id=eos if work.fields["real"] else None,
            pad_token_id=eos,
            **how,
        )[:, query.shape[1] :]

    def check(batch: Arrays) -> Mapping[str, Any]:
        tokens = write(batch, do_sample=False).numpy()
        tokens = np.pad(tokens, ((0, 0), (0, longest - tokens.shape[1])), constant_values=eos)
        is_eos = tokens == eos
        return {"tokens": np.where(is_eos.cumsum(1) - is_eos > 0, pad, tokens)}

    sampling = {"do_sample": True, "temperature": work.fields["temperature"], "top_k": 0, "top_p": 1.0}
    return Side(check, lambda batch: write(batch, **sampling))


def training(work: Work, model: torch.nn.Module, loss: Callable[[dict[str, Tensor]], Tensor]) -> Side:
    optimizer = optimizer_of([model], work)

    def step(batch: Arrays) -> Tensor:
        optimizer.zero_grad()
        value = loss(tensors(batch))
        value.backward()
        return value

    def check(batch: Arrays) -> Mapping[str, Any]:
        value = step(batch)
        norms = [weight.grad.norm() for weight in model.parameters() if weight.grad is not None]
        return {"loss": value.detach().numpy(), "gradient norm": torch.stack(norms).norm().numpy()}

    def run(batch: Arrays) -> None:
        step(batch)
        optimizer.step()

    return Side(check, run)


def sft_step(work: Work) -> Side:
    policy, pad = causal(work, "policy"), work.fields["pad"]

    def loss(batch: dict[str, Tensor]) -> Tensor:
        is_target = batch["targets_mask"][:, 1:] > 0
        states = hidden(policy.transformer, batch["tokens"][:, :-1], pad)
        logits = policy.lm_head(states[is_target])
        return torch.nn.functional.cross_entropy(logits, batch["tokens"][:, 1:][is_target])

    return training(work, policy, loss)


def reward_step(work: Work) -> Side:
    model, pad = scalar(work, "reward"), work.fields["pad"]

    def loss(batch: dict[str, Tensor]) -> Tensor:
        query = torch.cat([batch["query"], batch["query"]])
        response = torch.cat([batch["chosen"], batch["rejected"]])
        states = hidden(model.transformer, torch.cat([query, response], 1), pad)
        last = query.shape[1] - 1 + (response != pad).sum(1)
        chosen, rejected = model.score(states[torch.arange(len(last)), last])[:, 0].chunk(2)
        return -torch.nn.functional.logsigmoid(chosen - rejected).mean()

    return training(work, model, loss)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    return (x * mask).sum() / mask.sum()


def update(work: Work) -> Side:
    pad, temperature, epochs = (work.fields[name] for name in ("pad", "temperature", "epochs"))

    def make():
        networks = causal(work, "policy"), scalar(work, "value")
        return *networks, optimizer_of(list(networks), work)

    made = [make()]

    def loss(policy, value, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        query, response, mask = batch["query"], batch["response"], batch["mask"]
        tokens = torch.cat([query, response[:, :-1]], 1)
        first = query.shape[1] - 1
        logits = policy.lm_head(hidden(policy.transformer, tokens, pad)[:, first:]) / temperature
        logp_all = logits.log_softmax(-1)
        logp = logp_all.gather(-1, response.masked_fill(~mask, 0)[..., None])[..., 0]
        ratio = (logp - batch["logp"]).masked_fill(~mask, 0).exp()
        kept = ratio.clamp(1 - CLIP, 1 + CLIP)
        policy_loss = masked_mean(
            -torch.minimum(batch["advantages"] * ratio, batch["advantages"] * kept), mask
        )
        values = value.score(hidden(value.transformer, tokens, pad)[:, first:])[..., 0]
        near = batch["values"] + (values - batch["values"]).clamp(-CLIP, CLIP)
        errors = torch.maximum((values - batch["returns"]) ** 2, (near - batch["returns"]) ** 2)
        value_loss = 0.5 * masked_mean(errors, mask)
        with torch.no_grad():
            entropy = masked_mean(-(logp_all.exp() * logp_all).sum(-1), mask)
        metrics = {"policy/loss": policy_loss, "value/loss": value_loss, "policy/entropy": entropy}
        return policy_loss + VALUE_COEF * value_loss, metrics

    def run(batch: Arrays) -> Mapping[str, Any]:
        policy, value, optimizer = made[0]
        seen = []
        for _ in range(epochs):
            optimizer.zero_grad()
            total, metrics = loss(policy, value, tensors(batch))
            total.backward()
            optimizer.step()
            seen.append({name: x.item() for name, x in metrics.items()})
        return {name: np.mean([metrics[name] for metrics in seen]) for name in seen[0]}

    def check(batch: Arrays) -> Mapping[str, Any]:
        metrics = run(batch)
        made[0] = make()
        return metrics

    return Side(check, run)


SUITES = {"generation": generation, "sft": sft_step, "reward": reward_step, "update": update}

if __name__ == "__main__":
    serve("peer", SUITES, warm_every_shape=False)
