"""Timing is interleaved, honest about what it measured, and on disk after every row."""

import json
import math
import os
import shutil
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeinc.deploy._scopes import SCOPES, time_scopes
from edgeinc.deploy._sensors import Reading, Sensor
from edgeinc.deploy._timing import interleave, statistics, warm_up
from edgeinc.deploy._variants import Variant
from edgeinc.deploy.bench import bench
from edgeinc.deploy.monitor import Monitor
from edgeinc.errors import Interrupted, UsageError
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


def play(clock, seconds, duration):
    """Interleave variants of constant speed; returns their times and the order of frames."""
    order = []

    def variant(name, pace):
        def frame(i):
            order.append((name, i))
            clock.now += pace

        return frame

    frames = [variant(name, pace) for name, pace in zip("AB", seconds, strict=False)]
    done = dict(interleave(frames, duration=duration, clock=clock))
    assert sorted(done) == list(range(len(frames)))
    return [done[i].seconds for i in sorted(done)], order


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

    times = [t.seconds for _, t in interleave([drifting] * 2, duration=5.0, clock=clock)]
    medians = [float(np.median(t)) for t in times]
    assert medians[0] == pytest.approx(medians[1], rel=0.05)
    assert max(times[0]) > 1.2 * min(times[0])


def test_a_turn_lasts_from_its_first_to_its_last_frame_that_counts(clock):
    log = []

    def variant(name):
        def frame(i):
            log.append((name, clock.now))
            clock.now += 0.125

        return frame

    done = dict(interleave([variant("A"), variant("B")], duration=4.0, turn=1.0, clock=clock))
    for index, name in enumerate("AB"):
        starts = [begin for n, begin in log if n == name]
        for begin, end in done[index].turns:
            assert end - begin == 1.0
            assert sum(begin <= start < end for start in starts) == 8
        assert len(done[index].seconds) == 8 * len(done[index].turns)
    spans = sorted([*done[0].turns, *done[1].turns])
    assert all(a[1] <= b[0] for a, b in pairwise(spans))


def test_a_variant_that_is_done_is_given_before_the_others_are(clock):
    def fast(i):
        clock.now += 0.05

    def slow(i):
        clock.now += 1.0

    found = interleave([slow, fast], duration=2.0, clock=clock)
    assert next(found)[0] == 1
    soon = clock.now
    assert next(found)[0] == 0
    assert clock.now > soon + 2


# ---------------------------------------------------------------------------------- scopes


class Slow(Session):
    """A session that lets time pass and notes what it was given."""

    provider, precision, threads, step = "cpu", "fp32", 1, 0
    table = ClassTable(CLASSES)

    def __init__(self, runtime, path, clock, seconds, log):
        self.runtime, self.path, self.size, self.sha256 = runtime, path, (8, 12), ""
        self.clock, self.seconds, self.log = clock, seconds, log

    def run(self, images):
        self.check(images)
        self.log.append((self.runtime, int(images[0, 0, 0, 0])))
        self.clock.now += self.seconds
        return np.zeros(images.shape[:3], np.uint8)


class OnDevice(Slow):
    """As a GPU's: a call of its own without the copies, which takes half of the time."""

    provider = "cuda:0"

    def prepared(self, images):
        def compute():
            self.log.append(("prepared", int(images[0, 0, 0, 0])))
            self.clock.now += self.seconds / 2

        return compute


class NoSuchCall(Slow):
    provider = "cuda:0"


def timed_rows(clock, tmp_path, kind, scopes, monitor=None):
    file = tmp_path / "a.onnx"
    file.write_bytes(b"12345")
    log = []
    live = [
        (Variant(file, name), kind(name, file, clock, seconds, log))
        for name, seconds in (("fast", 0.02), ("slow", 0.05))
    ]
    images = [np.full((16, 24, 3), value, np.uint8) for value in (7, 8, 9)]
    found = time_scopes(scopes, live, images, duration=2.0, clock=clock, monitor=monitor)
    return list(found), log


@pytest.mark.parametrize("scope", ["infer", "io", "e2e"])
def test_a_row_says_what_was_timed(clock, tmp_path, scope):
    rows, log = timed_rows(clock, tmp_path, Slow, [scope])
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
    assert all(r.watts is r.joules is r.throttled is None for r in rows)
    assert {value for _, value in log} == {7, 8, 9}


def test_on_a_cpu_infer_and_io_are_measured_once_and_say_so(clock, tmp_path):
    alone, one = timed_rows(clock, tmp_path, Slow, ["io"])
    rows, both = timed_rows(clock, tmp_path, Slow, ["infer", "io"])
    assert {(r.runtime, r.scope) for r in rows} == {
        (n, s) for n in ("fast", "slow") for s in ("infer", "io")
    }
    assert len(both) == pytest.approx(len(one), abs=2)
    fast = [r for r in rows if r.runtime == "fast"]
    assert (fast[0].p50_ms, fast[0].frames) == (fast[1].p50_ms, fast[1].frames)
    assert all("one measurement" in r.note for r in rows)
    assert all(r.note == "" for r in alone)


def test_on_a_gpu_infer_leaves_the_copies_out(clock, tmp_path):
    rows, log = timed_rows(clock, tmp_path, OnDevice, ["infer", "io", "e2e"])
    p50 = {(r.runtime, r.scope): r.p50_ms for r in rows}
    assert p50["fast", "infer"] == pytest.approx(10)
    assert p50["slow", "infer"] == pytest.approx(25)
    assert p50["fast", "io"] == p50["fast", "e2e"] == pytest.approx(20)
    assert {value for name, value in log if name == "prepared"} == {7, 8, 9}


def test_a_gpu_without_such_a_call_has_no_figure_for_infer(clock, tmp_path):
    rows, _ = timed_rows(clock, tmp_path, NoSuchCall, ["infer", "io"])
    assert [(r.scope, r.fps is None) for r in rows] == [
        *[("infer", True)] * 2,
        *[("io", False)] * 2,
    ]
    assert "skipped: fast has no call without copies on cuda:0" in [r.status for r in rows]


def test_energy_of_a_frame_is_that_of_the_turns_of_its_variant(clock, tmp_path):
    draws = {"fast": 30.0, "slow": 12.0}
    state = {"runtime": "fast"}

    class Watched(OnDevice):
        def run(self, images):
            state["runtime"] = self.runtime
            monitor.sample()
            ids = super().run(images)
            monitor.sample()
            return ids

    class Meter(Sensor):
        name, covers, measures_power = "meter", "board", True

        def read(self):
            return Reading(watts=draws[state["runtime"]], throttled=False)

    monitor = Monitor([Meter()], clock=clock)
    rows, _ = timed_rows(clock, tmp_path, Watched, ["io"], monitor)
    found = {r.runtime: r for r in rows}
    for name, seconds in (("fast", 0.02), ("slow", 0.05)):
        assert found[name].watts == pytest.approx(draws[name], rel=1e-6)
        assert found[name].joules == pytest.approx(draws[name] * seconds, rel=1e-6)
        assert found[name].throttled is False


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
    for scope in ("infer", "io", "e2e"):
        assert status["onnxruntime", scope].startswith("skipped: ")
        assert "edgeinc export" in status["onnxruntime", scope]
    skipped = next(r for r in result.rows if r.runtime == "onnxruntime")
    assert (skipped.p50_ms, skipped.fps, skipped.frames, skipped.miou) == (None, None, 0, None)
    assert skipped.size == SIZE


def test_a_run_is_timed_as_trained_and_as_exported(run, exported):
    result = bench(run, runtimes=["torch", "onnxruntime"], duration=0.2, threads=1)
    assert result.path == str(run / "bench" / "bench.json")
    text = Path(result.path).read_text(encoding="utf-8")
    assert from_json(BenchResult, text, source=result.path) == result
    rows = {(r.runtime, r.scope): r for r in result.rows}
    assert set(rows) == {(n, s) for n in ("onnxruntime", "torch") for s in ("infer", "io", "e2e")}
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
    assert {"infer", "io", "e2e", "images", "peak_mb"} == set(result.scopes)
    assert rows["onnxruntime", "infer"].p50_ms == rows["onnxruntime", "io"].p50_ms
    assert rows["onnxruntime", "e2e"].agreement == pytest.approx(100, abs=0.5)
    assert rows["torch", "e2e"].agreement is None
    assert (result.finished, result.gates, result.comparison) == (True, (), None)
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
    assert [row.miou for row in result.rows] == [pytest.approx(expected)] * 3
    assert [row.miou_new for row in result.rows] == [pytest.approx(expected)] * 3
    assert [row.miou_old for row in result.rows] == [None] * 3


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
    assert [r.status for r in result.rows] == ["skipped: does not open .onnx files"] * 3


def test_a_device_that_is_not_here_is_skipped_not_replaced(run, exported, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("CUDA is here")
    result = bench(
        run,
        runtimes=["torch", "onnxruntime"],
        device="cuda",
        duration=0.1,
        out=tmp_path / "bench.json",
    )
    assert len(result.rows) == 6
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
    assert len(lines) == 3
    assert all("skipped: onnxruntime is not installed" in line for line in lines)
    assert all("pip install" in line for line in lines)


class Stop:
    """Progress that looks into the file when a task begins, and may press Ctrl-C."""

    def __init__(self, out, at=None):
        self.out, self.at, self.seen = out, at, {}

    @contextmanager
    def task(self, name, total, unit="it", done=0):
        rows = json.loads(self.out.read_text())["rows"] if self.out.exists() else None
        self.seen[name] = None if rows is None else [r["scope"] for r in rows]
        if name == self.at:
            raise KeyboardInterrupt
        with SILENT.task(name, total) as task:
            yield task

    def message(self, text):
        pass


def test_the_result_is_on_disk_before_the_next_scope_begins(run, exported, tmp_path):
    out = tmp_path / "bench.json"
    watch = Stop(out)
    bench(run, runtimes=["torch", "onnxruntime"], duration=0.1, threads=1, out=out, progress=watch)
    assert watch.seen["time io"] is None
    assert watch.seen["time e2e"] == ["infer", "infer", "io", "io"]
    document = json.loads(out.read_text())
    assert [r["scope"] for r in document["rows"]] == [s for s in SCOPES for _ in range(2)]
    assert document["finished"] is True


def test_what_was_finished_before_ctrl_c_is_kept_and_called_unfinished(exported, tmp_path):
    out = tmp_path / "bench.json"
    with pytest.raises(Interrupted, match="2 finished rows are in") as caught:
        bench(exported.path, duration=0.1, threads=1, out=out, progress=Stop(out, at="time e2e"))
    assert str(out) in str(caught.value)
    assert caught.value.exit_code == 130
    kept = from_json(BenchResult, out.read_text(), source="bench")
    assert kept.finished is False
    assert [(r.scope, r.fps is not None) for r in kept.rows] == [("infer", True), ("io", True)]
    again = bench(exported.path, duration=0.1, threads=1, scopes=["e2e"], out=out)
    assert [r.scope for r in again.rows] == ["e2e"]
    assert from_json(BenchResult, out.read_text(), source="bench") == again


def test_ctrl_c_before_the_first_row_leaves_an_earlier_file_alone(run, tmp_path):
    out = tmp_path / "bench.json"
    out.write_text('{"rows": []}')
    with pytest.raises(Interrupted, match="no file was written"):
        bench(run, duration=0.1, threads=1, out=out, progress=Stop(out, at="time io"))
    assert out.read_text() == '{"rows": []}'


def test_a_run_on_a_recorded_board_has_watts_and_says_how_it_was_set(exported, tmp_path):
    chip = tmp_path / "sys/class/hwmon/hwmon1"
    files = {
        "sys/class/hwmon/hwmon1/name": "ina3221",
        f"{chip}/in1_label": "VDD_IN",
        f"{chip}/in1_input": "5000",
        f"{chip}/curr1_input": "1800",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano",
        "sys/class/thermal/cooling_device0/type": "cpu-throttle-alert",
        "sys/class/thermal/cooling_device0/cur_state": "0",
    }
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    out = tmp_path / "bench.json"
    result = bench(exported.path, duration=1.0, scopes=["e2e"], threads=1, out=out, system=tmp_path)
    (row,) = result.rows
    assert row.watts == pytest.approx(9.0)
    # a frame's share of the turns, which are hardly longer than the frames in them
    assert 9.0 * row.p50_ms / 1000 * 0.5 < row.joules < 9.0 * row.p99_ms / 1000 * 3
    assert row.throttled is False
    assert (result.board.model, result.board.l4t) == ("NVIDIA Jetson Orin Nano", "36.4.3")
    assert [(m.covers, m.idle_watts) for m in result.meters] == [("board", pytest.approx(9.0))]


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
        (["RUN"], {"scopes": ["e2"]}, "unknown scope 'e2'"),
        (["RUN"], {"tolerance": -1}, "-1 percent"),
        (["RUN"], {"compare_with": "no/base.json"}, "no/base.json"),
        (["RUN"], {"out": "bench.txt"}, "bench.txt"),
    ],
    ids=[
        *("nothing", "no target", "runtime", "duration", "not a number", "file", "data"),
        *("scope", "tolerance", "base", "suffix"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_a_way_out(run, targets, options, message):
    targets = [t.replace("RUN", os.fspath(run)) for t in targets]
    with pytest.raises(UsageError, match=message) as caught:
        bench(*targets, **options)
    assert caught.value.hint
