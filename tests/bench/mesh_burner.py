"""Takes a whole core until it is ended."""

if __name__ == "__main__":
    while True:
        pass
