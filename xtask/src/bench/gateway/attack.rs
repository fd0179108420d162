//! Clients that mean harm: silent TLS clients, slow CONNECTs, a flood of publishes, packets that announce 256 MB.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::bytes;

/// Silent TLS clients, and as many slow CONNECTs.
pub(super) const EACH: usize = 5_000;
/// Between two bytes of a slow CONNECT.
const SLOW: Duration = Duration::from_secs(1);
/// Between two packets that are too large.
const LARGE_EVERY: Duration = Duration::from_millis(10);
/// Publishes that the flood sends at once.
const FLOOD_BATCH: u16 = 64;

/// An attack under way; ends when dropped.
#[derive(Debug)]
pub(super) struct Attack {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Silent and slow connections that stand.
    standing: AtomicU64,
    /// How often one of those was closed and opened anew.
    closed: AtomicU64,
    /// Publishes of the flood that were acknowledged.
    flooded: AtomicU64,
    /// Packets of 256 MB that were answered with an end.
    large: AtomicU64,
}

impl Attack {
    /// Starts all of it.
    pub(super) fn start(mqtt: SocketAddr, mqtts: SocketAddr) -> Self {
        let shared = Arc::new(Shared::default());
        let thread = |act: fn(&Shared, SocketAddr), at: SocketAddr| {
            let shared = shared.clone();
            // Ends with the flag, which `drop` sets.
            std::thread::spawn(move || act(&shared, at))
        };
        let threads =
            vec![thread(silent, mqtts), thread(slow, mqtt), thread(flood, mqtt), thread(large, mqtt)];
        Self { shared, threads }
    }

    pub(super) fn standing(&self) -> u64 {
        self.shared.standing.load(Relaxed)
    }

    pub(super) fn closed(&self) -> u64 {
        self.shared.closed.load(Relaxed)
    }

    pub(super) fn flooded(&self) -> u64 {
        self.shared.flooded.load(Relaxed)
    }

    pub(super) fn large(&self) -> u64 {
        self.shared.large.load(Relaxed)
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked has told so itself.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn goes_on(&self) -> bool {
        !self.stop.load(Relaxed)
    }
}

/// They connect to the TLS port, say the first bytes of a ClientHello, and nothing more.
fn silent(shared: &Shared, mqtts: SocketAddr) {
    hold(shared, mqtts, Ipv4Addr::new(127, 0, 200, 1), &[0x16, 0x03, 0x01]);
}

/// They send CONNECT, a byte a second.
fn slow(shared: &Shared, mqtt: SocketAddr) {
    let connect = bytes::connect_packet("slow-slow-slow-slow-slow-slow-slow-slow");
    hold(shared, mqtt, Ipv4Addr::new(127, 0, 200, 2), &connect);
}

/// Keeps connections open that send a byte now and then, as far as `say` goes; opens them anew when they are closed.
fn hold(shared: &Shared, at: SocketAddr, source: Ipv4Addr, say: &[u8]) {
    let mut held: Vec<Option<(TcpStream, usize)>> = (0..EACH).map(|_| None).collect();
    while shared.goes_on() {
        let begun = Instant::now();
        for place in &mut held {
            if !shared.goes_on() {
                return;
            }
            match place {
                None => {
                    // Refused, or the attack is beyond what this machine has: the next round tries again.
                    if let Ok(stream) = open(at, source) {
                        *place = Some((stream, 0));
                        shared.standing.fetch_add(1, Relaxed);
                    }
                }
                Some((stream, said)) => {
                    let bytes = say.get(*said..=*said).unwrap_or_default();
                    if stream.write_all(bytes).is_err() || is_closed(stream) {
                        *place = None;
                        shared.standing.fetch_sub(1, Relaxed);
                        shared.closed.fetch_add(1, Relaxed);
                    } else {
                        *said += 1;
                    }
                }
            }
        }
        std::thread::sleep(SLOW.saturating_sub(begun.elapsed()));
    }
}

fn open(at: SocketAddr, source: Ipv4Addr) -> io::Result<TcpStream> {
    let stream = bytes::open(at, source)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// One client publishes as fast as its socket takes it.
fn flood(shared: &Shared, mqtt: SocketAddr) {
    const NAME: &str = "flood";
    while shared.goes_on() {
        let Ok(stream) = bytes::session(mqtt, Ipv4Addr::new(127, 0, 200, 3), NAME) else {
            std::thread::sleep(LARGE_EVERY);
            continue;
        };
        // Ended by the server, or by the end of the attack: either way there is nothing to save.
        let _ended = flood_over(shared, stream, NAME);
    }
}

fn flood_over(shared: &Shared, mut stream: TcpStream, name: &str) -> io::Result<()> {
    // Short, so that the end of the attack is noticed while the socket is full.
    stream.set_write_timeout(Some(Duration::from_millis(200)))?;
    stream.set_read_timeout(Some(Duration::from_millis(1)))?;
    let batch: Vec<u8> = (1..=FLOOD_BATCH).flat_map(|packet_id| bytes::heartbeat(name, packet_id)).collect();
    let (mut written, mut left_over) = (0, 0);
    let mut answers = [0; 4096];
    while shared.goes_on() {
        match stream.write(&batch[written..]) {
            Ok(count) => written = (written + count) % batch.len(),
            Err(error) if is_patience(&error) => {}
            Err(error) => return Err(error),
        }
        match stream.read(&mut answers) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                // A PUBACK of 3.1.1 has four bytes.
                left_over += count;
                shared.flooded.fetch_add((left_over / 4) as u64, Relaxed);
                left_over %= 4;
            }
            Err(error) if is_patience(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_patience(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// One client after another announces a packet of 256 MB and begins to send it.
fn large(shared: &Shared, mqtt: SocketAddr) {
    let mut begin = vec![0x32, 0xff, 0xff, 0xff, 0x7f];
    begin.resize(16 * 1024, b'x');
    while shared.goes_on() {
        if let Ok(mut stream) = bytes::session(mqtt, Ipv4Addr::new(127, 0, 200, 4), "large") {
            // It may be closed while it sends.
            let _closed = stream.write_all(&begin);
            let ended = loop {
                match stream.read(&mut [0; 64]) {
                    Ok(0) => break true,
                    Ok(_) => {}
                    Err(error) => break !is_patience(&error),
                }
            };
            shared.large.fetch_add(u64::from(ended), Relaxed);
        }
        std::thread::sleep(LARGE_EVERY);
    }
}
