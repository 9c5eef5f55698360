"""Ablation, tuning and curves: which trick or setting helps at this budget, on this machine, and how sure that is."""
