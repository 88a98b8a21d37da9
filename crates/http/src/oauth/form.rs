//! The forms of OAuth's endpoints, and who sends them.
use super::{invalid_request, problem, refuse, with_resources};
use crate::problem::Problem;
use crate::request::{Basic, Ctx, FormBytes, Params, Shared, ctx_of};
use axum::extract::FromRequestParts;
use http::request::Parts;
use portcullis_app::oauth::{Known, Proof};
use portcullis_domain::refused::OAuthError;
use portcullis_wire::{Digest, SecretString, assertion};

/// A form and the client that sent it.
#[derive(Debug)]
pub(crate) struct OAuthForm {
    /// Who.
    pub(crate) known: Known,
    /// What, without what said who.
    pub(crate) params: Params,
    /// `resource`, each time that it came (RFC 8707 §2).
    pub(crate) resources: Vec<String>,
    /// The thumbprint of the key that it proved to hold, once that was asked.
    pub(crate) sender: Option<Digest>,
}

impl OAuthForm {
    /// Reads a form and authenticates its client (RFC 6749 §2.3). The client comes first: to a stranger everything else
    /// reads alike.
    pub(crate) async fn read(ctx: &Ctx, form: FormBytes) -> Result<Self, Problem> {
        let body = form.0.ok_or_else(|| invalid_request("send the body as application/x-www-form-urlencoded"))?;
        let (mut params, resources) = with_resources(&body, invalid_request)?;
        let proof = proof(ctx, &mut params)?;
        let known = ctx.app().known_client(&proof).await.map_err(problem)?;
        Ok(Self { known, params, resources, sender: None })
    }

    /// A parameter that must be there.
    pub(crate) fn need(&mut self, name: &str) -> Result<String, Problem> {
        let value = self.params.take(name).filter(|value| !value.is_empty());
        value.ok_or_else(|| invalid_request(format!("the parameter {name:?} is missing")))
    }
}

/// A client that proved who it is by HTTP Basic, for calls whose body is no form. It is asked before the body is read: to a
/// stranger everything reads alike.
#[derive(Debug)]
pub(crate) struct AsClient(pub(crate) Known);

impl FromRequestParts<Shared> for AsClient {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        let unknown = || refuse(OAuthError::InvalidClient, "authenticate as a client by HTTP Basic");
        let basic = ctx_of(parts, shared).await.basic().ok_or_else(unknown)?;
        Ok(Self(shared.app().known_client(&by_basic(basic)).await.map_err(problem)?))
    }
}

fn by_basic(Basic { id, secret, as_sent }: Basic) -> Proof {
    Proof::Basic { id, secret, as_sent }
}

/// The path of ours that was called.
fn endpoint(ctx: &Ctx) -> &'static str {
    const ALL: [&str; 4] = ["/oauth2/par", "/oauth2/device", "/oauth2/revoke", "/oauth2/introspect"];
    ALL.into_iter().find(|path| *path == ctx.uri.path()).unwrap_or("/oauth2/token")
}

/// How the client says who it is: in one way, not in two (RFC 6749 §2.3).
fn proof(ctx: &Ctx, params: &mut Params) -> Result<Proof, Problem> {
    let (id, secret) = (params.take("client_id"), params.take("client_secret"));
    let (kind, assertion) = (params.take("client_assertion_type"), params.take("client_assertion"));
    if kind.is_some() || assertion.is_some() {
        if secret.is_some() || ctx.basic().is_some() {
            return Err(invalid_request("authenticate in one way, not in two (RFC 6749 §2.3)"));
        }
        if kind.as_deref() != Some(assertion::TYPE) {
            return Err(invalid_request(format!("client_assertion_type must be {} (RFC 7523 §2.2)", assertion::TYPE)));
        }
        let assertion = SecretString::new(assertion.unwrap_or_default());
        return Ok(Proof::Assertion { client_id: id, assertion, endpoint: endpoint(ctx) });
    }
    let unknown =
        || refuse(OAuthError::InvalidClient, "authenticate as a client: HTTP Basic, or client_id in the body");
    if let Some(basic) = ctx.basic() {
        if secret.is_some() || id.is_some_and(|id| id != basic.id) {
            return Err(invalid_request("authenticate in one way, not in two (RFC 6749 §2.3)"));
        }
        return Ok(by_basic(basic));
    }
    let id = id.ok_or_else(unknown)?;
    Ok(match secret {
        Some(secret) => Proof::Post(id, SecretString::new(secret)),
        None => Proof::Named(id),
    })
}
