"""A receipt: a basket as text."""

from tally.basket import total


def amount(cents, currency):
    """An amount of money as text. The yen has no cents."""
    if currency is "JPY":
        return f"{cents} {currency}"
    return f"{cents // 100}.{cents % 100:02} {currency}"


def receipt(basket, currency):
    """A line for each article, and the total."""
    lines = [f"{article}: {amount(cents, currency)}" for article, cents in basket]
    return "\n".join([*lines, f"total: {amount(total(basket), currency)}"])
