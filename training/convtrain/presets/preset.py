"""A complete, named training: data, network, settings and the name to serve under."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from convserve.manifest import DecodePolicy, InputSpec
from convtrain.architectures import Architecture
from convtrain.config import TrainingConfig
from convtrain.datasets import DatasetKind
from convtrain.errors import PresetError


class Preset(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that `convtrain run` needs to know, but for where the data lies."""

    name: str
    """Name on the command line."""
    summary: str
    """One line for people."""
    model: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    """Name of the model in the repository."""
    dataset: DatasetKind
    """The data it is trained on."""
    input: InputSpec
    """Shape of one image."""
    decode: DecodePolicy = DecodePolicy()
    """How image files become input."""
    architecture: Architecture
    """The network."""
    training: TrainingConfig
    """How it is trained."""

    def override(self, **values: Any) -> Preset:
        """Change fields of the preset, of its training, or the optimizer's learning rate. None leaves a field as it is.

        Raises:
            PresetError: a value is out of range.
        """
        fields = msgspec.to_builtins(self)
        for name, value in values.items():
            if value is None:
                continue
            if name == "learning_rate":
                fields["training"]["optimizer"][name] = value
            elif name in TrainingConfig.__struct_fields__:
                fields["training"][name] = value
            else:
                fields[name] = msgspec.to_builtins(value)
        try:
            return msgspec.convert(fields, Preset)
        except msgspec.ValidationError as error:
            raise PresetError(f"preset {self.name}: {error}") from error
