"""The CUDA runtime through ctypes: arguments arrive whole, faults become words."""

import ctypes

import pytest
from fake_cuda import Cudart

from edgeinc.errors import EdgeincError, MissingError
from edgeinc.runtimes import _cuda
from edgeinc.runtimes._cuda import TO_DEVICE, TO_HOST, Cuda, open_cuda, version_text


@pytest.fixture
def library():
    return Cudart()


@pytest.fixture
def cuda(library):
    return Cuda(library, 0)


def test_the_facts_of_a_gpu(cuda):
    assert cuda.name() == "NVIDIA Fake"
    assert cuda.compute_capability() == "8.6"
    assert not cuda.integrated()
    assert cuda.memory() == (4 << 30, 8 << 30)
    assert version_text(cuda.driver_version()) == "12.6"


@pytest.mark.parametrize(("version", "text"), [(0, ""), (11080, "11.8"), (13020, "13.2")])
def test_versions_as_people_write_them(version, text):
    assert version_text(version) == text


def test_what_is_copied_to_the_gpu_comes_back(cuda, library):
    stream, device = cuda.stream(), cuda.malloc(8)
    there, back = (ctypes.c_uint8 * 8)(*range(8)), (ctypes.c_uint8 * 8)()
    cuda.copy(device, ctypes.addressof(there), 8, TO_DEVICE, stream)
    cuda.copy(ctypes.addressof(back), device, 8, TO_HOST, stream)
    assert bytes(back) == bytes(8)  # nothing has happened yet
    cuda.synchronise(stream)
    assert bytes(back) == bytes(range(8))
    cuda.free(device)
    cuda.destroy_stream(stream)
    assert (library.memory, library.streams) == ({}, {})


def test_addresses_beyond_32_bits_are_not_cut(cuda, library):
    """ctypes passes a bare Python integer as a C int, which loses the upper half."""
    library.cudaFree = lambda address: setattr(library, "freed", address) or 0
    cuda.free(0x7F12_3456_789A)
    assert isinstance(library.freed, ctypes.c_void_p)
    assert library.freed.value == 0x7F12_3456_789A


def test_time_between_two_marks(cuda):
    stream, start, end = cuda.stream(), cuda.event(), cuda.event()
    cuda.record(start, stream)
    cuda.record(end, stream)
    cuda.synchronise(stream)
    assert 0 <= cuda.elapsed_ms(start, end) < 1000


@pytest.mark.parametrize(
    ("settings", "device", "words"),
    [
        ({"driver": 0}, 0, "driver is missing"),
        ({"driver": 11040}, 0, "older than this CUDA needs"),
        ({"gpus": 0}, 0, "no CUDA GPU"),
        ({"gpus": 2}, 2, "no GPU 2"),
    ],
)
def test_a_machine_that_lacks_something_is_told_so(settings, device, words):
    with pytest.raises(MissingError, match=words) as caught:
        Cuda(Cudart(settings), device)
    assert caught.value.exit_code == 4
    assert caught.value.hint


def test_memory_that_is_used_up(cuda):
    with pytest.raises(EdgeincError, match="memory of the GPU is used up") as caught:
        cuda.malloc(5 << 30)
    assert caught.value.hint


def test_any_other_fault_has_cudas_own_name_for_it(cuda):
    with pytest.raises(EdgeincError, match=r"cudaErrorInvalidValue.*cudaFree"):
        cuda.free(12345)


def found(monkeypatch, **libraries):
    """Let `open_cuda` find these libraries and no others."""

    def load(name):
        if name not in libraries:
            raise OSError(name)
        return Cudart(libraries[name])

    monkeypatch.setattr(_cuda, "_candidates", lambda: iter(libraries))
    monkeypatch.setattr(ctypes, "CDLL", load)


def test_the_newest_library_that_the_driver_runs_is_taken(monkeypatch):
    found(
        monkeypatch,
        new={"library": 13020, "driver": 12020},
        middle={"library": 12090, "driver": 12020},  # minor versions are compatible
        old={"library": 11080, "driver": 12020},
    )
    assert open_cuda().library_version() == 12090


def test_no_driver_is_named_and_not_mistaken_for_a_missing_library(monkeypatch):
    found(monkeypatch, new={"library": 13020, "driver": 0}, old={"library": 12060, "driver": 0})
    with pytest.raises(MissingError, match="driver"):
        open_cuda()


def test_no_library_at_all_says_how_to_get_one(monkeypatch):
    monkeypatch.setattr(_cuda, "_candidates", lambda: iter(["/nowhere/libcudart.so.12"]))
    with pytest.raises(MissingError, match="libcudart") as caught:
        open_cuda()
    assert "pip install" in caught.value.hint


@pytest.mark.skipif("sys.platform == 'win32'")
def test_pips_packages_are_searched_the_newest_first(monkeypatch, tmp_path):
    for name in ("cu13/lib/libcudart.so.13", "cuda_runtime/lib/libcudart.so.12"):
        (tmp_path / "nvidia" / name).parent.mkdir(parents=True)
        (tmp_path / "nvidia" / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    names = [n for n in _cuda._candidates() if str(tmp_path) in n]
    assert [n.rpartition("/")[2] for n in names] == ["libcudart.so.13", "libcudart.so.12"]
