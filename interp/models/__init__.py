"""Models: parameters under HookedTransformer's names, a plain forward pass, and an exact fast one for the answer.

A model is built from three integers (tokens, positions, classes) and its config; it knows no task.
"""

import torch

from interp.config import Decoder, FeedForward, Logistic, Recurrent, Transformer
from interp.config.models import ModelConfig
from interp.models.base import Answer, Batch, Network
from interp.models.decoder import DecoderNetwork
from interp.models.feedforward import FeedForwardNetwork
from interp.models.logistic import LogisticNetwork
from interp.models.recurrent import RecurrentNetwork
from interp.models.transformer import TransformerNetwork

__all__ = ["Answer", "Batch", "Network", "build_model"]


def build_model(
    config: ModelConfig, d_vocab: int, n_ctx: int, d_vocab_out: int, *, generator: torch.Generator
) -> Network:
    """The model that `config` describes, its weights drawn from `generator` (on the CPU).

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
            return LogisticNetwork(config, n_ctx, generator)
