"""LSTM and RNN whose last state is read out ("Grokking in neural networks and the role of regularization", Ahmed).

With x the embedding of the token at a position, h and c the state before it and * elementwise:

    i, f, g, o = sigma(u_i), sigma(u_f), tanh(u_g), sigma(u_o),    u = x W_ih + b_ih + h W_hh + b_hh
    c' = f * c + i * g,    h' = o * tanh(c')                       LSTM (Hochreiter and Schmidhuber, 1997; torch's)
    h' = tanh(u)                                                   RNN (Elman, 1990)
    logits = h_last W_U + b_U

A further layer reads h' in the place of x. States start at 0, hence a state depends on the prefix of its input only, of
which there are as many as numbers until the second operand comes (see `interp.models.prefixes`). The fast pass computes
x W_ih once per token (in a batch of fewer rows than tokens, per row) and states once per prefix, h W_hh of the last
shared state included; per pair there remain the products of the positions behind the second operand.
"""

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from interp.config import Recurrent
from interp.models.base import Activations, Answer, Batch, NeuronNetwork, Parameters, draw, in_front, numbers_of_tokens
from interp.models.prefixes import Level, PrefixBatch, Rows, prefix_batch

__all__ = ["RecurrentNetwork"]


class RecurrentNetwork(NeuronNetwork):
    """The LSTM or RNN that a `Recurrent` config describes.

    Parameters: `embed.W_E`, and per layer `blocks.i.rnn.W_ih`, `W_hh`, `b_ih`, `b_hh`, which are the transposes of
    torch's `weight_ih_li` and so on, with the gates in torch's order i, f, g, o; `unembed.W_U`, `unembed.b_U`. Drawn in
    the order of nn.Embedding, nn.LSTM (nn.RNN), nn.Linear. A model that reads numbers has no `embed.W_E`.

    Example:
        >>> config = Recurrent(d_model=4, d_hidden=8)
        >>> model = RecurrentNetwork(config, 6, 3, 5, torch.Generator().manual_seed(0))
        >>> tokens = torch.tensor([[1, 2, 5], [4, 4, 5], [1, 3, 5]])
        >>> torch.allclose(model.answer_logits(model.prepare(tokens)), model(tokens)[:, -1], atol=1e-6)
        True
    """

    axes: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        {
            "embed.W_E": ("token", "d_model"),
            "rnn.W_ih": ("d_in", "gate"),
            "rnn.W_hh": ("d_hidden", "gate"),
            "rnn.b_ih": ("gate",),
            "rnn.b_hh": ("gate",),
            "unembed.W_U": ("neuron", "d_vocab_out"),
            "unembed.b_U": ("d_vocab_out",),
        }
    )
    activation_axes: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        {"hook_embed": ("pos", "d_model"), "rnn.hook_h": ("pos", "neuron"), "rnn.hook_c": ("pos", "neuron")}
    )

    def __init__(
        self, config: Recurrent, d_vocab: int, n_ctx: int, d_vocab_out: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.config, self.d_vocab, self.n_ctx, self.d_vocab_out = config, d_vocab, n_ctx, d_vocab_out
        gates = 4 if config.cell == "lstm" else 1
        bound = 1 / math.sqrt(config.d_hidden)  # of all parameters of nn.LSTM and nn.RNN, and of the readout

        def scaled(parameter: nn.Parameter) -> nn.Parameter:
            return nn.Parameter(parameter.detach() * config.init_scale)

        def weight(d_in: int, d_out: int) -> nn.Parameter:  # torch draws the transposed matrix
            return scaled(nn.Parameter(draw((d_out, d_in), generator, bound=bound).detach().T.contiguous()))

        def bias(d_out: int) -> nn.Parameter:
            return scaled(draw((d_out,), generator, bound=bound))

        self.embed = None
        if config.embedding == "learned":
            self.embed = Parameters(W_E=scaled(draw((d_vocab, config.d_model), generator, std=1.0)))
        self.blocks = nn.ModuleList()
        d_in = config.d_model if config.embedding == "learned" else 1
        for _ in range(config.n_layers):
            block: Any = nn.Module()
            d_out = gates * config.d_hidden
            W_ih, W_hh = weight(d_in, d_out), weight(config.d_hidden, d_out)
            block.rnn = Parameters(W_ih=W_ih, W_hh=W_hh, b_ih=bias(d_out), b_hh=bias(d_out))
            self.blocks.append(block)
            d_in = config.d_hidden
        W_U = weight(d_in, d_vocab_out)
        self.unembed = Parameters(W_U=W_U, b_U=bias(d_vocab_out))

    @property
    def hidden_activations(self) -> str:
        """See `Network.hidden_activations`: the states of the last layer."""
        return f"blocks.{len(self.blocks) - 1}.rnn.hook_h"

    @property
    def readers(self) -> Mapping[str, tuple[str, str]]:
        """See `Network.readers`; states are read by the recurrence as well, in all layers."""
        return {f"blocks.{len(self.blocks) - 1}.rnn.hook_h": ("unembed.W_U", "unembed.b_U")}

    def plain_pass(
        self, tokens: Int[Tensor, "batch pos"], activations: Activations
    ) -> Float[Tensor, "batch pos d_vocab_out"]:
        """See `Network.plain_pass`; `blocks.i.rnn.hook_h` and `hook_c` are the states behind each position."""
        x = activations.keep("hook_embed", self._inputs[tokens])
        for layer, block in enumerate(self.blocks):
            rnn, at, positions = block.rnn, f"blocks.{layer}.rnn.", x.shape[1]
            states: list[Tensor] = []
            cells: list[Tensor] = []
            h = c = x.new_zeros(len(x), self.config.d_hidden)
            for pos in range(positions):
                u = x[:, pos] @ rnn.W_ih + rnn.b_ih + h @ rnn.W_hh + rnn.b_hh
                if self.config.cell == "lstm":
                    i, f, g, o = u.chunk(4, dim=1)
                    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                    c = activations.at_position(at + "hook_c", c, pos, positions)
                    h = o.sigmoid() * c.tanh()
                    cells.append(c)
                else:
                    h = getattr(u, self.config.nonlinearity)()
                h = activations.at_position(at + "hook_h", h, pos, positions)
                states.append(h)
            if cells:
                activations[at + "hook_c"] = torch.stack(cells, dim=1)
            activations[at + "hook_h"] = x = torch.stack(states, dim=1)
        return x @ self.unembed.W_U + self.unembed.b_U

    # --- the fast pass ------------------------------------------------------------------------------------------------

    def prepare(self, tokens: Int[Tensor, "batch pos"]) -> PrefixBatch:
        """See `Network.prepare`."""
        return prefix_batch(super().prepare(tokens), self.d_vocab)

    def dropout_mask(self, batch: int, generator: torch.Generator) -> Float[Tensor, "batch neuron"] | None:
        """See `Network.dropout_mask`."""
        keep = 1 - self.config.dropout
        if keep == 1:
            return None
        return torch.empty(batch, self.config.d_hidden).bernoulli_(keep, generator=generator) / keep

    def answer(self, batch: Batch) -> Answer:
        """See `Network.answer`."""
        assert isinstance(batch, PrefixBatch)
        (neurons,) = self._last_states(batch.levels, 1)
        if batch.dropout is not None:
            neurons = neurons * batch.dropout
        logits = torch.addmm(self.unembed.b_U, neurons, self.unembed.W_U)
        return Answer(logits, neurons, self.unembed.W_U, self.unembed.b_U.expand_as(logits))

    def last_logits(self, batch: Batch, positions: int) -> Float[Tensor, "batch positions d_vocab_out"]:
        """See `Network.last_logits`; what dropout takes away it takes away at all of them."""
        assert isinstance(batch, PrefixBatch)
        *before, last = batch.levels
        while len(last.tokens) < positions:
            last = last.continuing(before.pop())
        neurons = torch.stack(self._last_states((*before, last), positions), dim=1)
        if batch.dropout is not None:
            neurons = neurons * batch.dropout[:, None]
        return F.linear(neurons, self.unembed.W_U.T, self.unembed.b_U)

    def neuron_logit_map(self) -> Float[Tensor, "neuron d_vocab_out"]:
        """See `Network.neuron_logit_map`."""
        return self.unembed.W_U

    def _last_states(self, levels: tuple[Level, ...], positions: int) -> list[Float[Tensor, "batch neuron"]]:
        """h of the last layer at the last positions, which the last level has."""
        weights = [self._weights(block.rnn) for block in self.blocks]
        inputs = self._projected(levels, *weights[0][:2])
        reached: list[Tensor] = []
        states: list[Any] = [None] * len(weights)  # h and c of each layer
        for level in levels:
            for i in range(len(level.tokens)):
                u = next(inputs)
                for layer, (W_ih, bias, W_hh) in enumerate(weights):
                    if layer > 0:
                        u = torch.addmm(bias, states[layer - 1][0], W_ih)
                    states[layer] = self._next(u, W_hh, states[layer], level.parent if i == 0 else None)
                reached.append(states[-1][0])
        return reached[-positions:]

    def _projected(self, levels: tuple[Level, ...], W_ih: Tensor, bias: Tensor) -> Iterator[Tensor]:
        """x W_ih + b at each position of each level, computed once per token or per row, whichever are fewer."""
        columns = [(level, i) for level in levels for i in range(len(level.tokens))]
        if sum(1 if isinstance(level.tokens[i], int) else level.n_rows for level, i in columns) < self.d_vocab:
            rows = [level.column(self._inputs, i) for level, i in columns]
            return iter(torch.addmm(bias, torch.cat(rows), W_ih).split([len(x) for x in rows]))
        table = torch.addmm(bias, self._inputs, W_ih)
        return (level.column(table, i) for level, i in columns)

    def _next(self, u: Tensor, W_hh: Tensor, state: Any, parent: Rows | None) -> tuple[Tensor, Tensor | None]:
        """h' and c' (an RNN has none); the state before is None for 0, or that of the rows `parent`."""
        c = None
        if state is not None:
            h, c = state
            if parent is None:
                u = torch.addmm(u, h, W_hh)
            else:
                u = parent.of(h @ W_hh).add_(u)  # a product per prefix, not per row that continues it
                c = None if c is None else parent.of(c)
        if self.config.cell == "lstm":
            h, c, *_ = _Gates.apply(u, c)
            return h, c
        return getattr(u, self.config.nonlinearity)(), None

    def _weights(self, rnn: Any) -> tuple[Tensor, Tensor, Tensor]:
        """W_ih, b_ih + b_hh and W_hh, with g's columns doubled for an LSTM (see `_Gates`), which rounds nothing."""
        weights = rnn.W_ih, rnn.b_ih + rnn.b_hh, rnn.W_hh
        if self.config.cell == "rnn":
            return weights
        doubled = rnn.W_hh.new_ones(4, self.config.d_hidden)
        doubled[2] = 2
        return tuple(weight * doubled.flatten() for weight in weights)

    @property
    def _inputs(self) -> Float[Tensor, "token d_in"]:
        """Input of the first layer for each token."""
        if self.embed is not None:
            return self.embed.W_E
        return numbers_of_tokens(self.d_vocab, self.config.scalars, self.unembed.W_U)[:, None]


class _Gates(torch.autograd.Function):
    """(u, c) -> (h', c') of an LSTM, u_g doubled; c = None is 0. What else it returns is kept for its gradient.

    tanh(x) = 2 sigma(2 x) - 1 makes one sigma of all gates, several times as fast as a tanh. Only the activations are
    kept, and the gradient of u is written once. This is what autograd would compute, with a fraction of its traffic.
    """

    @staticmethod
    def forward(u: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        activations = u.sigmoid()
        i, f, s, o = activations.chunk(4, dim=-1)
        c_new = torch.addcmul(-i, i, s, value=2)
        if c is not None:
            c_new.addcmul_(f, c)
        squashed = (2 * c_new).sigmoid_().mul_(2).sub_(1)
        return o * squashed, c_new, activations, squashed

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor | None], output: tuple[Tensor, ...]) -> None:
        _, _, activations, squashed = output
        ctx.mark_non_differentiable(activations, squashed)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(activations, inputs[1], squashed)

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor | None, grad_c: Tensor | None, *_: None) -> tuple[Tensor, Tensor | None]:
        activations, c, squashed = ctx.saved_tensors
        if grad_h is None:
            grad_h = torch.zeros_like(squashed)
        i, f, s, o = activations.chunk(4, dim=-1)
        grad = torch.empty_like(activations)
        grad_i, grad_f, grad_s, grad_o = grad.chunk(4, dim=-1)
        torch.mul(grad_h, squashed, out=grad_o)
        through = torch.ops.aten.tanh_backward(grad_h * o, squashed)  # to c', with what comes from the state behind it
        if grad_c is not None:
            through += grad_c
        torch.mul(through, 2 * s - 1, out=grad_i)
        torch.mul(through, 2 * i, out=grad_s)
        if c is None:
            grad_f.zero_()
        else:
            torch.mul(through, c, out=grad_f)
        torch.ops.aten.sigmoid_backward.grad_input(grad, activations, grad_input=grad)
        return grad, None if c is None else through.mul_(f)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor | None
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Members of an ensemble: everything here is number by number, so that theirs are merely more rows."""
        return _Gates.apply(*in_front(info.batch_size, in_dims, inputs)), (0, 0, 0, 0)
