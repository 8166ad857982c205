from __future__ import annotations

import numpy as np
import pytest
import torch

from mrl.federated import Message, MessageError, add_up, check_message


def message(**tensors) -> Message:
    return Message(3, 1, {name: torch.tensor(values) for name, values in tensors.items()})


def test_a_message_has_the_size_of_its_arrays_whatever_they_hold():
    assert message(a=[[0.0, 0.0], [0.0, 1.0]], b=[1.0]).bytes == 4 * 5
    assert message(a=[3.0], b=[[4.0]]).norm == pytest.approx(5.0)


def test_messages_add_up_with_narrow_ones_padded_by_zeros():
    rng = np.random.default_rng(0)
    narrow, wide = rng.normal(size=(5, 2)).astype("f"), rng.normal(size=(5, 4)).astype("f")
    expected = wide.copy()
    expected[:, :2] += narrow
    total = add_up([message(items=narrow.tolist()), message(items=wide.tolist(), extra=[2.0])])
    np.testing.assert_allclose(total.tensors["items"], expected, rtol=1e-6)
    assert total.tensors["extra"].tolist() == [2.0] and total.clients == 2 and (total.round, total.step) == (3, 1)


@pytest.mark.robustness
@pytest.mark.parametrize(
    ("sent", "reason", "words"),
    [
        (None, "nothing", "client 7: sent nothing in round 3"),
        (Message(2, 1, {"a": torch.ones(2)}), "round", "sent round 2, step 1 in round 3"),
        (message(a=[1.0]), "shape", r"sent a \(1,\) instead of \(2,\)"),
        (message(b=[1.0, 1.0]), "shape", r"sent a None instead of \(2,\)"),
        (message(a=[1.0, float("nan")]), "not finite", "sent NaN or Inf"),
        (message(a=[30.0, 40.0]), "norm", "sent a norm of 50, above max_norm=10"),
    ],
    ids=["nothing", "round", "shape", "name", "nan", "norm"],
)
def test_what_cannot_be_counted_is_refused_by_name(sent, reason, words):
    with pytest.raises(MessageError, match=words) as error:
        check_message(sent, message(a=[1.0, 1.0]), 7, max_norm=10)
    assert (error.value.reason, error.value.client) == (reason, 7)


def test_a_good_message_is_handed_on():
    good = message(a=[1.0, 1.0])
    assert check_message(good, good, 7) is good
