"""The mesh: nodes that find each other, tell each other what they have, and notice who is gone."""
