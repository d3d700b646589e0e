"""grpc.aio in the benches of typed calls: one channel, TLS, protobuf messages of the same shape, a deadline.

The messages are described here instead of in a .proto file: the bench then needs no compiler. They become the same
native classes that generated modules have.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from benches.load import drive
from benches.typed import TIMEOUT
from benches.worker import Round
from echostream.transport.state import state_folder

__all__ = ("connect", "credentials", "serve", "server_credentials")

_Field = descriptor_pb2.FieldDescriptorProto
_MESSAGES: Final = {
    "Order": {"symbol": _Field.TYPE_STRING, "qty": _Field.TYPE_INT64},
    "Receipt": {"id": _Field.TYPE_INT64},
}


def _make_messages() -> tuple[Any, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="bench.proto", package="bench", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            message.field.add(name=field, number=number, type=kind, label=_Field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    order, receipt = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"bench.{name}")) for name in _MESSAGES
    )
    return order, receipt


Order, Receipt = _make_messages()


def server_credentials() -> Any:
    """TLS with the certificate that EchoStream's contender shows."""
    pem = (state_folder() / "development" / "server.pem").read_bytes()  # key and certificate
    return grpc.ssl_server_credentials([(pem, pem)])


def credentials() -> Any:
    """Trust in the authority that EchoStream's contender trusts."""
    return grpc.ssl_channel_credentials((state_folder() / "development" / "ca.pem").read_bytes())


async def _place(order: Any, _context: Any) -> Any:
    return Receipt(id=order.qty)


@asynccontextmanager
async def serve() -> AsyncIterator[dict[str, Any]]:
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        _place, request_deserializer=Order.FromString, response_serializer=Receipt.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Orders", {"Place": handler}),))
    port = server.add_secure_port("127.0.0.1:0", server_credentials())
    await server.start()
    yield {"target": f"127.0.0.1:{port}"}
    await server.stop(0)


@asynccontextmanager
async def connect(target: str) -> AsyncIterator[Round]:
    async with grpc.aio.secure_channel(target, credentials()) as channel:
        place = channel.unary_unary(
            "/bench.Orders/Place", request_serializer=Order.SerializeToString, response_deserializer=Receipt.FromString
        )

        async def call(number: int) -> bool:
            receipt = await place(Order(symbol="ACME", qty=number), timeout=TIMEOUT)
            return bool(receipt.id == number)

        yield partial(drive, call)
