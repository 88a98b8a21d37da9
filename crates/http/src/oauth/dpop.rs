//! The DPoP header (RFC 9449), as far as it is ours to read: the rest is `app::oauth::dpop`.
use super::{problem, refuse};
use crate::problem::Problem;
use crate::request::Ctx;
use axum::response::Response;
use http::{HeaderName, HeaderValue, header};
use portcullis_app::oauth::Known;
use portcullis_app::{AppError, Holder, Proven};
use portcullis_domain::refused::OAuthError;
use portcullis_wire::dpop::{ALGORITHMS, BadProof, Call, address};
use portcullis_wire::{Code, Digest};

const PROOF: &str = "dpop";
/// Where the next nonce stands (RFC 9449 §8).
const NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// The one proof of a request, if there is one (RFC 9449 §4.3 check 1).
fn proof(ctx: &Ctx) -> Result<Option<&str>, BadProof> {
    let mut all = ctx.headers.get_all(PROOF).iter();
    let Some(first) = all.next() else { return Ok(None) };
    let text = first.to_str().ok().filter(|_| all.next().is_none());
    text.map(Some).ok_or(BadProof::NotOne)
}

/// What stands in a proof for this request: the issuer's own address, whatever a proxy made of it on the way.
fn called(ctx: &Ctx, path: &str) -> Option<String> {
    address(&format!("{}{path}", ctx.shared.config().issuer))
}

/// The thumbprint of the key that a client proved to hold at an endpoint of OAuth, if it showed a proof. The proof is used up.
///
/// # Errors
/// `use_dpop_nonce`, `invalid_dpop_proof`; also for a client that must show one (RFC 9449 §5.2) when `required`.
pub(super) async fn sender(ctx: &Ctx, known: &Known, path: &str, required: bool) -> Result<Option<Digest>, Problem> {
    let with_nonce = |problem: Problem| problem.header(NONCE, ctx.app().dpop_nonce());
    let wrong = |bad: BadProof| with_nonce(refuse(OAuthError::InvalidDpopProof, bad.as_str()));
    let Some(text) = proof(ctx).map_err(wrong)? else {
        if required && known.client.profile.dpop_bound_access_tokens {
            return Err(wrong(BadProof::NotOne));
        }
        return Ok(None);
    };
    let address = called(ctx, path).ok_or_else(|| wrong(BadProof::Address))?;
    let call = Call { method: ctx.method.as_str(), address: &address, token: None };
    let proven =
        ctx.app().proven_for_endpoint(known, text, &call, ctx.ip).await.map_err(|error| with_nonce(problem(error)))?;
    Ok(Some(proven.key.thumbprint()))
}

/// A refusal of who shows no proof, with the nonce that one would need.
pub(super) fn told_nonce(ctx: &Ctx, problem: Problem) -> Problem {
    problem.header(NONCE, ctx.app().dpop_nonce())
}

/// An answer to who showed a proof carries the nonce of the next one.
pub(super) fn with_nonce(ctx: &Ctx, mut response: Response) -> Response {
    if let Ok(nonce) = HeaderValue::from_str(&ctx.app().dpop_nonce()) {
        response.headers_mut().insert(NONCE, nonce);
    }
    response
}

/// How an access token was shown at a resource of ours.
pub(super) struct Shown<'a> {
    /// The token.
    pub(super) token: Option<&'a str>,
    /// By whom.
    pub(super) holder: Holder,
    /// The proof, to be used up when all else is well.
    pub(super) proven: Option<Proven>,
}

/// Reads `Authorization`, by the scheme Bearer or DPoP (RFC 9449 §7.1).
pub(super) fn shown<'a>(ctx: &'a Ctx, path: &str) -> Result<Shown<'a>, Problem> {
    let Some(token) = ctx.authorized_by("dpop") else {
        return Ok(Shown { token: ctx.bearer(), holder: Holder::Bearer, proven: None });
    };
    let text = proof(ctx).map_err(wrong_at_resource)?.ok_or_else(|| wrong_at_resource(BadProof::NotOne))?;
    let address = called(ctx, path).ok_or_else(|| wrong_at_resource(BadProof::Address))?;
    let call = Call { method: ctx.method.as_str(), address: &address, token: Some(token) };
    let proven = ctx.app().proven_for_resource(text, &call).map_err(wrong_at_resource)?;
    Ok(Shown { token: Some(token), holder: Holder::Key(proven.key), proven: Some(proven) })
}

/// A token that is bound to another key, or to none, or was shown without a proof (RFC 9449 §7.1, §7.2).
pub(super) fn not_its_holder(proven: bool) -> Problem {
    let detail = match proven {
        true => "this access token is not bound to the key of the DPoP proof",
        false => {
            "this access token is bound to a key: send it as `Authorization: DPoP …`, with a proof in the DPoP header"
        }
    };
    challenged("invalid_token", detail)
}

/// A refusal of a resource that takes both schemes (RFC 9449 §7.1, §7.2): who used DPoP is challenged in its words, who showed
/// nothing is offered both.
pub(super) fn challenging(error: AppError, proven: bool) -> Problem {
    match error {
        AppError::Unauthenticated(Code::TokenMissing) => {
            Problem::from(error).header(header::WWW_AUTHENTICATE, format!("DPoP {}", algs()))
        }
        AppError::Unauthenticated(code) if proven => in_scheme(Problem::new(code), "invalid_token"),
        AppError::NeedsScope { scope, ref detail } if proven => {
            let code = Code::InsufficientScope;
            let challenge =
                format!("DPoP error=\"{code}\", error_description=\"{code}\", scope=\"{scope}\", {}", algs());
            Problem::because(code, detail).header(header::WWW_AUTHENTICATE, challenge)
        }
        error => error.into(),
    }
}

/// What came of using a proof up.
pub(super) fn used_before(error: AppError) -> Problem {
    match error {
        AppError::Refused(_) => wrong_at_resource(BadProof::Replayed),
        error => error.into(),
    }
}

/// A wrong proof at a resource (RFC 9449 §7.1).
fn wrong_at_resource(bad: BadProof) -> Problem {
    challenged("invalid_dpop_proof", bad.as_str())
}

fn challenged(error: &str, detail: &str) -> Problem {
    in_scheme(Problem::because(Code::ProofInvalid, detail), error)
}

fn in_scheme(problem: Problem, error: &str) -> Problem {
    let challenge = format!("DPoP error=\"{error}\", error_description=\"{}\", {}", problem.code, algs());
    problem.header(header::WWW_AUTHENTICATE, challenge)
}

/// What proofs may be signed with (RFC 9449 §7.1).
fn algs() -> String {
    format!("algs=\"{}\"", ALGORITHMS.join(" "))
}
