"""Every metric family that the exporter serves, declared once.

The registry, the reference page and the tests are derived from `families.FAMILIES`; no name is
written anywhere else. Names in the contract keep the contract's words and labels.
"""
