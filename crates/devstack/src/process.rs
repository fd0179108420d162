//! A child process that a test can hang, resume, kill and measure.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// How often a wait looks again. Exit is not signalled to std, and 5 ms are little beside any process's life.
const POLL: Duration = Duration::from_millis(5);

/// How long threads may take to stand still. They do at once, unless the disk holds one of them.
const STANDSTILL_MAX: Duration = Duration::from_secs(10);

/// How much of a log's end is read for its last lines.
const TAIL_BYTES_MAX: u64 = 64 << 10;

/// A running or ended child process, whose standard output and error go to a log file.
///
/// It is the leader of a process group of its own: signals of the terminal do not reach it. Dropping it kills
/// and reaps it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

/// Why something could not be done with a process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Its program could not be started.
    #[error("cannot start {name} ({}): {source}", program.display())]
    Spawn {
        /// Name of the process.
        name: String,
        /// What was started.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Its log could not be opened.
    #[error("cannot write the log of {name} at {}: {source}", log.display())]
    Log {
        /// Name of the process.
        name: String,
        /// The log file.
        log: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It has ended, so it takes no signals and has no figures.
    #[error("{name} has ended: {status}")]
    Ended {
        /// Name of the process.
        name: String,
        /// How.
        status: ExitStatus,
    },
    /// The operating system refused.
    #[error("cannot {what} {name} (pid {pid}): {source}")]
    System {
        /// Name of the process.
        name: String,
        /// Its id.
        pid: u32,
        /// What was tried: a verb.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl Process {
    /// Starts a program. `name` stands in errors; the log file is appended to, and its folder made.
    ///
    /// Standard input is empty.
    ///
    /// # Errors
    /// Where the log cannot be written or the program cannot be started.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self, ProcessError> {
        let failed = |source| ProcessError::Log { name: name.into(), log: log.into(), source };
        if let Some(folder) = log.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let out = File::options().create(true).append(true).open(log).map_err(failed)?;
        let err = out.try_clone().map_err(failed)?;
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0).spawn().map_err(
            |source| ProcessError::Spawn { name: name.into(), program: command.get_program().into(), source },
        )?;
        Ok(Self { name: name.into(), child, log: log.into(), ended: None })
    }

    /// Its id. It is not given to another process before this value is dropped or the end was seen.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The name that it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Whether it has not ended. A hung process runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.exit_status(), Ok(None))
    }

    /// How it ended, or `None` while it runs. Does not block.
    ///
    /// # Errors
    /// Where the operating system does not tell.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>, ProcessError> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().map_err(|source| self.system("ask after", source))?;
        }
        Ok(self.ended)
    }

    /// Waits for its end, at most as long as told; `None` where it still runs then.
    ///
    /// # Errors
    /// Where the operating system does not tell.
    pub fn wait_exit(&mut self, deadline: Duration) -> Result<Option<ExitStatus>, ProcessError> {
        let end = Instant::now() + deadline;
        loop {
            match self.exit_status()? {
                None if Instant::now() < end => thread::sleep(POLL),
                answer => return Ok(answer),
            }
        }
    }

    /// Asks it to stop (SIGTERM) and returns at once. A hung process is resumed, or it could not stop in order.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn ask_to_stop(&mut self) -> Result<(), ProcessError> {
        self.signal("stop", Signal::TERM)?;
        match self.signal("resume", Signal::CONT) {
            // It was quick.
            Err(ProcessError::Ended { .. }) => Ok(()),
            outcome => outcome,
        }
    }

    /// Asks it to stop, waits at most as long as told, then kills. Returns how it ended, so whoever must know
    /// whether it stopped in order looks at `status.success()`. One that has ended already is no error.
    ///
    /// # Errors
    /// Where the operating system refuses.
    pub fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus, ProcessError> {
        if self.exit_status()?.is_none() {
            self.ask_to_stop()?;
        }
        match self.wait_exit(deadline)? {
            Some(status) => Ok(status),
            None => self.kill(),
        }
    }

    /// Ends it at once (SIGKILL) and reaps it. One that has ended already is no error.
    ///
    /// # Errors
    /// Where the operating system refuses.
    pub fn kill(&mut self) -> Result<ExitStatus, ProcessError> {
        if let Some(status) = self.exit_status()? {
            return Ok(status);
        }
        self.child.kill().map_err(|source| self.system("kill", source))?;
        let status = self.child.wait().map_err(|source| self.system("wait for", source))?;
        self.ended = Some(status);
        Ok(status)
    }

    /// Hangs it (SIGSTOP): its connections stay open, and nothing answers. Returns when all its threads stand
    /// still, since the signal itself returns earlier and a request could still slip through.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn hang(&mut self) -> Result<(), ProcessError> {
        self.signal("hang", Signal::STOP)?;
        let pid = WaitId::Pid(Pid::from_child(&self.child));
        // Only looked at, not taken: so a second hang sees it too.
        let look = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let end = Instant::now() + STANDSTILL_MAX;
        loop {
            match waitid(pid.clone(), look) {
                Ok(Some(_)) => return Ok(()),
                Err(error) => return Err(self.system("hang", error.into())),
                Ok(None) if Instant::now() >= end => {
                    return Err(self.system("hang", io::ErrorKind::TimedOut.into()));
                }
                Ok(None) => {}
            }
            if let Some(status) = self.exit_status()? {
                return Err(ProcessError::Ended { name: self.name.clone(), status });
            }
            thread::sleep(POLL);
        }
    }

    /// Lets a hung process go on (SIGCONT).
    ///
    /// # Errors
    /// Where it has ended.
    pub fn resume(&mut self) -> Result<(), ProcessError> {
        self.signal("resume", Signal::CONT)
    }

    /// Processor time that it has used since its start, user and system, all threads. Resolution: the kernel's
    /// clock tick, 10 ms on most machines.
    ///
    /// # Errors
    /// Where it has ended, or the kernel's text cannot be read.
    pub fn cpu_time(&mut self) -> Result<Duration, ProcessError> {
        let stat = self.proc("stat")?;
        let ticks =
            parse_cpu_ticks(&stat).ok_or_else(|| self.system("read the CPU time of", unreadable()))?;
        Ok(Duration::from_millis(ticks.saturating_mul(1000) / rustix::param::clock_ticks_per_second().max(1)))
    }

    /// Memory that it holds now (resident set), in bytes.
    ///
    /// # Errors
    /// Where it has ended, or the kernel's text cannot be read.
    pub fn resident_bytes(&mut self) -> Result<u64, ProcessError> {
        let status = self.proc("status")?;
        parse_resident_bytes(&status).ok_or_else(|| self.system("read the memory of", unreadable()))
    }

    /// The last lines of its log, at most as many as told, without the bytes that are not UTF-8. Empty where the
    /// log cannot be read: this is for the text of an error that is on its way already.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = read_end(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn signal(&mut self, what: &'static str, signal: Signal) -> Result<(), ProcessError> {
        // Asked first, since the id of a reaped process may be another's.
        if let Some(status) = self.exit_status()? {
            return Err(ProcessError::Ended { name: self.name.clone(), status });
        }
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).map_err(|error| self.system(what, error.into()))
    }

    fn proc(&mut self, file: &str) -> Result<String, ProcessError> {
        if let Some(status) = self.exit_status()? {
            return Err(ProcessError::Ended { name: self.name.clone(), status });
        }
        fs::read_to_string(format!("/proc/{}/{file}", self.pid()))
            .map_err(|source| self.system("measure", source))
    }

    fn system(&self, what: &'static str, source: io::Error) -> ProcessError {
        ProcessError::System { name: self.name.clone(), pid: self.pid(), what, source }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = self.kill();
    }
}

fn unreadable() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's text is not as expected")
}

/// User and system ticks from `/proc/PID/stat`. The program's name, the second field, may hold blanks and
/// parentheses, so fields are counted from the last one: the 12th and 13th after it (proc(5): 14 and 15).
fn parse_cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// `VmRSS` from `/proc/PID/status`, where "kB" are KiB.
fn parse_resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn read_end(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES_MAX)))?;
    let mut text = Vec::new();
    file.take(TAIL_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(test: &str) -> PathBuf {
        std::env::temp_dir().join(format!("devstack-{}-{test}.log", std::process::id()))
    }

    fn shell(test: &str, script: &str) -> Process {
        Process::spawn(test, Command::new("sh").args(["-c", script]), &log(test)).expect("a shell")
    }

    #[test]
    fn a_hung_process_still_stops_in_order() {
        let mut process = shell("hung", "trap 'exit 7' TERM; echo armed; while :; do sleep 0.01; done");
        let end = Instant::now() + Duration::from_secs(10);
        while process.log_tail(1) != "armed" {
            assert!(Instant::now() < end, "the shell never came up");
            thread::yield_now();
        }
        process.hang().expect("hang");
        let status = process.terminate(Duration::from_secs(10)).expect("terminate");
        assert_eq!(status.code(), Some(7));
        assert!(matches!(process.hang(), Err(ProcessError::Ended { .. })));
        fs::remove_file(log("hung")).expect("the log");
    }

    #[test]
    fn a_process_that_ignores_the_request_is_killed_at_the_deadline() {
        let mut process = shell("deaf", "trap '' TERM; while :; do sleep 0.01; done");
        assert_eq!(process.wait_exit(Duration::from_millis(50)).expect("wait"), None);
        assert!(process.is_running());
        assert!(process.resident_bytes().expect("memory") > 0);
        process.cpu_time().expect("time");
        let status = process.terminate(Duration::from_millis(50)).expect("terminate");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
        assert!(!process.is_running());
        fs::remove_file(log("deaf")).expect("the log");
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let process = shell("dropped", "while :; do sleep 0.01; done");
        let folder = format!("/proc/{}", process.pid());
        drop(process);
        assert!(!Path::new(&folder).exists());
        fs::remove_file(log("dropped")).expect("the log");
    }

    #[test]
    fn figures_of_the_kernel_are_read_past_odd_names() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 5 6 7";
        assert_eq!(parse_cpu_ticks(stat), Some(300));
        assert_eq!(parse_cpu_ticks("7 (a"), None);
        assert_eq!(parse_resident_bytes("Name:\tx\nVmRSS:\t  12 kB\n"), Some(12 * 1024));
        assert_eq!(parse_resident_bytes("VmRSS: many kB"), None);
    }
}
