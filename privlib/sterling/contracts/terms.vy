# pragma version 0.4.3
"""
@title What the market's contracts say to each other
@license Apache-2.0
@notice A job is its terms: the job's identity is their hash, so that they cannot change and need not be stored. Whoever
        acts on a job brings the terms along; they are in the event of the request.
"""

# Datasets in one job, and rules in one list.
MOST: constant(uint256) = 8


# What a session's quote said, as the attestation registry accepted it.
struct Evidence:
    measurement: bytes32  # MRENCLAVE
    signer: bytes32  # MRSIGNER
    product: uint256  # ISVPRODID
    svn: uint256  # ISVSVN
    platform: bytes32  # Keccak hash of the PCK public key
    tcb: bytes32  # TCB level that the registry knows that platform by
    expires: uint256  # Unix seconds
    on_chain: bool  # False: an authorised verifier checked the quote


struct Terms:
    payer: address
    executor: address  # paid for running the enclave
    executor_basis_points: uint256  # fee over prices and bonus, rounded up
    datasets: uint256[MOST]  # ids, ascending; zero after the last
    prices: uint256[MOST]  # wei, fixed for each dataset
    bonus: uint256  # wei, split among the datasets by the weights that the enclave appraises
    program: bytes32  # digest of the training program that every provider's policy verifies
    session: address  # the enclave's session key
    evidence: Evidence
    curve: uint256[4]  # privacy cost for every dataset, as `curves`
    grant_by: uint256  # Unix seconds: last moment to approve
    complete_by: uint256  # last moment to complete
    recipient: bytes32  # hash of the public key to which the model's key is sealed
    salt: bytes32


# Whoever is signed by this signer, as this product, of this version or newer.
struct SignerRule:
    signer: bytes32
    product: uint256
    least_svn: uint256
