import pytest
import torch
from torch import nn

from fisher_ld.kernels import linear
from fisher_ld.kernels.linear import by_onednn, replaced


@pytest.fixture
def taken(monkeypatch):
    """The inputs that oneDNN multiplies."""
    inputs, plain = [], linear._onednn
    monkeypatch.setattr(linear, "_onednn", lambda *given: inputs.append(given[0]) or plain(*given))
    return inputs


@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_torchs(taken, bias):
    module, x = nn.Linear(5, 3, bias).requires_grad_(False), torch.randn(2, 4, 5, requires_grad=True)
    expected = module(x)
    with by_onednn([module]):
        found = module(x)
    assert len(taken) == 1
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(found)
    gradients = [torch.autograd.grad((output * weight).sum(), x)[0] for output in (found, expected)]
    assert len(taken) == 2
    torch.testing.assert_close(*gradients)


class Doubled(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


@pytest.mark.parametrize("module", [nn.Linear(5, 3).double(), Doubled(5, 3), nn.LayerNorm(5)])
def test_other_modules_are_left_alone(taken, module):
    x = torch.randn(2, 5, dtype=next(module.parameters()).dtype)
    expected = module(x)
    with by_onednn([module]):
        assert torch.equal(module(x), expected)
    assert not taken


def test_a_forward_is_replaced_for_a_while_even_where_a_module_has_one_of_its_own():
    plain, hooked = nn.Linear(5, 3), nn.Linear(5, 3)
    hooked.forward = lambda x: "its own"
    kept = hooked.forward
    with (
        pytest.raises(KeyError),
        replaced({m: lambda forward: lambda x: ("other", forward(x)) for m in (plain, hooked)}),
    ):
        assert plain(torch.zeros(5))[0] == "other" and hooked(torch.zeros(5)) == ("other", "its own")
        raise KeyError
    assert "forward" not in vars(plain) and hooked.forward is kept
