"""Backbones: torchvision's numbers under torchvision's names, and ImageNet weights from a file, cache or download."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
import zlib

import numpy as np
import pytest
import torch

from src.errors import UserError
from src.nn import backbones
from src.nn.backbones import VGG16, MobileNetV2, load_imagenet, normalise_imagenet
from tests.conftest import GOLDEN, golden_parameter

NETWORKS = {"mobilenet_v2": MobileNetV2, "vgg16": VGG16}
DROPPED = {  # layers of torchvision's files outside the backbones
    "mobilenet_v2": {
        "features.18.0.weight": torch.zeros(1280, 320, 1, 1),
        "features.18.1.running_var": torch.ones(1280),
        "classifier.1.weight": torch.zeros(1000, 1280),
        "features.0.1.num_batches_tracked": torch.tensor(7),
    },
    "vgg16": {
        "features.24.weight": torch.zeros(512, 512, 3, 3),
        "features.28.bias": torch.zeros(512),
        "classifier.6.bias": torch.zeros(1000),
    },
}


def golden(case):
    """Reference state dict, input (float64), feature levels (finest first) and description of a golden case."""
    about = json.loads((GOLDEN / f"{case}.json").read_text())
    rng = np.random.Generator(np.random.PCG64([zlib.crc32(b"input"), about["seed"]]))
    levels = np.load(GOLDEN / f"{case}.npz")
    state = {name: golden_parameter(name, shape, about["seed"]) for name, shape in about["parameters"]}
    frames = torch.as_tensor(rng.random(about["input_shape"]))
    return state, frames, [torch.as_tensor(levels[f"level{i}"]).double() for i in range(len(levels))], about


@pytest.fixture(scope="module")
def published():
    """State dicts as in torchvision's files, by case."""
    return {
        case: {name: tensor.float() for name, tensor in golden(case)[0].items()} | DROPPED[case] for case in NETWORKS
    }


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Make an empty folder for torch's downloads."""
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(folder.parent))
    return folder


@pytest.fixture
def proxy(monkeypatch):
    """Yield the socket of the only proxy, which does not listen yet."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        for name in ("https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        urllib.request.install_opener(None)  # an opener keeps the proxies of its first use
        yield server
    urllib.request.install_opener(None)


def error_of_loading(network, file=None, **options):
    """Return the one-sentence error of loading, which leaves the weights unchanged."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_imagenet(network, file, **options)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert ". " not in message
    return message


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-6)])
@pytest.mark.parametrize("case", NETWORKS)
def test_equals_torchvision(case, dtype, tolerance):
    state, frames, expected, about = golden(case)
    network = NETWORKS[case]().to(dtype).eval()
    network.load_state_dict(state, strict=False)
    with torch.no_grad():
        levels = network(frames.to(dtype))
    levels = [levels] if case == "vgg16" else levels
    assert [list(level.shape) for level in levels] == [level["shape"] for level in about["levels"]]
    for level, reference in zip(levels, expected, strict=True):
        assert level.dtype == dtype
        assert (level.double() - reference).abs().max() <= tolerance * reference.abs().max()


@pytest.mark.parametrize("case", NETWORKS)
def test_parameter_names_are_torchvision_s(case):
    about = json.loads((GOLDEN / f"{case}.json").read_text())
    ours = [[n, list(t.shape)] for n, t in NETWORKS[case]().state_dict().items() if "num_batches_tracked" not in n]
    assert ours == [[n, shape] for n, shape in about["parameters"] if not n.startswith("features.18.")]


@pytest.mark.parametrize(
    ("width", "channels"),
    [
        (1.0, [16, 24, 32, 96, 320]),
        (1.4, [24, 32, 48, 136, 448]),
        (0.5, [8, 16, 16, 48, 160]),
        (0.35, [8, 8, 16, 32, 112]),
    ],
)
def test_widths_and_odd_sizes(width, channels):
    network = MobileNetV2(width=width)
    assert network.channels == channels
    with torch.no_grad():
        levels = network.eval()(torch.rand(2, 3, 45, 33))
    assert [level.shape[1] for level in levels] == channels
    assert [level.shape[2:] for level in levels] == [(23, 17), (12, 9), (6, 5), (3, 3), (2, 2)]


def test_vgg_rounds_odd_sizes_down():
    with torch.no_grad():
        assert VGG16()(torch.rand(1, 3, 17, 31)).shape == (1, 512, 2, 3)


@pytest.mark.parametrize("case", NETWORKS)
def test_every_parameter_has_a_gradient(case):
    torch.manual_seed(0)
    network = NETWORKS[case]()
    levels = network(normalise_imagenet(torch.rand(2, 3, 64, 64)))
    sum(level.square().mean() for level in levels).backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent


@pytest.mark.parametrize("width", [0.35, 1.0])
def test_untrained_signals_neither_vanish_nor_explode(width):
    torch.manual_seed(0)
    with torch.no_grad():
        levels = MobileNetV2(width=width).eval()(normalise_imagenet(torch.rand(1, 3, 64, 64)))
    assert all(0.1 < level.std() < 100 for level in levels)


def test_frames_are_normalised_as_for_imagenet():
    frames = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1).expand(2, 3, 4, 5)
    assert normalise_imagenet(frames).abs().max() == 0
    white = normalise_imagenet(torch.ones(3, 1, 1, dtype=torch.float64))
    torch.testing.assert_close(white.flatten().tolist(), [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225])


@pytest.mark.parametrize("source", ["file", "cache"])
@pytest.mark.parametrize("case", NETWORKS)
def test_load_imagenet_from_file_and_cache(case, source, published, cache, proxy, tmp_path):
    network = NETWORKS[case]()
    file = tmp_path / "weights.pth" if source == "file" else cache / network.imagenet
    torch.save(published[case], file)
    load_imagenet(network, file if source == "file" else None)
    for name, tensor in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, published[case][name])


@pytest.mark.parametrize("case", NETWORKS)
def test_failed_download_names_the_url_and_the_alternative(case, cache, proxy, capsys):
    network = NETWORKS[case]()
    message = error_of_loading(network, otherwise="model.imagenet=false goes on without")
    assert str(cache / network.imagenet) in message
    assert f"download https://download.pytorch.org/models/{network.imagenet} to that path" in message
    assert message.endswith("; model.imagenet=false goes on without.")
    assert not list(cache.iterdir())
    assert capsys.readouterr().out == ""


def test_download_from_a_silent_server_times_out(cache, proxy, monkeypatch):
    proxy.listen()
    monkeypatch.setattr(backbones, "SOCKET_TIMEOUT", 0.3)
    socket.setdefaulttimeout(77)
    start = time.perf_counter()
    try:
        assert "timed out" in error_of_loading(MobileNetV2())
        assert socket.getdefaulttimeout() == 77
    finally:
        socket.setdefaulttimeout(None)
    assert time.perf_counter() - start < 10


def test_missing_file(tmp_path):
    message = error_of_loading(
        MobileNetV2(), tmp_path / "nowhere.pth", otherwise="model.imagenet=false goes on without"
    )
    assert f"no file {tmp_path / 'nowhere.pth'} " in message
    assert "download https://download.pytorch.org/models/mobilenet_v2-b0353104.pth" in message


class Arbitrary:
    def __reduce__(self):
        return print, ("code in a file was executed",)


@pytest.mark.parametrize("damage", ["cut off", "noise", "empty", "folder", "code"])
def test_damaged_files(damage, published, tmp_path, capsys):
    file = tmp_path / "weights.pth"
    torch.save({"features.0.0.weight": Arbitrary()} if damage == "code" else published["mobilenet_v2"], file)
    if damage == "cut off":
        file.write_bytes(file.read_bytes()[:100_000])
    elif damage == "noise":
        file.write_bytes(np.random.default_rng(0).bytes(1000))
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "folder":
        file = tmp_path
    assert f"{file} cannot be read" in error_of_loading(MobileNetV2(), file)
    assert capsys.readouterr().out == ""


def test_error_for_a_damaged_cache_tells_to_delete_it(cache, proxy):
    (cache / VGG16.imagenet).write_bytes(b"half a download")
    assert f"delete it and download https://download.pytorch.org/models/{VGG16.imagenet}" in error_of_loading(VGG16())


def test_weights_of_another_network(published, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(published["vgg16"], file)
    message = error_of_loading(MobileNetV2(), file)
    assert f"{file} does not hold the weights of MobileNetV2: " in message
    assert "features.0.0.weight, features.0.1.weight, features.0.1.bias and " in message

    incomplete = dict(published["mobilenet_v2"])
    del incomplete["features.17.conv.3.running_mean"]
    incomplete["features.2.conv.2.weight"] = torch.zeros(24, 96, 3, 3)
    torch.save(incomplete, file)
    assert "are features.2.conv.2.weight, features.17.conv.3.running_mean; " in error_of_loading(MobileNetV2(), file)

    torch.save([1, 2, 3], file)
    assert f"{file} holds a list" in error_of_loading(MobileNetV2(), file)


def test_other_widths_have_no_imagenet_weights(published, tmp_path):
    torch.save(published["mobilenet_v2"], tmp_path / "weights.pth")
    message = error_of_loading(
        MobileNetV2(width=0.5), tmp_path / "weights.pth", otherwise="model.imagenet=false goes on without"
    )
    assert "not of 0.5; model.imagenet=false goes on without" in message
