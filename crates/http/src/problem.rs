//! Refusals as RFC 9457 problems: `{type, title, status, detail, code, request_id}` and the members that a code names.
//!
//! A handler returns a [`Problem`]; it travels as an extension of an empty response, and the outermost layer writes the body,
//! for it knows the request's id and whether a program or a browser is asking.
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use portcullis_app::AppError;
use portcullis_domain::Refused;
use portcullis_wire::Code;
use serde_json::{Map, Value};

/// The challenge of HTTP Basic, in the same realm as Bearer's.
pub const BASIC_CHALLENGE: &str = "Basic realm=\"portcullis\", charset=\"UTF-8\"";

/// A refusal, ready to be written.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The one word that programs read.
    pub code: Code,
    /// What to do, in words.
    pub detail: String,
    extra: Vec<(&'static str, Value)>,
    headers: Vec<(HeaderName, HeaderValue)>,
    form: Form,
    /// In place of the code's own.
    status: Option<StatusCode>,
}

/// In which form a refusal is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// RFC 9457.
    Problem,
    /// RFC 6749 §5.2, with this `error`.
    OAuth(&'static str),
}

impl Problem {
    /// A problem with the usual advice for this code.
    pub fn new(code: Code) -> Self {
        Self { code, detail: advice(code).into(), extra: vec![], headers: vec![], form: Form::Problem, status: None }
    }
    /// The same code with other words.
    pub fn because(code: Code, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..Self::new(code) }
    }
    /// 400: the request cannot be read.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::because(Code::Malformed, detail)
    }
    /// 422: this member has a value that is not allowed.
    pub fn value(field: &str, detail: impl AsRef<str>) -> Self {
        let detail = format!("{field}: {}", detail.as_ref());
        Self::because(Code::InvalidValue, detail).with("field", field)
    }
    /// 404.
    pub fn not_found() -> Self {
        Self::new(Code::NotFound)
    }
    /// With other words.
    pub fn saying(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }
    /// With one more member.
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.extra.push((name, value.into()));
        self
    }
    /// With a header.
    pub fn header(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers.push((name, value));
        }
        self
    }
    /// With these `Set-Cookie` headers.
    pub fn cookies(self, cookies: Vec<String>) -> Self {
        cookies.into_iter().fold(self, |problem, cookie| problem.header(header::SET_COOKIE, cookie))
    }
    /// As an OAuth endpoint tells it (RFC 6749 §5.2).
    pub fn oauth(error: &'static str, code: Code, detail: impl Into<String>) -> Self {
        Self { form: Form::OAuth(error), ..Self::because(code, detail) }
    }
    /// 429: a stranger begins more than their share (RFC 9126 §2.3).
    fn too_often(wait_ms: i64) -> Self {
        let seconds = wait_ms.max(1).unsigned_abs().div_ceil(1000);
        let detail = format!("too many of these come from your network; come again in {seconds} s");
        let problem = Self { status: Some(StatusCode::TOO_MANY_REQUESTS), ..Self::because(Code::Overloaded, detail) };
        problem.header(header::RETRY_AFTER, seconds.to_string())
    }
    /// The same as an OAuth endpoint tells it, with this `error`.
    pub(crate) fn in_oauth(self, error: &'static str) -> Self {
        Self { form: Form::OAuth(error), ..self }
    }
    /// Whether it says what its code usually says.
    pub(crate) fn is_usual(&self) -> bool {
        self.detail == advice(self.code)
    }
    /// The reason that came with it, if one did.
    pub fn reason(&self) -> Option<&str> {
        self.extra.iter().find(|(name, _)| *name == "reason").and_then(|(_, value)| value.as_str())
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        let usual = || StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        self.status.unwrap_or_else(usual)
    }

    /// The headers that go with it.
    pub fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    /// Content type and body for programs.
    pub fn body(&self, request_id: &str) -> (&'static str, String) {
        if let Form::OAuth(error) = self.form {
            let body = serde_json::json!({ "error": error, "error_description": described(&self.detail) });
            return ("application/json", body.to_string());
        }
        let mut body = Map::new();
        body.insert("type".into(), format!("urn:portcullis:problem:{}", self.code).into());
        body.insert("title".into(), self.code.title().into());
        body.insert("status".into(), self.status().as_u16().into());
        body.insert("detail".into(), self.detail.clone().into());
        body.insert("code".into(), self.code.as_str().into());
        for (name, value) in &self.extra {
            body.insert((*name).into(), value.clone());
        }
        body.insert("request_id".into(), request_id.into());
        ("application/problem+json", Value::Object(body).to_string())
    }
}

/// The longest `error_description`: what was sent and was far too long is not said again.
const MAX_DESCRIPTION: usize = 400;

/// An `error_description` has no quotes, no backslashes, and nothing but ASCII (RFC 6749 §5.2), and an end.
pub(crate) fn described(detail: &str) -> String {
    let plain = |c: char| match c {
        '"' => '\'',
        '§' => 'S',
        ' '..='~' if c != '\\' => c,
        _ => '?',
    };
    detail.chars().map(plain).take(MAX_DESCRIPTION).collect()
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<AppError> for Problem {
    fn from(error: AppError) -> Self {
        if let AppError::TooOften { wait_ms } = error {
            return Self::too_often(wait_ms);
        }
        let mut problem = Self::new(error.code());
        if let Some(detail) = error.detail() {
            problem.detail = detail;
        }
        match error {
            AppError::Refused(Refused::StepUpRequired { max_age_s }) => problem.with("max_age_s", max_age_s),
            AppError::Refused(Refused::AccountBlocked { reason, until: Some(until) }) => {
                problem.with("reason", reason).with("until", until.to_string())
            }
            AppError::Refused(Refused::AccountBlocked { reason, .. } | Refused::SessionEnded { reason }) => {
                problem.with("reason", reason)
            }
            AppError::Refused(Refused::InvalidValue { field, .. } | Refused::PasswordBreached { field }) => {
                problem.with("field", field)
            }
            AppError::Unauthenticated(code) => problem.header(header::WWW_AUTHENTICATE, bearer_challenge(code)),
            AppError::NeedsScope { scope, .. } => {
                let code = Code::InsufficientScope;
                let challenge = format!("Bearer error=\"{code}\", error_description=\"{code}\", scope=\"{scope}\"");
                problem.header(header::WWW_AUTHENTICATE, challenge)
            }
            _ => problem,
        }
    }
}

/// RFC 6750 §3: one parameter at least, and no error for who gave no token at all.
fn bearer_challenge(code: Code) -> String {
    match code {
        Code::TokenMissing => "Bearer realm=\"portcullis\"".into(),
        code => format!("Bearer error=\"invalid_token\", error_description=\"{code}\""),
    }
}

/// What a caller can do about it.
fn advice(code: Code) -> &'static str {
    match code {
        Code::Malformed => "Send JSON (or, for OAuth endpoints, a form) as the documentation shows it.",
        Code::InvalidCredentials => "Check address and password, and try again.",
        Code::SecondFactorRequired => "Answer the challenge with one of the named factors.",
        Code::RefreshInvalid => "This is no refresh token of this server, or not one for this device: sign in again.",
        Code::RefreshExpired => "The session was not used for too long, or is too old: sign in again.",
        Code::RefreshReused => {
            "This token had been used before, so somebody may hold a copy: the session was ended. Sign in again."
        }
        Code::SessionEnded => "Sign in again.",
        Code::StepUpRequired => "Prove who you are once more, then repeat the call.",
        Code::TokenMissing => "Send an access token: `Authorization: Bearer …`.",
        Code::TokenMalformed => {
            "This is no access token of this server for this service: sign in and send the token as it came."
        }
        Code::TokenExpired => "Exchange the refresh token for a new access token, then repeat the call.",
        Code::TokenRevoked => "The session was ended: sign in again.",
        Code::TokenStale => "Exchange the refresh token for a new access token, then repeat the call.",
        Code::ProofInvalid => {
            "This token is bound to a key: send it as `Authorization: DPoP …`, with a new proof in the DPoP header."
        }
        Code::AccountBlocked => "Ask whoever runs this service.",
        Code::EmailNotVerified => {
            "Open the link in the mail that was sent to this address, then prove again who you are."
        }
        Code::Forbidden => "This account may not do that.",
        Code::InsufficientScope => "Use a token with the scope that this call needs.",
        Code::OriginRefused => {
            "Calls with a cookie must come from the issuer's origin or one of allowed_origins, and say so (Origin)."
        }
        Code::NotFound => "Check the address and the id.",
        Code::MethodNotAllowed => "Use one of the methods in the Allow header.",
        Code::EmailTaken => "Sign in, or take another address.",
        Code::Conflict => "Something else changed the same thing at the same time: look again and repeat the call.",
        Code::InstanceGone => "Open the feed again to get a new instance.",
        Code::TooLarge => "Send less.",
        Code::UnsupportedMediaType => "Send the body as `Content-Type: application/json`.",
        Code::InvalidValue => "Change the value that `field` names.",
        Code::PasswordBreached => "It was stolen elsewhere, and is among the first that are tried: choose another one.",
        Code::Unavailable => {
            "A fault on this side; nothing is known to be wrong with the request. Repeat it after Retry-After."
        }
        Code::Overloaded => "Repeat the call after Retry-After.",
        Code::NotFresh => "Repeat the call after Retry-After.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_its_members() {
        let problem = Problem::from(AppError::Refused(Refused::AccountBlocked { reason: "spam".into(), until: None }));
        let (kind, body) = problem.body("r1");
        assert_eq!(kind, "application/problem+json");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["type"], "urn:portcullis:problem:account_blocked");
        assert_eq!((body["status"].as_u64(), body["code"].as_str()), (Some(403), Some("account_blocked")));
        assert_eq!((body["reason"].as_str(), body["request_id"].as_str()), (Some("spam"), Some("r1")));
        assert!(body["title"].is_string() && body["detail"].is_string());
    }

    #[test]
    fn the_inside_of_a_fault_stays_inside() {
        let (_, body) = Problem::from(AppError::Fault("disk /var/secret is full".into())).body("r1");
        assert!(!body.contains("secret") && body.contains("unavailable"));
    }
}
