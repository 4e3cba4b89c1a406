"""A request's life, from admission to its one end; independent of engines and APIs."""
