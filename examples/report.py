"""Reads orders from /input/data.json and writes what each customer spent."""

import json
from collections import defaultdict

with open("/input/data.json") as file:
    orders = json.load(file)["orders"]

spent = defaultdict(float)
for order in orders:
    spent[order["customer"]] += order["quantity"] * order["price"]

result = {
    "orders": len(orders),
    "spent": {customer: round(total, 2) for customer, total in sorted(spent.items())},
    "best": max(spent, key=lambda customer: spent[customer]),
}
with open("/output/result.json", "w") as file:
    json.dump(result, file)

for customer, total in result["spent"].items():
    print(f"{customer:8} {total:8.2f}")
