from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraModel
from torch import nn

from fisher_ld.core.errors import UserError
from fisher_ld.fisher.coverage import cover, mean_squares, parameter_counts


def test_every_parameter_has_a_column(build_model):
    model = build_model("qwen3")
    covered = cover(model)
    counts = parameter_counts(covered, 5)
    assert sum(counts) == sum(p.numel() for p in model.parameters())
    assert counts[1:4] == [sum(p.numel() for p in layer.parameters()) for layer in model.model.layers]
    assert counts[0] == model.model.embed_tokens.weight.numel()
    assert {c.name for c in covered if c.column == 4} == {"model.norm", "score"}
    assert {c.name.split(".")[-1] for c in covered if c.kind == "rms_norm"} >= {"q_norm", "k_norm", "input_layernorm"}


@pytest.mark.parametrize(("architecture", "offset"), [("llama-biases", 0), ("gemma", 1)])
def test_the_mean_square_is_of_all_of_a_layers_weights(build_model, architecture, offset):
    """Gemma's norms multiply by 1 + weight."""
    model = build_model(architecture)
    layer = model.model.layers[1]
    weights = [p.detach() + (offset if "norm" in name else 0) for name, p in layer.named_parameters()]
    expected = torch.cat([w.flatten() for w in weights]).square().mean()
    found = mean_squares(cover(model), 5)
    assert found[2] == pytest.approx(float(expected), rel=1e-12)
    assert found[0] == pytest.approx(float(model.model.embed_tokens.weight.detach().square().mean()), rel=1e-12)


def test_position_embeddings_belong_to_the_embedding(build_model):
    covered = cover(build_model("gpt2"))
    assert {c.name for c in covered if c.column == 0} == {"transformer.wte", "transformer.wpe"}
    assert {c.kind for c in covered if "ln_" in c.name} == {"layer_norm"}


def test_an_unknown_module_with_parameters_is_named(build_model):
    model = build_model()
    model.model.layers[1].mlp.experts = nn.ParameterList([nn.Parameter(torch.ones(2, 3, 4))])
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.experts \(ParameterList"):
        cover(model)


def test_a_norm_that_computes_something_else_is_named(build_model):
    class ScaledNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(16, dtype=torch.float64))
            self.eps = 1e-6

        def forward(self, x):
            return 2 * self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)

    model = build_model()
    model.model.layers[0].input_layernorm = ScaledNorm()
    with pytest.raises(UserError, match=r"model\.layers\.0\.input_layernorm \(ScaledNorm"):
        cover(model)


@pytest.mark.parametrize(
    "forward",
    [
        lambda mlp, x: mlp.down_proj(nn.functional.gelu(mlp.gate_proj(x)) * mlp.up_proj(x)),
        lambda mlp, x: mlp.down_proj(nn.functional.silu(mlp.gate_proj(x)).clamp(max=7) * mlp.up_proj(x)),
        lambda mlp, x: mlp.down_proj(nn.functional.silu(mlp.gate_proj(x).clamp(max=0)) * mlp.up_proj(x)),
        lambda mlp, x: mlp.down_proj(nn.functional.silu(mlp.gate_proj(x)) * mlp.up_proj(x).clamp(-7, 7)),
        lambda mlp, x: mlp.down_proj(nn.functional.silu(mlp.gate_proj(x)) * -mlp.up_proj(x).abs()),
        lambda mlp, x: (mlp.down_proj(nn.functional.silu(mlp.gate_proj(x)) * mlp.up_proj(x)), None),
    ],
    ids=["gelu", "silu clamped", "gate clamped", "up clamped", "absolute", "a tuple"],
)
def test_a_swiglu_is_known_by_what_it_computes(build_model, forward):
    model = build_model()
    mlp = model.model.layers[1].mlp
    mlp.forward = partial(forward, mlp)
    assert [part.name for part in cover(model) if part.kind == "swiglu"] == ["model.layers.0.mlp", "model.layers.2.mlp"]


@pytest.mark.parametrize("architecture", ["gemma", "llama-biases", "gpt2"])
def test_an_mlp_of_another_make_is_no_swiglu(build_model, architecture):
    assert not [part for part in cover(build_model(architecture)) if part.kind == "swiglu"]


def test_a_parameter_of_two_modules_is_refused(build_model):
    model = build_model()
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    with pytest.raises(UserError, match=r"layers\.0\.mlp\.up_proj and model\.layers\.1\.mlp\.up_proj share"):
        cover(model)


@pytest.mark.parametrize("wrapped", [True, False], ids=["PeftModel", "adapters inside"])
def test_adapters_must_be_merged_first(build_model, wrapped):
    model, config = build_model(), LoraConfig(r=2, target_modules=["q_proj"])
    if wrapped:
        adapted = get_peft_model(model, config)
        with pytest.raises(UserError, match=r"wrapped by PEFT .*merge"):
            cover(adapted)
        merged = adapted.merge_and_unload()
    else:
        tuner = LoraModel(model, config, "default")
        with pytest.raises(UserError, match=r"q_proj is wrapped by PEFT .*merge"):
            cover(model)
        merged = tuner.merge_and_unload()
    assert cover(merged)


def test_layers_that_cannot_be_found_are_an_error(build_model):
    model = build_model()
    model.config.num_hidden_layers = 7
    with pytest.raises(UserError, match="one list of 7 transformer layers in LlamaModel, found 0"):
        cover(model)
