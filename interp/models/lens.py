"""TransformerLens in and out: a model becomes a `TransformerBridge`, a HookedTransformer state dict becomes a model.

The only module that imports transformer_lens (https://github.com/TransformerLensOrg/TransformerLens), and only when a
bridge is asked for: the import costs seconds.

Names. TransformerLens 4 keeps HookedTransformer's activation names as aliases, so what `Network.run_with_cache` calls
`blocks.0.attn.hook_z` is `blocks.0.attn.hook_z` in the bridge's cache and a valid name for its hooks; likewise
`hook_embed`, `hook_pos_embed` and, in each block, `hook_resid_pre`, `attn.hook_q`, `attn.hook_k`, `attn.hook_v`,
`attn.hook_pattern`, `attn.hook_z`, `hook_attn_out`, `hook_resid_mid`, `mlp.hook_pre`, `mlp.hook_post`, `hook_mlp_out`,
`hook_resid_post`. The values agree to rounding, with one exception: the bridge's `attn.hook_attn_scores` (4.3) holds
the pattern after the softmax, seen too late for a hook to act on. Take scores from `Network.run_with_cache`; intervene
at `attn.hook_pattern`, which acts before the values are mixed.
"""

import contextlib
import random
import re
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from interp.config import Transformer
from interp.config.models import Activation
from interp.errors import ForeignFormatError, did_you_mean
from interp.models.base import Network

if TYPE_CHECKING:
    import transformer_lens.model_bridge

__all__ = ["Imported", "from_state_dict", "lens_names", "to_bridge", "to_state_dict"]


class Imported(NamedTuple):
    """A HookedTransformer state dict as this package reads it: `build_model(*imported[:4], ...)` loads its state."""

    config: Transformer
    d_vocab: int
    n_ctx: int
    d_vocab_out: int
    state: dict[str, Tensor]
    """Parameters only, under the names and shapes of `TransformerNetwork.state_dict()`."""


def to_bridge(model: Network) -> "transformer_lens.model_bridge.TransformerBridge":
    """A TransformerLens bridge with a copy of this model's weights, in eval mode, on its device and in its precision.

    A bridge has a bias everywhere: those that the model lacks are zero, and those that it lacks or freezes do not
    require gradients. A tied unembedding is a copy of the embedding, and the output scale is in it. `b_U` is a buffer
    there: it takes part in the forward pass and is never trained. The global random generators are left as they were.
    Needs no network.

    Raises:
        NotAvailableError: for a model that is no transformer, or one that TransformerLens does not have: an attention
            rate that is not 1, LayerNorm behind the parts, an activation without a name there.

    Example:
        >>> from interp.models.transformer import TransformerNetwork
        >>> config = Transformer(d_model=8, n_heads=2, d_head=4, d_mlp=16)
        >>> model = TransformerNetwork(config, 6, 3, 5, torch.Generator().manual_seed(0))
        >>> bridge, tokens = to_bridge(model), torch.tensor([[1, 2, 5]])
        >>> torch.allclose(bridge(tokens), model(tokens), atol=1e-6)
        True
        >>> bridge.run_with_cache(tokens)[1]["blocks.0.attn.hook_z"].shape
        torch.Size([1, 3, 2, 4])
    """
    settings, weight = model.lens_settings(), next(model.parameters())
    with _global_randomness_kept():
        from transformer_lens.config import TransformerBridgeConfig
        from transformer_lens.model_bridge.sources import boot_native
        from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

        bridge_config = TransformerBridgeConfig(
            **settings,
            init_weights=False,
            device=str(weight.device),
            dtype=weight.dtype,
        )
        bridge = boot_native(bridge_config, device=weight.device, dtype=weight.dtype)
        bridge.load_state_dict(convert_tl_checkpoint(to_state_dict(model), bridge_config), strict=True)
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        for layer, block in enumerate(bridge.blocks):
            if f"blocks.{layer}.attn.b_Q" not in trained:
                for linear in (block.attn.q, block.attn.k, block.attn.v, block.attn.o):
                    linear.bias.requires_grad_(False)
            if settings["d_mlp"] and f"blocks.{layer}.mlp.b_in" not in trained:
                for name in ("in", "out"):
                    getattr(block.mlp, name).bias.requires_grad_(False)
        return bridge.eval()


def to_state_dict(model: Network) -> dict[str, Tensor]:
    """State dict of a HookedTransformer with this model's weights; biases that the model lacks are zero.

    The inverse of `from_state_dict`; its buffers `attn.mask` and `attn.IGNORE` are left out. TransformerLens 4, which
    has no HookedTransformer, reads it by `convert_tl_checkpoint` into a bridge of `model.lens_settings()`.

    Raises:
        NotAvailableError: TransformerLens does not have the model; see `to_bridge`.

    Example:
        >>> from interp.models.transformer import TransformerNetwork
        >>> config = Transformer(d_model=8, n_heads=2, d_head=4, d_mlp=16)
        >>> model = TransformerNetwork(config, 6, 3, 5, torch.Generator().manual_seed(0))
        >>> state = to_state_dict(model)
        >>> torch.equal(state["embed.W_E"], model.embed.W_E), state["unembed.b_U"].tolist()
        (True, [0.0, 0.0, 0.0, 0.0, 0.0])
    """
    settings, weight = model.lens_settings(), next(model.parameters())
    shapes = _shapes(**{name: settings[name] for name in _SIZES}, normed=settings["normalization_type"] is not None)
    biases = {name: weight.new_zeros(shape) for name, shape in shapes.items() if _bias_group(name)}
    return biases | {name: value.detach() for name, value in model.lens_weights().items()}


def lens_names(module: nn.Module) -> dict[str, tuple[str, Literal["", "T"]]]:
    """HookedTransformer's name of each parameter of a bridge, by its own, and "T" where it is stored transposed.

    Tables, MLPs and the unembedding have HookedTransformer's names and shapes; all else (a bridge's attention has its
    heads in one matrix, HookedTransformer's on an axis of their own) the names of the bridge's state dict.

    Returns:
        {} for any other module; transformer_lens is not imported to know that.

    Example:
        >>> from interp.models.transformer import TransformerNetwork
        >>> config = Transformer(d_model=8, n_heads=2, d_head=4, d_mlp=16)
        >>> bridge = to_bridge(TransformerNetwork(config, 6, 3, 5, torch.Generator().manual_seed(0)))
        >>> lens_names(bridge)["unembed._original_component.weight"], lens_names(torch.nn.Linear(2, 2))
        (('unembed.W_U', 'T'), {})
    """
    if "transformer_lens.model_bridge" not in sys.modules:
        return {}
    from transformer_lens.model_bridge import TransformerBridge

    if not isinstance(module, TransformerBridge):
        return {}
    told = {x.data_ptr(): name for name, x in module.state_dict().items()}
    found: dict[str, tuple[str, Literal["", "T"]]] = {}
    for own, parameter in nn.Module.named_parameters(module):
        name = told.get(parameter.data_ptr(), own)
        part = re.sub(r"blocks\.\d+\.", "", name)
        linear = isinstance(module.get_submodule(own.rpartition(".")[0]), nn.Linear)
        if part in _BRIDGE_NAMES:
            new = _BRIDGE_NAMES[part]
            is_matrix = parameter.ndim == 2 and part not in ("embed.weight", "pos_embed.weight")
            found[own] = name.removesuffix(part) + new, "T" if is_matrix and linear else ""
        else:
            found[own] = name, ""
    return found


def from_state_dict(
    state_dict: Mapping[str, Tensor],
    *,
    activation: Activation = "relu",
    attention: Literal["causal", "bidirectional"] = "causal",
    attention_rate: float = 1.0,
) -> Imported:
    """The model that a HookedTransformer state dict belongs to, read off its shapes, and its parameters.

    Shapes say neither the non-linearity nor which positions attend to which and how: say so. LayerNorms with gain and
    shift are those of `normalization` pre; without any `mlp` the layers are attention alone. The buffers `attn.mask`
    and `attn.IGNORE` are dropped. Biases of a kind (attention, MLP, unembedding) are `frozen` where all of them are
    zero and `trainable` elsewhere; of a trajectory pass the last state, since trained biases may start at zero.

    Raises:
        ForeignFormatError: where keys are missing, unknown or of shapes that disagree.

    Example:
        >>> from interp.models.transformer import TransformerNetwork
        >>> config = Transformer(d_model=8, n_heads=2, d_head=4, d_mlp=16, mlp_biases="frozen")
        >>> model = TransformerNetwork(config, 6, 3, 5, torch.Generator().manual_seed(0))
        >>> imported = from_state_dict(model.state_dict())
        >>> imported[:4] == (config, 6, 3, 5)
        True
    """
    state = {name: x for name, x in state_dict.items() if not name.endswith((".attn.mask", ".attn.IGNORE"))}
    normed = any(re.search(r"(^|\.)ln(1|2|_final)\.", name) for name in state)
    has_mlps = any(".mlp." in name for name in state)

    d_vocab, d_model = _sizes(state, "embed.W_E", "d_vocab", "d_model")
    n_ctx, _ = _sizes(state, "pos_embed.W_pos", "n_ctx", "d_model")
    n_heads, _, d_head = _sizes(state, "blocks.0.attn.W_Q", "n_heads", "d_model", "d_head")
    _, d_mlp = _sizes(state, "blocks.0.mlp.W_in", "d_model", "d_mlp") if has_mlps else (d_model, 0)
    _, d_vocab_out = _sizes(state, "unembed.W_U", "d_model", "d_vocab_out")
    biases: dict[str, Literal["trainable", "frozen", "absent"]] = dict.fromkeys(_GROUPS, "absent")
    for name, x in state.items():
        if (group := _bias_group(name)) and biases[group] != "trainable":
            biases[group] = "trainable" if x.any() else "frozen"
    layers = {match[1] for name in state if (match := re.match(r"blocks\.(\d+)\.", name))}
    if skipped := layers - {str(layer) for layer in range(len(layers))}:
        raise ForeignFormatError(
            f"The layers must be numbered from 0 without a gap; got {min(skipped)[:20]} among {len(layers)} layers."
        )
    config = Transformer(
        n_layers=len(layers),
        d_model=d_model,
        n_heads=n_heads,
        d_head=d_head,
        **({"d_mlp": d_mlp} if has_mlps else {"attention_only": True}),
        activation=activation,
        normalization="pre" if normed else "none",
        attention=attention,
        attention_rate=attention_rate,
        attention_biases=biases["attention"],
        mlp_biases=biases["mlp"],
        unembed_biases=biases["unembed"],
    )

    sizes = _shapes(config.n_layers, d_model, n_heads, d_head, d_mlp, d_vocab, n_ctx, d_vocab_out, normed)
    shapes = {name: shape for name, shape in sizes.items() if biases.get(_bias_group(name) or "") != "absent"}
    for name, x in state.items():
        if name not in shapes:
            raise ForeignFormatError(f"`{name}` is no parameter of a HookedTransformer. {did_you_mean(name, shapes)}")
        if tuple(x.shape) != shapes[name]:
            raise ForeignFormatError(
                f"`{name}` must have shape {shapes[name]}, as the other parameters say; got {tuple(x.shape)}."
            )
    if missing := shapes.keys() - state.keys():
        raise ForeignFormatError(f"The state dict must hold every parameter; it lacks {', '.join(sorted(missing))}.")
    return Imported(config, d_vocab, n_ctx, d_vocab_out, {name: state[name] for name in shapes})


_BRIDGE_NAMES = {
    "embed.weight": "embed.W_E",
    "pos_embed.weight": "pos_embed.W_pos",
    "mlp.in.weight": "mlp.W_in",
    "mlp.in.bias": "mlp.b_in",
    "mlp.out.weight": "mlp.W_out",
    "mlp.out.bias": "mlp.b_out",
    "unembed.weight": "unembed.W_U",
    "unembed.bias": "unembed.b_U",
}
"""HookedTransformer's names for a bridge's, within a block or outside of them."""
_GROUPS = {"attention": ("b_Q", "b_K", "b_V", "b_O"), "mlp": ("b_in", "b_out"), "unembed": ("b_U",)}


def _bias_group(name: str) -> str | None:
    last = name.rpartition(".")[2]
    return next((group for group, names in _GROUPS.items() if last in names), None)


_SIZES = ("n_layers", "d_model", "n_heads", "d_head", "d_mlp", "d_vocab", "n_ctx", "d_vocab_out")


def _shapes(
    n_layers: int,
    d_model: int,
    n_heads: int,
    d_head: int,
    d_mlp: int,
    d_vocab: int,
    n_ctx: int,
    d_vocab_out: int,
    normed: bool,
) -> dict[str, tuple[int, ...]]:
    """Every parameter of a HookedTransformer, all biases included; `normed`: with LayerNorm; d_mlp 0: without MLP."""
    d, heads = d_model, n_heads
    norms = ("ln1", "ln2") if d_mlp else ("ln1",)
    mlp = {"mlp.W_in": (d, d_mlp), "mlp.b_in": (d_mlp,), "mlp.W_out": (d_mlp, d), "mlp.b_out": (d,)}
    block = {
        **{f"attn.W_{name}": (heads, d, d_head) for name in "QKV"},
        "attn.W_O": (heads, d_head, d),
        **{f"attn.b_{name}": (heads, d_head) for name in "QKV"},
        "attn.b_O": (d,),
        **(mlp if d_mlp else {}),
        **({f"{ln}.{name}": (d,) for ln in norms for name in "wb"} if normed else {}),
    }
    return {
        "embed.W_E": (d_vocab, d),
        "pos_embed.W_pos": (n_ctx, d),
        **{f"blocks.{layer}.{name}": shape for layer in range(n_layers) for name, shape in block.items()},
        **({f"ln_final.{name}": (d,) for name in "wb"} if normed else {}),
        "unembed.W_U": (d, d_vocab_out),
        "unembed.b_U": (d_vocab_out,),
    }


def _sizes(state: Mapping[str, Tensor], name: str, *axes: str) -> tuple[int, ...]:
    if name not in state:
        raise ForeignFormatError(f"A HookedTransformer state dict must hold `{name}`. {did_you_mean(name, state)}")
    if state[name].ndim != len(axes):
        raise ForeignFormatError(f"`{name}` must have axes ({', '.join(axes)}); got shape {tuple(state[name].shape)}.")
    return tuple(state[name].shape)


@contextlib.contextmanager
def _global_randomness_kept() -> Iterator[None]:
    """Undo what a body draws from the global generators: nn.Linear initialises itself before weights are loaded."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
