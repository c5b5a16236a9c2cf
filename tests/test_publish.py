"""From exported files to signed steps to a device: the same bytes by every way, or nothing."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import edgeinc
from edgeinc import registry
from edgeinc.cli import main
from edgeinc.errors import EdgeincError, UpdateError, UsageError
from edgeinc.progress import SILENT
from edgeinc.runs import write_atomic
from edgeinc.runtimes import Runtime
from edgeinc.runtimes._onnx_file import float_weights, metadata
from edgeinc.runtimes._update import read_candidate
from edgeinc.schema import DeviceConfig
from edgeinc.update import enrol, serving, source
from edgeinc.update._closed_loop import close, described
from edgeinc.update._frame import rebuilt
from edgeinc.update.ceremony import begin, rotate
from edgeinc.update.device import Device
from edgeinc.update.manifest import read
from edgeinc.update.promote import Wish, promote
from edgeinc.update.publish import publish
from edgeinc.update.repository import Repository
from edgeinc.update.terms import Terms
from edgeinc.update.verify import verify


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeinc.host.cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def run(_base_run, tmp_path_factory):
    """Steps 0 and 1, whose second moved every weight; both exported."""
    folder = tmp_path_factory.mktemp("publish") / "run"
    shutil.copytree(_base_run, folder)
    edgeinc.extend(folder, new_classes=["tree"], method="finetune", epochs=1)
    for step in (0, 1):
        edgeinc.export(folder, step=step, head="dynamic", limit=0)
    return folder


@pytest.fixture(scope="module")
def _repository(run, street_data, tmp_path_factory):
    """Step 0 is published, as it was exported."""
    folder = tmp_path_factory.mktemp("published")
    begin(folder / "repo", models=["erfnet"], fleets=["north"], made=folder / "keys", given=[])
    publish(folder / "repo", exported(run, 0), keys=[f"file:{folder / 'keys'}"], data=street_data)
    return folder


@pytest.fixture
def place(_repository, tmp_path):
    """`repo` and `keys`, for the test to change."""
    shutil.copytree(_repository, tmp_path / "place")
    return tmp_path / "place"


def exported(run, step):
    return run / "export" / f"step-{step}.fp32.dynamic.onnx"


def put(place, target, **options):
    keys = [f"file:{place / 'keys'}"]
    return publish(place / "repo", target, **{"keys": keys, **options})


def state(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def following(run, place, step, *, body=0.0, seed=0, classes=None):
    """A file of a later step: step 1 whose classifier, and with `body` everything else, moved."""
    candidate = read_candidate(exported(run, 1))
    rng = np.random.default_rng(seed)
    weights = {
        name: (v + body * v.std() * rng.standard_normal(v.shape)).astype(v.dtype).tobytes()
        for name, v in float_weights(candidate.content)
        if body and v.size > 64
    }
    entries = {**candidate.entries, "step": str(step)}
    if classes is not None:
        entries["classes"] = json.dumps(classes)
    content = rebuilt(candidate.content, weights=weights, metadata=entries)
    content = described(content, candidate)
    content = rebuilt(
        content, metadata={k: v for k, v in metadata(content).items() if k != "exported"}
    )
    path = place / f"step-{step}.onnx"
    path.write_bytes(content)
    return path


def new_device(place):
    root = place / "device"
    config = DeviceConfig("pole-7", "north", "erfnet", str(place / "repo"))
    enrol.init(root, config, (place / "repo" / "metadata" / "1.root.json").read_bytes())
    return root


def update(root):
    return Device(root).update(source.repository(root))


def served(root):
    return serving.model(root, serving.served(root))


# --------------------------------------------------------------------------- from run to device


def test_a_device_goes_from_step_to_step_by_a_delta_to_the_bytes_that_were_scored(
    run, place, street_data
):
    root = new_device(place)
    first = update(root)
    assert (first.change, first.way, first.step) == ("committed", "full", 0)
    before = state(place / "repo")
    planned = put(place, run, data=street_data, dry_run=True, keys=())
    assert not planned.published
    assert state(place / "repo") == before

    done = put(place, run, data=street_data)
    assert (done.published, done.parent, done.deltas_from) == (True, 0, (0,))
    assert (done.artifact_sha256, done.attempts) == (planned.artifact_sha256, planned.attempts)
    assert done.attempts[-1].codec == "ezd1-int6"
    assert done.attempts[-1].loss <= 0.1
    sizes = {b.kind: b.bytes for b in done.blobs}
    second = update(root)
    assert (second.change, second.way, second.bytes) == ("committed", "delta", sizes["delta"])
    assert sizes["delta"] < 0.4 * sizes["full"]

    content = served(root).read_bytes()
    assert hashlib.sha256(content).hexdigest() == done.artifact_sha256
    assert content != exported(run, 1).read_bytes()
    again = edgeinc.evaluate(served(root), data=street_data, device="cpu")
    assert again.miou.all == done.metrics.miou_all
    assert done.metrics.evaluated_on == done.artifact_sha256
    assert set(done.metrics.per_class) == {"road", "sky", "building", "tree"}
    assert done.metrics.forgetting is not None
    manifest = read(Repository(place / "repo").read(done.manifest), "manifest")
    assert manifest.parent.bundle_id == first.bundle_id
    assert manifest.method.trainable == "all"

    # A device that has nothing gets the same bytes in full.
    shutil.rmtree(root)
    assert update(new_device(place)).way == "full"
    assert served(root).read_bytes() == content
    assert verify(str(place / "repo")).targets == 6


def test_a_classifier_costs_kilobytes_also_after_a_lossy_step_and_from_older_ones(
    run, place, street_data
):
    """What step 1 lost to its delta is not sent again with every later step."""
    root = new_device(place)
    put(place, run, data=street_data)
    update(root)
    for step in (2, 3):
        done = put(place, following(run, place, step), data=street_data)
        assert 1 in done.deltas_from
    small = [b.bytes for b in done.blobs if b.kind == "delta"]
    assert done.deltas_from == (2, 1)  # from step 0 everything moved: that device takes the file
    assert max(small) < 8192
    found = update(root)  # two steps at once
    assert (found.way, found.step, found.bytes in small) == ("delta", 3, True)


@pytest.mark.slow
def test_a_device_three_steps_behind_takes_one_file(run, place, street_data):
    root = new_device(place)
    update(root)
    put(place, run, data=street_data)
    for step in (2, 3):
        path = following(run, place, step, body=0.02, seed=step)
        done = put(place, path, data=street_data, terms=Terms(max_miou_loss=100))
        assert done.deltas_from == (step - 1,)
    found = update(root)
    assert (found.way, found.step, found.was_step) == ("full", 3, 0)


@pytest.mark.slow
def test_a_head_with_room_goes_the_same_way(run, street_data, tmp_path):
    begin(tmp_path / "repo", models=["erfnet"], fleets=["north"], made=tmp_path / "keys", given=[])
    for step in (0, 1):
        out = tmp_path / f"{step}.onnx"
        edgeinc.export(run, step=step, head="capacity", capacity=8, out=out, limit=0)
        done = put(tmp_path, out, data=street_data)
        root = tmp_path / "device" if step else new_device(tmp_path)
        found = update(root)
        assert (found.step, found.way) == (step, "delta" if step else "full")
    assert done.topology_changed is False
    assert hashlib.sha256(served(root).read_bytes()).hexdigest() == done.artifact_sha256


def test_without_a_score_the_file_stays_as_it_was_exported(run, place, tmp_path):
    lone = tmp_path / "lone.onnx"
    shutil.copy(exported(run, 1), lone)
    with pytest.raises(UsageError, match="no evidence") as caught:
        put(place, lone)
    assert "--unscored" in caught.value.hint
    done = put(place, lone, terms=Terms(unscored=True))
    assert (done.metrics, done.deltas_from) == (None, ())
    assert done.artifact_sha256 == hashlib.sha256(lone.read_bytes()).hexdigest()
    assert read(Repository(place / "repo").read(done.manifest), "manifest").metrics is None


# --------------------------------------------------------------------------------- refusals


def renamed(run, place):
    classes = json.loads(read_candidate(exported(run, 1)).entries["classes"])
    classes[0]["name"] = "lane"
    return following(run, place, 1, classes=classes)


def not_finite(run, place):
    content = exported(run, 1).read_bytes()
    name, values = next((n, v) for n, v in float_weights(content) if v.size > 64)
    bad = values.copy()
    bad[3] = np.nan
    path = place / "nan.onnx"
    path.write_bytes(rebuilt(content, weights={name: bad.tobytes()}))
    return path


def other_graph(run, place):
    entries = {**read_candidate(exported(run, 1)).entries, "topology_sha256": "0" * 64}
    path = place / "other.onnx"
    path.write_bytes(rebuilt(exported(run, 1).read_bytes(), metadata=entries))
    return path


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (renamed, UpdateError, "gives id 0 another meaning: it was road"),
        (not_finite, UpdateError, "not finite"),
        (other_graph, UsageError, "another graph than step 0"),
        (lambda run, place: exported(run, 0), UsageError, "step 0 is published already"),
        (lambda run, place: place / "no.onnx", UsageError, "neither a run nor"),
    ],
    ids=["renamed", "nan", "graph", "twice", "absent"],
)
def test_what_devices_would_refuse_is_not_published(run, place, street_data, make, error, words):
    target, before = make(run, place), state(place / "repo")
    with pytest.raises(error, match=words) as caught:
        put(place, target, data=street_data)
    assert caught.value.hint
    assert state(place / "repo") == before


def test_a_gate_that_is_not_met_signs_nothing(run, place, street_data, capsys):
    before = state(place / "repo")
    words = ["publish", run, "--repo", place / "repo", "--key", f"file:{place / 'keys'}"]
    with pytest.raises(SystemExit) as end:
        main(
            [*map(str, words), "--data", str(street_data), "--min-miou", "99", "--max-drop", "-99"]
        )
    assert end.value.code == 3
    said = capsys.readouterr()
    assert "is below 99" in said.err
    assert "older classes lost" in said.err
    assert "ezd1-int6" in said.out
    assert state(place / "repo") == before


def test_a_drop_that_cannot_be_known_is_no_drop_that_was_held(run, place, labelled_alone):
    """The images label nothing that step 0 knew: the evidence names no loss, and no mean has it."""
    trees = labelled_alone("tree")
    planned = put(place, run, data=trees, dry_run=True, keys=())
    assert planned.unmet == ()
    found = planned.metrics.per_class
    assert [name for name, iou in found.items() if iou is None] == ["road", "sky", "building"]
    assert planned.metrics.miou_all == found["tree"]
    assert (planned.metrics.miou_old, planned.metrics.forgetting) == (None, None)
    held = put(place, run, data=trees, dry_run=True, keys=(), terms=Terms(max_drop=5))
    assert held.unmet == ("what older classes lost is not known: folder has none of them",)


def gated(**gates):
    return {"terms": Terms(gates=gates)}


IMPOSSIBLE = [
    (gated(providers=("cpu",)), "'cpu'", "did you mean CPUExecutionProvider or CPU?"),
    (gated(providers=("CPUExecutionProvder",)), "Provder'", "did you mean CPUExecutionProvider?"),
    (gated(providers=("cuda:0",)), "'cuda:0'", "cuda, cuda:N (tensorrt)"),
    (gated(providers=("",)), "on ''", "known: "),
    (gated(providers="CPU"), "not a list", "CPUExecutionProvider"),
    (gated(max_p95_ms=-1.0), "max_p95_ms is -1.0", "within"),
    (gated(max_p95_ms=0.0), "max_p95_ms is 0", "more than 0"),
    (gated(max_p95_ms=float("nan")), "max_p95_ms is nan", "within"),
    (gated(max_p95_ms="40"), "max_p95_ms is '40'", "--gate max_p95_ms=40"),
    (gated(max_single_class_percent=0), "single_class_percent is 0", "more than 0"),
    (gated(golden_percent=100.5), "golden_percent is 100.5", "within"),
    (gated(golden_percent=None), "golden_percent is None", "--gate"),
    (gated(trial_frames=-1), "trial_frames is -1", "within"),
    (gated(trial_frames=1.5), "trial_frames is 1.5", "--gate"),
    (gated(trial_seconds=True), "trial_seconds is True", "--gate"),
    (gated(min_agreement_old_percent=101), "old_percent is 101", "within"),
    (gated(max_p95=40), "'max_p95' is not a gate", "did you mean 'max_p95_ms'?"),
    ({"terms": Terms(min_miou=float("nan"))}, "min_miou is nan", "--min-miou"),
    ({"terms": Terms(min_miou=100.1)}, "min_miou is 100.1", "--min-miou"),
    ({"terms": Terms(max_drop=float("nan"))}, "max_drop is nan", "--max-drop"),
    ({"terms": Terms(max_miou_loss=float("nan"))}, "max_miou_loss is nan", "--max-miou-loss"),
    ({"terms": Terms(max_miou_loss=-1)}, "max_miou_loss is -1", "--max-miou-loss"),
    ({"terms": Terms(min_miou=50, unscored=True)}, "without a score", "--unscored"),
    ({"notes": "a\x1b[31mb"}, "notes holds a control character", "--notes"),
    ({"notes": "x" * 10_001}, "notes has 10001 characters", "10000 characters"),
    ({"golden": Path("nowhere.npz")}, "nowhere.npz holds no golden images", "savez_compressed"),
    ({"wish": Wish(percent=float("nan"))}, "percent is nan", "--percent"),
    ({"wish": Wish(percent=-5)}, "percent is -5", "--percent"),
    ({"wish": Wish(percent=101)}, "percent is 101", "--percent"),
    ({"wish": Wish(revoke_below=-1)}, "revoke_below is -1", "0 revokes nothing"),
]


@pytest.mark.parametrize(("asked", "says", "hint"), IMPOSSIBLE, ids=[c[1] for c in IMPOSSIBLE])
def test_what_nothing_can_meet_is_refused_before_any_work(
    run, place, monkeypatch, asked, says, hint
):
    monkeypatch.setattr("edgeinc.update.publish.Judge", None)  # nothing is scored
    before = state(place / "repo")
    with pytest.raises(UsageError) as caught:
        put(place, run, **asked)
    assert says in caught.value.message
    assert hint in caught.value.hint
    assert state(place / "repo") == before


def test_a_provider_that_a_session_names_can_be_demanded(run, place, street_data):
    put(place, run, data=street_data, **gated(providers=["CPUExecutionProvider", "cuda:1"]))
    assert update(new_device(place)).step == 1


def test_a_runtime_of_ones_own_says_what_it_computes_on(run, place, monkeypatch):
    class Own(Runtime):
        """Somebody's."""

        providers = ("npu",)

    load, names = registry.load, registry.names
    monkeypatch.setattr(registry, "names", lambda kind: (*names(kind), "own"))
    monkeypatch.setattr(registry, "load", lambda *asked: Own if "own" in asked else load(*asked))
    terms = Terms(unscored=True, gates={"providers": ("npu",)})
    assert put(place, run, dry_run=True, terms=terms).step == 1


class Meanwhile:
    """Does something when the first part of the work begins."""

    def __init__(self, act):
        self._act = act

    def message(self, text):
        pass

    def task(self, *args, **options):
        act, self._act = self._act, lambda: None
        act()
        return SILENT.task(*args, **options)


def test_of_two_publishers_at_once_the_slower_looks_again(run, place, street_data):
    """The step it would sign was decided on steps that are no longer the newest."""
    other = following(run, place, 2, seed=1)

    progress = Meanwhile(lambda: put(place, exported(run, 1), terms=Terms(unscored=True)))
    with pytest.raises(EdgeincError, match="somebody else signed as model-erfnet") as caught:
        put(place, other, data=street_data, progress=progress)
    assert "repeat" in caught.value.hint
    signed = {t.path for t in Repository(place / "repo").listing().targets}
    assert not [path for path in signed if "step-0002" in path]
    assert put(place, other, data=street_data).parent == 1


def test_missing_keys_are_named_before_any_work(run, place):
    before = state(place / "repo")
    with pytest.raises(UsageError) as caught:
        put(place, run, keys=[f"file:{place / 'keys' / 'teams' / 'model-erfnet.pem'}"])
    assert caught.value.message == "the keys of channel-north, snapshot, timestamp are missing"
    assert "--key" in caught.value.hint
    assert state(place / "repo") == before


def test_more_bits_where_the_gate_needs_them(run, place, street_data, monkeypatch):
    def never_enough(*given, **how):
        return close(*given, **{**how, "max_loss": -100})

    monkeypatch.setattr("edgeinc.update.publish.close", never_enough)
    done = put(place, run, data=street_data, dry_run=True, terms=Terms(bits=4))
    codecs = [a.codec for a in done.attempts]
    assert codecs == ["ezd1-int4", "ezd1-int6", "ezd1-int8", "ezd1-exact"]
    assert [a.bytes for a in done.attempts] == sorted(a.bytes for a in done.attempts)
    assert done.attempts[0].why_not == "the gate is -100 points"
    assert done.deltas_from == ()
    assert done.artifact_sha256 == hashlib.sha256(exported(run, 1).read_bytes()).hexdigest()


# --------------------------------------------------------------------------- golden, site, channel


def test_golden_images_are_answered_by_what_is_published(run, place, street_data, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    file = tmp_path / "golden.npz"
    np.savez_compressed(file, images=images, ids=np.zeros((2, 64, 96), np.uint8) + 3)
    with pytest.raises(UpdateError, match="is answered wrong"):
        put(place, run, data=street_data, golden=file)
    np.savez_compressed(file, images=images)
    put(place, run, data=street_data, golden=file)
    root = new_device(place)
    assert update(root).change == "committed"
    with np.load(served(root).with_name("golden.npz")) as content:
        with edgeinc.open_artifact(served(root), device="cpu") as session:
            asked = np.concatenate([session.run(image[None]) for image in content["images"]])
        assert np.array_equal(asked, content["ids"])


def test_a_site_signs_its_own_step_below_its_own_path(run, place, street_data):
    keys = [f"file:{place / 'keys'}"]
    rotate(
        place / "repo",
        "site-gate2",
        new=[f"file:{place / 'keys' / 'site.pem'}"],
        given=keys,
        model="erfnet",
    )
    no_model_key = [f"file:{place / 'keys' / part}" for part in ("site.pem", "online")]
    done = put(place, run, data=street_data, site="gate2", keys=no_model_key, fleet="")
    assert done.manifest == "models/erfnet/site-gate2/step-0001.manifest.json"
    assert "model-erfnet" not in done.versions
    root = new_device(place)
    assert update(root).step == 0  # nobody asked the fleet
    channel = promote(place / "repo", keys=keys, step=1, site="gate2").channel
    assert channel.manifest == done.manifest
    assert update(root).way == "delta"
    assert hashlib.sha256(served(root).read_bytes()).hexdigest() == done.artifact_sha256

    # Whose step the fleet is asked for has not to be said again.
    for wish in (Wish(percent=50), Wish(paused=True), Wish(paused=False, percent=100)):
        asked = promote(place / "repo", keys=keys, wish=wish).channel
        assert (asked.manifest, asked.bundle_id) == (done.manifest, done.bundle_id)
    assert promote(place / "repo", keys=keys, wish=Wish(revoke_below=1)).channel.revoke_below == 1
    assert promote(place / "repo", keys=keys, site="gate2", wish=Wish(percent=5)).channel.step == 1
    with pytest.raises(UsageError, match="step 1 of site gate2, not of site gate3"):
        promote(place / "repo", keys=keys, site="gate3", wish=Wish(percent=50))
    with pytest.raises(UsageError, match="step 1 of erfnet is not published") as caught:
        promote(place / "repo", keys=keys, step=1)
    assert "--site NAME" in caught.value.hint


def test_the_operator_changes_only_who_gets_a_step(run, place, street_data):
    def ask(step=None, **wish):
        keys = [f"file:{place / 'keys' / p}" for p in ("teams/channel-north.pem", "online")]
        return promote(place / "repo", keys=keys, step=step, wish=Wish(**wish)).channel

    put(place, run, data=street_data, wish=Wish(percent=5.0))
    root = new_device(place)
    fifty = ask(percent=50.0)
    assert (fifty.step, fifty.percent, fifty.paused) == (1, 50.0, False)
    assert ask(paused=True).percent == 50.0
    assert update(root).reason == "PAUSED"
    ask(paused=False, percent=100.0)
    assert update(root).step == 1
    with pytest.raises(UsageError, match="older than step 1") as caught:
        ask(step=0)
    assert "--rollback" in caught.value.hint
    back = ask(step=0, rollback=True)
    assert (back.step, back.percent, back.rollback) == (0, 100.0, True)
    assert update(root).step == 0
    assert ask(step=1, revoke_below=1).rollback is False
    with pytest.raises(UsageError, match="step 0 is revoked"):
        ask(step=0, rollback=True)
    with pytest.raises(UsageError, match="step 7 of erfnet is not published"):
        ask(step=7)


def test_a_step_is_revoked_for_the_whole_fleet_or_not_at_all(run, place, street_data):
    """Who is not asked for a newer step would serve a revoked one on and on."""

    def ask(**wish):
        keys = [f"file:{place / 'keys'}"]
        return promote(place / "repo", keys=keys, wish=Wish(**wish)).channel

    before = state(place / "repo")
    for partly in ({"percent": 99.9}, {"paused": True}):
        with pytest.raises(UsageError, match="steps below 1 cannot be revoked") as caught:
            put(place, run, data=street_data, wish=Wish(revoke_below=1, **partly))
        assert "--percent 100 --resume --revoke-below 1" in caught.value.hint
    assert state(place / "repo") == before
    put(place, run, data=street_data, wish=Wish(percent=5))
    with pytest.raises(UsageError, match=r"while step 1 is offered to 5 % of the fleet"):
        ask(revoke_below=1)
    ask(percent=100, paused=True)
    with pytest.raises(UsageError, match="offered to nobody, as it is paused"):
        ask(revoke_below=1)
    assert ask(revoke_below=1, paused=False).revoke_below == 1
    put(place, following(run, place, 2), data=street_data, wish=Wish(percent=5))
    asked = ask(revoke_below=1, percent=10)  # what is revoked already can be said again
    assert (asked.step, asked.percent, asked.revoke_below) == (2, 10, 1)
    with pytest.raises(UsageError, match="steps below 1 are revoked already"):
        ask(revoke_below=0)


def test_a_corrected_file_for_a_step_is_asked_for(run, place, street_data):
    put(place, run, data=street_data)
    path = following(run, place, 1, body=0.02)
    with pytest.raises(UsageError, match="step 1 is published already") as caught:
        put(place, path, data=street_data)
    assert "--replace" in caught.value.hint
    done = put(place, path, data=street_data, terms=Terms(replace=True, max_miou_loss=100))
    assert done.deltas_from == (0,)
    assert done.channel.bundle_id == done.bundle_id


def test_killed_after_any_file_a_device_sees_the_old_step_or_the_new_one(
    run, place, street_data, monkeypatch
):
    """The publisher's folder after each file it writes is what a client may see."""
    repo, seen = place / "repo", []

    def write(path, data):
        write_atomic(path, data)
        kept = place / f"seen-{len(seen)}"
        shutil.copytree(repo, kept)
        seen.append(kept)

    monkeypatch.setattr("edgeinc.update._tree.write_atomic", write)
    put(place, run, data=street_data)
    assert len(seen) == 10  # full, delta, manifest, channel, and metadata of two changes
    steps = []
    for kept in seen:
        verify(str(kept))
        content = Repository(kept).read("channels/north/stable.json")
        channel = json.loads(content)
        manifest = read(Repository(kept).read(channel["manifest"]), "manifest")
        assert all(Repository(kept).read(b.target) for b in manifest.blobs)
        steps.append(channel["step"])
    assert steps == [0] * 9 + [1]


def test_the_command_publishes_and_changes_the_channel(run, place, street_data, capsys):
    def edgeinc_(*words):
        with pytest.raises(SystemExit) as end:
            main([str(w) for w in words])
        said = capsys.readouterr()
        assert end.value.code == 0, said.err
        return said.out

    common = ("--repo", place / "repo", "--key", f"file:{place / 'keys'}")
    out = edgeinc_("publish", run, *common, "--data", street_data, "--gate", "trial_seconds=20")
    assert "ezd1-int6" in out
    assert "fleet north: step 1 of erfnet, 100 %" in out
    manifest = read(
        Repository(place / "repo").read("models/erfnet/step-0001/manifest.json"), "manifest"
    )
    assert manifest.gates.trial_seconds == 20
    out = edgeinc_("publish", *common, "--percent", "5", "--pause", "--json")
    assert json.loads(out)["channel"]["percent"] == 5
    for words, hint in (
        (("--gate", "speed=3"), "is not a gate"),
        (("--gate", "trial_seconds=nan"), "is not a number"),
        (("--gate", "max_p95_ms=inf"), "is not a number"),
        (("--gate", "providers=cpu"), "no runtime computes on 'cpu'"),
        (("--gate", "providers="), "no runtime computes on ''"),
        (("--min-miou", "nan"), "min_miou is nan"),
        (("--gate", "max_p95_ms"), "is not KEY=VALUE"),
        (("--channel", ""), "--channel names no fleet"),
        (("--bits", "5"), "5 bits"),
        (("--step", "1"), "leave out one of both"),
    ):
        with pytest.raises(SystemExit) as end:
            main([str(w) for w in ("publish", run, *common, *words)])
        assert end.value.code == 2
        assert hint in capsys.readouterr().err


def test_a_step_that_was_not_exported_says_how(base_run, place):
    with pytest.raises(EdgeincError, match=r"step 0 of .* was not exported") as caught:
        put(place, Path(base_run) / "step-0")
    assert "edgeinc export" in caught.value.hint


@pytest.mark.slow
def test_the_commands_of_the_page_run(repository, tmp_path, monkeypatch, capsys):
    page = (repository / "docs" / "publishing.md").read_text(encoding="utf-8")
    lines = page.split("```bash\n")[1].split("```")[0].splitlines()
    assert len(lines) == 10
    monkeypatch.chdir(tmp_path)
    for line in lines:
        with pytest.raises(SystemExit) as end:
            main(line.split("  #")[0].split()[1:])
        said = capsys.readouterr()
        assert end.value.code == 0, f"{line}\n{said.err}"
    assert "fleet north: step 1 of erfnet, 100 %" in said.out
