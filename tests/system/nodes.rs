//! Several gateways that share nothing: what they owe a fleet and its back end together.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::fleet::{Fleet, more_rows};
use crate::mqtt_client::Client;
use crate::pipeline::Pipeline;
use crate::services::DEADLINE;

/// What stands before the nodes: gives each connection to the next node in turn that takes it. Ends when it is dropped.
struct Balancer {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Balancer {
    fn start(nodes: Vec<SocketAddr>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let serve = async move {
            let (nodes, turn) = (Arc::new(nodes), Arc::new(AtomicUsize::new(0)));
            let mut connections = JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await?;
                let (nodes, turn) = (Arc::clone(&nodes), Arc::clone(&turn));
                connections.spawn(async move {
                    for _ in 0..nodes.len() {
                        let node = nodes[turn.fetch_add(1, Ordering::Relaxed) % nodes.len()];
                        if let Ok(mut server) = TcpStream::connect(node).await {
                            // However it ends, the device sees it end.
                            let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                            return;
                        }
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        };
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = stopped.cancelled() => Ok(()),
                    ended = serve => ended,
                }
            })
        });
        Ok(Self { address, stop, thread: Some(thread) })
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.stop.cancel();
        // How it ended is of no interest any more: a fleet without it would have said so.
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

/// What `gateway.shutdown_grace_ms` promises.
const GRACE: Duration = Duration::from_secs(10);

#[test]
fn a_rolling_restart_of_three_gateways_under_load_neither_loses_nor_doubles() -> Result<()> {
    let mut pipeline = Pipeline::start("rolling")?;
    let mut second = pipeline.further_gateway("gateway-2")?;
    let mut third = pipeline.further_gateway("gateway-3")?;
    let balancer = Balancer::start(vec![pipeline.mqtt, second.mqtt, third.mqtt])?;
    let fleet = Fleet::start(balancer.address, 150, Duration::from_millis(100));
    // A third of it is at each node.
    pipeline.eventually("SELECT uniqExact(device_id) FROM heartbeats", "150")?;
    for turn in 0..3 {
        let process = match turn {
            0 => &mut pipeline.gateway,
            1 => &mut second.process,
            _ => &mut third.process,
        };
        let asked = Instant::now();
        let status = process.terminate(DEADLINE)?;
        let (took, name) = (asked.elapsed(), process.name().to_owned());
        ensure!(
            status.success() && took <= GRACE,
            "{name}: {status} after {took:?}: {}",
            process.log_tail(20)
        );
        // The other two carry on.
        more_rows(&pipeline)?;
        let mqtt = match turn {
            0 => pipeline.start_gateway().map(|()| pipeline.mqtt)?,
            1 => second.start_again().map(|()| second.mqtt)?,
            _ => third.start_again().map(|()| third.mqtt)?,
        };
        // The fleet may be back at the others before this one is: somebody comes to it for sure.
        let mut first = Client::connect(mqtt, &format!("first-at-{name}"), 5)?;
        ensure!(first.acknowledged_heartbeat(1, "{}")? == 0);
        more_rows(&pipeline)?;
    }
    let report = fleet.verify(&pipeline)?;
    let told =
        report.counts.disconnected.iter().find(|(code, _)| code.0 == 0x8b).map_or(0, |(_, count)| *count);
    ensure!(told >= 25, "only {told} MQTT 5 devices were told why they lost their node");
    ensure!(report.counts.reconnects >= 100, "{} reconnects", report.counts.reconnects);
    ensure!(report.unacknowledged().next().is_none(), "the last of it was acknowledged too");
    for node in ["gateway-1", "gateway-2", "gateway-3"] {
        // Both lives of it had devices, and the first ended in order.
        pipeline.eventually(
            &format!(
                "SELECT uniqExact(epoch), countIf(reason = 'server_shutting_down') >= 25 FROM connections WHERE node_id = '{node}'"
            ),
            "2\t1",
        )?;
    }
    drop(balancer);
    for node in [&mut second.process, &mut third.process] {
        let status = node.terminate(DEADLINE)?;
        ensure!(status.success(), "{}: {status}: {}", node.name(), node.log_tail(20));
    }
    pipeline.stop()
}
