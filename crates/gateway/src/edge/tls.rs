//! TLS: the configuration made of files, made anew when they change, and the handshake.
//!
//! # Guarantees
//! - A change of the files holds for every handshake after [`Certificates::reload`]; what cannot be used is counted and
//!   changes nothing. Connections that stand are left alone.
//! - Sessions are resumed by tickets alone: the server keeps nothing per client. A ticket carries the client's
//!   certificate past its verification, so tickets end with the configuration that gave them: who is revoked does not
//!   come in by an older ticket.
//! - A revocation list is asked about the client's own certificate; one whose issuer has no list is refused.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use metrics::{Counter, counter};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ProtocolVersion, RootCertStore, ServerConnection};

use super::{ClientCertificates, Config, TlsVersion};

/// What TLS says about a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsSession {
    /// `1.2` or `1.3`.
    pub version: &'static str,
    /// Whether the client came back with a ticket, which spares both sides the expensive part.
    pub resumed: bool,
    /// The client's verified certificate, DER.
    pub certificate: Option<CertificateDer<'static>>,
}

impl TlsSession {
    pub(super) fn of(connection: &ServerConnection) -> Self {
        let certificates = connection.peer_certificates().unwrap_or_default();
        Self {
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "1.2",
                _ => "1.3",
            },
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            certificate: certificates.first().map(|certificate| certificate.clone().into_owned()),
        }
    }
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path} (setting `listen.{setting}`)")]
    Read {
        /// The setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file has nothing in it that was looked for.
    #[error("{path} has no {what} in PEM (setting `listen.{setting}`)")]
    Pem {
        /// The setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// A certificate authority is none.
    #[error("an authority cannot be used (setting `listen.tls_client_ca_file`)")]
    Authority(#[source] rustls::Error),
    /// Authorities and revocation lists do not make a verifier.
    #[error("clients' certificates cannot be verified with these authorities and revocation lists")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    /// Certificate and key do not belong together, or are of a kind that is not known.
    #[error("certificate and key cannot be used together")]
    Server(#[source] rustls::Error),
}

/// The TLS configuration, and the files it is made of.
pub(crate) struct Certificates {
    config: Config,
    current: ArcSwap<ServerConfig>,
    /// What the files held when they were last used or refused.
    seen: Mutex<Files>,
    reloaded: Counter,
    failed: Counter,
}

impl Certificates {
    /// Reads the files.
    pub(super) fn open(config: &Config) -> Result<Arc<Self>, TlsError> {
        let files = Files::read(config)?;
        let current = files.configuration(config)?;
        Ok(Arc::new(Self {
            config: config.clone(),
            current: ArcSwap::new(current),
            seen: Mutex::new(files),
            reloaded: counter!("fleetpulse_gateway_tls_reloads_total", "outcome" => "used"),
            failed: counter!("fleetpulse_gateway_tls_reloads_total", "outcome" => "refused"),
        }))
    }

    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Reads the files again, and uses them where they changed. Says whether they did. Blocks on the file system.
    ///
    /// # Errors
    /// What the files hold cannot be used; what was used before still is.
    pub(crate) fn reload(&self) -> Result<bool, TlsError> {
        let outcome = self.read_again();
        match &outcome {
            Ok(true) => self.reloaded.increment(1),
            Ok(false) => {}
            Err(_) => self.failed.increment(1),
        }
        outcome
    }

    fn read_again(&self) -> Result<bool, TlsError> {
        let files = Files::read(&self.config)?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == files {
            return Ok(false);
        }
        // Remembered only where it is used: what is refused is told at each look until it is mended.
        self.current.store(files.configuration(&self.config)?);
        *seen = files;
        Ok(true)
    }
}

/// The content of the files. Holds the private key, so it has no `Debug`.
#[derive(PartialEq, Eq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authorities: Vec<u8>,
    revocations: Vec<u8>,
}

impl Files {
    fn read(config: &Config) -> Result<Self, TlsError> {
        let read = |setting, path: &str| {
            if path.is_empty() {
                return Ok(Vec::new());
            }
            std::fs::read(path).map_err(|source| TlsError::Read { setting, path: path.into(), source })
        };
        let asks = config.tls_client_certificates != ClientCertificates::Off;
        Ok(Self {
            certificate: read("tls_certificate_file", &config.tls_certificate_file)?,
            key: read("tls_key_file", &config.tls_key_file)?,
            authorities: if asks {
                read("tls_client_ca_file", &config.tls_client_ca_file)?
            } else {
                Vec::new()
            },
            revocations: if asks {
                read("tls_client_crl_file", &config.tls_client_crl_file)?
            } else {
                Vec::new()
            },
        })
    }

    fn configuration(&self, config: &Config) -> Result<Arc<ServerConfig>, TlsError> {
        let chain: Vec<CertificateDer<'static>> =
            all("tls_certificate_file", &config.tls_certificate_file, "certificate", &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| TlsError::Pem {
            setting: "tls_key_file",
            path: Path::new(&config.tls_key_file).to_owned(),
            what: "private key",
        })?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let versions: &[_] = match config.tls_version_min {
            TlsVersion::V1_2 => &[&TLS13, &TLS12],
            TlsVersion::V1_3 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(TlsError::Server)?;
        let builder = match config.tls_client_certificates {
            ClientCertificates::Off => builder.with_no_client_auth(),
            asks => {
                let path = &config.tls_client_ca_file;
                let mut roots = RootCertStore::empty();
                for authority in all("tls_client_ca_file", path, "certificate", &self.authorities)? {
                    roots.add(authority).map_err(TlsError::Authority)?;
                }
                let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                if !config.tls_client_crl_file.is_empty() {
                    let path = &config.tls_client_crl_file;
                    let lists: Vec<CertificateRevocationListDer<'static>> =
                        all("tls_client_crl_file", path, "revocation list", &self.revocations)?;
                    verifier = verifier.with_crls(lists).only_check_end_entity_revocation();
                }
                if asks == ClientCertificates::Optional {
                    verifier = verifier.allow_unauthenticated();
                }
                builder.with_client_cert_verifier(verifier.build().map_err(TlsError::Verifier)?)
            }
        };
        let mut server = builder.with_single_cert(chain, key).map_err(TlsError::Server)?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::Server)?;
        // A device has one connection: it needs one ticket to come back, not rustls' two.
        server.send_tls13_tickets = 1;
        Ok(Arc::new(server))
    }
}

/// Every item of one kind in a PEM text; at least one.
fn all<T: PemObject>(
    setting: &'static str,
    path: &str,
    what: &'static str,
    text: &[u8],
) -> Result<Vec<T>, TlsError> {
    match T::pem_slice_iter(text).collect::<Result<Vec<_>, _>>() {
        Ok(items) if !items.is_empty() => Ok(items),
        _ => Err(TlsError::Pem { setting, path: path.into(), what }),
    }
}
