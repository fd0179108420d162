//! A network that breaks on demand: a TCP proxy between a client and a server of the drill.
//!
//! Two threads per connection, at most [`CONNECTIONS_MAX`] connections; what is under way is bounded by one buffer each. A
//! change of mode holds for connections that stand, too. Dropping it ends all of them.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use devstack::ports::free_port;

/// Far above what two gateways and three writers open.
const CONNECTIONS_MAX: usize = 256;
/// How soon a silent connection notices a change.
const LOOK: Duration = Duration::from_millis(50);
/// How often new connections are looked for.
const ACCEPT: Duration = Duration::from_millis(5);
const CONNECT_MAX: Duration = Duration::from_secs(2);
const BUFFER_BYTES: usize = 32 << 10;

/// What becomes of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Pass,
    /// Each piece takes so much longer.
    Delay(Duration),
    /// Connections stand and are taken, and nothing comes through.
    Hang,
    /// Requests come through, answers wait.
    HoldAnswers,
    /// Every connection is reset.
    Cut,
    /// Requests come through; after so many bytes of answers the connection is reset.
    CutAnswer {
        after: u64,
    },
    /// After so many bytes of requests the connection is reset.
    CutRequest {
        after: u64,
    },
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("whole"),
            Self::Delay(by) => write!(f, "{} ms slower", by.as_millis()),
            Self::Hang => f.write_str("silent"),
            Self::HoldAnswers => f.write_str("without answers"),
            Self::Cut => f.write_str("cut"),
            Self::CutAnswer { after } => write!(f, "answers cut after {after} bytes"),
            Self::CutRequest { after } => write!(f, "requests cut after {after} bytes"),
        }
    }
}

/// A proxy that runs.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    mode: Mutex<Mode>,
    /// Rises with each change of mode: from there bytes are counted.
    change: AtomicU64,
    stop: AtomicBool,
}

/// One connection, and whether it is to end with a reset.
#[derive(Debug)]
struct Pair {
    client: TcpStream,
    server: TcpStream,
    reset: AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Answer,
}

impl Proxy {
    /// Listens at a free port of 127.0.0.1.
    pub(crate) fn to(server: SocketAddr) -> anyhow::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let listener = TcpListener::bind(address).with_context(|| format!("cannot listen at {address}"))?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            server,
            mode: Mutex::new(Mode::Pass),
            change: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.serve(&listener)
        });
        Ok(Self { address, shared, thread: Some(thread) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn set(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
        self.shared.change.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // One that panicked has ended too.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn mode(&self) -> Mode {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self, pair: &Pair) -> bool {
        self.stop.load(Ordering::SeqCst) || pair.reset.load(Ordering::SeqCst)
    }

    fn serve(self: &Arc<Self>, listener: &TcpListener) {
        let mut threads: Vec<JoinHandle<()>> = Vec::new();
        while !self.stop.load(Ordering::SeqCst) {
            match listener.accept() {
                Ok((client, _)) => {
                    threads.retain(|thread| !thread.is_finished());
                    if threads.len() < CONNECTIONS_MAX * 2 {
                        threads.push(std::thread::spawn({
                            let shared = Arc::clone(self);
                            move || shared.connect(client)
                        }));
                    }
                }
                Err(_) => std::thread::sleep(ACCEPT),
            }
        }
        for thread in threads {
            let _ = thread.join();
        }
    }

    fn connect(self: Arc<Self>, client: TcpStream) {
        if self.mode() == Mode::Cut {
            return forget(&client);
        }
        let Ok(server) = TcpStream::connect_timeout(&self.server, CONNECT_MAX) else {
            return forget(&client);
        };
        for stream in [&client, &server] {
            // Linux gives a connection of a listener that does not block one that does.
            let set = stream
                .set_nonblocking(false)
                .and_then(|()| stream.set_nodelay(true))
                .and_then(|()| stream.set_read_timeout(Some(LOOK)))
                .and_then(|()| stream.set_write_timeout(Some(LOOK)));
            if set.is_err() {
                return;
            }
        }
        let pair = Pair { client, server, reset: AtomicBool::new(false) };
        std::thread::scope(|scope| {
            scope.spawn(|| self.carry(&pair, Direction::Request));
            self.carry(&pair, Direction::Answer);
        });
        if pair.reset.load(Ordering::SeqCst) {
            forget(&pair.client);
            forget(&pair.server);
        }
    }

    /// Carries one direction until its end. What ends otherwise than by an end of file is reset on both sides.
    fn carry(&self, pair: &Pair, direction: Direction) {
        let (mut from, mut to) = match direction {
            Direction::Request => (&pair.client, &pair.server),
            Direction::Answer => (&pair.server, &pair.client),
        };
        let mut buffer = vec![0; BUFFER_BYTES];
        let (mut change, mut carried) = (0, 0);
        while !self.is_over(pair) {
            let read = match from.read(&mut buffer) {
                Ok(0) => {
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(read) => read,
                Err(error) if is_pause(&error) => {
                    if self.mode() == Mode::Cut {
                        break;
                    }
                    continue;
                }
                Err(_) => break,
            };
            let now = self.change.load(Ordering::SeqCst);
            if now != change {
                (change, carried) = (now, 0);
            }
            let allowed = self.allowed(pair, direction, carried, read);
            if self.deliver(pair, &mut to, &buffer[..allowed]).is_none() || allowed < read {
                break;
            }
            carried += allowed as u64;
        }
        pair.reset.store(true, Ordering::SeqCst);
    }

    /// How many of these bytes come through; waits as long as none may.
    fn allowed(&self, pair: &Pair, direction: Direction, carried: u64, read: usize) -> usize {
        loop {
            let limit = match (self.mode(), direction) {
                (Mode::Hang, _) | (Mode::HoldAnswers, Direction::Answer) => {
                    if self.is_over(pair) {
                        return 0;
                    }
                    std::thread::sleep(LOOK / 5);
                    continue;
                }
                (Mode::Cut, _) => 0,
                (Mode::Delay(by), _) => {
                    std::thread::sleep(by);
                    u64::MAX
                }
                (Mode::CutAnswer { after }, Direction::Answer)
                | (Mode::CutRequest { after }, Direction::Request) => after.saturating_sub(carried),
                _ => u64::MAX,
            };
            return read.min(usize::try_from(limit).unwrap_or(usize::MAX));
        }
    }

    /// Writes all, also to one that reads slowly or not at all for a while.
    fn deliver(&self, pair: &Pair, to: &mut &TcpStream, mut bytes: &[u8]) -> Option<()> {
        while !bytes.is_empty() {
            if self.is_over(pair) || self.mode() == Mode::Cut {
                return None;
            }
            match to.write(bytes) {
                Ok(0) => return None,
                Ok(written) => bytes = &bytes[written..],
                Err(error) if is_pause(&error) => {}
                Err(_) => return None,
            }
        }
        Some(())
    }
}

fn is_pause(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// The last close of this socket will be a reset, which is what a broken network looks like.
fn forget(stream: &TcpStream) {
    // Where it fails the connection ends more politely, which is broken enough.
    let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers each byte with ten.
    fn server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a client");
                let mut byte = [0];
                while matches!(stream.read(&mut byte), Ok(1)) && stream.write_all(&[byte[0]; 10]).is_ok() {}
            }
        });
        address
    }

    fn client(proxy: &Proxy) -> TcpStream {
        let client = TcpStream::connect(proxy.address()).expect("a connection");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        client
    }

    fn ask(mut client: &TcpStream) -> std::io::Result<Vec<u8>> {
        client.write_all(b"a")?;
        let mut answer = [0; 10];
        client.read_exact(&mut answer).map(|()| answer.to_vec())
    }

    #[test]
    fn bytes_pass_until_the_network_is_cut_and_again_after() {
        let proxy = Proxy::to(server()).expect("a proxy");
        let first = client(&proxy);
        assert_eq!(ask(&first).expect("an answer"), [b'a'; 10]);
        proxy.set(Mode::Cut);
        let error = ask(&first).and_then(|_| ask(&first)).expect_err("it is cut");
        assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
        proxy.set(Mode::Pass);
        assert_eq!(ask(&client(&proxy)).expect("an answer"), [b'a'; 10]);
    }

    #[test]
    fn a_request_goes_through_whose_answer_is_cut() {
        let proxy = Proxy::to(server()).expect("a proxy");
        let first = client(&proxy);
        assert!(ask(&first).is_ok());
        proxy.set(Mode::CutAnswer { after: 3 });
        (&first).write_all(b"b").expect("the request goes through");
        let mut answer = Vec::new();
        let error = (&first).read_to_end(&mut answer).expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!(answer.len() <= 3, "{answer:?}");
    }

    #[test]
    fn a_hung_network_holds_the_bytes_and_gives_them_later() {
        let proxy = Proxy::to(server()).expect("a proxy");
        let first = client(&proxy);
        assert!(ask(&first).is_ok());
        proxy.set(Mode::Hang);
        (&first).write_all(b"c").expect("the socket takes it");
        first.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        assert!(is_pause(&(&first).read(&mut [0; 10]).expect_err("nothing comes")));
        proxy.set(Mode::Pass);
        first.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let mut answer = [0; 10];
        (&first).read_exact(&mut answer).expect("the answer");
        assert_eq!(answer, [b'c'; 10]);
    }
}
