"""The page to try the node at `/`."""
