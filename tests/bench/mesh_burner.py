"""Keeps a whole core busy until it is ended."""

if __name__ == "__main__":
    while True:
        pass
