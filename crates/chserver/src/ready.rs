use std::io::{self, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::arguments::Arguments;

/// Prints the ready line once both ports accept. The thread ends then, or with the process.
pub(crate) fn announce_when_ready(arguments: &Arguments) -> io::Result<()> {
    let (http, tcp) = (arguments.http(), arguments.tcp());
    thread::Builder::new().name("ready".into()).spawn(move || {
        // The native port is opened last, so both are open when it accepts.
        while TcpStream::connect(tcp).is_err() {
            thread::sleep(Duration::from_millis(20));
        }
        let line = format!("ready http=http://{http} tcp={tcp} pid={}\n", std::process::id());
        let mut out = io::stdout().lock();
        // Nobody may be reading; the server serves all the same.
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    })?;
    Ok(())
}
