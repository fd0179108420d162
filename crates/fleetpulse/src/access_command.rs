//! `fleetpulse acl explain` and `fleetpulse secret hash`.

use std::io::Read;
use std::process::ExitCode;

use access::{Acl, Action, Cost, Kind, Principal};
use anyhow::Context;

use crate::cli::{Explain, HashSecret};

/// Longest secret that is read, bytes: what an MQTT password can have.
const SECRET_BYTES_MAX: u64 = 65_535;

/// Prints which rule decides; exit code 0 where it is allowed, 1 where it is denied.
pub(crate) fn explain(config: &access::Config, asked: &Explain) -> anyhow::Result<ExitCode> {
    let (kind, name) = match (&asked.who.device, &asked.who.service) {
        (Some(name), _) => (Kind::Device, name),
        (None, Some(name)) => (Kind::Service, name),
        (None, None) => anyhow::bail!("neither --device nor --service is given"),
    };
    let (action, topic) = match (&asked.what.publish, &asked.what.subscribe) {
        (Some(topic), _) => (Action::Publish, topic),
        (None, Some(filter)) => (Action::Subscribe, filter),
        (None, None) => anyhow::bail!("neither --publish nor --subscribe is given"),
    };
    let principal =
        Principal { kind, name: name.as_str().into(), fleet: asked.fleet.as_deref().map(Into::into) };
    let explanation = Acl::open(config)?.explain(&principal, action, topic);
    println!("{explanation}");
    Ok(if explanation.allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the hash of the secret on standard input; a line break at its end is not part of it.
pub(crate) fn hash(asked: &HashSecret) -> anyhow::Result<ExitCode> {
    let mut secret = Vec::new();
    let read = std::io::stdin().take(SECRET_BYTES_MAX + 3).read_to_end(&mut secret);
    read.context("cannot read the secret from standard input")?;
    let secret = secret.strip_suffix(b"\n").unwrap_or(&secret);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    anyhow::ensure!(
        u64::try_from(secret.len())? <= SECRET_BYTES_MAX,
        "the secret is longer than {SECRET_BYTES_MAX} bytes, the most that MQTT can carry"
    );
    let cost = if asked.machine { Cost::Machine } else { Cost::Person };
    println!("{}", access::hash_secret(secret, cost)?);
    Ok(ExitCode::SUCCESS)
}
