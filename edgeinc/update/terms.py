"""What a step has to meet, here and on devices; what nothing can meet is refused at once.

refuse_impossible(Terms(min_miou=60.0))
gates_of("fp32", {"providers": ("CPUExecutionProvider",), "max_p95_ms": 40.0})
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches

from edgeinc.errors import UsageError
from edgeinc.registry import suggest
from edgeinc.runtimes import _golden, is_provider, providers
from edgeinc.schema import DeviceGates
from edgeinc.update._closed_loop import MAX_LOSS
from edgeinc.update.delta import BITS, EXACT_ONLY
from edgeinc.update.manifest import gate_problems

GATES = DeviceGates(
    golden_percent=0.0,
    max_p95_ms=None,
    providers=(),
    trial_seconds=300.0,
    trial_frames=500,
    max_single_class_percent=98.0,
    min_agreement_old_percent=None,
)
"""What devices demand unless told; the golden percent is that of the artifact's precision."""
_NEVER_ZERO = ("max_p95_ms", "max_single_class_percent")
"""Every frame takes time, and some class fills more than nothing."""


@dataclass(frozen=True)
class Terms:
    """What a step has to meet, here and on devices.

    Attributes:
        bits: Of the integers of a delta that are tried first: 8, 6 or 4; 0 for an exact one.
        max_miou_loss: Points of mIoU that the delta may cost against the exported file.
        min_miou: Percent that the published file has to reach; None for any.
        max_drop: Points that the parent's classes may lose on average; None for any.
        unscored: Publish without a score.
        new_graph: The graph may be another than the parent's.
        replace: The newest step may be published already; this is another file for it.
        gates: What devices demand before they serve it.
    """

    bits: int = 6
    max_miou_loss: float = MAX_LOSS
    min_miou: float | None = None
    max_drop: float | None = None
    unscored: bool = False
    new_graph: bool = False
    replace: bool = False
    gates: Mapping[str, object] | None = None


def refuse_impossible(terms: Terms) -> None:
    """Refuse what no step could meet, or what nothing would be held against.

    Raises:
        UsageError: Such a value, with what it may be.
    """
    if terms.bits not in (*BITS, EXACT_ONLY):
        raise UsageError(f"a delta cannot have {terms.bits} bits", hint="8, 6, 4, or 0 for exact")
    for name, value, low in (
        ("max_miou_loss", terms.max_miou_loss, 0),
        ("min_miou", terms.min_miou, 0),
        ("max_drop", terms.max_drop, -100),
    ):
        if value is None:
            continue
        flag = f"--{name.replace('_', '-')}"
        if not low <= value <= 100:  # nan is not, either
            raise UsageError(
                f"{name} is {value}, not within {low} and 100",
                hint=f"percent points of mIoU, such as {flag} 1.5",
            )
        if terms.unscored and name != "max_miou_loss":
            raise UsageError(
                f"{name} is {value}, and without a score nothing is held against it",
                hint=f"leave out {flag}, or --unscored",
            )


def gates_of(precision: str, given: Mapping[str, object]) -> DeviceGates:
    """What devices demand of an artifact.

    Args:
        precision: Of the artifact.
        given: Fields of `DeviceGates` that are not as usual.

    Raises:
        UsageError: There is no such gate, or no device could meet it.
    """
    known = tuple(field.name for field in fields(DeviceGates))
    for name, value in given.items():
        if name not in known:
            raise UsageError(f"'{name}' is not a gate", hint=suggest(name, known))
        if name == "providers":
            _refuse_unknown_providers(value)
            given = {**given, name: tuple(value)}  # type: ignore[arg-type]
        elif not _is_number(value, whole=name == "trial_frames") and (
            value is not None or getattr(GATES, name) is not None
        ):
            raise UsageError(
                f"gate {name} is {value!r}, not a number", hint=f"such as --gate {name}=40"
            )
        elif value == 0 and name in _NEVER_ZERO:
            raise UsageError(f"gate {name} is 0: no device could meet it", hint="give more than 0")
    gates = replace(
        GATES,
        **{"golden_percent": _golden.gate(precision), **given},  # type: ignore[arg-type]
    )
    problem = next(gate_problems(gates), "")
    if problem:
        raise UsageError(f"{problem}: no device could meet it", hint="give a value within")
    return gates


def _is_number(value: object, *, whole: bool) -> bool:
    return isinstance(value, int if whole else int | float) and not isinstance(value, bool)


def _refuse_unknown_providers(given: object) -> None:
    """Refuse the name of a provider that no runtime has: every device would condemn the step."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UsageError(
            f"gate providers is {given!r}, not a list of names",
            hint='such as ("CPUExecutionProvider",)',
        )
    for name in given:
        if not (isinstance(name, str) and is_provider(name)):
            raise UsageError(
                f"no runtime computes on '{name}': no device could meet gate providers",
                hint=_providers_there_are(str(name)),
            )


def _providers_there_are(word: str) -> str:
    """A hint that names the nearest, and what every runtime computes on."""
    there = providers()
    names = {name.lower(): name for of in there.values() for name in of}
    near = [n for low, n in names.items() if word and low.startswith(word.lower())]
    near = near or [names[n] for n in get_close_matches(word.lower(), names, n=1, cutoff=0.8)]
    asked = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{asked}known: " + "; ".join(f"{', '.join(of)} ({r})" for r, of in there.items())
