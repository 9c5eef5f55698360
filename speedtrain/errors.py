"""The one kind of error a person may cause and can mend."""


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, where, and what to do. The command exits with 2."""
