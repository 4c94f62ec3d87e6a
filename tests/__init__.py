"""Tests of privlib; a package, so that they share helpers and find `benchmarks` beside it."""
