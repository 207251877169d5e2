"""Decoder without LayerNorm on two numbers and '=' ("Progress measures for grokking", Nanda et al., 2023, section 3).

With residual stream x, heads h and one layer, at the last position:

    score_h(i) = (x_last W_Q^h + b_Q^h) . (x_i W_K^h + b_K^h) / sqrt(d_head)
    z_h        = sum_i softmax_i(score_h(i)) (x_i W_V^h + b_V^h)
    x_mid      = x_last + sum_h z_h W_O^h + b_O
    logits     = (x_mid + act(x_mid W_in + b_in) W_out + b_out) W_U + b_U

Without an MLP (`attention_only`) the logits are those of x_mid. LayerNorm stands in front of each reader of the stream
(`pre`: `ln1` of attention, `ln2` of the MLP, `ln_final` of W_U) or behind each writer (`post`: `ln1` of x_mid, `ln2` of
the sum with the MLP). Neurons are then told as the logits see them, divided by the scale of the last LayerNorm.

An attention rate r < 1 puts r softmax_i + (1 - r) in the place of softmax_i, at every position that may be attended to
("The Clock and the Pizza", Zhong et al., 2023, https://arxiv.org/abs/2306.17844).

x_i is the embedding of the token at position i plus that of the position, hence keys, values and scores depend on one
token each: the fast pass computes them in tables with one row per token, and per pair only the mixture z and the MLP.
Products of weights are taken before they meet the batch (z W_O W_in, act W_out W_U, z W_O W_U), so that no pair ever
passes through the residual stream. It is the same function: only the order of additions differs.

That is for `a b =`, one layer and an MLP without LayerNorm. Of all others the fast pass computes the stream once per
prefix where attention is causal, and of the last layer the last position alone (see `interp.models.attention`).
"""

import math
from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from interp.config import Transformer
from interp.errors import ConfigError, NotAvailableError
from interp.models.attention import (
    Attention,
    AttentionNetwork,
    answer_behind_norm,
    map_through_norm,
    normalised,
    plus,
)
from interp.models.base import (
    Activations,
    Answer,
    Batch,
    Parameters,
    activate,
    draw,
    is_stacked,
    look_up,
)
from interp.models.prefixes import PrefixBatch, prefix_batch, whole_batch
from interp.models.tables import TABLED, PairTables, attention_tables, operand_tokens, require_unscaled

__all__ = ["TransformerNetwork"]

LENS_ACTIVATIONS = ("relu", "gelu", "gelu_new", "silu")
"""Activations that TransformerLens has under these names."""


class TransformerNetwork(AttentionNetwork):
    """The transformer that a `Transformer` config describes.

    Example:
        >>> config = Transformer(d_model=8, n_heads=2, d_head=4, d_mlp=16)
        >>> model = TransformerNetwork(config, 6, 3, 5, torch.Generator().manual_seed(0))
        >>> tokens = torch.tensor([[1, 2, 5], [4, 4, 5]])
        >>> logits = model.answer_logits(model.prepare(tokens))
        >>> torch.allclose(logits, model(tokens)[:, -1], atol=1e-6)
        True
    """

    axes: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        {
            "embed.W_E": ("token", "d_model"),
            "pos_embed.W_pos": ("pos", "d_model"),
            "attn.W_Q": ("head", "d_model", "d_head"),
            "attn.W_K": ("head", "d_model", "d_head"),
            "attn.W_V": ("head", "d_model", "d_head"),
            "attn.W_O": ("head", "d_head", "d_model"),
            "attn.b_Q": ("head", "d_head"),
            "attn.b_K": ("head", "d_head"),
            "attn.b_V": ("head", "d_head"),
            "attn.b_O": ("d_model",),
            "mlp.W_in": ("d_model", "neuron"),
            "mlp.b_in": ("neuron",),
            "mlp.W_out": ("neuron", "d_model"),
            "mlp.b_out": ("d_model",),
            **{f"{ln}.{name}": ("d_model",) for ln in ("ln1", "ln2", "ln_final") for name in "wb"},
            "unembed.W_U": ("d_model", "d_vocab_out"),
            "unembed.b_U": ("d_vocab_out",),
        }
    )

    def __init__(
        self, config: Transformer, d_vocab: int, n_ctx: int, d_vocab_out: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.pos_embed: Any
        self.ln_final: Any
        self.config, self.d_vocab, self.n_ctx, self.d_vocab_out = config, d_vocab, n_ctx, d_vocab_out
        d, heads, d_head, d_mlp = config.d_model, config.n_heads, config.d_head, config.d_mlp
        self.has_mlps = self.has_neurons = not config.attention_only
        self.has_tables = (
            self.has_mlps
            and config.normalization == "none"
            and config.activation in TABLED
            and config.output_scale == 1
        )
        self.attends_to_sums = config.normalization != "pre"
        self.attention = Attention(heads, d_head, causal=config.attention == "causal", rate=config.attention_rate)

        def embedding(*shape: int) -> nn.Parameter:
            return draw(shape, generator, std=1.0 if config.init == "torch" else scale)

        def linear(*shape: int, fan_in: int) -> nn.Parameter:
            if config.init == "torch":  # nn.Linear: kaiming_uniform with a = sqrt(5)
                return draw(shape, generator, bound=1 / math.sqrt(fan_in))
            return draw(shape, generator, std=scale)

        def bias(kind: str, *shape: int, fan_in: int) -> nn.Parameter | None:
            if kind == "absent":
                return None
            if kind == "frozen" or config.init != "torch":
                return nn.Parameter(torch.zeros(shape), requires_grad=kind == "trainable")
            return draw(shape, generator, bound=1 / math.sqrt(fan_in))

        def norm() -> Parameters:
            return Parameters(w=nn.Parameter(torch.ones(d)), b=nn.Parameter(torch.zeros(d)))

        scale = {"tl": 0.8, "nanda": 1.0, "torch": math.nan}[config.init] / math.sqrt(d)
        self.embed = Parameters(W_E=embedding(d_vocab, d))
        self.pos_embed = Parameters(W_pos=embedding(n_ctx, d))
        self.blocks = nn.ModuleList()
        for _ in range(config.n_layers):
            block: Any = nn.Module()
            block.attn = Parameters(
                W_Q=linear(heads, d, d_head, fan_in=d),
                W_K=linear(heads, d, d_head, fan_in=d),
                W_V=linear(heads, d, d_head, fan_in=d),
                W_O=linear(heads, d_head, d, fan_in=heads * d_head),
                b_Q=bias(config.attention_biases, heads, d_head, fan_in=d),
                b_K=bias(config.attention_biases, heads, d_head, fan_in=d),
                b_V=bias(config.attention_biases, heads, d_head, fan_in=d),
                b_O=bias(config.attention_biases, d, fan_in=heads * d_head),
            )
            if config.normalization != "none":
                block.ln1 = norm()
            if self.has_mlps:
                block.mlp = Parameters(
                    W_in=linear(d, d_mlp, fan_in=d),
                    b_in=bias(config.mlp_biases, d_mlp, fan_in=d),
                    W_out=linear(d_mlp, d, fan_in=d_mlp),
                    b_out=bias(config.mlp_biases, d, fan_in=d_mlp),
                )
                if config.normalization != "none":
                    block.ln2 = norm()
            self.blocks.append(block)
        if config.normalization == "pre":
            self.ln_final = norm()
        W_U = None
        if not config.tied:
            std = 1 / math.sqrt(d_vocab_out)
            W_U = (
                draw((d, d_vocab_out), generator, std=std)
                if config.init == "nanda"
                else linear(d, d_vocab_out, fan_in=d)
            )
        elif d_vocab_out > d_vocab:
            raise ConfigError(
                f"`model.tied` must be False for {d_vocab_out} classes and {d_vocab} tokens: a tied unembedding is the "
                "embedding of a token for each class."
            )
        self.unembed = Parameters(W_U=W_U, b_U=bias(config.unembed_biases, d_vocab_out, fan_in=d))

    @property
    def pattern(self) -> str:
        """See `Network.pattern`."""
        return "blocks.0.attn.hook_pattern" if len(self.blocks) == 1 else ""

    def lens_settings(self) -> dict[str, Any]:
        """See `Network.lens_settings`."""
        config = self.config
        if config.attention_rate != 1:
            raise NotAvailableError(
                "TransformerLens has no attention that is not a softmax: `attention_rate` must be 1; "
                f"got {config.attention_rate}. `run_with_cache` gives the activations under the same names."
            )
        if config.normalization == "post":
            raise NotAvailableError(
                "TransformerLens has no LayerNorm behind attention and MLP: `normalization` must be none or pre; got "
                "post. `run_with_cache` gives the activations under the same names."
            )
        if config.activation not in LENS_ACTIVATIONS:
            raise NotAvailableError(
                f"TransformerLens has bridges for the activations {', '.join(LENS_ACTIVATIONS)}; got "
                f"{config.activation}. `run_with_cache` gives the activations under the same names."
            )
        return {
            "n_layers": config.n_layers,
            "d_model": config.d_model,
            "n_heads": config.n_heads,
            "d_head": config.d_head,
            "d_mlp": config.d_mlp if self.has_mlps else 0,
            "n_ctx": self.n_ctx,
            "d_vocab": self.d_vocab,
            "d_vocab_out": self.d_vocab_out,
            "act_fn": config.activation,
            "attention_dir": config.attention,
            "normalization_type": "LN" if config.normalization == "pre" else None,
            "attn_only": not self.has_mlps,
        }

    @property
    def _W_U(self) -> Float[Tensor, "d_model d_vocab_out"]:
        """Unembedding as the logits see it: tied or not, times the output scale."""
        W_U = self.embed.W_E[: self.d_vocab_out].T if self.config.tied else self.unembed.W_U
        return W_U if self.config.output_scale == 1 else self.config.output_scale * W_U

    @property
    def _b_U(self) -> Float[Tensor, " d_vocab_out"] | None:
        b_U: Tensor | None = self.unembed.b_U
        return b_U if b_U is None or self.config.output_scale == 1 else self.config.output_scale * b_U

    def lens_weights(self) -> dict[str, Tensor]:
        """See `Network.lens_weights`."""
        found = super().lens_weights() | {"unembed.W_U": self._W_U.detach()}
        return found if self._b_U is None else found | {"unembed.b_U": self._b_U.detach()}

    # --- the plain pass -----------------------------------------------------------------------------------------------

    def plain_pass(
        self, tokens: Int[Tensor, "batch pos"], activations: Activations
    ) -> Float[Tensor, "batch pos d_vocab_out"]:
        """See `Network.plain_pass`."""
        keep, n_ctx = activations.keep, tokens.shape[1]
        embedded = keep("hook_embed", self.embed.W_E[tokens])
        x = embedded + keep("hook_pos_embed", self.pos_embed.W_pos[:n_ctx].expand(len(tokens), -1, -1))
        for layer, block in enumerate(self.blocks):
            at = f"blocks.{layer}."
            x = keep(at + "hook_resid_pre", x)
            x = self._behind(block, "ln1", x + self.attention.output(self._read(block, x), block.attn, activations, at))
            if self.has_mlps:
                mlp, x = block.mlp, keep(at + "hook_resid_mid", x)
                pre = keep(at + "mlp.hook_pre", plus(self._in_front(block, "ln2", x) @ mlp.W_in, mlp.b_in))
                post = keep(at + "mlp.hook_post", activate(self.config.activation, pre))
                x = self._behind(block, "ln2", x + keep(at + "hook_mlp_out", plus(post @ mlp.W_out, mlp.b_out)))
            x = keep(at + "hook_resid_post", x)
        return plus(self._in_front(self, "ln_final", x) @ self._W_U, self._b_U)

    # --- the fast pass ------------------------------------------------------------------------------------------------

    def prepare(self, tokens: Int[Tensor, "batch pos"]) -> Batch:
        """See `Network.prepare`; one plain layer reads `a b =` from tables, everything else by prefixes."""
        batch = super().prepare(tokens)
        equals = self.d_vocab - 1  # bits have no '=', and may end in 1
        is_plain = len(self.blocks) == 1 and self.has_mlps and self.config.normalization == "none"
        if is_plain and self.n_ctx == 3 and equals > 1 and bool((tokens[:, -1] == equals).all()):
            return batch
        # in the first layer keys and values depend on one token each, whichever positions attend to them
        may_share = self.attention.causal or len(self.blocks) == 1
        return (prefix_batch if may_share else whole_batch)(batch, self.d_vocab)

    def last_logits(self, batch: Batch, positions: int) -> Float[Tensor, "batch positions d_vocab_out"]:
        """See `Network.last_logits`."""
        if not isinstance(batch, PrefixBatch):
            return super().last_logits(batch, positions)
        x = self._in_front(self, "ln_final", self._post(self.blocks[-1], self._last_mid(batch, positions)))
        return F.linear(x, self._W_U.T, self._b_U)

    def answer_logits(self, batch: Batch) -> Float[Tensor, "batch d_vocab_out"]:
        """See `Network.answer_logits`."""
        if isinstance(batch, PrefixBatch):
            return self.last_logits(batch, 1)[:, 0]
        if self.config.activation != "relu" or is_stacked(self.embed.W_E):
            return self.answer(batch).logits
        joint = torch.cat([self.neuron_logit_map(), self._W_O @ self._W_U])
        weights = self._hidden_bias(), self._W_O @ self.blocks[0].mlp.W_in, self._constant_logits(), joint
        return _FoldedReadout.apply(self._mixture(batch), *weights)

    def answer(self, batch: Batch) -> Answer:
        """See `Network.answer`."""
        self._require_neurons()
        if self._last_norm is not None:
            block, mid = self.blocks[-1], self._last_mid(batch, 1)[:, 0]
            written, b_out = (self._neurons(block, mid), block.mlp.W_out), block.mlp.b_out
            return answer_behind_norm(plus(mid, b_out), *written, self._last_norm, self._W_U, self._b_U)
        W_L = self.neuron_logit_map()
        if not isinstance(batch, PrefixBatch):
            z = self._mixture(batch)
            W_hidden = self._W_O @ self.blocks[0].mlp.W_in
            neurons = activate(self.config.activation, torch.addmm(self._hidden_bias(), z, W_hidden))
            residual = torch.addmm(self._constant_logits(), z, self._W_O @ self._W_U)
        else:
            mid = self._last_mid(batch, 1)[:, 0]
            neurons = self._neurons(self.blocks[-1], mid)
            residual = F.linear(plus(mid, self.blocks[-1].mlp.b_out), self._W_U.T, self._b_U)
        return Answer(torch.addmm(residual, neurons, W_L), neurons, W_L, residual)

    def neuron_logit_map(self) -> Float[Tensor, "neuron d_vocab_out"]:
        """See `Network.neuron_logit_map`; up to the scale of a LayerNorm in front of the logits."""
        self._require_neurons()
        if self._last_norm is not None:
            return map_through_norm(self.blocks[-1].mlp.W_out, self._last_norm, self._W_U)
        return self.blocks[-1].mlp.W_out @ self._W_U

    def _require_neurons(self) -> None:
        if not self.has_mlps:
            raise NotAvailableError("A transformer of attention alone (`attention_only`) has no neurons.")

    @property
    def _last_norm(self) -> Any:
        """LayerNorm between the last MLP and the unembedding; None without one."""
        match self.config.normalization:
            case "pre":
                return self.ln_final
            case "post":
                return self.blocks[-1].ln2
        return None

    def pair_tables(self, tokens: Int[Tensor, "pair pos"]) -> PairTables:
        """See `Network.pair_tables`; for one layer with an MLP and without LayerNorm."""
        if not self.has_mlps:
            raise NotAvailableError("Tables of pairs need a hidden layer; this transformer has attention alone.")
        if self.config.normalization != "none":
            raise NotAvailableError(
                "Tables of pairs need pre-activations that are sums of terms of one token each; the LayerNorm of this "
                f"transformer (`normalization` {self.config.normalization}) divides by a scale of each pair."
            )
        require_unscaled(self.config.output_scale)
        if len(self.blocks) > 1:
            raise NotAvailableError(f"Tables of pairs need a single layer; this transformer has {len(self.blocks)}.")
        first, second, rest = operand_tokens(tokens)
        last = tokens.shape[1] - 1
        if last not in rest and (rest or second[0] != last):
            raise NotAvailableError(
                "Tables of pairs need a last position that holds no operand, such as '=', or two positions, of which "
                "the last holds the second operand; "
                f"operands stand at positions {first[0]} and {second[0]} of 0..{last}."
            )
        x = self.pos_embed.W_pos[: tokens.shape[1], None].double() + self.embed.W_E.double()
        block, config, unembed = self.blocks[0], self.config, SimpleNamespace(W_U=self._W_U, b_U=self._b_U)
        return attention_tables(
            x, (first, second), rest, block.attn, block.mlp, unembed, config.activation, config.attention_rate
        )

    # once per prefix

    def _last_mid(self, batch: Batch, positions: int) -> Float[Tensor, "batch positions d_model"]:
        """x_mid of the last layer, at the last positions."""
        assert isinstance(batch, PrefixBatch)
        embeddings = self.embed.W_E, self.pos_embed.W_pos
        read = self._read if self.config.normalization == "pre" else None
        return self.attention.last_mid(batch.levels, positions, embeddings, self.blocks, self._mid, self._post, read)

    def _in_front(self, module: Any, ln: str, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The stream as a reader sees it, behind its LayerNorm where `normalization` is pre."""
        return normalised(x, getattr(module, ln)) if self.config.normalization == "pre" else x

    def _behind(self, block: Any, ln: str, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The stream behind a writer, and its LayerNorm where `normalization` is post."""
        return normalised(x, getattr(block, ln)) if self.config.normalization == "post" else x

    def _read(self, block: Any, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        return self._in_front(block, "ln1", x)

    def _mid(
        self, block: Any, x: Float[Tensor, "row pos d_model"], z: Float[Tensor, "row pos z"]
    ) -> Float[Tensor, "row pos d_model"]:
        return self._behind(block, "ln1", x + F.linear(z, block.attn.W_O.flatten(0, 1).T, block.attn.b_O))

    def _post(self, block: Any, mid: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_model"]:
        if not self.has_mlps:
            return mid
        written = F.linear(self._neurons(block, mid), block.mlp.W_out.T, block.mlp.b_out)
        return self._behind(block, "ln2", mid + written)

    def _neurons(self, block: Any, mid: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row neuron"]:
        read = self._in_front(block, "ln2", mid)
        return activate(self.config.activation, F.linear(read, block.mlp.W_in.T, block.mlp.b_in))

    # from tables

    @property
    def _W_O(self) -> Float[Tensor, "z d_model"]:
        return self.blocks[0].attn.W_O.flatten(0, 1)

    def _mixture(self, batch: Batch) -> Float[Tensor, "batch z"]:
        """z of all heads, at the last position."""
        attn, numbers = self.blocks[0].attn, self.d_vocab - 1
        x_last = self._x_last
        x = [self.embed.W_E[:numbers] + self.pos_embed.W_pos[pos] for pos in (0, 1)] + [x_last[None]]

        # scores of all tokens at each position: q.(x W_K + b_K) = x.(W_K q) + q.b_K
        q = plus(torch.einsum("d,hde->he", x_last, attn.W_Q), attn.b_Q) / math.sqrt(self.config.d_head)
        query_key = torch.einsum("hde,he->dh", attn.W_K, q)
        constant = 0.0 if attn.b_K is None else (q * attn.b_K).sum(-1)
        scores = [xi @ query_key + constant for xi in x]  # [token, head] each
        W_V = attn.W_V.permute(1, 0, 2).flatten(1)
        values = [plus(xi @ W_V, attn.b_V if attn.b_V is None else attn.b_V.flatten()) for xi in x]  # [token, z]

        # the patterns sum to 1, so that z = v_last + pattern_0 (v_a - v_last) + pattern_1 (v_b - v_last)
        heads, rate = (self.config.n_heads, self.config.d_head), self.config.attention_rate
        score = [*(look_up(scores[i], batch, i) for i in (0, 1)), scores[2].expand(len(batch.tokens), -1)]
        pattern = torch.stack(score).softmax(0)[..., None]  # [pos, batch, head, 1]
        z = values[2].unflatten(1, heads)
        if rate != 1:  # these sum to r + 3 (1 - r)
            pattern, z = rate * pattern + (1 - rate), (3 - 2 * rate) * z
        for i in (0, 1):
            z = torch.addcmul(z, pattern[i], look_up(values[i] - values[2], batch, i).unflatten(1, heads))
        return z.flatten(1)

    def _hidden_bias(self) -> Float[Tensor, " neuron"]:
        mlp = self.blocks[0].mlp
        return plus(plus(self._x_last, self.blocks[0].attn.b_O) @ mlp.W_in, mlp.b_in)

    @property
    def _x_last(self) -> Float[Tensor, " d_model"]:
        return self.embed.W_E[self.d_vocab - 1] + self.pos_embed.W_pos[2]

    def _constant_logits(self) -> Float[Tensor, " d_vocab_out"]:
        constant = plus(plus(self._x_last, self.blocks[0].attn.b_O), self.blocks[0].mlp.b_out)
        return plus(constant @ self._W_U, self._b_U)


class _FoldedReadout(torch.autograd.Function):
    """[relu(b + z W), z] J + c with two products forward and four backward, none of them split and nothing copied.

    The gradient of the neurons is masked where it lies. This is what autograd would compute, with half its traffic.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, b: Tensor, W: Tensor, c: Tensor, J: Tensor) -> Tensor:
        n_neurons = len(b)
        both = z.new_empty(len(z), n_neurons + z.shape[1])
        torch.addmm(b, z, W, out=both[:, :n_neurons]).relu_()
        both[:, n_neurons:] = z
        ctx.save_for_backward(both, W, J)
        spare = -len(c) % 8  # a product whose rows are not a multiple of 32 bytes is up to a fifth slower
        return torch.addmm(F.pad(c, (0, spare)), both, F.pad(J, (0, spare)))[:, : len(c)]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        both, W, J = ctx.saved_tensors
        n_neurons = W.shape[1]
        neurons, z = both[:, :n_neurons], both[:, n_neurons:]
        grad_both = grad @ J.T
        grad_pre, grad_z = grad_both[:, :n_neurons], grad_both[:, n_neurons:]
        torch.ops.aten.threshold_backward.grad_input(grad_pre, neurons, 0, grad_input=grad_pre)
        return torch.addmm(grad_z, grad_pre, W.T), grad_pre.sum(0), z.T @ grad_pre, grad.sum(0), both.T @ grad
