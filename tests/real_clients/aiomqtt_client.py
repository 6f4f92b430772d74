"""aiomqtt: ten messages at each QoS, in 3.1.1 and 5.0, plain and over TLS, in order.

Arguments: PLAIN_PORT TLS_PORT CA_FILE. Prints "ok" and exits 0 when all arrived.
"""

import asyncio
import ssl
import sys

import aiomqtt


async def converse(protocol, port, context, qos):
    name = f"aiomqtt-{protocol.name}-{port}-{qos}"
    topic = f"real/{name}"
    client = aiomqtt.Client("localhost", port, identifier=name, protocol=protocol, tls_context=context)
    async with client:
        await client.subscribe(topic, qos=qos)
        for number in range(10):
            await client.publish(topic, b"%d" % number, qos=qos)
        got = []
        async for message in client.messages:
            got.append((message.qos, message.payload))
            if len(got) == 10:
                break
    assert got == [(qos, b"%d" % number) for number in range(10)], got


async def main():
    plain, tls, ca = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    for protocol in (aiomqtt.ProtocolVersion.V311, aiomqtt.ProtocolVersion.V5):
        for port, context in ((plain, None), (tls, ssl.create_default_context(cafile=ca))):
            for qos in (0, 1, 2):
                await asyncio.wait_for(converse(protocol, port, context, qos), 60)
    print("ok")


asyncio.run(main())
