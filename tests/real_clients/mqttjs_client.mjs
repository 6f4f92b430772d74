// mqtt.js: ten messages at each QoS, in 3.1, 3.1.1 and 5.0, plain and over TLS, over WebSockets too, in order.
//
// Arguments: PLAIN_PORT TLS_PORT CA_FILE WS_PORT WSS_PORT. Prints "ok" and exits 0 when all arrived. The module is
// found through MQTTJS, the folder that it was installed into.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const mqtt = createRequire(process.env.MQTTJS + "/package.json")("mqtt");
const [plain, tls, ca, ws, wss] = process.argv.slice(2);

async function converse(protocolVersion, url, options, qos) {
  const name = `mqttjs-${protocolVersion}-${url.split(":")[0]}-${qos}`;
  const topic = `real/${name}`;
  // It does not derive the protocol name from the version.
  const protocolId = protocolVersion === 3 ? "MQIsdp" : "MQTT";
  const about = { clientId: name, protocolId, protocolVersion, reconnectPeriod: 0 };
  const client = await mqtt.connectAsync(url, { ...about, ...options });
  const got = [];
  const all = new Promise((resolve) => {
    client.on("message", (_topic, payload, packet) => {
      got.push(`${packet.qos}:${payload}`);
      if (got.length === 10) resolve();
    });
  });
  await client.subscribeAsync(topic, { qos });
  for (let number = 0; number < 10; number++) await client.publishAsync(topic, String(number), { qos });
  await all;
  const expected = Array.from({ length: 10 }, (_, number) => `${qos}:${number}`);
  if (got.join() !== expected.join()) throw new Error(`got ${got}`);
  await client.endAsync();
}

const deadline = setTimeout(() => {
  console.error("timed out");
  process.exit(1);
}, 100_000);
for (const version of [3, 4, 5]) {
  for (const qos of [0, 1, 2]) {
    await converse(version, `mqtt://localhost:${plain}`, {}, qos);
    await converse(version, `mqtts://localhost:${tls}`, { ca: readFileSync(ca) }, qos);
    await converse(version, `ws://localhost:${ws}/mqtt`, {}, qos);
    await converse(version, `wss://localhost:${wss}/mqtt`, { ca: readFileSync(ca) }, qos);
  }
}
clearTimeout(deadline);
console.log("ok");
