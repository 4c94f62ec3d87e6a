"""What a provider checks before it asks its policy: is this the job on the chain, the program private, the price right?

Everything is computed anew from the contract; nothing that the consumer or the executor states is believed.
"""

import math

from privlib.sterling.contract import BuiltContract
from privlib.sterling.contracts.budget import lanes
from privlib.sterling.contracts.terms import Terms
from privlib.sterling.errors import JobRefused
from privlib.sterling.market import Listing, Market
from privlib.sterling.request import JobRequest, recipient_hash
from privlib.sterling.verify import ProgramPolicy, Verdict, verify_program
from privlib.trusted import renyi
from privlib.trusted import terms as trusted
from privlib.trusted.grant import Grant

MOST_TRUNCATION = 1e-3
"""Of δ: the probability that a job's samples are truncated, which no Rényi curve covers, is at most this part of it."""


def check_job(market: Market, listing: Listing, request: JobRequest) -> tuple[BuiltContract, Terms, float]:
    """(the contract, compiled here; the job's terms; ε of the job for this dataset) of a job that may be put to the
    policy. Raises JobRefused."""
    terms, grant, built = market.terms(request.job), request.grant, request.contract.build()
    check_grant(market, terms, grant, request)
    if listing.digest not in grant.datasets:
        raise JobRefused("the job does not use this dataset")
    if (built.program_digest, built.measurement) != (terms.program, terms.evidence.measurement):
        raise JobRefused(
            "the contract builds another program or enclave than the job names: what was verified is not what would run"
        )
    verdict = program_verdict(listing, built)
    if not verdict.accepted:
        raise JobRefused(f"the program is {verdict}")
    rows = pooled_rows(market, grant)
    needed, locked = lanes(built.curve(rows)), lanes(terms.curve)
    if any(charge < least for charge, least in zip(locked, needed, strict=True)):
        raise JobRefused("the job would be charged less privacy than it costs: its curve is below the contract's")
    if not market.contracts.ledger.call("admits", listing.number, terms.curve):
        raise JobRefused("the dataset's budget has no room for this job, whoever asks and whenever")
    events, delta = built.events(rows), trusted.Terms.decode(listing.terms).delta
    if sum(event.steps * renyi.overflow_probability(event) for event in events) > MOST_TRUNCATION * delta:
        raise JobRefused("samples would be cut too often; ask for more physical_batches")
    epsilon = renyi.epsilon(events, delta)
    if not epsilon <= listing.job_epsilon:
        raise JobRefused(f"the job costs ε = {epsilon:.4g}; at most {listing.job_epsilon:g} is given for one")
    return built, terms, epsilon


def check_grant(market: Market, terms: Terms, grant: Grant, request: JobRequest) -> None:
    """Raise JobRefused unless the grant says what the job's terms and contract say."""
    numbers = tuple(number for number in terms.datasets if number)
    registry, content = market.contracts.registry, 4  # its place in the registry's struct
    digests = tuple(bytes(registry.call("datasets", number)[content]).hex() for number in numbers)
    asked = request.contract
    if (grant.chain, grant.escrow) != (market.chain.chain_id, market.escrow):
        raise JobRefused("the grant is for another chain or market")
    if (grant.numbers, grant.datasets) != (numbers, digests):
        raise JobRefused("the grant names other datasets than the job")
    if recipient_hash(grant.consumer) != terms.recipient:
        raise JobRefused("the grant seals the result to another key than the job names")
    stated = (grant.steps, grant.sample_rate, grant.physical_batches, grant.appraisal_noise)
    if stated != (asked.steps, asked.sample_rate, asked.physical_batches, asked.appraisal_noise):
        raise JobRefused("the grant trains otherwise than the contract")
    if bool(terms.bonus) != bool(grant.appraisal_noise):
        raise JobRefused("a bonus is split by appraisal: a job has both or neither")


def program_verdict(listing: Listing, built: BuiltContract) -> Verdict:
    """Of the program checker, under what the listing asks for."""
    asked, terms = built.contract, trusted.Terms.decode(listing.terms)
    policy = ProgramPolicy(
        listing.noise_multiplier,
        listing.job_epsilon,
        terms.delta,
        asked.sample_rate,
        asked.steps,
        asked.physical_batches,
    )
    return verify_program(built.program, policy)


def pooled_rows(market: Market, grant: Grant) -> int:
    """Examples of all the job's datasets together. Raises JobRefused for one that is not listed."""
    missing = [digest for digest in grant.datasets if digest not in market.listings]
    if missing:
        raise JobRefused(f"dataset {missing[0][:16]}… is not listed, so its size is unknown")
    return sum(market.listings[digest].rows for digest in grant.datasets)


def micro_epsilon(epsilon: float) -> int:
    """Millionths, rounded up."""
    return math.ceil(epsilon * 1e6)
