"""Side-by-side measurements: everything that is compared runs in one run, alternating, several times."""
