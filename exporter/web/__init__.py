"""What people and Prometheus ask over HTTP: metrics, health and who may read them."""
