"""Settings: how they are declared, and read from flags, the environment and a TOML file."""
