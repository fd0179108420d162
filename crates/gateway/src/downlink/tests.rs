//! What a node without Kafka owes its callers; with Kafka: `tests/system`.

use super::*;

/// Port 9 takes no connection.
fn nowhere(config: Config) -> (Downlink, Worker) {
    let kafka =
        bus::Config { brokers: "127.0.0.1:9".into(), delivery_timeout_ms: 1_000, ..bus::Config::default() };
    let producer = Producer::new(&kafka).expect("a client");
    Downlink::new(config, NodeId("gateway-1".into()), 1, producer, Arc::new(Ledger::new()))
}

fn new(device: &str) -> NewCommand {
    NewCommand {
        device_id: DeviceId::new(device).expect("a device id"),
        name: "unlock".into(),
        payload: Bytes::from_static(b"{}"),
        qos: 1,
        content_type: String::new(),
        expires_in_s: Some(60),
        issued_by: "test".into(),
    }
}

/// Sessions that take everything.
#[derive(Default)]
struct Took(Mutex<Vec<CommandId>>);

impl Deliver for Took {
    fn deliver(&self, _: &DeviceId, command: Arc<IssuedCommand>) -> bool {
        self.0.lock().expect("one thread").push(command.id);
        true
    }
}

impl Took {
    fn ids(&self) -> Vec<CommandId> {
        self.0.lock().expect("one thread").clone()
    }
}

fn record(payload: Vec<u8>) -> Heard {
    Heard::Record { place: (bus::Partition(0), bus::Offset(0)), payload }
}

#[tokio::test]
async fn a_command_that_kafka_does_not_hold_was_not_issued() {
    let (downlink, _worker) = nowhere(Config::default());
    let refused = downlink.issue(new("a")).await;
    assert!(matches!(refused, Err(IssueError::NotStored(DeliveryError::Deadline))), "{refused:?}");
    assert!(downlink.for_device(&DeviceId::new("a").expect("an id")).is_empty());
}

#[tokio::test]
async fn what_is_no_command_is_refused_by_name() {
    let (downlink, _worker) = nowhere(Config { payload_bytes_max: 2, ..Config::default() });
    let asked = [
        ("name", NewCommand { name: "a/b".into(), ..new("a") }),
        ("qos", NewCommand { qos: 3, ..new("a") }),
        ("life", NewCommand { expires_in_s: Some(0), ..new("a") }),
        ("life", NewCommand { expires_in_s: Some(86_401), ..new("a") }),
        ("payload_bytes_max", NewCommand { payload: Bytes::from_static(b"123"), ..new("a") }),
        ("text", NewCommand { issued_by: "x".repeat(129), ..new("a") }),
    ];
    for (reason, command) in asked {
        let error = downlink.issue(command).await.expect_err(reason);
        assert_eq!(error.reason(), reason, "{error}");
    }
}

#[tokio::test]
async fn what_was_settled_while_the_node_was_away_is_not_delivered_again() {
    let (downlink, worker) = nowhere(Config::default());
    let end = crate::now().0 + 60_000;
    let [settled, waits, later] = ["a", "a", "b"].map(|device| command::for_tests(device, end));
    let took = Took::default();
    worker.hear(record(settled.record()), &took);
    worker.hear(record(waits.record()), &took);
    worker.hear(record(waits.record()), &took);
    let done = command::settled(&settled, CommandStep::Delivered, &settled.origin);
    worker.hear(record(done), &took);
    assert_eq!(took.ids(), [], "nothing before this node has caught up");
    assert!(downlink.for_device(&settled.device_id).is_empty(), "nor for one that asks");

    worker.hear(Heard::CaughtUp, &took);
    assert_eq!(took.ids(), [waits.id]);
    worker.hear(record(later.record()), &took);
    worker.hear(record(b"\xff".to_vec()), &took);
    assert_eq!(took.ids(), [waits.id, later.id]);

    let waiting = downlink.for_device(&waits.device_id);
    assert_eq!(waiting.iter().map(|command| command.id).collect::<Vec<_>>(), [waits.id]);
    downlink.sent(&waiting[0], SessionId::generate());
    assert_eq!(downlink.for_device(&waits.device_id).len(), 1, "it may not have arrived");
    downlink.delivered(&waiting[0], SessionId::generate(), 0);
    assert!(downlink.for_device(&waits.device_id).is_empty());
}

#[tokio::test]
async fn with_qos_0_sent_is_all_there_is() {
    let (downlink, worker) = nowhere(Config::default());
    let mut command = command::for_tests("a", crate::now().0 + 60_000);
    command.qos = 0;
    let took = Took::default();
    worker.hear(Heard::CaughtUp, &took);
    worker.hear(record(command.record()), &took);
    downlink.sent(&Arc::new(command.clone()), SessionId::generate());
    assert!(downlink.for_device(&command.device_id).is_empty());
}
