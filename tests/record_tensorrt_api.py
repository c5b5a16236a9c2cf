"""Record the Python interface of the real TensorRT bindings in `tensorrt_api.json`.

The bindings are on PyPI as wheels of 1 MB (`tensorrt-bindings`, `tensorrt-cu12-bindings`,
`tensorrt-cu13-bindings`); what they wrap is not. Of that they need only a few C functions to be
imported, so empty ones stand in. Needs a C compiler, and Linux on x86-64:

    pip download --no-deps tensorrt-cu13-bindings==11.4.0.106 && unzip *.whl -d 11.4
    python tests/record_tensorrt_api.py 11.4/tensorrt_bindings/tensorrt.so 11.4.0
"""

import ctypes
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

RECORD = Path(__file__).with_name("tensorrt_api.json")
CLASSES = (
    "Builder",
    "BuilderFlag",
    "DataType",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProgressMonitor",
    "ISerializationConfig",
    "ITensor",
    "ITimingCache",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "OnnxParserRefitter",
    "ParserError",
    "Refitter",
    "Runtime",
    "SerializationFlag",
    "TensorIOMode",
)
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
    "_ZN11nvuffparser15createUffParserEv",
    "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi",
    "_ZN14nvcaffeparser117createCaffeParserEv",
    "_ZN14nvcaffeparser123shutdownProtobufLibraryEv",
)


def signatures(function):
    """Parameters of every overload, from the docstring of a pybind11 function: `name`, or `name=`
    where there is a default.
    """
    found = re.findall(
        rf"^(?:\d+\. )?{function.__name__}\((.*)\) -> ", function.__doc__ or "", re.MULTILINE
    )
    return [_parameters(text) for text in found]


def _parameters(text):
    parts = re.split(r"(?:^|, )(\w+): ", text)
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return [f"{name}=" if " = " in kind else name for name, kind in pairs if name != "self"]


def interface(module):
    """Class -> its public attributes -> parameter names per overload; None: not a function."""
    return {
        name: {each: _kind(getattr(kind, each)) for each in dir(kind) if _counts(kind, each)}
        for name in CLASSES
        if (kind := getattr(module, name, None)) is not None
    }


def _counts(kind, attribute):
    if hasattr(kind, "__members__"):  # an enum: its members, not what every enum has
        return attribute in kind.__members__
    return attribute == "__init__" or not attribute.startswith("_")


def _kind(attribute):
    return signatures(attribute) if callable(attribute) else None


def real(library, major):
    """The module of the bindings, on empty libraries."""
    folder = Path(tempfile.mkdtemp())
    (folder / "empty.c").write_text("".join(f"void *{f}() {{ return 0; }}\n" for f in FUNCTIONS))
    for name in ("nvinfer", "nvonnxparser", "nvparsers", "nvinfer_plugin"):
        file = folder / f"lib{name}.so.{major}"
        soname = f"-Wl,-soname,{file.name}"
        compiler = ["cc", "-w", "-shared", "-fPIC", soname, "-o", str(file)]
        subprocess.run([*compiler, str(folder / "empty.c")], check=True)
        ctypes.CDLL(str(file), ctypes.RTLD_GLOBAL)
    spec = importlib.util.spec_from_file_location("tensorrt", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    library, version = sys.argv[1:]
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    record[version] = interface(real(library, version.partition(".")[0]))
    # One class per line: a change of the interface is a readable difference.
    versions = [
        f'"{version}": {{\n'
        + ",\n".join(f'"{name}": {json.dumps(kind)}' for name, kind in classes.items())
        + "\n}"
        for version, classes in record.items()
    ]
    RECORD.write_text("{\n" + ",\n".join(versions) + "\n}\n")
