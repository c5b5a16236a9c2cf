"""What a power cut leaves: the file system's promises, and every state they allow.

A `Recorder` does what it is told on real files and writes it down. `Tree` replays the first
operations of such a record and gives states that a power cut behind them may leave: content is
durable after fsync of the file only, names after fsync of their folder only, a prefix of what was
done to a folder may have come through, folders are independent, a rename is atomic.
"""

import os
from pathlib import PurePosixPath

from devices import Folder


class Recorder(Folder):
    """Does what it is told, and writes it down."""

    def __init__(self, root):
        self.root, self.ops = root, []

    def _note(self, name, path, *more):
        self.ops.append((name, PurePosixPath(path.relative_to(self.root)), *more))

    def write_new(self, path, data):
        super().write_new(path, data)
        self._note("write", path, data)

    def append(self, path, data):
        super().append(path, data)
        self._note("append", path, data)

    def fsync(self, path):
        super().fsync(path)
        self._note("fsync", path)

    def rename(self, old, new):
        super().rename(old, new)
        assert old.parent == new.parent, "a rename into another folder is not modelled"
        self._note("rename", old, new.name)

    def fsync_folder(self, path):
        super().fsync_folder(path)
        self._note("fsync_folder", path)

    def remove(self, path):
        there = path.is_symlink() or path.exists()
        super().remove(path)
        if there:
            self._note("remove", path)

    def remove_folder(self, path):
        super().remove_folder(path)
        self._note("remove", path)

    def make_folder(self, path):
        there = path.exists()
        super().make_folder(path)
        if not there:
            self._note("make_folder", path)

    def make_link(self, path, target):
        super().make_link(path, target)
        self._note("link", path, target)


class File:
    """Content as programs see it, and as the disk has it."""

    def __init__(self, data, durable):
        self.data, self.durable = data, durable


class Link:
    def __init__(self, target):
        self.target = target


class Names:
    """A folder: names as programs see them, as the disk has them, and what lies between."""

    def __init__(self):
        self.now, self.durable, self.pending = {}, {}, []

    def change(self, gone, name=None, node=None):
        for old in gone:
            self.now.pop(old, None)
        if name is not None:
            self.now[name] = node
        self.pending.append((gone, name, node))


class Tree:
    """A file system to which recorded operations happen."""

    def __init__(self, state):
        """Start from a state (path -> bytes, str for a link, None for a folder), all durable."""
        self.top = Names()
        for path, content in sorted(state.items()):
            names = self._names(PurePosixPath(path).parent)
            node = Names() if content is None else self._leaf(content)
            names.now[PurePosixPath(path).name] = names.durable[PurePosixPath(path).name] = node

    @staticmethod
    def _leaf(content):
        return Link(content) if isinstance(content, str) else File(content, content)

    def _names(self, path):
        node = self.top
        for part in path.parts:
            node = node.now[part]
        return node

    def do(self, op):
        """Replay one operation."""
        name, path, *more = op
        folder = self._names(path.parent)
        if name == "write":
            folder.change((), path.name, File(more[0], None))
        elif name == "append":
            if path.name not in folder.now:
                folder.change((), path.name, File(b"", None))
            folder.now[path.name].data += more[0]
        elif name == "overwrite":
            folder.now[path.name].data = more[0]
        elif name == "fsync":
            folder.now[path.name].durable = folder.now[path.name].data
        elif name == "rename":
            folder.change((path.name, more[0]), more[0], folder.now[path.name])
        elif name == "fsync_folder":
            synced = self._names(path)
            synced.durable, synced.pending = dict(synced.now), []
        elif name == "remove":
            folder.change((path.name,))
        elif name == "make_folder":
            folder.change((), path.name, Names())
        elif name == "link":
            folder.change((), path.name, Link(more[0]))

    def killed(self):
        """After kill -9: nothing is lost, the kernel has it."""
        return self._state(lambda pending: len(pending), lambda file: file.data)

    def minimal(self):
        """After a power cut through which nothing came that was not durable."""
        return self._state(lambda pending: 0, lambda file: file.durable or b"")

    def maximal(self):
        """After one through which every name came, and no content that was not durable."""
        return self._state(lambda pending: len(pending), lambda file: file.durable or b"")

    def drawn(self, rng):
        """After one of all others."""
        return self._state(
            lambda pending: rng.randint(0, len(pending)), lambda file: _torn(file, rng)
        )

    def _state(self, prefix, content):
        state = {}

        def walk(names, at):
            entries = dict(names.durable)
            for gone, name, node in names.pending[: prefix(names.pending)]:
                for old in gone:
                    entries.pop(old, None)
                if name is not None:
                    entries[name] = node
            for name, node in entries.items():
                path = f"{at}{name}"
                if isinstance(node, Names):
                    state[path] = None
                    walk(node, f"{path}/")
                else:
                    state[path] = node.target if isinstance(node, Link) else content(node)

        walk(self.top, "")
        return state


def _torn(file, rng):
    """What may be read of a file whose newest content was not made durable."""
    data, durable = file.data, file.durable
    if data == durable:
        return data
    base = durable or b""
    if not data.startswith(base):  # written over
        base = b""
    cut = rng.randint(len(base), len(data))
    return rng.choice([data, durable or b"", base, data[:cut], base + bytes(len(data) - len(base))])


def scan(root):
    """The state of a real folder."""
    state = {}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            state[name] = str(path.readlink())
        elif path.is_dir():
            state[name] = None
        else:
            state[name] = path.read_bytes()
    return state


def lay_out(state, root):
    """Make a state real in an empty folder."""
    root.mkdir()
    top = f"{root}/"  # thousands of states: no Path for each of their files
    for name, content in sorted(state.items()):
        if content is None:
            os.mkdir(top + name)  # noqa: PTH102
        elif isinstance(content, str):
            os.symlink(content, top + name)  # noqa: PTH211
        else:
            with open(top + name, "wb") as file:  # noqa: PTH123
                file.write(content)
    return root


# ------------------------------------------------------------------------ the six broken variants


class JournalNotSynced(Recorder):
    def fsync(self, path):
        if not path.name.startswith(".state.json"):
            super().fsync(path)


class JournalFolderNotSynced(Recorder):
    def fsync_folder(self, path):
        if path != self.root:
            super().fsync_folder(path)


class SlotFilesNotSynced(Recorder):
    def fsync(self, path):
        if path.parent.parent.name != "slots":
            super().fsync(path)


class SlotNotSynced(Recorder):
    def fsync_folder(self, path):
        if path.parent.name != "slots":
            super().fsync_folder(path)


class SlotsNotSynced(Recorder):
    def fsync_folder(self, path):
        if path.name != "slots":
            super().fsync_folder(path)


class JournalInPlace(Recorder):
    def rename(self, old, new):
        if new.name == "state.prev.json":
            return
        if new.name != "state.json":
            super().rename(old, new)
            return
        data = old.read_bytes()
        new.write_bytes(data)
        self._note("overwrite", new, data)
        self.fsync(new)
        self.remove(old)


BROKEN = (
    JournalNotSynced,
    JournalFolderNotSynced,
    SlotFilesNotSynced,
    SlotNotSynced,
    SlotsNotSynced,
    JournalInPlace,
)
