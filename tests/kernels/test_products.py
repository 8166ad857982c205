"""Products by oneDNN: only where they are exact, and the process's setting is afterwards what it was."""

from __future__ import annotations

from threading import Event, Thread

import pytest
import torch

from mrl.kernels import products
from mrl.kernels.products import fast_products, is_exact


@pytest.mark.parametrize("shape", [(256, 512, 300), (40, 3, 700), (1, 64, 64)])
def test_products_inside_are_those_of_float32(shape) -> None:
    rows, inner, columns = shape
    generator = torch.Generator().manual_seed(1)
    one = torch.randn(rows, inner, generator=generator)
    other = torch.randn(columns, inner, generator=generator).T
    exact = (one.double() @ other.double()).float()
    with fast_products():
        torch.testing.assert_close(one @ other, exact, rtol=1e-5, atol=1e-5 * inner**0.5)
        torch.testing.assert_close(torch.bmm(one[None], other[None])[0], exact, rtol=1e-5, atol=1e-5 * inner**0.5)


def test_nothing_is_set_where_the_product_is_rounded_or_onednn_is_not_there_or_a_gpu_is(monkeypatch) -> None:
    product = torch.Tensor.__matmul__

    def rounded(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return product(
            *(table.to(table.dtype if table.dtype == torch.float64 else torch.bfloat16) for table in (one, other))
        )

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "__matmul__", rounded)
        assert not is_exact.__wrapped__()
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        assert not is_exact.__wrapped__()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not is_exact.__wrapped__()
    monkeypatch.setattr(products, "is_exact", is_exact.__wrapped__)
    with fast_products():
        assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("found", ["highest", "high"])
def test_the_setting_is_put_back_after_the_last_block_also_after_an_error_and_among_threads(monkeypatch, found) -> None:
    monkeypatch.setattr(products, "is_exact", lambda: True)
    before, entered, leave = torch.get_float32_matmul_precision(), Event(), Event()

    @fast_products()
    def wait() -> None:
        entered.set()
        leave.wait(10)

    torch.set_float32_matmul_precision(found)
    try:
        other = Thread(target=wait)
        with pytest.raises(ZeroDivisionError), fast_products(), fast_products():
            other.start()
            assert entered.wait(10) and torch.get_float32_matmul_precision() == "medium"
            1 / 0  # noqa: B018
        assert torch.get_float32_matmul_precision() == "medium"  # the thread is still inside
        leave.set()
        other.join()
        assert torch.get_float32_matmul_precision() == found
    finally:
        leave.set()
        torch.set_float32_matmul_precision(before)
