//! ClickHouse's disk, and how it gets full.
//!
//! Where mounting is allowed the data stands on a file system in memory of its own, which shrinks to what stands on it. ClickHouse
//! reserves room before it writes, at least 1 MiB: a little less is left, so that nothing new begins and what is under way
//! ends. With nothing left at all, as where somebody else fills the same disk in the middle of a write, ClickHouse 26.7.2.1
//! keeps parts without marks and says nothing: that cannot be borne by anybody who inserts, and is not what is tested here.
//!
//! Elsewhere a setting of the tables makes inserts be refused as on a full disk.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::clickhouse::ClickHouse;

/// Enough for some hours at 500 heartbeats a second; what is not used costs nothing.
const SIZE: &str = "size=4g";
/// What is left once it is full, bytes: less than the 1 MiB that ClickHouse reserves.
const LEFT_BYTES: u64 = 960 << 10;
/// How often it is tried: ClickHouse may write between looking and shrinking.
const TRIES_MAX: usize = 10;
/// Until merges under way have ended.
const MERGES_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// Far more than any disk has free.
const NEVER_FREE_BYTES: u64 = 1 << 50;

/// The disk. Dropping it unmounts what was mounted: its data is gone then.
#[derive(Debug)]
pub(crate) enum Disk {
    Own { folder: PathBuf },
    Shared,
}

impl Disk {
    /// A file system of its own at this folder, where that is allowed.
    pub(crate) fn mount(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", SIZE, "fleetpulse-drill"]).arg(folder);
        match command.output() {
            Ok(output) if output.status.success() => Ok(Self::Own { folder: folder.into() }),
            _ => {
                eprintln!(
                    "    mounting is not allowed here: a setting of the tables stands in for a full disk"
                );
                Ok(Self::Shared)
            }
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Own { .. } => "a file system of its own (tmpfs) without room",
            Self::Shared => "the setting min_free_disk_bytes_to_perform_insert",
        }
    }

    /// From now on nothing can be written.
    pub(crate) fn fill(&self, ask: &ClickHouse, tables: &[String]) -> anyhow::Result<()> {
        match self {
            Self::Own { folder } => {
                // They may have reserved more than is left.
                ask.run("SYSTEM STOP MERGES")?;
                let end = Instant::now() + MERGES_MAX;
                while ask.number("SELECT count() FROM system.merges")? > 0 && Instant::now() < end {
                    std::thread::sleep(POLL);
                }
                for _ in 0..TRIES_MAX {
                    if resize(folder, &format!("size={}", used(folder)? + LEFT_BYTES))? {
                        return Ok(());
                    }
                }
                bail!("cannot fill the disk at {}", folder.display())
            }
            Self::Shared => keep_free(ask, tables, NEVER_FREE_BYTES),
        }
    }

    pub(crate) fn free(&self, ask: &ClickHouse, tables: &[String]) -> anyhow::Result<()> {
        match self {
            Self::Own { folder } if resize(folder, SIZE)? => ask.run("SYSTEM START MERGES"),
            Self::Own { folder } => bail!("cannot free the disk at {}", folder.display()),
            Self::Shared => keep_free(ask, tables, 0),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Self::Own { folder } = self {
            let done = Command::new("umount").arg("--lazy").arg(&*folder).status();
            if !done.is_ok_and(|status| status.success()) {
                eprintln!("    cannot unmount {}: do it by hand", folder.display());
            }
        }
    }
}

/// Bytes that stand there.
fn used(folder: &Path) -> anyhow::Result<u64> {
    let output = Command::new("stat").args(["--file-system", "--format=%S %b %f"]).arg(folder).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<u64> = text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [block, all, free] => Ok(all.saturating_sub(free) * block),
        _ => bail!("`stat` says {text:?} of {}", folder.display()),
    }
}

/// False where that is too small.
fn resize(folder: &Path, size: &str) -> anyhow::Result<bool> {
    let output = Command::new("mount").args(["-o", &format!("remount,{size}")]).arg(folder).output()?;
    Ok(output.status.success())
}

fn keep_free(ask: &ClickHouse, tables: &[String], bytes: u64) -> anyhow::Result<()> {
    tables.iter().try_for_each(|table| {
        ask.run(&format!(
            "ALTER TABLE fleetpulse.{table} MODIFY SETTING min_free_disk_bytes_to_perform_insert = {bytes}"
        ))
    })
}
