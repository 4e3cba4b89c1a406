"""A request and its life, from admission to its one end. Knows no engine and no API."""
