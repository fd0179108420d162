//! What an interrupted `cargo test` leaves behind.
//!
//! A signal ends cargo and the test programs at once, and then nobody is left to stop the servers that the tests had
//! started. So this process adopts what its descendants orphan, and ends that too.

use std::collections::HashSet;

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};

/// An orphan that ends may leave orphans of its own.
const ROUNDS_MAX: u32 = 10;

/// The children of this process at one moment.
#[derive(Debug)]
pub(crate) struct Children(HashSet<Pid>);

impl Children {
    /// Those of now. From here on orphans of descendants become our children.
    pub(crate) fn adopting() -> Self {
        // Where the kernel refuses, orphans go to init, as ever.
        let _ = set_child_subreaper(Some(getpid()));
        Self(children())
    }

    /// Ends every child that came later. To be called where only orphans can have come.
    pub(crate) fn end_later_ones(&self) {
        for _ in 0..ROUNDS_MAX {
            let later: Vec<Pid> = children().difference(&self.0).copied().collect();
            if later.is_empty() {
                return;
            }
            for pid in later {
                eprintln!("    ending process {pid}, which nobody looks after any more");
                // There is nobody to tell: it has ended by itself then.
                let _ = kill_process(pid, Signal::KILL);
                let _ = waitpid(Some(pid), WaitOptions::empty());
            }
        }
    }
}

fn children() -> HashSet<Pid> {
    let us = getpid();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    processes
        .filter(|process| {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
            stat.is_ok_and(|stat| parent(&stat) == Some(us))
        })
        .filter_map(Pid::from_raw)
        .collect()
}

/// From `/proc/PID/stat`: the second field after the name, which stands in parentheses and may hold anything.
fn parent(stat: &str) -> Option<Pid> {
    let fields = stat.get(stat.rfind(')')? + 1..)?;
    let parent = fields.split_ascii_whitespace().nth(1)?;
    Pid::from_raw(parent.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read_past_odd_names() {
        assert_eq!(parent("7 (a) b (c) S 12 7 7"), Pid::from_raw(12));
        assert_eq!(parent("7 (a"), None);
    }

    #[test]
    fn a_child_is_seen_while_it_lives() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let pid = Pid::from_child(&child);
        assert!(children().contains(&pid));
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert!(!children().contains(&pid));
    }
}
