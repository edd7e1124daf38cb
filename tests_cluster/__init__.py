"""Tests of a cluster with real schedulers and workers: `make test-cluster`."""
