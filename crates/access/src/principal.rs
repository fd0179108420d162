//! Who somebody is, how they prove it, and why they are refused. Nothing here ever holds a secret for longer than a call,
//! and none is in any `Debug`.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use event::{DeviceId, InvalidDeviceId};

/// What a client brings.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// The MQTT client id; empty if it has none.
    pub client_id: &'a str,
    /// The user name.
    pub username: Option<&'a str>,
    /// The password.
    pub password: Option<&'a [u8]>,
    /// DER of a client certificate that TLS verified against the authorities already.
    pub certificate: Option<&'a [u8]>,
    /// Where it comes from.
    pub peer: IpAddr,
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A user name may be a token that was put into the wrong field.
        f.debug_struct("Credentials")
            .field("client_id", &self.client_id)
            .field("username", &self.username.map(|_| "(given)"))
            .field("password", &self.password.map(|_| "(given)"))
            .field("certificate", &self.certificate.map(<[u8]>::len))
            .field("peer", &self.peer)
            .finish()
    }
}

/// What somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One of the fleet: one session, presence events.
    Device,
    /// A back end: several sessions, no presence events.
    Service,
}

/// Who authenticated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal {
    /// Device or service.
    pub kind: Kind,
    /// The device id, or the name of the service; a valid [`DeviceId`] in both cases.
    pub name: Arc<str>,
    /// Who owns it, where the source says so; valid as a topic level too.
    pub fleet: Option<Arc<str>>,
}

/// Somebody may come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Who it is.
    pub principal: Principal,
    /// When the credential ends, and the session with it.
    pub expires_at: Option<SystemTime>,
    pub(crate) credential: CredentialId,
}

/// A digest by which a credential is found again after a reload; no secret can be had from it.
pub(crate) type Fingerprint = [u8; 32];

/// Which credential a grant rests on.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum CredentialId {
    Anonymous,
    Http,
    Certificate(Arc<crate::certificate::Issued>),
    /// The key that signed the token.
    Token(Fingerprint),
    /// The line of the secrets file.
    Secret(Fingerprint),
}

impl fmt::Debug for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Http => "Http",
            Self::Certificate(_) => "Certificate",
            Self::Token(_) => "Token",
            Self::Secret(_) => "Secret",
        })
    }
}

/// Somebody may not come in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No source knows the client.
    #[error("nobody knows this client")]
    Unknown,
    /// The secret is not the one of that name.
    #[error("wrong secret")]
    WrongSecret,
    /// The token is not good; the text says which part.
    #[error("token refused: {0}")]
    Token(&'static str),
    /// The certificate does not say who it is; the text says what is missing.
    #[error("certificate refused: {0}")]
    Certificate(&'static str),
    /// The credential was good and is revoked.
    #[error("credential revoked")]
    Revoked,
    /// Revocation lists are set, and there is none of the certificate's issuer.
    #[error("there is no revocation list of the certificate's issuer")]
    NoRevocationList,
    /// The credential was good and is over.
    #[error("credential expired")]
    Expired,
    /// The credential is not good yet.
    #[error("credential not valid yet")]
    NotYetValid,
    /// The operator's service said no.
    #[error("refused by the service that decides")]
    Refused,
    /// The client id is not the device that the credential names.
    #[error("client id is not the name that the credential gives")]
    ClientIdMismatch,
    /// The name cannot be a device's.
    #[error("name cannot be used")]
    Name(#[from] InvalidDeviceId),
    /// Too many logins at once: later.
    #[error("too many logins at once")]
    Busy,
    /// The operator's service does not answer: later.
    #[error("the service that decides does not answer")]
    Unavailable,
}

impl Denied {
    /// Name of the reason, as in metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown_client",
            Self::WrongSecret => "wrong_secret",
            Self::Token(_) => "token",
            Self::Certificate(_) => "certificate",
            Self::Revoked => "revoked",
            Self::NoRevocationList => "no_revocation_list",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Refused => "refused",
            Self::ClientIdMismatch => "client_id_mismatch",
            Self::Name(_) => "name",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
        }
    }

    /// Whether it looks like guessing, and so counts for a ban. What was once good, or is good for another client id,
    /// is a device that needs help: many may stand behind the address that would be banned.
    pub fn is_credentials(&self) -> bool {
        matches!(
            self,
            Self::Unknown | Self::WrongSecret | Self::Token(_) | Self::Certificate(_) | Self::Refused
        )
    }

    /// Whether the same client may come in later with the same credential.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Busy | Self::Unavailable | Self::NotYetValid)
    }
}

/// What a source found out: all of a [`Grant`], before the client id is looked at.
pub(crate) struct Found {
    pub kind: Kind,
    pub name: Arc<str>,
    pub fleet: Option<Arc<str>>,
    pub expires_at: Option<SystemTime>,
    pub credential: CredentialId,
}

/// What a source says about a client that is its own; `None`: not mine.
pub(crate) type Verdict = Option<Result<Found, Denied>>;

/// A name that may stand as one level of a topic, and not in place of a reserved one.
pub(crate) fn name(text: &str) -> Result<Arc<str>, InvalidDeviceId> {
    DeviceId::new(text).map(|id| id.as_str().into())
}
