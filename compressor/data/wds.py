"""Shards as `webdataset` writes them: tar files of samples, whose members share a name and differ in its ending.

The members are found once, and each image is then read from its place in its shard, so that order, parts and resuming
are those of any other data. Only images and small labels are read; nothing else in a shard is decoded.
"""

from __future__ import annotations

import glob
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from compressor.choices import WDS, is_elsewhere
from compressor.data.cache import stamped
from compressor.data.images import SUFFIXES, listed
from compressor.data.labelled import Found, Listed, by_role, lone_validation, read
from compressor.data.labels import numbered
from compressor.data.part import Loaded
from compressor.data.splits import TRAIN, role_of
from compressor.errors import EnvironmentMissing, InputRejected, UsageError
from compressor.recipe import Data

_LABEL = "cls"  # the usual ending of labels
_LABEL_LIMIT = 2**16  # bytes
_BLOCK = 512  # bytes; a tar file ends with a block of zeros


class Member(NamedTuple):
    """An image in a shard: the path of that, where its bytes begin and how many there are, and its name."""

    shard: str
    offset: int
    size: int
    name: str

    def open(self) -> IO[bytes]:
        with Path(self.shard).open("rb") as file:
            file.seek(self.offset)
            return io.BytesIO(file.read(self.size))

    def __str__(self) -> str:
        return f"{self.name} of {self.shard}"


@dataclass(frozen=True)
class _Sample:
    """Members of one key, by their ending: where each begins, and its size."""

    key: str
    members: dict[str, tuple[int, int]]


def open_wds(pattern: str, config: Data, device: torch.device, held: bool | None = None) -> Loaded:
    """Open shards by a pattern: a path with braces or wildcards, several joined by `::`, or a folder of them.

    The name of a shard says of which split it is, or that of its folder; if none does, all are to train on.

    Args:
        held: hold the images on the device, or stream them, whatever their size.

    Raises:
        EnvironmentMissing: the library is not installed.
        UsageError: the pattern cannot be understood, or names shards that are not files here.
        InputRejected: there are no such shards, or they are damaged, or have no images or labels that can be used.
    """
    shards = expanded(pattern)
    notes: list[str] = []
    splits = _splits(shards, f"{WDS}{pattern}", notes)
    inside = os.path.commonpath([Path(shard).parent for shard in shards])
    listings = {split: _listing(each, config) for split, each in splits.items()}
    lone_validation(listings, notes)
    classes, numbers = numbered({split: labels for split, (_, labels) in listings.items()}, None, notes)
    return read(
        Found(
            name=Path(inside).name,
            source=f"{WDS}{pattern}",
            classes=classes,
            splits={
                split: Listed(members, numbers[split], [_name(member, inside) for member in members])
                for split, (members, _) in listings.items()
            },
            state=lambda: (f"{split}/{stamp}" for split, each in splits.items() for stamp in stamped(each)),
            opener=_itself,
            notes=(f"{len(shards):,} shards are read", *notes),
        ),
        config,
        device,
        held,
    )


def expanded(pattern: str) -> list[str]:
    """Return the absolute paths of the shards that a pattern names, in its order; those of a folder by their names."""
    try:
        from webdataset.shardlists import expand_urls
    except ImportError as error:
        raise EnvironmentMissing(
            f"{WDS}{pattern} needs the package webdataset", hint="pip install 'compressor[wds]'"
        ) from error
    try:
        places = expand_urls(pattern)
    except (ValueError, AssertionError) as error:
        raise UsageError(f"the pattern {pattern!r} cannot be understood: {error}") from error
    shards: list[str] = []
    for place in places:
        if is_elsewhere(place):
            raise UsageError(
                f"{place} is not a file here, and images are read at any place of their shards",
                hint=f"copy the shards here first, and name them: {WDS}DIR/shard-{{000..099}}.tar",
            )
        path = Path(place).expanduser().absolute()
        if path.is_dir():
            found = sorted(map(str, path.rglob("*.tar")))
        else:
            found = [str(path)] if path.is_file() else sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 (Path globs below a folder only)
        if not found:
            raise InputRejected(
                f"there is no shard {path}" + (f", one of {len(places):,} in {pattern}" if len(places) > 1 else ""),
                hint="a folder of .tar files, or a pattern of their names: shard-{000..099}.tar, shard-*.tar",
            )
        shards += found
    if twice := sorted({shard for shard in shards if shards.count(shard) > 1}):
        raise UsageError(f"{pattern} names {twice[0]} twice")
    return shards


def _itself(member: Member) -> Member:
    return member


def _splits(shards: Sequence[str], where: str, notes: list[str]) -> dict[str, list[str]]:
    """Return the shards of each split, by their names or, where these do not say it, those of their folders."""
    called = {shard: Path(shard).stem for shard in shards}
    if not any(map(role_of, called.values())):
        called = {shard: Path(shard).parent.name for shard in shards}
        if len(set(called.values())) == 1 or not any(map(role_of, called.values())):
            return {TRAIN: list(shards)}
    if strange := [shard for shard, name in called.items() if role_of(name) is None]:
        raise InputRejected(
            f"the name of {strange[0]} does not say of which split it is, as those of others do",
            hint="call the shards of each split train-..., val-... and test-..., or leave others out of the pattern",
        )
    roles = by_role(dict.fromkeys(called.values()), where, notes)
    return {role: [shard for shard, name in called.items() if name in names] for role, names in roles.items()}


def _name(member: Member, inside: str) -> str:
    return f"{member.shard[len(inside) :].strip(os.sep).replace(os.sep, '/')}/{member.name}"


def _listing(shards: Sequence[str], config: Data) -> tuple[list[Member], list[Any]]:
    """Return the images of some shards and their labels."""
    members: list[Member] = []
    labels: list[Any] = []
    for shard in shards:
        with Path(shard).open("rb") as file:
            before = len(members)
            for sample in _samples(shard, file):
                ending = _image_ending(sample, config, shard)
                members.append(Member(shard, *sample.members[ending], f"{sample.key}.{ending}"))
                labels.append(_label(sample, file, config, shard))
            if len(members) == before:
                raise InputRejected(f"the shard {shard} holds no samples")
    if odd := [place for place, label in enumerate(labels) if type(label) is not type(labels[0])]:
        raise InputRejected(
            f"the label of {members[odd[0]]} is {labels[odd[0]]!r:.50}, and that of {members[0]} {labels[0]!r:.50}",
            hint="all are numbers of classes, or all are names",
        )
    return members, labels


def _samples(shard: str, file: IO[bytes]) -> Iterator[_Sample]:
    """Yield the samples of a shard in order. Members without an ending, and the library's own, belong to none."""
    from webdataset.tariterators import base_plus_ext, meta_prefix, meta_suffix

    sample = _Sample("", {})
    for member in _members(shard, file):
        key, ending = base_plus_ext(member.name)
        own = member.name.startswith(meta_prefix) and member.name.endswith(meta_suffix)
        if key is None or own or not member.isreg() or member.issparse():
            continue
        if key != sample.key:
            if sample.members:
                yield sample
            sample = _Sample(key, {})
        ending = ending.lower()
        if ending in sample.members:
            raise InputRejected(f"the sample {key} of {shard} has two members {ending!r}")
        sample.members[ending] = (member.offset_data, member.size)
    if sample.members:
        yield sample


def _members(shard: str, file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """Yield what the headers of a tar file say, and refuse one that does not end as it should."""
    count, end = 0, 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or all headers would be kept
                count += 1
                end = tar.offset
                yield member
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        compressed = count == 0 and os.pread(file.fileno(), 4, 0)[:2] in (b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5")
        hint = "compressed shards cannot be read at any place: unpack them to .tar" if compressed else "fetch it again"
        said = f"{shard} is not a tar file: {error}" if count == 0 else _cut(shard, count)
        raise InputRejected(said, hint=hint) from error
    if os.pread(file.fileno(), _BLOCK, end) != bytes(_BLOCK):
        raise InputRejected(_cut(shard, count), hint="fetch it again")


def _cut(shard: str, count: int) -> str:
    return f"the shard {shard} is damaged or cut short after {count:,} members"


def _image_ending(sample: _Sample, config: Data, shard: str) -> str:
    if config.image is not None:
        if config.image.lower() not in sample.members:
            raise _lacking(sample, shard, "image", config.image)
        return config.image.lower()
    fitting = [ending for ending in sample.members if f".{ending}" in SUFFIXES]
    if not fitting:
        raise _lacking(sample, shard, "image", None)
    if len(fitting) > 1:
        raise InputRejected(
            f"the sample {sample.key} of {shard} has several images, {listed(fitting)}",
            hint=f"--set data.image={fitting[0]} says which",
        )
    return fitting[0]


def _label(sample: _Sample, file: IO[bytes], config: Data, shard: str) -> int | str:
    """Return the number or the name of a sample's class: the text of a member, or a key of one that is JSON."""
    ending, _, key = (config.label or _LABEL).partition(".")
    if ending not in sample.members:
        raise _lacking(sample, shard, "label", ending)
    offset, size = sample.members[ending]
    content = os.pread(file.fileno(), min(size, _LABEL_LIMIT + 1), offset)
    try:
        if size > _LABEL_LIMIT:
            raise ValueError(f"it has {size:,} bytes")
        text = content.decode().strip()
        found: Any = json.loads(text)[key] if key else text
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"it has no key {error}" if isinstance(error, KeyError) else error
        said = f"the label {ending} of the sample {sample.key} of {shard} cannot be read: {reason}"
        raise InputRejected(said) from error
    if isinstance(found, str) and found:
        return int(found) if found.removeprefix("-").isdecimal() else found
    if type(found) is int:
        return found
    raise InputRejected(
        f"the label of the sample {sample.key} of {shard} is {found!r:.50}, not the number or the name of a class",
        hint="--set data.label=ENDING names another member, --set data.label=json.KEY a key of one that is JSON",
    )


def _lacking(sample: _Sample, shard: str, what: str, ending: str | None) -> InputRejected:
    named = f"{what} {ending!r}" if ending else what
    return InputRejected(
        f"the sample {sample.key} of {shard} has no {named}; it has {listed(list(sample.members), most=12)}",
        hint=f"--set data.{what}=ENDING says which member it is",
    )
