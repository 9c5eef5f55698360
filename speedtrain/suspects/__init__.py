"""Which labels of a set look wrong, by what networks say that were trained on the others."""
