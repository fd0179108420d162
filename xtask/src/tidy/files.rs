//! Rules about files: short, and the same on every machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::Finding;

/// Lines of a Rust file that is still read in one go.
const RUST_LINES_MAX: usize = 600;

/// What stands in no file, with why. In two parts each, or this file would break the rule itself.
const FORBIDDEN: &[(&str, &str, Kind)] = &[
    ("/wo", "rk/", Kind::Path),
    ("/ro", "ot/", Kind::Path),
    ("/ho", "me/", Kind::Path),
    ("registry.npmjs", ".org", Kind::Host),
    ("repo1.maven", ".org", Kind::Host),
    ("repo.maven.apache", ".org", Kind::Host),
    ("index.crates", ".io", Kind::Host),
    ("static.crates", ".io", Kind::Host),
    ("/artifact", "ory/", Kind::Host),
];

/// What a forbidden text is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A place on one machine.
    Path,
    /// A registry, which is the user's to choose.
    Host,
}

pub(super) fn check(root: &Path) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in ours(root)? {
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        // What is no text has no lines.
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        findings.extend(look(&name, &text));
    }
    Ok(findings)
}

fn look(file: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |file: String, rule: String, remedy: &str| {
        findings.push(Finding { file, rule, remedy: remedy.to_owned() });
    };
    let lines = text.lines().count();
    if file.ends_with(".rs") && lines > RUST_LINES_MAX {
        find(
            file.to_owned(),
            format!("has {lines} lines, more than {RUST_LINES_MAX}"),
            "part it where it has two subjects",
        );
    }
    for (index, line) in text.lines().enumerate() {
        for &(first, second, kind) in FORBIDDEN {
            let forbidden = format!("{first}{second}");
            let place = || format!("{file}:{}", index + 1);
            match kind {
                Kind::Path if holds_path(line, &forbidden) => find(
                    place(),
                    format!("names {forbidden}, a place on one machine"),
                    "write it relative to the repository, or let the user set it",
                ),
                Kind::Host if line.contains(&forbidden) => find(
                    place(),
                    format!("names {forbidden}, a registry"),
                    "leave the choice of a registry to the settings of cargo, npm and Maven",
                ),
                _ => {}
            }
        }
    }
    findings
}

/// Whether an absolute path begins so: `/a/` does not stand in `b/a/`, nor in `~/a/`.
fn holds_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "._-~}/".contains(c))
    })
}

/// Every file of the repository: not those of git, and not what `.gitignore` names at the root.
fn ours(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let ignored = fs::read_to_string(root.join(".gitignore")).unwrap_or_default();
    let mut ignored: Vec<PathBuf> = ignored
        .lines()
        .filter_map(|line| line.trim().strip_prefix('/'))
        .map(|name| root.join(name.trim_end_matches('/')))
        .collect();
    ignored.push(root.join(".git"));
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let failed = || format!("cannot read the folder {}", folder.display());
        for entry in fs::read_dir(&folder).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            let (path, kind) = (entry.path(), entry.file_type().with_context(failed)?);
            if ignored.contains(&path) {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_on_one_machine_is_found_with_its_line() {
        let text = format!("fine\nsee {}{}x", "/ro", "ot/");
        let found = look("a.md", &text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].file, "a.md:2");
    }

    #[test]
    fn a_relative_path_of_that_name_is_fine() {
        let folder = format!("{}{}", "/wo", "rk/");
        for fine in ["net", ".", "~"] {
            assert!(look("a.md", &format!("{fine}{folder}x")).is_empty(), "{fine}");
        }
        assert_eq!(look("a.md", &folder).len(), 1);
    }

    #[test]
    fn a_registry_is_found() {
        let text = format!("https://{}{}/x", "registry.npmjs", ".org");
        assert_eq!(look("a.toml", &text).len(), 1);
    }

    #[test]
    fn a_long_file_is_found_where_it_is_rust() {
        let text = "x\n".repeat(RUST_LINES_MAX + 1);
        assert_eq!(look("a.rs", &text).len(), 1);
        assert!(look("a.csv", &text).is_empty());
        assert!(look("a.rs", &"x\n".repeat(RUST_LINES_MAX)).is_empty());
    }
}
