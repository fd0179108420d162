// MQTT.js as a device: publishes heartbeats, and hears its own messages.
//
// Its one argument is JSON: transport (tcp, tls, ws, wss), port, ca (a PEM file), version (4 or 5), device_id. It exits with 0
// when every heartbeat was acknowledged and every message came back once.

import { readFileSync } from "node:fs";
import mqtt from "mqtt";

const given = JSON.parse(process.argv[2]);
const deadline = setTimeout(() => fail("it took too long"), 60_000);
const scheme = { tcp: "mqtt", tls: "mqtts", ws: "ws", wss: "wss" }[given.transport];
const path = given.transport.startsWith("ws") ? "/mqtt" : "";

const client = await mqtt.connectAsync(`${scheme}://localhost:${given.port}${path}`, {
    clientId: given.device_id,
    protocolVersion: given.version,
    ca: readFileSync(given.ca),
    reconnectPeriod: 0,
});
client.on("error", (error) => fail(error.message));

const heard = [];
const complete = new Promise((resolve) => {
    client.on("message", (_topic, payload, packet) => {
        heard.push(`${packet.qos}: ${payload}`);
        if (heard.length === 3) resolve();
    });
});

const echo = `devices/${given.device_id}/echo`;
const granted = await client.subscribeAsync(echo, { qos: 2 });
if (granted[0].qos !== 2) fail(`granted ${JSON.stringify(granted)}`);
for (const qos of [0, 1, 2]) {
    await client.publishAsync(`devices/${given.device_id}/heartbeat`, JSON.stringify({ seq: qos }), { qos });
    await client.publishAsync(echo, `qos ${qos}`, { qos });
}
await complete;
await client.endAsync();
heard.sort();
const wanted = ["0: qos 0", "1: qos 1", "2: qos 2"];
if (JSON.stringify(heard) !== JSON.stringify(wanted)) fail(`heard ${JSON.stringify(heard)}`);
clearTimeout(deadline);

function fail(why) {
    console.error(why);
    process.exit(1);
}
