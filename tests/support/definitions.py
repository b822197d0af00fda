"""Our definitions of foreign messages against the real ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, FileDescriptor

from convserve.server.reflection import public_pool


def differences(files: Iterable[FileDescriptor], theirs: Mapping[str, Any], known: set[str]) -> list[str]:
    """Fields of ours that the real messages do not have with the same name, number, type and cardinality.

    Args:
        files: our files.
        theirs: [name, number, type, is repeated, name of its type] of the fields of real messages by name.
        known: messages, and fields as `message.field`, that differ on purpose.
    """
    found = []
    pool = public_pool(files)
    for file in files:
        for message in _messages(pool.FindFileByName(file.name).message_types_by_name.values()):
            real = {tuple(field) for field in theirs.get(message.full_name, [])}
            if message.full_name not in theirs and message.full_name not in known:
                found.append(f"{message.full_name} does not exist")
            for field in message.fields:
                kind = field.message_type or field.enum_type
                mine = (field.name, field.number, field.type, field.is_repeated, kind.full_name if kind else "")
                if mine not in real and f"{message.full_name}.{field.name}" not in known:
                    found.append(f"{message.full_name}.{field.name} is {mine}; real are {sorted(real)}")
    return found


def _messages(messages: Iterable[Descriptor]) -> Iterator[Descriptor]:
    for message in messages:
        yield message
        yield from _messages(message.nested_types)
