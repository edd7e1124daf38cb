"""What tests and benchmarks share: it runs the product's real parts. It is not installed."""
