use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256, Sha512};

/// Why a download is not taken, or a lock file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// A line is not as it should be.
    #[error("{file}, line {line}: expected {expected}")]
    Line {
        /// Which lock file.
        file: &'static str,
        /// Which line, from 1.
        line: usize,
        /// What should stand there.
        expected: &'static str,
    },
    /// The lock file has nothing for this machine.
    #[error(
        "{file} pins nothing for {platform}: install a `clickhouse` binary there, or use a server elsewhere"
    )]
    Platform {
        /// Which lock file.
        file: &'static str,
        /// This machine.
        platform: String,
    },
    /// Files differ from what is pinned.
    #[error("the download differs from {file}, so it was thrown away: {differences}")]
    Files {
        /// Which lock file.
        file: &'static str,
        /// What is missing, extra or different.
        differences: String,
    },
    /// A file could not be read back.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Files of one folder, by name, each with its SHA-256 in lower-case hex: the format of `sha256sum`.
#[derive(Debug)]
pub(super) struct FolderLock {
    file: &'static str,
    sums: BTreeMap<String, String>,
}

impl FolderLock {
    /// Parses a lock file; `file` names it in errors.
    pub(super) fn parse(file: &'static str, text: &str) -> Result<Self, LockError> {
        let mut sums = BTreeMap::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !is_comment(line)) {
            let wrong = |expected| LockError::Line { file, line: index + 1, expected };
            let (sum, name) = line.split_once("  ").ok_or_else(|| wrong("`SHA256  NAME`"))?;
            if sum.len() != 64 || !sum.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(wrong("a SHA-256 of 64 lower-case hex digits"));
            }
            if name.is_empty() || name.contains('/') {
                return Err(wrong("the name of a file in one folder"));
            }
            if sums.insert(name.to_owned(), sum.to_owned()).is_some() {
                return Err(wrong("each name once"));
            }
        }
        Ok(Self { file, sums })
    }

    /// How many files are pinned.
    pub(super) fn len(&self) -> usize {
        self.sums.len()
    }

    /// Whether this is one of the files.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.sums.contains_key(name)
    }

    /// Compares a folder with the lock: the same names, the same bytes, nothing else.
    pub(super) fn check(&self, folder: &Path) -> Result<(), LockError> {
        let read = |path: &Path, source| LockError::Read { path: path.into(), source };
        let mut differences = Vec::new();
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(folder).map_err(|error| read(folder, error))? {
            let path = entry.map_err(|error| read(folder, error))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            found.insert(name, path);
        }
        for (name, sum) in &self.sums {
            match found.remove(name) {
                None => differences.push(format!("{name} is missing")),
                Some(path) => {
                    let is = digest::<Sha256>(&path).map_err(|error| read(&path, error))?;
                    if hex(&is) != *sum {
                        differences.push(format!("{name} has another checksum"));
                    }
                }
            }
        }
        differences.extend(found.into_keys().map(|name| format!("{name} is extra")));
        if differences.is_empty() {
            return Ok(());
        }
        Err(LockError::Files { file: self.file, differences: differences.join(", ") })
    }
}

/// Checks one file against a subresource integrity text, `sha512-BASE64`.
pub(super) fn check_sha512(lock: &'static str, integrity: &str, path: &Path) -> Result<(), LockError> {
    let is = digest::<Sha512>(path).map_err(|source| LockError::Read { path: path.into(), source })?;
    let is = format!("sha512-{}", BASE64_STANDARD.encode(is));
    if is == integrity {
        return Ok(());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Err(LockError::Files { file: lock, differences: format!("{name} is {is} and should be {integrity}") })
}

/// Short name of a text: another pin is another folder.
pub(super) fn short_hash(text: &str) -> String {
    hex(&Sha256::digest(text))[..12].to_owned()
}

pub(super) fn is_comment(line: &str) -> bool {
    line.trim().is_empty() || line.starts_with('#')
}

fn digest<D: Digest>(path: &Path) -> io::Result<Vec<u8>> {
    let mut digest = D::new();
    let mut reader = BufReader::with_capacity(1 << 16, File::open(path)?);
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Ok(digest.finalize().to_vec());
        }
        digest.update(bytes);
        let length = bytes.len();
        reader.consume(length);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "test.lock";
    /// SHA-256 of "a".
    const A: &str = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";

    fn folder(test: &str, files: &[(&str, &str)]) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("devstack-{}-{test}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        for (name, text) in files {
            fs::write(folder.join(name), text).expect("a file");
        }
        folder
    }

    #[test]
    fn a_lock_says_which_line_is_wrong() {
        for (text, expected) in [
            ("# c\n\nabc", "`SHA256  NAME`"),
            ("#\n#\nabc  x.jar", "64 lower-case hex"),
            (&format!("#\n\n{A}  ../x.jar"), "in one folder"),
            (&format!("#\n{A}  x.jar\n{A}  x.jar"), "each name once"),
        ] {
            let error = FolderLock::parse(FILE, text).expect_err(text).to_string();
            assert!(error.starts_with("test.lock, line 3: ") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn missing_extra_and_different_files_are_all_told() {
        let lock = format!("{A}  same\n{A}  different\n{A}  missing\n");
        let lock = FolderLock::parse(FILE, &lock).expect("a lock");
        let folder = folder("files", &[("same", "a"), ("different", "b"), ("extra", "a")]);
        let error = lock.check(&folder).expect_err("it differs").to_string();
        let wanted = "the download differs from test.lock, so it was thrown away: \
                      different has another checksum, missing is missing, extra is extra";
        assert_eq!(error, wanted);
        fs::remove_dir_all(folder).expect("cleaned up");
    }

    #[test]
    fn an_integrity_text_is_the_hash_of_the_bytes() {
        let folder = folder("integrity", &[("file", "a")]);
        let path = folder.join("file");
        // From another tool: printf a | openssl dgst -sha512 -binary | base64
        let right = "sha512-H0D8ktokFpR1CXnubPWC8tXX0o4YM13gWrxU0FYOD1MC\
                     hgxlK/CNVgJSql50IQVG82n7u86MEs/HlXsmUv6adQ==";
        check_sha512(FILE, right, &path).expect("the same bytes");
        let told = check_sha512(FILE, "sha512-AAAA", &path).expect_err("other bytes").to_string();
        assert!(told.ends_with(&format!("file is {right} and should be sha512-AAAA")), "{told}");
        fs::remove_dir_all(folder).expect("cleaned up");
    }
}
