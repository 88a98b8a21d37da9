//! `/openapi.json` (OpenAPI 3.1): kept by hand beside this file, completed with the issuer and the version that runs. A test in
//! `lib.rs` fails when it misses a route or invents one.
use serde_json::{Value, json};

/// The document.
pub(crate) fn document(issuer: &str, version: &str) -> Value {
    // The file is part of the program and parsed by the test above; an unreadable one would be an empty object.
    let mut document: Value = serde_json::from_str(include_str!("openapi.json")).unwrap_or_default();
    document["servers"] = json!([{ "url": issuer }]);
    document["info"]["version"] = version.into();
    document
}
