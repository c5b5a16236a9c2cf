"""Bringing a step to the devices: published once, proven on each, switched between two frames.

The repository's side makes bundles and signs them; the device's side fetches, proves and serves
them. They meet in signed files and do not import each other.
"""
