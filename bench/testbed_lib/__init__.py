"""The parts of bench/testbed."""
