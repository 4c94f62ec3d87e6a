"""Kernel generators: each builds one TIR function with its register tile written out, ready for LLVM, nothing left to a
tuner."""
