"""One JSON document by POST for every change of a device, to a URL that somebody watches.

Rules: a report is sent by a thread of its own, after what it is about; it is tried once, within
seconds; whatever becomes of it, nothing of the device changes, and what is lost is counted.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from urllib.parse import urlsplit

import rfc8785
import urllib3

from edgeinc.errors import UsageError
from edgeinc.schema import DeviceConfig, DeviceEvent, to_dict

_log = logging.getLogger(__name__)
TIMEOUT_S = 5.0
WAITING = 100
"""Reports that wait at most; what comes then is lost."""


class Reporter:
    """Sends events to a URL.

    Args:
        url: `http://` or `https://`.
        config: Whose events; its names go with each.
        timeout_s: For a connection, and for an answer.

    Attributes:
        sent: Reports that were taken.
        lost: Reports that were not.

    Raises:
        UsageError: Not such a URL.
    """

    def __init__(self, url: str, config: DeviceConfig, *, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(
                f"'{url}' is no URL for reports", hint="--report-url https://HOST/PATH"
            )
        self.sent = self.lost = 0
        self._url, self._timeout_s = url, timeout_s
        self._names = {"device": config.device, "fleet": config.fleet, "model": config.model}
        self._waiting: queue.Queue[bytes] = queue.Queue(WAITING)
        self._http = urllib3.PoolManager(
            timeout=urllib3.Timeout(timeout_s), retries=False, num_pools=1
        )
        threading.Thread(target=self._send_all, name="reports", daemon=True).start()

    def __call__(self, event: DeviceEvent) -> None:
        """Report an event; returns at once and never fails."""
        try:
            self._waiting.put_nowait(rfc8785.dumps({**self._names, **to_dict(event)}))
        except queue.Full:
            self._lose("too many wait")

    def wait(self) -> None:
        """Give what still waits the time that one report has; at the end of a process."""
        end = time.monotonic() + self._timeout_s
        while self._waiting.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.02)

    def _send_all(self) -> None:
        while True:
            body = self._waiting.get()
            try:
                self._send(body)
            except Exception as err:  # of any kind: there is nobody to tell but the log
                self._lose(str(err))
            self._waiting.task_done()

    def _send(self, body: bytes) -> None:
        answer = self._http.request(
            "POST",
            self._url,
            body=body,
            headers={"Content-Type": "application/json"},
            redirect=False,
            preload_content=False,  # what it says beside its status is not read, however long
        )
        answer.close()
        if 200 <= answer.status < 300:
            self.sent += 1
        else:
            self._lose(f"status {answer.status}")

    def _lose(self, why: str) -> None:
        self.lost += 1
        _log.warning("a report to %s was lost: %s", self._url, why)
