//! Packets that were cut short, flipped bit by bit and joined, at a real gateway: it stays up, and its memory flat.
//!
//! A packet counts when the gateway has judged it: it answered the PINGREQ behind it, or closed the connection.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::bytes;
use super::node::Node;
use super::{Bench, POLL};
use crate::build::Workspace;
use crate::fuzz::notation;

/// Threads that send.
const SENDERS: u64 = 4;
/// Packets on one connection, as far as it stands.
const BATCH: usize = 16;
/// An answer that is late is a hang.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How much memory may grow from the first tenth to the end: kept sessions and the like, which are bounded.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

/// What the senders share.
struct Shared {
    mqtt: SocketAddr,
    packets: Vec<Vec<u8>>,
    wanted: u64,
    judged: AtomicU64,
    refused: AtomicU64,
    stop: AtomicBool,
}

pub(super) fn measure(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let wanted = bench.flags.packets;
    eprintln!("==> {wanted} mutated packets");
    let rules = bench.folder.join("open.toml");
    std::fs::write(
        &rules,
        "[[rule]]\neffect = \"allow\"\nwho = \"everybody\"\naction = \"all\"\ntopic = \"#\"\n",
    )?;
    let settings = [
        format!("access.acl_file={}", rules.display()),
        "listen.connect_rate_max=1000000".to_owned(),
        "listen.connect_burst_max=1000000".to_owned(),
    ];
    let mut node = Node::gateway(bench, "mutated", &settings)?;
    let shared = Shared {
        mqtt: node.mqtt,
        packets: packets(&Workspace::find()?.root.join("tests/packets"))?,
        wanted,
        judged: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let begun = Instant::now();
    let mut early = None;
    let sent = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS)
            .map(|number| {
                scope.spawn({
                    let shared = &shared;
                    move || send(shared, number)
                })
            })
            .collect();
        let watched = loop {
            let judged = shared.judged.load(Relaxed);
            if judged >= wanted || senders.iter().any(std::thread::ScopedJoinHandle::is_finished) {
                break Ok(());
            }
            if early.is_none() && judged >= wanted / 10 {
                match node.memory() {
                    Ok(memory) => early = Some(memory.resident),
                    Err(error) => break Err(error),
                }
            }
            if let Err(error) = bench.rest(POLL) {
                break Err(error);
            }
        };
        shared.stop.store(true, Relaxed);
        let sent: Vec<_> = senders
            .into_iter()
            .map(|sender| sender.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a sender panicked"))))
            .collect();
        watched.and(sent.into_iter().collect::<anyhow::Result<Vec<()>>>())
    });
    // A gateway that crashed is the likelier reason for what went wrong.
    crate::stack::alive(&mut node.process)?;
    sent?;
    let seconds = begun.elapsed().as_secs_f64();
    let early = early.context("it was over too soon to measure")?;
    let growth = node.memory()?.resident.saturating_sub(early);
    let log = std::fs::read_to_string(node.process.log())?;
    let panics = log.matches("panicked at").count();
    survivor(node.mqtt)?;

    let (judged, refused) = (shared.judged.load(Relaxed), shared.refused.load(Relaxed));
    let table = &mut bench.table;
    table.promise(
        "mutated packets, none of which ends the gateway",
        format!("{judged} in {seconds:.0} s, {refused} refused"),
        wanted.to_string(),
        judged >= wanted && panics == 0,
    );
    table.promise(
        "memory from the first tenth of them to the last",
        format!("{:+} KiB", growth >> 10),
        format!("at most {} MiB", GROWTH_BYTES_MAX >> 20),
        growth <= GROWTH_BYTES_MAX,
    );
    node.stop()
}

/// Every packet that a case sends, the well-formed ones among them.
fn packets(folder: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut packets = Vec::new();
    for file in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = file?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let groups: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
        let tests = groups.iter().filter_map(|group| group["tests"].as_array()).flatten();
        let messages = tests.filter_map(|test| test["msgs"].as_array()).flatten();
        packets.extend(
            messages
                .filter(|message| message["type"] == "send")
                .filter_map(|message| notation::bytes(message["payload"].as_str()?))
                .filter(|packet| packet.len() > 1),
        );
    }
    ensure!(packets.len() > 500, "only {} packets in {}", packets.len(), folder.display());
    Ok(packets)
}

fn send(shared: &Shared, number: u64) -> anyhow::Result<()> {
    let mut random = Random(number + 1);
    // A name for each: two of one name would end each other.
    let name = format!("mutant-{number}");
    let openings = [bytes::connect_packet(&name), bytes::connect_packet_5(&name)];
    // A source address for each: a connection that was closed keeps its port for a minute.
    let mut turn = 0_u8;
    while !shared.stop.load(Relaxed) && shared.judged.load(Relaxed) < shared.wanted {
        turn = turn % 200 + 1;
        let source = Ipv4Addr::new(127, 0, 210 + u8::try_from(number).unwrap_or_default(), turn);
        judge(shared, source, random.one_of(&openings).clone(), &mut random)?;
    }
    Ok(())
}

/// One connection. Every other one begins with a CONNECT that is right.
fn judge(shared: &Shared, source: Ipv4Addr, opening: Vec<u8>, random: &mut Random) -> anyhow::Result<()> {
    let mut stream = bytes::open(shared.mqtt, source).context("the gateway takes no connection")?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let is_session = random.below(2) == 0;
    let (mut bytes, count) = if is_session { (opening, BATCH) } else { (Vec::new(), 1) };
    for _ in 0..count {
        bytes.extend(mutated(shared, random));
        bytes.extend([0xc0, 0]);
    }
    // The gateway may close while this is on its way. With our side closed, what is cut short has an end.
    let _closed = stream.write_all(&bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answers = Vec::new();
    match stream.read_to_end(&mut answers) {
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
        {
            anyhow::bail!("the gateway did not end a connection within {ANSWER_MAX:?}: {bytes:02x?}")
        }
        // A reset is an end too.
        _ => {}
    }
    let survived = answers.windows(2).filter(|pair| *pair == [0xd0, 0]).count().min(count);
    let refused = usize::from(survived < count);
    shared.judged.fetch_add((survived + refused) as u64, Relaxed);
    shared.refused.fetch_add(refused as u64, Relaxed);
    Ok(())
}

fn mutated(shared: &Shared, random: &mut Random) -> Vec<u8> {
    let mut packet = random.one_of(&shared.packets).clone();
    match random.below(4) {
        0 => packet.truncate(1 + random.below(packet.len())),
        1 => packet.extend_from_slice(random.one_of(&shared.packets)),
        _ => {
            for _ in 0..=random.below(3) {
                let at = random.below(packet.len());
                packet[at] ^= 1 << random.below(8);
            }
        }
    }
    packet
}

/// It still does its work.
fn survivor(mqtt: SocketAddr) -> anyhow::Result<()> {
    let mut stream = bytes::session(mqtt, Ipv4Addr::LOCALHOST, "survivor").context("no session any more")?;
    stream.write_all(&bytes::heartbeat("survivor", 1))?;
    let mut puback = [0; 4];
    stream.read_exact(&mut puback).context("no PUBACK any more")?;
    ensure!(puback == [0x40, 2, 0, 1], "PUBLISH was answered with {puback:02x?}");
    Ok(())
}

/// xorshift64: the same packets at each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From 0 to below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 16).unwrap_or_default() % bound
    }

    fn one_of<'a>(&mut self, packets: &'a [Vec<u8>]) -> &'a Vec<u8> {
        &packets[self.below(packets.len())]
    }
}
