"""Tests of the HTTP API that are generated from its description: `make test-api`."""
