"""What the status page and `top` show: one picture of the nodes, and the last 15 minutes."""
