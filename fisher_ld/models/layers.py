"""Where a model of transformers keeps its layers."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from fisher_ld.core.errors import ANOTHER, UserError


def layers_name(model: PreTrainedModel) -> str:
    """What the body of the model calls the list of its L transformer layers. Raises UserError unless it has one."""
    wanted = model.config.num_hidden_layers
    lists = {name: m for name, m in model.base_model.named_children() if isinstance(m, nn.ModuleList)}
    names = [name for name, layers in lists.items() if len(layers) == wanted]
    if len(names) != 1:
        raise UserError(
            f"expected one list of {wanted} transformer layers in {type(model.base_model).__name__}, found "
            f"{len(names)}: {ANOTHER}"
        )
    return names[0]


def transformer_layers(model: PreTrainedModel) -> nn.ModuleList:
    return getattr(model.base_model, layers_name(model))
