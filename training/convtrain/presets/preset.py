"""A complete, named training: data, network, settings and the name to serve under."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from convserve.manifest import DecodePolicy, InputSpec
from convtrain.architectures import Architecture, GlobalPool
from convtrain.config import TrainingConfig
from convtrain.datasets import DatasetKind
from convtrain.datasets.folder import MAX_PIXELS
from convtrain.errors import ArchitectureError, PresetError
from convtrain.layout import lay_out
from convtrain.presets.explanation import explain
from convtrain.resizing import scaled


class Preset(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that `convtrain run` needs to know, but for where the data lies."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[^/\x00-\x1f\x7f]+\Z")]
    """Name on the command line, and of the directories of its runs."""
    summary: str
    """One line for people."""
    model: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")]
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
            raise PresetError(f"preset {self.name}: {explain(error, fields, Preset)}") from error

    def check(self) -> None:
        """Check that the layers fit together, at every size of images that training shows them.

        Raises:
            ArchitectureError: they do not; names the layer, the shape there, and a way out.
            PresetError: images are larger than any that is read.
        """
        if self.input.height * self.input.width > MAX_PIXELS:
            raise PresetError(
                f"preset {self.name}: input is {self.input.height}×{self.input.width}; images have at most "
                f"{MAX_PIXELS:,} pixels"
            )
        lay_out(self.architecture, self.input, classes=2)
        for stage in self.training.progressive_resizing:
            if not any(isinstance(layer, GlobalPool) for layer in self.architecture.layers):
                raise ArchitectureError(
                    'progressive_resizing needs {layer = "global_pool"}: flatten fits one size of images'
                )
            height, width = scaled((self.input.height, self.input.width), stage.scale)
            try:
                lay_out(self.architecture, InputSpec(height=height, width=width, channels=self.input.channels), 2)
            except ArchitectureError as error:
                raise ArchitectureError(
                    f"progressive_resizing with scale {stage.scale:g} makes images of {height}×{width}: {error}"
                ) from error
