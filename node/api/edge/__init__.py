"""Between the socket and the application: connections, limits, keys, TLS and origins."""
