"""Carries plans out. No decision is made here."""
