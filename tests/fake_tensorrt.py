"""A TensorRT 8.6, 10 or 11 that "builds" an ONNX file and executes it with ONNX Runtime.

What a version does not have (`tensorrt_api.json`, recorded from the real bindings) its fake does
not have either. The GPU is memory of this process behind the functions of `libcudart`: addresses
are told apart by owner, and queued work is done when a stream is synchronised, not before.

    TENSORRT_FAKE='{"version": "10.16.1"}' PYTHONPATH=FOLDER python -c "import tensorrt"

where FOLDER/tensorrt.py is `SOURCE`. Faults that are asked for in the same variable:
`builder`: "null" (TypeError of pybind11) or "none"; `build`: the reason why there is no engine;
`die`: a signal's number; `hang`: seconds; `eat`: megabytes; `driver`, `library`: CUDA versions;
`merged`: names of weights of which none can be replaced without the others; `fault`: a refit
"fails" half way, or what is "refitted wrong" or "built wrong" to be refitted computes something
else; `kernels`: bytes that the first execution takes.
"""

import ctypes
import enum
import json
import os
import time
from pathlib import Path

from fake_cuda import Cudart

API = json.loads(Path(__file__).with_name("tensorrt_api.json").read_text())
SOURCE = """
import sys
sys.path.insert(0, {tests!r})
import fake_tensorrt
__version__ = "{version}"
fake_tensorrt.install(globals())
"""


def install(namespace):
    """Fill a module with the fake, and let `ctypes` find the fake libcudart."""
    settings = json.loads(os.environ["TENSORRT_FAKE"])
    cudart = Cudart(settings)
    namespace.update(interface(namespace["__version__"], cudart, settings))
    namespace["cudart"] = cudart
    real = getattr(ctypes.CDLL, "real", ctypes.CDLL)

    def load(name, *arguments, **options):
        if "cudart" in str(name):
            return cudart
        return real(name, *arguments, **options)

    load.real = real
    ctypes.CDLL = load


KINDS = {  # ONNX element type -> TensorRT's name
    1: "FLOAT",
    2: "UINT8",
    3: "INT8",
    6: "INT32",
    7: "INT64",
    9: "BOOL",
    10: "HALF",
}


def interface(version, cudart, settings):
    """The names a `tensorrt` module of a version has."""
    known = API[version]
    trace = []
    deserialised = []

    def limited(kind):
        """The class with only what the real one has, noting what is used of it."""
        real = known[kind.__name__]
        own = {k: v for k, v in vars(kind).items() if k.startswith("_") or k in real}
        own.pop("__dict__", None)
        own.pop("__weakref__", None)

        def look(self, name):
            if name in real:
                trace.append((kind.__name__, name))
            return super(made, self).__getattribute__(name)

        def put(self, name, value):
            if not name.startswith("_") and type(self) is made and name not in real:
                raise AttributeError(f"{kind.__name__} of {version} has no {name}")
            if name in real:
                trace.append((kind.__name__, name))
            super(made, self).__setattr__(name, value)

        made = type(kind.__name__, kind.__bases__, {**own, "__getattribute__": look})
        if kind.__bases__ == (object,):
            made.__setattr__ = put
        return made

    def enumeration(name):
        return enum.Enum(name, {m: i for i, m in enumerate(known[name])}, type=_Member)

    DataType, BuilderFlag, MemoryPoolType, TensorIOMode, NetworkDefinitionCreationFlag = map(
        enumeration,
        (
            "DataType",
            "BuilderFlag",
            "MemoryPoolType",
            "TensorIOMode",
            "NetworkDefinitionCreationFlag",
        ),
    )

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

        def __init__(self):
            pass

        def log(self, severity, msg):
            raise NotImplementedError

    class IHostMemory(bytes):
        @property
        def nbytes(self):
            return len(self)

    class ITensor:
        def __init__(self, value):
            tensor = value.type.tensor_type
            self._name = value.name
            self._dtype = DataType[KINDS[tensor.elem_type]]
            self._shape = tuple(
                d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim
            )

        name = property(lambda self: self._name)
        dtype = property(lambda self: self._dtype)
        shape = property(lambda self: self._shape)

    class INetworkDefinition:
        def __init__(self, flags):
            self._flags, self._model, self._refittable = flags, None, []

        @property
        def num_inputs(self):
            return len(self._model.graph.input)

        @property
        def num_layers(self):
            return len(self._model.graph.node)

        def get_input(self, index):
            return ITensor(self._model.graph.input[index])

        def mark_weights_refittable(self, name):
            there = name in {t.name for t in self._model.graph.initializer}
            self._refittable += [name] * there
            return there

    class ParserError:
        def __init__(self, reason):
            self._reason = reason

        def desc(self):
            return self._reason

        def node(self):
            return 0

        def node_name(self):
            return "node_0"

    class OnnxParser:
        def __init__(self, network, logger):
            self._network, self._errors = network, []

        def parse(self, model, path=None):
            import onnx
            from google.protobuf.message import DecodeError

            try:
                self._network._model = onnx.load_from_string(model)
                onnx.checker.check_model(self._network._model)
            except (DecodeError, onnx.checker.ValidationError) as err:
                self._errors.append(ParserError(f"Failed to parse the ONNX model: {err}"))
            batch = getattr(NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
            if version.startswith("8.") and not self._network._flags & (1 << int(batch)):
                self._errors.append(ParserError("This parser only supports explicit batch"))
            return not self._errors

        @property
        def num_errors(self):
            return len(self._errors)

        def get_error(self, index):
            return self._errors[index]

    class ITimingCache:
        def __init__(self, content):
            self._content = bytes(content)

        def serialize(self):
            return IHostMemory(self._content or tag().encode() + b" timings")

    def tag():
        return f"{version} {cudart.settings['name']}"

    class IOptimizationProfile:
        def __init__(self):
            self._shapes = {}

        def set_shape(self, input, min, opt, max):
            self._shapes[input] = [list(min), list(opt), list(max)]

    class IBuilderConfig:
        def __init__(self):
            self._flags, self._pools, self._profiles = [], {}, []
            self._cache, self._monitor = None, None

        def set_flag(self, flag):
            self._flags.append(BuilderFlag(flag).name)

        def set_memory_pool_limit(self, pool, pool_size):
            self._pools[MemoryPoolType(pool).name] = pool_size

        def add_optimization_profile(self, profile):
            self._profiles.append(profile)
            return len(self._profiles) - 1

        def create_timing_cache(self, serialized_timing_cache):
            return ITimingCache(serialized_timing_cache)

        def set_timing_cache(self, cache, ignore_mismatch):
            fits = not cache._content or cache._content.startswith(tag().encode())
            if fits:
                self._cache = cache
            return fits

        def get_timing_cache(self):
            return self._cache

        progress_monitor = property(
            lambda self: self._monitor, lambda self, value: setattr(self, "_monitor", value)
        )

    class IProgressMonitor:
        def __init__(self):
            pass

    class Builder:
        def __init__(self, logger):
            if settings.get("builder") == "null":
                logger.log(1, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger

        def create_network(self, flags=0):
            return INetworkDefinition(flags)

        def create_builder_config(self):
            return None if settings.get("builder") == "none" else IBuilderConfig()

        def create_optimization_profile(self):
            return IOptimizationProfile()

        def build_serialized_network(self, network, config):
            if reason := settings.get("build"):
                self._logger.log(1, reason)
                return None
            _misbehave(settings)
            if config._monitor is not None:
                config._monitor.phase_start("Building", None, 2)
                for step in range(2):
                    if not config._monitor.step_complete("Building", step):
                        return None
                config._monitor.phase_finish("Building")
            shapes = config._profiles[0]._shapes if config._profiles else {}
            for i in range(network.num_inputs):
                tensor = network.get_input(i)
                if -1 in tensor.shape and tensor.name not in shapes:
                    self._logger.log(1, f"input {tensor.name} needs an optimization profile")
                    return None
            strong = getattr(NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
            typed = strong is not None and bool(network._flags & (1 << int(strong)))
            if typed and {"FP16", "INT8"} & {*config._flags}:
                self._logger.log(1, "a strongly typed network takes no precision flags")
                return None
            header = {
                "version": version,
                "capability": list(cudart.settings["capability"]),
                "typed": typed,
                "flags": config._flags,
                "pools": config._pools,
                "profile": shapes,
                "refittable": network._refittable,
            }
            content = network._model.SerializeToString()
            return IHostMemory(json.dumps(header).encode() + b"\n" + content)

    class Runtime:
        def __init__(self, logger):
            self._logger = logger

        def deserialize_cuda_engine(self, serialized_engine):
            deserialised.append(len(serialized_engine))
            head, _, content = bytes(serialized_engine).partition(b"\n")
            header = json.loads(head)
            if header["version"] != version:
                self._logger.log(1, f"Version tag does not match. Note: Current Version: {version}")
                return None
            return ICudaEngine(header, content, self._logger)

    class ICudaEngine:
        def __init__(self, header, content, logger):
            import onnx
            from onnx import numpy_helper

            self._model = onnx.load_from_string(content)
            graph = self._model.graph
            if settings.get("fault") == "built wrong" and "REFIT" in "".join(header["flags"]):
                for tensor in graph.initializer:
                    values = _wrong(tensor.name, numpy_helper.to_array(tensor))
                    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            self._session = _session(self._model.SerializeToString())
            floats = [t.name for t in graph.initializer if KINDS[t.data_type] in ("FLOAT", "HALF")]
            every = "REFIT" in header["flags"]
            self._refittable = [n for n in floats if every or n in header["refittable"]]
            self._bytes, self._executed = len(content), False
            cudart.reserved += self._bytes
            self._inputs = {v.name: ITensor(v) for v in graph.input}
            self._tensors = {**self._inputs, **{v.name: ITensor(v) for v in graph.output}}
            self._profile, self._logger = header["profile"], logger

        def __del__(self):
            cudart.reserved -= self._bytes

        @property
        def num_io_tensors(self):
            return len(self._tensors)

        def get_tensor_name(self, index):
            return list(self._tensors)[index]

        def get_tensor_mode(self, name):
            return TensorIOMode["INPUT" if name in self._inputs else "OUTPUT"]

        def get_tensor_dtype(self, name):
            return self._tensors[name].dtype

        def get_tensor_shape(self, name):
            return self._tensors[name].shape

        def get_tensor_profile_shape(self, name, profile_index):
            return [tuple(shape) for shape in self._profile[name]]

        def create_execution_context(self):
            return IExecutionContext(self)

    class Refitter:
        def __init__(self, engine, logger):
            if not engine._refittable:
                logger.log(1, "the engine is not refittable")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._engine, self._logger, self._given = engine, logger, {}

        def get_all_weights(self):
            return list(self._engine._refittable)

        def set_named_weights(self, name, weights):
            from onnx import numpy_helper

            found = [t for t in self._engine._model.graph.initializer if t.name == name]
            old = numpy_helper.to_array(found[0]) if name in self._engine._refittable else None
            fits = old is not None and (old.dtype, old.size) == (weights.dtype, weights.size)
            if not fits:
                self._logger.log(1, f"weights of {name} are rejected")
                return False
            self._given[name] = weights  # no copy: it is read when the engine is refitted
            return True

        def get_missing_weights(self):
            merged = settings.get("merged", [])
            together = merged if any(name in self._given for name in merged) else []
            return [name for name in together if name not in self._given]

        def refit_cuda_engine(self):
            from onnx import numpy_helper

            engine, fault = self._engine, settings.get("fault")
            assert not engine._executed, "an engine that serves is refitted"
            for tensor in engine._model.graph.initializer:
                if tensor.name in self._given and fault != "fails":
                    values = self._given[tensor.name].reshape(tuple(tensor.dims))
                    if fault == "refitted wrong":
                        values = _wrong(tensor.name, values)
                    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            engine._session = _session(engine._model.SerializeToString())
            return fault != "fails" and not self.get_missing_weights()

    class IExecutionContext:
        def __init__(self, engine):
            self._engine, self._addresses = engine, {}
            self._shapes = {
                name: t.shape for name, t in engine._inputs.items() if -1 not in t.shape
            }

        def set_tensor_address(self, name, memory):
            self._addresses[name] = memory
            return name in self._engine._tensors

        def set_input_shape(self, name, shape):
            low, _, high = self._engine._profile[name]
            within = all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
            if within:
                self._shapes[name] = tuple(shape)
            return within

        def execute_async_v3(self, stream_handle):
            engine = self._engine
            absent = [n for n in engine._tensors if not self._addresses.get(n)]
            absent += [n for n in engine._inputs if n not in self._shapes]
            if absent:
                engine._logger.log(1, f"no address or shape for {absent[0]}")
                return False
            if cudart.devices[stream_handle] != cudart.current():
                engine._logger.log(1, "the stream is of another GPU than this thread works on")
                return False
            if not engine._executed:
                engine._executed = True
                engine._bytes += settings.get("kernels", 0)
                cudart.reserved += settings.get("kernels", 0)
            shapes, addresses = dict(self._shapes), dict(self._addresses)
            cudart.streams[stream_handle].append(lambda: _execute(engine, shapes, addresses))
            return True

    def _execute(engine, shapes, addresses):
        import numpy as np

        feed = {}
        for tensor in engine._session.get_inputs():
            kind = KINDS_NUMPY[engine._inputs[tensor.name].dtype.name]
            size = int(np.prod(shapes[tensor.name])) * np.dtype(kind).itemsize
            assert cudart.holds(addresses[tensor.name], size), tensor.name
            content = ctypes.string_at(addresses[tensor.name], size)
            feed[tensor.name] = np.frombuffer(content, kind).reshape(shapes[tensor.name])
        given = engine._session.run(None, feed)
        for tensor, array in zip(engine._session.get_outputs(), given, strict=True):
            assert cudart.holds(addresses[tensor.name], array.nbytes), tensor.name
            ctypes.memmove(addresses[tensor.name], array.tobytes(), array.nbytes)

    originals = (
        ILogger, IHostMemory, ITensor, INetworkDefinition, ParserError, OnnxParser, ITimingCache,
        IOptimizationProfile, IBuilderConfig, IProgressMonitor, Builder, Runtime, ICudaEngine,
        IExecutionContext, Refitter,
    )  # fmt: skip
    found = {kind.__name__: kind for kind in originals if kind.__name__ in known}
    made = {name: limited(kind) for name, kind in found.items() if name != "IHostMemory"}
    # The classes make each other by name: from here on, the limited ones.
    ITensor, INetworkDefinition, ParserError, OnnxParser = (
        made[n] for n in ("ITensor", "INetworkDefinition", "ParserError", "OnnxParser")
    )
    ITimingCache, IOptimizationProfile, IBuilderConfig = (
        made[n] for n in ("ITimingCache", "IOptimizationProfile", "IBuilderConfig")
    )
    ICudaEngine, IExecutionContext = made["ICudaEngine"], made["IExecutionContext"]
    enums = (
        DataType,
        BuilderFlag,
        MemoryPoolType,
        TensorIOMode,
        NetworkDefinitionCreationFlag,
    )
    return {
        **made,
        "IHostMemory": IHostMemory,
        **{e.__name__: e for e in enums},
        "originals": found,
        "trace": trace,
        "deserialised": deserialised,
    }


KINDS_NUMPY = {
    "FLOAT": "float32",
    "UINT8": "uint8",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "HALF": "float16",
}


class _Member:
    """Enums of pybind11 become integers when they are told to, and only then."""

    def __int__(self):
        return self.value


def _wrong(name, values):
    """What an engine computes with instead: classifiers that prefer the opposite."""
    return -values if name.endswith("weight") else values


def _session(content):
    """What executes an engine."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _misbehave(settings):
    """What builds are known to do."""
    if signal := settings.get("die"):
        os.write(2, b"about to go\n")
        os.kill(os.getpid(), signal)
    if megabytes := settings.get("eat"):
        settings["held"] = bytearray(os.urandom(1)) * (megabytes << 20)
        time.sleep(20)
    time.sleep(settings.get("hang", 0))
