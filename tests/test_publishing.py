"""Runs exported for others: read by plain libraries, opened again bit for bit, and digests that can fail."""

import json
import shutil
import subprocess
import time

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
import yaml

import interp
from interp.errors import InvalidArgumentError, NotAvailableError, StoreError
from interp.models.lens import from_state_dict
from interp.store import RunWriter
from tests.recorded import made, task, update
from tests.stored_runs.make import HERE
from tests.test_cli import call


@pytest.fixture(scope="module")
def hub(toy_run, tmp_path_factory):
    return interp.export(toy_run, tmp_path_factory.mktemp("hub") / "toy", license="cc-by-4.0")


def checks(folder):
    found = subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, check=False)
    return found.returncode == 0


def test_it_is_opened_again_bit_for_bit(toy_run, hub):
    again = interp.load(hub)
    assert again.steps.tolist() == toy_run.steps.tolist()
    assert again.config == toy_run.config
    for name in toy_run.names:
        ours, theirs = (np.asarray(one.param(name).sel(one.steps)) for one in (toy_run, again))
        assert ours.tobytes() == theirs.tobytes()
    assert again.complete
    assert not again.problems
    assert again.verify().ok
    assert again.metrics.identical(toy_run.metrics)
    names = ["test_loss", "weight_norm"]
    assert interp.measure(again, names).drop_attrs().identical(interp.measure(toy_run, names).drop_attrs())


def test_plain_safetensors_reads_every_array(toy_run, hub):
    last = safetensors.torch.load_file(hub / "model.safetensors")
    assert {name: value.tolist() for name, value in last.items()} == {
        name: value.tolist() for name, value in toy_run.state().items()
    }
    rows = 0
    for path in sorted((hub / "trajectory").iterdir()):
        with safetensors.safe_open(path, "pt") as file:
            W_E = file.get_tensor("embed.W_E")
        assert torch.equal(W_E[0], torch.from_numpy(np.array(toy_run.param("embed.W_E").sel(toy_run.steps[rows]))))
        rows += len(W_E)
    assert rows == len(toy_run.steps)
    for path in (*(hub / "measures").iterdir(), *(hub / "state").iterdir()):
        with safetensors.safe_open(path, "np") as file:
            assert all(file.get_tensor(name) is not None for name in file.keys())  # noqa: SIM118


def test_the_card_is_what_hubs_read(toy_run, hub):
    front, body = (hub / "README.md").read_text().removeprefix("---\n").split("\n---\n", 1)
    about = yaml.safe_load(front)
    assert (about["license"], about["library_name"]) == ("cc-by-4.0", "grokking-interp")
    (result,) = about["model-index"][0]["results"]
    accuracies = {metric["name"]: metric["value"] for metric in result["metrics"]}
    found = interp.milestones.find(toy_run).accuracies
    assert accuracies == {f"{who} accuracy": pytest.approx(one.last, abs=1e-6) for who, one in found.items()}
    assert toy_run.folder.name in body
    config = json.loads((hub / "config.json").read_text())
    assert config["task"] == toy_run.config.to_dict()["task"]
    assert config["step"] == toy_run.steps[-1]
    assert "<html" in (hub / "report.html").read_text()
    assert (hub / "measures.csv").read_text().startswith("step,")


def test_digests_hold_and_can_fail(hub, tmp_path):
    assert checks(hub)
    listed = {line.split("  ", 1)[1] for line in (hub / "SHA256SUMS").read_text().splitlines()}
    there = {str(path.relative_to(hub)) for path in hub.rglob("*") if path.is_file()}
    assert there - listed == {"SHA256SUMS"}
    copy = shutil.copytree(hub, tmp_path / "copy")
    (copy / "measures.csv").write_text("step\n")
    assert not checks(copy)


def test_a_folder_that_holds_something_is_left_alone(toy_run, tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(StoreError, match="`folder` must not exist, or be empty"):
        interp.export(toy_run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_fails_leaves_nothing(toy_run, tmp_path, monkeypatch):
    from interp.reporting import publishing

    def broken(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publishing, "_write_digests", broken)
    with pytest.raises(StoreError, match="No space left"):
        interp.export(toy_run, tmp_path / "hub")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"license": "a\nb"}, "`license` must be an identifier"), ({"format": "onnx"}, "`format` must be hub or lens")],
)
def test_wrong_arguments(toy_run, tmp_path, as_users_run_it, settings, text):
    with pytest.raises(InvalidArgumentError, match=text):
        interp.export(toy_run, tmp_path / "hub", **settings)


def test_links_in_a_run_are_refused(own_run, tmp_path):
    secret = tmp_path / "secret.safetensors"
    secret.write_bytes(b"secret")
    (own_run.folder / "state" / "00000099.safetensors").symlink_to(secret)
    with pytest.raises(StoreError, match="symbolic link"):
        interp.export(own_run.folder, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize("kind", ["parity", "gauss", "S3", "symbolic_add5", "add5-transformer-imported", "2x2y"])
def test_any_kind_of_run(kind, tmp_path):
    source = next((HERE / "runs").glob(f"{kind}*"))
    traj = interp.load(shutil.copytree(source, tmp_path / source.name))
    folder = interp.export(traj, tmp_path / "out" / "hub")
    assert interp.load(folder).fingerprints() == traj.fingerprints()
    assert checks(folder)


@pytest.mark.parametrize("settings", [{"task": task()}, {}])
def test_a_recorded_loop(settings, tmp_path):
    model, opt = made()
    with interp.record(tmp_path / "mine", model, optimizer=opt, **settings) as rec:
        for _ in range(5):
            rec.step(train_loss=update(model, opt))
    folder = interp.export(tmp_path / "mine", tmp_path / "hub")
    assert interp.load(folder, model=model).fingerprints() == rec.trajectory.fingerprints()
    last = safetensors.torch.load_file(folder / "model.safetensors")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in last.items())


def test_state_dicts_for_transformer_lens(toy_run, tmp_path):
    folder = interp.export(toy_run, tmp_path / "lens", format="lens")
    files = sorted(folder.glob("step_*.safetensors"))
    assert [int(path.stem.removeprefix("step_")) for path in files] == toy_run.steps.tolist()
    settings = json.loads((folder / "config.json").read_text())
    assert (settings["normalization_type"], settings["act_fn"]) == (None, "relu")
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources import boot_native
    from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

    config = TransformerBridgeConfig(**settings, init_weights=False, device="cpu", dtype=torch.float32)
    for path, step in ((files[0], 0), (files[-1], None)):
        state = safetensors.torch.load_file(path)
        own, tokens = toy_run.model(step), toy_run.task.tokens
        bridge = boot_native(config, device="cpu", dtype=torch.float32)
        bridge.load_state_dict(convert_tl_checkpoint(state, config), strict=True)
        torch.testing.assert_close(bridge.eval()(tokens)[:, -1], own(tokens)[:, -1], atol=1e-5, rtol=1e-5)
        back = from_state_dict(state).state
        assert all(torch.equal(back[name], value) for name, value in own.state_dict().items())


def test_lens_says_what_it_does_not_have(tmp_path):
    source = next((HERE / "runs").glob("S3-mlp*"))
    with pytest.raises(NotAvailableError):
        interp.export(source, tmp_path / "lens", format="lens")
    assert list(tmp_path.iterdir()) == []


def test_400_checkpoints_open_quickly(toy_run, tmp_path):
    state = {name: np.array(toy_run.param(name).sel(0)) for name in toy_run.names}
    run = {**toy_run.run, "config": toy_run.config.replace({"steps": 399}).to_dict(), "schedule": "every(1)"}
    with RunWriter.create(tmp_path / "many", run, fsync=False) as writer:
        for step in range(400):
            state["embed.W_E"] = state["embed.W_E"] * np.float32(0.999)
            writer.append(step, state)
    folder = interp.export(tmp_path / "many", tmp_path / "hub")
    began = time.perf_counter()
    assert len(interp.load(folder).steps) == 400
    assert time.perf_counter() - began < 1  # as an ordinary run: headers alone are read


def test_the_command_line(toy_run, capsys, tmp_path):
    code, out, err = call(capsys, "export", toy_run.folder, tmp_path / "hub", "--license", "mit", "--keys", "1,2")
    assert (code, out.startswith(f"Written:   {tmp_path / 'hub'}, ")) == (0, True), err
    assert "given by the user, not found" in (tmp_path / "hub" / "README.md").read_text()
    code, _, err = call(capsys, "export", toy_run.folder, tmp_path / "hub")
    assert (code, err.count("\n")) == (2, 1)
