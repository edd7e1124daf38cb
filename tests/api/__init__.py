"""Tests of the HTTP API by a program that reads its description: `make test-api`."""
