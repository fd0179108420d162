//! A service of the operator's that is asked over HTTP.
//!
//! One POST a login, with a deadline, so many at once; answers are remembered for a while; after some failures in a row the
//! service is left alone. While it does not answer nobody of its clients gets in, and none is taken for a liar: that is
//! [`Denied::Unavailable`].

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use crate::digest::Key;
use crate::file::{self, FileProblem};
use crate::gate::Gate;
use crate::principal::{self, CredentialId, Found, Verdict};
use crate::{Config, Credentials, Denied, Kind};
use answers::Answers;
use breaker::Breaker;

mod answers;
mod breaker;

/// Largest answer that is read, bytes.
const ANSWER_BYTES_MAX: usize = 16_384;
/// How long an unused connection is kept: shorter than servers keep theirs, so that a question does not meet a closed one.
const IDLE: Duration = Duration::from_secs(4);

/// The service.
pub(crate) struct Hook {
    uri: Uri,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
    allow_for: Duration,
    deny_for: Duration,
    gate: Gate,
    breaker: Breaker,
    answers: Answers,
    key: Arc<Key>,
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An address may have a password in it.
        f.debug_struct("Hook").field("host", &self.uri.host()).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Question<'a> {
    client_id: &'a str,
    username: Option<&'a str>,
    password: Option<&'a str>,
    peer: String,
}

#[derive(Deserialize)]
struct Said {
    result: Word,
    device_id: Option<String>,
    fleet: Option<String>,
    kind: Option<KindSaid>,
    expires_in_s: Option<u32>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Allow,
    Deny,
    Ignore,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KindSaid {
    Device,
    Service,
}

/// What the service said, as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Allow { kind: Kind, name: Option<Arc<str>>, fleet: Option<Arc<str>>, expires_at: Option<SystemTime> },
    Deny,
    Ignore,
}

/// A question without an answer.
enum Failed {
    Timeout,
    Connection,
    Status(StatusCode),
    NotUnderstood,
}

impl Failed {
    fn name(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Connection => "connection",
            Self::Status(_) => "status",
            Self::NotUnderstood => "not_understood",
        }
    }
}

impl Hook {
    /// None where no address is set.
    pub(crate) fn open(config: &Config, key: Arc<Key>) -> Result<Option<Self>, Vec<FileProblem>> {
        if config.http_url.is_empty() {
            return Ok(None);
        }
        let uri = config
            .http_url
            .parse::<Uri>()
            .map_err(|error| file::wrong("access.http_url", error.to_string()))?;
        let millis = |millis: u32| Duration::from_millis(u64::from(millis));
        let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector(&uri, &config.http_ca_file)?);
        Ok(Some(Self {
            uri,
            client,
            timeout: millis(config.http_timeout_ms),
            allow_for: seconds(config.http_cache_s),
            deny_for: seconds(config.http_deny_cache_s),
            gate: Gate::new(config.http_concurrent_max, config.http_queue_max),
            breaker: Breaker::new(config.http_breaker_failures, millis(config.http_breaker_open_ms)),
            answers: Answers::new(config.http_cache_max),
            key,
        }))
    }

    /// What the service says about a client. Cancel safe: a question that is given up counts neither way.
    pub(crate) async fn check(&self, credentials: &Credentials<'_>) -> Verdict {
        // The service is asked in JSON. A password that is no text cannot be one that it gave out.
        let password = credentials.password.map(std::str::from_utf8).transpose();
        let Ok(password) = password else { return Some(Err(Denied::WrongSecret)) };
        let question = Question {
            client_id: credentials.client_id,
            username: credentials.username,
            password,
            peer: credentials.peer.to_string(),
        };
        let id = self.key.of(&[
            question.client_id.as_bytes(),
            question.username.unwrap_or_default().as_bytes(),
            &[u8::from(question.username.is_some())],
            question.password.unwrap_or_default().as_bytes(),
            &[u8::from(question.password.is_some())],
            question.peer.as_bytes(),
        ]);
        let answer = match self.answers.get(&id, Instant::now()) {
            Some(answer) => {
                count("remembered");
                answer
            }
            None => match self.ask(&question).await {
                Err(denied) => return Some(Err(denied)),
                Ok(answer) => {
                    let keep =
                        if matches!(answer, Answer::Allow { .. }) { self.allow_for } else { self.deny_for };
                    self.answers.put(id, answer.clone(), Instant::now(), keep);
                    answer
                }
            },
        };
        match answer {
            Answer::Ignore => None,
            Answer::Deny => Some(Err(Denied::Refused)),
            Answer::Allow { kind, name, fleet, expires_at } => {
                Some(found(credentials, kind, name, fleet, expires_at))
            }
        }
    }

    async fn ask(&self, question: &Question<'_>) -> Result<Answer, Denied> {
        let deadline = tokio::time::Instant::now() + self.timeout;
        let pass = match tokio::time::timeout_at(deadline, self.gate.enter()).await {
            Ok(Ok(pass)) => pass,
            Ok(Err(_)) | Err(_) => {
                count("busy");
                return Err(Denied::Busy);
            }
        };
        let Some(trial) = self.breaker.admit(Instant::now()) else {
            count("open");
            return Err(Denied::Unavailable);
        };
        let asked = Instant::now();
        let outcome = match tokio::time::timeout(self.timeout, self.post(question)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failed::Timeout),
        };
        drop(pass);
        metrics::histogram!("fleetpulse_gateway_hook_seconds").record(asked.elapsed().as_secs_f64());
        match outcome {
            Ok(answer) => {
                if trial.succeeded() {
                    tracing::info!("the service that decides about clients answers again");
                }
                count(match answer {
                    Answer::Allow { .. } => "allow",
                    Answer::Deny => "deny",
                    Answer::Ignore => "ignore",
                });
                Ok(answer)
            }
            Err(failed) => {
                count(failed.name());
                if trial.failed(Instant::now()) {
                    let status = if let Failed::Status(status) = &failed { status.as_u16() } else { 0 };
                    tracing::error!(
                        reason = failed.name(),
                        status,
                        host = self.uri.host(),
                        "the service that decides about clients is left alone: too many failures in a row"
                    );
                }
                Err(Denied::Unavailable)
            }
        }
    }

    async fn post(&self, question: &Question<'_>) -> Result<Answer, Failed> {
        let body = serde_json::to_vec(question).map_err(|_| Failed::NotUnderstood)?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.uri.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| Failed::Connection)?;
        let response = self.client.request(request).await.map_err(|_| Failed::Connection)?;
        if response.status() != StatusCode::OK {
            return Err(Failed::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|_| Failed::NotUnderstood)?.to_bytes();
        let said: Said = serde_json::from_slice(&body).map_err(|_| Failed::NotUnderstood)?;
        answer(said)
    }
}

fn answer(said: Said) -> Result<Answer, Failed> {
    let name = |text: Option<String>| {
        text.as_deref().map(principal::name).transpose().map_err(|_| Failed::NotUnderstood)
    };
    Ok(match said.result {
        Word::Deny => Answer::Deny,
        Word::Ignore => Answer::Ignore,
        Word::Allow => Answer::Allow {
            kind: if matches!(said.kind, Some(KindSaid::Service)) { Kind::Service } else { Kind::Device },
            name: name(said.device_id)?,
            fleet: name(said.fleet)?,
            expires_at: said
                .expires_in_s
                .and_then(|seconds| SystemTime::now().checked_add(Duration::from_secs(u64::from(seconds)))),
        },
    })
}

fn found(
    credentials: &Credentials<'_>,
    kind: Kind,
    name: Option<Arc<str>>,
    fleet: Option<Arc<str>>,
    expires_at: Option<SystemTime>,
) -> Result<Found, Denied> {
    let name = match (name, kind) {
        (Some(name), _) => name,
        (None, Kind::Device) => principal::name(credentials.client_id)?,
        (None, Kind::Service) => principal::name(credentials.username.unwrap_or(credentials.client_id))?,
    };
    Ok(Found { kind, name, fleet, expires_at, credential: CredentialId::Http })
}

fn connector(uri: &Uri, ca_file: &str) -> Result<HttpsConnector<HttpConnector>, Vec<FileProblem>> {
    let builder = hyper_rustls::HttpsConnectorBuilder::new();
    let is_plain = uri.scheme_str() == Some("http");
    let builder = if ca_file.is_empty() && !is_plain {
        builder.with_provider_and_native_roots(default_provider()).map_err(|error| {
            file::wrong(
                "access.http_ca_file",
                format!("is empty, and the system has no authorities: {error}"),
            )
        })?
    } else {
        let wrong = |error: &dyn fmt::Display| {
            file::wrong(ca_file, format!("is no PEM file of authorities: {error}"))
        };
        let mut roots = RootCertStore::empty();
        // Over plain HTTP nobody is checked, and a system without authorities is no obstacle.
        if !ca_file.is_empty() {
            let content = file::bytes(ca_file)?;
            for certificate in CertificateDer::pem_slice_iter(&content) {
                let certificate = certificate.map_err(|error| wrong(&error))?;
                roots.add(certificate).map_err(|error| wrong(&error))?;
            }
            if roots.is_empty() {
                return Err(wrong(&"there is none"));
            }
        }
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        builder.with_tls_config(config)
    };
    Ok(builder.https_or_http().enable_http1().build())
}

fn count(outcome: &'static str) {
    metrics::counter!("fleetpulse_gateway_hook_answers_total", "outcome" => outcome).increment(1);
}

#[cfg(test)]
mod tests;
