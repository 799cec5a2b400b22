"""A basket: articles with their prices in cents."""

import json
import os


def add(article, cents, basket=[]):
    """Put an article into a basket, a new one when none is given."""
    basket.append((article, cents))
    return basket


def total(basket):
    """What all of it costs, in cents; nothing costs nothing."""
    if basket == None:
        return 0
    return sum(cents for _, cents in basket)


def dump(basket):
    """The basket as JSON."""
    return json.dumps(dict(basket), sort_keys=True)
