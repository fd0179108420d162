//! `cargo xtask fuzz`: the parsers of foreign bytes under libFuzzer, for a while.
//!
//! Needs a C++ compiler for libFuzzer's own code, and nothing else: the pinned stable compiler instruments for coverage
//! as cargo-fuzz asks it to, only without an address sanitizer, which safe code does without. The folder `fuzz` is laid
//! out so that `cargo +nightly fuzz run TARGET` works as well. What was found interesting stays in `fuzz/corpus`, an
//! input that fails in `fuzz/artifacts`.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

use crate::build::Workspace;
use crate::stop::Stop;

#[path = "../../tests/packets/notation.rs"]
pub(crate) mod notation;

/// What cargo-fuzz gives the compiler.
const RUSTFLAGS: &str = "--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

const TARGETS: &[Target] = &[
    Target { name: "mqtt_packets", input_bytes_max: 4_096, seed: packets },
    Target { name: "heartbeat_json", input_bytes_max: 8_192, seed: heartbeats },
];

/// What a run may use; more is a finding. Instrumented, the targets need some 100 MB.
const MEMORY_MB_MAX: u32 = 1_024;

/// How long one input may take, in seconds; more is a finding. Each takes microseconds.
const INPUT_S_MAX: u32 = 5;

struct Target {
    name: &'static str,
    input_bytes_max: u32,
    /// Puts first inputs into a folder.
    seed: fn(&Path, &Path) -> anyhow::Result<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// How long each target runs, in seconds.
    #[arg(long, value_name = "N", default_value_t = 20)]
    seconds: u32,
    /// Only this target.
    #[arg(long, value_name = "NAME", value_parser = TARGETS.iter().map(|target| target.name).collect::<Vec<_>>())]
    target: Option<String>,
}

pub(crate) fn run(flags: &Flags, stop: &Stop) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    fuzz(&workspace, flags.seconds, flags.target.as_deref(), stop)?;
    Ok(ExitCode::SUCCESS)
}

/// Builds the targets, and runs each of them, or the one named, for that long.
///
/// # Errors
/// Where one does not build, or an input crashes it, takes too long or needs too much memory.
pub(crate) fn fuzz(
    workspace: &Workspace,
    seconds: u32,
    only: Option<&str>,
    stop: &Stop,
) -> anyhow::Result<()> {
    if seconds == 0 {
        bail!("--seconds must be at least 1: libFuzzer takes 0 for ever");
    }
    require_cxx()?;
    let folder = workspace.root.join("fuzz");
    let host = host()?;
    for target in TARGETS.iter().filter(|target| only.is_none_or(|only| only == target.name)) {
        let corpus = folder.join("corpus").join(target.name);
        let artifacts = folder.join("artifacts").join(target.name);
        for folder in [&corpus, &artifacts] {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let seeds = (target.seed)(&workspace.root, &corpus)?;
        eprintln!("fuzz: {} for {seconds} s, from {seeds} first inputs", target.name);
        let corpus = corpus.to_str().context("the path of the workspace is not UTF-8")?;
        let arguments = [
            // A target of its own, so that nothing but the targets is instrumented: no macro, no build script.
            &["run", "--release", "--manifest-path", "fuzz/Cargo.toml", "--target-dir", "fuzz/target"],
            &["--target", &host, "--bin", target.name, "--", corpus][..],
            &[&format!("-max_total_time={seconds}"), &format!("-max_len={}", target.input_bytes_max)],
            &[&format!("-rss_limit_mb={MEMORY_MB_MAX}"), &format!("-timeout={INPUT_S_MAX}")],
            &[&format!("-artifact_prefix=fuzz/artifacts/{}/", target.name), "-verbosity=0"],
            &["-print_final_stats=1"],
        ];
        workspace.cargo(&arguments.concat(), &[("RUSTFLAGS", RUSTFLAGS)], stop).with_context(|| {
            format!("{} failed; the input, if there is one, is in fuzz/artifacts/{0}", target.name)
        })?;
    }
    Ok(())
}

/// Says so before anything is built.
fn require_cxx() -> anyhow::Result<()> {
    let named = std::env::var_os("CXX");
    let found = Command::new(named.unwrap_or_else(|| "c++".into())).arg("--version").output();
    match found {
        Ok(output) if output.status.success() => Ok(()),
        _ => bail!(
            "a C++ compiler (c++, or what CXX names) is needed to build libFuzzer; on Debian: apt-get install g++"
        ),
    }
}

/// The platform that this is compiled for.
fn host() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot run `rustc -vV`")?;
    let text = String::from_utf8(output.stdout).context("`rustc -vV` says no UTF-8")?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

/// Everything that the packet cases send, behind the byte that says how the stream begins.
fn packets(root: &Path, corpus: &Path) -> anyhow::Result<usize> {
    let mut count = 0;
    for (name, text) in files(&root.join("tests/packets"))? {
        let groups: Value = serde_json::from_slice(&text).with_context(|| format!("{name} is not JSON"))?;
        for group in groups.as_array().into_iter().flatten() {
            for test in group["tests"].as_array().into_iter().flatten() {
                let connected = test["connect"].as_bool().or(group["connect"].as_bool()).unwrap_or(true);
                let version = test["ver"].as_u64().or(group["ver"].as_u64());
                let mode = match (connected, version) {
                    (false, _) => 0,
                    (true, Some(3)) => 1,
                    (true, Some(5)) => 3,
                    (true, _) => 2,
                };
                let mut input = vec![mode];
                for message in test["msgs"].as_array().into_iter().flatten() {
                    if message["type"] == "send" {
                        let payload = message["payload"].as_str().and_then(notation::bytes);
                        input.extend(payload.with_context(|| format!("{name}: a payload is not readable"))?);
                    }
                }
                write(corpus, count, &input)?;
                count += 1;
            }
        }
    }
    Ok(count)
}

/// The example payloads of `decode`.
fn heartbeats(root: &Path, corpus: &Path) -> anyhow::Result<usize> {
    let fixtures = root.join("crates/decode/tests/fixtures");
    let payloads = [files(&fixtures.join("valid"))?, files(&fixtures.join("invalid"))?].concat();
    for (index, (_, payload)) in payloads.iter().enumerate() {
        write(corpus, index, payload)?;
    }
    Ok(payloads.len())
}

/// The JSON files of a folder, by name.
fn files(folder: &Path) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let failed = || format!("cannot read {}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            files.push((path.display().to_string(), bytes));
        }
    }
    files.sort();
    Ok(files)
}

fn write(corpus: &Path, index: usize, input: &[u8]) -> anyhow::Result<()> {
    let path = corpus.join(format!("seed-{index:04}"));
    std::fs::write(&path, input).with_context(|| format!("cannot write {}", path.display()))
}
