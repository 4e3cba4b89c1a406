"""The vocabulary of telemetry: each event says what happened in the domain, never which metric."""
