"""Restoring what people name: outputs among the inputs, odd names, sizes that a codec cannot hold."""

from __future__ import annotations

import av
import pytest

from src.config.composition import compose
from src.config.options import run_task
from src.errors import UserError
from src.video.reader import open_video
from tests.tasks.test_restore import film, restoration


def restore(directory, **options):
    quoted = [f"{key}={value}" for key, value in options.items()]
    run_task(compose("task=restore", "model=bicubic", "model.network.scale=1", *quoted), directory)


def contents(folder):
    """Every visible file with the time of its last change."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


@pytest.mark.parametrize(
    ("source", "output", "container", "made"),
    [
        ("clips", "clips/out", ".mp4", {"clips/out/a.mp4", "clips/out/b.mp4"}),
        ("clips", "clips", ".mkv", {"clips/a.mkv", "clips/b.mkv"}),
        ("clips/**/*.mp4", ".", ".mp4", {"a.mp4", "b.mp4"}),
        ("**/*.mp4", ".", ".mp4", {"a.mp4", "b.mp4"}),
        ("clips", "clips/out", "", {f"clips/out/{name}/{n:08d}.png" for name in "ab" for n in range(3)}),
    ],
)
def test_outputs_are_never_inputs(source, output, container, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    given = {f"clips/{film(tmp_path / 'clips' / name, frames=3).name}" for name in ("a.mp4", "b.mp4")}
    for time in range(3):
        restore(tmp_path, input=source, output=output, container=container, preview=2)
        now = contents(tmp_path)
        assert {name for name in now if ".preview/" not in name} == given | made
        if time == 0:
            first = now
    assert now == first


def test_an_output_beside_its_input_is_no_input(tmp_path):
    source = film(tmp_path / "clips" / "a.mp4", frames=3)
    restore(tmp_path, input=source.parent, output=source.with_name("out.mp4"), preview=2)
    with pytest.raises(UserError, match="exists already"):
        restore(tmp_path, input=source.parent, output=source.with_name("out.mp4"), preview=2)


@pytest.mark.parametrize("name", ["~tilde.mp4", "[Group] x.mp4", "[Group] x [1080p].mp4", "~no one/x.mp4"])
def test_any_name_is_taken_as_it_is(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    film(tmp_path / name, frames=3)
    restore(tmp_path, input=name, output=name.replace(".mp4", ".mkv"))
    with open_video(tmp_path / name.replace(".mp4", ".mkv")) as reader:
        assert len(reader) == 3


def test_lists_stay_lists():
    assert compose("task=restore", "input=[a.mp4,[b] c.mp4]", "output=x").input == ["a.mp4", "[b] c.mp4"]
    assert compose("task=restore", "input=a.mp4", "output=[x] y [z]").output == "[x] y [z]"


@pytest.mark.parametrize(
    ("name", "codec", "limit"),
    [
        ("w.mp4", "auto", r"h264 does not support 19200x64 pixels: its maximum is 16384x16384; choose hevc, ffv1"),
        (
            "w.webm",
            "auto",
            r"av1 does not support 19200x64 pixels: its maximum is 16384x8704; "
            r"choose hevc \(in w.mkv\), ffv1 \(in w.mkv\)",
        ),
        ("w.mkv", "lossless", "lossless does not support 19200x64 pixels"),
    ],
)
def test_a_size_beyond_the_codec_is_refused_before_anything_is_restored(name, codec, limit, tmp_path):
    source = film(tmp_path / "in.mkv", frames=2, size=(2, 600))
    with pytest.raises(UserError, match=limit):
        restore(tmp_path, input=source, output=tmp_path / name, codec=codec, **{"model.network.scale": 32})
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]


@pytest.mark.parametrize("options", [{"preset": 12}, {"preset": "12"}])
def test_presets_of_av1_are_numbers(options, tmp_path):
    source, output = film(tmp_path / "in.mkv", frames=3), tmp_path / "out.webm"
    whole = restoration(source, output, **options)
    whole.run([0])
    whole.finish()
    with av.open(str(output)) as container:
        assert container.streams.video[0].codec_context.name in ("av1", "libdav1d")


@pytest.mark.parametrize(("first", "later"), [("a.mkv", "a.mov"), ("a.mov", "a.mkv"), ("a.mkv", "more/a.mkv")])
@pytest.mark.parametrize("output", ["clips/out", "restored", "clips"])
def test_a_video_that_joins_changes_no_name(first, later, output, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    film(tmp_path / "clips" / first, frames=3)
    film(tmp_path / "clips" / "b.mkv", frames=3)
    restore(tmp_path, input="clips", output=output)
    before = contents(tmp_path)
    made = {f"{output}/a.mp4", f"{output}/b.mp4"}
    assert made <= before.keys()
    film(tmp_path / "clips" / later, frames=5)
    for _ in range(2):
        restore(tmp_path, input="clips", output=output)
        now = contents(tmp_path)
        assert {name: now[name] for name in before.keys() & made} == {name: before[name] for name in made}
        (added,) = {name for name in now if name.startswith(f"{output}/") and name.endswith(".mp4")} - made
        with open_video(added) as reader:
            assert len(reader) == 5


@pytest.mark.parametrize("others", [["a.mov"], ["a.mov", "b.mkv"]])
def test_an_original_in_the_output_folder_stays_an_input(others, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for name in ["a.mp4", *others]:
        film(tmp_path / "clips" / name, frames=3)
    given = contents(tmp_path)
    for time in range(3):
        restore(tmp_path, input="clips", output="clips")
        now = contents(tmp_path)
        assert {name: now[name] for name in given} == given
        assert len(now) == 2 * len(given)
        said = capfd.readouterr().err
        made = sorted(now.keys() - given.keys())
        assert time == 0 or f"were restored before: {'; '.join(made)}." in said


def test_an_original_with_the_name_of_an_output_is_left_as_it_is(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "a.mov", "b.mov"):
        film(tmp_path / "clips" / name, frames=3)
    given = contents(tmp_path)
    restore(tmp_path, input="clips/*.mov", output="clips")
    assert "clips/a.mp4 exists already: clips/a.mov is left out." in capfd.readouterr().err
    restore(tmp_path, input="clips", output="clips")  # a.mp4 was never made here, so it is an input
    now = contents(tmp_path)
    assert {name: now[name] for name in given} == given
    assert now.keys() - given.keys() == {
        "clips/b.mp4",
        "clips/clips_a_mp4.mp4",
        "clips/clips_a_mov.mp4",
    }
