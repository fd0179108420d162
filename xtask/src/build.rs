//! The workspace, and cargo run in it.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use cargo_metadata::{Metadata, MetadataCommand};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::orphans::Children;
use crate::stop::Stop;

/// How often a running cargo is looked at.
const POLL: Duration = Duration::from_millis(20);
/// How long cargo and what it runs may take to end when asked to.
const END_MAX: Duration = Duration::from_secs(10);

/// A workspace on disk.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub root: PathBuf,
    target: PathBuf,
}

/// What a build is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
}

/// What a build made.
#[derive(Debug)]
pub(crate) struct Programs {
    pub fleetpulse: PathBuf,
    pub chserver: PathBuf,
}

impl Workspace {
    /// The workspace that this program was run from.
    pub(crate) fn find() -> anyhow::Result<Self> {
        Ok(Self::of(&metadata()?))
    }

    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            root: metadata.workspace_root.clone().into(),
            target: metadata.target_directory.clone().into(),
        }
    }

    /// Builds `fleetpulse` and, where it is wanted, the launcher of ClickHouse's engine.
    pub(crate) fn build(&self, profile: Profile, chserver: bool, stop: &Stop) -> anyhow::Result<Programs> {
        let mut arguments = vec!["build", "-p", "fleetpulse"];
        if chserver {
            arguments.extend(["-p", "chserver"]);
        }
        let folder = match profile {
            Profile::Dev => "debug",
            Profile::Release => {
                arguments.insert(1, "--release");
                "release"
            }
        };
        self.cargo(&arguments, &[], stop)?;
        let folder = self.target.join(folder);
        Ok(Programs { fleetpulse: folder.join("fleetpulse"), chserver: folder.join("chserver") })
    }

    /// Builds the launcher of ClickHouse's engine alone, where it is wanted, and says where it stands.
    pub(crate) fn build_launcher(&self, wanted: bool, stop: &Stop) -> anyhow::Result<PathBuf> {
        if wanted {
            self.cargo(&["build", "--release", "-p", "chserver"], &[], stop)?;
        }
        Ok(self.target.join("release").join("chserver"))
    }

    /// Runs cargo, its output on ours.
    ///
    /// # Errors
    /// Where it fails, or where somebody asked to stop: then cargo and all it runs are ended first.
    pub(crate) fn cargo(
        &self,
        arguments: &[&str],
        environment: &[(&str, &str)],
        stop: &Stop,
    ) -> anyhow::Result<()> {
        let line = format!("cargo {}", arguments.join(" "));
        eprintln!("+ {line}");
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments).envs(environment.iter().copied()).current_dir(&self.root);
        let children = Children::adopting();
        let mut child = Group::spawn(&mut command).with_context(|| format!("cannot start `{line}`"))?;
        loop {
            if let Some(status) = child.0.try_wait().with_context(|| format!("cannot wait for `{line}`"))? {
                if !status.success() {
                    bail!("`{line}` failed ({status}): its output stands above");
                }
                return Ok(());
            }
            if let Err(interrupted) = stop.check() {
                drop(child);
                children.end_later_ones();
                return Err(interrupted.into());
            }
            std::thread::sleep(POLL);
        }
    }
}

/// What cargo says about the workspace.
pub(crate) fn metadata() -> anyhow::Result<Metadata> {
    let mut command = MetadataCommand::new();
    // Set by `cargo run`: so the commands work from any folder of the workspace.
    if let Some(folder) = std::env::var_os("CARGO_MANIFEST_DIR") {
        command.manifest_path(Path::new(&folder).join("Cargo.toml"));
    }
    command.no_deps().exec().context("cannot read the workspace with `cargo metadata`")
}

/// A command with a process group of its own, all of which ends when this is dropped.
struct Group(Child);

impl Group {
    fn spawn(command: &mut Command) -> std::io::Result<Self> {
        command.stdin(Stdio::null()).process_group(0).spawn().map(Self)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        let group = Pid::from_child(&self.0);
        // There is nobody left to tell of an error.
        let _ = kill_process_group(group, Signal::TERM);
        let end = Instant::now() + END_MAX;
        while Instant::now() < end {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(POLL);
        }
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.0.wait();
    }
}
