"""The exporter: the sidecar that counts the node's events and answers for it."""
