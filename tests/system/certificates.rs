//! Certificates for one test.

use std::path::PathBuf;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// An authority, a server's certificate and those of clients, in a folder.
pub(crate) struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    /// Makes them; a client is named by its certificate's common name.
    pub(crate) fn make(test: &str, clients: &[&str]) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("fleetpulse-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let key = KeyPair::generate()?;
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority.distinguished_name.push(DnType::CommonName, "authority of a test");
        std::fs::write(folder.join("ca.pem"), authority.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(authority, key);
        for name in clients.iter().chain(&["localhost"]) {
            let key = KeyPair::generate()?;
            let mut own = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
            own.distinguished_name.push(DnType::CommonName, *name);
            std::fs::write(folder.join(format!("{name}.pem")), own.signed_by(&key, &issuer)?.pem())?;
            std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
        }
        Ok(Self { folder })
    }

    /// `ca.pem`, or `NAME.pem` and `NAME.key` of a client or of `localhost`, the server.
    pub(crate) fn path(&self, file: &str) -> String {
        self.folder.join(file).display().to_string()
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        // A folder of temporary files: whoever cleans those takes it too.
        let _left = std::fs::remove_dir_all(&self.folder);
    }
}
