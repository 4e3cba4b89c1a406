"""The exporter's HTTP side: metrics, health, and who may read them."""
