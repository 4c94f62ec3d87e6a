"""Where enclaves run: one interface, and a name for each."""

from privlib.enclave.platforms.base import Platform, Process, platform_named, register_platform

__all__ = ["Platform", "Process", "platform_named", "register_platform"]
