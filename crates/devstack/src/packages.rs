//! System packages that the project needs beside Rust: found by what they bring, installed where that may be.

use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::program::on_path;

/// Oldest Java that Kafka 4 runs on.
const JAVA_MAJOR_MIN: u32 = 17;

/// Something of the operating system that the project needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Package {
    /// A Java runtime.
    Java,
    /// Maven.
    Maven,
    /// npm.
    Npm,
    /// A C compiler.
    CCompiler,
    /// make.
    Make,
    /// Headers of zlib.
    ZlibHeaders,
    /// A C++ compiler.
    CxxCompiler,
    /// `mosquitto_pub` and `mosquitto_sub`.
    MosquittoClients,
    /// Python with `paho-mqtt`.
    PahoPython,
}

/// What building the workspace takes.
pub const BUILD: &[Package] = &[Package::CCompiler, Package::Make, Package::ZlibHeaders];
/// What running the development Kafka takes.
pub const KAFKA: &[Package] = &[Package::Java, Package::Maven];
/// What fetching ClickHouse's engine takes, on a machine without a `clickhouse` binary.
pub const CLICKHOUSE: &[Package] = &[Package::Npm];
/// What the tests take on top.
pub const TESTS: &[Package] =
    &[Package::CxxCompiler, Package::MosquittoClients, Package::PahoPython, Package::Npm];

/// Whether this process may change the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Install {
    /// Missing packages are installed, where apt-get and root are at hand.
    Allowed,
    /// Missing packages are only told.
    Forbidden,
}

/// Why packages are missing still.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// They are not there, and were not to be installed or cannot be from here.
    #[error("{}", missing_text(packages, command.as_deref()))]
    Missing {
        /// Which.
        packages: Vec<Package>,
        /// The command that installs them, where the system has apt-get.
        command: Option<String>,
    },
    /// The installation failed; its output is on standard error.
    #[error("`{command}` failed ({outcome}); its output stands above")]
    Install {
        /// What was run.
        command: String,
        /// How it ended.
        outcome: String,
    },
    /// The installation went well, and yet what was needed is not there.
    #[error("`{command}` went well, but {package} still cannot be found; it is needed {}", package.purpose())]
    StillMissing {
        /// What was run.
        command: String,
        /// What is missing.
        package: Package,
    },
}

impl Package {
    /// Its name in Debian.
    pub fn debian_name(self) -> &'static str {
        match self {
            Self::Java if apt_knows("openjdk-17-jre-headless") => "openjdk-17-jre-headless",
            Self::Java => "default-jre-headless",
            Self::Maven => "maven",
            Self::Npm => "npm",
            Self::CCompiler => "gcc",
            Self::Make => "make",
            Self::ZlibHeaders => "zlib1g-dev",
            Self::CxxCompiler => "g++",
            Self::MosquittoClients => "mosquitto-clients",
            Self::PahoPython => "python3-paho-mqtt",
        }
    }

    /// What it is for; completes "it is needed ...".
    pub fn purpose(self) -> &'static str {
        match self {
            Self::Java => "to run Kafka",
            Self::Maven => "to fetch Kafka",
            Self::Npm => "to fetch ClickHouse's engine, and an MQTT client for tests",
            Self::CCompiler | Self::Make => "to build librdkafka",
            Self::ZlibHeaders => "to build librdkafka with gzip",
            Self::CxxCompiler => "to build the fuzzer",
            Self::MosquittoClients | Self::PahoPython => "as an independent MQTT client in tests",
        }
    }

    /// Whether what it brings is there, from whatever source.
    pub fn is_present(self) -> bool {
        match self {
            Self::Java => java_major().is_some_and(|major| major >= JAVA_MAJOR_MIN),
            Self::Maven => on_path("mvn").is_some(),
            Self::Npm => on_path("npm").is_some(),
            Self::CCompiler => on_path("cc").or_else(|| on_path("gcc")).is_some(),
            Self::Make => on_path("make").is_some(),
            Self::ZlibHeaders => has_header("zlib.h"),
            Self::CxxCompiler => on_path("c++").or_else(|| on_path("g++")).is_some(),
            Self::MosquittoClients => on_path("mosquitto_pub").and(on_path("mosquitto_sub")).is_some(),
            Self::PahoPython => paho_python().is_some(),
        }
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Java => "Java 17 or newer",
            Self::Maven => "Maven (mvn)",
            Self::Npm => "npm",
            Self::CCompiler => "a C compiler (cc)",
            Self::Make => "make",
            Self::ZlibHeaders => "the headers of zlib (zlib.h)",
            Self::CxxCompiler => "a C++ compiler (c++)",
            Self::MosquittoClients => "mosquitto_pub and mosquitto_sub",
            Self::PahoPython => "Python 3 with paho-mqtt",
        })
    }
}

/// Which of these are missing.
pub fn missing(packages: &[Package]) -> Vec<Package> {
    packages.iter().copied().filter(|package| !package.is_present()).collect()
}

/// Sees to it that these are there. Prints the command that it runs to standard error.
///
/// # Errors
/// Where some are missing and may not or cannot be installed from here: the text says which, what for, and the
/// command to run.
pub fn ensure(packages: &[Package], install: Install) -> Result<(), PackageError> {
    let packages = missing(packages);
    if packages.is_empty() {
        return Ok(());
    }
    let has_apt = on_path("apt-get").is_some();
    let is_root = rustix::process::geteuid().is_root();
    if install == Install::Forbidden || !has_apt || !is_root {
        let sudo = if is_root { "" } else { "sudo " };
        let command = has_apt.then(|| format!("{sudo}{}", install_line(&packages).join(" ")));
        return Err(PackageError::Missing { packages, command });
    }
    if apt_lists_are_empty() {
        run(&update_line())?;
    }
    // Lists that are old name versions that are gone: then the second try, with new ones, gets them.
    if run(&install_line(&packages)).is_err() {
        run(&update_line())?;
        run(&install_line(&packages))?;
    }
    match missing(&packages).first() {
        None => Ok(()),
        Some(&package) => {
            Err(PackageError::StillMissing { command: install_line(&packages).join(" "), package })
        }
    }
}

fn install_line(packages: &[Package]) -> Vec<&'static str> {
    let mut line = vec!["apt-get", "install", "--yes", "--no-install-recommends"];
    line.extend(packages.iter().map(|package| package.debian_name()));
    line
}

fn update_line() -> Vec<&'static str> {
    vec!["apt-get", "update"]
}

/// Runs a command with its output on our standard error, since standard output may be read by a program.
fn run(line: &[&str]) -> Result<(), PackageError> {
    let text = line.join(" ");
    eprintln!("+ {text}");
    let failed = |outcome| Err(PackageError::Install { command: text.clone(), outcome });
    let Some((program, arguments)) = line.split_first() else {
        return Ok(());
    };
    let mut command = Command::new(program);
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    match command.stdout(std::io::stderr()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => failed(status.to_string()),
        Err(error) => failed(error.to_string()),
    }
}

fn missing_text(packages: &[Package], command: Option<&str>) -> String {
    let mut text = String::from("missing on this machine:");
    for package in packages {
        text.push_str(&format!("\n  {package}, {}", package.purpose()));
    }
    match command {
        Some(command) => text.push_str(&format!("\ninstall with: {command}")),
        None => {
            let names: Vec<_> = packages.iter().map(|package| package.debian_name()).collect();
            text.push_str("\ninstall with the system's package manager; Debian's names: ");
            text.push_str(&names.join(" "));
        }
    }
    text
}

/// A Python that knows `paho-mqtt`: the one on PATH, or the system's own, for which the system's packages are.
pub fn paho_python() -> Option<&'static str> {
    ["python3", "/usr/bin/python3"].into_iter().find(|python| {
        let mut command = Command::new(python);
        command.args(["-c", "import paho.mqtt.client"]).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    })
}

/// The major version of the `java` on PATH.
fn java_major() -> Option<u32> {
    let output = Command::new("java").arg("-version").stdin(Stdio::null()).output().ok()?;
    parse_java_major(&String::from_utf8_lossy(&output.stderr))
}

/// From a line like `openjdk version "17.0.15" 2025-04-15`; Java 8 says "1.8".
fn parse_java_major(text: &str) -> Option<u32> {
    let version = text.split("version \"").nth(1)?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Asks the compiler, which alone knows where it looks; without one, looks at the usual place.
fn has_header(header: &str) -> bool {
    let mut command = Command::new("cc");
    command.args(["-E", "-include", header, "-x", "c", "/dev/null", "-o", "/dev/null"]);
    match command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(status) => status.success(),
        Err(_) => Path::new("/usr/include").join(header).is_file(),
    }
}

fn apt_knows(name: &str) -> bool {
    let mut command = Command::new("apt-cache");
    command.args(["show", "--quiet", "--no-all-versions", name]).stdin(Stdio::null());
    command.output().is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
}

fn apt_lists_are_empty() -> bool {
    let Ok(lists) = std::fs::read_dir("/var/lib/apt/lists") else {
        return true;
    };
    !lists.flatten().any(|entry| entry.file_name().to_string_lossy().contains("Packages"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_each_package_its_purpose_and_the_command() {
        let packages = vec![Package::Maven, Package::ZlibHeaders];
        let command = Some(install_line(&packages).join(" "));
        let text = PackageError::Missing { packages: packages.clone(), command }.to_string();
        let wanted = "missing on this machine:\
                      \n  Maven (mvn), to fetch Kafka\
                      \n  the headers of zlib (zlib.h), to build librdkafka with gzip\
                      \ninstall with: apt-get install --yes --no-install-recommends maven zlib1g-dev";
        assert_eq!(text, wanted);
        let text = PackageError::Missing { packages, command: None }.to_string();
        assert!(text.ends_with("package manager; Debian's names: maven zlib1g-dev"), "{text}");
    }

    #[test]
    fn java_is_known_by_its_major_version() {
        assert_eq!(parse_java_major("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK"), Some(17));
        assert_eq!(parse_java_major("java version \"1.8.0_402\""), Some(1));
        assert_eq!(parse_java_major("openjdk version \"25\" 2025-09-16"), Some(25));
        assert_eq!(parse_java_major("command not found"), None);
    }

    #[test]
    fn nothing_is_asked_of_the_system_when_nothing_is_missing() {
        assert!(ensure(&[], Install::Allowed).is_ok());
    }
}
