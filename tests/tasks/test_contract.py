"""Networks of one's own keep the contract, and one set of inference options gives scores and files alike."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from src.config.composition import compose
from src.engine.cascade import Cascade
from src.engine.file_job import FileRestoration
from src.engine.memory import fit_to_memory
from src.engine.options import InferenceOptions, RestoreOptions
from src.engine.stream import resolve_passes, stream
from src.errors import UserError
from src.geometry import Geometry, evenly
from src.metrics import psnr
from src.nn.video_network import VideoNetwork, as_video_network
from src.papers.baselines import Blend
from src.papers.edvr import EDVR
from src.papers.restorer import Restorer
from src.papers.zsm import ZSM
from src.protocols import Protocol
from src.tasks.train import train
from src.video.reader import open_video
from tests.papers.test_edvr import awaken
from tests.tasks.test_restore import film
from tests.tasks.test_tasks import TINY, clips  # noqa: F401 - a fixture

pytestmark = pytest.mark.long

CPU = torch.device("cpu")


class Own(nn.Module):
    """A plain network whose attributes have names that the engine must not take for its own."""

    def __init__(self, *, channels: int = 8) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Conv2d(9, channels, 3, padding=1), nn.Conv2d(channels, 48, 3, padding=1)])
        self.padding = 1
        self.overlap = 3
        self.motion = self.training_geometry = self.encode_frames = None
        self.geometry = Geometry(4, 3, (Fraction(1),))

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        features = self.stages[0](clip.flatten(1, 2)).relu()
        return nn.functional.pixel_shuffle(self.stages[1](features), 4).unsqueeze(1)


class OwnVideoNetwork(Own, VideoNetwork):
    """The same as a subclass of the contract, where ``motion`` and its like must stay methods."""

    def __init__(self, *, channels: int = 8) -> None:
        VideoNetwork.__init__(self)
        self.stages = nn.ModuleList([nn.Conv2d(9, channels, 3, padding=1), nn.Conv2d(channels, 48, 3, padding=1)])
        self.padding = 1
        self.overlap = 3
        self.geometry = Geometry(4, 3, (Fraction(1),))


@pytest.mark.parametrize("name", ["Own", "OwnVideoNetwork"])
def test_a_network_of_ones_own_trains_is_scored_and_restores(name: str, clips: Path, tmp_path: Path) -> None:  # noqa: F811
    network = f"{{_target_: tests.tasks.test_contract.{name}, channels: 4}}"
    overrides = ["experiment=wdvr2d_reds", *TINY, f"data.root={clips}", "trainer.max_steps=2", "data.test_frames=6"]
    config = compose(
        *overrides, "~model.network", f"+model.network={network}", "protocol.tile=32", "protocol.overlap=0"
    )
    outcome = train(config, tmp_path / "run")
    assert outcome["protocol"]["window"] == 3
    assert outcome["protocol"]["tile"] == 32
    assert outcome["summary"]["psnr"] > 5
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    trained = instantiate(config.model.network)
    trained.load_state_dict({key.removeprefix("network."): value for key, value in saved["state_dict"].items()})
    whole = FileRestoration(trained.eval(), clips / "left.mp4", tmp_path / "out.mkv", RestoreOptions(max_frames=5), CPU)
    whole.run(whole.journal.list_missing(whole.parts))
    whole.finish()
    with open_video(tmp_path / "out.mkv") as reader:
        assert (len(reader), reader.size) == (5, (192, 256))


class Short(Own):
    """Returns a frame too few: a loss that broadcasts would not notice."""

    def __init__(self) -> None:
        super().__init__()
        self.geometry = Geometry(4, 3, evenly(0, 1, 3))


def test_an_output_that_its_geometry_does_not_promise_is_refused_before_training(clips: Path, tmp_path: Path) -> None:  # noqa: F811
    network = "+model.network={_target_: tests.tasks.test_contract.Short}"
    config = compose("experiment=wdvr2d_reds", *TINY, f"data.root={clips}", "~model.network", network)
    sentence = (
        r"Short.forward returned \(1, 1, 3, 32, 32\) for a clip \(1, 3, 3, 8, 8\), but its geometry promises \(1,"
    )
    with pytest.raises(UserError, match=sentence), pytest.warns(UserWarning, match="target size"):
        train(config, tmp_path / "run")


def test_a_network_without_geometry_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"Linear has no geometry: set self.geometry = Geometry\("):
        as_video_network(nn.Linear(1, 1))


def recurrent() -> ZSM:
    torch.manual_seed(0)
    network = instantiate(compose("model=zsm", "size=mini", "size.width=0.125", "size.depth=0.05").model.network)
    awaken(network)
    return network.eval()


def window() -> EDVR:
    torch.manual_seed(0)
    network = instantiate(compose("model=edvr_m", "size=mini", "size.width=0.125", "size.depth=0.1").model.network)
    awaken(network)
    return network.eval()


def two_stages() -> Cascade:
    torch.manual_seed(0)
    network = instantiate(compose("model=edvr_s2", "size=mini", "size.width=0.125", "size.depth=0.1").model.network)
    awaken(network)
    return network.eval()


CASES = [
    (window, {}),
    (two_stages, {"ensemble": 4}),
    (window, {"ensemble": 4, "tile": 64, "overlap": 16}),
    (recurrent, {"context": 1}),
    (recurrent, {"clip_length": "all"}),
    (recurrent, {"clip_length": 9, "context": 1, "ensemble": 2, "tile": 64}),
]


@pytest.mark.parametrize(("build", "options"), CASES)
def test_a_restored_file_has_the_score_of_the_same_options(build, options, tmp_path: Path) -> None:
    """Only the rounding to 8 bits lies between the two."""
    network, source, output = build(), film(tmp_path / "in.mkv", frames=9, size=(72, 96)), tmp_path / "out.mkv"
    whole = FileRestoration(network, source, output, RestoreOptions(codec="lossless", cuts=False, **options), CPU)
    whole.run(whole.journal.list_missing(whole.parts))
    whole.finish()
    with open_video(source) as reader:
        inputs = list(reader.tensors())
    truth = {time: torch.rand(3, 288, 384, generator=torch.Generator().manual_seed(7)) for time in whole.times}

    def targets(geometry: Geometry, *, filled: bool) -> Iterator[tuple[Fraction, torch.Tensor]]:
        return ((time, truth[time]) for time in geometry.output_times(len(inputs), filled=filled))

    clip = SimpleNamespace(name="clip", index=0, frames=len(inputs), inputs=lambda: iter(inputs), targets=targets)
    restorer = Restorer(network=network, protocol=Protocol("same", **options))
    restorer.evaluation_step(clip)
    scored = [score.psnr for score in restorer.scores[0].frames()[0]]
    with open_video(output) as reader:
        written = [float(psnr(frame, truth[time])) for frame, time in zip(reader.tensors(), whole.times, strict=True)]
    assert written == pytest.approx(scored, abs=0.01)


def test_a_whole_clip_in_one_pass() -> None:
    network, clip = recurrent(), torch.rand(9, 3, 16, 20)
    seen = []
    network.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    with torch.no_grad():
        expected = network(clip[None])[0]
    for length in (None, 9):
        frames = [frame for _, frame in stream(network, iter(clip), clip_length="all", length=length)]
        assert torch.allclose(torch.stack(frames), expected, atol=1e-5)
    rest = list(stream(network, iter(clip), clip_length="all", after=Fraction(3)))
    assert [time for time, _ in rest] == [Fraction(k, 2) for k in range(7, 17)]
    assert len(list(stream(network, clip[:1], clip_length="all"))) == 1  # shorter than any pass
    with pytest.raises(ValueError, match="window is fixed at 5 frames"):
        resolve_passes(window(), InferenceOptions(clip_length="all"))


def test_stages_are_watched_through_tiles_and_ensembles() -> None:
    class Halve(VideoNetwork):
        geometry = Geometry(1, 2, evenly("3/4", "1/2", 2), exposures=(Fraction(1, 2),) * 2)

        def forward(self, clip):
            return torch.stack([clip[:, 0] * 0.75 + clip[:, 1] * 0.25, clip[:, 0] * 0.25 + clip[:, 1] * 0.75], dim=1)

    clip = torch.rand(4, 3, 96, 64)
    results = []
    for options in ({}, {"tile": 64, "overlap": 16}, {"ensemble": 4}):
        watched = []
        frames = list(stream(Halve(), clip, factor=4, watch=lambda *item, to=watched: to.append(item), **options))
        results.append((frames, watched))
    (plain, seen), *others = results
    assert [number for number, *_ in seen] == [0] * 8
    for frames, watched in others:
        assert [time for time, _ in frames] == [time for time, _ in plain]
        assert [item[:2] for item in watched] == [item[:2] for item in seen]
        for one, other in zip([*frames, *watched], [*plain, *seen], strict=True):
            assert torch.allclose(one[-1], other[-1], atol=1e-6)


def test_options_are_fitted_to_the_network() -> None:
    requested = RestoreOptions(memory=4)
    fitted = fit_to_memory(window(), requested, (64, 96), CPU, memory=requested.memory_bytes)
    assert (fitted.tile, fitted.overlap, fitted.clip_length, fitted.padding, fitted.context) == (0, 32, None, None, 0)
    fitted = fit_to_memory(recurrent(), requested, (64, 96), CPU, memory=requested.memory_bytes)
    assert (fitted.padding, fitted.context) == (None, 1)
    assert resolve_passes(recurrent(), fitted).stride == Blend().geometry.stride  # passes become longer, not shorter
    with pytest.raises(UserError, match="tile=40 is too small: it must be at least 32 more than overlap=32"):
        fit_to_memory(window(), InferenceOptions(tile=40), (64, 96), CPU)
