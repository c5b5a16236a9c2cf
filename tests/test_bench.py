"""Timing is interleaved, honest about what it measured, and on disk after every row."""

import json
import math
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinc.deploy._timing import interleave, statistics, warm_up
from edgeinc.deploy._variants import Variant
from edgeinc.deploy.bench import bench, time_scope
from edgeinc.errors import UsageError
from edgeinc.progress import SILENT
from edgeinc.runs import create_run, sha256
from edgeinc.runtimes import Session, open_artifact
from edgeinc.schema import (
    BenchResult,
    ClassInfo,
    ClassTable,
    DataRef,
    Host,
    RunInfo,
    StepInfo,
    from_json,
)

SIZE = (48, 64)
CLASSES = (
    ClassInfo(0, "road", (128, 64, 128), 0),
    ClassInfo(1, "building", (90, 90, 90), 0),
    ClassInfo(2, "sky", (70, 130, 180), 0),
)


class Clock:
    """Time that passes only when a frame says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


# ---------------------------------------------------------------------------------- statistics


def percentile(values, q):
    """Linear interpolation between the two nearest ranks, written out."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * q / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


@pytest.mark.parametrize("n", [1, 2, 7, 100, 101])
def test_percentiles_are_those_of_numpy_and_of_the_definition(n):
    times = np.random.default_rng(n).gamma(2, 0.01, n)
    found = statistics(list(times))
    for value, q in ((found.p50_ms, 50), (found.p90_ms, 90), (found.p99_ms, 99)):
        assert value == pytest.approx(1000 * np.percentile(times, q))
        assert value == pytest.approx(1000 * percentile(times, q))
    assert found.fps == pytest.approx(1000 / found.p50_ms)
    assert found.frames == n


def test_scatter_beyond_ten_percent_is_unstable():
    calm = statistics([1.0, 1.1, 0.9, 1.0])
    wild = statistics([1.0, 1.2, 0.8, 1.0])
    assert calm.cov_percent == pytest.approx(100 * math.sqrt(0.02 / 4))
    assert wild.cov_percent == pytest.approx(100 * math.sqrt(0.08 / 4))
    assert (calm.status, wild.status) == ("ok", "unstable")


def test_no_frame_is_no_statistics():
    with pytest.raises(ValueError, match="no frame"):
        statistics([])


# ---------------------------------------------------------------------------------- warming up


def paced(clock, seconds):
    """A frame that takes the given seconds, one after the other, the last for ever."""

    def frame(i):
        clock.now += seconds[min(i, len(seconds) - 1)]

    return frame


@pytest.mark.parametrize(
    ("seconds", "frames"),
    [
        ([0.2], 10),  # steady from the start: ten frames, more than a second
        ([0.01], 100),  # ten frames take no second
        ([0.5, 0.4, 0.3, 0.2, 0.2], 14),  # until the slow ones have left the window
        ([30.0], 1),  # slower than the longest wait
        ([0.2, 0.4] * 500, 34),  # never steady: until ten seconds are over
    ],
    ids=["steady", "fast", "settling", "very slow", "restless"],
)
def test_warming_up_lasts_until_the_times_are_steady(clock, seconds, frames):
    ran = warm_up(paced(clock, seconds), duration=5.0, clock=clock)
    assert ran == pytest.approx(frames, abs=1)  # sums of floats decide the last one


# ---------------------------------------------------------------------------------- taking turns


class Count:
    done = 0

    def advance(self, n=1, note=""):
        self.done += n


def play(clock, seconds, duration):
    """Interleave variants of constant speed; returns their times and the order of frames."""
    order = []

    def variant(name, pace):
        def frame(i):
            order.append((name, i))
            clock.now += pace

        return frame

    frames = [variant(name, pace) for name, pace in zip("AB", seconds, strict=False)]
    task = Count()
    times = interleave(frames, duration=duration, task=task, clock=clock)
    assert task.done == len(frames)
    return times, order


def turns(order):
    names = [name for name, _ in order]
    return [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]


def test_variants_take_turns_until_each_had_its_time(clock):
    times, order = play(clock, (0.0625, 0.125), duration=5.0)
    assert turns(order)[:8] == list("ABABABAB")
    assert [sum(t) for t in times] == [pytest.approx(5, abs=0.6)] * 2
    assert set(times[0]) == {0.0625}
    assert set(times[1]) == {0.125}


def test_a_turn_begins_with_frames_that_do_not_count(clock):
    times, order = play(clock, (0.0625, 0.0625), duration=5.0)
    assert sum(len(t) for t in times) < len(order)
    turn = [*range(2), *range(8), *range(2), *range(8, 16)]  # a tenth of a second, then a half
    assert [i for name, i in order if name == "A"][:20] == turn


def test_a_single_variant_wastes_no_frame(clock):
    times, order = play(clock, (0.0625,), duration=5.0)
    assert [i for _, i in order] == list(range(len(times[0])))


def test_a_slow_variant_gets_thirty_frames_or_four_times_the_duration(clock):
    times, _ = play(clock, (0.25, 2.0), duration=5.0)
    assert len(times[0]) == 30
    assert sum(times[1]) == 20
    times, _ = play(clock, (100.0,), duration=5.0)
    assert times == [[100.0]]


def test_a_machine_that_slows_down_slows_all_variants(clock):
    def drifting(i):
        clock.now += 0.05 * (1 + (clock.now - 100) / 30)

    times = interleave([drifting, drifting], duration=5.0, task=Count(), clock=clock)
    medians = [float(np.median(t)) for t in times]
    assert medians[0] == pytest.approx(medians[1], rel=0.05)
    assert max(times[0]) > 1.2 * min(times[0])


# ---------------------------------------------------------------------------------- scopes


class Slow(Session):
    """A session that lets time pass and notes what it was given."""

    provider, precision, threads, step = "test", "fp32", 1, 0
    table = ClassTable(CLASSES)

    def __init__(self, runtime, path, clock, seconds, log):
        self.runtime, self.path, self.size, self.sha256 = runtime, path, (8, 12), ""
        self.clock, self.seconds, self.log = clock, seconds, log

    def run(self, images):
        self.check(images)
        self.log.append((self.runtime, int(images[0, 0, 0, 0])))
        self.clock.now += self.seconds
        return np.zeros(images.shape[:3], np.uint8)


@pytest.mark.parametrize("scope", ["infer", "e2e"])
def test_a_row_says_what_was_timed(clock, tmp_path, scope):
    file = tmp_path / "a.onnx"
    file.write_bytes(b"12345")
    log = []
    live = [
        (Variant(file, name), Slow(name, file, clock, seconds, log))
        for name, seconds in (("fast", 0.02), ("slow", 0.05))
    ]
    images = [np.full((16, 24, 3), value, np.uint8) for value in (7, 8, 9)]
    rows = time_scope(scope, live, images, duration=2.0, clock=clock)
    assert [(r.runtime, r.scope, r.status) for r in rows] == [
        ("fast", scope, "ok"),
        ("slow", scope, "ok"),
    ]
    assert [r.p50_ms for r in rows] == [pytest.approx(20), pytest.approx(50)]
    assert [r.fps for r in rows] == [pytest.approx(50), pytest.approx(20)]
    assert [r.cov_percent for r in rows] == [pytest.approx(0, abs=1e-6)] * 2
    assert [r.file_bytes for r in rows] == [5, 5]
    assert all(r.frames >= 30 and r.size == (8, 12) and r.miou is None for r in rows)
    assert all(r.peak_mb is None or r.peak_mb > 10 for r in rows)
    assert {value for _, value in log} == {7, 8, 9}


# ---------------------------------------------------------------------------------- real runs


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On a machine that is busy with other tests, torch's threads would wait for one another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeinc.host.cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    from edgeinc.models import create

    info = RunInfo("erfnet", {"width": 0.25}, SIZE, "2026-01-01T00:00:00Z")
    run = create_run(tmp_path_factory.mktemp("runs") / "tiny", info)
    torch.manual_seed(0)
    run.folder(0).mkdir()
    weights = run.folder(0) / "weights.safetensors"
    save_file(create("erfnet", (3,), {"width": 0.25}).state_dict(), weights)
    run.write_step(
        StepInfo(
            index=0,
            status="done",
            method="base",
            method_options={},
            new_classes=tuple(c.name for c in CLASSES),
            classes=CLASSES,
            background="none",
            data=DataRef("streets", "/nowhere"),
            images=1,
            images_sha256="",
            settings={},
            host=Host("Linux x86_64", "3.12", "cpu", 2, 8.0, {}),
            command="",
            started="2026-01-01T00:00:00Z",
            iterations=1,
            weights_sha256=sha256(weights),
        )
    )
    return run.path


@pytest.fixture(scope="module")
def exported(run):
    pytest.importorskip("onnxruntime")
    from edgeinc.deploy.export import export

    return export(run)


def test_what_is_not_exported_is_skipped_and_says_how_to_get_it(run, tmp_path):
    fresh = tmp_path / "run"
    shutil.copytree(run, fresh, ignore=shutil.ignore_patterns("export"))
    result = bench(fresh, duration=0.1, threads=1)
    status = {(r.runtime, r.scope): r.status for r in result.rows}
    assert status["torch", "infer"] in ("ok", "unstable")
    for scope in ("infer", "e2e"):
        assert status["onnxruntime", scope].startswith("skipped: ")
        assert "edgeinc export" in status["onnxruntime", scope]
    skipped = next(r for r in result.rows if r.runtime == "onnxruntime")
    assert (skipped.p50_ms, skipped.fps, skipped.frames, skipped.miou) == (None, None, 0, None)
    assert skipped.size == SIZE


def test_a_run_is_timed_as_trained_and_as_exported(run, exported):
    result = bench(run, duration=0.2, threads=1)
    assert result.path == str(run / "bench" / "bench.json")
    text = Path(result.path).read_text(encoding="utf-8")
    assert from_json(BenchResult, text, source=result.path) == result
    rows = {(r.runtime, r.scope): r for r in result.rows}
    assert set(rows) == {(n, s) for n in ("onnxruntime", "torch") for s in ("infer", "e2e")}
    assert rows["torch", "infer"].artifact == str(run / "step-0")
    assert rows["onnxruntime", "infer"].artifact == exported.path
    assert rows["onnxruntime", "e2e"].provider == "CPUExecutionProvider"
    assert rows["torch", "e2e"].provider == "cpu"
    assert rows["onnxruntime", "infer"].file_bytes == exported.card.bytes
    for row in result.rows:
        assert row.status in ("ok", "unstable")
        assert row.threads == 1
        assert 0 < row.p50_ms <= row.p90_ms <= row.p99_ms
        assert row.fps == pytest.approx(1000 / row.p50_ms)
    assert "16 val images of streets" in result.scopes["images"]
    assert {"infer", "e2e", "images", "peak_mb"} == set(result.scopes)
    assert result.data is None
    assert result.host.cores >= 1


def test_with_data_the_timed_session_is_scored(run, exported, tmp_path):
    from edgeinc.data import open_dataset

    out = tmp_path / "new" / "mine.json"
    result = bench(exported.path, data="streets", limit=3, duration=0.1, threads=1, out=out)
    assert result.path == str(out)
    assert (result.images, result.data.name) == (3, "streets")
    dataset = open_dataset("streets")
    ids_of = {label.name: label.id for label in dataset.labels}
    hit, union = np.zeros(3), np.zeros(3)
    with open_artifact(exported.path) as session:
        for image_id in dataset.ids("val")[:3]:
            image, mask = dataset.image(image_id), dataset.mask(image_id)
            ids = session.run(cv2.resize(image, SIZE[::-1])[None])[0]
            ids = cv2.resize(ids, mask.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
            known = np.isin(mask, [ids_of[c.name] for c in CLASSES])
            for c in CLASSES:
                truth, predicted = mask == ids_of[c.name], (ids == c.id) & known
                hit[c.id] += (truth & predicted).sum()
                union[c.id] += (truth | predicted).sum()
    expected = 100 * np.mean(hit / union)
    assert [row.miou for row in result.rows] == [pytest.approx(expected)] * 2


def test_a_file_is_timed_by_the_runtime_that_opens_it(exported):
    result = bench(exported.path, duration=0.1, threads=1)
    assert {r.runtime for r in result.rows} == {"onnxruntime"}
    assert result.path == exported.path.replace(".onnx", ".bench.json")
    assert "images of streets" in result.scopes["images"]


def test_a_file_from_elsewhere_is_timed_on_noise_and_says_so(exported, tmp_path):
    copied = tmp_path / "away.onnx"
    copied.write_bytes(Path(exported.path).read_bytes())
    result = bench(copied, duration=0.1, threads=1)
    assert "noise" in result.scopes["images"]
    assert result.path == str(tmp_path / "away.bench.json")


def test_a_runtime_that_does_not_open_the_file_is_skipped(exported, tmp_path):
    result = bench(exported.path, runtimes=["torch"], duration=0.1, out=tmp_path / "bench.json")
    assert [r.status for r in result.rows] == ["skipped: does not open .onnx files"] * 2


def test_a_device_that_is_not_here_is_skipped_not_replaced(run, exported, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("CUDA is here")
    result = bench(run, device="cuda", duration=0.1, out=tmp_path / "bench.json")
    assert len(result.rows) == 4
    for row in result.rows:
        assert row.status.startswith("skipped: ")
        assert "cuda" in row.status
        assert row.p50_ms is None


def test_without_onnxruntime_its_rows_are_skipped_with_the_way_to_get_it(python, exported, run):
    out = run / "without.json"
    code = (
        "import edgeinc\n"
        f"r = edgeinc.bench({str(run)!r}, runtimes=['onnxruntime'], out={str(out)!r})\n"
        "print(*[row.status for row in r.rows], sep='\\n')"
    )
    done = python("-c", code, without=["onnxruntime"])
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("skipped: onnxruntime is not installed" in line for line in lines)
    assert all("pip install" in line for line in lines)


def test_the_result_is_on_disk_before_the_next_scope_begins(run, exported, tmp_path):
    out = tmp_path / "bench.json"
    seen = {}

    class Watch:
        @contextmanager
        def task(self, name, total, unit="it", done=0):
            seen[name] = [r["scope"] for r in json.loads(out.read_text())["rows"]]
            with SILENT.task(name, total) as task:
                yield task

        def message(self, text):
            pass

    bench(run, duration=0.1, threads=1, out=out, progress=Watch())
    assert seen == {"time infer": [], "time e2e": ["infer", "infer"]}
    assert len(json.loads(out.read_text())["rows"]) == 4


@pytest.mark.parametrize(
    ("targets", "options", "message"),
    [
        ([], {}, "nothing to benchmark"),
        (["no/such/run"], {}, "no/such/run"),
        (["RUN"], {"runtimes": ["onnx"]}, "unknown runtime 'onnx'"),
        (["RUN"], {"duration": 0}, "0 seconds"),
        (["RUN"], {"duration": math.nan}, "nan seconds"),
        (["RUN/run.json"], {}, "no runtime opens"),
        (["RUN"], {"data": "camvit"}, "camvit"),
    ],
    ids=["nothing", "no target", "runtime", "duration", "not a number", "file", "data"],
)
def test_what_cannot_be_measured_is_refused_with_a_way_out(run, targets, options, message):
    targets = [t.replace("RUN", os.fspath(run)) for t in targets]
    with pytest.raises(UsageError, match=message) as caught:
        bench(*targets, **options)
    assert caught.value.hint
