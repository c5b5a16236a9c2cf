"""Run the tests on TensorRT and print a report fit to paste into an issue: `make tensorrt`."""

import platform
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


class Report:
    """A plugin of pytest that keeps how every test went."""

    def __init__(self):
        self.rows = {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.rows[report.nodeid.partition("::")[2]] = report


def facts():
    """What the machine is, as far as it tells."""
    from edgeinc import __version__, host
    from edgeinc.errors import EdgeincError
    from edgeinc.runtimes._cuda import open_cuda
    from edgeinc.runtimes._engine import this_machine
    from edgeinc.runtimes.tensorrt import load_tensorrt
    from edgeinc.schema import to_dict

    yield "edgeinc", __version__
    yield "system", f"{platform.platform()}, Python {platform.python_version()}"
    yield "processor", f"{host.cpu_name()}, {host.memory_bytes() / 2**30:.1f} GB"
    try:
        machine = to_dict(this_machine(open_cuda(), load_tensorrt().version))
        yield from ((name.replace("_", " "), value or "-") for name, value in machine.items())
    except EdgeincError as error:
        yield "TensorRT", error.message


def outcome(report):
    """One word, and for a failure its last line."""
    if report.outcome == "failed":
        crash = getattr(report.longrepr, "reprcrash", None)
        text = crash.message if crash else str(report.longrepr)
        return "FAILED: " + " ".join(text.split())[:200]
    reason = report.longrepr[2].removeprefix("Skipped: ") if report.outcome == "skipped" else ""
    return f"skipped: {reason}" if report.outcome == "skipped" else "passed"


def markdown(rows, about):
    """The report."""
    yield "### edgeinc on TensorRT"
    yield ""
    yield from (f"- {name}: {value}" for name, value in about)
    yield ""
    yield "| test | result | measured |"
    yield "|---|---|---|"
    for name, report in rows.items():
        measured = ", ".join(f"{key} {value}" for key, value in report.user_properties)
        result = outcome(report).replace("|", "\\|")
        yield f"| {name} | {result} | {measured} |"


if __name__ == "__main__":
    report = Report()
    device = str(ROOT / "tests" / "test_tensorrt_device.py")
    code = pytest.main([device, "-m", "tensorrt", "-q", "--timeout=3600"], plugins=[report])
    print("\n".join(["", *markdown(report.rows, facts())]))
    sys.exit(code)
