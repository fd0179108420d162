//! Fetching Kafka and ClickHouse's engine into the user's cache.
//!
//! The cache is `FLEETPULSE_CACHE`, or `fleetpulse` in `XDG_CACHE_HOME` or in `~/.cache`. In it, each thing has
//! a folder named by version and by the hash of its lock file, so that another pin is another folder.
//!
//! A folder appears by one rename, after everything in it was checked: an interrupted fetch leaves only a
//! `.partial` folder, which the next one removes. Callers in any number of processes wait for each other on a
//! file lock, and the later ones find what the first one fetched. What stands in the cache is not checked again.

mod integrity;
mod maven;
mod npm;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};

pub use integrity::LockError;

use crate::folder;

/// The folder that fetched things are kept in.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// Why something could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No folder to keep it in.
    #[error("no cache folder: set FLEETPULSE_CACHE, or HOME")]
    NoCache,
    /// A file or folder of the cache could not be handled.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried: a verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The program that downloads could not be started.
    #[error("cannot start {program}: {source}; install it, `devstack::packages` and `cargo xtask` know how")]
    Program {
        /// Its name.
        program: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The program that downloads failed.
    #[error("`{command}` failed ({status}); it said:\n{tail}")]
    Download {
        /// What was run.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of its output.
        tail: String,
    },
    /// What came is not what the lock file pins, or the lock file is wrong.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The archive came whole, but does not hold what it should.
    #[error("{archive} holds no {file}")]
    NotInArchive {
        /// Name of the package.
        archive: String,
        /// What was looked for.
        file: &'static str,
    },
}

impl FetchError {
    fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { what, path: path.into(), source }
    }
}

impl Cache {
    /// The user's cache.
    ///
    /// # Errors
    /// Where neither `FLEETPULSE_CACHE` nor `XDG_CACHE_HOME` nor `HOME` is set.
    pub fn of_user() -> Result<Self, FetchError> {
        let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = folder("FLEETPULSE_CACHE")
            .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("fleetpulse")))
            .or_else(|| folder("HOME").map(|home| home.join(".cache/fleetpulse")));
        root.map(Self::at).ok_or(FetchError::NoCache)
    }

    /// A cache in this folder, which is made when something is fetched.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder with Kafka's jars; fetched by Maven (some 10 to 60 seconds) where it is not there.
    ///
    /// # Errors
    /// Where Maven fails, or a jar is missing, extra or different from the lock file.
    pub fn kafka_jars(&self) -> Result<PathBuf, FetchError> {
        self.get(&maven::folder_name(), maven::fetch)
    }

    /// ClickHouse's engine, `libchdb.so`; fetched through npm (178 MB, some 20 seconds and the way of the
    /// network) where it is not there.
    ///
    /// # Errors
    /// Where npm fails, the package is not the pinned one, or this platform has none.
    pub fn clickhouse_library(&self) -> Result<PathBuf, FetchError> {
        let pin = npm::pin_of_this_platform()?;
        let folder = self.get(&pin.folder_name(), |folder| npm::fetch(&pin, folder))?;
        Ok(folder.join(npm::LIBRARY))
    }

    /// The folder of this name, filled by `fill` where it is not there.
    fn get(
        &self,
        name: &str,
        fill: impl FnOnce(&Path) -> Result<(), FetchError>,
    ) -> Result<PathBuf, FetchError> {
        let folder = self.root.join(name);
        if folder.is_dir() {
            return Ok(folder);
        }
        fs::create_dir_all(&self.root).map_err(FetchError::file("make the folder", &self.root))?;
        // Held until the file is closed: also when this process is killed.
        let lock = self.root.join(format!("{name}.lock"));
        let lock_file = File::create(&lock).map_err(FetchError::file("make", &lock))?;
        lock_file.lock().map_err(FetchError::file("lock", &lock))?;
        if folder.is_dir() {
            return Ok(folder);
        }
        let partial = self.root.join(format!("{name}.partial"));
        remove_folder(&partial)?;
        fs::create_dir(&partial).map_err(FetchError::file("make the folder", &partial))?;
        match fill(&partial) {
            Ok(()) => fs::rename(&partial, &folder).map_err(FetchError::file("move into place", &folder))?,
            Err(error) => {
                // The first error is the one to tell.
                let _ = remove_folder(&partial);
                return Err(error);
            }
        }
        Ok(folder)
    }
}

fn remove_folder(folder: &Path) -> Result<(), FetchError> {
    folder::remove(folder).map_err(FetchError::file("remove", folder))
}

/// A progress bar on standard error; without a terminal it draws nothing, and one line says what happens.
fn progress(what: &str, length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if bar.is_hidden() {
        eprintln!("{what}");
    }
    // A template is a constant of ours: a wrong one falls back to indicatif's own.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.with_message(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_fetch_leaves_nothing_and_the_next_one_succeeds() {
        let root = std::env::temp_dir().join(format!("devstack-cache-{}", std::process::id()));
        let cache = Cache::at(&root);
        let failed = cache.get("thing", |folder| {
            fs::write(folder.join("half"), "x").map_err(FetchError::file("write", folder))?;
            Err(FetchError::NoCache)
        });
        assert!(failed.is_err());
        assert!(!root.join("thing").exists() && !root.join("thing.partial").exists());

        fs::create_dir(root.join("thing.partial")).expect("as a killed process leaves it");
        let folder = cache.get("thing", |_| Ok(())).expect("fetched");
        assert!(folder.is_dir() && !root.join("thing.partial").exists());
        cache.get("thing", |_| panic!("it is there already")).expect("kept");
        fs::remove_dir_all(&root).expect("cleaned up");
    }

    #[test]
    fn a_bad_checksum_is_refused_and_leaves_nothing_behind() {
        let root = std::env::temp_dir().join(format!("devstack-bad-{}", std::process::id()));
        let lock = format!("{}  a.jar\n", "0".repeat(64));
        let lock = integrity::FolderLock::parse("test.lock", &lock).expect("a lock");
        let fetched = Cache::at(&root).get("thing", |folder| {
            fs::write(folder.join("a.jar"), "not what was pinned")
                .map_err(FetchError::file("write", folder))?;
            Ok(lock.check(folder)?)
        });
        let error = fetched.expect_err("another checksum").to_string();
        assert!(error.contains("a.jar has another checksum"), "{error}");
        let left: Vec<_> = fs::read_dir(&root).expect("the cache").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["thing.lock"]);
        fs::remove_dir_all(&root).expect("cleaned up");
    }

    #[test]
    fn many_callers_fetch_once() {
        let root = std::env::temp_dir().join(format!("devstack-race-{}", std::process::id()));
        let fetches = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let fill = |_: &Path| {
                        fetches.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        Ok(())
                    };
                    Cache::at(&root).get("thing", fill).expect("fetched");
                });
            }
        });
        assert_eq!(fetches.into_inner(), 1);
        fs::remove_dir_all(&root).expect("cleaned up");
    }
}
