"""The suite: run records, the papermill runner, benchmarks, the report and the command line.

It imports no other part of privlib: commands load what they need, notebooks and benchmarks are found by path.
"""
