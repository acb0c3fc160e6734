"""Rows of a build as files for trainers that read front to back."""

from curation.export.options import FORMATS, ExportError, ExportOptions
from curation.export.run import Export, export

__all__ = ["FORMATS", "Export", "ExportError", "ExportOptions", "export"]
