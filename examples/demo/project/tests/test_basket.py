"""Tests of the basket."""

import unittest

from tally.basket import add, dump, total


class BasketTest(unittest.TestCase):
    def test_a_new_basket_is_empty(self):
        add("tea", 250)
        self.assertEqual(add("jam", 320), [("jam", 320)])

    def test_total(self):
        self.assertEqual(total([("tea", 250), ("jam", 320)]), 570)

    def test_no_basket_costs_nothing(self):
        self.assertEqual(total(None), 0)

    def test_dump(self):
        self.assertEqual(dump([("tea", 250)]), '{"tea": 250}')
