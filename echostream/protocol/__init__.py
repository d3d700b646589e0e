"""The wire protocol, sans-IO: frames, payloads, and the machine of one connection. See docs/reference/protocol.md."""
