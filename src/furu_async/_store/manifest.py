"""The list of a result's files: made after the work, checked before publishing and before use."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from hashlib import blake2b

from furu_async._store import atomic, fs
from furu_async._store.layout import ArtifactPaths
from furu_async._store.records import End, ManifestEntry
from furu_async.errors import FuruComputeError

#: Files of the attempt that are not part of its result.
LOGS = frozenset({"log", "stdout", "stderr"})
_SHOWN = 20
_CHUNK = 1 << 20


def manifest_of(directory: str, exclude: Collection[str] = LOGS) -> list[ManifestEntry]:
    """Names and sizes of every file below a folder, sorted; ``exclude`` names files at its top.

    A symbolic link that stays inside is listed as itself.

    Raises:
        FuruComputeError: there is something that cannot be part of a result: a pipe, a socket, a device, a link that
            leads outside, a name that is not text.
    """
    entries = [ManifestEntry(path, size) for path, size, _ in _walk(directory, exclude, [])]
    entries.sort(key=_by_path)
    return entries


def sync_tree(directory: str, exclude: Collection[str] = LOGS) -> list[ManifestEntry]:
    """`manifest_of` with a checksum of each file, after making all of it durable, folders last."""
    entries = []
    folders: list[str] = []
    for path, size, is_link in _walk(directory, exclude, folders):
        full = f"{directory}/{path}"
        if is_link:
            checksum = blake2b(os.fsencode(fs.readlink(full)), digest_size=16).hexdigest()
        else:
            checksum = _checksum(full, sync=True)
        entries.append(ManifestEntry(path, size, checksum))
    for folder in reversed(folders):
        atomic.sync_folder(folder)
    entries.sort(key=_by_path)
    return entries


def _by_path(entry: ManifestEntry) -> str:
    return entry.path


def _walk(directory: str, exclude: Collection[str], folders: list[str]) -> Iterator[tuple[str, int, bool]]:
    """(relative path, size, is a link) of each file; appends the folders, those above first."""
    pending = [""]
    while pending:
        prefix = pending.pop()
        here = f"{directory}/{prefix}"
        folders.append(here)
        try:
            listing = fs.scandir(here)
        except FileNotFoundError:
            if not prefix:
                folders.clear()
                return  # the attempt had nothing to put into its folder, so there is none
            raise
        with listing as found:
            for item in found:
                if not prefix and item.name in exclude:
                    continue
                path = prefix + item.name
                info = item.stat(follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    pending.append(path + "/")
                    continue
                _check(directory, path, info.st_mode)
                yield path, info.st_size, stat.S_ISLNK(info.st_mode)


def _check(directory: str, path: str, mode: int) -> None:
    full = f"{directory}/{path}"
    try:
        path.encode()
    except UnicodeEncodeError:
        raise FuruComputeError(
            f"the result has a file whose name is not valid UTF-8: {os.fsencode(full)!r}",
            "give it another name",
        ) from None
    if stat.S_ISREG(mode):
        return
    if not stat.S_ISLNK(mode):
        raise FuruComputeError(
            f"the result has something that is no file: {full} ({_kind(mode)})",
            "remove it before `_create` returns, or make it elsewhere",
        )
    target = os.path.realpath(full)
    inside = os.path.realpath(directory)
    if target != inside and not target.startswith(inside + "/"):
        raise FuruComputeError(
            f"the result has a symbolic link that leads out of its folder: {full} -> {fs.readlink(full)}",
            "copy what it points to, or store the path as a value",
        )


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"


def _checksum(path: str, sync: bool) -> str:
    digest = blake2b(digest_size=16)
    fd = fs.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if sync:
            fs.fsync(fd)
        while chunk := fs.read(fd, _CHUNK):
            digest.update(chunk)
    finally:
        fs.close(fd)
    return digest.hexdigest()


def missing_files(directory: str, manifest: list[ManifestEntry]) -> list[str]:
    """What in a folder is not as the manifest says, by name and size; empty if all is well.

    Raises:
        OSError: the file system does not say.
    """
    problems: list[str] = []
    for entry in manifest:
        path = entry.path
        if path.startswith("/") or "\0" in path or ".." in path.split("/"):
            problems.append(f"{path[:200]!r} leads out of {directory}")
        else:
            try:
                info = fs.lstat(f"{directory}/{path}")
            except (FileNotFoundError, NotADirectoryError):
                problems.append(f"{directory}/{path} is missing")
            else:
                if info.st_size != entry.size:
                    problems.append(
                        f"{directory}/{path} has {info.st_size} bytes and should have {entry.size}"
                    )
                elif not (stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode)):
                    problems.append(f"{directory}/{path} is not a file")
        if len(problems) >= _SHOWN:
            problems.append("…")
            break
    return problems


def verify_manifest(paths: ArtifactPaths, generation: int, end: End, checksums: bool = False) -> list[str]:
    """What of a published generation is missing or has another size (or, if asked for, another checksum)."""
    directory = paths.attempt(generation)
    problems = missing_files(directory, end.manifest)
    if checksums and not problems:
        for entry in end.manifest:
            full = f"{directory}/{entry.path}"
            if entry.checksum and not os.path.islink(full) and _checksum(full, sync=False) != entry.checksum:
                problems.append(f"{full} has another content than when it was published")
    return problems
