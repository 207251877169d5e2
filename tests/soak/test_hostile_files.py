"""Files that attack the importer: each ends in an import or in a typed error of one line that names it, at little cost.

They are imported in a process beside this one (`Importer`), so that a signal is seen and memory is measured.
"""

import itertools
import json
import math
import os
import random
import struct
import warnings
import zipfile

import numpy as np
import pytest
import torch

from interp.importers import import_checkpoints
from interp.importers.unpickling import load_plain
from tests.soak.importing import Importer
from tests.soak.pickles import (
    array,
    call,
    dictionary,
    dtype,
    encoded,
    mutated,
    name,
    number,
    tensor,
    text,
    tuple_of,
    write,
)
from tests.soak.scale import scaled, seed

SECONDS, MEMORY = 1.0, 200e6
"""Bounds on the processor's time for each megabyte begun, and on the memory of an import beyond its file's size."""
P, D, HEADS, D_HEAD, D_MLP = 5, 4, 2, 2, 6


@pytest.fixture(scope="module")
def importer(tmp_path_factory):
    importer = Importer(tmp_path_factory.mktemp("importer"))
    path = tmp_path_factory.mktemp("good") / "good.pt"
    torch.save(hooked(0), path)
    assert importer(path)[0]["kind"] == "imported"  # the first import of a process takes longer
    yield importer
    importer.close()


def attacked(importer, path, *, size=None):
    """How the import of a path ends, within bounds."""
    return judged(importer, path, *importer(path), size=size)


def judged(importer, path, end, *, size=None):
    """The end of the import of a path, whose cost is within bounds; an error is one printable line with its name."""
    size = size or sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
    for _ in range(2):  # other processes may have had the caches
        if end["seconds"] > SECONDS:
            (end,) = importer(path)
    assert end["kind"] in ("imported", "typed"), (str(path), end)
    assert end["seconds"] < SECONDS * max(1, size / 2**20), (str(path), end)
    assert end["bytes"] < size + MEMORY, (str(path), end)
    if end["kind"] == "typed":
        assert end["said"].isprintable(), (str(path), end)
        assert path.name.isprintable() <= (path.name in end["said"]), (str(path), end)
    assert "no importer expects" not in end["said"], (str(path), end)
    return end


def refused(importer, path, said, **options):
    end = attacked(importer, path, **options)
    assert end["kind"] == "typed", end
    assert said in end["said"], end


# --- files to start from ----------------------------------------------------------------------------------------------


def hooked(index, **shapes):
    """A state dict of TransformerLens's names."""
    block = {
        **{f"attn.W_{part}": (HEADS, D, D_HEAD) for part in "QKV"},
        "attn.W_O": (HEADS, D_HEAD, D),
        "mlp.W_in": (D, D_MLP),
        "mlp.b_in": (D_MLP,),
        "mlp.W_out": (D_MLP, D),
        "mlp.b_out": (D,),
    }
    sizes = {"embed.W_E": (P + 1, D), "pos_embed.W_pos": (3, D), "unembed.W_U": (D, P)}
    sizes |= {f"blocks.0.{part}": shape for part, shape in block.items()} | shapes
    draws = torch.Generator().manual_seed(index)
    return {part: torch.randn(shape, generator=draws) for part, shape in sizes.items()}


def left_handed(index):
    """A state dict of Nanda et al.'s names."""
    state = hooked(index)
    for part, x in state.items():
        if part.endswith(("W_E", "W_in", "W_out")):
            state[part] = x.T.contiguous()
        if part.endswith(("W_Q", "W_K", "W_V")):
            state[part] = x.transpose(1, 2).contiguous()
    state["blocks.0.attn.W_O"] = state["blocks.0.attn.W_O"].flatten(0, 1).T.contiguous()
    return state


class OneLayerMLP(torch.nn.Module):
    """rep-theory's network, which is pickled whole."""

    def __init__(self):
        super().__init__()
        self.W_x, self.W_y = torch.nn.Parameter(torch.randn(P, D)), torch.nn.Parameter(torch.randn(P, D))
        self.W, self.W_U = torch.nn.Parameter(torch.randn(2 * D, D_MLP)), torch.nn.Parameter(torch.randn(D_MLP, P))


def simple():
    sizes = {"embedding.weight": (P, D), "fc1.weight": (D_MLP, 2 * D), "fc1.bias": (D_MLP,)}
    sizes |= {"readout.weight": (P, D_MLP), "readout.bias": (P,)}
    return {part: torch.ones(shape) for part, shape in sizes.items()}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The content of a file like the Grokking demo's, which is imported with its losses proven."""
    folder = tmp_path_factory.mktemp("demo")
    order = torch.randperm(P * P, generator=torch.Generator().manual_seed(598))
    contents = {
        "model": hooked(1),
        "config": {"act_fn": "relu", "lr": 1e-3, "dtype": torch.float32, "seed": 999},
        "checkpoints": [hooked(0), hooked(1)],
        "checkpoint_epochs": [0, 1],
        "train_indices": order[:7],
        "test_indices": order[7:],
    }
    torch.save(contents, folder / "demo.pth")
    metrics = import_checkpoints(folder / "demo.pth", root=folder, assume={"steps": "updates"}).metrics
    losses = {f"{side}_losses": metrics[f"{side}_loss"].values.tolist() for side in ("train", "test")}
    torch.save(contents | losses, folder / "whole.pth")
    assert import_checkpoints(folder / "whole.pth", root=folder).run["import"]["proof"]["compared"] == 4
    return contents | losses


def full_run(losses):
    """The content of a file like full_run_data.pth, with numpy's numbers and arrays and a parameter."""
    return {
        "state_dicts": [{key: torch.nn.Parameter(x) for key, x in left_handed(i).items()} for i in range(2)],
        "epochs": np.arange(2),
        "train_losses": np.array(losses["train_losses"]),
        "test_losses": [np.float64(x) for x in losses["test_losses"]],
        "config": {"p": P, "fn_name": "add", "frac_train": 0.3, "seed": 0, "lr": 1e-3, "weight_decay": 1.0},
    }


def test_the_files_to_start_from_are_imported(importer, demo, tmp_path):
    """Otherwise the attacks would all end at the door."""
    wholes = {"demo.pth": demo, "list.pt": [hooked(0), hooked(1)], "simple.pt": simple(), "module.pt": OneLayerMLP()}
    for file, contents in wholes.items():
        torch.save(contents, tmp_path / file)
        assert attacked(importer, tmp_path / file)["kind"] == "imported", file
    torch.save(demo, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert attacked(importer, tmp_path / "old.pt")["kind"] == "imported"
    (tmp_path / "link.pt").symlink_to("list.pt")
    assert attacked(importer, tmp_path / "link.pt")["kind"] == "imported"


@pytest.mark.parametrize("old", [False, True])
def test_what_is_read_is_what_torch_reads(old, demo, tmp_path):
    contents = demo | {
        "views": [torch.arange(12.0).view(3, 4).T, torch.arange(9)[2:5], torch.zeros(3, 0), torch.tensor(2.5)],
        "kinds": [torch.ones(3, dtype=kind) for kind in (torch.bfloat16, torch.float16, torch.float64, torch.bool)],
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "empty": [(), [], {}, None, True, -(2**40), "ä\udc00", 2.5],
    }
    torch.save(contents, tmp_path / "all.pt", _use_new_zipfile_serialization=not old)
    ours = load_plain(tmp_path / "all.pt")
    theirs = torch.load(tmp_path / "all.pt", weights_only=True)

    def equal(a, b):
        if isinstance(b, torch.Tensor):
            return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        if isinstance(b, list | tuple):
            return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
        if isinstance(b, dict):
            return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in b)
        return a == (str(b) if isinstance(b, torch.dtype) else b)

    assert equal(ours, theirs)


@pytest.mark.parametrize("kind", ["<f8", ">f4", "<i2", ">u8", "|b1", "|i1", "<f2"])
def test_arrays_of_numpy(kind, tmp_path):
    x = np.arange(6).reshape(2, 3).astype(kind)
    with_arrays = {"c": x, "f": np.asfortranarray(x), "number": x[1, 1], "none": x[:0]}
    torch.save(with_arrays, tmp_path / "arrays.pt")
    found = load_plain(tmp_path / "arrays.pt")
    for key, expected in with_arrays.items():
        np.testing.assert_array_equal(found[key], expected, strict=False)
        assert found[key].dtype == expected.dtype.newbyteorder("=")
        assert found[key].shape == expected.shape


# --- memory that is not the file's ------------------------------------------------------------------------------------


def pointers():
    """A float64 dtype with an object sub-array, and bytes of the file as the pointers of an array of it."""
    sub = tuple_of(dtype("O8"), tuple_of(number(1)))
    kind = dtype("f8", number(3), text("<"), sub, b"N", b"N", number(8), number(8), number(0))
    losses = call("numpy.ndarray", b")", kind, encoded(struct.pack("<4q", *[0x41414141] * 4)))
    return dictionary(train_losses=losses, model=b"}")


def test_a_dtype_does_not_turn_bytes_into_pointers(importer, tmp_path):
    refused(importer, write(tmp_path / "m.pt", pointers()), "m.pt is no torch file that can be read safely")


OUTSIDE = {
    "larger than the storage": ((10,), (1,), 0),
    "of 40 GB": ((10**10,), (1,), 0),
    "of an offset behind the storage": ((1,), (1,), 4),
    "of a negative offset": ((1,), (1,), -1),
    "of strides that leave the storage": ((2, 2), (3, 1), 0),
    "of a negative stride": ((2,), (-1,), 1),
    "of an overflowing stride": ((2,), (2**62,), 0),
    "of an overflowing size": ((2**40, 2**40), (0, 0), 0),
    "that repeats one number 10^12 times": ((10**6, 10**6), (0, 0), 0),
    "of more sizes than strides": ((2, 2), (1,), 0),
}


@pytest.mark.parametrize("what", OUTSIDE)
def test_a_tensor_lies_within_its_storage(what, importer, tmp_path):
    size, stride, offset = OUTSIDE[what]
    path = write(tmp_path / "m.pt", dictionary(W=tensor("0", 4, size, stride, offset)), {"0": bytes(16)})
    refused(importer, path, "must lie within its storage of 4 numbers")


def test_a_shape_has_a_few_whole_numbers(importer, tmp_path):
    for size in ((0, 2**62, 2**62), (-1, 2), (1,) * 40):
        path = write(tmp_path / "m.pt", dictionary(W=tensor("0", 4, size, (1,) * len(size))), {"0": bytes(16)})
        refused(importer, path, "a shape")


# --- bombs ------------------------------------------------------------------------------------------------------------


def shared(levels, width=10):
    """Lists of one list, `levels` deep."""
    body = b"]"
    for level in range(levels):
        body = b"](" + body + b"q" + bytes([level]) + (b"h" + bytes([level])) * (width - 1) + b"e"
    return body


def layers(n):
    """A state dict with `n` layers that share one storage of a megabyte."""
    return b"}(" + b"".join(text(f"blocks.{i}.mlp.W_in") + tensor("0", 2**18, (512, 512), (512, 1)) for i in range(n))


def state_of(shapes):
    """A state dict on one storage of a megabyte."""
    body = b"}("
    for key, shape in shapes.items():
        strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
        body += text(key) + tensor("0", 2**18, shape, strides)
    return body + b"u"


MEGABYTE = {"0": bytes(2**20)}
BOMBS = {
    "shared lists": (lambda: dictionary(model=shared(9)), {}, "hold more than"),
    "shared lists as losses": (lambda: dictionary(train_losses=shared(9), model=b"}"), {}, "hold more than"),
    "a bytearray of 10 GB": (lambda: dictionary(model=call("builtins.bytearray", number(10**10))), {}, "bytearray"),
    "an array of 10^12 numbers": (
        lambda: dictionary(model=array(tuple_of(number(10**12)), dtype("f8"), b"12345678")),
        {},
        "as many as its shape",
    ),
    "numpy.ndarray called": (
        lambda: dictionary(model=call("numpy.ndarray", tuple_of(number(10**12)))),
        {},
        "numpy.ndarray",
    ),
    "a sparse tensor": (
        lambda: dictionary(model=call("torch._utils._rebuild_sparse_tensor", name("torch.float32"), b")")),
        {},
        "_rebuild_sparse_tensor",
    ),
    "nested tuples": (lambda: dictionary(model=b")" + b"\x85" * 200_000), {}, "deep"),
    "nested lists": (lambda: dictionary(model=b"]" * 200_000 + b"a" * 199_999), {}, "deep"),
    "a nested tuple as a key": (lambda: b"}" + b")" + b"\x85" * 200_000 + b"Ns", {}, "key"),
    "more containers than can be": (lambda: b"(" + b"}" * 2_000_000 + b"t", {}, "bytes"),
    "a large memo": (lambda: b"}r" + struct.pack("<I", 2**32 - 1), {}, "must hold a state dict"),
    "a list within itself": (lambda: b"]q\x00h\x00a", {}, "holds itself"),
    "a model within itself": (lambda: b"}q\x00" + text("model") + b"h\x00s", {}, "holds itself"),
    "text encoded again and again": (
        lambda: b"(" + text("x" * 10**6) + b"q\x00" + call("_codecs.encode", b"h\x00", text("latin1")) * 1000 + b"t",
        {},
        "expand",
    ),
    "a tuple of many layers": (lambda: layers(3000) + b"u", MEGABYTE, "by views of shared storages"),
    "a layer of a large number": (
        lambda: state_of({"blocks.1000000.mlp.W_in": (2, 2)} | {key: tuple(x.shape) for key, x in hooked(0).items()}),
        MEGABYTE,
        "numbered from 0",
    ),
    "a layer of an endless number": (
        lambda: state_of({f"blocks.{'9' * 9999}.mlp.W_in": (2, 2)} | {k: tuple(x.shape) for k, x in hooked(0).items()}),
        MEGABYTE,
        "numbered from 0",
    ),
    "a hidden layer that does not fit": (
        lambda: state_of(
            {
                "embedding.weight": (3, 50_000),
                "fc1.weight": (50_000, 1),
                "fc1.bias": (50_000,),
                "readout.weight": (3, 50_000),
                "readout.bias": (3,),
            }
        ),
        MEGABYTE,
        "must have shape",
    ),
    "a modulus of 20,000": (
        lambda: state_of({"W_x": (20_000, 1), "W_y": (20_000, 1), "W": (2, 1), "W_U": (1, 20_000)}),
        MEGABYTE,
        "evaluated at once",
    ),
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_bomb_is_refused(what, importer, tmp_path):
    make, storages, said = BOMBS[what]
    refused(importer, write(tmp_path / "m.pt", make(), storages), said)


def test_archives_that_expand(importer, tmp_path):
    body = dictionary(model=tensor("0", 2**28, (2**28,), (1,)))
    path = write(tmp_path / "deflated.pt", body, {"0": bytes(2**28)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**21
    refused(importer, path, "must be uncompressed")
    with zipfile.ZipFile(tmp_path / "twice.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("archive/data.pkl", b"\x80\x02}.")
    refused(importer, tmp_path / "twice.pt", "of different names")
    whole = write(tmp_path / "lies.pt", dictionary(W=tensor("0", 4, (4,), (1,))), {"0": bytes(16)}).read_bytes()
    for lie in (2**31, 0, 17):  # in the directory, whose entry of the storage says 16 twice
        at = whole.rindex(b"archive/data/0") - 46 + 20
        lied = whole[:at] + struct.pack("<II", lie, lie) + whole[at + 8 :]
        (tmp_path / "lies.pt").write_bytes(lied)
        refused(importer, tmp_path / "lies.pt", "is no torch file")
    path = write(tmp_path / "over.pt", dictionary(model=b"}"), {str(i): b"" for i in range(100)})
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    directory = bytearray(data[start:])  # its entries are made to lie over each other, of 1 MB each
    at = 0
    while directory[at : at + 4] == b"PK\x01\x02":
        struct.pack_into("<II", directory, at + 20, 2**20, 2**20)
        at += 46 + sum(struct.unpack_from("<HHH", directory, at + 28))
    path.write_bytes(data[:start] + directory)
    refused(importer, path, "smaller than the file")


def test_configurations_and_tables_that_expand(importer, tmp_path):
    torch.save(OneLayerMLP().state_dict(), tmp_path / "model.pt")
    for config, said in (
        ("[" * 200_000, "must be JSON"),
        ('{"a":' * 200_000, "must be JSON"),
        ("[{}" + ",{}" * 10**6 + "]", "larger than"),
        ('{"seed": ' + "9" * 5000 + "}", "must be JSON"),
        ("\udcff", "must be JSON"),
    ):
        (tmp_path / "cfg.json").write_text(config, errors="surrogateescape")
        end = attacked(importer, tmp_path / "model.pt", size=2**20)
        assert end["kind"] == "typed", end
        assert said in end["said"], end
    (tmp_path / "cfg.json").unlink()
    for i, (table, said) in enumerate(
        (
            ("epoch,train_loss\n0," + "1" * 10**6, "field larger than field limit"),
            ("epoch,train_loss\n" + "9" * 4000 + ",1\n", "0 .. 2^53 - 1"),
            ("epoch,train_loss\n-3,1\n", "0 .. 2^53 - 1"),
            ("epoch,train_loss\n\udcff,1\n", "UTF-8"),
            (",".join(["epoch"] * 10**5) + "\n" + "1\n" * 10**5, ""),
            ("epoch,train_loss\n" + "0,nan\n" * 1000, ""),
        )
    ):
        folder = tmp_path / f"run{i}"
        folder.mkdir()
        torch.save(simple(), folder / "0.pt")
        torch.save(simple(), folder / "1.pt")
        (folder / "metrics.csv").write_text(table, errors="surrogateescape")
        end = attacked(importer, folder)
        assert said in end["said"] or not said, end


# --- what is no file --------------------------------------------------------------------------------------------------


def test_only_regular_files_are_read(importer, tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    refused(importer, tmp_path / "pipe.pt", "must be a regular file; it is a pipe", size=1)
    (tmp_path / "null.pt").symlink_to("/dev/zero")
    refused(importer, tmp_path / "null.pt", "must be a regular file; it is a device", size=1)
    (tmp_path / "dangling.pt").symlink_to("nowhere")
    refused(importer, tmp_path / "dangling.pt", "there is no", size=1)
    (tmp_path / "loop.pt").symlink_to("loop.pt")
    refused(importer, tmp_path / "loop.pt", "there is no", size=1)
    (tmp_path / "folder.pt").mkdir()
    refused(importer, tmp_path / "folder.pt", "holds nothing", size=1)
    makes = {
        "pipe": os.mkfifo,
        "folder": os.mkdir,
        "device": lambda path: path.symlink_to("/dev/zero"),
        "nowhere": lambda path: path.symlink_to("nothing"),
        "empty": lambda path: path.touch(),
    }
    for kind, make in makes.items():
        folder = tmp_path / kind
        folder.mkdir()
        torch.save(hooked(0), folder / "0.pt")
        make(folder / "1.pt")
        refused(importer, folder, "1.pt")
    folder = tmp_path / "beside"
    folder.mkdir()
    torch.save(hooked(0), folder / "0.pt")
    os.mkfifo(folder / "cfg.json")
    attacked(importer, folder)
    for odd in ("9" * 200 + ".pt", "a\nb\x1b[31m.pt", "model_9" * 20 + ".pt"):
        torch.save({"a": 1}, tmp_path / odd)
        refused(importer, tmp_path / odd, "must hold a state dict")
    (tmp_path / "numbers").mkdir()
    torch.save(hooked(0), tmp_path / "numbers" / f"{'9' * 100}.pt")
    torch.save(hooked(0), tmp_path / "numbers" / "1.pt")
    refused(importer, tmp_path / "numbers", "2^53")


# --- values of other kinds --------------------------------------------------------------------------------------------

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # both kinds are deprecated or a prototype
    QUANTIZED = torch.quantize_per_tensor(torch.ones(6, 4), 1.0, 0, torch.qint8)
    NESTED = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])

ODD = {
    "text": "text",
    "digits": "3",
    "much text": "9" * 5000,
    "superscript": "²",
    "negative": -1,
    "huge": 10**30,
    "endless": 10**400,
    "float": 2.5,
    "nan": math.nan,
    "infinite": math.inf,
    "none": None,
    "true": True,
    "bytes": b"\x00\xff",
    "complex": 1j,
    "empty list": [],
    "empty dict": {},
    "nested": [[[1]]],
    "words": ["a", "b"],
    "mixed": [1, "a", None, 2.5],
    "nans": [math.nan, math.nan],
    "negatives": [-1, -2],
    "huge ones": [10**30, 10**31],
    "endless ones": [10**400, 1],
    "pairs": [(0, 1), (1, 1, 1)],
    "dict": {1: 2},
    "key that is nan": {math.nan: 1},
    "large key": {10**30: {}},
    "two keys": {1: {}, "1": {}},
    "set": {1, 2},
    "tuple": (1, 2),
    "scalar": torch.tensor(1.5),
    "whole scalar": torch.tensor(3),
    "no elements": torch.zeros(0),
    "many axes": torch.zeros([1] * 12),
    "complex tensor": torch.ones(6, 4, dtype=torch.complex64),
    "bfloat16": torch.ones(6, 4, dtype=torch.bfloat16),
    "bool tensor": torch.ones(6, 4, dtype=torch.bool),
    "float8": torch.ones(6, 4).to(torch.float8_e4m3fn),
    "uint16": torch.ones(6, 4).to(torch.uint16),
    "sparse": torch.eye(4).to_sparse(),
    "quantized": QUANTIZED,
    "meta": torch.ones(6, 4, device="meta"),
    "nested tensor": NESTED,
    "conjugate": torch.ones(6, 4, dtype=torch.complex64).conj(),
    "parameter": torch.nn.Parameter(torch.ones(6, 4)),
    "strided": torch.ones(4, 12).T[::2],
    "expanded": torch.ones(1).expand(6, 4),
    "numpy text": np.array(["a"]),
    "numpy objects": np.array([None]),
    "numpy record": np.zeros(2, dtype=[("a", "f4")]),
    "numpy date": np.datetime64("2020-01-01"),
    "numpy nan": np.float64(math.nan),
    "numpy complex": np.complex128(1j),
    "numpy whole": np.int64(-5),
    "numpy array": np.arange(4, dtype=">i8"),
    "unsigned": np.array([2**63 + 5, 3], dtype="u8"),
    "size": torch.Size([1]),
    "dtype": torch.float32,
    "device": torch.device("cpu"),
    "function": len,
}
PLACES = (
    "model",
    "checkpoints",
    "checkpoint_epochs",
    "train_losses",
    "test_losses",
    "train_indices",
    "test_indices",
    "config",
    "epoch",
    "train_loss",
)


def odd_contents(demo):
    """Contents in which one value is of another kind, by their description."""
    for (kind, odd), place in itertools.product(ODD.items(), PLACES):
        yield f"{place} {kind}", demo | {place: odd}
    for kind, odd in ODD.items():
        yield f"everything {kind}", odd
        yield f"weights {kind}", hooked(0) | {"embed.W_E": odd}
        yield f"one checkpoint {kind}", demo | {"checkpoints": [hooked(0), odd]}
        yield f"weights of one checkpoint {kind}", [hooked(0), hooked(1) | {"embed.W_E": odd}, hooked(2)]
        yield f"one number {kind}", demo | {"checkpoint_epochs": [0, odd]}
        yield f"one loss {kind}", demo | {"train_losses": [demo["train_losses"][0], odd]}
        yield f"one index {kind}", demo | {"train_indices": [0, 1, odd]}
        if not isinstance(odd, list | dict | set | np.ndarray):
            yield f"key {kind}", {odd: hooked(0)}
        for key in ("p", "fn_name", "frac_train", "seed", "act_type", "lr", "weight_decay", "betas"):
            content = full_run(demo)
            yield f"config {key} {kind}", content | {"config": content["config"] | {key: odd}}


def test_values_of_another_kind(importer, demo, tmp_path):
    """Wrong kinds in every place."""
    cases = list(odd_contents(demo))
    chance = random.Random(seed())
    ends = []
    for what, contents in chance.sample(cases, scaled(150, len(cases))):
        path = tmp_path / "odd.pt"
        try:
            torch.save(contents, path)
        except Exception:  # not everything can be saved
            continue
        end = attacked(importer, path)
        print(what, end["kind"], end["said"][:200])
        ends.append(end["kind"])
    assert ends.count("imported") > 5
    assert ends.count("typed") > 50


def test_configurations_of_another_kind(importer, tmp_path):
    group = {"group": "CyclicGroup", "seed": 1, "frac_train": 0.4, "lr": 1e-2, "num_epochs": 500}
    pizza = {
        "funcs": f"lambda x: (x[0]+x[1])%{P}",
        "act_fn": "ReLU",
        "epoch": 9,
        "frac": 0.8,
        "attn_coeff": 0.3,
        "lr": 1,
    }
    two = {
        key: x[..., :P] if key == "embed.W_E" else x[:, :2] if "W_pos" in key else x
        for key, x in left_handed(0).items()
    }
    two["pos_embed.W_pos"] = left_handed(0)["pos_embed.W_pos"][:2]
    values = ("x", -1, 1e308, 10**30, math.nan, None, True, [], [1, 2], {"a": 1}, "9" * 5000, "²")
    cases = [
        (files, key, value)
        for files in ("group", "pizza")
        for key in (group if files == "group" else pizza)
        for value in values
    ]
    for files, key, value in random.Random(seed()).sample(cases, scaled(30, len(cases))):
        torch.save(OneLayerMLP().state_dict() if files == "group" else two, tmp_path / "model.pt")
        config = (group if files == "group" else pizza) | {key: value}
        (tmp_path / "cfg.json").write_text(json.dumps(config))
        end = attacked(importer, tmp_path / "model.pt", size=2**20)
        print(files, key, value, end["kind"], end["said"][:200])


def test_complex_weights_are_refused(tmp_path):
    """Their imaginary parts would be lost."""
    weights = hooked(0) | {"blocks.0.mlp.W_in": torch.ones(D, D_MLP, dtype=torch.complex64)}
    torch.save(weights, tmp_path / "m.pt")
    with pytest.raises(Exception, match=r"m\.pt: `blocks\.0\.mlp\.W_in` must be real: .* got complex64"):
        import_checkpoints(tmp_path / "m.pt", root=tmp_path)


# --- mutants ----------------------------------------------------------------------------------------------------------


def test_mutants(importer, demo, tmp_path):
    """Files changed at random, a pickle that would run code among the pieces of which they are made."""
    canary = tmp_path / "canary"
    runs_code = (
        call("posix.system", text(f"touch {canary}"))
        + b"0"
        + call("builtins.exec", text(f"open({str(canary)!r}, 'w')"))
    )
    torch.save(demo, tmp_path / "demo.pth")
    torch.save(full_run(demo), tmp_path / "full_run_data.pth")
    torch.save([hooked(0), hooked(1)], tmp_path / "list.pt")
    torch.save(OneLayerMLP(), tmp_path / "module.pt")
    torch.save(simple(), tmp_path / "simple.pt")
    torch.save(demo, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    write(tmp_path / "code.pt", dictionary(model=runs_code, config=runs_code))
    write(tmp_path / "pointers.pt", pointers())
    write(tmp_path / "shared.pt", dictionary(train_losses=shared(9), model=b"}"))
    seeds = [file.read_bytes() for file in sorted(tmp_path.iterdir())]
    pieces = [data for data in seeds if data.startswith(b"PK")]
    started, n = seed(), scaled(150, 100_000)
    ends = {"imported": 0, "typed": 0}
    slowest = largest = 0.0
    failures = []
    for first in range(0, n, 50):
        paths = [tmp_path / f"mutant-{i}.pt" for i in range(first, min(first + 50, n))]
        for path in paths:
            chance = random.Random(f"{started}-{path.stem}")  # each mutant can be made again alone
            path.write_bytes(mutated(chance.choice(seeds), pieces, chance))
        for path, end in zip(paths, importer(*paths), strict=True):
            try:
                end = judged(importer, path, end)
            except AssertionError as error:
                failures.append(f"{path}: {error}")
                print(failures[-1], flush=True)
                continue
            path.unlink()
            ends[end["kind"]] += 1
            slowest, largest = max(slowest, end["seconds"]), max(largest, end["bytes"])
        assert not canary.exists(), f"one of 50 mutants from {first} on ran code"
        assert len(failures) < 20, failures
        if first % 5000 == 0:
            print(f"{first} mutants: {ends}; at most {slowest:.2f} s, {largest / 1e6:.0f} MB", flush=True)
    print(f"{ends}; the slowest took {slowest:.2f} s, the largest {largest / 1e6:.0f} MB")
    assert not failures
    assert ends["imported"] > 0.02 * n
