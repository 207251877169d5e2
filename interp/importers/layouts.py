"""Layouts of foreign weights: names, shapes, and the meaning of the configurations beside them.

A layout is recognised by names and shapes. With p numbers, heads i, and Python's order of axes:

    hooked-transformer   embed.W_E [token, d_model]   attn.W_Q [i, d_model, d_head]   attn.W_O [i, d_head, d_model]
    progress-measures    embed.W_E [d_model, token]   attn.W_Q [i, d_head, d_model]   attn.W_O [d_model, i d_head]
    pizza                as progress-measures, for two tokens without '=', every position attending to both
    simple-grokking      embedding.weight [p, d], fc1.weight [neuron, 2 d], readout.weight [p, neuron], with biases
    group-mlp            W_x [p, d], W_y [p, d], W [2 d, neuron], W_U [neuron, p]
    gpt-2                wte [token, d], wpe [pos, d], h.0.attn.c_attn [3 d, d] or [d, 3 d], LayerNorm before the parts
    decoder, recurrent, feed-forward    the state dicts of this package's other models
    basis-mlp            W_in [neuron, p], W_out [p, neuron], basis [p, p]
    linear-layers        any chain of matrices from two numbers to p classes (`interp.importers.chains`)

In order: TransformerLens and its Grokking demo; "Progress measures for grokking" (Nanda et al., 2023); "The Clock and
the Pizza" (Zhong et al., 2023); github.com/okitouni/simple-grokking; "A Toy Model of Universality" (Chughtai et al.,
2023).
The first two agree in names and differ in shapes: `attn.W_O`, with three or two axes, decides.

Two of these repositories write folders of files that are named by a number, after `optimizer.step()` under the index of
the update, from 0, so that file e has seen e + 1 updates: simple-grokking (<epoch>.pt, by train.py and log.py) and
github.com/bilal-chughtai/rep-theory-mech-interp, for group MLPs (epoch_<epoch>.pt, by
rep_theory/train_with_checkpoints.py). In all other files the number counts updates.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, get_args

import torch
from torch import Tensor

from interp.config import AdamW, Decoder, FeedForward, Modular, Recurrent, RunConfig
from interp.config.models import Activation
from interp.config.recipes import RECIPES
from interp.config.tasks import Operation
from interp.errors import ForeignFormatError
from interp.importers.chains import describe_chain, find_chain
from interp.importers.states import Cleaning, State, cleanings
from interp.models.lens import from_state_dict

__all__ = ["LAYOUTS", "Description", "Layout", "detect"]

MODELS = {"transformer": "hooked-transformer", "mlp": "feed-forward", "attention": "hooked-transformer"}
"""Layouts by the models of this package whose names they have, besides those of the models' own names."""
WAY_OUT = (
    "Say which entry is which parameter, `names` {'tok.weight': 'embed.W_E', 'head.weight': ['unembed.W_U', 'T'], ...} "
    "(--names map.json) with `format` transformer, mlp, decoder or recurrent (--as)."
)
"""Advice for a network that has the architecture of one of this package and names of its own."""
ANY = "linear-layers"
"""Layout that is recognised by shapes alone, and tried last."""
STRANGERS = {
    r"in_proj_weight|self_attn\.": "torch's nn.TransformerEncoder or nn.MultiheadAttention",
    r"\bq_proj\b|query_key_value": "a transformer of Hugging Face",
    r"weight_ih_l0": "torch's nn.LSTM, nn.GRU or nn.RNN",
    r"running_mean": "a network with BatchNorm",
}
"""Networks of others, by names of their parameters, that are no layout here."""


@dataclass(frozen=True)
class Description:
    """A run as described by its files."""

    config: RunConfig
    knows_operation: bool = False
    knows_split: bool = False
    """Whether the task's split is the run's split, not a guess."""
    unshuffled: bool = False
    """Whether the first pairs, in lexicographic order, are the training set."""
    assumed: tuple[str, ...] = ()
    """Facts that the files lack and that were taken from the recipe for this kind of run."""


@dataclass(frozen=True)
class Layout:
    """A foreign layout of weights: how to recognise it, translate it, and describe its run."""

    name: str
    meaning: str
    knows: Callable[[str], bool]
    """Whether a name is that of a parameter."""
    matches: Callable[[State], bool]
    translate: Callable[[State, Mapping[str, Any]], dict[str, Tensor]]
    """Translation of the parameters to the names and shapes of this package's models, with the configuration beside."""
    describe: Callable[[State, Mapping[str, Any]], Description]
    """Description of the run, from the translated weights of its last checkpoint and the configuration beside them."""
    tests_after_update: bool
    """Whether a test loss belongs to the weights after the update whose pass gives the train loss of equal number."""
    script: str = ""
    """Script that numbers the files of its folders by the update just made, from 0; empty if no script does."""


def detect(state: State, about: Mapping[str, Any], name: str | None = None) -> tuple[Layout, Cleaning]:
    """The layout of a state dict, and what has to be taken off it; `name` requires a certain layout.

    Raises:
        ForeignFormatError: the layout is unknown, or not the required layout.
    """
    name = MODELS.get(name or "", name)
    if name is not None and name not in LAYOUTS:
        raise ForeignFormatError(f"`format` must be one of {', '.join([*LAYOUTS, *MODELS])}; got {name!r}.")
    fits = [(depth, layout, cleaning) for layout in LAYOUTS.values() for depth, cleaning in _fits(state, layout)]
    fits = [fit for fit in fits if fit[1].name != ANY] or fits
    least = min((depth for depth, *_ in fits), default=0)
    found = {layout.name: (layout, cleaning) for depth, layout, cleaning in fits if depth == least}
    if "pizza" in found and len(found) > 1:  # equal names and shapes: the tokens and the configuration decide
        cleaned = found["pizza"][1](state)
        two_tokens = cleaned["pos_embed.W_pos"].shape[0] == 2 or "attn_coeff" in about
        found = {only: found[only] for only in ["pizza" if two_tokens else "progress-measures"]}
    elif name in found:
        found = {name: found[name]}
    first = next(iter(found), None)
    if first is not None and name in (None, first):
        return found[first]
    shapes = ", ".join(f"{key} {list(x.shape)}" for key, x in list(state.items())[:6])
    if name is not None:
        is_one = f"is of the format {first}" if first else "is of no known format"
        raise ForeignFormatError(f"The state dict is not of the format {name}, it {is_one}: {shapes}, ...")
    known = "; ".join(f"{layout.name} ({layout.meaning})" for layout in LAYOUTS.values())
    raise ForeignFormatError(
        f"The state dict is of no known format{_looks_like(state)}. It holds {shapes}, ... {WAY_OUT} Known: {known}."
    )


def _fits(state: State, layout: Layout) -> Iterator[tuple[int, Cleaning]]:
    """The least that has to be taken off a state dict for it to match a layout, and how often a prefix was."""
    for depth, (cleaning, rest) in enumerate(cleanings(state, layout.knows)):
        if layout.matches(rest):
            yield depth, cleaning
            return


def _looks_like(state: State) -> str:
    """The network that a state dict seems to be of, in words, where this package has none such."""
    names = " ".join(state)
    for words, said in STRANGERS.items():
        if re.search(words, names):
            return f" (it looks like {said})"
    return ""


# --- transformers -----------------------------------------------------------------------------------------------------


TRANSFORMER = re.compile(
    r"(embed\.W_E|pos_embed\.W_pos|unembed\.(W_U|b_U)|ln_final\.[wb]|blocks\.\d+\."
    r"(attn\.([Wb]_[QKVO]|mask|IGNORE)|mlp\.[Wb]_(in|out)|ln[12]\.[wb]))"
)
"""Names of the parameters and buffers of a HookedTransformer."""


def _is_transformer(state: State, axes_of_W_O: int) -> bool:
    W_O = state.get("blocks.0.attn.W_O")
    return W_O is not None and W_O.ndim == axes_of_W_O and "embed.W_E" in state


def _names_transformer(name: str) -> bool:
    return TRANSFORMER.fullmatch(name) is not None


def _same(state: State, about: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: x for name, x in state.items() if not name.endswith((".attn.mask", ".attn.IGNORE"))}


def _transposed(state: State, about: Mapping[str, Any]) -> dict[str, Tensor]:
    """Parameters with matrices that act from the left, W x, transposed to act from the right, x W."""
    out = {}
    for name, x in _same(state, about).items():
        match name.rpartition(".")[2]:
            case "W_E" | "W_in" | "W_out":
                out[name] = _axes(name, x, 2).T
            case "W_Q" | "W_K" | "W_V":
                out[name] = _axes(name, x, 3).transpose(1, 2)
            case "W_O":  # [d_model, head d_head] -> [head, d_head, d_model]
                values = name.replace("W_O", "W_V")
                if values not in state:
                    raise ForeignFormatError(f"A state dict with `{name}` must hold `{values}`, too.")
                heads = _axes(values, state[values], 3).shape[0]
                if _axes(name, x, 2).shape[1] % heads:
                    raise ForeignFormatError(
                        f"`{name}` must be [d_model, {heads} heads * d_head]; got shape {tuple(x.shape)}."
                    )
                out[name] = x.T.unflatten(0, (heads, -1))
            case _:
                out[name] = x
    return {name: x.contiguous() for name, x in out.items()}


def _hooked(state: State, about: Mapping[str, Any]) -> Description:
    for key, allowed in (
        ("normalization_type", ("LN", None) if "ln_final.w" in state else (None,)),
        ("positional_embedding_type", ("standard",)),
        ("use_attn_scale", (True,)),
        ("attn_only", (not any(".mlp." in name for name in state),)),
    ):
        if about.get(key, allowed[0]) not in allowed:
            raise ForeignFormatError(f"`{key}` of the configuration must be {allowed[0]}; got {about[key]!r}.")
    activation, assumed = _stated_activation(about)
    if "attention_dir" not in about:
        assumed = (*assumed, "causal attention")
    behind = "blocks.0.ln1.w" in state and "ln_final.w" not in state  # LayerNorm behind the parts
    d_model = state["embed.W_E"].shape[1:]
    ends = {"ln_final.w": state["embed.W_E"].new_ones(d_model), "ln_final.b": state["embed.W_E"].new_zeros(d_model)}
    imported = from_state_dict(
        {**state, **(ends if behind else {})},
        activation=activation,
        attention="bidirectional" if about.get("attention_dir") == "bidirectional" else "causal",
    )
    recipe, published = _recipe("tl-demo")
    task = _numbers(imported.d_vocab, imported.n_ctx, imported.d_vocab_out, published)
    model = replace(imported.config, init="tl")
    if behind:
        model = replace(model, normalization="post")
    return Description(_optimizer(replace(recipe, task=task, model=model), about), assumed=assumed)


def _progress_measures(state: State, about: Mapping[str, Any]) -> Description:
    recipe, published = _recipe("nanda")
    imported = from_state_dict(state, activation=_activation(about.get("act_type", "ReLU")))
    task = _numbers(imported.d_vocab, imported.n_ctx, imported.d_vocab_out, published)
    if _whole(about, "p", task.p) != task.p:
        raise ForeignFormatError(f"`p` of the configuration must agree with the weights, {task.p}; got {about['p']}.")
    operations: dict[str, Operation] = {"add": "add", "subtract": "subtract", "x2xyy2": "x2+xy+y2"}
    fn_name = about.get("fn_name", "add")
    if fn_name not in operations:
        raise ForeignFormatError(f"`fn_name` must be one of {', '.join(operations)}; got {fn_name!r}.")
    task = replace(
        task,
        operation=operations[fn_name],
        seed=_whole(about, "seed", task.seed),
        train_fraction=_real(about, "frac_train", task.train_fraction),
    )
    config = replace(recipe, task=task, model=replace(imported.config, init="nanda"), seed=task.seed)
    assumed = () if "seed" in about else ("the split of the mainline run",)
    return Description(
        _optimizer(config, about),
        knows_operation="fn_name" in about,
        knows_split="seed" in about and "frac_train" in about,
        assumed=assumed,
    )


def _pizza(state: State, about: Mapping[str, Any]) -> Description:
    if "attn_coeff" not in about:
        raise ForeignFormatError(
            "A clock-and-pizza model needs its configuration, which says how attention is mixed (`attn_coeff`): put "
            "config_<id>.json beside model_<id>.pt."
        )
    if about.get("diff_vocab"):
        raise ForeignFormatError(
            "`diff_vocab` of the configuration must be false: with separate tokens for the second number the model has "
            "two embeddings, and the transformer of this package has one."
        )
    imported = from_state_dict(
        state,
        activation=_activation(about.get("act_fn", "ReLU")),
        attention="bidirectional",
        attention_rate=_real(about, "attn_coeff", 1.0),
    )
    task = _numbers(imported.d_vocab, imported.n_ctx, imported.d_vocab_out, Modular(train_fraction=0.8))
    formula = str(about.get("funcs", f"(x[0]+x[1])%{task.p}")).replace(" ", "")
    match = re.search(r"\(x\[0\]([+*-])x\[1\]\)%(\d{1,9})$", formula)
    if not match or int(match[2]) != task.p:
        raise ForeignFormatError(f"`funcs` must be (x[0]+x[1])%{task.p}, or with - or * for +; got {formula}.")
    operations: dict[str, Operation] = {"+": "add", "-": "subtract", "*": "multiply"}
    task = replace(task, operation=operations[match[1]], train_fraction=_real(about, "frac", 0.8))
    config = RunConfig(
        task=task,
        model=replace(imported.config, init="nanda"),
        optimizer=AdamW(lr=1e-3, weight_decay=2.0, betas=(0.9, 0.98), warmup_steps=10),
    )
    return Description(_optimizer(config, about), knows_operation="funcs" in about)


def _numbers(d_vocab: int, n_ctx: int, d_vocab_out: int, task: Modular) -> Modular:
    """The task with the modulus of these sizes: operands, an '=' unless there are two positions, an operation's sign.

    Of four positions, p + 2 tokens are those of a o b =, and p + 1 tokens those of a b c =. Where all tokens are
    classes, too, the prime one of both moduli decides.
    """
    extra = d_vocab - d_vocab_out
    if n_ctx == 4 and extra == 0:
        extra = next((n for n in (2, 1) if _is_prime(d_vocab - n)), 1)
    if n_ctx == 4 and extra == 2:
        p, sizes = d_vocab - 2, {"encoding": "operation"}
    elif n_ctx == 2:
        p, sizes = d_vocab, {"encoding": "operands"}
    else:
        p, sizes = d_vocab - 1, {"encoding": "direct"}
    if not 2 <= n_ctx <= MOST_POSITIONS or d_vocab_out not in (p, d_vocab) or p < 3:
        raise ForeignFormatError(
            "A transformer on a b = must have 3 positions, p + 1 tokens and p or p + 1 classes, a transformer on a b 2 "
            "positions, p tokens and p classes, on a o b = 4 positions and p + 2 tokens, on k operands and = k + 1 "
            f"positions and p + 1 tokens; got {n_ctx} positions, {d_vocab} tokens and {d_vocab_out} classes."
        )
    arity = n_ctx - 1 if sizes["encoding"] == "direct" else 2
    outputs = "numbers" if d_vocab_out == p else "tokens"
    return task.replace({"p": p, "arity": arity, "outputs": outputs, **sizes})


def _is_prime(n: int) -> bool:
    return n >= 2 and all(n % divisor for divisor in range(2, math.isqrt(n) + 1))


MOST_POSITIONS = 6
"""Largest number of positions, '=' included."""
ACTIVATION_KEYS = ("act_fn", "activation", "act", "act_type", "nonlinearity", "activation_function", "activation_fn")
"""Names of the activation in configurations."""
ACTIVATIONS = {
    **{name: name for name in get_args(Activation)},
    **dict.fromkeys(("gelu_fast", "gelu_pytorch_tanh", "gelu_tanh", "newgelu", "newgeluactivation"), "gelu_new"),
    **dict.fromkeys(("quadratic", "quad", "x^2", "x2", "squared"), "square"),
    **dict.fromkeys(("swish",), "silu"),
    **dict.fromkeys(("linear", "none"), "identity"),
}
"""Activations of this package, by the names of configurations."""


def _stated_activation(about: Mapping[str, Any], default: str = "relu") -> tuple[Any, tuple[str, ...]]:
    """The activation of a configuration, whatever it is called, else the default, which is then assumed."""
    stated = [about[key] for key in ACTIVATION_KEYS if isinstance(about.get(key), str)]
    return (_activation(stated[0]), ()) if stated else (default, (f"activation {default}",))


def _activation(name: object) -> Any:
    found = ACTIVATIONS.get(str(name).lower().removeprefix("nn.").removesuffix("()"))
    if found is None:
        raise ForeignFormatError(
            f"The activation of the configuration must be relu or gelu, or another of "
            f"{', '.join(sorted({*ACTIVATIONS.values()} - {'relu', 'gelu'}))}; got {name!r}."
        )
    return found


# --- feed-forward networks --------------------------------------------------------------------------------------------


SIMPLE = frozenset({"embedding.weight", "fc1.weight", "fc1.bias", "readout.weight", "readout.bias"})
GROUP = frozenset({"W_x", "W_y", "W", "W_U"})


def _from_linear(state: State, about: Mapping[str, Any]) -> dict[str, Tensor]:
    """Parameters of nn.Linear, which acts from the left, transposed to act from the right."""
    return {
        "embed.W_E": state["embedding.weight"],
        "blocks.0.mlp.W_in": _axes("fc1.weight", state["fc1.weight"], 2).T.contiguous(),
        "blocks.0.mlp.b_in": state["fc1.bias"],
        "unembed.W_U": _axes("readout.weight", state["readout.weight"], 2).T.contiguous(),
        "unembed.b_U": state["readout.bias"],
    }


def _simple_grokking(state: State, about: Mapping[str, Any]) -> Description:
    recipe, published = _recipe("simple-grokking")
    p, d_model = _axes("embedding.weight", state["embed.W_E"], 2).shape
    d_hidden = _hidden(state, p, d_model)
    model = FeedForward(d_model=d_model, d_hidden=(d_hidden,), init="torch", init_stream="split")
    config = replace(recipe, task=replace(published, p=p), model=model)
    assumed = ("seed 2 and 60 % of the pairs", "weight decay 0.03: the script has 5 without --grok")
    return Description(config, assumed=assumed)


def _from_group(state: State, about: Mapping[str, Any]) -> dict[str, Tensor]:
    names = {"W_x": "embed.W_E", "W_y": "embed_b.W_E", "W": "blocks.0.mlp.W_in", "W_U": "unembed.W_U"}
    return {ours: _axes(theirs, state[theirs], 2) for theirs, ours in names.items()}


def _group_mlp(state: State, about: Mapping[str, Any]) -> Description:
    p, d_model = state["embed.W_E"].shape
    group = about.get("group", "CyclicGroup")
    if group != "CyclicGroup":
        raise ForeignFormatError(
            f"`group` of the configuration must be CyclicGroup, addition mod p; got {group!r}, whose elements have "
            "another order in the script."
        )
    seed = _whole(about, "seed", 0)
    task = Modular(
        p=p,
        encoding="operands",
        split="torch-randperm",
        seed=seed,
        train_fraction=_real(about, "frac_train", 0.3),
    )
    model = FeedForward(
        embedding="separate",
        d_model=d_model,
        d_hidden=(_hidden(state, p, d_model),),
        biases="absent",
        init="fan-in",
    )
    config = RunConfig(
        task=task,
        model=model,
        optimizer=AdamW(lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98)),
        seed=seed,
    )
    known = "seed" in about and "frac_train" in about
    return Description(
        _optimizer(config, about),
        knows_operation="group" in about,
        knows_split=known,
        unshuffled=known and seed == 0,  # the script takes seed 0 for no seed
        assumed=() if "group" in about else ("the cyclic group",),
    )


# --- any feed-forward network, and this package's own ----------------------------------------------------------------


OWN = re.compile(r"(embed|embed_b)\.W_E|unembed\.(W_U|b_U)|blocks\.\d+\.mlp\.[Wb]_in")
"""Names of the parameters of a `FeedForward` model."""


def _is_own_mlp(state: State) -> bool:
    return "unembed.W_U" in state and "embed.W_E" in state and all(OWN.fullmatch(name) for name in state)


def _from_chain(state: State, about: Mapping[str, Any]) -> dict[str, Tensor]:
    chain = find_chain(state)
    if chain is None:
        raise ForeignFormatError("The matrices must be a chain, as those of the last checkpoint are.")
    return chain.translate(state)


def _from_basis(state: State, about: Mapping[str, Any]) -> dict[str, Tensor]:
    """The first layer times the basis in which it reads the operands: rows of it are what a number adds to neurons."""
    basis, W_in, W_out = (_axes(name, state[name], 2) for name in ("basis", "W_in", "W_out"))
    p = basis.shape[0]
    if W_in.shape[1] != basis.shape[1] or W_out.shape != (p, W_in.shape[0]):
        raise ForeignFormatError(
            f"`W_in` must be [neurons, {basis.shape[1]}] and `W_out` [{p}, neurons], as `basis` says; got "
            f"{tuple(W_in.shape)} and {tuple(W_out.shape)}."
        )
    table = basis.to(W_in.dtype) @ W_in.T
    return {
        "embed.W_E": table.contiguous(),
        "blocks.0.mlp.b_in": table.new_zeros(table.shape[1]),
        "unembed.W_U": W_out.T.contiguous(),
        "unembed.b_U": table.new_zeros(p),
    }


def _feed_forward(state: State, about: Mapping[str, Any]) -> Description:
    p = _axes("unembed.W_U", state["unembed.W_U"], 2).shape[1]
    activation, assumed = _stated_activation(about)
    model = replace(describe_chain(state, p), activation=activation)
    fraction = _recipe("simple-grokking")[1].train_fraction
    task = Modular(p=p, encoding="operands", train_fraction=fraction)
    if model.combine == "product":
        assumed = ("embeddings are multiplied",)
    elif model.combine == "sum":
        assumed = (*assumed, "operands are added before the first layer")
    return Description(_optimizer(RunConfig(task=task, model=model), about), assumed=assumed)


def _is_decoder(state: State) -> bool:
    return _is_transformer(state, 3) and "blocks.0.ln1.w" in state and "pos_embed.W_pos" not in state


def _decoder(state: State, about: Mapping[str, Any]) -> Description:
    d_vocab, d_model = _axes("embed.W_E", state["embed.W_E"], 2).shape
    d_vocab_out = _axes("unembed.W_U", state["unembed.W_U"], 2).shape[1]
    activation, assumed = _stated_activation(about)
    model = Decoder(
        n_layers=len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
        d_model=d_model,
        n_heads=_axes("blocks.0.attn.W_Q", state["blocks.0.attn.W_Q"], 3).shape[0],
        d_mlp=_axes("blocks.0.mlp.W_in", state["blocks.0.mlp.W_in"], 2).shape[1],
        activation=activation,
    )
    task = _numbers(d_vocab, 2 if d_vocab_out == d_vocab else 3, d_vocab_out, Modular())
    return Description(_optimizer(RunConfig(task=task, model=model), about), assumed=assumed)


RECURRENT = re.compile(r"embed\.W_E|unembed\.(W_U|b_U)|blocks\.\d+\.rnn\.(W_ih|W_hh|b_ih|b_hh)")
"""Names of the parameters of a `Recurrent` model."""


def _recurrent(state: State, about: Mapping[str, Any]) -> Description:
    W_ih, W_hh = (_axes(name, state[f"blocks.0.rnn.{name}"], 2) for name in ("W_ih", "W_hh"))
    d_vocab = state["embed.W_E"].shape[0]
    d_vocab_out = _axes("unembed.W_U", state["unembed.W_U"], 2).shape[1]
    model = Recurrent(
        cell="lstm" if W_hh.shape[1] == 4 * W_hh.shape[0] else "rnn",
        d_model=W_ih.shape[0],
        d_hidden=W_hh.shape[0],
        n_layers=len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
    )
    task = _numbers(d_vocab, 2 if d_vocab_out == d_vocab else 3, d_vocab_out, Modular())
    return Description(_optimizer(RunConfig(task=task, model=model), about))


# --- GPT-2 ------------------------------------------------------------------------------------------------------------


GPT2 = re.compile(
    r"(transformer\.)?(wte|wpe|ln_f|h\.\d+\.(ln_[12]|attn\.(c_attn|c_proj|bias|masked_bias)|mlp\.(c_fc|c_proj)))"
    r"(\.(weight|bias))?|lm_head\.weight"
)
"""Names of the parameters of nanoGPT and of Hugging Face's GPT2LMHeadModel."""


def _is_gpt2(state: State) -> bool:
    return all(f"transformer.{name}" in state for name in ("wte.weight", "wpe.weight", "h.0.attn.c_attn.weight"))


def _from_gpt2(state: State, about: Mapping[str, Any]) -> dict[str, Tensor]:
    # --- any feed-forward network, and this package's own -------------------------------------------------------------
    heads = _whole(about, "n_head", 0) or _whole(about, "n_heads", 0)
    W_E = _axes("transformer.wte.weight", state["transformer.wte.weight"], 2)
    d = W_E.shape[1]
    if heads < 1 or d % heads:
        raise ForeignFormatError(
            f"The configuration must say the number of heads (`n_head`), a divisor of {d}; got {heads or 'none'}."
        )
    body = {name.removeprefix("transformer."): x for name, x in state.items() if name.startswith("transformer.")}
    layers = {int(name.split(".")[1][:6]) for name in body if name.startswith("h.")}
    out = {"embed.W_E": W_E, "pos_embed.W_pos": body["wpe.weight"]}

    def norm(theirs: str, ours: str) -> None:
        if f"{theirs}.weight" not in body:
            raise ForeignFormatError(f"A GPT-2 must hold `{theirs}.weight`; this one lacks it.")
        out[f"{ours}.w"] = weight = body[f"{theirs}.weight"]
        out[f"{ours}.b"] = body.get(f"{theirs}.bias", torch.zeros_like(weight))

    def linear(name: str, d_in: int) -> tuple[Tensor, Tensor | None]:
        if f"{name}.weight" not in body:
            raise ForeignFormatError(f"A GPT-2 must hold `{name}.weight`; this one lacks it.")
        x = _axes(name, body[f"{name}.weight"], 2)
        square = x.shape[0] == x.shape[1]
        turned = (x.shape[1] == d_in and not square) or (square and left)
        return (x.T if turned else x), body.get(f"{name}.bias")

    left = _axes("c_attn", body["h.0.attn.c_attn.weight"], 2).shape[0] == 3 * d
    for i in sorted(layers):
        at, to = f"h.{i}.", f"blocks.{i}."
        norm(f"{at}ln_1", f"{to}ln1")
        norm(f"{at}ln_2", f"{to}ln2")
        W, b = linear(f"{at}attn.c_attn", d)
        for part, (name, x) in enumerate(zip("QKV", W.split(d, dim=1))):
            out[f"{to}attn.W_{name}"] = x.unflatten(1, (heads, d // heads)).transpose(0, 1)
            if b is not None:
                out[f"{to}attn.b_{name}"] = b[part * d : (part + 1) * d].unflatten(0, (heads, d // heads))
        W, b = linear(f"{at}attn.c_proj", d)
        out[f"{to}attn.W_O"] = W.unflatten(0, (heads, d // heads))
        if b is not None:
            out[f"{to}attn.b_O"] = b
        for theirs, ours, width in (("c_fc", "in", d), ("c_proj", "out", 4 * d)):
            W, b = linear(f"{at}mlp.{theirs}", out[f"{to}mlp.W_in"].shape[1] if ours == "out" else width)
            out[f"{to}mlp.W_{ours}"] = W
            if b is not None:
                out[f"{to}mlp.b_{ours}"] = b
    norm("ln_f", "ln_final")
    out["unembed.W_U"] = state.get("lm_head.weight", W_E).T
    return {name: x.contiguous() for name, x in out.items()}


def _gpt2(state: State, about: Mapping[str, Any]) -> Description:
    described = _hooked(state, {"act_fn": "gelu", "attention_dir": "causal", **about})
    tied = torch.equal(state["unembed.W_U"].T, state["embed.W_E"])
    stated = _stated_activation(about, "gelu")[1]
    return replace(
        described, assumed=(*stated, *(("the unembedding is the embedding in every checkpoint",) if tied else ()))
    )


# --- common parts -----------------------------------------------------------------------------------------------------


def _recipe(name: str) -> tuple[RunConfig, Modular]:
    """A recipe of the literature and its task."""
    config = RECIPES[name].config
    assert isinstance(config.task, Modular)
    return config, config.task


def _optimizer(config: RunConfig, about: Mapping[str, Any]) -> RunConfig:
    """The run with the hyper-parameters of the optimiser in a foreign configuration."""
    given = {key: about[key] for key in ("lr", "weight_decay", "betas") if key in about}
    return config.replace({f"optimizer.{key}": value for key, value in given.items()})


def _hidden(state: State, p: int, d_model: int) -> int:
    """Hidden neurons of a network on two concatenated embeddings, of whose sizes a model can be built."""
    W_in, W_U = state["blocks.0.mlp.W_in"], state["unembed.W_U"]
    d_hidden = W_in.shape[1]
    if W_in.shape[0] != 2 * d_model or W_U.shape != (d_hidden, p):
        raise ForeignFormatError(
            f"The hidden layer must have shape {(2 * d_model, 'neurons')} and the last {('neurons', p)}, as the "
            f"embedding says; got {tuple(W_in.shape)} and {tuple(W_U.shape)}."
        )
    return d_hidden


def _whole(about: Mapping[str, Any], key: str, default: int) -> int:
    """A whole number of the configuration."""
    value = _real(about, key, default)
    if not value.is_integer():
        raise ForeignFormatError(f"`{key}` of the configuration must be a whole number; got {value}.")
    return int(about.get(key, default))


def _real(about: Mapping[str, Any], key: str, default: float) -> float:
    """A number of the configuration."""
    try:
        return float(about.get(key, default))
    except (TypeError, ValueError, OverflowError):
        raise ForeignFormatError(f"`{key}` of the configuration must be a number; got {about[key]!r}.") from None


def _axes(name: str, x: Tensor, n: int) -> Tensor:
    if x.ndim != n:
        raise ForeignFormatError(f"`{name}` must have {n} axes; got shape {tuple(x.shape)}.")
    return x


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        layout.name: layout
        for layout in (
            Layout(
                "hooked-transformer",
                "TransformerLens's state dicts, alone or in the Grokking demo's file",
                _names_transformer,
                lambda state: _is_transformer(state, 3) and not _is_decoder(state),
                _same,
                _hooked,
                tests_after_update=True,
            ),
            Layout(
                "progress-measures",
                "the dumps of Nanda et al., with blocks.0.attn.W_O [d_model, heads * d_head]",
                _names_transformer,
                lambda state: _is_transformer(state, 2),
                _transposed,
                _progress_measures,
                tests_after_update=False,
            ),
            Layout(
                "pizza",
                "Zhong et al.'s model_<id>.pt, with config_<id>.json beside it",
                _names_transformer,
                lambda state: _is_transformer(state, 2),
                _transposed,
                _pizza,
                tests_after_update=False,
            ),
            Layout(
                "simple-grokking",
                "Kitouni's folders of <epoch>.pt, with embedding.weight, fc1 and readout",
                SIMPLE.__contains__,
                lambda state: set(state) == SIMPLE,
                _from_linear,
                _simple_grokking,
                tests_after_update=True,
                script="okitouni/simple-grokking's train.py",
            ),
            Layout(
                "group-mlp",
                "Chughtai et al.'s networks with W_x, W_y, W and W_U",
                GROUP.__contains__,
                lambda state: set(state) == GROUP,
                _from_group,
                _group_mlp,
                tests_after_update=False,
                script="bilal-chughtai/rep-theory-mech-interp's train_with_checkpoints.py",
            ),
            Layout(
                "gpt-2",
                "nanoGPT's ckpt.pt and Hugging Face's GPT2LMHeadModel, with the number of heads in a configuration",
                lambda name: GPT2.fullmatch(name) is not None,
                _is_gpt2,
                _from_gpt2,
                _gpt2,
                tests_after_update=True,
            ),
            Layout(
                "decoder",
                "state dicts of this package's Decoder",
                _names_transformer,
                _is_decoder,
                lambda state, about: dict(state),
                _decoder,
                tests_after_update=True,
            ),
            Layout(
                "recurrent",
                "state dicts of this package's Recurrent models",
                lambda name: RECURRENT.fullmatch(name) is not None,
                lambda state: (
                    {"embed.W_E", "blocks.0.rnn.W_ih", "blocks.0.rnn.W_hh", "unembed.W_U"} <= set(state)
                    and all(RECURRENT.fullmatch(name) for name in state)
                ),
                lambda state, about: dict(state),
                _recurrent,
                tests_after_update=True,
            ),
            Layout(
                "feed-forward",
                "state dicts of this package's FeedForward models",
                lambda name: OWN.fullmatch(name) is not None,
                _is_own_mlp,
                lambda state, about: dict(state),
                _feed_forward,
                tests_after_update=True,
            ),
            Layout(
                "basis-mlp",
                "W_in, W_out and a fixed basis in which the first layer reads the operands",
                {"W_in", "W_out", "basis"}.__contains__,
                lambda state: set(state) == {"W_in", "W_out", "basis"},
                _from_basis,
                _feed_forward,
                tests_after_update=True,
            ),
            Layout(
                "linear-layers",
                "any chain of an embedding (or none, for one-hot operands) and linear layers, such as nn.Sequential's",
                lambda name: True,
                lambda state: find_chain(state) is not None,
                _from_chain,
                _feed_forward,
                tests_after_update=True,
            ),
        )
    }
)
