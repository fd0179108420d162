//! The routes of the API, in one table, and its description (OpenAPI 3.1), made from that table and from the columns of the kinds.

use serde_json::{Map, Value as Json, json};

use crate::Kind;
use crate::entry::Column;
use crate::value::Shape;

/// Where the description is served.
pub(crate) const DESCRIPTION: &str = "/registry/openapi.json";

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    List,
    Import,
    Get,
    Put,
    Delete,
    History,
}

/// A method of HTTP, as far as it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Post,
    Put,
    Delete,
}

impl Method {
    fn word(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Post => "post",
            Self::Put => "put",
            Self::Delete => "delete",
        }
    }
}

/// A parameter behind the question mark.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameter {
    pub name: &'static str,
    pub meaning: &'static str,
    pub kind: &'static str,
}

/// A route.
#[derive(Debug)]
pub(crate) struct Route {
    pub method: Method,
    pub path: &'static str,
    pub operation: Operation,
    pub summary: &'static str,
    pub query: &'static [Parameter],
    /// Name of its answer's schema.
    pub answer: &'static str,
    /// What it may answer but 200 and what every route may.
    pub refusals: &'static [(u16, &'static str)],
}

const WHO: Parameter =
    Parameter { name: "who", meaning: "who does it, for the history; `api` if not given", kind: "string" };
const WHY: Parameter = Parameter { name: "why", meaning: "why, for the history", kind: "string" };
const DRY_RUN: Parameter =
    Parameter { name: "dry_run", meaning: "tell what would change, and change nothing", kind: "boolean" };
const LIMIT: Parameter = Parameter { name: "limit", meaning: "most rows", kind: "integer" };
const AFTER: Parameter = Parameter {
    name: "after",
    meaning: "the key after which the page begins: `next` of the page before",
    kind: "string",
};
const FORMAT: Parameter =
    Parameter { name: "format", meaning: "`csv` or `json`; by its beginning if not given", kind: "string" };

const NOT_FOUND: (u16, &str) = (404, "there is no such entry");
const WRONG: (u16, &str) = (422, "what was sent is wrong, with every problem; nothing was changed");
const REFERRED: (u16, &str) = (409, "others refer to it");

/// Every route. The router serves these and no others; the description describes these and no others.
pub(crate) const ROUTES: [Route; 6] = [
    Route {
        method: Method::Get,
        path: "/registry/v1/{kind}",
        operation: Operation::List,
        summary: "entries, in the order of their keys",
        query: &[LIMIT, AFTER],
        answer: "Page",
        refusals: &[],
    },
    Route {
        method: Method::Post,
        path: "/registry/v1/{kind}",
        operation: Operation::Import,
        summary: "import a file: what differs from what stands is changed, what it does not name stays",
        query: &[DRY_RUN, FORMAT, WHO, WHY],
        answer: "Imported",
        refusals: &[WRONG],
    },
    Route {
        method: Method::Get,
        path: "/registry/v1/{kind}/{id}",
        operation: Operation::Get,
        summary: "an entry",
        query: &[],
        answer: "Entry",
        refusals: &[NOT_FOUND],
    },
    Route {
        method: Method::Put,
        path: "/registry/v1/{kind}/{id}",
        operation: Operation::Put,
        summary: "put an entry in its place; what it does not name is empty then",
        query: &[DRY_RUN, WHO, WHY],
        answer: "Imported",
        refusals: &[WRONG],
    },
    Route {
        method: Method::Delete,
        path: "/registry/v1/{kind}/{id}",
        operation: Operation::Delete,
        summary: "delete an entry that no other refers to; its history stays",
        query: &[WHO, WHY],
        answer: "Deleted",
        refusals: &[NOT_FOUND, REFERRED],
    },
    Route {
        method: Method::Get,
        path: "/registry/v1/{kind}/{id}/history",
        operation: Operation::History,
        summary: "what was changed of an entry, the newest first",
        query: &[LIMIT],
        answer: "History",
        refusals: &[],
    },
];

/// What every route may answer.
const REFUSALS: [(u16, &str); 6] = [
    (400, "a parameter is wrong"),
    (401, "a bearer token is needed, and it was not this one"),
    (403, "no token is configured: nobody is let in"),
    (408, "the body took too long"),
    (413, "the body is larger than `registry.body_bytes_max`, or broke off"),
    (503, "too many requests at once, or ClickHouse does not answer"),
];

/// The description.
pub(crate) fn description() -> Json {
    let mut paths = Map::new();
    for kind in Kind::ALL {
        for route in &ROUTES {
            let path = route.path.replace("{kind}", kind.word());
            let methods = paths.entry(path).or_insert_with(|| json!({}));
            methods[route.method.word()] = operation(kind, route);
        }
    }
    let mut schemas: Map<String, Json> =
        Kind::ALL.into_iter().map(|kind| (kind.word().to_owned(), entry(kind))).collect();
    schemas.extend(answers());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "fleetpulse registry",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Customers, fleets, plans, SIMs, devices, budgets, shipments and tickets of a fleet. Every change is kept with who, when and why.",
        },
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas,
        },
    })
}

fn operation(kind: Kind, route: &Route) -> Json {
    let mut parameters: Vec<Json> = Vec::new();
    if route.path.contains("{id}") {
        let key: Vec<&str> = kind.columns()[..kind.key()].iter().map(|column| column.name).collect();
        parameters.push(json!({
            "name": "id", "in": "path", "required": true, "schema": { "type": "string" },
            "description": format!("its key: {}", key.join(",")),
        }));
    }
    parameters.extend(route.query.iter().map(|parameter| {
        json!({
            "name": parameter.name, "in": "query", "description": parameter.meaning,
            "schema": { "type": parameter.kind },
        })
    }));
    let answer = match route.answer {
        "Entry" => schema(kind.word()),
        "Page" => json!({ "type": "object", "required": ["rows", "next"], "properties": {
            "rows": { "type": "array", "items": schema(kind.word()) },
            "next": { "type": ["string", "null"], "description": "`after` of the next page; null: this was the last" },
        }}),
        name => schema(name),
    };
    let mut responses = Map::new();
    responses.insert("200".into(), response("as asked", &answer));
    for (status, meaning) in REFUSALS.iter().chain(route.refusals) {
        responses.insert(status.to_string(), response(meaning, &schema("Refused")));
    }
    let mut operation = json!({
        "operationId": format!("{}_{}", kind.word(), format!("{:?}", route.operation).to_lowercase()),
        "summary": route.summary,
        "tags": [kind.word()],
        "parameters": parameters,
        "responses": responses,
    });
    let body = match route.operation {
        Operation::Put => Some(json!({ "application/json": { "schema": schema(kind.word()) } })),
        Operation::Import => Some(json!({
            "text/csv": { "schema": { "type": "string" } },
            "application/json": { "schema": { "type": "array", "items": schema(kind.word()) } },
        })),
        _ => None,
    };
    if let Some(content) = body {
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    operation
}

fn response(meaning: &str, schema: &Json) -> Json {
    json!({ "description": meaning, "content": { "application/json": { "schema": schema } } })
}

fn schema(name: &str) -> Json {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn entry(kind: Kind) -> Json {
    let properties: Map<String, Json> =
        kind.columns().iter().map(|column| (column.name.to_owned(), property(column))).collect();
    let required: Vec<&str> =
        kind.columns().iter().filter(|column| column.required()).map(|column| column.name).collect();
    json!({ "type": "object", "additionalProperties": false, "required": required, "properties": properties })
}

fn property(column: &Column) -> Json {
    let (kind, mut property) = match column.shape {
        Shape::Integer { min, max } => ("integer", json!({ "minimum": min, "maximum": max })),
        Shape::Amount => ("string", json!({ "pattern": r"^\d{1,12}(\.\d{1,6})?$" })),
        Shape::Day => ("string", json!({ "format": "date" })),
        Shape::Month => ("string", json!({ "pattern": r"^\d{4}-\d{2}$" })),
        Shape::Time => ("string", json!({ "format": "date-time" })),
        Shape::Choice(words) => ("string", json!({ "pattern": format!("^({})$", words.join("|")) })),
        Shape::Tiers => {
            let tier = json!({ "type": "object", "required": ["from_mb", "price_per_mb"],
                "properties": { "from_mb": { "type": "string" }, "price_per_mb": { "type": "string" } } });
            ("array", json!({ "items": tier }))
        }
        Shape::Text(_) => ("string", json!({})),
    };
    property["type"] = if column.optional { json!([kind, "null"]) } else { kind.into() };
    property["description"] = column.doc.trim().into();
    if !column.default.is_empty() {
        property["default"] = match column.shape {
            Shape::Integer { .. } => column.default.parse::<u32>().map_or(Json::Null, Json::from),
            _ => column.default.into(),
        };
    }
    property
}

fn answers() -> Map<String, Json> {
    let text = || json!({ "type": "string" });
    let number = || json!({ "type": "integer" });
    let list = |items: Json| json!({ "type": "array", "items": items });
    let object = |properties: Json| json!({ "type": "object", "properties": properties });
    let what = || list(object(json!({ "field": text(), "before": text(), "after": text() })));
    let schemas = [
        (
            "Imported",
            object(json!({
                "dry_run": { "type": "boolean" },
                "created": number(), "changed": number(), "unchanged": number(),
                "changes": list(object(json!({ "id": text(), "change": text(), "what": what() }))),
            })),
        ),
        ("Deleted", object(json!({ "id": text() }))),
        (
            "History",
            object(json!({
                "changes": list(object(json!({
                    "at": { "type": "string", "format": "date-time" },
                    "change": text(), "who": text(), "why": text(), "what": what(),
                }))),
            })),
        ),
        (
            "Refused",
            object(json!({
                "error": text(), "message": text(),
                "problems": list(object(json!({
                    "line": number(), "column": { "type": ["string", "null"] }, "given": text(), "message": text(),
                }))),
                "problems_total": number(),
            })),
        ),
    ];
    schemas.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect()
}
