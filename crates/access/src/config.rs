//! Settings of section `access`.

use std::thread;

use ops::{Checks, Problem};
use serde::{Deserialize, Serialize};

/// Who may connect, and what they may do. Section `access`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Who is asked about a client, in this order: out of `certificate`, `jwt`, `secrets`, `http`, `anonymous`; in the
    /// environment a text with commas. Each says yes, no, or "not mine", and then the next is asked; nobody's is
    /// refused. No default: that everybody may come in (`anonymous`: every client is whoever it says it is) has to
    /// be said.
    pub chain: Vec<Source>,
    /// Whether a device must connect under its own name where its credential names it. Default `must_match`, an empty
    /// client id included; `any`: the credential alone decides.
    pub client_id: ClientId,
    /// Where a client certificate names its device. Default `common_name`; `san_dns` or `san_uri`: the first
    /// alternative name of that kind. The organisation is the fleet, the organisational unit `service` makes a service.
    pub certificate_identity: CertificateIdentity,
    /// PEM file of the authorities that issue client certificates, the direct issuers included: when one is taken out,
    /// its sessions end. Default empty: whoever TLS accepts.
    pub certificate_issuers_file: String,
    /// File of the revocation lists of client certificates, PEM or DER: sessions of a revoked one end. Each direct issuer
    /// needs one, and none may be past its next update: the gateway does not start then, and while it runs what was read
    /// before holds. Default empty: the file of `listen.tls_client_crl_file`.
    pub certificate_crl_file: String,
    /// File whose first line is the HS256 secret of tokens, 32 bytes or more. Default empty: no HS256.
    pub jwt_secret_file: String,
    /// File of the public keys of tokens, a JSON Web Key Set, for RS256 and ES256. Default empty: neither.
    pub jwt_jwks_file: String,
    /// What `iss` of a token must be. Default empty: anything.
    pub jwt_issuer: String,
    /// What `aud` of a token must be or have. Default empty: anything.
    pub jwt_audience: String,
    /// Claim that names the device or service. Default `sub`.
    pub jwt_device_claim: String,
    /// Claim that names the fleet, if there is one. Default `fleet`.
    pub jwt_fleet_claim: String,
    /// Claim that says `device` or `service`; a device where it is missing. Default `kind`.
    pub jwt_kind_claim: String,
    /// Whether a token must have an end (`exp`). Default `required`: a lost token is good for ever otherwise; or
    /// `optional`.
    pub jwt_expiry: Expiry,
    /// How far the clocks of token issuers may be off, seconds. Default 60. Range 0 to 3,600.
    pub jwt_leeway_s: u32,
    /// File of names and hashed secrets, one a line: `NAME HASH [fleet=NAME] [kind=device|service]`; the hash from
    /// `fleetpulse secret hash`. Default empty.
    pub secrets_file: String,
    /// How many secrets are hashed at once. Default 0: as many as there are cores. Range 0 to 1,024.
    pub secrets_workers: u16,
    /// How many logins wait for a hash; more are told "busy". Default 2,000: about 20 seconds of two cores, what
    /// devices wait for a CONNACK. Range 1 to 1,000,000.
    pub secrets_queue_max: u32,
    /// Where a service of yours is asked: `https://` or `http://`. It gets a POST with `client_id`, `username`,
    /// `password`, `peer` and answers 200 with `result` (`allow`, `deny`, `ignore`) and, if it wants, `device_id`,
    /// `fleet`, `kind`, `expires_in_s`. Default empty.
    pub http_url: String,
    /// PEM file of the authorities that its certificate is checked against. Default empty: those of the system.
    pub http_ca_file: String,
    /// How long an answer may take, milliseconds. Default 3,000: devices wait for their CONNACK longer than that.
    /// Range 10 to 60,000.
    pub http_timeout_ms: u32,
    /// How many requests run at once. Default 64: what one small service answers well. Range 1 to 10,000.
    pub http_concurrent_max: u32,
    /// How many logins wait for their request; more are told "busy". Default 5,000. Range 1 to 1,000,000.
    pub http_queue_max: u32,
    /// How many answers are remembered. Default 100,000: about 25 MB. Range 0 to 10,000,000; 0 remembers none.
    pub http_cache_max: u32,
    /// How long `allow` is remembered, seconds. Default 300: a device that lost its radio link comes back within.
    /// Range 0 to 86,400.
    pub http_cache_s: u32,
    /// How long `deny` is remembered, seconds. Default 10: spares the service a client that tries again and again, and
    /// lets a new device in soon. Range 0 to 86,400.
    pub http_deny_cache_s: u32,
    /// After how many failures in a row the service is left alone. Default 10. Range 1 to 10,000.
    pub http_breaker_failures: u32,
    /// How long it is left alone before one request tries it, milliseconds. Default 5,000. Range 10 to 600,000.
    pub http_breaker_open_ms: u32,
    /// TOML file of the rules of topics. Default empty: a device publishes and subscribes under `devices/{device_id}/`,
    /// but does not publish its own commands; services get nothing until it is said.
    pub acl_file: String,
    /// How often the files are looked at for changes, milliseconds. Default 2,000. A file is read once it was the same
    /// twice, so not in the middle of being written. Range 50 to 600,000.
    pub reload_poll_ms: u32,
}

/// Who is asked about a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The client certificate that TLS checked.
    Certificate,
    /// A JSON Web Token in the password.
    Jwt,
    /// The file of hashed secrets.
    Secrets,
    /// A service of the operator's, over HTTP.
    Http,
    /// Nobody: every client is who it says it is.
    Anonymous,
}

impl Source {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Jwt => "jwt",
            Self::Secrets => "secrets",
            Self::Http => "http",
            Self::Anonymous => "anonymous",
        }
    }
}

/// What a device's client id has to be, where its credential names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientId {
    /// The device's name, or empty.
    MustMatch,
    /// Anything.
    Any,
}

/// Where a certificate names its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateIdentity {
    /// The common name of the subject.
    CommonName,
    /// The first DNS name of the alternative names.
    SanDns,
    /// The first URI of the alternative names.
    SanUri,
}

/// Whether a token must have an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expiry {
    /// A token without `exp` is refused.
    Required,
    /// A token without `exp` is good until its key goes.
    Optional,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            chain: Vec::new(),
            client_id: ClientId::MustMatch,
            certificate_identity: CertificateIdentity::CommonName,
            certificate_issuers_file: String::new(),
            certificate_crl_file: String::new(),
            jwt_secret_file: String::new(),
            jwt_jwks_file: String::new(),
            jwt_issuer: String::new(),
            jwt_audience: String::new(),
            jwt_device_claim: "sub".into(),
            jwt_fleet_claim: "fleet".into(),
            jwt_kind_claim: "kind".into(),
            jwt_expiry: Expiry::Required,
            jwt_leeway_s: 60,
            secrets_file: String::new(),
            secrets_workers: 0,
            secrets_queue_max: 2_000,
            http_url: String::new(),
            http_ca_file: String::new(),
            http_timeout_ms: 3_000,
            http_concurrent_max: 64,
            http_queue_max: 5_000,
            http_cache_max: 100_000,
            http_cache_s: 300,
            http_deny_cache_s: 10,
            http_breaker_failures: 10,
            http_breaker_open_ms: 5_000,
            acl_file: String::new(),
            reload_poll_ms: 2_000,
        }
    }
}

impl Config {
    /// Checks the values.
    pub fn validate(&self) -> Vec<Problem> {
        let has = |source| self.chain.contains(&source);
        let twice = self.chain.iter().enumerate().any(|(at, source)| self.chain[..at].contains(source));
        let anonymous = self.chain.iter().position(|source| *source == Source::Anonymous);
        Checks::of("access")
            .require(
                "chain",
                !self.chain.is_empty(),
                "is not set: \"anonymous\" lets every client in and believes its client id; say so, or nobody comes in",
            )
            .require("chain", !twice, "names the same twice")
            .require(
                "chain",
                anonymous.is_none_or(|at| at + 1 == self.chain.len()),
                "has something after \"anonymous\", which is never asked: put \"anonymous\" last",
            )
            .require(
                "jwt_jwks_file",
                !has(Source::Jwt) || !self.jwt_jwks_file.is_empty() || !self.jwt_secret_file.is_empty(),
                "is empty, and so is access.jwt_secret_file: \"jwt\" in access.chain needs one of them",
            )
            .require(
                "secrets_file",
                !has(Source::Secrets) || !self.secrets_file.is_empty(),
                "is empty: \"secrets\" in access.chain needs it",
            )
            .require(
                "http_url",
                (!has(Source::Http) && self.http_url.is_empty()) || is_http(&self.http_url),
                "is not an address that begins with https:// or http://, has a host and no password: \"http\" in access.chain needs it",
            )
            .present("jwt_device_claim", &self.jwt_device_claim)
            .present("jwt_fleet_claim", &self.jwt_fleet_claim)
            .present("jwt_kind_claim", &self.jwt_kind_claim)
            .within("jwt_leeway_s", self.jwt_leeway_s, 0..=3_600)
            .within("secrets_workers", self.secrets_workers, 0..=1_024)
            .within("secrets_queue_max", self.secrets_queue_max, 1..=1_000_000)
            .within("http_timeout_ms", self.http_timeout_ms, 10..=60_000)
            .within("http_concurrent_max", self.http_concurrent_max, 1..=10_000)
            .within("http_queue_max", self.http_queue_max, 1..=1_000_000)
            .within("http_cache_max", self.http_cache_max, 0..=10_000_000)
            .within("http_cache_s", self.http_cache_s, 0..=86_400)
            .within("http_deny_cache_s", self.http_deny_cache_s, 0..=86_400)
            .within("http_breaker_failures", self.http_breaker_failures, 1..=10_000)
            .within("http_breaker_open_ms", self.http_breaker_open_ms, 10..=600_000)
            .within("reload_poll_ms", self.reload_poll_ms, 50..=600_000)
            .done()
    }

    pub(crate) fn workers(&self) -> u32 {
        match self.secrets_workers {
            0 => thread::available_parallelism()
                .ok()
                .and_then(|cores| u32::try_from(cores.get()).ok())
                .unwrap_or(1),
            workers => u32::from(workers),
        }
    }
}

/// An address without a user or password in it: settings are printed, and secrets stand in files.
fn is_http(url: &str) -> bool {
    url.parse::<hyper::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(config: &Config) -> Vec<String> {
        config.validate().into_iter().map(|problem| problem.key).collect()
    }

    #[test]
    fn that_everybody_may_come_in_has_to_be_said() {
        assert_eq!(keys(&Config::default()), ["access.chain"]);
        let said = Config { chain: vec![Source::Anonymous], ..Config::default() };
        assert_eq!(said.validate(), []);
    }

    #[test]
    fn a_source_without_its_file_and_an_order_without_sense_are_mistakes() {
        let chain = vec![Source::Anonymous, Source::Jwt, Source::Secrets, Source::Http, Source::Jwt];
        let wrong = Config { chain, ..Config::default() };
        let expected = [
            "access.chain",
            "access.chain",
            "access.jwt_jwks_file",
            "access.secrets_file",
            "access.http_url",
        ];
        assert_eq!(keys(&wrong), expected);
    }

    #[test]
    fn an_address_needs_a_scheme_and_a_host() {
        for (url, good) in [
            ("http://a:1/x", true),
            ("https://a", true),
            ("a:1", false),
            ("ftp://a", false),
            ("http://", false),
            ("http://user:secret@a/", false),
        ] {
            assert_eq!(is_http(url), good, "{url}");
        }
    }
}
