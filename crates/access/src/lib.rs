//! Who may connect to the gateway, and what they may do.
//!
//! [`Access::authenticate`] asks the sources of `access.chain` in order: each says *mine and right*, *mine and wrong* (and
//! then nobody else is asked), or *not mine*. [`Access::allows`] decides about topics by the first rule that matches.
//!
//! Guarantees:
//! - Nobody is let in by default, and nothing is allowed by default.
//! - Every name that comes out is a valid topic level, whatever a token, certificate or service said.
//! - No secret stands in a `Debug`, an error, a log or a metric; none is kept: only keyed digests are.
//! - Slow work is bounded and not done on the async workers: hashes run on the blocking pool, so many at once and so many
//!   waiting; questions over HTTP have a deadline, a bound and a breaker.
//! - Files are read whole or not at all: one with mistakes leaves what stood before, after the start.
//! - Revocation lists fail closed: one that is missing or over is such a mistake.
//!
//! It knows neither MQTT packets nor sockets, and it bans nobody: [`Denied::is_credentials`] says what counts.

mod acl;
mod certificate;
mod config;
mod digest;
mod file;
mod gate;
mod hash;
mod hook;
mod principal;
mod reload;
mod secrets;
mod token;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use event::SessionId;

pub use acl::{Acl, Action, Explanation};
pub use certificate::{ListsError, revocation_lists};
pub use config::{CertificateIdentity, ClientId, Config, Expiry, Source};
pub use file::{FileProblem, OpenError};
pub use hash::{Cost, HashError, hash_secret};
pub use principal::{Credentials, Denied, Grant, Kind, Principal};

use certificate::{Certificates, Lists};
use gate::Gate;
use hook::Hook;
use principal::{CredentialId, Found, Verdict};
use secrets::{Checker, Secrets};
use token::Tokens;

/// Decides who may come in and what they may do. Cheap to clone.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("chain", &self.0.config.chain).finish_non_exhaustive()
    }
}

struct Inner {
    config: Config,
    /// Every file that is looked at.
    files: Vec<String>,
    opened_as: Vec<reload::Stamp>,
    loaded: ArcSwap<Loaded>,
    generation: AtomicU64,
    checker: Checker,
    hook: Option<Hook>,
}

/// What stands in the files.
#[derive(Clone)]
struct Loaded {
    acl: Arc<Acl>,
    secrets: Arc<Secrets>,
    tokens: Arc<Tokens>,
    certificates: Arc<Certificates>,
    lists: Arc<Lists>,
}

impl Access {
    /// Reads every file. Blocks for as long as that takes.
    ///
    /// # Errors
    /// Every mistake in every file, with its file, line and what to do.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        let files = [
            &config.acl_file,
            &config.secrets_file,
            &config.jwt_secret_file,
            &config.jwt_jwks_file,
            &config.certificate_issuers_file,
            &config.certificate_crl_file,
        ];
        let files: Vec<String> = files.into_iter().filter(|path| !path.is_empty()).cloned().collect();
        // Looked at before they are read: a change in between is then seen as one.
        let opened_as = reload::stamps(&files);
        let mut problems = Vec::new();
        let acl = keep(Acl::read(&config.acl_file), &mut problems);
        let secrets = keep(Secrets::read(&config.secrets_file), &mut problems);
        let tokens = keep(Tokens::read(&config), &mut problems);
        let certificates = keep(Certificates::read(&config), &mut problems);
        let lists = keep(Lists::read(&config.certificate_crl_file), &mut problems);
        let random = || file::wrong("random bytes", "the system gives none");
        let key = keep(digest::Key::draw().ok_or_else(random), &mut problems).map(Arc::new);
        let hook = key.as_ref().map(|key| Hook::open(&config, Arc::clone(key)));
        let hook = hook.and_then(|hook| keep(hook, &mut problems));
        let (Some(acl), Some(secrets), Some(tokens), Some(certificates), Some(lists), Some(key), Some(hook)) =
            (acl, secrets, tokens, certificates, lists, key, hook)
        else {
            return Err(OpenError { problems });
        };
        lists.tell();
        let loaded = Loaded {
            acl: Arc::new(acl),
            secrets: Arc::new(secrets),
            tokens: Arc::new(tokens),
            certificates: Arc::new(certificates),
            lists: Arc::new(lists),
        };
        let checker = Checker::new(Gate::new(config.workers(), config.secrets_queue_max), key);
        let loaded = ArcSwap::from_pointee(loaded);
        let generation = AtomicU64::new(0);
        Ok(Self(Arc::new(Inner { config, files, opened_as, loaded, generation, checker, hook })))
    }

    /// Decides who a client is. Cancel safe: a hash that is under way runs to its end, within its bound.
    ///
    /// # Errors
    /// Why it may not come in.
    pub async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Grant, Denied> {
        let loaded = self.0.loaded.load_full();
        for source in &self.0.config.chain {
            let verdict = match source {
                Source::Certificate => loaded.certificates.check(&loaded.lists, &credentials),
                Source::Jwt => loaded.tokens.check(&credentials),
                Source::Secrets => self.0.checker.check(&loaded.secrets, &credentials).await,
                Source::Http => match &self.0.hook {
                    Some(hook) => hook.check(&credentials).await,
                    None => None,
                },
                Source::Anonymous => anonymous(&credentials),
            };
            if let Some(found) = verdict {
                let outcome = found.and_then(|found| self.grant(found, &credentials));
                count(source.name(), outcome.as_ref().err());
                return outcome;
            }
        }
        count("none", Some(&Denied::Unknown));
        Err(Denied::Unknown)
    }

    /// Whether somebody may do something with a topic, or with every topic that a filter matches.
    pub fn allows(&self, principal: &Principal, action: Action, topic: &str) -> bool {
        self.0.loaded.load().acl.allows(principal, action, topic)
    }

    /// Rises when the files were read anew: an answer of [`Access::allows`] may be kept until then.
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Which rule decides about that.
    pub fn explain(&self, principal: &Principal, action: Action, topic: &str) -> Explanation {
        self.0.loaded.load().acl.explain(principal, action, topic)
    }

    /// Whether the credential of a grant still stands in the files. Says nothing about time: [`Grant::expires_at`] does;
    /// nor about what a service of the operator's would say today.
    pub fn still_valid(&self, grant: &Grant) -> bool {
        let loaded = self.0.loaded.load();
        match &grant.credential {
            CredentialId::Anonymous | CredentialId::Http => true,
            CredentialId::Certificate(issued) => loaded.certificates.holds(&loaded.lists, issued),
            CredentialId::Token(key) => loaded.tokens.holds(key),
            CredentialId::Secret(line) => loaded.secrets.holds(&grant.principal.name, line),
        }
    }

    fn grant(&self, found: Found, credentials: &Credentials<'_>) -> Result<Grant, Denied> {
        let Found { kind, name, fleet, expires_at, credential } = found;
        let own = credentials.client_id.is_empty() || *credentials.client_id == *name;
        if kind == Kind::Device && self.0.config.client_id == ClientId::MustMatch && !own {
            return Err(Denied::ClientIdMismatch);
        }
        Ok(Grant { principal: Principal { kind, name, fleet }, expires_at, credential })
    }

    fn poll_ms(&self) -> u32 {
        self.0.config.reload_poll_ms
    }

    fn opened_as(&self) -> Vec<reload::Stamp> {
        self.0.opened_as.clone()
    }

    fn stamps_now(&self) -> Vec<reload::Stamp> {
        reload::stamps(&self.0.files)
    }

    /// Reads the files anew; what has mistakes stays as it was. True where something was read.
    fn read_again(&self) -> bool {
        let config = &self.0.config;
        let mut loaded = Loaded::clone(&self.0.loaded.load());
        let mut problems = Vec::new();
        let mut read = false;
        read |= replace(&mut loaded.acl, Acl::read(&config.acl_file), &mut problems);
        let before = Arc::clone(&loaded.secrets);
        if replace(&mut loaded.secrets, Secrets::read(&config.secrets_file), &mut problems) {
            loaded.secrets.remember(&before);
            read = true;
        }
        read |= replace(&mut loaded.tokens, Tokens::read(config), &mut problems);
        read |= replace(&mut loaded.certificates, Certificates::read(config), &mut problems);
        // Apart from the issuers: lists that are late hold up nothing else.
        let lists = Lists::read_again(&config.certificate_crl_file, &loaded.lists);
        read |= replace(&mut loaded.lists, lists, &mut problems);
        loaded.lists.tell();
        self.0.loaded.store(Arc::new(loaded));
        self.0.generation.fetch_add(1, Ordering::Release);
        for problem in &problems {
            tracing::error!(%problem, "a file of section `access` cannot be used: what stood before stays");
        }
        let outcome = if problems.is_empty() { "read" } else { "failed" };
        metrics::counter!("fleetpulse_gateway_reloads_total", "what" => "access", "outcome" => outcome)
            .increment(1);
        if problems.is_empty() {
            tracing::info!("the files of section `access` were read anew");
        }
        read
    }
}

/// Believes the client id; a client without one gets a name that is nobody's.
fn anonymous(credentials: &Credentials<'_>) -> Verdict {
    let name = match credentials.client_id {
        "" => principal::name(&format!("anonymous-{}", SessionId::generate())),
        client_id => principal::name(client_id),
    };
    let found = |name| Found {
        kind: Kind::Device,
        name,
        fleet: None,
        expires_at: None,
        credential: CredentialId::Anonymous,
    };
    Some(name.map(found).map_err(Denied::from))
}

fn keep<T>(read: Result<T, Vec<FileProblem>>, problems: &mut Vec<FileProblem>) -> Option<T> {
    read.map_err(|found| problems.extend(found)).ok()
}

fn replace<T>(
    place: &mut Arc<T>,
    read: Result<T, Vec<FileProblem>>,
    problems: &mut Vec<FileProblem>,
) -> bool {
    let Some(read) = keep(read, problems) else { return false };
    *place = Arc::new(read);
    true
}

fn count(source: &'static str, denied: Option<&Denied>) {
    let outcome = denied.map_or("granted", Denied::reason);
    metrics::counter!("fleetpulse_gateway_logins_total", "source" => source, "outcome" => outcome)
        .increment(1);
}

#[cfg(test)]
mod tests;
