"""What the node reports: events on their way to the exporter, and the levels that go with them."""
