"""Tests of the receipt."""

import unittest

from tally.receipt import amount, receipt


class ReceiptTest(unittest.TestCase):
    def test_cents(self):
        self.assertEqual(amount(1205, "EUR"), "12.05 EUR")

    def test_yen_have_no_cents(self):
        currency = "jpy".upper()
        self.assertEqual(amount(120, currency), "120 JPY")

    def test_receipt(self):
        self.assertEqual(receipt([("tea", 250)], "EUR"), "tea: 2.50 EUR\ntotal: 2.50 EUR")
