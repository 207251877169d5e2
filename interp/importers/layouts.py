"""Layouts of foreign weights: names, shapes, and the meaning of the configurations beside them.

A layout is recognised by names and shapes. With p numbers, heads i, and Python's order of axes:

    hooked-transformer   embed.W_E [token, d_model]   attn.W_Q [i, d_model, d_head]   attn.W_O [i, d_head, d_model]
    progress-measures    embed.W_E [d_model, token]   attn.W_Q [i, d_head, d_model]   attn.W_O [d_model, i d_head]
    pizza                as progress-measures, for two tokens without '=', every position attending to both
    simple-grokking      embedding.weight [p, d], fc1.weight [neuron, 2 d], readout.weight [p, neuron], with biases
    group-mlp            W_x [p, d], W_y [p, d], W [2 d, neuron], W_U [neuron, p]

In order: TransformerLens and its Grokking demo; "Progress measures for grokking" (Nanda et al., 2023); "The Clock and
the Pizza" (Zhong et al., 2023); github.com/okitouni/simple-grokking; "A Toy Model of Universality" (Chughtai et al.,
2023).
The first two agree in names and differ in shapes: `attn.W_O`, with three or two axes, decides.

Two of these repositories write folders of files that are named by a number, after `optimizer.step()` under the index of
the update, from 0, so that file e has seen e + 1 updates: simple-grokking (<epoch>.pt, by train.py and log.py) and
github.com/bilal-chughtai/rep-theory-mech-interp, for group MLPs (epoch_<epoch>.pt, by
rep_theory/train_with_checkpoints.py). In all other files the number counts updates.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, get_args

from torch import Tensor

from interp.config import AdamW, FeedForward, Modular, RunConfig
from interp.config.models import Activation
from interp.config.recipes import RECIPES
from interp.config.tasks import Operation
from interp.errors import ForeignFormatError
from interp.importers.states import Cleaning, State, cleanings
from interp.models.lens import from_state_dict

__all__ = ["LAYOUTS", "Description", "Layout", "detect"]

STRANGERS = {
    r"\bwte\b.*\bc_attn\b|\bc_attn\b": "GPT-2 as nanoGPT and Hugging Face write it, with LayerNorm",
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
    translate: Callable[[State], dict[str, Tensor]]
    """Translation of the parameters to the names and shapes of this package's models."""
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
    if name is not None and name not in LAYOUTS:
        raise ForeignFormatError(f"`format` must be one of {', '.join(LAYOUTS)}; got {name!r}.")
    fits = [(depth, layout, cleaning) for layout in LAYOUTS.values() for depth, cleaning in _fits(state, layout)]
    least = min((depth for depth, *_ in fits), default=0)
    found = {layout.name: (layout, cleaning) for depth, layout, cleaning in fits if depth == least}
    if len(found) > 1:  # equal names and shapes: the number of tokens and the configuration decide
        cleaned = found["pizza"][1](state)
        two_tokens = cleaned["pos_embed.W_pos"].shape[0] == 2 or "attn_coeff" in about
        found = {only: found[only] for only in ["pizza" if two_tokens else "progress-measures"]}
    first = next(iter(found), None)
    if first is not None and name in (None, first):
        return found[first]
    shapes = ", ".join(f"{key} {list(x.shape)}" for key, x in list(state.items())[:6])
    if name is not None:
        is_one = f"is of the format {first}" if first else "is of no known format"
        raise ForeignFormatError(f"The state dict is not of the format {name}, it {is_one}: {shapes}, ...")
    known = "; ".join(f"{layout.name} ({layout.meaning})" for layout in LAYOUTS.values())
    raise ForeignFormatError(
        f"The state dict is of no known format{_looks_like(state)}. It holds {shapes}, ... Known: {known}."
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


def _same(state: State) -> dict[str, Tensor]:
    return {name: x for name, x in state.items() if not name.endswith((".attn.mask", ".attn.IGNORE"))}


def _transposed(state: State) -> dict[str, Tensor]:
    """Parameters with matrices that act from the left, W x, transposed to act from the right, x W."""
    out = {}
    for name, x in _same(state).items():
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
    unsaid = {"act_fn": "activation relu", "attention_dir": "causal attention"}
    assumed = [text for key, text in unsaid.items() if key not in about]
    imported = from_state_dict(
        state,
        activation=_activation(about.get("act_fn", "relu")),
        attention="bidirectional" if about.get("attention_dir") == "bidirectional" else "causal",
    )
    recipe, published = _recipe("tl-demo")
    task = _numbers(imported.d_vocab, imported.n_ctx, imported.d_vocab_out, published)
    config = replace(recipe, task=task, model=replace(imported.config, init="tl"))
    return Description(_optimizer(config, about), assumed=tuple(assumed))


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
    """The task with the modulus of these sizes: with three positions the last token is '='."""
    p = d_vocab - (n_ctx == 3)
    if n_ctx not in (2, 3) or d_vocab_out not in (p, d_vocab) or p < 3:
        raise ForeignFormatError(
            "A transformer on a b = must have 3 positions, p + 1 tokens and p or p + 1 classes, a transformer on a b 2 "
            f"positions, p tokens and p classes; got {n_ctx} positions, {d_vocab} tokens and {d_vocab_out} classes."
        )
    return replace(
        task,
        p=p,
        encoding="direct" if n_ctx == 3 else "operands",
        outputs="numbers" if d_vocab_out == p else "tokens",
    )


ACTIVATIONS = {
    **{name: name for name in get_args(Activation)},
    **dict.fromkeys(("gelu_fast", "gelu_pytorch_tanh", "gelu_tanh", "newgelu", "newgeluactivation"), "gelu_new"),
    **dict.fromkeys(("quadratic", "quad", "x^2", "x2", "squared"), "square"),
    **dict.fromkeys(("swish",), "silu"),
    **dict.fromkeys(("linear", "none"), "identity"),
}
"""Activations of this package, by the names of configurations."""


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


def _from_linear(state: State) -> dict[str, Tensor]:
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


def _from_group(state: State) -> dict[str, Tensor]:
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
                lambda state: _is_transformer(state, 3),
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
        )
    }
)
