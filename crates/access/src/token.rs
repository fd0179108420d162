//! JSON Web Tokens in the password.
//!
//! Each key is good for one algorithm, which the key decides, never the token: the secret for HS256, an RSA key for RS256,
//! a P-256 key for ES256. What has the shape of a token is ours, and refused if it is not good; anything else is not ours.

use std::fmt;
use std::time::{Duration, SystemTime};

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::digest;
use crate::file::{self, FileProblem, Mistakes};
use crate::principal::{self, CredentialId, Fingerprint, Found, Verdict};
use crate::{Config, Credentials, Denied, Expiry, Kind};

/// Shortest HS256 secret, bytes. (RFC 7518, 3.2)
const SECRET_BYTES_MIN: usize = 32;
/// Most keys: a token without `kid` is tried against each of its algorithm.
const KEYS_MAX: usize = 32;
/// Longest token that is looked at, bytes.
const TOKEN_BYTES_MAX: usize = 16_384;

/// The keys, and what a token must say.
pub(crate) struct Tokens {
    keys: Vec<Key>,
    rules: Rules,
}

struct Rules {
    issuer: String,
    audience: String,
    device_claim: String,
    fleet_claim: String,
    kind_claim: String,
    expiry: Expiry,
    leeway_s: u32,
}

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
    fingerprint: Fingerprint,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({} keys)", self.keys.len())
    }
}

impl Tokens {
    pub(crate) fn read(config: &Config) -> Result<Self, Vec<FileProblem>> {
        let mut keys = Vec::new();
        let mut problems = Vec::new();
        if !config.jwt_secret_file.is_empty() {
            match secret(&config.jwt_secret_file) {
                Ok(key) => keys.push(key),
                Err(found) => problems.extend(found),
            }
        }
        if !config.jwt_jwks_file.is_empty() {
            match key_set(&config.jwt_jwks_file) {
                Ok(found) => keys.extend(found),
                Err(found) => problems.extend(found),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let rules = Rules {
            issuer: config.jwt_issuer.clone(),
            audience: config.jwt_audience.clone(),
            device_claim: config.jwt_device_claim.clone(),
            fleet_claim: config.jwt_fleet_claim.clone(),
            kind_claim: config.jwt_kind_claim.clone(),
            expiry: config.jwt_expiry,
            leeway_s: config.jwt_leeway_s,
        };
        Ok(Self { keys, rules })
    }

    /// What the tokens' issuer says about a client.
    pub(crate) fn check(&self, credentials: &Credentials<'_>) -> Verdict {
        let token = credentials.password.filter(|password| is_token(password))?;
        Some(self.verify(token))
    }

    pub(crate) fn holds(&self, fingerprint: &Fingerprint) -> bool {
        self.keys.iter().any(|key| key.fingerprint == *fingerprint)
    }

    fn verify(&self, token: &[u8]) -> Result<Found, Denied> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Denied::Token("it is too long"));
        }
        let header =
            jsonwebtoken::decode_header(token).map_err(|_| Denied::Token("its header cannot be read"))?;
        let fits = |key: &&Key| {
            key.algorithm == header.alg && (header.kid.is_none() || key.id.is_none() || header.kid == key.id)
        };
        let mut outcome = Denied::Token("no key fits its algorithm and key id");
        for key in self.keys.iter().filter(fits) {
            match jsonwebtoken::decode::<Map<String, Value>>(token, &key.key, &self.rules.validation(key)) {
                Ok(decoded) => return self.rules.found(&decoded.claims, key),
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {
                    outcome = Denied::Token("its signature is wrong");
                }
                // Signed by this key, and not good: no other key makes it better.
                Err(error) => return Err(refusal(&error)),
            }
        }
        Err(outcome)
    }
}

impl Rules {
    fn validation(&self, key: &Key) -> Validation {
        let mut validation = Validation::new(key.algorithm);
        let mut required = Vec::new();
        if self.expiry == Expiry::Required {
            required.push("exp");
        }
        // What is looked at must also be there: the library checks `iss` and `aud` only where they are.
        if !self.issuer.is_empty() {
            required.push("iss");
            validation.set_issuer(&[&self.issuer]);
        }
        validation.validate_aud = !self.audience.is_empty();
        if validation.validate_aud {
            required.push("aud");
            validation.set_audience(&[&self.audience]);
        }
        validation.set_required_spec_claims(&required);
        validation.validate_nbf = true;
        validation.leeway = u64::from(self.leeway_s);
        validation
    }

    fn found(&self, claims: &Map<String, Value>, key: &Key) -> Result<Found, Denied> {
        let text = |claim: &str| match claims.get(claim) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(Denied::Token("a claim that names is no text")),
        };
        let name = text(&self.device_claim)?.ok_or(Denied::Token("it names no device"))?;
        let kind = match text(&self.kind_claim)? {
            None | Some("device") => Kind::Device,
            Some("service") => Kind::Service,
            Some(_) => return Err(Denied::Token("its kind is neither device nor service")),
        };
        let fleet = text(&self.fleet_claim)?.map(principal::name).transpose()?;
        let expires_at = match claims.get("exp").map(seconds) {
            None => None,
            Some(Some(at)) => Some(at + Duration::from_secs(u64::from(self.leeway_s))),
            Some(None) => return Err(Denied::Token("its end is no time")),
        };
        let credential = CredentialId::Token(key.fingerprint);
        Ok(Found { kind, name: principal::name(name)?, fleet, expires_at, credential })
    }
}

/// Three parts, of which the first is an object in base64.
fn is_token(password: &[u8]) -> bool {
    password.starts_with(b"eyJ") && password.iter().filter(|byte| **byte == b'.').count() == 2
}

/// A time in seconds since 1970; fractions are dropped.
fn seconds(value: &Value) -> Option<SystemTime> {
    let whole = value.as_u64().or_else(|| {
        let seconds = Duration::try_from_secs_f64(value.as_f64()?).ok()?;
        Some(seconds.as_secs())
    })?;
    // A time beyond what the clock can say is as good as none, but an overflow is not.
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(whole.min(u64::from(u32::MAX) * 4)))
}

fn refusal(error: &Error) -> Denied {
    match error.kind() {
        ErrorKind::ExpiredSignature => Denied::Expired,
        ErrorKind::ImmatureSignature => Denied::NotYetValid,
        ErrorKind::InvalidIssuer => Denied::Token("its issuer is another"),
        ErrorKind::InvalidAudience => Denied::Token("its audience is another"),
        ErrorKind::MissingRequiredClaim(_) => Denied::Token("a claim is missing that must be there"),
        ErrorKind::InvalidAlgorithm => Denied::Token("its algorithm is not that of the key"),
        _ => Denied::Token("it cannot be read"),
    }
}

fn secret(path: &str) -> Result<Key, Vec<FileProblem>> {
    let content = file::bytes(path)?;
    let line = content.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() < SECRET_BYTES_MIN {
        let message =
            format!("the first line has {} bytes, HS256 needs {SECRET_BYTES_MIN} or more", line.len());
        return Err(file::wrong(path, message));
    }
    Ok(Key {
        id: None,
        algorithm: Algorithm::HS256,
        key: DecodingKey::from_secret(line),
        fingerprint: digest::sha256(line),
    })
}

fn key_set(path: &str) -> Result<Vec<Key>, Vec<FileProblem>> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let text = file::text(path)?;
    let set: Set = serde_json::from_str(&text).map_err(|error| {
        // The error's own text could quote the file.
        let message = "is no JSON Web Key Set: {\"keys\": [..]}".to_owned();
        vec![FileProblem { path: path.to_owned(), line: Some(error.line()), message }]
    })?;
    let mut mistakes = Mistakes::of(path);
    let mut keys = Vec::new();
    for (at, value) in (1..).zip(&set.keys) {
        match key(value) {
            Ok(Some(key)) => keys.push(key),
            Ok(None) => {
                tracing::warn!(file = path, key = at, "a key of the set is not for RS256 or ES256: left out");
            }
            Err(message) => mistakes.add(None, format!("key {at}: {message}")),
        }
    }
    if keys.is_empty() {
        mistakes.add(None, "has no key for RS256 (RSA) or ES256 (P-256)");
    }
    if keys.len() > KEYS_MAX {
        mistakes.add(None, format!("has {} keys, {KEYS_MAX} are allowed", keys.len()));
    }
    mistakes.or(keys)
}

/// A key; none where it is meant for something else.
fn key(value: &Value) -> Result<Option<Key>, String> {
    let Ok(jwk) = Jwk::deserialize(value) else { return Ok(None) };
    if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
        return Ok(None);
    }
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKey(_) => {
            return Err(
                "is a secret, and a set has public keys: put it into access.jwt_secret_file".to_owned()
            );
        }
        _ => return Ok(None),
    };
    if jwk.common.key_algorithm.is_some_and(|said| said != named) {
        return Ok(None);
    }
    let key = DecodingKey::from_jwk(&jwk).map_err(|_| "cannot be read as a key".to_owned())?;
    let fingerprint = jwk.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256);
    let fingerprint = fingerprint.map_err(|_| "cannot be read as a key".to_owned())?;
    let id = jwk.common.key_id.clone();
    Ok(Some(Key { id, algorithm, key, fingerprint: digest::sha256(fingerprint.as_bytes()) }))
}

#[cfg(test)]
mod tests;
