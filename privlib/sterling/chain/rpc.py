"""JSON-RPC 2.0 over HTTP to a node on this machine."""

import http.client
import json
from typing import Any

from privlib.sterling.chain.errors import ChainError, NodeError, RevertedError, revert_reason

_SECONDS = 120
_REVERTED = 3  # geth's error code, which others follow


class Rpc:
    """One connection, kept open."""

    def __init__(self, host: str, port: int) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
        self._calls = 0

    def __call__(self, method: str, *parameters: Any) -> Any:
        """Raises RevertedError for a call that a contract refused, ChainError for another refusal, NodeError where the
        node does not answer."""
        self._calls += 1
        request = {"jsonrpc": "2.0", "id": self._calls, "method": method, "params": parameters}
        try:
            self._connection.request("POST", "/", json.dumps(request), {"Content-Type": "application/json"})
            answer = json.loads(self._connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            raise NodeError(f"the node does not answer {method}: {error!r}; start the chain again") from error
        if "error" in answer:
            refusal = answer["error"]
            if refusal.get("code") == _REVERTED:
                raise RevertedError(method, revert_reason(unhex(refusal.get("data") or "0x")))
            raise ChainError(f"{method}: {refusal.get('message')}")
        return answer["result"]

    def close(self) -> None:
        self._connection.close()


def unhex(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))
