"""gmqtt: ten messages at each QoS, in 3.1.1 and 5.0, plain and over TLS, in order.

Arguments: PLAIN_PORT TLS_PORT CA_FILE. Prints "ok" and exits 0 when all arrived.
"""

import asyncio
import ssl
import sys

import gmqtt
from gmqtt.mqtt.constants import MQTTv311, MQTTv50


async def converse(version, port, context, qos):
    received = asyncio.Queue()
    ready, done = asyncio.Event(), asyncio.Event()
    name = f"gmqtt-{version}-{port}-{qos}"
    topic = f"real/{name}"
    client = gmqtt.Client(name)

    def on_message(_client, _topic, payload, got_qos, _properties):
        received.put_nowait((got_qos, bytes(payload)))
        return 0

    client.on_message = on_message
    client.on_subscribe = lambda *args: ready.set()
    client.on_unsubscribe = lambda *args: done.set()
    await client.connect("localhost", port, ssl=context or False, version=version, keepalive=30)
    client.subscribe(topic, qos=qos)
    await asyncio.wait_for(ready.wait(), 20)
    for number in range(10):
        client.publish(topic, b"%d" % number, qos=qos)
    got = [await asyncio.wait_for(received.get(), 20) for _ in range(10)]
    assert got == [(qos, b"%d" % number) for number in range(10)], got
    # asyncio takes an acknowledgement that arrives while TLS is being closed for an error: UNSUBACK is
    # behind all of them.
    client.unsubscribe(topic)
    await asyncio.wait_for(done.wait(), 20)
    await client.disconnect()


async def main():
    plain, tls, ca = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    for version in (MQTTv311, MQTTv50):
        for port, context in ((plain, None), (tls, ssl.create_default_context(cafile=ca))):
            for qos in (0, 1, 2):
                await converse(version, port, context, qos)
    print("ok")


asyncio.run(main())
