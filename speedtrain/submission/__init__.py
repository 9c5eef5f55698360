"""Submissions to a competition: the zip that `python -m speedtrain package` writes."""
