# pragma version 0.4.3
# pragma nonreentrancy on
"""
@title The newest state of every confidential contract
@license Apache-2.0
@notice A confidential contract runs in an enclave; its state lies encrypted anywhere, and only its hash is here (Ekiden,
        1804.05141). A state is committed once, on top of the one before: whoever was given an older state, or a fork of
        it, cannot commit what follows, and the enclave releases a result only once its commitment is final.
"""
import signatures

event Created:
    instance: indexed(bytes32)
    owner: indexed(address)
    code: bytes32
    key: address
    state: bytes32


event Committed:
    instance: indexed(bytes32)
    version: indexed(uint256)
    state: bytes32
    output: bytes32


event KeyReplaced:
    instance: indexed(bytes32)
    key: address


struct Head:
    owner: address
    key: address  # of the enclave that may commit
    version: uint256
    state: bytes32


COMMITMENT: constant(bytes32) = keccak256("privlib sterling commitment v1")

heads: public(HashMap[bytes32, Head])


@external
def create(code: bytes32, key: address, state: bytes32, salt: bytes32) -> bytes32:
    """
    @notice Begin a contract of that code, run by the enclave of that key, at version 0. Its identity is returned.
    """
    instance: bytes32 = keccak256(abi_encode(chain.id, self, msg.sender, code, salt))
    assert self.heads[instance].owner == empty(address), "state: exists"
    assert key != empty(address), "state: no key"
    self.heads[instance] = Head(owner=msg.sender, key=key, version=0, state=state)
    log Created(instance=instance, owner=msg.sender, code=code, key=key, state=state)
    return instance


@external
def commit(instance: bytes32, version: uint256, previous: bytes32, state: bytes32, output: bytes32, signature: Bytes[65]):
    """
    @notice The next state, signed by the enclave over `digest`; anybody sends it. `output`: hash of what the call returned.
    """
    head: Head = self.heads[instance]
    assert head.owner != empty(address), "state: no such contract"
    assert version == head.version + 1 and previous == head.state, "state: not the newest"
    assert signatures.signer(
        self._digest(instance, version, previous, state, output), signature
    ) == head.key, "state: not signed by the enclave"
    self.heads[instance].version = version
    self.heads[instance].state = state
    log Committed(instance=instance, version=version, state=state, output=output)


@external
def replace_key(instance: bytes32, key: address):
    """
    @notice Another enclave goes on, from the state that is committed (the owner says which, after checking its quote).
    """
    assert msg.sender == self.heads[instance].owner, "state: not the owner"
    assert key != empty(address), "state: no key"
    self.heads[instance].key = key
    log KeyReplaced(instance=instance, key=key)


@external
@view
def digest(instance: bytes32, version: uint256, previous: bytes32, state: bytes32, output: bytes32) -> bytes32:
    """
    @notice What the enclave signs.
    """
    return self._digest(instance, version, previous, state, output)


@internal
@view
def _digest(instance: bytes32, version: uint256, previous: bytes32, state: bytes32, output: bytes32) -> bytes32:
    return keccak256(abi_encode(COMMITMENT, chain.id, self, instance, version, previous, state, output))
