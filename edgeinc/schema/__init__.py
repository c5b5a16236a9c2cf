"""Everything edgeinc writes to disk or prints with `--json`, as frozen dataclasses.

Rules: a document carries `schema_version`; reading is strict (an unknown key, a missing key or a
wrong type is refused with its place); IoU and mIoU are percent (0 to 100), None where a class is
absent from the data; times carry their unit in the name; sizes are (height, width) in pixels.

    text = to_json(result)
    again = from_json(EvalResult, text, source="eval.json")
"""

from __future__ import annotations

from edgeinc.schema._artifacts import (
    ArtifactCard,
    BenchResult,
    BenchRow,
    ExportResult,
    Parity,
    PredictResult,
    ReportResult,
)
from edgeinc.schema._document import (
    IMAGENET,
    IMPORT,
    SCHEMA_VERSION,
    VOID,
    Background,
    Color,
    Normalisation,
    Size,
    from_json,
    to_dict,
    to_json,
)
from edgeinc.schema._facts import (
    Check,
    ClassCount,
    ConventionDetails,
    DataCheck,
    DataInfo,
    DataSplit,
    DemoResult,
    DemoRow,
    Diagnosis,
    Item,
    Listing,
    Option,
    PluginDetails,
    RunSummary,
    ScenarioDetails,
    SplitStep,
    WrittenFile,
)
from edgeinc.schema._plans import (
    ClassInfo,
    ClassTable,
    Convention,
    Labels,
    Scenario,
    ScenarioStep,
    Selection,
)
from edgeinc.schema._runs import (
    DataRef,
    Host,
    RunInfo,
    Setting,
    SourceRef,
    StepInfo,
)
from edgeinc.schema._scores import (
    ClassScore,
    EvalResult,
    ImportResult,
    LearnResult,
    Miou,
    StepScore,
    TaskScore,
    UnionScore,
)

__all__ = [
    "IMAGENET",
    "IMPORT",
    "SCHEMA_VERSION",
    "VOID",
    "ArtifactCard",
    "Background",
    "BenchResult",
    "BenchRow",
    "Check",
    "ClassCount",
    "ClassInfo",
    "ClassScore",
    "ClassTable",
    "Color",
    "Convention",
    "ConventionDetails",
    "DataCheck",
    "DataInfo",
    "DataRef",
    "DataSplit",
    "DemoResult",
    "DemoRow",
    "Diagnosis",
    "EvalResult",
    "ExportResult",
    "Host",
    "ImportResult",
    "Item",
    "Labels",
    "LearnResult",
    "Listing",
    "Miou",
    "Normalisation",
    "Option",
    "Parity",
    "PluginDetails",
    "PredictResult",
    "ReportResult",
    "RunInfo",
    "RunSummary",
    "Scenario",
    "ScenarioDetails",
    "ScenarioStep",
    "Selection",
    "Setting",
    "Size",
    "SourceRef",
    "SplitStep",
    "StepInfo",
    "StepScore",
    "TaskScore",
    "UnionScore",
    "WrittenFile",
    "from_json",
    "to_dict",
    "to_json",
]
