"""Raises: the record names the exception, and the traceback names this file and line."""


def price_of(order):
    return order["price"]


print("looking up a price")
price_of({"customer": "ada"})
