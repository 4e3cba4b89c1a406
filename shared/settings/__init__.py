"""Settings: how they are declared, and how flags, the environment and a TOML file are read."""
