"""The mesh: nodes that find each other, exchange adverts, and notice when one disappears."""
