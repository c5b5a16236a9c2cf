"""Deltas: one file from another, the same bytes everywhere; a damaged delta is refused."""

import hashlib
import os
import shutil
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from edgeinc.errors import UpdateError, UsageError  # noqa: E402
from edgeinc.runtimes._onnx_file import metadata  # noqa: E402
from edgeinc.update._frame import join, rebuilt, split  # noqa: E402
from edgeinc.update._zstd import compress, decompress  # noqa: E402
from edgeinc.update.delta import codec, decode, encode  # noqa: E402

HEADER = 4 + 32 + 32 + 8 + 8 + 5 * 4


def file(weights, nodes=(), **entries):
    """The bytes of a graph with these initializers and metadata."""
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "g", [], [out], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, entries)
    return model.SerializeToString(deterministic=True)


def values(content):
    model = onnx.load_from_string(content)
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def network(seed=0, dtype=np.float32, moved=0.0, **entries):
    """Weights of a small network; `moved`: how far it was trained on."""
    rng, drift = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    weights = {
        "conv.weight": rng.normal(0, 0.1, (32, 16, 3, 3)),
        "conv.bias": rng.normal(0, 0.1, 32),
        "up.weight": rng.normal(0, 0.1, (16, 8, 3, 3)),
        "head.weight": rng.normal(0, 0.1, (4, 1, 5, 8)),
    }
    weights = {
        k: (v + moved * drift.normal(0, 0.05, v.shape)).astype(dtype) for k, v in weights.items()
    }
    return file({**weights, "shape": np.array([1, -1], np.int64)}, **entries)


def made(old, new, *, check=True, **options):
    blob, content = encode(old, new, **options)
    if check:
        digest = hashlib.sha256(content).hexdigest()
        assert decode(old, blob, expected_sha256=digest, limit_bytes=len(content)) == content
    return blob, content


# ------------------------------------------------------------------------------------------ frames


def test_a_file_is_its_frame_and_its_tensors():
    content = network(step="1")
    frame = split(content)
    assert [(t.name, t.dtype.str, t.shape) for t in frame.tensors] == [
        ("conv.weight", "<f4", (32, 16, 3, 3)),
        ("conv.bias", "<f4", (32,)),
        ("up.weight", "<f4", (16, 8, 3, 3)),
        ("head.weight", "<f4", (4, 1, 5, 8)),
        ("shape", "<i8", (2,)),
    ]
    parts = [content[t.offset : t.offset + t.length] for t in frame.tensors]
    assert parts[1] == values(content)["conv.bias"].tobytes()
    assert join(frame, parts) == content
    assert len(frame.kept) + sum(map(len, parts)) == len(content)


def test_tensors_whose_values_are_not_raw_stay_in_the_frame():
    typed = helper.make_tensor("typed", TensorProto.FLOAT, [2], [1.0, 2.0])
    raw = numpy_helper.from_array(np.ones(3, np.float32), "raw")
    model = helper.make_model(helper.make_graph([], "g", [], [], [typed, raw]))
    content = model.SerializeToString()
    assert [t.name for t in split(content).tensors] == ["raw"]


def test_four_bit_types_are_bytes():
    tensor = TensorProto(name="q", data_type=TensorProto.INT4, dims=[4], raw_data=b"\x21\x43")
    model = helper.make_model(helper.make_graph([], "g", [], [], [tensor]))
    (found,) = split(model.SerializeToString()).tensors
    assert (found.dtype, found.shape) == (np.dtype("u1"), (2,))


@pytest.mark.parametrize(
    "parts", [[], [b"1234"], [b"1234", b"12345678", b""], [b"12", b"12345678"]]
)
def test_tensors_that_do_not_fill_their_gaps_are_refused(parts):
    frame = split(file({"a": np.zeros(1, np.float32), "b": np.zeros(1, np.float64)}))
    with pytest.raises(UpdateError):
        join(frame, parts)


def test_a_file_is_rebuilt_with_other_weights_and_other_metadata():
    content = network(step="1", golden="g" * 300)
    bias = np.arange(32, dtype=np.float32)
    new = rebuilt(content, weights={"conv.bias": bias.tobytes()}, metadata={"step": "2", "é": "ü"})
    assert metadata(new) == {"step": "2", "é": "ü"}
    before, after = values(content), values(new)
    assert np.array_equal(after.pop("conv.bias"), bias)
    assert all(np.array_equal(after[k], before[k]) for k in after)
    # What protobuf itself writes for the same change.
    model = onnx.load_from_string(content)
    model.graph.initializer[1].raw_data = bias.tobytes()
    helper.set_model_props(model, {"step": "2", "é": "ü"})
    assert new == model.SerializeToString(deterministic=True)
    assert rebuilt(content) == rebuilt(content, metadata=metadata(content)) == content


def test_metadata_comes_to_a_file_without_any():
    content = rebuilt(file({"a": np.zeros(1, np.float32)}), metadata={"k": "v" * 200})
    assert {p.key: p.value for p in onnx.load_from_string(content).metadata_props} == {
        "k": "v" * 200
    }


def test_weights_that_are_not_there_are_refused_with_their_name():
    with pytest.raises(UpdateError, match=r"conv\.wieght"):
        rebuilt(network(), weights={"conv.wieght": b""})
    with pytest.raises(UpdateError, match="has 4 bytes"):
        rebuilt(network(), weights={"conv.bias": b"1234"})


@pytest.mark.parametrize(
    "content",
    [b"\x80" * 2_000_000, b"\x3a\xff\xff\xff\xff\x7f", b"\x3b", b"\x3a"],
    ids=["endless number", "length beyond the end", "group", "no length"],
)
def test_what_is_not_an_onnx_file_is_refused(content):
    with pytest.raises(UpdateError, match="not an ONNX file"):
        split(content)


# ------------------------------------------------------------------------------------------- zstd


def test_packed_content_is_never_larger_than_expected():
    packed = compress(bytes(100_000), 19)
    assert len(packed) < 100
    with pytest.raises(UpdateError, match="larger than the 99999 bytes"):
        decompress(packed, limit=99_999)
    assert decompress(packed, limit=100_000) == bytes(100_000)


def test_a_window_larger_than_what_is_expected_is_refused():
    # Header of a frame without a length whose window is 2^41 bytes; then an empty last block.
    with pytest.raises(UpdateError, match="damaged"):
        decompress(b"\x28\xb5\x2f\xfd\x00\xf8\x01\x00\x00", limit=1000)


@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: c + b"0", lambda c: b""])
def test_packed_content_is_one_whole_frame(change):
    with pytest.raises(UpdateError):
        decompress(change(compress(b"content", 3)), limit=100)


def test_what_both_have_costs_nothing():
    shared = os.urandom(100_000)
    packed = compress(shared + b"new", 19, prefix=shared)
    assert len(packed) < 100
    assert decompress(packed, limit=100_003, prefix=shared) == shared + b"new"


# ------------------------------------------------------------------------------------------ deltas

EPS = {np.float32: 2.0**-23, np.float16: 2.0**-10}
"""How far apart two numbers near 1 are."""


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_value_is_within_a_step_of_the_wanted_one_and_the_sum_of_a_row_within_half(
    bits, dtype
):
    old, new = network(dtype=dtype), network(dtype=dtype, moved=1.0)
    _, content = made(old, new, bits=bits)
    before, wanted, got = values(old), values(new), values(content)
    for name in ("conv.weight", "up.weight"):
        change = wanted[name].astype(np.float64) - before[name]
        error = got[name].astype(np.float64) - wanted[name]
        step = np.abs(change).reshape(len(change), -1).max(1) / (2 ** (bits - 1) - 1)
        # A scale may be 1 % larger than it has to be; then there is what fp16 cannot say.
        error, rounding = error.reshape(len(error), -1), np.abs(wanted[name]).max() * EPS[dtype]
        assert (np.abs(error).max(1) <= 1.01 * step + rounding).all()
        assert (np.abs(error.sum(1)) <= 1.01 * step / 2 + rounding * error.shape[1] / 2).all()
        assert not np.array_equal(got[name], wanted[name])
    assert np.array_equal(got["conv.bias"], wanted["conv.bias"])


def test_fewer_bits_are_smaller_and_all_are_smaller_than_the_file():
    old, new = network(), network(moved=1.0)
    sizes = [len(made(old, new, bits=bits)[0]) for bits in (4, 6, 8, 0)]
    assert sizes == sorted(sizes)
    assert sizes[-1] < len(new)


def test_a_known_delta_leads_to_known_values():
    """Scale of each row by hand: 31 steps of 1/32 and of 1/64 reach 31/32 and 31/64."""
    old = file({"w": np.array([[1.0, 2.0, -3.0], [4.0, 5.0, 6.0]], np.float32)})
    change = np.array([[31 / 32, -3 / 32, 0.3 / 32], [0.0, 7.4 / 64, -31 / 64]], np.float32)
    new = file({"w": values(old)["w"] + change})
    _, content = made(old, new, bits=6)
    expected = np.array([[1 + 31 / 32, 2 - 3 / 32, -3], [4, 5 + 7 / 64, 6 - 31 / 64]], np.float32)
    assert np.array_equal(values(content)["w"], expected)


def test_the_sum_is_rounded_once_after_the_product_was():
    """Against exact rational arithmetic, rounded where the codec says it is."""
    from fractions import Fraction

    rng = np.random.default_rng(3)
    old = rng.normal(0, 1, (1, 400)).astype(np.float32)
    new = old + rng.normal(0, 0.37, old.shape).astype(np.float32)
    _, content = made(file({"w": old}), file({"w": new}), bits=8)
    got = values(content)["w"]
    wanted = np.float32(np.abs(new - old).max()) / np.float32(127)
    half = np.uint32((int(wanted.view(np.uint32)) + 0xFFFF) >> 16 << 16).view(np.float32)
    steps = np.rint((got - old).astype(np.float64) / half)
    assert np.abs(steps - (new - old).astype(np.float64) / half).max() < 1.001
    for was, step, now in zip(old[0], steps[0], got[0], strict=True):
        product = np.float32(float(Fraction(float(half)) * int(step)))  # 16 bits: exact
        assert now == np.float32(float(Fraction(float(was)) + Fraction(float(product))))


def test_a_file_becomes_itself_for_next_to_nothing():
    content = network(step="1")
    blob, result = made(content, content, bits=6)
    assert result == content
    assert len(blob) < HEADER + 120


def test_exact_deltas_lead_to_the_file_itself():
    new = network(moved=1.0, step="2")
    assert made(network(step="1"), new, bits=0)[1] == new


def test_a_frozen_body_costs_nothing():
    old = network(step="1")
    head = np.random.default_rng(9).normal(0, 0.1, (4, 1, 5, 8)).astype(np.float32)
    new = rebuilt(old, weights={"head.weight": head.tobytes()}, metadata={"step": "2"})
    blob, content = made(old, new, bits=6, keep=("head.weight",))
    assert content == new
    assert len(blob) < head.nbytes + 300


def test_tensors_that_are_named_stay_exact():
    old, new = network(), network(moved=1.0)
    _, content = made(old, new, bits=4, keep=("head.weight",))
    assert np.array_equal(values(content)["head.weight"], values(new)["head.weight"])
    assert not np.array_equal(values(content)["conv.weight"], values(new)["conv.weight"])


def test_values_that_do_not_move_keep_their_bits():
    weird = np.array([[-0.0, 1e-42, 1.0, 2.0], [np.nan, np.inf, 0.0, 0.0]], np.float32)
    old = file({"w": weird, "v": weird[:1]})
    new_w = weird.copy()
    new_w[0, 2] = 1.5
    _, content = made(old, file({"w": new_w, "v": new_w[:1]}), bits=6)
    got = values(content)
    assert got["w"].tobytes() == new_w.tobytes()  # not finite: exact
    assert got["v"][0, :2].tobytes() == weird[0, :2].tobytes()
    assert got["v"][0, 2] == pytest.approx(1.5, abs=0.01)


def test_integers_of_int8_files_are_exact_and_cost_their_difference():
    rng = np.random.default_rng(0)
    before = rng.integers(-128, 128, (64, 64, 3, 3), dtype=np.int8)
    after = (before.astype(int) + rng.integers(-1, 2, before.shape)).astype(np.int8)  # wraps
    new = file({"q": after, "zero": np.array([3], np.uint8)})
    blob, content = made(file({"q": before, "zero": np.array([7], np.uint8)}), new, bits=6)
    assert content == new
    # Three values a number are 1.6 bits; zstd spends whole bits on most.
    assert len(blob) * 8 / before.size < 2.1


def test_another_graph_is_taken_as_it_is():
    new = file({"other": np.ones((3, 4), np.float32), "conv.weight": np.ones((2, 2), np.float32)})
    assert made(network(), new, bits=6)[1] == new


def test_what_depends_on_the_weights_is_finished_before_the_delta_is_closed():
    seen = []

    def finish(content):
        seen.append(content)
        digest = hashlib.sha256(values(content)["conv.weight"].tobytes()).hexdigest()
        return rebuilt(content, metadata={"weights_sha256": digest})

    old = network(weights_sha256="0" * 64)
    _, content = made(old, network(moved=1.0, weights_sha256="1" * 64), bits=6, finish=finish)
    weights = values(content)["conv.weight"].tobytes()
    assert metadata(content) == {"weights_sha256": hashlib.sha256(weights).hexdigest()}
    assert values(seen[0])["conv.weight"].tobytes() == weights
    with pytest.raises(UpdateError, match="other weights"):
        encode(old, network(moved=1.0), bits=6, finish=lambda _: old)


def test_names_of_codecs():
    assert [codec(b) for b in (8, 6, 4, 0)] == ["ezd1-int8", "ezd1-int6", "ezd1-int4", "ezd1-exact"]
    with pytest.raises(UsageError, match="5 bits"):
        encode(network(), network(), bits=5)


# ------------------------------------------------------------------------------------- refusals

OLD, NEW = network(step="1"), network(moved=1.0, step="2")
BLOB, RESULT = encode(OLD, NEW, bits=6)
DIGEST = hashlib.sha256(RESULT).hexdigest()
LIMIT = len(RESULT)


def refused(blob, old=OLD, digest=DIGEST, limit=LIMIT):
    with pytest.raises(UpdateError) as caught:
        decode(old, blob, expected_sha256=digest, limit_bytes=limit)
    assert caught.value.hint
    return caught.value.message


def test_a_delta_from_another_file_is_refused_with_the_name_of_its_own():
    assert hashlib.sha256(OLD).hexdigest()[:12] in refused(BLOB, old=NEW)


def test_a_delta_to_another_file_is_refused():
    assert DIGEST[:12] in refused(BLOB, digest="0" * 64)


def test_a_delta_to_a_larger_file_is_refused():
    assert str(len(RESULT)) in refused(BLOB, limit=len(RESULT) - 1)


@pytest.mark.parametrize("size", [0, 3, 4, HEADER - 1, HEADER, len(BLOB) // 2, len(BLOB) - 1])
def test_a_delta_that_was_cut_off_is_refused(size):
    refused(BLOB[:size])


def test_a_delta_with_something_behind_it_is_refused():
    refused(BLOB + b"\0")


def test_another_version_is_refused():
    assert "begin" in refused(b"EZD2" + BLOB[4:])


@pytest.mark.parametrize("field", range(7))
@pytest.mark.parametrize("value", [0, 1, 2**31, 2**32 - 1])
def test_lengths_that_lie_are_refused_without_taking_memory(field, value):
    """The lengths of file, frame and parts, and the number of tensors, one after the other."""
    offset, kind = [(68, "<Q"), (76, "<Q"), *((84 + 4 * i, "<I") for i in range(5))][field]
    blob = bytearray(BLOB)
    struct.pack_into(kind, blob, offset, value)
    tracemalloc.start()
    try:
        refused(bytes(blob), limit=2**40)
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


def parts():
    """Header, plan, frame, scales, exact bytes, integers."""
    sizes = struct.unpack_from("<4I", BLOB, HEADER - 16)
    found, position = [BLOB[:HEADER]], HEADER
    for size in sizes:
        found.append(BLOB[position : position + size])
        position += size
    return [*found, BLOB[position:]]


BOMB = compress(bytes(1 << 24), 3)


@pytest.mark.parametrize("which", range(1, 5))
def test_a_part_that_unpacks_to_more_than_it_may_is_refused_early(which):
    pieces = parts()
    pieces[which] = BOMB
    blob = bytearray(b"".join(pieces))
    struct.pack_into("<I", blob, HEADER - 16 + 4 * (which - 1), len(pieces[which]))
    tracemalloc.start()
    try:
        refused(bytes(blob))
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("half", [0x7F80, 0x7FC0, 0x7F00, 0x8001, 0x0001, 0xBF80])
def test_scales_that_are_no_scales_are_refused(half):
    """Infinity, NaN, 2^127, negative zero's neighbour, a subnormal number, -1."""
    pieces = parts()
    count = 32 + 16 + 4
    pieces[3] = compress(bytes([half & 255] * count + [half >> 8] * count), 19)
    blob = bytearray(b"".join(pieces))
    struct.pack_into("<I", blob, HEADER - 8, len(pieces[3]))
    assert "scale" in refused(bytes(blob))


@st.composite
def damaged_deltas(draw):
    """Bits and bytes of a delta changed, cut out, put in; or of a part before it is packed."""
    blob = bytearray(BLOB)
    if draw(st.booleans()):
        pieces = [bytearray(p) for p in parts()]
        which = draw(st.integers(1, 4))
        shared = (b"", split(OLD).kept)[which == 2]
        plain = bytearray(draw(st.binary(max_size=300)))
        if which != 1:
            plain = bytearray(decompress(bytes(pieces[which]), limit=1 << 20, prefix=shared))
        if plain:
            plain[draw(st.integers(0, len(plain) - 1))] = draw(st.integers(0, 255))
        pieces[which] = compress(bytes(plain), 3)
        blob = bytearray(b"".join(pieces))
        struct.pack_into("<I", blob, HEADER - 16 + 4 * (which - 1), len(pieces[which]))
        return bytes(blob)
    for _ in range(draw(st.integers(1, 3))):
        if not blob:
            break
        # Half of all changes hit the header or the plan, where they mean most.
        end = draw(st.sampled_from([HEADER + 100, len(blob)])) - 1
        at = draw(st.integers(0, min(end, len(blob) - 1)))
        action = draw(st.sampled_from(["flip", "set", "cut", "put", "end"]))
        if action == "flip":
            blob[at] ^= 1 << draw(st.integers(0, 7))
        elif action == "set":
            blob[at : at + 4] = draw(st.binary(min_size=4, max_size=4))
        elif action == "cut":
            del blob[at : at + draw(st.integers(1, 40))]
        elif action == "put":
            blob[at:at] = draw(st.binary(min_size=1, max_size=40))
        else:
            del blob[max(at, 1) :]
    return bytes(blob)


def refused_or_right(blob):
    try:
        result = decode(OLD, blob, expected_sha256=DIGEST, limit_bytes=len(RESULT))
    except UpdateError:
        return
    assert result == RESULT


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(blob=damaged_deltas())
def test_damaged_deltas_are_refused(blob):
    refused_or_right(blob)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=100_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(blob=damaged_deltas())
def test_a_hundred_thousand_damaged_deltas_are_refused(blob):
    refused_or_right(blob)


# ----------------------------------------------------------------------------------- real exports


@pytest.fixture(scope="module")
def exported(_base_run, tmp_path_factory):
    """Steps 0 and 1 of a run whose second step trains nothing but its classifier."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    import edgeinc

    folder = tmp_path_factory.mktemp("deltas")
    shutil.copytree(_base_run, folder / "run")
    edgeinc.extend(folder / "run", new_classes=["car"], method="linear")
    for step in (0, 1):
        out = folder / f"{step}.onnx"
        edgeinc.export(folder / "run", step=step, head="dynamic", out=out, limit=0)
        out.with_suffix(".json").unlink()  # the file that is received describes itself
    return folder


def ids(path):
    from edgeinc.runtimes import open_artifact

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1, 64, 96, 3), np.uint8)
    with open_artifact(path, device="cpu") as session:
        return session.run(images), session.table.names


def test_a_step_that_trains_its_head_only_is_a_few_kilobytes(exported):
    old, new = ((exported / f"{step}.onnx").read_bytes() for step in (0, 1))
    blob, content = made(old, new, bits=6)
    assert content == new  # nothing is lost: the classifier lies in the frame
    assert len(blob) < 4096 < len(new) / 10


def test_weights_and_metadata_put_into_a_real_file_make_the_other_real_file(exported, tmp_path):
    old, new = ((exported / f"{step}.onnx").read_bytes() for step in (0, 1))
    path = tmp_path / "rebuilt.onnx"
    path.write_bytes(rebuilt(old, metadata=metadata(new)))
    got, names = ids(path)
    wanted, expected = ids(exported / "1.onnx")
    assert names == expected
    assert np.array_equal(got, wanted)
