"""Keys by URI: what signs, wherever the private half lives.

    file:PATH                     a PEM file (PKCS#8), or a folder: every .pem file below it
    hsm:ID?label=TOKEN            PKCS#11, an EC key (P-256, P-384); PYKCS11LIB names the module
    gcpkms:NAME, awskms:ID        a key of a cloud's KMS
    azurekms://VAULT.vault.azure.net/keys/NAME
    hv:NAME                       HashiCorp Vault

Everything but `file:` is securesystemslib's, with the packages and settings that it asks for; the
public half is read from the token or service each time. Files are readable by their owner only,
and are refused when they are not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.parse import parse_qs, urlparse

from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import (
    AWSSigner,
    AzureSigner,
    CryptoSigner,
    GCPSigner,
    HSMSigner,
    Key,
    Signer,
    SSlibKey,
    VaultSigner,
)

from edgeinc.errors import EdgeincError, MissingError, UsageError
from edgeinc.runs import disk_may_fill

Secret = Callable[[str], str]
"""Asks for a secret by its name ("pin") and returns it."""

_FILE = "file:"
_LARGEST_BYTES = 65_536
_SCHEMES = "file:PATH, hsm:, gcpkms:, awskms:, azurekms: or hv:"


def generate(path: Path) -> Signer:
    """Make an ed25519 key pair, the private half in a file of mode 0600.

    Raises:
        UsageError: The file exists.
        RunError: The disk is full; no file is left.
        OSError: It cannot be written.
    """
    signer = CryptoSigner.generate_ed25519()
    with disk_may_fill(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as err:
            raise UsageError(
                f"the key {path} exists",
                hint="use it with --key, or name another folder with --keys",
            ) from err
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(signer.private_bytes)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            path.unlink()  # half a key is none, and in the way of the next try
            raise
    return signer


def signers_of(uris: Iterable[str], *, secret: Secret | None = None) -> list[Signer]:
    """The signers of some URIs; a folder of key files stands for all of them.

    Raises:
        UsageError: A URI of no known kind, a file that is no private key, a folder without one,
            or a key file that others may read.
        MissingError: The package that reaches a token or service is not installed.
        EdgeincError: The token or service does not answer as it should.
    """
    found: list[Signer] = []
    for uri in uris:
        folder = Path(uri.removeprefix(_FILE))
        if uri.startswith(_FILE) and uri != _FILE and folder.is_dir():
            files = sorted(folder.rglob("*.pem"))
            if not files:
                raise UsageError(f"no .pem file below {folder}", hint="name the folder of the keys")
            found += [_from_file(file) for file in files]
        else:
            found.append(signer_of(uri, secret=secret))
    return found


def signer_of(uri: str, *, secret: Secret | None = None) -> Signer:
    """The signer of one URI.

    Raises:
        UsageError, MissingError, EdgeincError: As `signers_of`.
    """
    if uri.startswith(_FILE) and uri != _FILE:
        return _from_file(Path(uri.removeprefix(_FILE)))
    scheme = uri.partition(":")[0]
    if scheme not in _IMPORTS:
        raise UsageError(f"'{uri}' is not a key", hint=f"name it as {_SCHEMES}")
    try:
        full, public = _IMPORTS[scheme](uri, secret)
        return Signer.from_priv_key_uri(full, public, secret)
    except EdgeincError:
        raise
    except UnsupportedLibraryError as err:
        fix = '"edgeinc[hsm]"' if scheme == "hsm" else "it beside edgeinc"
        raise MissingError(f"{uri}: {err}", hint=f"pip install {fix}") from err
    except Exception as err:  # each service raises its own
        raise EdgeincError(
            f"{uri} does not give its key: {err}", hint="check the name and your access to it"
        ) from err


def public_key(uri: str, *, secret: Secret | None = None) -> Key:
    """The public half of a key; `file:` may name a PEM file that holds nothing else.

    Raises:
        UsageError, MissingError, EdgeincError: As `signers_of`.
    """
    if uri.startswith(_FILE) and uri != _FILE:
        path = Path(uri.removeprefix(_FILE))
        content = _content(path)
        if b"PUBLIC KEY" in content:
            try:
                return SSlibKey.from_crypto(load_pem_public_key(content))
            except Exception as err:
                raise _no_key(path, "public") from err
    return signer_of(uri, secret=secret).public_key


def _from_file(path: Path) -> Signer:
    content = _content(path)
    mode = path.stat().st_mode & 0o777
    if os.name == "posix" and mode & 0o077:
        raise UsageError(
            f"the key {path} can be read by others (mode {mode:04o})",
            hint=f"chmod 600 {quote(str(path))}",
        )
    try:
        return CryptoSigner(load_pem_private_key(content, None))
    except Exception as err:  # of cryptography, one for each way to be no key
        raise _no_key(path, "private") from err


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST_BYTES)
    except OSError as err:
        raise UsageError(
            f"the key {path} cannot be read: {err.strerror}", hint="check the path after file:"
        ) from err


def _no_key(path: Path, half: str) -> UsageError:
    return UsageError(
        f"{path} is not a {half} key without passphrase",
        hint="a PEM file (PKCS#8), such as ed25519",
    )


def _hsm(uri: str, secret: Secret | None) -> tuple[str, SSlibKey]:
    parts = urlparse(uri)
    label = parse_qs(parts.query).get("label", [None])[0]
    if parts.path and not parts.path.isdecimal():
        raise UsageError(f"'{uri}' is not a key: its ID is a number", hint="hsm:ID?label=TOKEN")
    return HSMSigner.import_(int(parts.path) if parts.path else None, label, secret)


def _azure(uri: str, secret: Secret | None) -> tuple[str, SSlibKey]:
    parts = urlparse(uri)
    path = parts.path.split("/")
    if not parts.netloc or len(path) < 3:
        raise UsageError(f"'{uri}' is not a key", hint="azurekms://VAULT.vault.azure.net/keys/NAME")
    return AzureSigner.import_(parts.netloc.partition(".")[0], path[2])


def _named(kind: Any) -> Callable[[str, Secret | None], tuple[str, SSlibKey]]:
    """A service that finds a key by the rest of the URI."""

    def found(uri: str, secret: Secret | None) -> tuple[str, SSlibKey]:
        result: tuple[str, SSlibKey] = kind.import_(uri.partition(":")[2])
        return result

    return found


_IMPORTS: dict[str, Callable[[str, Secret | None], tuple[str, SSlibKey]]] = {
    "hsm": _hsm,
    "azurekms": _azure,
    "gcpkms": _named(GCPSigner),
    "awskms": _named(AWSSigner),
    "hv": _named(VaultSigner),
}
