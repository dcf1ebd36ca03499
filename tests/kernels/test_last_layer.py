import pytest
import torch

from fisher_ld.batches.packing import pack
from fisher_ld.core.errors import UserError
from fisher_ld.kernels.last_layer import only_at_decisions


def test_the_last_layer_runs_at_the_decision_tokens_alone(tiny):
    scorer = tiny.scorer()
    batch = pack(tiny.lists, tiny.lists.windows(), tiny.prompts, scorer.context())
    lengths = []
    for layer in scorer.layers:
        layer.mlp.register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[:2]))
    scorer(batch)
    assert lengths == [batch.input_ids.shape, (4, 3)]  # four lists of three candidates
    whole = scorer.body(batch.input_ids, position_ids=batch.position_ids, attention_mask=batch.mask)
    assert lengths[-1] == batch.input_ids.shape
    with only_at_decisions(scorer.layers[-1], batch.decision):
        part = scorer.body(batch.input_ids, position_ids=batch.position_ids, attention_mask=batch.mask)
    row, column = batch.decision.unbind(1)
    torch.testing.assert_close(part.last_hidden_state[row, column], whole.last_hidden_state[row, column])


def test_a_layer_without_a_cache_is_refused():
    class Ignores(torch.nn.Module):
        def forward(self, hidden_states, past_key_values=None):
            return hidden_states

    class Lacks(torch.nn.Module):
        def forward(self, hidden_states):
            return hidden_states

    for layer in (Ignores(), Lacks()):
        with (
            pytest.raises(UserError, match=f"{type(layer).__name__} does not hand its keys and values"),
            only_at_decisions(layer, torch.tensor([[0, 1]])),
        ):
            layer(torch.zeros(1, 2, 4))
