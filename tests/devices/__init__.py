"""Checks on eight virtual devices, each file in a process of its own."""
