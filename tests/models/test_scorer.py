import numpy as np
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from fisher_ld.data.lists import Lists
from fisher_ld.data.packing import pack
from fisher_ld.data.prompts import Prompts
from fisher_ld.models.scorer import Scorer
from fisher_ld.runtime import Compute


def test_bf16_is_near_float32_and_leaves_stream_and_head_alone():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, num_labels=2, pad_token_id=0,
    )  # fmt: skip
    scorer = Scorer(LlamaForSequenceClassification(config).eval())
    pieces = [[5 + item, 3] for item in range(8)]
    prompts = Prompts([1, 2], pieces, pieces, 3, 4)
    one = np.array([0])
    lists = Lists(one, one, np.array([3]), np.array([1]), [np.arange(3, 8)], np.array([0, 5]))
    batch = pack(lists, [one], [np.arange(4)], prompts, scorer.context())
    exact, states = scorer(batch, with_hidden_states=True)
    near, near_states = scorer.on(Compute(torch.device("cpu"), bf16=True))(batch, with_hidden_states=True)
    assert near.dtype == near_states.dtype == torch.float32
    assert {p.dtype for p in scorer.parameters()} == {torch.float32}
    assert not torch.equal(states, near_states)
    torch.testing.assert_close(near_states, states, rtol=0, atol=0.02 * states.std().item())
    torch.testing.assert_close(near, exact, rtol=0, atol=0.05 * exact.std().item())
    near.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in scorer.parameters() if p.grad is not None)
