import torch
from torch import nn

from fisher_ld.kernels.recompute import recomputed


class Layer(nn.Linear):
    passes = 0

    def forward(self, states: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        type(self).passes += 1
        return scale * super().forward(states).tanh()


def test_a_recomputed_layer_gives_the_same_gradients_by_a_second_pass():
    torch.manual_seed(0)
    layers, states = nn.ModuleList(Layer(4, 4) for _ in range(2)), torch.randn(3, 4)

    def gradients() -> list[torch.Tensor]:
        return list(torch.autograd.grad(layers[1](layers[0](states, scale=2.0)).sum(), list(layers.parameters())))

    plain, Layer.passes = gradients(), 0
    with recomputed(layers[:1]):
        again = gradients()
    assert Layer.passes == 3
    torch.testing.assert_close(again, plain)
    gradients()
    assert Layer.passes == 5
