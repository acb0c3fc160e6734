"""Files: formats, chunks, atomic writes, the manifest."""
