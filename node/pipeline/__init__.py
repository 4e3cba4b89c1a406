"""One model over several nodes: workers, the tunnels to them, and the coordinator of a split."""
