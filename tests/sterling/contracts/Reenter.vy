# pragma version 0.4.3
"""
@title A payer that calls back while it is paid
"""
interface Escrow:
    def withdraw(to: address): nonpayable

target: address
data: Bytes[2048]
tried: public(uint256)
succeeded: public(bool)


@external
@payable
def act(target: address, data: Bytes[2048]):
    raw_call(target, data, value=msg.value)


@external
def arm(target: address, data: Bytes[2048]):
    self.target = target
    self.data = data


@external
@payable
def __default__():
    if self.target != empty(address) and self.tried < 3:
        self.tried += 1
        self.succeeded = raw_call(self.target, self.data, revert_on_failure=False)
