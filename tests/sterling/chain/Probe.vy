# pragma version 0.4.3
"""
@title Something of everything that a chain must do
"""
event Counted:
    who: indexed(address)
    count: uint256
    note: String[32]


struct Pair:
    owner: address
    value: uint256


count: public(uint256)
limit: public(immutable(uint256))


@deploy
@payable
def __init__(limit_: uint256):
    assert limit_ != 0, "probe: no limit"
    limit = limit_


@external
@payable
def add(note: String[32]) -> uint256:
    assert self.count < limit, "probe: full"
    self.count += 1
    log Counted(who=msg.sender, count=self.count, note=note)
    return self.count


@external
def clear():
    self.count = 0


@external
def silent():
    assert self.count == 12345


@external
@payable
def burn():
    large: uint256[4_000_000] = empty(uint256[4_000_000])
    self.count = large[msg.value]


@external
@view
def where() -> (uint256, uint256, uint256, address):
    return chain.id, block.number, block.timestamp, msg.sender


@external
@view
def swap(pair: Pair, others: DynArray[address, 4]) -> (Pair, DynArray[address, 4]):
    return Pair(owner=others[0], value=pair.value + 1), others


@external
def send_all(to: address):
    send(to, self.balance)
