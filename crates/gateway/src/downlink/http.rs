//! Commands over HTTP: `POST /v1/devices/{device_id}/commands`, and `GET .../commands/{command_id}` for one that waits.
//!
//! Served on the operations port, to whoever has the token. The token is looked at before the body; the body is bounded in bytes
//! and in time, the requests in number. Every refusal is JSON with `error`, a name for programs, and `message`, for people.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use event::{DeviceId, Millis};
use ops::{BearerToken, NotAdmitted, TokenError};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{CommandId, Config, Downlink, IssueError, NewCommand};

/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Room in the body for what stands around the payload.
const AROUND_PAYLOAD_BYTES: usize = 4_096;

/// The HTTP side of the commands. Cheap to clone. Answers 503 until it is attached.
#[derive(Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

struct Inner {
    token: BearerToken,
    body_bytes_max: usize,
    requests: Semaphore,
    downlink: OnceLock<Downlink>,
}

impl Endpoint {
    /// Reads the token.
    ///
    /// # Errors
    /// Where the file cannot be read or has no token.
    pub fn new(config: &Config) -> Result<Self, TokenError> {
        Ok(Self {
            inner: Arc::new(Inner {
                token: BearerToken::read(&config.token_file, "commands.token_file")?,
                // Escapes and base64 make a payload larger, at most twice where it is not mostly control characters.
                body_bytes_max: config.payload_bytes_max as usize * 2 + AROUND_PAYLOAD_BYTES,
                requests: Semaphore::new(config.requests_max.into()),
                downlink: OnceLock::new(),
            }),
        })
    }

    /// From now on commands are taken in.
    pub fn attach(&self, downlink: Downlink) {
        // A second one would be of the same node.
        let _first_stays = self.inner.downlink.set(downlink);
    }

    /// The routes, for the operations server.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/v1/devices/{device_id}/commands", post(issue))
            .route("/v1/devices/{device_id}/commands/{command_id}", get(look))
            .with_state(self.clone())
    }

    fn admit(&self, headers: &HeaderMap) -> Result<&Downlink, Refused> {
        self.inner.token.admit(headers).map_err(Refused::from)?;
        self.inner.downlink.get().ok_or_else(|| {
            Refused::new(StatusCode::SERVICE_UNAVAILABLE, "starting", "the gateway is still starting")
        })
    }
}

/// Without the token.
impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("token", &self.inner.token).finish_non_exhaustive()
    }
}

/// A body, as it is documented in deploy/README.md.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    name: String,
    payload: Option<Box<RawValue>>,
    payload_base64: Option<String>,
    content_type: Option<String>,
    qos: Option<u8>,
    expires_in_s: Option<u32>,
    issued_by: Option<String>,
}

async fn issue(
    State(endpoint): State<Endpoint>,
    Path(device_id): Path<String>,
    request: Request,
) -> Result<Response, Refused> {
    let downlink = endpoint.admit(request.headers())?;
    let _place = endpoint.inner.requests.try_acquire().map_err(|_full| {
        count_refused("requests_max");
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, "requests_max", "too many requests at once")
    })?;
    let device_id = DeviceId::new(&device_id).map_err(|error| Refused::bad("device_id", &error))?;
    let body = axum::body::to_bytes(request.into_body(), endpoint.inner.body_bytes_max);
    let body = tokio::time::timeout(BODY_TIMEOUT, body)
        .await
        .map_err(|_| Refused::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body took too long"))?
        .map_err(|_| {
            Refused::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_bytes_max",
                "the body is too large or broke off",
            )
        })?;
    let issued = downlink.issue(command(device_id, &body)?).await.map_err(Refused::from)?;
    let answer = serde_json::json!({
        "command_id": issued.command_id.to_string(),
        "expires_at_ms": issued.expires_at.0,
        "expires_at": rfc_3339(issued.expires_at),
    });
    Ok(json(StatusCode::ACCEPTED, &answer))
}

fn command(device_id: DeviceId, body: &[u8]) -> Result<NewCommand, Refused> {
    let body: Body = serde_json::from_slice(body).map_err(|error| Refused::bad("body", &error))?;
    let (payload, content_type) = match (body.payload, body.payload_base64) {
        (Some(_), Some(_)) => {
            return Err(Refused::bad("payload", &"`payload` and `payload_base64` exclude each other"));
        }
        (Some(json), None) => (Bytes::copy_from_slice(json.get().as_bytes()), "application/json"),
        (None, Some(text)) => {
            (BASE64.decode(text).map_err(|error| Refused::bad("payload_base64", &error))?.into(), "")
        }
        (None, None) => (Bytes::new(), ""),
    };
    Ok(NewCommand {
        device_id,
        name: body.name,
        payload,
        qos: body.qos.unwrap_or(1),
        content_type: body.content_type.unwrap_or_else(|| content_type.to_owned()),
        expires_in_s: body.expires_in_s,
        issued_by: body.issued_by.unwrap_or_else(|| "http".to_owned()),
    })
}

async fn look(
    State(endpoint): State<Endpoint>,
    Path((device_id, command_id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let downlink = endpoint.admit(&headers)?;
    let id = Uuid::parse_str(&command_id).map_err(|error| Refused::bad("command_id", &error))?;
    let waiting = downlink.waiting(CommandId(id)).filter(|command| command.device_id.as_str() == device_id);
    let Some(command) = waiting else {
        return Err(Refused::new(
            StatusCode::NOT_FOUND,
            "not_waiting",
            "no such command waits: it is settled, over or was never issued; the table `command_status` tells",
        ));
    };
    let answer = serde_json::json!({
        "command_id": command.id.to_string(),
        "device_id": command.device_id.as_str(),
        "name": command.name,
        "state": "waiting",
        "issued_at": rfc_3339(command.issued_at),
        "expires_at": rfc_3339(command.expires_at),
    });
    Ok(json(StatusCode::OK, &answer))
}

/// A request that was refused.
struct Refused {
    status: StatusCode,
    error: &'static str,
    message: String,
}

impl Refused {
    fn new(status: StatusCode, error: &'static str, message: impl Into<String>) -> Self {
        Self { status, error, message: message.into() }
    }

    fn bad(error: &'static str, message: &impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, message.to_string())
    }
}

impl From<NotAdmitted> for Refused {
    fn from(why: NotAdmitted) -> Self {
        match why {
            NotAdmitted::NotConfigured => Self::new(
                StatusCode::FORBIDDEN,
                "not_configured",
                "commands are not taken in: set `commands.token_file`",
            ),
            NotAdmitted::Unauthorized => Self::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "a bearer token is needed, and it was not this one",
            ),
        }
    }
}

impl From<IssueError> for Refused {
    fn from(error: IssueError) -> Self {
        let status = match &error {
            IssueError::Name(_)
            | IssueError::Qos(_)
            | IssueError::Life { .. }
            | IssueError::TooLong { .. } => StatusCode::BAD_REQUEST,
            IssueError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            IssueError::Full(_) => StatusCode::TOO_MANY_REQUESTS,
            IssueError::Busy | IssueError::Queue(_) | IssueError::NotStored(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        Self::new(status, error.reason(), error.to_string())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error": self.error, "message": self.message });
        let mut answer = json(self.status, &body);
        if self.status == StatusCode::UNAUTHORIZED {
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        answer
    }
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

fn count_refused(reason: &'static str) {
    metrics::counter!("fleetpulse_gateway_commands_refused_total", "reason" => reason).increment(1);
}

fn rfc_3339(at: Millis) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| at.0.to_string(), |at| at.to_string())
}
