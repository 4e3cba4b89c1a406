"""The page at `/` for trying out the node."""
