//! ClickHouse's disk, and how it gets full.
//!
//! Where mounting is allowed the data stands on a small file system in memory of its own, and is full as any disk is: writes
//! fail wherever they stand. Elsewhere a setting of the tables makes inserts be refused as on a full disk.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::clickhouse::ClickHouse;

/// Enough for an hour at 1,000 heartbeats a second.
const SIZE: &str = "size=1500m";
const CHUNK_BYTES: usize = 1 << 20;
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
            Self::Own { .. } => "a file system of its own (tmpfs), filled",
            Self::Shared => "the setting min_free_disk_bytes_to_perform_insert",
        }
    }

    /// From now on nothing can be written.
    pub(crate) fn fill(&self, ask: &ClickHouse, tables: &[String]) -> anyhow::Result<()> {
        match self {
            Self::Own { folder } => {
                let mut ballast = File::create(folder.join("ballast")).context("cannot fill the disk")?;
                let mut chunk = vec![0_u8; CHUNK_BYTES];
                while !chunk.is_empty() {
                    // Smaller and smaller, to the last page.
                    if ballast.write_all(&chunk).is_err() {
                        chunk.truncate(chunk.len() / 2);
                    }
                }
                Ok(())
            }
            Self::Shared => keep_free(ask, tables, NEVER_FREE_BYTES),
        }
    }

    pub(crate) fn free(&self, ask: &ClickHouse, tables: &[String]) -> anyhow::Result<()> {
        match self {
            Self::Own { folder } => {
                std::fs::remove_file(folder.join("ballast")).context("cannot free the disk")
            }
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

fn keep_free(ask: &ClickHouse, tables: &[String], bytes: u64) -> anyhow::Result<()> {
    tables.iter().try_for_each(|table| {
        ask.run(&format!(
            "ALTER TABLE fleetpulse.{table} MODIFY SETTING min_free_disk_bytes_to_perform_insert = {bytes}"
        ))
    })
}
