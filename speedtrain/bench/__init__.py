"""The bench: what this machine can do, what each trick costs on it, and what the harness costs."""
