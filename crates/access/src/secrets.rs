//! The file of hashed secrets, and the checking of a secret against it.
//!
//! One entry a line: `NAME HASH [fleet=NAME] [kind=device|service]`, separated by blanks; `#` begins a comment line.
//! The hash is a PHC string of argon2id or pbkdf2-sha256.
//!
//! A hash is slow on purpose. It is calculated on the blocking pool behind a [`Gate`]; a login that is given up while it
//! runs lets it run to its end, within the same bound. Each entry remembers a keyed digest of the secret that was right
//! last: a fleet that reconnects costs microseconds a device, and no second table has to be bounded.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::digest::{self, Key};
use crate::file::{self, FileProblem, Mistakes};
use crate::gate::Gate;
use crate::hash;
use crate::principal::{self, CredentialId, Fingerprint, Found, Verdict};
use crate::{Credentials, Denied, Kind};

/// The entries.
#[derive(Default)]
pub(crate) struct Secrets(HashMap<Arc<str>, Arc<Entry>>);

struct Entry {
    name: Arc<str>,
    hash: Box<str>,
    fleet: Option<Arc<str>>,
    kind: Kind,
    /// Of the whole line: what changes, ends sessions.
    fingerprint: Fingerprint,
    right: Mutex<Option<Fingerprint>>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({} entries)", self.0.len())
    }
}

impl Secrets {
    pub(crate) fn read(path: &str) -> Result<Self, Vec<FileProblem>> {
        if path.is_empty() {
            return Ok(Self::default());
        }
        Self::parse(path, &file::text(path)?)
    }

    fn parse(path: &str, text: &str) -> Result<Self, Vec<FileProblem>> {
        let mut mistakes = Mistakes::of(path);
        let mut entries: HashMap<Arc<str>, Arc<Entry>> = HashMap::new();
        for (line, content) in (1..).zip(text.lines()) {
            let content = content.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            match entry(content) {
                Err(message) => mistakes.add(line, message),
                Ok(entry) => {
                    let name = Arc::clone(&entry.name);
                    if entries.insert(Arc::clone(&name), Arc::new(entry)).is_some() {
                        mistakes.add(line, format!("{name:?} stands here for the second time"));
                    }
                }
            }
        }
        mistakes.or(Self(entries))
    }

    /// Takes over what was found right before, where the line is the same.
    pub(crate) fn remember(&self, before: &Self) {
        for (name, entry) in &self.0 {
            if let Some(old) = before.0.get(name).filter(|old| old.fingerprint == entry.fingerprint) {
                *entry.right.lock().unwrap_or_else(PoisonError::into_inner) =
                    *old.right.lock().unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    pub(crate) fn holds(&self, name: &str, fingerprint: &Fingerprint) -> bool {
        self.0.get(name).is_some_and(|entry| entry.fingerprint == *fingerprint)
    }

    /// Which entry a client claims to be.
    fn claimed(&self, credentials: &Credentials<'_>) -> Option<Result<Arc<Entry>, Denied>> {
        let user = credentials.username.filter(|name| !name.is_empty());
        if let Some(entry) = self.0.get(user.unwrap_or(credentials.client_id)) {
            return Some(Ok(Arc::clone(entry)));
        }
        // A device of this file is not to be had under another user name, from a source that believes the client id.
        let device = self.0.get(credentials.client_id).filter(|entry| entry.kind == Kind::Device);
        device.map(|_| Err(Denied::WrongSecret))
    }
}

/// Checks secrets.
#[derive(Debug)]
pub(crate) struct Checker {
    gate: Gate,
    key: Arc<Key>,
}

impl Checker {
    pub(crate) fn new(gate: Gate, key: Arc<Key>) -> Self {
        Self { gate, key }
    }

    /// What the file says about a client. Cancel safe.
    pub(crate) async fn check(&self, secrets: &Secrets, credentials: &Credentials<'_>) -> Verdict {
        match secrets.claimed(credentials)? {
            Err(denied) => Some(Err(denied)),
            Ok(entry) => Some(self.verify(entry, credentials.password).await),
        }
    }

    async fn verify(&self, entry: Arc<Entry>, password: Option<&[u8]>) -> Result<Found, Denied> {
        let Some(password) = password.filter(|password| !password.is_empty()) else {
            return Err(Denied::WrongSecret);
        };
        let proof = self.key.of(&[&entry.fingerprint, password]);
        let known = *entry.right.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_some_and(|known| digest::same(&known, &proof)) {
            metrics::counter!("fleetpulse_gateway_secrets_checked_total", "by" => "memory").increment(1);
            return Ok(entry.found());
        }
        let pass = self.gate.enter().await.map_err(|_| Denied::Busy)?;
        metrics::counter!("fleetpulse_gateway_secrets_checked_total", "by" => "hash").increment(1);
        let password = password.to_vec();
        let hashed = Arc::clone(&entry);
        let right = tokio::task::spawn_blocking(move || {
            let right = hash::verify(&hashed.hash, &password);
            if right {
                *hashed.right.lock().unwrap_or_else(PoisonError::into_inner) = Some(proof);
            }
            drop(pass);
            right
        });
        match right.await {
            Ok(true) => Ok(entry.found()),
            Ok(false) => Err(Denied::WrongSecret),
            // The runtime is stopping.
            Err(_) => Err(Denied::Busy),
        }
    }
}

impl Entry {
    fn found(&self) -> Found {
        Found {
            kind: self.kind,
            name: Arc::clone(&self.name),
            fleet: self.fleet.clone(),
            expires_at: None,
            credential: CredentialId::Secret(self.fingerprint),
        }
    }
}

/// Reads a line. The message never has the hash in it.
fn entry(content: &str) -> Result<Entry, String> {
    let mut words = content.split_whitespace();
    let (Some(name), Some(hash)) = (words.next(), words.next()) else {
        return Err("is not NAME HASH [fleet=NAME] [kind=device|service]".to_owned());
    };
    let name = principal::name(name).map_err(|error| format!("the name cannot be used: {error}"))?;
    hash::check(hash).map_err(|error| format!("{name:?}: the hash {error}"))?;
    let (mut fleet, mut kind) = (None, None);
    for word in words {
        match word.split_once('=') {
            Some(("fleet", text)) if fleet.is_none() => {
                let text = principal::name(text).map_err(|error| format!("{name:?}: fleet: {error}"))?;
                fleet = Some(text);
            }
            Some(("kind", "device")) if kind.is_none() => kind = Some(Kind::Device),
            Some(("kind", "service")) if kind.is_none() => kind = Some(Kind::Service),
            _ => {
                return Err(format!(
                    "{name:?}: after the hash there may stand fleet=NAME and kind=device or kind=service, each once"
                ));
            }
        }
    }
    let kind = kind.unwrap_or(Kind::Device);
    let fingerprint = digest::sha256(format!("{name} {hash} {kind:?} {fleet:?}").as_bytes());
    Ok(Entry { name, hash: hash.into(), fleet, kind, fingerprint, right: Mutex::new(None) })
}

#[cfg(test)]
mod tests;
