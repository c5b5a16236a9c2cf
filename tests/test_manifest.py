"""Manifests and channels: what is signed is read strictly, or refused in one line."""

import dataclasses
import hashlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeinc.errors import UpdateError
from edgeinc.schema import (
    Blob,
    BundleArtifact,
    BundleMethod,
    BundleParent,
    BundleScore,
    Channel,
    ClassInfo,
    DeviceGates,
    Manifest,
    Requirements,
)
from edgeinc.update.manifest import (
    MAX_BYTES,
    bundle_id,
    is_safe_target,
    read,
    read_channel,
    refuse_other_classes,
    write,
)

A, B, C = "a" * 64, "b" * 64, "c" * 64
CLASSES = (
    ClassInfo(0, "sky", (70, 130, 180), 0),
    ClassInfo(1, "road", (128, 64, 128), 0),
    ClassInfo(2, "car", (0, 0, 142), 1),
)
MANIFEST = Manifest(
    model="camvid-erfnet",
    step=1,
    created="2026-01-31T12:00:00+00:00",
    producer={"edgeinc": "0.5.0", "torch": "2.9.0"},
    artifact=BundleArtifact(
        "step-1.fp32.onnx", 8_000_000, A, B, C, "fp32", "capacity", (96, 128), "classes"
    ),
    parent=BundleParent(0, B, C),
    method=BundleMethod("cil", data_free=True, exemplars=0, trainable="all"),
    classes=CLASSES,
    background="none",
    blobs=(
        Blob("full", f"models/camvid-erfnet/step-1/{A}.onnx.zst", 7_000_000, A, "", "zstd"),
        Blob("delta", f"models/camvid-erfnet/step-1/{B}.ezd", 1_000_000, B, C, "ezd1-int6"),
    ),
    metrics=BundleScore("camvid", 101, 60.5, 61.0, 58.25, {"sky": 90.0, "car": None}, 1.5, A),
    gates=DeviceGates(99.0, None, ("CPUExecutionProvider",), 300.0, 500, 98.0, None),
    requires=Requirements("0.5.0", ("onnxruntime",), 20_000_000),
    topology_changed=False,
    notes="cars\nand nothing else",
)
CHANNEL = Channel(
    fleet="munich",
    model="camvid-erfnet",
    manifest=f"models/camvid-erfnet/step-1/{A}.manifest.json",
    bundle_id=A,
    step=1,
    percent=12.5,
    salt="spring",
    paused=False,
    revoke_below=0,
    rollback=False,
    updated="2026-01-31T12:00:00+00:00",
)
PLAIN, PLAIN_CHANNEL = (json.loads(write(d)) for d in (MANIFEST, CHANNEL))


def canonical(plain):
    """RFC 8785 of what has no numbers but integers and short fractions."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def edited(plain, place, value):
    """A copy with a value at a place such as `artifact.size.0`; DROP removes it."""
    plain = json.loads(json.dumps(plain))
    *path, last = (int(p) if p.isdigit() else p for p in place.split("."))
    holder = plain
    for key in path:
        holder = holder[key]
    if value is DROP:
        del holder[last]
    else:
        holder[last] = value
    return canonical(plain)


DROP = object()


def refusal(content, reader=read):
    with pytest.raises(UpdateError) as caught:
        reader(content, "some/file.json")
    assert "some/file.json" in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value.message


def test_what_is_written_is_canonical_and_reads_back_equal():
    content = write(MANIFEST)
    assert read(content, "m") == MANIFEST
    assert content == canonical(json.loads(content))
    assert b'"miou_all":60.5' in content
    assert b'"golden_percent":99,' in content  # RFC 8785 writes a whole number without a point
    assert bundle_id(content) == hashlib.sha256(content).hexdigest()
    assert read_channel(write(CHANNEL), "c") == CHANNEL


def test_a_first_step_has_no_parent_and_may_have_no_score():
    first = dataclasses.replace(MANIFEST, step=1, parent=None, metrics=None)
    assert read(write(first), "m") == first


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("schema", "edgeinc.bundle/2", "edgeinc.bundle/2"),
        ("schema", DROP, "schema is 'None'"),
        ("step", DROP, "step"),
        ("step", "1", "step"),
        ("step", -1, "step is -1"),
        ("extra", 1, "extra"),
        ("model", "../models", "model is '../models'"),
        ("model", "m" * 65, "model is"),
        ("created", "2026-01-31", "created is '2026-01-31'"),
        ("created", "2026-01-31T12:00:00+02:00", "created"),
        ("producer", {"torch": "2.9.0"}, "producer"),
        ("artifact.file_name", "../step-1.onnx", "file_name"),
        ("artifact.file_name", "step-1.engine", "file_name"),
        ("artifact.sha256", "A" * 64, "artifact.sha256"),
        ("artifact.bytes", 0, "artifact.bytes is 0"),
        ("artifact.bytes", 2**40, "artifact.bytes"),
        ("artifact.size", [96, 0], "artifact.size is 0"),
        ("artifact.size", [96, 128, 3], "artifact.size"),
        ("artifact.precision", "fp8", "artifact.precision"),
        ("parent.step", 1, "parent.step is 1"),
        ("parent.bundle_id", "", "parent.bundle_id"),
        ("method.exemplars", -1, "method.exemplars"),
        ("classes", [], "no classes"),
        ("classes.1.id", 5, "classes.1 has id 5"),
        ("classes.1.name", "sky", "two classes are named sky"),
        ("classes.1.name", "ro\u202ead", "control character"),
        ("classes.1.color", [0, 0, 256], "classes.1.color is 256"),
        ("classes.2.step", 2, "classes.2.step is 2"),
        ("blobs.0.target", "/etc/passwd", "blobs.0.target"),
        ("blobs.0.target", "blobs/../x", "blobs.0.target"),
        ("blobs.0.target", "blobs\\x", "blobs.0.target"),
        ("blobs.0.target", "blobs//x", "blobs.0.target"),
        ("blobs.0.target", "blobs/x\x00", "control character"),
        ("blobs.0.base_sha256", A, "blobs.0.base_sha256"),
        ("blobs.1.base_sha256", "", "blobs.1.base_sha256"),
        ("blobs.1.kind", "engine", "blobs.1.kind"),
        ("blobs.1.kind", "golden", "blobs.1.base_sha256"),
        ("blobs.1.bytes", 0, "blobs.1.bytes is 0"),
        ("blobs.0", DROP, "one full"),
        ("metrics.miou_all", 101.5, "metrics.miou_all is 101.5"),
        ("metrics.per_class.sky", -1, "per_class.sky"),
        ("metrics.evaluated_on", B, "another file than the artifact"),
        ("gates.golden_percent", 101, "golden_percent"),
        ("gates.trial_seconds", 10**9, "trial_seconds"),
        ("gates.providers", ["p"] * 65, "gates.providers has 65 entries"),
        ("requires.free_bytes", -5, "free_bytes is -5"),
        ("notes", "n" * 10_001, "notes has 10001 characters"),
        ("method.name", "n" * 300, "method.name has 300 characters"),
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused_with_its_place(place, value, said):
    assert said in refusal(edited(PLAIN, place, value))


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("fleet", "mu/nich", "fleet"),
        ("manifest", "models/../x", "manifest is"),
        ("bundle_id", "0", "bundle_id"),
        ("percent", 100.5, "percent is 100.5"),
        ("revoke_below", 2, "revoke_below is 2"),
        ("updated", "yesterday", "updated"),
        ("schema", "edgeinc.bundle/1", "schema"),
    ],
)
def test_a_channel_that_cannot_be_right_is_refused_with_its_place(place, value, said):
    assert said in refusal(edited(PLAIN_CHANNEL, place, value), read_channel)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b"[" * 100_000,
        b"1" * 5000,
        write(MANIFEST) + b"\n",
        write(MANIFEST).replace(b'"step":1', b'"step":1.0'),
        write(MANIFEST).replace(b'"step":1', b'"step":2,"step":1'),
        write(MANIFEST).replace(b'"miou_all":60.5', b'"miou_all":NaN'),
        write(MANIFEST).replace(b'"miou_all":60.5', b'"miou_all":1e999'),
        write(MANIFEST).replace(b"camvid-erfnet", b"\\ud800"),
        write(CHANNEL),
    ],
    ids=lambda c: repr(c[:12]),
)
def test_what_is_not_the_canonical_json_of_a_manifest_is_refused(content):
    refusal(content)


def test_a_manifest_is_refused_for_its_size_before_it_is_read():
    assert str(MAX_BYTES) in refusal(b" " * (MAX_BYTES + 1))


def test_what_would_be_refused_cannot_be_written():
    with pytest.raises(UpdateError, match="two classes are named sky"):
        write(
            dataclasses.replace(
                MANIFEST, classes=(CLASSES[0], dataclasses.replace(CLASSES[1], name="sky"))
            )
        )


@pytest.mark.parametrize(
    ("path", "safe"),
    [
        ("blobs/abc.onnx.zst", True),
        ("a", True),
        ("models/m+1/step-0003/x=1.json", True),
        ("", False),
        ("/a", False),
        ("a/", False),
        ("a/./b", False),
        ("a/../b", False),
        (".hidden", False),
        ("a\\b", False),
        ("C:/a", False),
        ("a b", False),
        ("a/b\n", False),
        ("ü", False),
        ("a/" * 130 + "a", False),
        ("%2e%2e/a", False),
    ],
)
def test_safe_targets(path, safe):
    assert is_safe_target(path) is safe


# ------------------------------------------------------------------------------------ class tables


def with_classes(*classes, step=2, background="none"):
    return dataclasses.replace(MANIFEST, classes=classes, step=step, background=background)


TREE = ClassInfo(3, "tree", (1, 2, 3), 2)


def test_a_step_may_add_classes():
    refuse_other_classes(MANIFEST, with_classes(*CLASSES, TREE))


def test_a_rollback_may_lack_them():
    refuse_other_classes(with_classes(*CLASSES, TREE), MANIFEST)


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (
            with_classes(CLASSES[0], dataclasses.replace(CLASSES[1], name="street"), CLASSES[2]),
            "id 1 another meaning: it was road",
        ),
        (
            with_classes(CLASSES[0], CLASSES[1], dataclasses.replace(CLASSES[2], color=(9, 9, 9))),
            r"id 2 another meaning: it was car \(0, 0, 142\)",
        ),
        (with_classes(*CLASSES[:2]), "lacks class 2, car"),
        (with_classes(*CLASSES, background="real"), "background"),
    ],
    ids=["renamed", "recoloured", "gone", "background"],
)
def test_a_step_that_changes_the_meaning_of_masks_is_refused(new, said):
    with pytest.raises(UpdateError, match=said):
        refuse_other_classes(MANIFEST, new)


def test_a_rollback_that_renames_is_refused():
    renamed = dataclasses.replace(CLASSES[1], name="street")
    with pytest.raises(UpdateError, match="id 1"):
        refuse_other_classes(MANIFEST, with_classes(CLASSES[0], renamed, step=0))


# -------------------------------------------------------------------------------------------- fuzz

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80)
values = st.recursive(
    scalars,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=9), v, max_size=3),
    max_leaves=6,
)


def places(plain, found=()):
    items = plain.items() if isinstance(plain, dict) else enumerate(plain)
    for key, value in items:
        yield (*found, key)
        if isinstance(value, dict | list):
            yield from places(value, (*found, key))


@st.composite
def damaged(draw, document):
    """Another value at a place of the document, or other bytes in its file."""
    plain = json.loads(write(document))
    if draw(st.booleans()):
        content = bytearray(write(document))
        for _ in range(draw(st.integers(1, 4))):
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
        return bytes(
            content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content
        )
    *path, last = draw(st.sampled_from(list(places(plain))))
    holder = plain
    for key in path:
        holder = holder[key]
    holder[last] = draw(values)
    text = json.dumps(
        plain, sort_keys=True, separators=(",", ":"), ensure_ascii=draw(st.booleans())
    )
    return text.encode(errors="surrogatepass")


def refused_or_meant(content, reader):
    """A reader refuses content in its own way, or that content is the only one for its meaning."""
    try:
        document = reader(content, "some/file.json")
    except UpdateError:
        return
    assert write(document) == content


@pytest.mark.parametrize(
    ("document", "reader"), [(MANIFEST, read), (CHANNEL, read_channel)], ids=["manifest", "channel"]
)
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files_are_refused(document, reader, data):
    refused_or_meant(data.draw(damaged(document)), reader)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=100_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=damaged(MANIFEST))
def test_a_hundred_thousand_damaged_manifests_are_refused(content):
    refused_or_meant(content, read)
