"""Ablation: does this trick help, at this budget, on this machine, with this data, and how sure is that?"""
