"""A thread that asks a session while it is updated."""

import threading
from time import sleep


def asked_during_updates(session, images, right, updates):
    """Update a session again and again while a thread asks it; what it answered.

    Args:
        session: Opened.
        images: That it is asked about.
        right: What an answer's bytes stand for.
        updates: Files, one after the other; each serves until two answers came.

    Returns:
        For every answer what it stands for, None where it is none of `right`.
    """
    served, failed, stop = [], [], threading.Event()

    def serve():
        while not stop.is_set():
            try:
                served.append(right.get(session.run(images).tobytes()))
            except Exception as err:
                failed.append(err)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        for path in updates:
            session.update(path)
            seen = len(served)
            while len(served) < seen + 2 and not failed:  # whatever the cores do meanwhile
                sleep(0.001)
    finally:
        stop.set()
        thread.join()
    assert not failed
    return served
