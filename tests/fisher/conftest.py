"""Tiny random models of every supported architecture, in float64, with the gradient norms that the naive loop finds."""

from dataclasses import dataclass

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from fisher_ld.fisher.coverage import cover
from fisher_ld.fisher.gradient_norms import logits_of, pad_prompts
from fisher_ld.models.layers import transformer_layers
from tests import teachers

SHAPE = teachers.SHAPE | {"vocab_size": 40, "num_labels": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT2_SHAPE = {"n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 160}
CONFIGS = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "llama-one-kv-head": lambda: LlamaConfig(**{**SHAPE, "num_key_value_heads": 1}, tie_word_embeddings=True),
    "llama-biases": lambda: LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=8),
    "mistral": lambda: MistralConfig(**SHAPE),
    "gemma": lambda: GemmaConfig(**SHAPE, head_dim=4),
    "gemma3": lambda: Gemma3TextConfig(**SHAPE, head_dim=8, sliding_window=160),
    "gpt2": lambda: GPT2Config(**{k: v for k, v in SHAPE.items() if "_" in k and "h" not in k}, **GPT2_SHAPE),
}
# repeated tokens, the padding token inside a prompt, a single token, and enough tokens for several Gram strips
PROMPTS = [[3, 4, 5, 6, 3], [7] * 9 + [8, 0, 0, 3], [9], [(7 * i) % 39 + 1 for i in range(150)]]


@pytest.fixture(scope="module")
def keep_float64():
    """transformers computes norms and softmax in float32 whatever the model's type. Here float64 stays float64, so
    that two ways to the same number can agree to rounding in float64."""
    to, to_float, softmax = torch.Tensor.to, torch.Tensor.float, torch.nn.functional.softmax

    def keep(tensor, *arguments, **keywords):
        narrowing = tensor.dtype == torch.float64 and arguments == (torch.float32,)
        return tensor if narrowing else to(tensor, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "to", keep)
        patch.setattr(torch.Tensor, "float", lambda x: x if x.dtype == torch.float64 else to_float(x))
        patch.setattr(torch.nn.functional, "softmax", lambda x, dim, dtype=None: softmax(x, dim))
        yield


def build(architecture: str = "llama", attention: str = "sdpa", dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    config = CONFIGS[architecture]()
    config._attn_implementation = attention
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    for parameter in model.parameters():  # norms start at one and biases at zero, which would hide mistakes
        parameter.data.add_(0.2 * torch.randn(parameter.shape))
    return model.to(dtype).eval()


@pytest.fixture(scope="session")
def build_model():
    return build


@pytest.fixture(scope="session")
def prompts():
    return PROMPTS


@dataclass
class Case:
    model: PreTrainedModel
    logits: torch.Tensor  # (N,)
    total: torch.Tensor  # (N, L + 2)
    normalisation: torch.Tensor  # (N, L + 2)
    sensitivity: torch.Tensor  # (N, L)


def naive_loop(model: PreTrainedModel, prompts: list[list[int]]) -> Case:
    """One unpadded forward and backward for each example, and the squares of every gradient."""
    columns, layers = 5, transformer_layers(model)
    case = Case(model, torch.zeros(len(prompts)).double(), *torch.zeros(2, len(prompts), columns).double(),
                torch.zeros(len(prompts), len(layers)).double())  # fmt: skip
    for row, prompt in enumerate(prompts):
        states = []

        def keep(module, inputs, output, states=states):
            states.append(output[0] if isinstance(output, tuple) else output)
            states[-1].retain_grad()

        hooks = [layer.register_forward_hook(keep) for layer in layers]
        model.zero_grad()
        z = logits_of(model, pad_prompts([prompt])).squeeze(0)
        z.backward()
        for hook in hooks:
            hook.remove()
        case.logits[row] = z.detach()
        case.total[row], case.normalisation[row] = squares(model)
        for layer, state in enumerate(states):
            of_state = state.grad[0, -1].double().square().sum() * state[0, -1].double().square().mean()
            case.sensitivity[row, layer] = of_state.detach()
    model.zero_grad()
    return case


def squares(model: PreTrainedModel) -> torch.Tensor:
    """(2, L + 2) of the gradients that the parameters hold: of all, and of normalisations."""
    found, parts = torch.zeros(2, 5).double(), cover(model)
    for part in parts:
        square = sum(p.grad.double().square().sum() for p in part.module.parameters(recurse=False))
        found[0, part.column] += square
        if part.kind.endswith("norm"):
            found[1, part.column] += square
    return found


def naive_list(model: PreTrainedModel, prompts: list[list[int]]) -> torch.Tensor:
    """(2, L + 2) squares of the gradient of sum_c p_c z_c, p the softmax of z, of one list without padding."""
    model.zero_grad()
    z = torch.cat([logits_of(model, pad_prompts([prompt])) for prompt in prompts])
    (z.detach().softmax(0) @ z).backward()
    found = squares(model)
    model.zero_grad()
    return found


def list_fisher(model: PreTrainedModel, prompts: list[list[int]]) -> torch.Tensor:
    """(L + 2,) by the definition: the mean over the answers c, drawn by p, of ||dlog p_c/dtheta||^2."""
    total = torch.zeros(5).double()
    for answer in range(len(prompts)):
        model.zero_grad()
        z = torch.cat([logits_of(model, pad_prompts([prompt])) for prompt in prompts])
        log_p = z.log_softmax(0)[answer]
        log_p.backward()
        total += log_p.exp().item() * squares(model)[0]
    model.zero_grad()
    return total


@pytest.fixture(scope="session")
def naive():
    return naive_loop


@pytest.fixture(scope="session")
def naive_of_list():
    return naive_list


@pytest.fixture(scope="session")
def fisher_of_list():
    return list_fisher


@pytest.fixture(scope="module", params=[(a, i) for a in CONFIGS for i in ("sdpa", "eager")], ids="-".join)
def case(request, keep_float64) -> Case:
    return naive_loop(build(*request.param), PROMPTS)
