"""Models: parameters under HookedTransformer's names, a plain forward pass, and an exact fast one for the answer.

A model is built from three integers (tokens, positions, classes) and its config; it knows no task.
"""

from abc import ABC, abstractmethod

import torch
from torch.nn.modules.dropout import _DropoutNd as _Dropout
from torch.nn.parameter import UninitializedParameter

from interp.config import Decoder, FeedForward, Logistic, RecordedModel, Recurrent, Transformer
from interp.config.declared import ModelConfig
from interp.errors import ConfigError, InterpError, error_line
from interp.models.base import Activations, Answer, Batch, Network, Sizes
from interp.models.decoder import DecoderNetwork
from interp.models.feedforward import FeedForwardNetwork
from interp.models.logistic import LogisticNetwork
from interp.models.recorded import Forward, RecordedNetwork, StoredModel
from interp.models.recurrent import RecurrentNetwork
from interp.models.transformer import TransformerNetwork

__all__ = ["Activations", "Answer", "Batch", "Forward", "Model", "Network", "Sizes", "StoredModel", "build_model"]

DTYPES = (torch.float16, torch.float32, torch.float64)
"""Types of parameters that checkpoints store."""


class Model(ModelConfig, ABC):
    """Base of a user's own model: a frozen dataclass with one method, `build`.

    It is passed wherever a model of this package is, from a module of the user's own; JSON names it as
    `my_module:Name`. What it declares besides (`slug`, `encodings`, ...) has defaults: see `ModelConfig`.

    Example:
        >>> from dataclasses import dataclass
        >>> from torch import nn
        >>> class Bag(Network):
        ...     def __init__(self, sizes: Sizes, width: int) -> None:
        ...         super().__init__()
        ...         self.table = nn.Embedding(sizes.d_vocab, width)
        ...         self.out = nn.Linear(width, sizes.d_vocab_out)
        ...
        ...     def forward(self, tokens):
        ...         return self.out(self.table(tokens).sum(1).relu())
        >>> @dataclass(frozen=True, kw_only=True)
        ... class BagOfTokens(Model):
        ...     width: int = 16
        ...
        ...     def build(self, sizes: Sizes, generator: torch.Generator) -> Network:
        ...         return Bag(sizes, self.width)
        >>> network = build_model(BagOfTokens(), 5, 2, 5, generator=torch.Generator().manual_seed(0))
        >>> network(torch.tensor([[1, 2], [2, 1]])).shape
        torch.Size([2, 5])
    """

    @abstractmethod
    def build(self, sizes: Sizes, generator: torch.Generator) -> Network:
        """The network, on the CPU, its initial weights a function of `generator` alone.

        Modules that initialise themselves (`nn.Linear`, `nn.Embedding`) draw from torch's global generator, which is
        seeded from `generator` for the time of this call and restored behind it. Draw from nothing else: numpy's and
        Python's generators are not the run's.
        """


def build_model(
    config: ModelConfig,
    d_vocab: int,
    n_ctx: int,
    d_vocab_out: int,
    *,
    generator: torch.Generator,
    stored: StoredModel | None = None,
) -> Network:
    """The model that `config` describes, its weights drawn from `generator` (on the CPU).

    `stored` holds what a recorded run knows of its network besides.

    Raises:
        ConfigError: a user's network breaks a rule of `Network`, or `config` is that of a recorded run, and nothing is
            stored.

    Example:
        >>> model = build_model(Transformer(), 114, 3, 113, generator=torch.Generator().manual_seed(0))
        >>> model.state_dict()["embed.W_E"].shape
        torch.Size([114, 128])
    """
    match config:
        case Transformer():
            return TransformerNetwork(config, d_vocab, n_ctx, d_vocab_out, generator)
        case FeedForward():
            return FeedForwardNetwork(config, d_vocab, n_ctx, d_vocab_out, generator)
        case Decoder():
            return DecoderNetwork(config, d_vocab, n_ctx, d_vocab_out, generator)
        case Recurrent():
            return RecurrentNetwork(config, d_vocab, n_ctx, d_vocab_out, generator)
        case Logistic():
            return LogisticNetwork(config, n_ctx, d_vocab_out, generator)
        case RecordedModel() if stored is not None:
            return RecordedNetwork(config, Sizes(d_vocab, n_ctx, d_vocab_out), stored)
        case RecordedModel():
            raise ConfigError(
                f"`model` RecordedModel describes the network {config.name} of a recorded run, whose code no config "
                "holds; a run to train needs a model of this package, or one derived from interp.models.Model."
            )
        case Model():
            return _built_by_user(config, Sizes(d_vocab, n_ctx, d_vocab_out), generator)
    raise ConfigError(
        f"`model` must be a model of this package, or derived from interp.models.Model; got {type(config).__name__}."
    )


def _built_by_user(config: Model, sizes: Sizes, generator: torch.Generator) -> Network:
    name = type(config).__name__
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        try:
            network = config.build(sizes, generator)
        except (InterpError, MemoryError):
            raise
        except Exception as error:
            raise ConfigError(f"`{name}.build` raised {type(error).__name__}: {error_line(error)}") from error
    if not isinstance(network, Network):
        raise ConfigError(f"`{name}.build` must return an interp.models.Network; got {type(network).__name__}.")
    for at, parameter in network.named_parameters():
        if isinstance(parameter, UninitializedParameter) or parameter.dtype not in DTYPES:
            kind = "not initialised" if isinstance(parameter, UninitializedParameter) else str(parameter.dtype)
            raise ConfigError(f"`{name}.build` must make parameters of float16, float32 or float64; `{at}` is {kind}.")
        parameter.data = parameter.data.contiguous()  # as checkpoints store them, and fused optimisers walk them
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError(f"`{name}.build` must return a network with something to train; it has no parameter.")
    if buffers := network.state_dict().keys() - dict(network.named_parameters(remove_duplicate=False)).keys():
        raise ConfigError(
            f"`{name}` must keep its constants in buffers that are not persistent, since a checkpoint holds weights "
            f"alone; got {', '.join(sorted(buffers))}."
        )
    if drawing := [at for at, module in network.named_modules() if isinstance(module, _Dropout) and module.p > 0]:
        raise ConfigError(
            f"`{name}` must draw in `Network.dropout_mask` and not from torch's global generator, for a run to be "
            f"repeated bit for bit; got dropout in {', '.join(drawing)}."
        )
    network.d_vocab, network.n_ctx, network.d_vocab_out = sizes
    return network
