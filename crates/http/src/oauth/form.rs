//! The forms of OAuth's endpoints, and who sends them.
use super::{invalid_request, problem, refuse};
use crate::problem::Problem;
use crate::request::{Ctx, FormBytes, Params, Shared, ctx_of};
use axum::extract::FromRequestParts;
use http::request::Parts;
use portcullis_app::oauth::{Known, Proof};
use portcullis_domain::refused::OAuthError;
use portcullis_wire::SecretString;

/// A form and the client that sent it.
#[derive(Debug)]
pub(crate) struct OAuthForm {
    /// Who.
    pub(crate) known: Known,
    /// What, without what said who.
    pub(crate) params: Params,
}

impl OAuthForm {
    /// Reads a form and authenticates its client (RFC 6749 §2.3). The client comes first: to a stranger everything else
    /// reads alike.
    pub(crate) async fn read(ctx: &Ctx, form: FormBytes) -> Result<Self, Problem> {
        let body = form.0.ok_or_else(|| invalid_request("send the body as application/x-www-form-urlencoded"))?;
        let mut params = Params::oauth(&body)
            .map_err(|name| invalid_request(format!("the parameter {name:?} is given twice (RFC 6749 §3.2)")))?;
        let proof = proof(ctx, &mut params)?;
        let known = ctx.app().known_client(&proof).await.map_err(problem)?;
        Ok(Self { known, params })
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
        let (id, secret) = ctx_of(parts, shared).await.basic().ok_or_else(unknown)?;
        Ok(Self(shared.app().known_client(&Proof::Basic(id, secret)).await.map_err(problem)?))
    }
}

/// How the client says who it is: in one way, not in two (RFC 6749 §2.3).
fn proof(ctx: &Ctx, params: &mut Params) -> Result<Proof, Problem> {
    let (id, secret) = (params.take("client_id"), params.take("client_secret"));
    let unknown =
        || refuse(OAuthError::InvalidClient, "authenticate as a client: HTTP Basic, or client_id in the body");
    if let Some((basic_id, basic_secret)) = ctx.basic() {
        if secret.is_some() || id.is_some_and(|id| id != basic_id) {
            return Err(invalid_request("authenticate in one way, not in two (RFC 6749 §2.3)"));
        }
        return Ok(Proof::Basic(basic_id, basic_secret));
    }
    let id = id.ok_or_else(unknown)?;
    Ok(match secret {
        Some(secret) => Proof::Post(id, SecretString::new(secret)),
        None => Proof::Named(id),
    })
}
