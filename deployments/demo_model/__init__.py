"""How the demo model was made: its training data, training, export and checks."""
