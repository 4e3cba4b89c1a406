"""Reports the node's state: sends events to the exporter, with the levels that belong to them."""
