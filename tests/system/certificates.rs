//! Certificates for one test.

use std::path::PathBuf;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};

/// An authority, a server's certificate and those of clients, in a folder.
pub(crate) struct Certificates {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    clients: Vec<String>,
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
        for (serial, name) in (1_u64..).zip(clients.iter().chain(&["localhost"])) {
            let key = KeyPair::generate()?;
            let mut own = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
            own.distinguished_name.push(DnType::CommonName, *name);
            own.serial_number = Some(SerialNumber::from(serial));
            std::fs::write(folder.join(format!("{name}.pem")), own.signed_by(&key, &issuer)?.pem())?;
            std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
        }
        let clients = clients.iter().map(|&name| name.to_owned()).collect();
        Ok(Self { folder, issuer, clients })
    }

    /// Writes `revoked.pem`: the certificates of some clients are revoked, and the list is good until that year.
    pub(crate) fn revoke(&self, revoked: &[&str], until_year: i32) -> Result<()> {
        let serial = (1_u64..).zip(&self.clients).filter(|(_, name)| revoked.contains(&name.as_str()));
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2016, 1, 1),
            next_update: date_time_ymd(until_year, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serial
                .map(|(serial, _)| RevokedCertParams {
                    serial_number: SerialNumber::from(serial),
                    revocation_time: date_time_ymd(2016, 1, 1),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        std::fs::write(self.folder.join("revoked.pem"), list.signed_by(&self.issuer)?.pem()?)?;
        Ok(())
    }

    /// `ca.pem`, `revoked.pem`, or `NAME.pem` and `NAME.key` of a client or of `localhost`, the server.
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
