"""Traces: spans made of events, sent to an OpenTelemetry collector."""
