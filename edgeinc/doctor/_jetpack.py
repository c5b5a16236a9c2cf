"""What each JetPack brings, and what a Jetson says about itself.

A JetPack decides Python, CUDA and TensorRT together: its TensorRT is a system package for the
system's Python, and no other belongs beside it. Sources: NVIDIA's JetPack release notes and the
Jetson pages of the TensorRT documentation, up to TensorRT 11.4.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgeinc.doctor._facts import Environment
from edgeinc.schema import Check

EDGEINC_PYTHON = (3, 10)
"""The oldest Python that edgeinc runs on."""


@dataclass(frozen=True)
class JetPack:
    """One generation of JetPack.

    Attributes:
        name: As NVIDIA calls it.
        l4t: The first release of Linux for Tegra that it is.
        python: Of the system.
        cuda: What it brings.
        tensorrt: What it brings.
        newest: The first TensorRT 11 that runs on it, () where none does.
        wheels: Community index of GPU builds for its Python and CUDA, "" where there is none.
    """

    name: str
    l4t: tuple[int, ...]
    python: str
    cuda: str
    tensorrt: str
    newest: tuple[int, ...] = ()
    wheels: str = ""


_JP6 = "https://pypi.jetson-ai-lab.io/jp6/cu126"
_JP7 = "https://pypi.jetson-ai-lab.io/sbsa/cu130"
MATRIX = (
    JetPack("JetPack 4.6", (32,), "3.6", "10.2", "8.2"),
    JetPack("JetPack 5.1", (35,), "3.8", "11.4", "8.5"),
    JetPack("JetPack 6.0", (36,), "3.10", "12.2", "8.6"),
    JetPack("JetPack 6.1/6.2", (36, 4), "3.10", "12.6", "10.3", wheels=_JP6),
    JetPack("JetPack 7.0/7.1", (38,), "3.12", "13.0", "10.13", wheels=_JP7),
    # From JetPack 7.2.2 on, 11.4.1 can be installed; 11.0 to 11.4.0 never support a Jetson.
    JetPack("JetPack 7.2", (39, 2), "3.12", "13.2", "10.16", newest=(11, 4, 1), wheels=_JP7),
)


def jetpack(l4t: str) -> JetPack | None:
    """The JetPack that a release of Linux for Tegra belongs to; None for one not in the table.

    Args:
        l4t: Such as `36.4.3`.
    """
    release = numbers(l4t)
    fitting = [row for row in MATRIX if row.l4t[0] == release[0] and row.l4t <= release]
    return fitting[-1] if fitting else None


def numbers(version: str) -> tuple[int, ...]:
    """`10.3.0` as (10, 3, 0); what is no number ends it."""
    found = []
    for part in version.split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found) or (0,)


def jetson_checks(env: Environment) -> Iterator[Check]:
    """JetPack and power mode; nothing on any other machine."""
    if not env.l4t:
        return
    row = jetpack(env.l4t)
    if row is None:
        detail = f"L4T {env.l4t} is not in the table of this edgeinc: its rules are not applied"
        yield Check("JetPack", "ok", detail)
    else:
        yield _jetpack(env.l4t, row)
    yield _power(env)


def _jetpack(l4t: str, row: JetPack) -> Check:
    detail = (
        f"{row.name} (L4T {l4t}): Python {row.python}, CUDA {row.cuda}, TensorRT {row.tensorrt}"
    )
    if numbers(row.python) >= EDGEINC_PYTHON:
        return Check("JetPack", "ok", detail)
    return Check(
        "JetPack",
        "warn",
        f"{detail}; edgeinc needs Python 3.10, which this TensorRT has no bindings for",
        "sdkmanager --cli  # on a PC: install JetPack 6.2",
    )


def _power(env: Environment) -> Check:
    """A note, not a fault: another mode may be chosen for heat or battery."""
    if not env.power_mode:
        return Check("power mode", "ok", "unknown: nvpmodel does not answer here")
    if env.power_mode.startswith("MAXN"):
        return Check("power mode", "ok", env.power_mode)
    # The number of MAXN differs: 0 on an AGX Orin, 2 on an Orin Nano Super.
    fastest = next((n for name, n in env.power_modes.items() if name.startswith("MAXN")), None)
    fix = "sudo nvpmodel -p --verbose" if fastest is None else f"sudo nvpmodel -m {fastest}"
    return Check("power mode", "ok", f"{env.power_mode}, not MAXN: it runs slower than it can", fix)
