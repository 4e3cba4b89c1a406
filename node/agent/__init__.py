"""The agent: starts a node and an exporter on one machine and keeps both alive."""
