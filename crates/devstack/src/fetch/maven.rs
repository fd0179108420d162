use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use super::integrity::{FolderLock, short_hash};
use super::{FetchError, progress};

const POM: &str = include_str!("../../../../deploy/dev/kafka/pom.xml");
const LOCK: &str = include_str!("../../../../deploy/dev/kafka/jars.lock");
const LOCK_FILE: &str = "deploy/dev/kafka/jars.lock";
/// As in the pom.
const VERSION: &str = "4.3.1";
/// How much of Maven's output stands in an error.
const TAIL_LINES: usize = 20;

/// The folder in the cache.
pub(super) fn folder_name() -> String {
    format!("kafka-{VERSION}-{}", short_hash(LOCK))
}

/// Has Maven copy Kafka's jars into a folder, and checks them.
pub(super) fn fetch(folder: &Path) -> Result<(), FetchError> {
    let lock = FolderLock::parse(LOCK_FILE, LOCK)?;
    // Outside the folder of the jars, since that may hold nothing else.
    let pom = folder.with_extension("pom.xml");
    fs::write(&pom, POM).map_err(FetchError::file("write", &pom))?;
    let done = copy_dependencies(&pom, folder, &lock);
    fs::remove_file(&pom).map_err(FetchError::file("remove", &pom))?;
    done?;
    Ok(lock.check(folder)?)
}

fn copy_dependencies(pom: &Path, folder: &Path, lock: &FolderLock) -> Result<(), FetchError> {
    let failed = |source| FetchError::Program { program: "mvn", source };
    let mut command = Command::new("mvn");
    command.args(["-B", "dependency:copy-dependencies", "-f"]).arg(pom);
    command.arg(format!("-DoutputDirectory={}", folder.display()));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed)?;

    let length = u64::try_from(lock.len()).unwrap_or_default();
    let bar = progress(
        &format!("fetching Kafka {VERSION} with Maven"),
        length,
        "{msg}  {bar:30} {pos}/{len} jars  {elapsed}",
    );
    let mut seen = BTreeSet::new();
    let mut tail = VecDeque::with_capacity(TAIL_LINES);
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = String::from_utf8_lossy(&line.map_err(failed)?).into_owned();
            if let Some(jar) = finished_jar(&line).filter(|jar| lock.contains(jar)) {
                seen.insert(jar.to_owned());
                bar.set_position(u64::try_from(seen.len()).unwrap_or(length));
            }
            if tail.len() == TAIL_LINES {
                tail.pop_front();
            }
            tail.push_back(line);
        }
    }
    let status = child.wait().map_err(failed)?;
    bar.finish_and_clear();
    if status.success() {
        return Ok(());
    }
    let tail = tail.into_iter().collect::<Vec<_>>().join("\n");
    Err(FetchError::Download { command: "mvn -B dependency:copy-dependencies".into(), status, tail })
}

/// The jar that a line of Maven's output is about: downloaded, or copied from where it was downloaded earlier.
fn finished_jar(line: &str) -> Option<&str> {
    let about = line.split_once("] ")?.1;
    let words = about.strip_prefix("Downloaded from ").or_else(|| about.strip_prefix("Copying "))?;
    words.split([' ', '/']).find(|word| word.ends_with(".jar"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_pins_the_jars_of_the_pom() {
        let lock = FolderLock::parse(LOCK_FILE, LOCK).expect("our own lock file");
        assert_eq!(lock.len(), 92);
        assert!(lock.contains(&format!("kafka_2.13-{VERSION}.jar")));
        assert!(POM.contains(&format!("<version>{VERSION}</version>")));
    }

    #[test]
    fn progress_is_read_from_what_maven_says() {
        let copied = "[INFO] Copying re2j-1.8.jar to /c/kafka/re2j-1.8.jar";
        let downloaded =
            "[INFO] Downloaded from main: https://host/com/re2j/1.8/re2j-1.8.jar (10 kB at 9 kB/s)";
        assert_eq!(finished_jar(copied), Some("re2j-1.8.jar"));
        assert_eq!(finished_jar(downloaded), Some("re2j-1.8.jar"));
        assert_eq!(finished_jar("[INFO] Downloading from main: https://host/re2j-1.8.jar"), None);
        assert_eq!(finished_jar("[INFO] Scanning for projects..."), None);
    }
}
