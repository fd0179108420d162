//! TLS of simulated devices, and what a device keeps of it between two connections.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, NamedGroup, RootCertStore};

/// Whom devices trust, and by which name they know the server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
}

/// Why devices cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTls {
    /// The authorities are no PEM.
    #[error("the authorities are no pem file of certificates")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// An authority cannot be used.
    #[error("an authority's certificate cannot be used")]
    Authority(#[from] rustls::Error),
    /// There is none.
    #[error("there is no certificate of an authority")]
    NoAuthority,
    /// The name is none.
    #[error("{0:?} is no server name")]
    ServerName(String),
}

impl Tls {
    /// Trusts the authorities in `pem`, and them alone.
    ///
    /// # Errors
    /// Where there is no certificate in `pem`, one of them cannot be used, or the name is none.
    pub fn trusting(pem: &[u8], server_name: &str) -> Result<Self, InvalidTls> {
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(pem) {
            roots.add(authority?)?;
        }
        if roots.is_empty() {
            return Err(InvalidTls::NoAuthority);
        }
        let server_name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| InvalidTls::ServerName(server_name.to_owned()))?;
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { config: Arc::new(config), server_name })
    }

    /// What one device uses for all its connections.
    pub(crate) fn of_device(&self) -> DeviceTls {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::store(Arc::new(LastSession::default()));
        DeviceTls { config: Arc::new(config), server_name: self.server_name.clone() }
    }
}

/// TLS of one device: its own, so that it resumes its own session as a real one does.
#[derive(Clone, Debug)]
pub(crate) struct DeviceTls {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) server_name: ServerName<'static>,
}

/// The newest session of one device with its one server.
#[derive(Debug, Default)]
struct LastSession(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    tls12: Option<Tls12ClientSessionValue>,
    tls13: Option<Tls13ClientSessionValue>,
    group: Option<NamedGroup>,
}

impl LastSession {
    fn with<T>(&self, act: impl FnOnce(&mut Kept) -> T) -> T {
        // What it guards is whole after every statement.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientSessionStore for LastSession {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.with(|kept| kept.group = Some(group));
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.with(|kept| kept.group)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.with(|kept| kept.tls12 = Some(session));
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.with(|kept| kept.tls12.clone())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.with(|kept| kept.tls12 = None);
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, session: Tls13ClientSessionValue) {
        self.with(|kept| kept.tls13 = Some(session));
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.with(|kept| kept.tls13.take())
    }
}
