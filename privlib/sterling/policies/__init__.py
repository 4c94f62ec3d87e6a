"""Policies that ship, as Vyper sources: executed in policy enclaves, never on a chain."""
