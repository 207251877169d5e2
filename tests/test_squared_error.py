"""Squared error of one-hot answers as the loss that is minimised."""

import pytest
import torch
from torch.nn import functional as F

from interp.config import FeedForward, Modular, RunConfig, Sums
from interp.errors import ConfigError
from interp.tasks.objective import answer_loss
from interp.training.state import TrainState


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_it_is_the_mean_over_inputs_and_classes(precision):
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([0, 4, 2, 2, 1, 3])
    loss, right = answer_loss(logits, labels, precision, "mse")
    expected = F.mse_loss(logits, F.one_hot(labels, 5).float())
    assert loss.dtype == getattr(torch, precision)
    torch.testing.assert_close(loss.float(), expected)
    assert right.tolist() == (logits.argmax(-1) == labels).tolist()
    found, slopes = (torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (loss, expected))
    torch.testing.assert_close(found, slopes)


def test_members_have_losses_of_their_own_and_weights_count():
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    labels, weights = torch.tensor([[0, 1, 2], [3, 3, 0]]), torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    loss, right = answer_loss(logits, labels, kind="mse", weights=weights.double())
    each = (logits.double() - F.one_hot(labels, 4)).square().mean(-1)
    torch.testing.assert_close(loss, (each * weights.double()).sum(-1))
    assert right.shape == (2, 3)


def test_a_tie_is_no_answer():
    _, right = answer_loss(torch.tensor([[1.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 0]), kind="mse")
    assert right.tolist() == [False, True]


def test_it_is_minimised_while_cross_entropies_are_logged():
    config = RunConfig(task=Modular(p=7, encoding="operands"), model=FeedForward(d_model=8, d_hidden=(8,)))
    state = TrainState(config.replace({"optimizer.loss": "mse"}), torch.device("cpu"))
    batch, labels = state.train
    logits = state.outputs(batch).detach()
    loss, _ = state.differentiate(batch, labels)
    assert float(loss) == pytest.approx(float(F.mse_loss(logits, F.one_hot(labels, 7).float())), rel=1e-6)
    assert float(state.evaluate("train")[0]) == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert not state.exact_pass


def test_codes_have_another_squared_error():
    config = RunConfig(task=Sums(codes=4), model=FeedForward())
    with pytest.raises(ConfigError, match=r"`optimizer\.loss` must be left at cross-entropy; got mse"):
        config.replace({"optimizer.loss": "mse"})
