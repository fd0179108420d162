use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::pipe::{PipeFlags, pipe_with};

/// Signals that ask the server to stop.
const STOP: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// Standard input as a pipe whose other end a signal closes: that ends the engine's blocking statement.
pub(crate) struct StopPipe {
    asked: Arc<AtomicBool>,
}

impl StopPipe {
    /// Blocks the stop signals in this thread and in all made later, and gives them to one thread that waits for
    /// them. So no handler runs in the middle of the engine, whatever handlers it installs.
    pub(crate) fn install() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::stdio::dup2_stdin(&read)?;
        let signals = block(&STOP)?;
        let asked = Arc::new(AtomicBool::new(false));
        let pipe = Self { asked: asked.clone() };
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || wait_for_stop(&signals, write, &asked))?;
        Ok(pipe)
    }

    /// Whether a signal asked for the stop: an engine that returns without one has failed.
    pub(crate) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }
}

fn wait_for_stop(signals: &libc::sigset_t, write: OwnedFd, asked: &AtomicBool) {
    let mut write = Some(write);
    loop {
        let mut signal = 0;
        // SAFETY: both pointers are to live values of the right type for the whole call.
        if unsafe { libc::sigwait(signals, &raw mut signal) } != 0 {
            continue;
        }
        asked.store(true, Ordering::Release);
        match write.take() {
            Some(write) => {
                eprintln!("chserver: signal {signal}: stopping");
                drop(write);
            }
            None => crate::engine::exit_at_once(128 | u8::try_from(signal).unwrap_or(0)),
        }
    }
}

fn block(signals: &[libc::c_int]) -> io::Result<libc::sigset_t> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` writes a whole set to the pointer, which is to room for one.
    if unsafe { libc::sigemptyset(set.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: initialised by `sigemptyset`, which succeeded.
    let mut set: libc::sigset_t = unsafe { set.assume_init() };
    for &signal in signals {
        // SAFETY: the pointer is to an initialised set that nobody else uses.
        if unsafe { libc::sigaddset(&raw mut set, signal) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: reads an initialised set; a null third pointer says that the old mask is not wanted.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(set),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
