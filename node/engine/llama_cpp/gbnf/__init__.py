"""JSON schemas as grammars in GBNF, which every llama-server follows, whatever the template is."""
