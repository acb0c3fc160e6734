"""The recipe: typed models, the loader that reports every problem with its line, and the JSON Schema."""
