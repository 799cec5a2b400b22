"""Baskets and receipts."""
