"""Sterling: a data market where the buyer's program is proved private before the data moves.

After Hynes, Dao, Yan, Cheng, Song, "A demonstration of Sterling", PVLDB 11(12), 2018.
"""

from privlib.sterling.verify import ProgramPolicy, Verdict, training_program, verify_program

__all__ = ["ProgramPolicy", "Verdict", "training_program", "verify_program"]
