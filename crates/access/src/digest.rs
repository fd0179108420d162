//! Digests under a key that is drawn when the process starts: what they are of can neither be told nor tried outside.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;

use crate::principal::Fingerprint;

/// The key.
pub(crate) struct Key(hmac::Key);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// None where the system gives no random bytes.
    pub(crate) fn draw() -> Option<Self> {
        hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok().map(Self)
    }

    /// Digest of texts; where one ends and the next begins is part of it.
    pub(crate) fn of(&self, parts: &[&[u8]]) -> Fingerprint {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(part);
        }
        fixed(context.sign().as_ref())
    }
}

/// Plain SHA-256: for what is public, or has far more entropy than could be tried.
pub(crate) fn sha256(bytes: &[u8]) -> Fingerprint {
    fixed(digest(&SHA256, bytes).as_ref())
}

/// Whether two are equal, in a time that does not depend on where they differ.
pub(crate) fn same(a: &Fingerprint, b: &Fingerprint) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

fn fixed(bytes: &[u8]) -> Fingerprint {
    let mut all = [0; 32];
    for (to, from) in all.iter_mut().zip(bytes) {
        *to = *from;
    }
    all
}
