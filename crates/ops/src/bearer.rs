//! A bearer token (RFC 6750) that opens routes of the operations port: the first line of a file.

use std::fmt;
use std::path::{Path, PathBuf};

use axum::http::{HeaderMap, header};

/// Shortest token: 16 characters of base64 are 96 bits.
const BYTES_MIN: usize = 16;

/// The token that is asked for, or none: then nobody is let in.
#[derive(Clone)]
pub struct BearerToken(Option<Vec<u8>>);

/// The file with the token is of no use.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("cannot read the token file {} (setting `{setting}`)", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The setting that names it.
        setting: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Its first line is too short to be a secret.
    #[error("the first line of {} (setting `{setting}`) has less than {BYTES_MIN} characters", path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// The setting that names it.
        setting: &'static str,
    },
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// No token is set.
    NotConfigured,
    /// It had none, or another.
    Unauthorized,
}

impl BearerToken {
    /// Reads the file; no name, no token.
    ///
    /// # Errors
    /// Where it cannot be read or has no token.
    pub fn read(path: &Path, setting: &'static str) -> Result<Self, TokenError> {
        if path.as_os_str().is_empty() {
            return Ok(Self(None));
        }
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|source| TokenError::Read { path: path.to_owned(), setting, source })?;
        let token = text.lines().next().unwrap_or_default().trim().as_bytes().to_vec();
        if token.len() < BYTES_MIN {
            return Err(TokenError::Short { path: path.to_owned(), setting });
        }
        Ok(Self(Some(token)))
    }

    /// Whether the headers of a request carry it.
    ///
    /// # Errors
    /// Where they do not, or there is none.
    pub fn admit(&self, headers: &HeaderMap) -> Result<(), NotAdmitted> {
        let Some(token) = &self.0 else {
            return Err(NotAdmitted::NotConfigured);
        };
        let given = headers.get(header::AUTHORIZATION).map(header::HeaderValue::as_bytes);
        let admitted = given.and_then(bearer).is_some_and(|given| same(given, token));
        if admitted { Ok(()) } else { Err(NotAdmitted::Unauthorized) }
    }
}

/// Without the token.
impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerToken").field("configured", &self.0.is_some()).finish_non_exhaustive()
    }
}

/// The token of an `Authorization` header; the scheme in any case (RFC 9110, 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Takes as long for a wrong first byte as for a wrong last one. That the length can be told from the time gives nothing away.
fn same(given: &[u8], token: &[u8]) -> bool {
    let differing = given.iter().zip(token).fold(0, |differing, (a, b)| differing | (a ^ b));
    std::hint::black_box(differing) == 0 && given.len() == token.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        let value = value.parse().expect("a header");
        [(header::AUTHORIZATION, value)].into_iter().collect()
    }

    #[test]
    fn only_the_whole_token_opens_and_without_one_nobody_is_let_in() {
        let token = BearerToken(Some(b"a-token-of-length".to_vec()));
        assert_eq!(token.admit(&headers("bearer a-token-of-length")), Ok(()));
        for wrong in [
            "Bearer a-token-of-lengt",
            "Bearer a-token-of-length2",
            "Basic a-token-of-length",
            "Bearer ",
            "x",
        ] {
            assert_eq!(token.admit(&headers(wrong)), Err(NotAdmitted::Unauthorized), "{wrong}");
        }
        assert_eq!(token.admit(&HeaderMap::new()), Err(NotAdmitted::Unauthorized));
        assert_eq!(BearerToken(None).admit(&headers("Bearer ")), Err(NotAdmitted::NotConfigured));
        assert!(!format!("{token:?}").contains("length"));
    }
}
