import pytest
import torch

from fisher_ld.fisher.gram import count_mirrored, gradient_norm, gram, gram_is_cheaper, gram_product


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 64, 65, 130, 300])
def test_both_forms_give_the_norm_of_the_gradient(length):
    generator = torch.Generator().manual_seed(length)
    a, g = (torch.randn(3, length, d, generator=generator, dtype=torch.float64) for d in (5, 7))
    expected = torch.einsum("nto,nti->noi", g, a).square().sum((1, 2))
    torch.testing.assert_close(gram_product(count_mirrored(gram(a)), g), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient_norm(a, g), expected, rtol=1e-12, atol=0)


def test_the_cheaper_form_is_counted():
    # one strip of 10 x 10 entries: 100 (3 + 4) = 700 multiply-adds against 11 * 3 * 4 = 132
    assert not gram_is_cheaper(10, 3, 4)
    # 100 (50 + 60) = 11,000 against 11 * 50 * 60 = 33,000
    assert gram_is_cheaper(10, 50, 60)


def test_sums_of_float32_gradients_are_accurate():
    """A million terms, whose plain running sum in float32 would be off by far more."""
    a, g = torch.full((1, 4, 1000), 1.1), torch.full((1, 4, 1000), 1.1)
    expected = torch.tensor([(4 * float(torch.tensor(1.1)) ** 2) ** 2 * 1e6], dtype=torch.float64)
    torch.testing.assert_close(gradient_norm(a, g), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(gram_product(count_mirrored(gram(a)), g), expected, rtol=1e-5, atol=0)
