"""The networks: by name, with the layers that a student can learn from."""

from amd_fused.distill.models import intermediates
from amd_fused.distill.models.features import (
    Layers,
    check_pair,
    embedding_width,
    layers,
    map_shapes,
    with_layouts,
)
from amd_fused.distill.models.library import try_images
from amd_fused.distill.models.names import canonical, name_of
from amd_fused.distill.models.plain_code import PlainCode, plain_code
from amd_fused.distill.models.registry import MIN_IMAGE_SIZE, build, count_parameters

__all__ = [
    "MIN_IMAGE_SIZE",
    "Layers",
    "PlainCode",
    "build",
    "canonical",
    "check_pair",
    "count_parameters",
    "embedding_width",
    "intermediates",
    "layers",
    "map_shapes",
    "name_of",
    "plain_code",
    "try_images",
    "with_layouts",
]
