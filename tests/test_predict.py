"""Pictures, masks and videos of what a small real network sees."""

import contextlib

import cv2
import numpy as np
import pytest

from edgeinc.errors import DataError, EdgeincError, Interrupted, MissingError, UsageError
from edgeinc.predict import predict
from edgeinc.runs import create_run, sha256
from edgeinc.schema import ClassInfo, DataRef, Host, RunInfo, StepInfo

torch = pytest.importorskip("torch")

SIZE = (48, 64)
CLASSES = (
    ClassInfo(0, "road", (128, 64, 128), 0),
    ClassInfo(1, "sky", (70, 130, 180), 0),
    ClassInfo(2, "tree", (107, 142, 35), 0),
    ClassInfo(3, "car", (0, 0, 142), 1),
)
HOST = Host("Linux x86_64", "3.12", "cpu", 2, 8.0, {})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two steps of a small ERFNet with random weights: three classes, then one more."""
    from safetensors.torch import save_file

    from edgeinc.models import create

    run = create_run(
        tmp_path_factory.mktemp("runs") / "tiny",
        RunInfo("erfnet", {"width": 0.25}, SIZE, "2026-01-01T00:00:00Z"),
    )
    torch.manual_seed(3)
    model = create("erfnet", [3], {"width": 0.25})
    for index in range(2):
        if index:
            model.grow(1)
        run.folder(index).mkdir()
        weights = run.folder(index) / "weights.safetensors"
        save_file(model.state_dict(), weights)
        table = tuple(c for c in CLASSES if c.step <= index)
        run.write_step(
            StepInfo(
                index=index,
                status="done",
                method="finetune",
                method_options={},
                new_classes=tuple(c.name for c in table if c.step == index),
                classes=table,
                background="none",
                data=DataRef("streets", "/nowhere"),
                images=1,
                images_sha256="",
                settings={},
                host=HOST,
                command="",
                started="2026-01-01T00:00:00Z",
                iterations=1,
                weights_sha256=sha256(weights),
            )
        )
    return run.path


def picture(height, width, seed=0):
    """Smooth coloured blobs, so that a random network tells places apart."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def image(tmp_path):
    """A PNG of twice the network's size; returns its path."""
    path = tmp_path / "street.png"
    cv2.imwrite(str(path), picture(2 * SIZE[0], 2 * SIZE[1]))
    return path


@pytest.fixture
def video(tmp_path):
    """Twelve frames at 8 frames per second."""
    path = tmp_path / "drive.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 8.0, (64, 48))
    for seed in range(12):
        writer.write(picture(48, 64, seed))
    writer.release()
    return path


def ids_of(run, rgb, step=1):
    from edgeinc.runtimes import open_artifact

    with open_artifact(run, step=step) as session:
        return session.run(rgb[None])[0]


def rgb_of(path):
    return cv2.imread(str(path))[..., ::-1]


def stored_ids(path):
    """Indices of a palette PNG, read by the project's own strict reader."""
    from edgeinc.data._files import read_mask

    return read_mask(path)


def stored_palette(path):
    content = path.read_bytes()
    at = content.index(b"PLTE")
    return np.frombuffer(content[at + 4 : at + 4 + 768], np.uint8).reshape(256, 3)


def test_a_mask_holds_the_ids_at_the_size_of_the_image(run, image, tmp_path):
    out = tmp_path / "mask.png"
    result = predict(run, image, out=out, save="mask")
    blocks = rgb_of(image).reshape(SIZE[0], 2, SIZE[1], 2, 3).astype(np.float64)
    small = np.floor(blocks.mean((1, 3)) + 0.5).astype(np.uint8)
    expected = ids_of(run, small).repeat(2, 0).repeat(2, 1)
    found = stored_ids(out)
    assert len(np.unique(expected)) > 1
    assert found.shape == expected.shape
    assert (found == expected).mean() > 0.99  # a rounding of the mean may differ
    assert result.outputs == (str(out),)
    assert (result.frames, result.runtime) == (1, "torch")
    assert result.fps > 0


def test_a_mask_shows_the_colours_of_the_classes(run, image, tmp_path):
    out = tmp_path / "mask.png"
    predict(run, image, out=out, save="mask")
    palette = stored_palette(out)
    for entry in CLASSES:
        assert tuple(palette[entry.id]) == entry.color
    shown = rgb_of(out)  # OpenCV applies the palette
    assert (shown == palette[stored_ids(out)]).all()


def test_an_overlay_keeps_the_pixels_of_the_image_and_names_what_it_sees(run, image, tmp_path):
    out = tmp_path / "seen.png"
    predict(run, image, out=out)
    predict(run, image, out=tmp_path / "ids.png", save="mask")
    seen, ids = rgb_of(out), stored_ids(tmp_path / "ids.png")
    colors = np.array([c.color for c in CLASSES])[ids]
    expected = (rgb_of(image).astype(float) + colors) / 2
    height, width = ids.shape
    assert np.abs(seen[:height, :width] - expected).max() <= 1
    below = {tuple(c) for c in seen[height:].reshape(-1, 3)}
    for entry in CLASSES:  # a swatch of exactly the classes that occur
        assert (entry.color in below) == (entry.id in ids)


def test_side_by_side_shows_the_image_first(run, image, tmp_path):
    out = tmp_path / "seen.png"
    predict(run, image, out=out, save="side-by-side")
    seen, source = rgb_of(out), rgb_of(image)
    assert seen.shape[1] >= 2 * source.shape[1]
    assert contains(seen[:, : seen.shape[1] // 2], enlarged(source))


def test_compare_shows_the_other_network_first(run, image, tmp_path):
    out, both = tmp_path / "seen.png", tmp_path / "both.png"
    predict(run, image, out=out, step=0)
    before = rgb_of(out)[: 2 * SIZE[0], : 2 * SIZE[1]]
    predict(run, image, out=out)
    after = rgb_of(out)[: 2 * SIZE[0], : 2 * SIZE[1]]
    result = predict(run, image, out=both, compare=run / "step-0")
    panels = rgb_of(both)
    middle = panels.shape[1] // 2
    assert (before != after).any()
    assert contains(panels[:, :middle], enlarged(before))
    assert contains(panels[:, middle:], enlarged(after))
    assert result.artifact == str(run / "step-1")


def enlarged(pixels):
    """The smallest whole multiple that is at least 360 pixels wide."""
    factor = next(n for n in range(1, 361) if n * pixels.shape[1] >= 360)
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def contains(picture, part):
    """Whether `part` stands somewhere in `picture`, pixel by pixel."""
    found = cv2.matchTemplate(
        np.ascontiguousarray(picture), np.ascontiguousarray(part), cv2.TM_SQDIFF
    )
    _, _, (x, y), _ = cv2.minMaxLoc(found)
    return bool((picture[y : y + part.shape[0], x : x + part.shape[1]] == part).all())


def test_a_folder_gives_a_folder_with_the_same_stems(run, tmp_path):
    source = tmp_path / "images"
    source.mkdir()
    for name, size in (("b.png", (50, 70)), ("a.jpg", (48, 64)), ("c.bmp", (31, 33))):
        cv2.imwrite(str(source / name), picture(*size))
    (source / "notes.txt").write_text("not an image")
    result = predict(run, source, out=tmp_path / "deep" / "masks", save="mask")
    written = sorted((tmp_path / "deep" / "masks").iterdir())
    assert [p.name for p in written] == ["a.png", "b.png", "c.png"]
    assert [stored_ids(p).shape for p in written] == [(48, 64), (50, 70), (31, 33)]
    assert result.outputs == tuple(map(str, written))
    assert result.frames == 3
    predict(run, source, out=tmp_path / "seen")
    assert sorted(p.name for p in (tmp_path / "seen").iterdir()) == ["a.jpg", "b.jpg", "c.jpg"]


def test_a_broken_image_of_a_folder_is_named_and_all_others_are_written(run, tmp_path):
    source, out = tmp_path / "images", tmp_path / "out"
    source.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        cv2.imwrite(str(source / name), picture(48, 64))
    content = (source / "b.png").read_bytes()
    (source / "b.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"^1 of 3 images could not be read: b\.png$") as caught:
        predict(run, source, out=out)
    assert sorted(p.name for p in out.iterdir()) == ["a.jpg", "c.jpg"]
    assert caught.value.hint.startswith(f"the other 2 are in {out}; ")
    assert "b.png" in caught.value.hint
    for name in ("a.png", "c.png", *(f"d{i:02}.png" for i in range(9))):
        (source / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"12 of 12 .*: a\.png, b\.png, .* and 2 more$") as caught:
        predict(run, source, out=tmp_path / "nothing")
    assert caught.value.hint.startswith("nothing was written")
    assert not (tmp_path / "nothing").exists()


def test_the_command_ends_with_one_when_an_image_was_not_read(run, tmp_path, monkeypatch, capsys):
    from edgeinc.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    cv2.imwrite("images/b.png", picture(48, 64))
    (tmp_path / "images" / "a.png").write_text("text")
    with pytest.raises(SystemExit) as end:
        main(["predict", str(run), "images", "-o", "out"])
    assert end.value.code == 1
    assert "1 of 2 images could not be read: a.png" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["b.jpg"]


def frames_of(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        ok, frame = capture.read()
        if not ok:
            return frames, capture.get(cv2.CAP_PROP_FPS)
        frames.append(frame[..., ::-1])


def test_a_video_keeps_its_frames_and_its_speed(run, video, tmp_path):
    out = tmp_path / "seen.mp4"
    result = predict(run, video, out=out)
    frames, fps = frames_of(out)
    assert len(frames) == result.frames == 12
    assert fps == pytest.approx(8.0)
    assert frames[0].shape[1] >= 64
    corner = frames[0][:10, :10].astype(int)
    assert corner.max() < 110  # the dark box behind the speed; compression blurs it
    assert [p.name for p in tmp_path.iterdir() if "part" in p.name] == []


def test_a_video_can_compare_two_networks(run, video, tmp_path):
    out = tmp_path / "seen.mp4"
    predict(run, video, out=out, compare=run / "step-0", save="side-by-side")
    frames, _ = frames_of(out)
    assert len(frames) == 12
    assert frames[0].shape[1] >= 3 * 64


class StopsAfter:
    """A progress that is interrupted as by Ctrl-C after `n` units."""

    def __init__(self, n):
        self.left = n

    @contextlib.contextmanager
    def task(self, name, total, unit="it", done=0):
        yield self

    def advance(self, n=1, note=""):
        self.left -= n
        if not self.left:
            raise KeyboardInterrupt

    def message(self, text):
        raise AssertionError(text)


def test_an_interrupted_video_is_a_complete_file(run, video, tmp_path):
    out = tmp_path / "seen.mp4"
    with pytest.raises(Interrupted, match="4 of 12"):
        predict(run, video, out=out, progress=StopsAfter(4))
    frames, _ = frames_of(out)
    assert len(frames) == 4


def test_a_failed_video_leaves_the_old_file(run, tmp_path):
    source, out = tmp_path / "drive.mp4", tmp_path / "seen.mp4"
    source.write_bytes(b"not a video at all")
    out.write_bytes(b"old")
    with pytest.raises(DataError, match=r"drive\.mp4"):
        predict(run, source, out=out)
    assert out.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["drive.mp4", "seen.mp4"]


@pytest.mark.parametrize(
    ("source", "out", "options", "error", "says"),
    [
        ("nothing.jpg", "o.jpg", {}, UsageError, "nothing.jpg"),
        ("notes.txt", "o.jpg", {}, UsageError, "notes.txt"),
        ("empty", "o", {}, DataError, "no images"),
        ("pictures", "file.jpg", {}, UsageError, "file.jpg is a file"),
        ("pictures", "pictures", {}, UsageError, "the source itself"),
        ("twins", "o", {}, UsageError, "one file"),
        ("pictures/a.png", "pictures/a.png", {}, UsageError, "the source itself"),
        ("pictures/a.png", "pictures", {}, UsageError, "does not name"),
        ("pictures/a.png", "o.gif", {}, UsageError, "o.gif"),
        ("pictures/a.png", "o.jpg", {"save": "mask"}, UsageError, "o.jpg"),
        ("pictures/a.png", "o.jpg", {"save": "overly"}, UsageError, "overly"),
        ("pictures/a.png", "o.png", {"save": "mask", "compare": "RUN"}, UsageError, "one network"),
        ("drive.mp4", "o.avi", {}, UsageError, "o.avi"),
        ("drive.mp4", "o.png", {"save": "mask"}, UsageError, "masks"),
        ("broken.png", "o.jpg", {}, DataError, "broken.png"),
        ("pictures/a.png", "o.jpg", {"step": 7}, UsageError, "no step 7"),
        ("pictures/a.png", "o.jpg", {"compare": "gone.onnx"}, UsageError, "gone.onnx"),
        ("97", "o.mp4", {}, MissingError, "camera 97"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_does_not_fit_is_one_clear_error(
    run, tmp_path, monkeypatch, source, out, options, error, says
):
    monkeypatch.chdir(tmp_path)
    for folder in ("pictures", "empty", "twins"):
        (tmp_path / folder).mkdir()
    for name in ("pictures/a.png", "file.jpg", "twins/a.png", "twins/a.jpg"):
        cv2.imwrite(name, picture(48, 64))
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "broken.png").write_text("text")
    (tmp_path / "drive.mp4").write_text("text")
    before = sorted(tmp_path.rglob("*"))
    options = {k: run if v == "RUN" else v for k, v in options.items()}
    with pytest.raises(EdgeincError) as caught:
        predict(run, source, out=out, **options)
    assert type(caught.value) is error
    assert says in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert sorted(tmp_path.rglob("*")) == before
