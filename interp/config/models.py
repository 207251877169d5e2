"""Configs of models, one per architecture."""

from dataclasses import dataclass
from typing import Literal

from interp.config.base import added_field
from interp.config.declared import Encoding, ModelConfig

__all__ = ["Activation", "Decoder", "FeedForward", "Logistic", "Recurrent", "Transformer"]

Activation = Literal["relu", "gelu", "gelu_new", "silu", "tanh", "sigmoid", "softplus", "square", "identity"]
"""Non-linearity of a hidden layer: gelu has the error function, gelu_new the tanh in its place; square is x^2; identity
is none."""
Biases = Literal["trainable", "frozen", "absent"]
Init = Literal["tl", "nanda", "torch"]
_NUMBERS: tuple[Encoding, ...] = ("direct", "bits")
_NUMBERS_RULE = "A model that reads its tokens as numbers needs tokens that are"


@dataclass(frozen=True, kw_only=True)
class Transformer(ModelConfig):
    """Decoder without LayerNorm, learned positions, untied ("Progress measures for grokking", Nanda et al., 2023, 3).

    `normalization` adds LayerNorm, `attention_only` leaves out the MLPs. Parameter names are HookedTransformer's.
    """

    n_layers: int = 1
    d_model: int = 128
    n_heads: int = 4
    d_head: int = 32
    d_mlp: int = 512
    activation: Activation = "relu"
    normalization: Literal["none", "pre", "post"] = added_field("none")
    """LayerNorm, with gain and shift. pre: in front of attention, of the MLP and of the unembedding, as in GPT-2 and
    HookedTransformer's LN; post: of the stream behind attention and behind the MLP, as in Vaswani et al. (2017)."""
    attention_only: bool = added_field(False)
    """Whether layers have no MLP ("A Mathematical Framework for Transformer Circuits", Elhage et al., 2021); d_mlp,
    activation and mlp_biases are then left as they are by default."""
    attention: Literal["causal", "bidirectional"] = "causal"
    """Positions that a position attends to; for the last position of one layer both settings agree."""
    attention_rate: float = added_field(1.0)
    """r in [0, 1]: a position attends with r * softmax + (1 - r), 1 being full attention and 0 the same weight 1 for
    all positions ("The Clock and the Pizza", Zhong et al., 2023, section 5)."""
    attention_biases: Biases = "absent"
    mlp_biases: Biases = "absent"
    unembed_biases: Biases = "absent"
    tied: bool = added_field(False)
    """Whether the unembedding is the transposed embedding of the first tokens, one for each class: no `unembed.W_U`."""
    output_scale: float = added_field(1.0)
    """alpha > 0: logits are alpha times what weights and biases of the unembedding give ("Grokking as the transition
    from lazy to rich training dynamics", Kumar et al., 2024; large is lazy)."""
    init: Init = "tl"
    """tl: N(0, 0.64/d_model) everywhere; nanda: N(0, 1/d_model), W_U N(0, 1/d_vocab_out); torch: the defaults of
    nn.Embedding and nn.Linear. Biases start at 0 (torch: uniform)."""

    def _rules(self) -> None:
        for name in ("n_layers", "d_model", "n_heads", "d_head", "d_mlp"):
            self._require(name, getattr(self, name) >= 1, ">= 1")
        for name, default in (("d_mlp", 512), ("activation", "relu"), ("mlp_biases", "absent")):
            unused = f"left at {default} with attention_only, where there is no MLP"
            self._require(name, not self.attention_only or getattr(self, name) == default, unused)
        self._require("attention_rate", 0 <= self.attention_rate <= 1, "in [0, 1]")
        self._require("output_scale", self.output_scale > 0, "> 0")

    @property
    def sees_later(self) -> bool:
        """See `ModelConfig.sees_later`."""
        return self.attention == "bidirectional"


@dataclass(frozen=True, kw_only=True)
class Decoder(ModelConfig):
    """Decoder of Power et al. ("Grokking", 2022, appendix A.1.2; github.com/openai/grok): LayerNorm, no biases.

    Each block normalises behind the attention and behind the MLP; positions are sinusoidal; the head is a table of its
    own. Weights start as those of nn.Embedding and nn.Linear.
    """

    n_layers: int = 2
    d_model: int = 128
    n_heads: int = 4
    """Heads, each d_model / n_heads wide."""
    d_mlp: int = 512
    activation: Activation = "relu"

    def _rules(self) -> None:
        for name in ("n_layers", "d_model", "n_heads", "d_mlp"):
            self._require(name, getattr(self, name) >= 1, ">= 1")
        self._require("n_heads", self.d_model % self.n_heads == 0, f"a divisor of d_model = {self.d_model}")


@dataclass(frozen=True, kw_only=True)
class FeedForward(ModelConfig):
    """MLP on two learned embeddings (github.com/okitouni/simple-grokking; "Some thoughts on Grokking", Kitouni).

    One that combines by product and has no hidden layer is the bilinear model of Chughtai et al. (2023), whose MLP has
    `embedding` separate; both have `init` fan-in and no biases (github.com/bilal-chughtai/rep-theory).
    """

    embedding: Literal["shared", "separate", "one-hot", "scalars"] = "shared"
    """Embedding of the operands. shared: one table for both; separate: one each (`embed.W_E`, `embed_b.W_E`); one-hot:
    no table, and the rows of the first layer's weights are the embedding; scalars: the tokens are read as numbers, '='
    as p (encoding direct)."""
    scalars: Literal["raw", "divided"] = added_field("divided")
    """Scale of numbers: as they are, or divided by the largest token, p."""
    combine: Literal["concatenate", "sum", "product"] = "concatenate"
    """Combination of the two operands' embeddings for the first layer; numbers are always concatenated."""
    d_model: int = 128
    """Width of an embedding; one-hot inputs and numbers have none."""
    d_hidden: tuple[int, ...] = (128,)
    """Widths of the hidden layers, first to last; none where products are read out at once."""
    activation: Activation = "relu"
    biases: Biases = "trainable"
    output_scale: float = added_field(1.0)
    """alpha > 0, as of a `Transformer`."""
    init: Literal[Init, "fan-in"] = "torch"
    """Initialisation as of a `Transformer`; fan-in: embeddings N(0, 1/d_model), weights N(0, 1/d_in)."""
    init_stream: Literal["seed", "split"] = "seed"
    """seed: initial weights come from the run's seed. split: they continue the random stream that shuffled the pairs,
    as in a script with a single torch.manual_seed, which rebuilds such a script's initial weights exactly."""

    def _rules(self) -> None:
        self._require("d_model", self.d_model >= 1, ">= 1")
        self._require("output_scale", self.output_scale > 0, "> 0")
        tables = self.embedding in ("shared", "separate")
        self._require(
            "d_hidden",
            (len(self.d_hidden) >= 1 or (self.combine == "product" and tables)) and min(self.d_hidden, default=1) >= 1,
            "one or more widths >= 1, such as (128,)",
        )
        self._require("combine", self.combine != "product" or tables, "concatenate or sum without embeddings")
        self._require("combine", self.combine == "concatenate" or self.embedding != "scalars", "concatenate of scalars")
        self._require(
            "init",
            tables or self.init in ("torch", "fan-in"),
            "torch or fan-in without embeddings, since the others are scaled by d_model",
        )

    @property
    def slug(self) -> str:
        """See `ModelConfig.slug`."""
        return "mlp" if self.d_hidden else "bilinear"

    @property
    def encodings(self) -> tuple[Encoding, ...]:
        """See `ModelConfig.encodings`."""
        return _NUMBERS if self.embedding == "scalars" else ("operands",)

    @property
    def encoding_rule(self) -> str:
        """See `ModelConfig.encoding_rule`."""
        return _NUMBERS_RULE if self.embedding == "scalars" else "A FeedForward model reads the two operands"


@dataclass(frozen=True, kw_only=True)
class Recurrent(ModelConfig):
    """LSTM or RNN whose last state is read out ("Grokking in neural networks and the role of regularization", Ahmed).

    Weights and biases start as those of nn.Embedding, nn.LSTM (nn.RNN) and nn.Linear, all times `init_scale`.
    """

    cell: Literal["lstm", "rnn"] = "lstm"
    embedding: Literal["learned", "scalars"] = "learned"
    """scalars: the tokens are read one by one as numbers, '=' as p (encoding direct)."""
    scalars: Literal["raw", "divided"] = "divided"
    """Scale of numbers: as they are, or divided by the largest token, p."""
    d_model: int = 128
    """Width of an embedding; numbers have none."""
    d_hidden: int = 128
    """Width of a state."""
    n_layers: int = 1
    nonlinearity: Literal["tanh", "relu"] = "tanh"
    """Non-linearity of the RNN; the LSTM has its own."""
    dropout: float = 0.0
    """Share of the last state's entries that a training pass sets to 0, the others being divided by 1 - dropout."""
    init_scale: float = 1.0
    """alpha of "Omnigrok" (Liu et al., 2022): what all initial weights and biases are multiplied with; 5 for Ahmed."""

    def _rules(self) -> None:
        for name in ("d_model", "d_hidden", "n_layers"):
            self._require(name, getattr(self, name) >= 1, ">= 1")
        self._require("dropout", 0 <= self.dropout < 1, "in [0, 1)")
        self._require("init_scale", self.init_scale > 0, "> 0")

    @property
    def slug(self) -> str:
        """See `ModelConfig.slug`."""
        return self.cell

    @property
    def encodings(self) -> tuple[Encoding, ...]:
        """See `ModelConfig.encodings`."""
        return _NUMBERS if self.embedding == "scalars" else super().encodings

    @property
    def encoding_rule(self) -> str:
        """See `ModelConfig.encoding_rule`."""
        return _NUMBERS_RULE if self.embedding == "scalars" else super().encoding_rule

    @property
    def varying(self) -> tuple[str, ...]:
        """See `ModelConfig.varying`."""
        return ("init_scale",)


@dataclass(frozen=True, kw_only=True)
class Logistic(ModelConfig):
    """Logistic regression on points, S.x + b, in float64; it begins at zero unless told otherwise."""

    initial_norm: float = 0.0
    """|S| at step 0, in a random direction."""
    initial_bias: float = 0.0
    """b at step 0."""

    def _rules(self) -> None:
        self._require("initial_norm", self.initial_norm >= 0, ">= 0")

    @property
    def encodings(self) -> tuple[Encoding, ...]:
        """See `ModelConfig.encodings`."""
        return ("points",)

    @property
    def encoding_rule(self) -> str:
        """See `ModelConfig.encoding_rule`."""
        return "A Logistic model reads points"

    @property
    def is_plane(self) -> bool:
        """See `ModelConfig.is_plane`."""
        return True

    @property
    def draws_weights(self) -> bool:
        """See `ModelConfig.draws_weights`: the direction of S, unless S is 0."""
        return self.initial_norm != 0

    @property
    def varying(self) -> tuple[str, ...]:
        """See `ModelConfig.varying`."""
        return ("initial_norm", "initial_bias")
