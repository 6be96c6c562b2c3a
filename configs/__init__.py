"""Configs: one file for each data set and experiment; common.py has every key."""
