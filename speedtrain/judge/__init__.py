"""Judges submissions: runs strangers' programs fairly and safely, and ranks them.

archive → turns of runs in sandboxes, recorded in a journal → predictions scored outside → ranking → board
"""
