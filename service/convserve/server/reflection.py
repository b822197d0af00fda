"""Reflection under the names that callers know.

The messages of the compatible dialects have names of their own in this process, since two definitions of `inference.*`
or `tensorflow.*` cannot live in protobuf's default pool. Reflection shows them from a pool of its own, where the same
definitions have their public names (docs/adr/0004).
"""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection

SERVICE = reflection.SERVICE_NAME

PUBLIC_PACKAGES = {
    "convserve.open_inference.v2": "inference",
    "convserve.tensorflow_core.v1": "tensorflow",
    "convserve.tensorflow_serving.v1": "tensorflow.serving",
}
"""Public name of each package that has another name in this process."""


def register(server: grpc.Server, services: Iterable[str], files: Iterable[FileDescriptor]) -> None:
    """Let a server tell of its services.

    Args:
        server: the server.
        services: public names of the services.
        files: the files that define them.
    """
    reflection.enable_server_reflection((*services, SERVICE), server, public_pool(files))


def public_pool(files: Iterable[FileDescriptor]) -> descriptor_pool.DescriptorPool:
    """A pool that holds the files, and all that they import, under their public names."""
    pool = descriptor_pool.DescriptorPool()
    added: set[str] = set()

    def add(file: FileDescriptor) -> None:
        if file.name in added:
            return
        added.add(file.name)
        for imported in file.dependencies:
            add(imported)
        pool.AddSerializedFile(_public(file).SerializeToString())

    for file in (*files, reflection._reflection_pb2.DESCRIPTOR):  # noqa: SLF001  # only the private name is importable
        add(file)
    return pool


def _public(file: FileDescriptor) -> descriptor_pb2.FileDescriptorProto:
    """A file's definition with public names."""
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    proto.package = PUBLIC_PACKAGES.get(proto.package, proto.package)
    for message in proto.message_type:
        _rename_types(message)
    for service in proto.service:
        for method in service.method:
            method.input_type = _public_name(method.input_type)
            method.output_type = _public_name(method.output_type)
    return proto


def _rename_types(message: descriptor_pb2.DescriptorProto) -> None:
    for field in message.field:
        if field.type_name:
            field.type_name = _public_name(field.type_name)
    for nested in message.nested_type:
        _rename_types(nested)


def _public_name(name: str) -> str:
    """The public name of a type, both with a leading dot."""
    for package, public in PUBLIC_PACKAGES.items():
        if name.startswith(f".{package}."):
            return f".{public}.{name.removeprefix(f'.{package}.')}"
    return name


def public_name_of(message: type[Message]) -> str:
    """The public name of a message, without a leading dot."""
    return _public_name(f".{message.DESCRIPTOR.full_name}")[1:]
