"""One face for TensorRT 8.6, 10 and 11, and for TensorRT for RTX.

Rules: the module is a parameter, so whatever has the interface can be driven; versions are told
apart by what their classes have, not by tables; tensors go by name; None, False and pybind11's
TypeErrors become one line with the way out. What differs between the versions stands here and
nowhere else:

- 8.x knows no strong typing: it takes EXPLICIT_BATCH and a flag for the precision; from 9 on the
  types of the ONNX file decide (11 has neither enum nor flags for anything else);
- which weights can be replaced is said weight by weight from 10 on (REFIT_INDIVIDUAL); 8.x knows
  only all of them (REFIT). The progress monitor came with 10 too;
- only TensorRT for RTX builds for a GPU generation that is not here.

    bindings = Bindings(import_module("tensorrt"))
    network = bindings.parse(Path("model.onnx").read_bytes())
    built = bindings.build(network, precision="fp32")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinc.errors import EdgeincError, MissingError, UsageError
from edgeinc.runtimes._tensorrt_callbacks import Watch, logger, monitor
from edgeinc.schema import InputShapes, Refit

DOCTOR = "edgeinc doctor --for device"
_DTYPES: Mapping[str, type[np.generic]] = {
    "UINT8": np.uint8,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "HALF": np.float16,
    "FLOAT": np.float32,
    "BOOL": np.bool_,
}
_FLAGS = {"fp32": (), "fp16": ("FP16",), "int8": ("INT8", "FP16")}
"""Precision -> builder flags of a TensorRT without strong typing."""


@dataclass(frozen=True)
class Tensor:
    """An input or output: `-1` in `shape` is a dimension that only a profile bounds."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    input: bool


@dataclass(frozen=True)
class Network:
    """A parsed file. The parser is kept because the network reads weights from its memory."""

    builder: Any
    network: Any
    parser: Any

    @property
    def layers(self) -> int:
        """Layers of the network, before any is fused."""
        return int(self.network.num_layers)


@dataclass(frozen=True)
class Built:
    """A serialised engine (anything with the buffer protocol) and the timings it was chosen by."""

    engine: Any
    timing_cache: bytes | None
    timings_used: bool


class Bindings:
    """A `tensorrt` module and its version.

    Attributes:
        version: What the module calls itself.
        errors: What it logged as an error, the newest last.
    """

    def __init__(self, module: Any) -> None:
        self._trt = module
        self.version = str(module.__version__)
        self.errors: list[str] = []
        self._logger = logger(module, self.errors)
        flags = getattr(module, "NetworkDefinitionCreationFlag", None)  # lean versions only execute
        self.typed = hasattr(flags, "STRONGLY_TYPED")

    # ------------------------------------------------------------------------------ building

    def parse(self, content: bytes) -> Network:
        """Read an ONNX file.

        Raises:
            MissingError: TensorRT cannot start here: no GPU, or no driver that fits.
            EdgeincError: Its parser refuses the file; the message names the node.
        """
        flags = self._trt.NetworkDefinitionCreationFlag
        flag = flags.STRONGLY_TYPED if self.typed else flags.EXPLICIT_BATCH
        builder = self._create("Builder", self._logger)
        network = self._made(builder.create_network(1 << int(flag)), "a network")
        parser = self._create("OnnxParser", network, self._logger)
        if not parser.parse(content):
            faults = [_fault(parser.get_error(i)) for i in range(parser.num_errors)]
            raise EdgeincError(
                f"TensorRT {self.version} cannot read the ONNX file: "
                f"{faults[0] if faults else self._last_error()}",
                hint="update edgeinc and export again; if it stays, it is a bug worth reporting",
            )
        return Network(builder, network, parser)

    def inputs(self, network: Network) -> tuple[Tensor, ...]:
        """The inputs of a parsed file."""
        found = (network.network.get_input(i) for i in range(network.network.num_inputs))
        return tuple(Tensor(t.name, tuple(t.shape), _dtype(t.name, t.dtype), True) for t in found)

    def build(
        self,
        network: Network,
        *,
        precision: str,
        profile: Mapping[str, InputShapes] | None = None,
        workspace: int | None = None,
        timing_cache: bytes | None = None,
        refit: Refit = "none",
        weights: Sequence[str] = (),
        target: str = "",
        watch: Watch | None = None,
    ) -> Built:
        """Choose kernels for this GPU.

        Args:
            network: Of `parse`.
            precision: Of the ONNX file: `fp32`, `fp16` or `int8`.
            profile: Shapes of the inputs that have a dynamic dimension.
            workspace: Bytes a kernel may use while it runs; None leaves it to TensorRT.
            timing_cache: Earlier timings; None keeps none.
            refit: Which weights can be replaced later.
            weights: Their names in the file.
            target: Generation to build for (`SM86`), TensorRT for RTX only; "" is this GPU.
            watch: Told how far the build is, where the version can tell.

        Raises:
            UsageError: The version cannot do what `refit` asks for.
            EdgeincError: No engine came out; the message has TensorRT's reason.
        """
        trt = self._trt
        config = self._made(network.builder.create_builder_config(), "a configuration")
        if workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
        for name in () if self.typed else _FLAGS[precision]:
            config.set_flag(getattr(trt.BuilderFlag, name))
        self._set_refit(config, network.network, refit, weights)
        if profile:
            config.add_optimization_profile(self._profile(network.builder, profile))
        if target:
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
        used = timing_cache is not None and self._set_timings(config, timing_cache)
        if watch is not None and hasattr(trt, "IProgressMonitor"):
            config.progress_monitor = monitor(trt, watch)
        engine = network.builder.build_serialized_network(network.network, config)
        if engine is None:
            raise EdgeincError(
                f"TensorRT {self.version} built no engine: {self._last_error()}",
                hint=_advice(self._last_error()),
            )
        timings = config.get_timing_cache() if timing_cache is not None else None
        return Built(engine, bytes(timings.serialize()) if timings else None, used)

    def _set_refit(self, config: Any, network: Any, refit: Refit, weights: Sequence[str]) -> None:
        """Keep weights replaceable. REFIT_IDENTICAL is no way: it allows no other values."""
        flags = self._trt.BuilderFlag
        if refit == "none":
            return
        if not hasattr(flags, "REFIT_INDIVIDUAL"):
            if refit == "head":
                raise UsageError(
                    f"--refit head needs TensorRT 10, here is {self.version}",
                    hint="--refit all makes every weight replaceable; the engine may be slower",
                )
            config.set_flag(flags.REFIT)
            return
        config.set_flag(flags.REFIT_INDIVIDUAL)
        refused = [name for name in weights if not network.mark_weights_refittable(name)]
        if refused or not weights:
            raise EdgeincError(
                f"weights cannot be made replaceable: {', '.join(refused) or 'there are none'}",
                hint="leave --refit out, or export with --head capacity or static",
            )

    def _profile(self, builder: Any, shapes: Mapping[str, InputShapes]) -> Any:
        profile = builder.create_optimization_profile()
        for name, shape in shapes.items():
            profile.set_shape(name, shape.min, shape.opt, shape.max)
        return profile

    def _set_timings(self, config: Any, content: bytes) -> bool:
        """Whether earlier timings are used; those of another version or GPU are not."""
        if content:
            cache = config.create_timing_cache(content)
            if cache is not None and config.set_timing_cache(cache, False):
                return True
        config.set_timing_cache(config.create_timing_cache(b""), False)
        return False

    # ------------------------------------------------------------------------------ executing

    def deserialise(self, content: bytes) -> tuple[Any, Any]:
        """(runtime, engine) of a serialised engine. This executes code that is in it.

        Raises:
            MissingError: TensorRT cannot start here.
            EdgeincError: It does not take the engine.
        """
        runtime = self._create("Runtime", self._logger)
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise EdgeincError(
                f"TensorRT {self.version} does not take this engine: {self._last_error()}",
                hint="build it again on this machine: edgeinc build FILE.onnx",
            )
        return runtime, engine

    def context(self, engine: Any) -> Any:
        """What executes an engine; it holds the memory between layers.

        Raises:
            EdgeincError: There is not enough memory on the GPU.
        """
        return self._made(engine.create_execution_context(), "an execution context")

    def tensors(self, engine: Any) -> tuple[Tensor, ...]:
        """The inputs and outputs of an engine."""
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        taken = self._trt.TensorIOMode.INPUT
        return tuple(
            Tensor(
                name,
                tuple(engine.get_tensor_shape(name)),
                _dtype(name, engine.get_tensor_dtype(name)),
                engine.get_tensor_mode(name) == taken,
            )
            for name in names
        )

    def limits(self, engine: Any, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The smallest and the largest shape an input takes."""
        smallest, _, largest = engine.get_tensor_profile_shape(name, 0)
        return tuple(smallest), tuple(largest)

    def replaceable(self, engine: Any) -> tuple[str, ...]:
        """Names of the weights that can be replaced in an engine.

        Raises:
            MissingError: TensorRT cannot start here.
        """
        refitter = self._create("Refitter", engine, self._logger)
        return tuple(name for name in refitter.get_all_weights() if name)

    def refit(self, engine: Any, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        """Replace weights in an engine that nothing executes meanwhile.

        Where it fails, part of them may have been replaced: the engine is good for nothing then.

        Args:
            engine: Of `deserialise`; its contexts stay valid.
            weights: Name -> values, as many and of the type it was built with.

        Raises:
            EdgeincError: It has no such weight, or of another size or type; or others that it has
                merged with these are missing.
        """
        refitter = self._create("Refitter", engine, self._logger)
        for name, values in weights.items():
            if not refitter.set_named_weights(name, values):
                raise self._not_refitted(f"it does not take {values.size} new values for {name}")
        if missing := refitter.get_missing_weights():
            names = ", ".join(name or "one without a name" for name in missing)
            raise self._not_refitted(f"it also needs new values for {names}")
        if not refitter.refit_cuda_engine():
            raise self._not_refitted("it could not exchange the weights")

    def _not_refitted(self, what: str) -> EdgeincError:
        return EdgeincError(
            f"TensorRT {self.version} did not refit the engine, {what}: {self._last_error()}",
            hint="build an engine of the new file: edgeinc build FILE.onnx",
        )

    def execute(self, context: Any, stream: int) -> None:
        """Queue one execution.

        Raises:
            EdgeincError: TensorRT refuses; the message has its reason.
        """
        if not context.execute_async_v3(stream):
            raise EdgeincError(
                f"TensorRT {self.version} did not execute the engine: {self._last_error()}",
                hint="build it again: edgeinc build FILE.onnx",
            )

    # ------------------------------------------------------------------------------ faults

    def _create(self, kind: str, *arguments: Any) -> Any:
        try:
            return self._made(getattr(self._trt, kind)(*arguments), f"its {kind}")
        except TypeError as err:
            # What pybind11 says when TensorRT could not start and gave it nothing to wrap.
            if "nullptr" not in str(err):
                raise
            return self._made(None, f"its {kind}")

    def _made(self, thing: Any, name: str) -> Any:
        if thing is not None:
            return thing
        reason = self._last_error()
        if "memory" in reason.lower():
            raise EdgeincError(
                f"TensorRT {self.version} cannot make {name}: {reason}", hint=_advice(reason)
            )
        raise MissingError(
            f"TensorRT {self.version} cannot make {name}: no GPU, or no driver that fits it "
            f"({reason})",
            hint=DOCTOR,
        )

    def _last_error(self) -> str:
        return self.errors[-1] if self.errors else "it gave no reason"


def _dtype(name: str, dtype: Any) -> np.dtype[Any]:
    if dtype.name not in _DTYPES:
        raise EdgeincError(
            f"tensor {name} is {dtype.name}, which edgeinc does not pass to TensorRT",
            hint=f"its graphs take and give {', '.join(_DTYPES)}",
        )
    return np.dtype(_DTYPES[dtype.name])


def _fault(error: Any) -> str:
    """A parser's error with its place; names of nodes came after 8.6."""
    place = error.node_name() if hasattr(error, "node_name") else f"number {error.node()}"
    return f"{' '.join(error.desc().split())} (node {place})"


def _advice(reason: str) -> str:
    if "memory" in reason.lower():
        return "end other programs that use the GPU; on a Jetson add swap and stop the desktop"
    return "repeat with -vv; `edgeinc build FILE --trt-check` tells whether the file is at fault"
