"""What Prometheus may know of a device that serves: over HTTP, or in a file for node_exporter.

Values are read when they are asked for, so nothing is counted twice. Needs `edgeinc[metrics]`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server, write_to_textfile
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from edgeinc.errors import UsageError
from edgeinc.schema import Serving
from edgeinc.update import journal
from edgeinc.update.identity import read_config

WRITE_EVERY_S = 5.0


class Metrics:
    """Of one device.

    Args:
        root: The device's folder.
        serving: What the server says now.
        step: The step it serves.
        reports_lost: Reports that were lost so far.

    Raises:
        UsageError: The folder is no device.
    """

    def __init__(
        self,
        root: Path,
        *,
        serving: Callable[[], Serving],
        step: Callable[[], int],
        reports_lost: Callable[[], int],
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Device(root, serving, step, reports_lost))
        self._written = 0.0

    def listen(self, address: str) -> str:
        """Answer on `/metrics` from a thread of its own until the process ends.

        Args:
            address: PORT on this machine alone, or HOST:PORT; port 0 takes a free one.

        Returns:
            HOST:PORT.

        Raises:
            UsageError: Not an address, or it cannot be listened at.
        """
        host, _, port = address.rpartition(":")
        if not port.isdecimal() or int(port) > 65_535:
            raise UsageError(f"'{address}' is no address", hint="PORT or HOST:PORT, such as 9101")
        try:
            server, _ = start_http_server(
                int(port), addr=host or "127.0.0.1", registry=self._registry
            )
        except OSError as err:
            raise UsageError(
                f"cannot listen at {address}: {err.strerror or err}", hint="choose another port"
            ) from err
        return f"{host or '127.0.0.1'}:{server.server_port}"

    def write(self, path: Path, *, at_once: bool = False) -> None:
        """Write the file every few seconds, whole: a reader sees the old or the new one.

        Raises:
            OSError: The disk refused.
        """
        now = time.monotonic()
        if at_once or now - self._written >= WRITE_EVERY_S:
            self._written = now
            write_to_textfile(str(path), self._registry)


class _Device(Collector):
    def __init__(
        self,
        root: Path,
        serving: Callable[[], Serving],
        step: Callable[[], int],
        reports_lost: Callable[[], int],
    ) -> None:
        self._root, self._config = root, read_config(root)
        self._serving, self._step, self._reports_lost = serving, step, reports_lost

    def collect(self) -> Iterable[Metric]:
        """What is so now."""
        said, config = self._serving(), self._config
        names = {"device": config.device, "fleet": config.fleet, "model": config.model}
        yield InfoMetricFamily(
            "edgeinc_device", "Who it is and what it serves", {**names, "bundle": said.bundle_id}
        )
        yield _gauge("step", "Step that is served", self._step())
        trial = bool(said.attempt) and said.verdict == "none"
        yield _gauge("on_trial", "1 while a new step is tried", trial)
        yield _gauge("started_seconds", "When the server began, since 1970", said.started)
        if said.p95_ms is not None:
            yield _gauge("frame_p95_ms", "Milliseconds of a frame, 95th percentile", said.p95_ms)
        yield _counter("frames", "Frames that were answered", said.frames)
        yield _counter("faults", "Frames without an answer", said.faults)
        yield _counter("reports_lost", "Reports that nobody took", self._reports_lost())
        state = journal.load(self._root)
        if state is not None:
            yield _gauge("checked_seconds", "Newest look at current metadata", state.last_trusted)
            yield _gauge("held", "1 where no update is taken", state.held)
            yield _gauge("refused", "1 where the newest update was", state.refused is not None)
            revoked = self._step() < state.revocation_floor
            yield _gauge("revoked", "1 while a revoked step is served", revoked)
            yield _gauge("condemned", "Bundles that failed here", len(state.bad))


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"edgeinc_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"edgeinc_{name}", text, value=value)
