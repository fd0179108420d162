//! TLS: the server's certificate, clients' certificates, and both read again while connections stand.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::config::{ClientCertificates, Config, TlsVersion};

/// Sessions of TLS 1.2 that can be resumed without a ticket.
const SESSIONS_MAX: usize = 4_096;

/// Accepts TLS with the files as they were last read.
#[derive(Debug)]
pub(crate) struct Tls {
    config: Config,
    current: ArcSwap<ServerConfig>,
    /// As they were last read without a mistake.
    lists: Mutex<Lists>,
}

type Lists = Vec<CertificateRevocationListDer<'static>>;

/// Why the TLS settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read as what it should be.
    #[error("{file:?} (setting `listen.{setting}`) is no PEM file of its kind")]
    File {
        /// The file.
        file: PathBuf,
        /// The setting to look at.
        setting: &'static str,
        /// What was wrong.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// A file has nothing in it.
    #[error("{file:?} (setting `listen.{setting}`) has nothing in it")]
    Empty {
        /// The file.
        file: PathBuf,
        /// The setting to look at.
        setting: &'static str,
    },
    /// Certificate and key do not fit, or an authority's certificate is not one.
    #[error("the certificates cannot be used (settings `listen.tls_*`)")]
    Unusable(#[from] rustls::Error),
    /// The revocation lists are of no use; at the start that is the end, later those read before hold.
    #[error("setting `listen.tls_client_crl_file`")]
    Lists(#[from] access::ListsError),
    /// The clients' certificates cannot be checked.
    #[error("client certificates cannot be checked (settings `listen.tls_client_*`)")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

impl Tls {
    /// Reads the files.
    pub(crate) fn open(config: &Config) -> Result<Self, TlsError> {
        let lists = lists(config)?;
        let current = ArcSwap::from(server_config(config, lists.clone())?);
        Ok(Self { config: config.clone(), current, lists: Mutex::new(lists) })
    }

    /// Reads the files again; connections that stand go on as they are. With an error the old ones stay in force; revocation
    /// lists that are late do not hold up a new certificate.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let mut good = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        let (lists, mistake) = match lists(&self.config) {
            Ok(lists) => (lists, None),
            Err(mistake) => (good.clone(), Some(mistake)),
        };
        self.current.store(server_config(&self.config, lists.clone())?);
        *good = lists;
        mistake.map_or(Ok(()), Err)
    }

    /// The files that are read.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let Config { tls_certificate_file, tls_key_file, tls_client_ca_file, tls_client_crl_file, .. } =
            &self.config;
        let all = [tls_certificate_file, tls_key_file, tls_client_ca_file, tls_client_crl_file];
        all.into_iter().filter(|file| !file.is_empty()).map(PathBuf::from).collect()
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }
}

fn server_config(config: &Config, lists: Lists) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let versions: &[_] = match config.tls_version_min {
        TlsVersion::V12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions)?;
    let builder = match config.tls_client_certificates {
        ClientCertificates::Off => builder.with_no_client_auth(),
        wanted => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(&config.tls_client_ca_file, "tls_client_ca_file")? {
                roots.add(authority)?;
            }
            let mut verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).with_crls(lists);
            if wanted == ClientCertificates::Optional {
                verifier = verifier.allow_unauthenticated();
            }
            // Here for the chain above the certificate, whose authorities may publish none; its own issuer must, `access` sees to
            // that.
            builder.with_client_cert_verifier(verifier.allow_unknown_revocation_status().build()?)
        }
    };
    let chain = certificates(&config.tls_certificate_file, "tls_certificate_file")?;
    let key = PrivateKeyDer::from_pem_file(&config.tls_key_file).map_err(|source| TlsError::File {
        file: (&config.tls_key_file).into(),
        setting: "tls_key_file",
        source,
    })?;
    let mut server = builder.with_single_cert(chain, key)?;
    // Tickets of before a reload are worth nothing after it: a certificate that was revoked is not resumed.
    server.ticketer = aws_lc_rs::Ticketer::new()?;
    server.session_storage = rustls::server::ServerSessionMemoryCache::new(SESSIONS_MAX);
    // A device resumes once; each further ticket is bytes over the radio.
    server.send_tls13_tickets = 1;
    Ok(Arc::new(server))
}

fn certificates(file: &str, setting: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |source| TlsError::File { file: file.into(), setting, source };
    let found: Vec<_> =
        CertificateDer::pem_file_iter(file).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)?;
    if found.is_empty() { Err(TlsError::Empty { file: file.into(), setting }) } else { Ok(found) }
}

fn lists(config: &Config) -> Result<Lists, TlsError> {
    if config.tls_client_crl_file.is_empty() {
        return Ok(Vec::new());
    }
    Ok(access::revocation_lists(&config.tls_client_crl_file)?.into_iter().map(Into::into).collect())
}
