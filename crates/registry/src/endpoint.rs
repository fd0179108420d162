//! The registry over HTTP: `/registry/v1/KIND`, described at `/registry/openapi.json`.
//!
//! Served on the writer's operations port, to whoever has the token; it is looked at before anything else. Bodies are bounded in bytes and in time,
//! requests in number; one that changes something waits for the one before it. Every refusal is JSON with `error`, a name for programs, and
//! `message`, for people.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{self, MethodFilter};
use ops::{BearerToken, NotAdmitted, TokenError};
use serde_json::{Value as Json, json};
use store::{Author, Store};
use tokio::sync::Semaphore;

use crate::import::{self, DeleteError, Import, ImportError, Run};
use crate::openapi::{self, Method, Operation, ROUTES, Route};
use crate::read::Format;
use crate::time::Time;
use crate::value::Value as _;
use crate::{Change, Config, Difference, Kind, write};

/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Problems, and changes, that an answer names; all are counted.
const NAMED_MAX: usize = 1_000;
/// Longest `who` and `why`.
const WORDS_MAX: usize = 200;
/// Changes of a history where nothing is said.
const HISTORY_ROWS: u32 = 100;

/// The HTTP side of the registry. Cheap to clone.
#[derive(Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

struct Inner {
    token: BearerToken,
    config: Config,
    store: Store,
    requests: Semaphore,
    /// One place: two that change the same entry at once would not see each other.
    changing: Semaphore,
}

impl Endpoint {
    /// Reads the token.
    ///
    /// # Errors
    /// Where its file is of no use.
    pub fn new(config: Config, store: Store) -> Result<Self, TokenError> {
        Ok(Self {
            inner: Arc::new(Inner {
                token: BearerToken::read(&config.token_file, "registry.token_file")?,
                requests: Semaphore::new(config.requests_max.into()),
                changing: Semaphore::new(1),
                config,
                store,
            }),
        })
    }

    /// The routes, for the operations server.
    pub fn routes(&self) -> Router {
        let described = || async { json_answer(StatusCode::OK, &openapi::description()) };
        let mut router = Router::new().route(openapi::DESCRIPTION, routing::get(described));
        for route in &ROUTES {
            let filter = match route.method {
                Method::Get => MethodFilter::GET,
                Method::Post => MethodFilter::POST,
                Method::Put => MethodFilter::PUT,
                Method::Delete => MethodFilter::DELETE,
            };
            let serve = move |State(endpoint): State<Self>,
                              Path(path): Path<HashMap<String, String>>,
                              Query(query): Query<HashMap<String, String>>,
                              request: Request| async move {
                let asked = Asked { route, path, query };
                endpoint.serve(asked, request).await.unwrap_or_else(IntoResponse::into_response)
            };
            router = router.route(route.path, routing::on(filter, serve));
        }
        // What a router beside this one answers is its own business.
        router.with_state(self.clone())
    }

    async fn serve(&self, asked: Asked, request: Request) -> Result<Response, Refused> {
        let inner = &*self.inner;
        inner.token.admit(request.headers()).map_err(Refused::from)?;
        let _place = inner.requests.try_acquire().map_err(|_full| {
            Refused::new(StatusCode::SERVICE_UNAVAILABLE, "requests_max", "too many requests at once")
        })?;
        let kind = asked.kind()?;
        asked.parameters()?;
        let store = &inner.store;
        match asked.route.operation {
            Operation::List => {
                let limit = asked.number("limit", inner.config.page_rows_max, inner.config.page_rows_max)?;
                let after = asked.query.get("after").map(String::as_str).unwrap_or_default();
                let rows = import::page(store, kind, after, limit).await?;
                let full = u32::try_from(rows.len()).is_ok_and(|count| count >= limit);
                let next = rows.last().filter(|_| full).map(|row| import::id(kind, row));
                let rows: Vec<Json> = rows.iter().map(|row| write::object(kind, row).into()).collect();
                Ok(json_answer(StatusCode::OK, &json!({ "rows": rows, "next": next })))
            }
            Operation::Get => match import::row(store, kind, asked.id()).await? {
                Some(row) => Ok(json_answer(StatusCode::OK, &write::object(kind, &row).into())),
                None => Err(Refused::new(
                    StatusCode::NOT_FOUND,
                    "not_found",
                    format!("{:?} is not among the {kind}", asked.id()),
                )),
            },
            Operation::History => {
                let limit = asked.number("limit", HISTORY_ROWS, inner.config.page_rows_max)?;
                let changes = store.registry_history(kind.word(), asked.id(), limit).await?;
                let changes: Vec<Json> = changes.iter().map(noted).collect();
                Ok(json_answer(StatusCode::OK, &json!({ "changes": changes })))
            }
            Operation::Delete => {
                let _turn = inner.changing.acquire().await;
                import::delete(store, kind, asked.id(), asked.author()?).await?;
                Ok(json_answer(StatusCode::OK, &json!({ "id": asked.id() })))
            }
            Operation::Put => {
                let (author, run) = (asked.author()?, asked.run()?);
                let body = inner.body(request).await?;
                let _turn = inner.changing.acquire().await;
                let difference = import::put(store, kind, asked.id(), &body, author, run).await?;
                Ok(json_answer(StatusCode::OK, &made(&difference, run)))
            }
            Operation::Import => {
                let (author, run, format) = (asked.author()?, asked.run()?, asked.format()?);
                let (who, why) = (author.who.to_owned(), author.why.to_owned());
                let text = inner.body(request).await?;
                let _turn = inner.changing.acquire().await;
                let import = Import { kind, text, format, who, why, run };
                let difference = import::import(store, import, &mut |_| {}).await?;
                Ok(json_answer(StatusCode::OK, &made(&difference, run)))
            }
        }
    }
}

impl Inner {
    async fn body(&self, request: Request) -> Result<Vec<u8>, Refused> {
        let body = axum::body::to_bytes(request.into_body(), self.config.body_bytes_max as usize);
        let body = tokio::time::timeout(BODY_TIMEOUT, body).await.map_err(|_| {
            Refused::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body took too long")
        })?;
        let body = body.map_err(|_| {
            Refused::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_bytes_max",
                format!("the body is larger than {} bytes or broke off", self.config.body_bytes_max),
            )
        })?;
        Ok(body.into())
    }
}

/// Without the token.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("token", &self.inner.token).finish_non_exhaustive()
    }
}

/// What a request asks for.
struct Asked {
    route: &'static Route,
    path: HashMap<String, String>,
    query: HashMap<String, String>,
}

impl Asked {
    fn kind(&self) -> Result<Kind, Refused> {
        let kind = self.path.get("kind").map(String::as_str).unwrap_or_default();
        kind.parse().map_err(|error: crate::UnknownKind| {
            Refused::new(StatusCode::NOT_FOUND, "not_found", error.to_string())
        })
    }

    fn id(&self) -> &str {
        self.path.get("id").map(String::as_str).unwrap_or_default()
    }

    /// A parameter that nobody knows is a mistake, and not silence: `dryrun=true` must not change anything.
    fn parameters(&self) -> Result<(), Refused> {
        let unknown =
            self.query.keys().find(|name| !self.route.query.iter().any(|known| known.name == **name));
        unknown.map_or(Ok(()), |name| Err(Refused::parameter(name, "is not known here")))
    }

    fn number(&self, name: &'static str, default: u32, max: u32) -> Result<u32, Refused> {
        let Some(text) = self.query.get(name) else {
            return Ok(default.min(max));
        };
        let number = text.parse().ok().filter(|number| (1..=max).contains(number));
        number.ok_or_else(|| Refused::parameter(name, &format!("is not a number from 1 to {max}")))
    }

    fn run(&self) -> Result<Run, Refused> {
        match self.query.get("dry_run").map(String::as_str) {
            None | Some("false") => Ok(Run::Real),
            Some("true") => Ok(Run::Dry),
            Some(_) => Err(Refused::parameter("dry_run", "is neither true nor false")),
        }
    }

    fn format(&self) -> Result<Option<Format>, Refused> {
        match self.query.get("format").map(String::as_str) {
            None => Ok(None),
            Some("csv") => Ok(Some(Format::Csv)),
            Some("json") => Ok(Some(Format::Json)),
            Some(_) => Err(Refused::parameter("format", "is neither csv nor json")),
        }
    }

    fn author(&self) -> Result<Author<'_>, Refused> {
        let words = |name: &'static str, default: &'static str| {
            let text = self.query.get(name).map_or(default, String::as_str);
            if text.chars().count() <= WORDS_MAX && !text.chars().any(char::is_control) {
                return Ok(text);
            }
            Err(Refused::parameter(
                name,
                &format!("has more than {WORDS_MAX} characters, or some that are none"),
            ))
        };
        Ok(Author { who: words("who", "api")?, why: words("why", "")? })
    }
}

fn made(difference: &Difference, run: Run) -> Json {
    let created = difference.changes.iter().filter(|change| change.created).count();
    let change = |change: &Change| {
        let what = change.what.iter();
        json!({
            "id": change.id,
            "change": if change.created { "created" } else { "changed" },
            "what": what.map(|(field, before, after)| json!({ "field": field, "before": before, "after": after }))
                .collect::<Vec<_>>(),
        })
    };
    json!({
        "dry_run": run == Run::Dry,
        "created": created,
        "changed": difference.changes.len() - created,
        "unchanged": difference.unchanged,
        "changes": difference.changes.iter().take(NAMED_MAX).map(change).collect::<Vec<_>>(),
    })
}

fn noted(change: &store::RegistryChange) -> Json {
    let what = change.what.iter();
    json!({
        "at": Time::from_ms(change.at).cell(),
        "change": change.change,
        "who": change.who,
        "why": change.why,
        "what": what.map(|(field, before, after)| json!({ "field": field, "before": before, "after": after }))
            .collect::<Vec<_>>(),
    })
}

/// A request that was refused.
struct Refused {
    status: StatusCode,
    error: &'static str,
    message: String,
    problems: Option<Json>,
}

impl Refused {
    fn new(status: StatusCode, error: &'static str, message: impl Into<String>) -> Self {
        Self { status, error, message: message.into(), problems: None }
    }

    fn parameter(name: &str, message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "parameter", format!("the parameter {name:?} {message}"))
    }

    /// Logged here, where it is handled: the caller hears no more than that it was not answered.
    fn unanswered(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::warn!(error, "a request to the registry failed");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "clickhouse",
            "clickhouse did not do it for certain: do the same again",
        )
    }
}

impl From<NotAdmitted> for Refused {
    fn from(why: NotAdmitted) -> Self {
        match why {
            NotAdmitted::NotConfigured => Self::new(
                StatusCode::FORBIDDEN,
                "not_configured",
                "the registry is not served: set `registry.token_file`",
            ),
            NotAdmitted::Unauthorized => Self::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "a bearer token is needed, and it was not this one",
            ),
        }
    }
}

impl From<store::QueryError> for Refused {
    fn from(error: store::QueryError) -> Self {
        Self::unanswered(&error)
    }
}

impl From<ImportError> for Refused {
    fn from(error: ImportError) -> Self {
        let ImportError::Invalid(problems) = &error else {
            return Self::unanswered(&error);
        };
        let named = problems.iter().take(NAMED_MAX);
        let named = named.map(|problem| {
            json!({
                "line": problem.line,
                "column": problem.column,
                "given": problem.given,
                "message": problem.fault.to_string(),
            })
        });
        let told = json!({ "problems": named.collect::<Vec<_>>(), "problems_total": problems.len() });
        let refused = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", error.to_string());
        Self { problems: Some(told), ..refused }
    }
}

impl From<DeleteError> for Refused {
    fn from(error: DeleteError) -> Self {
        match &error {
            DeleteError::None { .. } => Self::new(StatusCode::NOT_FOUND, "not_found", error.to_string()),
            DeleteError::Referred { .. } => Self::new(StatusCode::CONFLICT, "referred", error.to_string()),
            DeleteError::Query(_) | DeleteError::Insert(_) => Self::unanswered(&error),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        metrics::counter!("fleetpulse_registry_refused_total", "reason" => self.error).increment(1);
        let mut body = json!({ "error": self.error, "message": self.message });
        if let (Some(body), Some(Json::Object(problems))) = (body.as_object_mut(), self.problems) {
            body.extend(problems);
        }
        let mut answer = json_answer(self.status, &body);
        if self.status == StatusCode::UNAUTHORIZED {
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        answer
    }
}

fn json_answer(status: StatusCode, body: &Json) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}
