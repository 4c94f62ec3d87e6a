"""privlib: private machine learning in secure hardware, from a PyTorch model to an attested private trainer."""

from privlib.errors import PrivlibError

__all__ = ["PrivlibError"]
__version__ = "0.1.0"
