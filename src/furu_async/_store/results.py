"""What ``_create`` returned, stored and loaded by its type. No pickle anywhere.

inline  a small JSON-like value, kept in the end record: neither file nor folder
none    nothing is written        text    result.txt, a str        npy     result.npy, a NumPy array
json    result.json, plain JSON   bytes   result.bin               tagged  result.json, see `codec`;
                                                                           parts in result-<i>.{npy,bin}
"""

from __future__ import annotations

import errno
import os
import sys
from math import isfinite
from typing import Any

import msgspec

from furu_async._store import atomic, fs
from furu_async._store.records import Damaged
from furu_async.errors import FuruComputeError, FuruError

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_CHUNK = 1 << 20

_INT_MIN, _INT_MAX = -(2**63), 2**64

INLINE_BYTES = 2048
"""Up to so many bytes of JSON a result is kept in the end record."""

_to_json = msgspec.json.Encoder().encode
_from_json = msgspec.json.Decoder().decode


def small(value: Any) -> bytes | None:
    """A JSON-like value as JSON, if it is small enough to be kept in the end record; None otherwise.

    Raises:
        FuruComputeError: it is nested too deeply.
    """
    kind = type(value)
    if kind is not str and kind is not list and kind is not dict:
        if kind is float:
            plain = isfinite(value)
        elif kind is int:
            plain = _INT_MIN <= value < _INT_MAX  # beyond it, JSON's readers make floats of them
        else:
            plain = kind is bool or value is None
    elif len(value) > INLINE_BYTES:
        return None
    else:
        from furu_async._store import codec

        try:
            plain = codec.is_plain(value)
        except RecursionError:
            return None
    if not plain:
        return None
    try:
        data = _to_json(value)
    except UnicodeEncodeError:
        return None
    return data if len(data) <= INLINE_BYTES else None


def save(value: Any, directory: str) -> str:
    """Store a value in a folder; the kind, which `load` needs.

    Raises:
        FuruComputeError: its type cannot be stored, or a file of that name is there already.
        OSError: it cannot be written.
    """
    kind = type(value)
    if value is None:
        return "none"
    if kind is str:
        _write_text(f"{directory}/result.txt", value)
        return "text"
    if kind is bytes:
        _write(f"{directory}/result.bin", value)
        return "bytes"
    from furu_async._store import codec

    try:
        if codec.is_plain(value):
            try:
                data = _to_json(value)
            except UnicodeEncodeError:
                pass  # A lone surrogate somewhere: the tagged form has a way to write it.
            else:
                _write(f"{directory}/result.json", data)
                return "json"
        numpy = sys.modules.get("numpy")
        if numpy is not None and kind is numpy.ndarray:
            _write_array(f"{directory}/result.npy", value)
            return "npy"
        _write(f"{directory}/result.json", _to_json(_tree(value, directory)))
    except RecursionError:
        raise codec.unsupported("it refers to itself, or is nested too deeply") from None
    return "tagged"


def _tree(value: Any, directory: str) -> Any:
    from furu_async._store.codec import Encoder

    parts = 0

    def store(extension: str, write: Any, part: Any) -> str:
        nonlocal parts
        parts += 1
        name = f"result-{parts}.{extension}"
        write(f"{directory}/{name}", part)
        return name

    return Encoder(
        lambda part: store("npy", _write_array, part), lambda part: store("bin", _write, part)
    ).encode(value)


def load(directory: str, kind: str, value: bytes = b"") -> Any:
    """The value that was stored in a folder under this kind, or as ``value`` in the end record.

    Raises:
        FileNotFoundError: its file is not there.
        Damaged: the file, or the kind, is not what it should be.
        FuruSpecMismatch: a class of it is not in this process's code.
    """
    if kind == "none":
        return None
    if kind == "inline":
        try:
            return _from_json(value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Damaged(directory, f"its end record holds no result ({error})") from None
    if kind == "text":
        return _read(f"{directory}/result.txt").decode("utf-8", "surrogatepass")
    if kind == "bytes":
        return _read(f"{directory}/result.bin")
    if kind == "npy":
        return _read_array(f"{directory}/result.npy")
    path = f"{directory}/result.json"
    if kind not in ("json", "tagged"):
        raise Damaged(directory, f"unknown kind of result: {kind[:80]!r}")
    try:
        tree = _from_json(_read(path))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Damaged(path, f"not a stored result ({error})") from None
    if kind == "json":
        return tree
    return _value(tree, directory, path)


def _value(tree: Any, directory: str, path: str) -> Any:
    from furu_async._store.codec import Decoder

    def part(name: str) -> str:
        if not name.startswith("result-") or "/" in name:
            raise Damaged(path, f"it refers to {name[:80]!r}")
        return f"{directory}/{name}"

    decoder = Decoder(lambda name: _read_array(part(name)), lambda name: _read(part(name)))
    try:
        return decoder.decode(tree)
    except (FuruError, OSError):
        raise
    except Exception as error:
        raise Damaged(path, f"not a stored result ({type(error).__name__}: {error})") from error


def _create(path: str) -> int:
    try:
        return fs.open(path, _NEW, 0o666)
    except FileExistsError:
        name = os.path.basename(path)
        raise FuruComputeError(
            f"`_create` wrote a file {name!r} itself, under which its return value would be stored ({path})",
            "give the file another name; or write `_load`, then nothing is stored for you",
        ) from None


def _write(path: str, data: bytes) -> None:
    fd = _create(path)
    try:
        if len(data) <= _CHUNK:
            atomic.write_all(fd, data)
        else:
            view = memoryview(data)
            for start in range(0, len(data), _CHUNK):
                atomic.write_all(fd, view[start : start + _CHUNK])
    except OSError as error:
        error.filename = error.filename or path
        atomic.try_unlink(path)  # half a result keeps a full disk full
        raise
    finally:
        fs.close(fd)


def _write_text(path: str, text: str) -> None:
    if len(text) <= _CHUNK:
        _write(path, text.encode("utf-8", "surrogatepass"))
        return
    fd = _create(path)
    try:
        for start in range(0, len(text), _CHUNK):
            atomic.write_all(fd, text[start : start + _CHUNK].encode("utf-8", "surrogatepass"))
    except OSError as error:
        error.filename = error.filename or path
        atomic.try_unlink(path)  # half a result keeps a full disk full
        raise
    finally:
        fs.close(fd)


def _write_array(path: str, array: Any) -> None:
    import numpy

    if array.dtype.hasobject:
        from furu_async._store.codec import unsupported

        raise unsupported("it contains a NumPy array of Python objects")
    try:
        with os.fdopen(_create(path), "wb") as file:
            numpy.save(file, array, allow_pickle=False)
    except OSError:
        atomic.try_unlink(path)
        raise


def _read(path: str) -> bytes:
    with os.fdopen(_open(path), "rb") as file:
        return file.read()


def _open(path: str) -> int:
    try:
        return fs.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise Damaged(path, "it is a symbolic link or a socket, not a file") from None
        raise


def _read_array(path: str) -> Any:
    import numpy

    with os.fdopen(_open(path), "rb") as file:
        try:
            array = numpy.load(file, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise Damaged(path, f"not a NumPy array ({error})") from None
    if type(array) is not numpy.ndarray:
        raise Damaged(path, "not a NumPy array")
    return array
