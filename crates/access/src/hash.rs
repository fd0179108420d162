//! Hashing of secrets: PHC strings of argon2id and pbkdf2-sha256.

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use pbkdf2::Pbkdf2;

/// Most memory of one hash, KiB: each worker may need it at once.
const MEMORY_KIB_MAX: u32 = 262_144;
/// Most work of one hash: about a second of a core.
const ARGON2_PASSES_MAX: u32 = 64;
const PBKDF2_ROUNDS_MAX: u32 = 10_000_000;
/// Rounds for a secret that nobody can guess: what protects it is its length.
const MACHINE_ROUNDS: u32 = 1_000;
/// Shortest secret that is taken for one nobody can guess: 128 random bits in base64.
const MACHINE_BYTES_MIN: usize = 22;

/// How a secret is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Argon2id with 19 MiB and two passes: for what a person chose. About 20 ms.
    Person,
    /// PBKDF2-SHA-256 with 1,000 rounds: for at least 128 random bits, which no number of rounds makes safer. Under a
    /// millisecond: a whole fleet gets in soon after a gateway has started.
    Machine,
}

/// A secret was not hashed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// There is none.
    #[error("the secret is empty")]
    Empty,
    /// Not long enough for [`Cost::Machine`].
    #[error("the secret has {0} bytes; a secret of a machine has {MACHINE_BYTES_MIN} random ones or more")]
    TooShort(usize),
    /// The library refused.
    #[error("the secret cannot be hashed: {0}")]
    Failed(String),
}

/// Hashes a secret for the secrets file, with a new random salt.
///
/// # Errors
/// Where it is empty, or too short for its cost.
pub fn hash_secret(secret: &[u8], cost: Cost) -> Result<String, HashError> {
    if secret.is_empty() {
        return Err(HashError::Empty);
    }
    let failed = |error: &dyn std::fmt::Display| HashError::Failed(error.to_string());
    let hashed: PasswordHash = match cost {
        Cost::Person => Argon2::default().hash_password(secret).map_err(|error| failed(&error))?,
        Cost::Machine if secret.len() < MACHINE_BYTES_MIN => return Err(HashError::TooShort(secret.len())),
        Cost::Machine => {
            let rounds = pbkdf2::Params::new(MACHINE_ROUNDS).map_err(|error| failed(&error))?;
            let hasher = Pbkdf2::new(pbkdf2::Algorithm::Pbkdf2Sha256, rounds);
            hasher.hash_password(secret).map_err(|error| failed(&error))?
        }
    };
    Ok(hashed.to_string())
}

/// Whether a text is a hash that can be checked at a bounded cost.
pub(crate) fn check(text: &str) -> Result<(), String> {
    const FROM: &str = "make it with `fleetpulse secret hash`";
    let parsed = PasswordHash::new(text).map_err(|_| format!("is no PHC string: {FROM}"))?;
    if parsed.hash.is_none() || parsed.salt.is_none() {
        return Err(format!("has no salt, or no hash behind it: {FROM}"));
    }
    match parsed.algorithm.as_str() {
        "argon2id" => {
            let params = argon2::Params::try_from(&parsed)
                .map_err(|error| format!("has wrong parameters: {error}"))?;
            if params.m_cost() > MEMORY_KIB_MAX || params.t_cost() > ARGON2_PASSES_MAX {
                return Err(format!("needs more than {MEMORY_KIB_MAX} KiB or {ARGON2_PASSES_MAX} passes"));
            }
        }
        "pbkdf2-sha256" => {
            let params = pbkdf2::Params::try_from(&parsed)
                .map_err(|error| format!("has wrong parameters: {error}"))?;
            if params.rounds() > PBKDF2_ROUNDS_MAX {
                return Err(format!("needs more than {PBKDF2_ROUNDS_MAX} rounds"));
            }
        }
        _ => return Err(format!("is neither argon2id nor pbkdf2-sha256: {FROM}")),
    }
    Ok(())
}

/// Whether a secret is that of a hash. Slow on purpose: not for an async worker.
pub(crate) fn verify(hash: &str, secret: &[u8]) -> bool {
    let Ok(parsed) = PasswordHash::new(hash) else { return false };
    match parsed.algorithm.as_str() {
        "argon2id" => Argon2::default().verify_password(secret, &parsed).is_ok(),
        "pbkdf2-sha256" => Pbkdf2::default().verify_password(secret, &parsed).is_ok(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_says_yes_to_its_secret_alone() {
        for (cost, secret) in [(Cost::Person, "correct horse"), (Cost::Machine, "0123456789abcdefghijklmnop")]
        {
            let hash = hash_secret(secret.as_bytes(), cost).expect("a hash");
            assert_eq!(check(&hash), Ok(()), "{hash}");
            assert!(verify(&hash, secret.as_bytes()) && !verify(&hash, b"other"), "{hash}");
            assert!(!hash.contains(secret) && !hash.contains(char::is_whitespace));
        }
    }

    #[test]
    fn what_is_no_hash_or_costs_too_much_is_refused() {
        let dear =
            "$argon2id$v=19$m=4000000,t=2,p=1$c2FsdHNhbHRzYWx0$c2FsdHNhbHRzYWx0c2FsdHNhbHRzYWx0c2FsdHM";
        for wrong in [
            "",
            "secret",
            "$argon2id$v=19$m=19456,t=2,p=1",
            "$scrypt$ln=15$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo",
            dear,
        ] {
            assert!(check(wrong).is_err(), "{wrong}");
            // Not tried: it would take the four gigabytes that it is refused for.
            assert!(wrong == dear || !verify(wrong, b"x"));
        }
        assert_eq!(hash_secret(b"", Cost::Person), Err(HashError::Empty));
        assert_eq!(hash_secret(b"short", Cost::Machine), Err(HashError::TooShort(5)));
    }
}
