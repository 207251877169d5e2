"""Models: parameters under HookedTransformer's names, a plain forward pass, and an exact fast one for the answer.

A model is built from three integers (tokens, positions, classes) and its config; it knows no task.
"""

import torch

from interp.config import Decoder, FeedForward, Logistic, Recurrent, Transformer
from interp.config.models import ModelConfig
from interp.models.base import Answer, Model, Pairs
from interp.models.decoder import DecoderModel
from interp.models.feedforward import FeedForwardModel
from interp.models.logistic import LogisticModel
from interp.models.recurrent import RecurrentModel
from interp.models.transformer import TransformerModel

__all__ = ["Answer", "Model", "Pairs", "build_model"]


def build_model(
    config: ModelConfig, d_vocab: int, n_ctx: int, d_vocab_out: int, *, generator: torch.Generator
) -> Model:
    """The model that `config` describes, its weights drawn from `generator` (on the CPU).

    Example:
        >>> model = build_model(Transformer(), 114, 3, 113, generator=torch.Generator().manual_seed(0))
        >>> model.state_dict()["embed.W_E"].shape
        torch.Size([114, 128])
    """
    match config:
        case Transformer():
            return TransformerModel(config, d_vocab, n_ctx, d_vocab_out, generator)
        case FeedForward():
            return FeedForwardModel(config, d_vocab, n_ctx, d_vocab_out, generator)
        case Decoder():
            return DecoderModel(config, d_vocab, n_ctx, d_vocab_out, generator)
        case Recurrent():
            return RecurrentModel(config, d_vocab, n_ctx, d_vocab_out, generator)
        case Logistic():
            return LogisticModel(config, n_ctx, generator)
