"""The processes of a node: supervisor, keeper, workers; or one process that is all of them."""
