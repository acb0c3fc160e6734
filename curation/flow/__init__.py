"""The bound recipe at work: graph, evaluation of a chunk, passes, shards, publication."""
