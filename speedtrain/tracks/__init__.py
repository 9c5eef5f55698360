"""Labelled sets made harder on purpose, for research or a contest: long tails and wrong labels."""
