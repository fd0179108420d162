//! `cargo xtask tidy`: the rules of the house that no compiler knows.
//!
//! The arrows between crates are those of the design; each foreign API has its owners; versions stand in one place;
//! files stay short and free of what holds on one machine only.

use std::fmt;
use std::process::ExitCode;

use crate::build;

mod crates;
mod files;

/// Something that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Relative to the workspace.
    file: String,
    /// What is the case, by which rule that is wrong.
    rule: String,
    /// What to do.
    remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.file, self.rule, self.remedy)
    }
}

/// Prints every finding; exit code 0 where there is none.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let findings = findings()?;
    if findings.is_empty() {
        println!("tidy: nothing found");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}", listed(&findings));
    Ok(ExitCode::FAILURE)
}

/// Everything in the workspace that breaks a rule.
pub(crate) fn findings() -> anyhow::Result<Vec<Finding>> {
    let metadata = build::metadata()?;
    let workspace = build::Workspace::of(&metadata);
    let mut findings = crates::check(&metadata)?;
    findings.extend(files::check(&workspace.root)?);
    Ok(findings)
}

/// One line for each, and how many.
pub(crate) fn listed(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        text.push_str(&format!("{finding}\n"));
    }
    text + &format!("tidy: {} to put right", findings.len())
}
