//! Client certificates: whom they name, and whether they still hold.
//!
//! TLS has checked the signature, the chain and the time. Here is decided who it is; and, after a reload, whether the
//! certificate is revoked meanwhile or its issuer gone, so that sessions that stand can be ended.

mod lists;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, ParsedExtension, Pem, X509Certificate, X509Name};

pub(crate) use lists::Lists;
pub use lists::{ListsError, revocation_lists};

use crate::file::{self, FileProblem, Mistakes};
use crate::principal::{self, CredentialId, Found, Verdict};
use crate::{CertificateIdentity, Config, Credentials, Denied, Kind};

/// The organisational unit that makes a service.
const SERVICE_UNIT: &str = "service";

/// Which certificate it is: issuer and serial number, which no issuer gives twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Issued {
    issuer: Vec<u8>,
    issuer_key: Option<Vec<u8>>,
    serial: Vec<u8>,
}

/// Whom certificates name, and who may issue them.
#[derive(Debug)]
pub(crate) struct Certificates {
    identity: CertificateIdentity,
    /// None where it is not looked at.
    issuers: Option<Vec<Issuer>>,
}

#[derive(Debug)]
struct Issuer {
    name: Vec<u8>,
    key: Option<Vec<u8>>,
}

impl Certificates {
    pub(crate) fn read(config: &Config) -> Result<Self, Vec<FileProblem>> {
        let path = &config.certificate_issuers_file;
        let issuers = if path.is_empty() { None } else { Some(issuers(path)?) };
        Ok(Self { identity: config.certificate_identity, issuers })
    }

    /// Whom the certificate of a client names.
    pub(crate) fn check(&self, lists: &Lists, credentials: &Credentials<'_>) -> Verdict {
        Some(self.found(lists, credentials.certificate?))
    }

    /// Whether it is not revoked, and its issuer still known.
    pub(crate) fn holds(&self, lists: &Lists, issued: &Issued) -> bool {
        // [RFC 5280, 4.2.1.1]: the key id tells two keys of one name apart, where both sides have one.
        let is = |issuer: &Issuer| {
            issuer.name == issued.issuer
                && (issuer.key.is_none() || issued.issuer_key.is_none() || issuer.key == issued.issuer_key)
        };
        let known = self.issuers.as_ref().is_none_or(|issuers| issuers.iter().any(is));
        known && !lists.revokes(issued)
    }

    fn found(&self, lists: &Lists, der: &[u8]) -> Result<Found, Denied> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|_| Denied::Certificate("it cannot be read"))?;
        let issued = Issued {
            issuer: certificate.issuer().as_raw().to_vec(),
            issuer_key: authority_key(&certificate),
            serial: without_zeros(certificate.raw_serial()),
        };
        if !self.holds(lists, &issued) {
            return Err(Denied::Revoked);
        }
        if !lists.covers(&issued) {
            return Err(Denied::NoRevocationList);
        }
        let expires_at = time(certificate.validity().not_after);
        if expires_at.is_some_and(|end| end <= SystemTime::now()) {
            return Err(Denied::Expired);
        }
        let name = match self.identity {
            CertificateIdentity::CommonName => common_name(certificate.subject())?,
            CertificateIdentity::SanDns => alternative(&certificate, |name| match name {
                GeneralName::DNSName(text) => Some(text),
                _ => None,
            })?,
            CertificateIdentity::SanUri => alternative(&certificate, |name| match name {
                GeneralName::URI(text) => Some(text),
                _ => None,
            })?,
        };
        let subject = certificate.subject();
        let text =
            |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().map(str::to_owned);
        let fleet = subject.iter_organization().next().map(text).transpose();
        let fleet = fleet.map_err(|_| Denied::Certificate("its organisation is no text"))?;
        let fleet = fleet.as_deref().map(principal::name).transpose()?;
        let is_service = subject
            .iter_organizational_unit()
            .any(|unit| unit.as_str().is_ok_and(|unit| unit == SERVICE_UNIT));
        Ok(Found {
            kind: if is_service { Kind::Service } else { Kind::Device },
            name: principal::name(name)?,
            fleet,
            expires_at,
            credential: CredentialId::Certificate(Arc::new(issued)),
        })
    }
}

fn common_name<'a>(subject: &'a X509Name<'_>) -> Result<&'a str, Denied> {
    let mut names = subject.iter_common_name();
    match (names.next(), names.next()) {
        (Some(name), None) => name.as_str().map_err(|_| Denied::Certificate("its common name is no text")),
        (None, _) => Err(Denied::Certificate("it has no common name")),
        (Some(_), Some(_)) => Err(Denied::Certificate("it has several common names")),
    }
}

fn alternative<'a>(
    certificate: &'a X509Certificate<'_>,
    of: impl Fn(&'a GeneralName<'a>) -> Option<&'a str>,
) -> Result<&'a str, Denied> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let found = names.and_then(|names| names.value.general_names.iter().find_map(of));
    found.ok_or(Denied::Certificate("it has no such alternative name"))
}

fn authority_key(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(key) => key.key_identifier.as_ref().map(|id| id.0.to_vec()),
        _ => None,
    })
}

fn own_key(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

fn time(time: ASN1Time) -> Option<SystemTime> {
    let seconds = u64::try_from(time.timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn without_zeros(serial: &[u8]) -> Vec<u8> {
    serial.iter().copied().skip_while(|byte| *byte == 0).collect()
}

fn issuers(path: &str) -> Result<Vec<Issuer>, Vec<FileProblem>> {
    let content = file::bytes(path)?;
    let mut mistakes = Mistakes::of(path);
    let mut issuers = Vec::new();
    for (at, block) in (1..).zip(Pem::iter_from_buffer(&content)) {
        let Ok(block) = block else {
            mistakes.add(None, format!("block {at} is no PEM"));
            break;
        };
        match block.parse_x509() {
            Ok(certificate) => issuers
                .push(Issuer { name: certificate.subject().as_raw().to_vec(), key: own_key(&certificate) }),
            Err(_) => mistakes.add(None, format!("block {at} is no certificate")),
        }
    }
    if issuers.is_empty() {
        mistakes.add(None, "has no certificate in PEM: nobody could come in");
    }
    mistakes.or(issuers)
}

#[cfg(test)]
mod tests;
