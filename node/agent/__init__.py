"""The agent: starts node and exporter on one machine and keeps both alive."""
