//! Rules about crates: arrows, owners, versions, folders.

use anyhow::Context;
use cargo_metadata::{DependencyKind, Metadata, Package};
use toml::{Table, Value};

use super::Finding;

/// Which crates of the workspace a crate may use. `*`: all.
const ARROWS: &[(&str, &[&str])] = &[
    ("event", &[]),
    ("ops", &[]),
    ("devstack", &[]),
    ("chserver", &[]),
    ("mqtt", &[]),
    ("access", &["event", "mqtt", "ops"]),
    ("broker", &["mqtt", "ops"]),
    ("decode", &["event"]),
    ("bus", &["ops"]),
    ("store", &["ops"]),
    ("simulator", &["event"]),
    ("registry", &["store", "event", "ops"]),
    ("gateway", &["access", "broker", "mqtt", "decode", "bus", "event", "ops"]),
    ("writer", &["store", "bus", "decode", "event", "ops"]),
    (
        "fleetpulse",
        &[
            "access",
            "broker",
            "gateway",
            "writer",
            "registry",
            "simulator",
            "store",
            "bus",
            "decode",
            "event",
            "ops",
        ],
    ),
    // Must build where there is no C compiler: so none of the others.
    ("xtask", &["devstack"]),
    ("system-tests", &["*"]),
    ("oracle", &["*"]),
    ("benches", &["broker", "mqtt", "decode", "event", "store", "writer"]),
];

/// Crates that any crate's tests may use.
const FOR_TESTS: &[&str] = &["devstack"];

/// Who may use a foreign API. Whole-system tests and benches look from outside, and may use all.
const OWNERS: &[(&str, &[&str])] = &[
    ("rdkafka", &["bus"]),
    ("clickhouse", &["store"]),
    ("rmqtt-codec", &["simulator"]),
    ("tokio-tungstenite", &["gateway"]),
    ("jsonwebtoken", &["access"]),
    ("argon2", &["access"]),
    ("pbkdf2", &["access"]),
    ("x509-parser", &["access"]),
    ("hyper-util", &["access"]),
    ("hyper-rustls", &["access"]),
    ("prost", &["event", "gateway", "writer"]),
    ("prost-build", &["event"]),
    ("protox", &["event"]),
    // Two have routes of their own on the operations port: commands to devices, and the registry.
    ("axum", &["ops", "gateway", "registry"]),
    ("csv", &["registry", "fleetpulse"]),
];
const OUTSIDERS: &[&str] = &["system-tests", "oracle", "benches"];

/// The one crate that may have unsafe code, and so its own lints.
const UNSAFE: &str = "chserver";

pub(super) fn check(metadata: &Metadata) -> anyhow::Result<Vec<Finding>> {
    let packages = metadata.workspace_packages();
    let members: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut findings = Vec::new();
    for package in &packages {
        let file = package
            .manifest_path
            .strip_prefix(&metadata.workspace_root)
            .unwrap_or(&package.manifest_path)
            .to_string();
        let mut find = |rule: String, remedy: &str| {
            findings.push(Finding { file: file.clone(), rule, remedy: remedy.to_owned() });
        };
        for (rule, remedy) in arrows(package, &members) {
            find(rule, remedy);
        }
        for (rule, remedy) in owners(package) {
            find(rule, remedy);
        }
        let folder = file.strip_suffix("/Cargo.toml").unwrap_or(&file);
        for (rule, remedy) in place(package.name.as_str(), folder) {
            find(rule, remedy);
        }
        let text =
            std::fs::read_to_string(&package.manifest_path).with_context(|| format!("cannot read {file}"))?;
        let manifest: Table = text.parse().with_context(|| format!("{file} is not TOML"))?;
        for (rule, remedy) in own_versions(&manifest) {
            find(rule, remedy);
        }
        if package.name.as_str() != UNSAFE && !inherits_lints(&manifest) {
            find(
                "has lints of its own".to_owned(),
                "write `[lints]` with `workspace = true`: unsafe code stands in chserver alone",
            );
        }
    }
    Ok(findings)
}

type Found = Vec<(String, &'static str)>;

fn arrows(package: &Package, members: &[&str]) -> Found {
    let uses =
        package.dependencies.iter().filter(|used| members.contains(&used.name.as_str())).filter(|used| {
            used.kind != DependencyKind::Development || !FOR_TESTS.contains(&used.name.as_str())
        });
    let uses: Vec<&str> = uses.map(|used| used.name.as_str()).collect();
    wrong_arrows(package.name.as_str(), &uses)
}

fn wrong_arrows(name: &str, uses: &[&str]) -> Found {
    let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == name) else {
        return vec![(
            format!("the crate `{name}` is not in the design"),
            "give it its place there, and in ARROWS of xtask/src/tidy/crates.rs",
        )];
    };
    let wrong = uses.iter().filter(|used| !allowed.contains(used) && !allowed.contains(&"*"));
    wrong
        .map(|used| {
            (
                format!("`{name}` may not use `{used}`"),
                "move what it needs to a crate below both, or hand it in from above",
            )
        })
        .collect()
}

fn owners(package: &Package) -> Found {
    let uses: Vec<&str> = package.dependencies.iter().map(|used| used.name.as_str()).collect();
    wrong_owners(package.name.as_str(), &uses)
}

fn wrong_owners(name: &str, uses: &[&str]) -> Found {
    let foreign = OWNERS
        .iter()
        .filter(|(api, owners)| uses.contains(api) && !owners.contains(&name) && !OUTSIDERS.contains(&name));
    foreign
        .map(|(api, owners)| {
            (
                format!("`{api}` is used outside of {}", owners.join(", ")),
                "ask its owner for what is needed, in the words of this project",
            )
        })
        .collect()
}

fn place(name: &str, folder: &str) -> Found {
    match folder.strip_prefix("crates/") {
        Some(last) if last != name => {
            vec![(format!("the folder of the crate `{name}` is {folder}"), "give both the same name")]
        }
        _ => Vec::new(),
    }
}

/// Dependencies with a version or a source of their own, of every kind and for every target.
fn own_versions(manifest: &Table) -> Found {
    let mut found = Vec::new();
    let targets = manifest.get("target").and_then(Value::as_table);
    let of_targets = targets.into_iter().flat_map(Table::values).filter_map(Value::as_table);
    for table in std::iter::once(manifest).chain(of_targets) {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let entries = table.get(kind).and_then(Value::as_table);
            for (name, entry) in entries.into_iter().flatten() {
                if entry.get("workspace").and_then(Value::as_bool) != Some(true) {
                    found.push((
                        format!("`{name}` has a version of its own"),
                        "move it to [workspace.dependencies] of the workspace's Cargo.toml",
                    ));
                }
            }
        }
    }
    found
}

fn inherits_lints(manifest: &Table) -> bool {
    let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
    lints.and_then(Value::as_bool) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrow_that_is_not_drawn_is_found() {
        assert!(wrong_arrows("gateway", &["bus", "decode", "event", "ops"]).is_empty());
        let found = wrong_arrows("gateway", &["store", "bus"]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, "`gateway` may not use `store`");
        assert_eq!(wrong_arrows("decode", &["bus"]).len(), 1);
        assert!(wrong_arrows("system-tests", &["bus", "store"]).is_empty());
    }

    #[test]
    fn a_crate_that_nobody_drew_is_found() {
        assert_eq!(wrong_arrows("helper", &[]).len(), 1);
    }

    #[test]
    fn arrows_only_lead_to_crates_that_are_drawn() {
        let known: Vec<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
        for (name, uses) in ARROWS {
            for used in uses.iter().filter(|used| **used != "*") {
                assert!(known.contains(used), "{name} -> {used}");
            }
        }
    }

    #[test]
    fn a_foreign_api_has_its_owners() {
        assert!(wrong_owners("bus", &["rdkafka"]).is_empty());
        assert!(wrong_owners("system-tests", &["rdkafka"]).is_empty());
        assert_eq!(wrong_owners("writer", &["rdkafka", "prost"])[0].0, "`rdkafka` is used outside of bus");
    }

    #[test]
    fn a_folder_is_named_as_its_crate() {
        assert!(place("bus", "crates/bus").is_empty());
        assert!(place("xtask", "xtask").is_empty());
        assert_eq!(place("bus", "crates/kafka").len(), 1);
    }

    #[test]
    fn a_version_outside_of_the_workspace_is_found() {
        let manifest = "
            [dependencies]
            a.workspace = true
            b = \"1\"
            [target.'cfg(unix)'.dev-dependencies]
            c = { path = \"../c\" }
            [build-dependencies]
            d = { workspace = true, features = [\"e\"] }
            [lints]
            workspace = true
        ";
        let manifest: Table = manifest.parse().expect("a manifest");
        let found: Vec<String> = own_versions(&manifest).into_iter().map(|(rule, _)| rule).collect();
        assert_eq!(found, ["`b` has a version of its own", "`c` has a version of its own"]);
        assert!(inherits_lints(&manifest));
        assert!(!inherits_lints(&Table::new()));
    }
}
