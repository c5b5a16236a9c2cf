"""A GPU in the memory of this process, behind the functions of `libcudart`.

Addresses are told apart by owner, and queued work is done when its stream is synchronised, not
before: who reads results earlier, or frees what is still to be read, gets garbage as on a GPU.
"""

import ctypes
import threading
import time

GPU = {"name": "NVIDIA Fake", "capability": (8, 6), "integrated": 0, "free": 4 << 30}
SUCCESS, INVALID, OUT_OF_MEMORY, NO_DRIVER, NO_DEVICE = 0, 1, 2, 35, 100


class ErrorName:
    """A function as ctypes has them: an object that takes a `restype`."""

    restype = ctypes.c_int

    def __call__(self, code):
        if self.restype is not ctypes.c_char_p:
            return 12345  # an address that was cut to an int
        return {INVALID: b"cudaErrorInvalidValue"}.get(code.value, b"cudaErrorUnknown")


class Cudart:
    """The functions of libcudart that edgeinc calls, with their codes."""

    def __init__(self, settings=None):
        self.settings = {"driver": 12060, "library": 12060, **GPU, **(settings or {})}
        self.memory = {}  # address -> (kind, ctypes array)
        self.streams = {}
        self.events = {}
        self.used = {}  # thread -> the GPU it works on
        self.devices = {}  # stream -> the GPU it was made on
        self.reserved = 0  # bytes of the GPU that libraries hold
        self.cudaGetErrorName = ErrorName()
        self._handles = iter(range(0x1000, 0x10000))

    def cudaDriverGetVersion(self, version):
        version._obj.value = self.settings["driver"]
        return SUCCESS

    def cudaRuntimeGetVersion(self, version):
        version._obj.value = self.settings["library"]
        return SUCCESS

    def cudaGetDeviceCount(self, count):
        if self.settings["driver"] // 1000 < self.settings["library"] // 1000:
            return NO_DRIVER
        count._obj.value = self.settings.get("gpus", 1)
        return SUCCESS if count._obj.value else NO_DEVICE

    def cudaSetDevice(self, device):
        self.used[threading.get_ident()] = device.value
        return SUCCESS

    def current(self):
        """The GPU that the calling thread works on: the first, unless it said another."""
        return self.used.get(threading.get_ident(), 0)

    def cudaGetDeviceProperties(self, properties, device):
        properties.value = self.settings["name"].encode()
        return SUCCESS

    def cudaDeviceGetAttribute(self, value, attribute, device):
        major, minor = self.settings["capability"]
        known = {75: major, 76: minor, 18: self.settings["integrated"]}
        value._obj.value = known[attribute.value]
        return SUCCESS

    def cudaMemGetInfo(self, free, total):
        held = sum(len(block) for kind, block in list(self.memory.values()) if kind == "device")
        free._obj.value = self.settings["free"] - self.reserved - held
        total._obj.value = 8 << 30
        return SUCCESS

    def _allocate(self, address, size, kind):
        if size.value > self.settings["free"]:
            return OUT_OF_MEMORY
        block = (ctypes.c_uint8 * max(1, size.value))()
        ctypes.memset(block, 0xA5, len(block))  # memory is never zero by itself
        address._obj.value = ctypes.addressof(block)
        self.memory[address._obj.value] = (kind, block)
        return SUCCESS

    def cudaMalloc(self, address, size):
        return self._allocate(address, size, "device")

    def cudaMallocHost(self, address, size):
        return self._allocate(address, size, "host")

    def _release(self, address, kind):
        found = self.memory.get(address.value)
        if found is None or found[0] != kind:
            return INVALID
        del self.memory[address.value]
        return SUCCESS

    def cudaFree(self, address):
        return self._release(address, "device")

    def cudaFreeHost(self, address):
        return self._release(address, "host")

    def holds(self, address, size):
        """Whether so many bytes at an address are on the fake GPU."""
        return any(
            kind == "device" and start <= address and address + size <= start + len(block)
            for start, (kind, block) in list(self.memory.items())
        )

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        ends = {1: (True, False), 2: (False, True)}[kind.value]
        found = self.holds(target.value, size.value), self.holds(source.value, size.value)
        if found != ends or stream.value not in self.streams:
            return INVALID
        move = (target.value, source.value, size.value)
        self.streams[stream.value].append(lambda: ctypes.memmove(*move))
        return SUCCESS

    def cudaStreamCreate(self, stream):
        stream._obj.value = next(self._handles)
        self.streams[stream._obj.value] = []
        self.devices[stream._obj.value] = self.current()
        return SUCCESS

    def cudaStreamDestroy(self, stream):
        return INVALID if self.streams.pop(stream.value, None) is None else SUCCESS

    def cudaStreamSynchronize(self, stream):
        queued, self.streams[stream.value] = self.streams[stream.value], []
        for work in queued:
            work()
        return SUCCESS

    def cudaEventCreate(self, event):
        event._obj.value = next(self._handles)
        self.events[event._obj.value] = None
        return SUCCESS

    def cudaEventDestroy(self, event):
        return SUCCESS if self.events.pop(event.value, 0) != 0 else INVALID

    def cudaEventRecord(self, event, stream):
        mark = event.value
        self.streams[stream.value].append(
            lambda: self.events.__setitem__(mark, time.perf_counter())
        )
        return SUCCESS

    def cudaEventElapsedTime(self, milliseconds, start, end):
        marks = self.events[start.value], self.events[end.value]
        if None in marks:
            return INVALID
        milliseconds._obj.value = 1000 * (marks[1] - marks[0])
        return SUCCESS
