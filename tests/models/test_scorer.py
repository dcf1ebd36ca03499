import torch

from fisher_ld.data.packing import pack
from fisher_ld.runtime import Compute


def test_bf16_is_near_float32_and_leaves_stream_and_head_alone(tiny):
    scorer = tiny.scorer()
    batch = pack(tiny.lists, tiny.lists.windows(), tiny.sequences, tiny.prompts, scorer.context())
    exact, states = scorer(batch, with_hidden_states=True)
    near, near_states = scorer.on(Compute(torch.device("cpu"), bf16=True))(batch, with_hidden_states=True)
    assert near.dtype == near_states.dtype == torch.float32
    assert {p.dtype for p in scorer.parameters()} == {torch.float32}
    assert not torch.equal(states, near_states)
    torch.testing.assert_close(near_states, states, rtol=0, atol=0.02 * states.std().item())
    torch.testing.assert_close(near, exact, rtol=0, atol=0.05 * exact.std().item())
    near.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in scorer.parameters() if p.grad is not None)
