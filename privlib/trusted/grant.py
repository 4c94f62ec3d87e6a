"""What a provider's key is given for: one job of the market, word for word.

A grant is canonical JSON. Every provider of a job gives its key for the same text, which is bound into the key's HPKE
`info` together with the dataset's terms; the enclave trains on what the grant says, once, and on nothing else.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

from privlib.errors import PrivlibError
from privlib.trusted.binding import encode
from privlib.trusted.bounded_json import read_json
from privlib.trusted.ethereum import MOST_DATASETS

MAXIMUM_GRANT = 32 << 10
_HEX = frozenset("0123456789abcdef")


class GrantError(PrivlibError):
    """A grant that is none, or that does not fit the job it is used for."""


@dataclass(frozen=True)
class Grant:
    """chain: its id; escrow: that contract, 20 bytes; job: 32 bytes; consumer: X25519 public key that the result is
    sealed to, 32 bytes; datasets: SHA-256 of the ciphertexts, at most 8; numbers: theirs in the registry, ascending;
    steps, sample_rate, physical_batches: as in `TrainRequest`; appraisal_noise: noise multiplier of the statistics that
    the valuation rests on, 0 for none.

    All bytes are lower-case hexadecimal. Raises GrantError.
    """

    chain: int
    escrow: str
    job: str
    consumer: str
    datasets: tuple[str, ...]
    numbers: tuple[int, ...]
    steps: int
    sample_rate: float
    physical_batches: int
    appraisal_noise: float = 0.0

    def __post_init__(self) -> None:
        sizes = [(self.escrow, 40), (self.job, 64), (self.consumer, 64), *((each, 64) for each in self.datasets)]
        for text, size in sizes:
            if not isinstance(text, str) or len(text) != size or not set(text) <= _HEX:
                raise GrantError(f"a grant has {size} hexadecimal digits there, got {text!r:.80}")
        if type(self.chain) is not int or not 0 < self.chain < 1 << 63:
            raise GrantError(f"chain id {self.chain!r}")
        numbers = self.numbers
        if any(type(each) is not int or not 0 < each < 1 << 63 for each in numbers) or len(set(self.datasets)) != len(
            numbers
        ):
            raise GrantError("a grant names different datasets, each with its number in the registry")
        if not 1 <= len(numbers) <= MOST_DATASETS or list(numbers) != sorted(set(numbers)):
            raise GrantError(f"a grant has from 1 to {MOST_DATASETS} datasets, in the order of their numbers")
        whole = type(self.steps) is int and type(self.physical_batches) is int
        real = type(self.sample_rate) is float and type(self.appraisal_noise) is float
        if not whole or not real or not 0 <= self.appraisal_noise < 1e9:
            raise GrantError("a grant has whole steps and physical_batches, sample_rate and appraisal_noise")

    def encode(self) -> bytes:
        """Canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @staticmethod
    def decode(data: bytes) -> "Grant":
        """GrantError for anything but what `encode` gives."""
        if len(data) > MAXIMUM_GRANT:
            raise GrantError(f"no grant: {len(data)} bytes, at most {MAXIMUM_GRANT} are read")
        try:
            value = read_json(data)
            grant = Grant(**{**value, "datasets": tuple(value["datasets"]), "numbers": tuple(value["numbers"])})
        except (KeyError, TypeError, ValueError) as error:
            raise GrantError(f"no grant: {error}") from None
        if grant.encode() != data:
            raise GrantError("no grant: not in canonical form")
        return grant


def statement_of(grant: bytes) -> bytes:
    """What an approval on the chain states: the grant's SHA-256."""
    return hashlib.sha256(grant).digest()


def bound_policy(terms: bytes, grant: bytes) -> bytes:
    """What a key is bound to in HPKE's `info`: a dataset's terms, and the grant where there is one."""
    return encode(b"", (terms, grant)) if grant else terms
