//! Revocation lists: which certificates are not good any more, although they were once.
//!
//! They fail closed. At the start a file that cannot be read, has no list in it, or has one that is past its next update is a
//! mistake, for nobody knows what was revoked since. While the gateway runs the same mistakes leave the lists in force that were
//! read before; so does a file in which the list of an issuer is not there any more. Where lists are set, a
//! certificate whose issuer has none is refused.

use std::collections::{HashMap, HashSet};
use std::fmt;

use x509_parser::prelude::{ASN1Time, CertificateRevocationList, FromDer, Pem};

use super::{Issued, without_zeros};
use crate::file::{self, FileProblem, Mistakes};

type Serials = HashSet<Vec<u8>>;

/// What is revoked.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    /// Serial numbers by issuer. None where no file is set: then nothing is revoked.
    revoked: Option<HashMap<Box<[u8]>, Serials>>,
    /// When the first of the lists is over, seconds since 1970-01-01 UTC.
    next_update_s: Option<i64>,
}

impl Lists {
    /// Reads the file; an empty path is none.
    pub(crate) fn read(path: &str) -> Result<Self, Vec<FileProblem>> {
        if path.is_empty() {
            return Ok(Self::default());
        }
        let mut revoked: HashMap<Box<[u8]>, Serials> = HashMap::new();
        let mut next_update_s = None;
        for der in ders(path)? {
            let list = parsed(&der).map_err(|message| file::wrong(path, message))?;
            let own = revoked.entry(list.issuer().as_raw().into()).or_default();
            own.extend(list.iter_revoked_certificates().map(|entry| without_zeros(entry.raw_serial())));
            let next = list.next_update().map(|next| next.timestamp());
            next_update_s = [next_update_s, next].into_iter().flatten().min();
        }
        Ok(Self { revoked: Some(revoked), next_update_s })
    }

    /// Reads the file anew: whoever had a list must have one still. To do without it takes a start.
    pub(crate) fn read_again(path: &str, before: &Self) -> Result<Self, Vec<FileProblem>> {
        let now = Self::read(path)?;
        let lost = before.issuers().filter(|issuer| !now.has(issuer)).count();
        if lost > 0 {
            return Err(file::wrong(
                path,
                format!(
                    "has no list any more of {lost} issuers that had one: put it in, or start anew without it"
                ),
            ));
        }
        Ok(now)
    }

    /// Whether a certificate of that issuer can be looked up: its list is there, or none are asked for.
    pub(crate) fn covers(&self, issued: &Issued) -> bool {
        self.revoked.is_none() || self.has(&issued.issuer)
    }

    pub(crate) fn revokes(&self, issued: &Issued) -> bool {
        let own = self.revoked.as_ref().and_then(|revoked| revoked.get(issued.issuer.as_slice()));
        own.is_some_and(|serials| serials.contains(&issued.serial))
    }

    /// Tells when the first of the lists is over: an alert looks at it.
    pub(crate) fn tell(&self) {
        if let Some(seconds) = self.next_update_s {
            #[expect(clippy::cast_precision_loss, reason = "a gauge")]
            metrics::gauge!("fleetpulse_gateway_revocation_lists_next_update_timestamp_seconds")
                .set(seconds as f64);
        }
    }

    fn issuers(&self) -> impl Iterator<Item = &[u8]> {
        self.revoked.iter().flat_map(|revoked| revoked.keys().map(|issuer| &**issuer))
    }

    fn has(&self, issuer: &[u8]) -> bool {
        self.revoked.as_ref().is_some_and(|revoked| revoked.contains_key(issuer))
    }
}

/// Revocation lists that cannot be used; every reason at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListsError {
    /// The mistakes, at least one.
    pub problems: Vec<FileProblem>,
}

impl std::error::Error for ListsError {}

impl fmt::Display for ListsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the revocation lists cannot be used")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

/// The lists of a file, DER each, for whoever checks chains: at least one, each readable and not past its next update.
///
/// # Errors
/// Every mistake in the file.
pub fn revocation_lists(path: &str) -> Result<Vec<Vec<u8>>, ListsError> {
    let lists = ders(path).map_err(|problems| ListsError { problems })?;
    let mut mistakes = Mistakes::of(path);
    for der in &lists {
        if let Err(message) = parsed(der) {
            mistakes.add(None, message);
        }
    }
    mistakes.or(lists).map_err(|problems| ListsError { problems })
}

/// What stands in the file, PEM or DER.
fn ders(path: &str) -> Result<Vec<Vec<u8>>, Vec<FileProblem>> {
    let content = file::bytes(path)?;
    if !content.starts_with(b"-----BEGIN") {
        return Ok(vec![content]);
    }
    let mut mistakes = Mistakes::of(path);
    let mut lists = Vec::new();
    for (at, block) in (1..).zip(Pem::iter_from_buffer(&content)) {
        match block {
            Ok(block) => lists.push(block.contents),
            Err(_) => {
                mistakes.add(None, format!("block {at} is no PEM"));
                break;
            }
        }
    }
    if lists.is_empty() {
        mistakes.add(None, "has no revocation list");
    }
    mistakes.or(lists)
}

fn parsed(der: &[u8]) -> Result<CertificateRevocationList<'_>, String> {
    let (_, list) = CertificateRevocationList::from_der(der)
        .map_err(|_| "has something that is no revocation list, PEM or DER".to_owned())?;
    match list.next_update() {
        Some(next) if next < ASN1Time::now() => Err(format!(
            "the list of {} is over since {next}: get a newer one, for what was revoked since is not known",
            list.issuer()
        )),
        _ => Ok(list),
    }
}
