"""What detectors see: COCO-format files, the synthetic set, cached images."""

from .coco import (
    SIZES,
    Document,
    class_names,
    read_annotations,
    read_split,
    size_class,
    write_annotations,
    write_together,
)
from .pixels import pixels_hash
from .synthetic import CLASSES, VERSION, ShapesFiles, make_shapes, shapes_files

__all__ = [
    "CLASSES",
    "SIZES",
    "VERSION",
    "Document",
    "ShapesFiles",
    "class_names",
    "make_shapes",
    "pixels_hash",
    "read_annotations",
    "read_split",
    "shapes_files",
    "size_class",
    "write_annotations",
    "write_together",
]
