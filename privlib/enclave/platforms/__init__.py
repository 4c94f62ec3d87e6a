"""Where enclaves run: one interface, and a name for each."""

from privlib.enclave.platforms.base import Platform, Process, platform_named, register_platform
from privlib.enclave.platforms.gramine import GraminePlatform
from privlib.enclave.platforms.simulated import SimulatedPlatform

register_platform("simulated", SimulatedPlatform)
register_platform("gramine", GraminePlatform)

__all__ = ["GraminePlatform", "Platform", "Process", "SimulatedPlatform", "platform_named", "register_platform"]
