"""A run from outside: checks, the process that trains, the score, the report."""
