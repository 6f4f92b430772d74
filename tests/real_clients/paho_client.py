"""paho-mqtt: ten messages at each QoS, in 3.1, 3.1.1 and 5.0, plain and over TLS, over WebSockets too, in order.

Arguments: PLAIN_PORT TLS_PORT CA_FILE WS_PORT WSS_PORT. Prints "ok" and exits 0 when all arrived.
"""

import queue
import sys

import paho.mqtt.client as mqtt


def converse(protocol, port, ca, qos, transport):
    received = queue.Queue()
    ready = queue.Queue()
    name = f"paho-{protocol}-{port}-{qos}"
    topic = f"real/{name}"
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=protocol, transport=transport)
    if ca:
        client.tls_set(ca_certs=ca)
    client.on_connect = lambda *args: client.subscribe(topic, qos)
    client.on_subscribe = lambda *args: ready.put(True)
    client.on_message = lambda _client, _user, message: received.put((message.qos, message.payload))
    client.connect("localhost", port, keepalive=30)
    client.loop_start()
    ready.get(timeout=20)
    for number in range(10):
        client.publish(topic, b"%d" % number, qos).wait_for_publish(20)
    got = [received.get(timeout=20) for _ in range(10)]
    assert got == [(qos, b"%d" % number) for number in range(10)], got
    client.disconnect()
    client.loop_stop()


def main():
    plain, tls, ca, ws, wss = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    ways = [(plain, None, "tcp"), (tls, ca, "tcp"), (ws, None, "websockets"), (wss, ca, "websockets")]
    for protocol in (mqtt.MQTTv31, mqtt.MQTTv311, mqtt.MQTTv5):
        for port, authority, transport in ways:
            for qos in (0, 1, 2):
                converse(protocol, port, authority, qos, transport)
    print("ok")


main()
