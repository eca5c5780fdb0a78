"""Restoring from the command line: many files, cut off and going on, what a person sees; read back with PyAV."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
import torch

from src.engine.file_job import FileRestoration
from src.engine.journal import Journal, group_ranges
from src.engine.options import RestoreOptions
from src.engine.timing import TimeMap
from src.errors import UserError
from src.geometry import Geometry
from src.papers.baselines import Bicubic, Blend
from src.video.colorspace import Signal
from src.video.reader import open_video
from src.video.writer import VideoWriter
from tests.tasks.test_tasks import ROOT, refused, run

CPU = torch.device("cpu")


def film(path, frames=30, size=(48, 64), codec="lossless", **options):
    """A texture that moves, with no two frames alike."""
    rng = np.random.default_rng(3)
    coarse = torch.as_tensor(rng.random((1, 3, 8, 40)), dtype=torch.float32)
    texture = torch.nn.functional.interpolate(coarse, (size[0], size[1] + 2 * frames), mode="bicubic").clamp(0, 1)[0]
    with VideoWriter(path, Fraction(25), codec=codec, **options) as writer:
        for t in range(frames):
            writer.write((texture[..., 2 * t : 2 * t + size[1]] * 255).byte().permute(1, 2, 0))
    return path


def pixels(path):
    with open_video(path) as reader:
        return torch.stack(list(reader.frames()))


def restoration(source, output, network=None, **options):
    return FileRestoration(network or Bicubic(scale=1), source, output, RestoreOptions(**options), CPU)


@pytest.mark.parametrize("codec", ["ffv1", "lossless"])
def test_doing_nothing_changes_no_pixel(codec, tmp_path):
    source = film(tmp_path / "in.mkv")
    whole = restoration(source, tmp_path / "out.mkv", codec=codec, segment=7)
    whole.run(whole.journal.list_missing(whole.parts))
    whole.finish()
    assert torch.equal(pixels(source), pixels(tmp_path / "out.mkv"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mkv", "out.mkv"]


@pytest.mark.parametrize("depth", [10, 12, 16])
def test_nor_one_of_more_than_8_bits(depth, tmp_path):
    values = np.random.default_rng(0).integers(0, 2**depth, (9, 48, 64, 3), dtype=np.uint16)
    with VideoWriter(
        tmp_path / "in.mkv", Fraction(25), codec="ffv1", signal=Signal(depth, matrix=0, range=2)
    ) as writer:
        for frame in values:
            writer.write(frame)
    whole = restoration(tmp_path / "in.mkv", tmp_path / "out.mkv", codec="ffv1", segment=4)
    whole.run(whole.journal.list_missing(whole.parts))
    whole.finish()
    with open_video(tmp_path / "out.mkv", deep=True) as reader:
        assert reader.signal.depth == depth
        assert np.array_equal(np.stack([frame.numpy() for frame in reader.frames()]), values)


def test_a_folder_of_frames_too(tmp_path):
    source, folder = film(tmp_path / "in.mkv", frames=11), tmp_path / "frames"
    for _ in range(2):  # the second instead of the first
        whole = restoration(source, folder, segment=4)
        whole.run(whole.journal.list_missing(whole.parts))
        whole.finish()
        assert sorted(path.name for path in folder.iterdir()) == [f"{n:08d}.png" for n in range(11)]
        assert torch.equal(pixels(source), pixels(folder))
    (folder / "other.png").touch()
    for pattern in (folder / "0000000?.png", folder / "0*.png"):  # two patterns of the same folder
        taken = sorted(folder.glob(pattern.name))
        whole = restoration(pattern, tmp_path / "again.mkv", codec="ffv1")
        whole.run(whole.journal.list_missing(whole.parts))
        whole.finish()
        assert torch.equal(pixels(tmp_path / "again.mkv"), pixels(source)[: len(taken)])


def test_one_command_at_a_time_makes_an_output(tmp_path):
    source, output = film(tmp_path / "in.mkv"), tmp_path / "out.mkv"
    first = restoration(source, output, segment=10)
    with first.journal.lock():
        first.run([0])
        with (
            pytest.raises(UserError, match="by another command"),
            restoration(source, output, segment=10).journal.lock(),
        ):
            pass
        with pytest.raises(UserError, match="by another command"):  # even where it would begin anew
            FileRestoration(
                Bicubic(scale=1), source, output, RestoreOptions(segment=5), CPU, anew=True
            ).journal.list_missing(1)
    assert first.journal.list_missing(first.parts) == [1, 2]


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 2, 0, 3, 1]])
def test_parts_may_be_restored_apart(order, tmp_path):
    source, outputs = film(tmp_path / "in.mkv"), [tmp_path / "whole.mkv", tmp_path / "apart.mkv"]
    for output in outputs:
        whole = restoration(source, output, Blend(scale=2, frames=4), codec="ffv1", segment=13)
        assert whole.parts == 5
        if output is outputs[0]:
            whole.run(range(whole.parts))
        else:
            for part in order:  # as several ranks do, or one that is cut off again and again
                again = restoration(source, output, Blend(scale=2, frames=4), codec="ffv1", segment=13)
                again.run([part])
        whole.finish()
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_time(tmp_path):
    source = film(tmp_path / "in.mkv", frames=10)
    for slow, fps in ((False, 50), (True, 25)):
        whole = restoration(source, tmp_path / f"{fps}.mp4", Blend(scale=1), slow_motion=slow)
        whole.run([0])
        whole.finish()
        with open_video(tmp_path / f"{fps}.mp4") as reader:
            assert (len(reader), reader.fps) == (19, fps)
            assert reader.end == Fraction(19, fps)


def test_variable_rates_are_kept_or_made_even(tmp_path):
    marks = [Fraction(t, 1000) for t in (0, 40, 80, 200, 210, 400)]
    with VideoWriter(tmp_path / "in.mkv", Fraction(25), codec="lossless", tick=Fraction(1, 1000)) as writer:
        for number, mark in enumerate(marks):
            writer.write(np.full((32, 32, 3), 40 * number, dtype=np.uint8), mark)
    kept, even = (
        restoration(tmp_path / "in.mkv", tmp_path / f"{n}.mkv", Blend(scale=1), constant_rate=bool(n), codec="ffv1")
        for n in (0, 1)
    )
    for whole in (kept, even):
        whole.run([0])
        whole.finish()
    with open_video(tmp_path / "0.mkv") as reader:
        halves = [time for pair in pairwise(marks) for time in (pair[0], sum(pair) / 2)]
        assert [round(1000 * time) for time in reader.times] == [round(1000 * time) for time in [*halves, marks[-1]]]
    with open_video(tmp_path / "1.mkv") as reader:
        steps = {round(1000 * (b - a)) for a, b in pairwise(reader.times)}
        assert max(steps) - min(steps) <= 1
        shown = [int(frame[0, 0, 0]) for frame in reader.frames()]
    assert shown == sorted(shown)
    assert shown[-1] == 200


def test_clock():
    steady = TimeMap([Fraction(n, 1000) for n in (0, 33, 67, 100)], Fraction(133, 1000), Fraction(30))
    assert steady.steady
    assert steady(Fraction(3, 2)) == Fraction(1, 20)
    varying = TimeMap([Fraction(1), Fraction(2), Fraction(4)], Fraction(5), Fraction(1))
    assert [varying(Fraction(t, 2)) for t in range(7)] == [0, Fraction(1, 2), 1, 2, 3, Fraction(7, 2), 4]


def test_compared(tmp_path):
    source = film(tmp_path / "in.mkv", frames=6)
    for how, width in (("side", 256), ("divider", 128)):
        whole = restoration(source, tmp_path / f"{how}.mkv", Blend(scale=2), codec="ffv1", compare=how)
        whole.run([0])
        whole.finish()
        assert pixels(tmp_path / f"{how}.mkv").shape == (11, 96, width, 3)
    frame = pixels(tmp_path / "side.mkv")[0]
    assert torch.equal(frame[:, :128], frame[:, 128:])  # the baseline is what it is compared with


def test_another_way_is_refused_and_nothing_lost(tmp_path):
    source, output = film(tmp_path / "in.mkv"), tmp_path / "out.mkv"
    restoration(source, output, segment=10).run([0])
    with pytest.raises(UserError, match=r"started with different settings \(quality\)"):
        restoration(source, output, segment=10, quality=30).journal  # noqa: B018
    whole = restoration(source, output, segment=10)
    assert whole.journal.list_missing(whole.parts) == [1, 2]
    anew = FileRestoration(Bicubic(scale=1), source, output, RestoreOptions(segment=10, quality=30), CPU, anew=True)
    assert anew.journal.list_missing(anew.parts) == [0, 1, 2]


def test_half_a_part_does_not_count(tmp_path):
    journal = Journal(tmp_path / "out.mkv", {"a": 1}, {})
    journal.draft_path(0).write_bytes(b"half")
    assert journal.list_missing(2) == [0, 1]
    journal.finish(0, 17)
    assert journal.list_finished()[0][1] == 17
    assert journal.list_missing(2) == [1]
    assert group_ranges([0, 1, 3, 4, 7]) == [range(2), range(3, 5), range(7, 8)]


@pytest.mark.long
def test_many_files_of_which_one_is_bad(tmp_path):
    folder = tmp_path / "clips [1]"  # no pattern, though it looks like one
    folder.mkdir()
    for name in ("a", "b"):
        film(folder / f"{name}.mp4", frames=5)
    (folder / "a.txt").write_text("not a video")
    (folder / "c.mp4").write_bytes(b"no video at all")
    command = ["task=restore", f"input={folder}/*", f"output={tmp_path / 'out'}", "model=bicubic"]
    said = run(*command, fails=True)
    assert "1 of 3 videos" in said
    assert "c.mp4" in said
    assert "Traceback" not in said
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["a.mp4", "b.mp4"]
    (folder / "c.mp4").unlink()
    assert run(*command).count("exists already") == 2


@pytest.mark.long
def test_a_video_alone_is_restored_by_the_default(tmp_path):
    source, output = film(tmp_path / "in.mp4", frames=2), tmp_path / "out.mp4"
    said = run("task=restore", f"input={source}", f"output={output}")
    assert "Restoring with wdvr_real_x2; checkpoint=<name or file> chooses other weights" in " ".join(said.split())
    with open_video(source) as before, open_video(output) as after:
        assert after.size == tuple(2 * length for length in before.size)
        assert len(after) == len(before)
    assert "Restoring with" not in run(
        "task=restore", f"input={source}", f"output={tmp_path / 'b.mp4'}", "model=bicubic"
    )


@pytest.mark.long
def test_previews_come_first(tmp_path):
    source = film(tmp_path / "in.mp4", frames=8)
    run("task=restore", f"input={source}", f"output={tmp_path / 'out.mp4'}", "model=bicubic", "preview=2")
    assert [path.name for path in sorted((tmp_path / "out.preview").iterdir())] == ["000002.png", "000006.png"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["input=nowhere.mp4", "output=x.mp4"], "does not exist"),
        (["input=[a.mp4,b.mp4]", "output=x.mp4"], "does not exist"),
        (["input=in.mp4", "output=in.mp4", "overwrite=true"], "is the input itself"),
        (["input=in.mp4", "output=x.mp4", "compare=both"], "side, divider or null"),
        (["input=in.mp4", "output=x.mp4", "segment=0"], "at least 1"),
        (["input=in.mp4", "output=x.mp4", "codec=divx"], "divx"),
        (["input=in.mp4", "output=x.xyz"], "x.xyz"),
        (["input=in.mp4", "output=x.mp4", "tile=32"], "at least 32 more"),
        (["input=in.mp4,in.mp4", "output=x.mp4"], "write several videos as 'input=["),
        (["input=in.mp4", "output=x.mp4", "codec=prores"], "x.mov instead"),
        (["input=in.mp4", "output=-", "codec=hevc"], "YUV4MPEG2"),
    ],
)
def test_bad_input_is_one_sentence(options, sentence, tmp_path):
    film(tmp_path / "in.mp4", frames=3)
    given = [option.replace("in.mp4", f"{tmp_path}/in.mp4").replace("=x.", f"={tmp_path}/x.") for option in options]
    assert sentence in refused("task=restore", "model=bicubic", *given)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.long
def test_through_pipes(tmp_path):
    source = film(tmp_path / "in.mkv", frames=6, codec="ffv1")
    command = [sys.executable, "-m", "src.run", "task=restore", "model=blend", "model.network.scale=1"]
    with source.open("rb") as given, (tmp_path / "out.y4m").open("wb") as taken:
        done = subprocess.run(
            [*command, "input=-", "output=-"], cwd=ROOT, stdin=given, stdout=taken, stderr=subprocess.PIPE, timeout=300
        )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    with open_video(tmp_path / "out.y4m") as reader:
        assert (len(reader), reader.fps) == (11, 50)
    difference = (pixels(tmp_path / "out.y4m")[::2].int() - pixels(source).int()).abs()
    assert difference.float().mean() < 1  # 8 bits of YCbCr on the way
    behind = film(tmp_path / "in.mp4", frames=30, size=(240, 320))  # whose index comes last
    with behind.open("rb") as given:
        options = {"cwd": ROOT, "stdin": given, "capture_output": True, "timeout": 300}
        done = subprocess.run([*command, "input=-", "output=-"], **options)
    assert done.returncode == 2
    assert b"pass the file's path" in done.stderr
    with source.open("rb") as given:
        subprocess.run(
            [*command, "input=-", f"output={tmp_path / 'out.mkv'}", "codec=ffv1"],
            cwd=ROOT, stdin=given, check=True, timeout=300, capture_output=True,
        )  # fmt: skip
    assert torch.equal(pixels(tmp_path / "out.mkv")[::2], pixels(source))


@pytest.mark.slow
def test_killed_again_and_again_it_is_the_same_file(tmp_path):
    source = film(tmp_path / "in.mkv", frames=240, size=(96, 128))
    command = [
        sys.executable, "-m", "src.run", "task=restore", f"input={source}", "codec=ffv1", "segment=5",
        "model=blend", "model.network.scale=4",
    ]  # fmt: skip
    subprocess.run([*command, f"output={tmp_path / 'whole.mkv'}"], cwd=ROOT, check=True, capture_output=True)
    output, moments = tmp_path / "cut.mkv", random.Random(0)
    for kill in range(7):  # the last time it is let alone
        process = subprocess.Popen([*command, f"output={output}"], cwd=ROOT, stderr=subprocess.DEVNULL)
        goal = len(finished(output)) + moments.randint(1, 12)
        while process.poll() is None and (kill == 6 or len(finished(output)) < goal):
            time.sleep(0.05)
        if kill < 6:
            time.sleep(moments.uniform(0, 0.3))
            assert process.poll() is None
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == 0
    digests = {hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("whole.mkv", "cut.mkv")}
    assert len(digests) == 1


@pytest.mark.slow
def test_a_terminated_restoration_stops_and_resumes(tmp_path):
    source, output = film(tmp_path / "in.mkv", frames=200, size=(96, 128)), tmp_path / "out.mkv"
    command = [
        sys.executable, "-m", "src.run", "task=restore", f"input={source}", f"output={output}", "codec=ffv1",
        "segment=5", "model=blend", "model.network.scale=4",
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while not finished(output):
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        said, _ = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "Interrupted. Run the same command again to continue" in said
    parts = len(finished(output))
    assert 0 < parts < 80
    resumed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stderr
    assert f"{parts} of 80 parts are finished" in resumed


SLOW_NETWORK = """
import torch
from src.papers.baselines import Bicubic


class Slow(Bicubic):
    def forward(self, clip):
        matrix = torch.rand(8000, 8000)
        print("computing", flush=True)
        torch.linalg.svdvals(matrix)  # a minute and more, without a break for signal handlers
        return super().forward(clip)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_long_operation_does_not_delay_the_end(number, tmp_path):
    (tmp_path / "slow_network.py").write_text(SLOW_NETWORK)
    source, output = film(tmp_path / "in.mkv", frames=3), tmp_path / "out.mkv"
    command = [
        sys.executable, "-m", "src.run", "task=restore", f"input={source}", f"output={output}", "model=bicubic",
        "model.network._target_=slow_network.Slow", "model.network.scale=1",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(2):  # first to measure its memory
            assert process.stdout.readline() == "computing\n"
        time.sleep(1)
        start = time.monotonic()
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert time.monotonic() - start < 10
    assert process.returncode == 128 + number, said
    assert said.endswith("Interrupted. Run the same command again to continue (for training, add resume=true).\n")
    assert not output.exists()
    assert (Journal.locate(output) / "plan.json").exists()


@pytest.mark.slow
def test_two_ranks_restore_as_one_does(tmp_path):
    source = film(tmp_path / "in.mkv", frames=40)
    common = ["task=restore", f"input={source}", "model=blend", "codec=ffv1", "segment=9"]
    run(*common, f"output={tmp_path / 'one.mkv'}")
    run(*common, f"output={tmp_path / 'two.mkv'}", "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")
    assert (tmp_path / "one.mkv").read_bytes() == (tmp_path / "two.mkv").read_bytes()


class Busy(torch.nn.Module):
    """Does nothing, for 50 ms a frame."""

    geometry = Geometry(1, 1, (Fraction(0),))

    def forward(self, clip):
        time.sleep(0.05)
        return clip


@pytest.mark.slow
def test_reading_and_writing_cost_little_beside_the_network(tmp_path):
    source, frames = film(tmp_path / "in.mp4", frames=250, size=(480, 854), codec="h264"), 200
    over = []
    for number in range(3):  # the least counts, as others use the machine, too
        whole = restoration(source, tmp_path / f"{number}.mp4", Busy(), max_frames=frames)
        missing, begun = whole.journal.list_missing(whole.parts), time.perf_counter()
        whole.run(missing)
        whole.finish()
        over.append((time.perf_counter() - begun) / (0.05 * frames) - 1)
    assert min(over) < 0.10, over


def finished(output):
    return list(Journal.locate(output).glob("*-*.nut"))


REAL = ROOT.parent / "shared" / "data"


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data is not there")
def test_what_people_really_have(tmp_path):
    """Every odd file is restored, or refused in one sentence; sound keeps every sample."""
    outcomes = {}
    for source in sorted((REAL / "odd").iterdir()):
        if source.suffix == ".md":
            continue
        output = tmp_path / f"{source.stem}.mp4"  # which has edit lists: in Matroska what AAC begins with is heard
        try:
            whole = restoration(source, output, codec="auto", preset="ultrafast", max_frames=40)
            whole.run(whole.journal.list_missing(whole.parts))
            whole.finish()
        except UserError as problem:
            outcomes[source.name] = str(problem)
            continue
        outcomes[source.name] = ""
        with open_video(output) as ours, open_video(source) as theirs:
            assert len(ours) == min(40, len(theirs))
            assert ours.size == theirs.size
            assert ours.aspect == theirs.aspect
            start, frame = theirs.times[0], 1 / theirs.fps
            expected = theirs.times[40] if len(theirs) > 40 else theirs.end
            assert abs(ours.end - ours.times[0] - (expected - start)) <= frame
        if len(theirs) <= 40:
            assert samples(output) == samples(source), source.name
    assert "max_frames=28" in outcomes["corrupted_h264.mp4"]
    assert not any("\n" in said for said in outcomes.values())
    refused = {name for name, said in outcomes.items() if said}
    assert refused == {
        "audio_only.mp4", "corrupted_h264.mp4", "raw_h264_error_resolution_change.264", "zero_frames_init_segment.mp4",
    }  # fmt: skip


def samples(path):
    """Samples of sound, as decoded."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return 0
        return sum(frame.samples for frame in container.decode(audio=0))
