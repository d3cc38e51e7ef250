"""Leaves a file beyond the limit of one, and files beyond the limit of all."""
open("/output/0-large", "wb").write(b"x" * ((1 << 20) + 1))
for number in range(1, 8):
    open(f"/output/{number}", "wb").write(b"x" * (1 << 20))
