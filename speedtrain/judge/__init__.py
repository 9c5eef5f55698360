"""Judging submissions: strangers' programs, run fairly and safely, and ranked.

archive → turns of confined runs, kept in a journal → predictions scored outside → ranking → board
"""
