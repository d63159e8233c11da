"""What detectors see: COCO-format files, the synthetic set, cached images."""

from .coco import (
    SIZES,
    Document,
    class_ids,
    class_names,
    join,
    part_of,
    read_annotations,
    read_document,
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
    "class_ids",
    "class_names",
    "join",
    "make_shapes",
    "part_of",
    "pixels_hash",
    "read_annotations",
    "read_document",
    "read_split",
    "shapes_files",
    "size_class",
    "write_annotations",
    "write_together",
]
