"""Eclipse Paho (Python) as a device: publishes heartbeats, and hears its own messages.

Its one argument is JSON: transport (tcp, tls, ws, wss), port, ca (a PEM file), version (4 or 5), device_id. It exits with 0
when every heartbeat was acknowledged and every message came back once.
"""

import json
import sys
import threading

import paho.mqtt.client as mqtt

DEADLINE_S = 60


def main():
    given = json.loads(sys.argv[1])
    device_id = given["device_id"]
    is_web_socket = given["transport"] in ("ws", "wss")
    options = {
        "client_id": device_id,
        "protocol": mqtt.MQTTv5 if given["version"] == 5 else mqtt.MQTTv311,
        "transport": "websockets" if is_web_socket else "tcp",
    }
    if hasattr(mqtt, "CallbackAPIVersion"):  # Paho 2
        options["callback_api_version"] = mqtt.CallbackAPIVersion.VERSION1
    client = mqtt.Client(**options)
    if is_web_socket:
        client.ws_set_options(path="/mqtt")
    if given["transport"] in ("tls", "wss"):
        client.tls_set(ca_certs=given["ca"])

    connected, subscribed, complete = threading.Event(), threading.Event(), threading.Event()
    heard = []

    def on_connect(client, userdata, flags, reason, properties=None):
        if reason == 0:
            connected.set()

    def on_message(client, userdata, message):
        heard.append((message.qos, message.payload.decode()))
        if len(heard) == 3:
            complete.set()

    client.on_connect = on_connect
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = on_message
    client.connect("localhost", given["port"], keepalive=30)
    client.loop_start()
    wait(connected, "CONNACK")

    echo = f"devices/{device_id}/echo"
    client.subscribe(echo, qos=2)
    wait(subscribed, "SUBACK")
    for qos in (0, 1, 2):
        heartbeat = client.publish(f"devices/{device_id}/heartbeat", json.dumps({"seq": qos}), qos=qos)
        message = client.publish(echo, f"qos {qos}", qos=qos)
        for published in (heartbeat, message):
            published.wait_for_publish(DEADLINE_S)
            if not published.is_published():
                sys.exit(f"no acknowledgement with QoS {qos}")
    wait(complete, "the messages")
    client.disconnect()
    client.loop_stop()
    if sorted(heard) != [(qos, f"qos {qos}") for qos in (0, 1, 2)]:
        sys.exit(f"heard {heard}")


def wait(event, what):
    if not event.wait(DEADLINE_S):
        sys.exit(f"waited in vain for {what}")


main()
