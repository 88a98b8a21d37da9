//! Refusals, as RFC 6750 and RFC 9457 have them (DESIGN §8, "Verifier answers").
use crate::{grpc, real};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use portcullis_verify::Reason;
use portcullis_wire::Code;
use portcullis_wire::dpop::ALGORITHMS;

/// Why a request is refused, and the response that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    code: Code,
    reason: Option<Reason>,
    scope: Option<String>,
    dpop: bool,
}

impl Refusal {
    pub(crate) fn new(code: Code, reason: Option<Reason>) -> Self {
        Self { code, reason, scope: None, dpop: false }
    }

    pub(crate) fn with_scope(mut self, scope: &str) -> Self {
        self.scope = Some(scope.to_owned());
        self
    }

    /// The challenge names DPoP beside Bearer (RFC 9449 §7.1).
    pub(crate) fn offering_dpop(self) -> Self {
        Self { dpop: true, ..self }
    }

    /// The code that programs read.
    pub fn code(&self) -> Code {
        self.code
    }

    /// What was found, finer than the code: for logs, not for answers.
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// The response: 401 with a challenge, 403, or 503 with `Retry-After` and no challenge; the body is the problem. The
    /// request's `x-request-id` is repeated when it is a plain word. gRPC's requests get the same in its own words: 200 with
    /// nothing but trailers, see [`grpc::trailers`].
    pub fn response<B: From<String>>(&self, request: &HeaderMap) -> Response<B> {
        if grpc::is_grpc(request) {
            let mut response = Response::new(B::from(String::new()));
            *response.headers_mut() = grpc::trailers_only(self.code);
            return response;
        }
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::UNAUTHORIZED);
        let problem = serde_json::json!({
            "type": format!("urn:portcullis:problem:{}", self.code),
            "title": self.code.title(),
            "status": status.as_u16(),
            "detail": self.detail(),
            "code": self.code.as_str(),
            "request_id": request_id(request),
        });
        let mut response = Response::new(B::from(problem.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        } else if let Some(challenge) = self.challenge(request) {
            headers.append(header::WWW_AUTHENTICATE, challenge);
            if self.dpop && self.code == Code::TokenMissing {
                headers.extend(
                    HeaderValue::try_from(format!("DPoP {}", algs())).map(|value| (header::WWW_AUTHENTICATE, value)),
                );
            }
        }
        response
    }

    /// RFC 6750 §3: one parameter at least, and no error for a request without a token; in the scheme that the request used
    /// (RFC 9449 §7.1).
    fn challenge(&self, request: &HeaderMap) -> Option<HeaderValue> {
        let code = self.code;
        let by_dpop = self.dpop && is_dpop(request);
        let (scheme, algs_too) = if by_dpop { ("DPoP", format!(", {}", algs())) } else { ("Bearer", String::new()) };
        let text = match (code, &self.scope) {
            (Code::TokenMissing, _) => "Bearer realm=\"portcullis\"".to_owned(),
            (Code::InsufficientScope, Some(scope)) if is_scope(scope) => {
                format!("{scheme} error=\"{code}\", error_description=\"{code}\", scope=\"{scope}\"{algs_too}")
            }
            (Code::InsufficientScope, _) => format!("{scheme} error=\"{code}\"{algs_too}"),
            (Code::ProofInvalid, _) => {
                let error =
                    if matches!(self.reason, Some(Reason::Proof(_))) { "invalid_dpop_proof" } else { "invalid_token" };
                format!("DPoP error=\"{error}\", error_description=\"{code}\", {}", algs())
            }
            _ => format!("{scheme} error=\"invalid_token\", error_description=\"{code}\"{algs_too}"),
        };
        HeaderValue::try_from(text).ok()
    }

    fn detail(&self) -> &'static str {
        match self.code {
            Code::TokenMissing => "Send the access token as `Authorization: Bearer …`.",
            Code::TokenExpired | Code::TokenStale => {
                "Get a new access token with the refresh token, then repeat the request."
            }
            Code::TokenRevoked => "The session, the account or the token itself was ended. Sign in again.",
            Code::ProofInvalid => match self.reason {
                Some(Reason::Proof(bad)) => bad.as_str(),
                Some(Reason::Bound) => {
                    "This token is bound to a key: send it as `Authorization: DPoP …`, with a proof."
                }
                _ => "This token is not bound to the key of the DPoP proof.",
            },
            Code::Overloaded => "There is too much to do at the moment. Repeat the request soon.",
            Code::InsufficientScope => "Another scope is needed for this.",
            Code::NotFresh => {
                "This service does not know at the moment which tokens were revoked. Repeat the request soon."
            }
            _ => "This is no access token that this service accepts.",
        }
    }
}

/// Whether the request shows its token by the scheme DPoP.
fn is_dpop(request: &HeaderMap) -> bool {
    let given = request.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    given.and_then(|text| text.split_once(' ')).is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("dpop"))
}

/// What proofs may be signed with (RFC 9449 §7.1).
fn algs() -> String {
    format!("algs=\"{}\"", ALGORITHMS.join(" "))
}

/// RFC 6749 §3.3: what a scope is made of; nothing that could leave the quotes.
fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

fn request_id(headers: &HeaderMap) -> String {
    let plain = |id: &&str| {
        !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let given = headers.get("x-request-id").and_then(|id| id.to_str().ok()).filter(plain);
    given.map_or_else(|| format!("req_{:016x}", real::chance()), ToOwned::to_owned)
}
