//! `/oauth2/logout`: logout by an application (OpenID Connect RP-Initiated Logout 1.0), and the page that tells others by frames
//! (OpenID Connect Front-Channel Logout 1.0).
//!
//! An ID token of the browser's own session, or of an application's that was allowed in it, is proof enough that the application that
//! its user is at speaks for them. Without one the user is asked, for any page may send a browser here. Where the browser goes on to
//! is an address that a client has registered, or it stays here.
use super::{allow_frames_from, go, let_forms_lead_on, page};
use crate::problem::Problem;
use crate::request::{Ctx, FormBytes, Params};
use crate::{cookies, origin};
use axum::response::Response;
use http::StatusCode;
use minijinja::context;
use portcullis_app::{AppError, Caller};
use portcullis_domain::logout::place_after;
use portcullis_domain::model::Client;
use portcullis_wire::{Code, SessionId};

pub(super) const PATH: &str = "/oauth2/logout";
pub(super) const CONFIRM: &str = "/oauth2/logout/confirm";

/// The longest request, in bytes.
const MAX_QUERY: usize = 6000;
/// For how long frames have time to load before the browser goes on, in seconds.
const WAIT_S: u32 = 3;

/// A request that was read.
struct Asked {
    client: Option<Client>,
    /// The session that the hint was made under.
    session: Option<SessionId>,
    /// Where the browser goes on to.
    place: Option<String>,
    query: String,
}

/// Whoever uses the browser.
enum Who {
    /// Somebody.
    Caller(Box<Caller>),
    /// Nobody; whether the cookie's session has certainly ended.
    Nobody { ended: bool },
}

pub(super) async fn show(ctx: Ctx) -> Result<Response, Problem> {
    let asked = read(&ctx, ctx.uri.query().unwrap_or("")).await?;
    let caller = match who(&ctx).await? {
        Who::Caller(caller) => caller,
        Who::Nobody { ended } => return signed_out(&ctx, &asked, vec![], ended),
    };
    match asked.session {
        Some(session) if ctx.app().is_of_browser(session, &caller).await? => finish(&ctx, &asked, &caller).await,
        _ => ask(&ctx, &asked, &caller),
    }
}

/// The same by a form (§2). A foreign page sends it, without our cookies (`SameSite=Lax`): the browser comes again with GET, and
/// then with them.
pub(super) async fn by_form(body: FormBytes) -> Result<Response, Problem> {
    let body = body.0.ok_or_else(|| Problem::new(Code::UnsupportedMediaType))?;
    let query: String =
        form_urlencoded::Serializer::new(String::new()).extend_pairs(form_urlencoded::parse(&body)).finish();
    if query.len() > MAX_QUERY {
        return Err(Problem::malformed("the request is too long"));
    }
    Ok(go(&format!("{PATH}?{query}"), vec![]))
}

/// The user said yes, on our own page.
pub(super) async fn confirm(ctx: Ctx, body: FormBytes) -> Result<Response, Problem> {
    origin::must_be_our_page(&ctx.shared, &ctx.headers)?;
    let body = body.0.ok_or_else(|| Problem::new(Code::UnsupportedMediaType))?;
    let mut params = Params::oauth(&body).map_err(|_| Problem::new(Code::Malformed))?;
    let asked = read(&ctx, &params.take("request").unwrap_or_default()).await?;
    let caller = match who(&ctx).await? {
        Who::Caller(caller) => caller,
        Who::Nobody { ended } => return signed_out(&ctx, &asked, vec![], ended),
    };
    // The answer is about the session that was shown.
    if params.take("session").as_deref() != Some(caller.view.session.id.to_string().as_str()) {
        return ask(&ctx, &asked, &caller);
    }
    finish(&ctx, &asked, &caller).await
}

async fn read(ctx: &Ctx, query: &str) -> Result<Asked, Problem> {
    if query.len() > MAX_QUERY {
        return Err(Problem::malformed("the request is too long"));
    }
    let mut params = Params::oauth(query.as_bytes())
        .map_err(|name| Problem::malformed(format!("the parameter {name:?} is given twice (RFC 6749 §3.1)")))?;
    // One that is not ours, or of a key that is dead, says nothing: the user is asked then.
    let hint = params.take("id_token_hint").and_then(|hint| ctx.app().hinted(&hint));
    let client = match (params.take("client_id"), &hint) {
        (Some(id), Some(hint)) if id != hint.aud.to_string() => {
            return Err(Problem::malformed("id_token_hint was made for another client than client_id names"));
        }
        (Some(id), _) => ctx.app().client_named(&id).await?,
        (None, Some(hint)) => ctx.app().client_named(&hint.aud.to_string()).await?,
        (None, None) => None,
    };
    let (uri, state) = (params.take("post_logout_redirect_uri"), params.take("state"));
    let place = place_after(client.as_ref(), uri.as_deref(), state.as_deref());
    Ok(Asked { session: hint.map(|hint| hint.sid), client, place, query: query.to_owned() })
}

async fn who(ctx: &Ctx) -> Result<Who, Problem> {
    let Some(cookie) = cookies::read(&ctx.headers, cookies::SESSION) else { return Ok(Who::Nobody { ended: false }) };
    match ctx.app().page_caller(&cookie, ctx.ip).await {
        Ok(caller) => Ok(Who::Caller(Box::new(caller))),
        Err(AppError::Refused(refused)) if refused.is_certain_end() => Ok(Who::Nobody { ended: true }),
        Err(AppError::Unauthenticated(_)) => Ok(Who::Nobody { ended: false }),
        Err(error) => Err(error.into()),
    }
}

fn ask(ctx: &Ctx, asked: &Asked, caller: &Caller) -> Result<Response, Problem> {
    let account = &caller.view.account;
    let values = context! {
        who => super::who(account),
        client => asked.client.as_ref().map(|client| &client.name),
        request => asked.query, session => caller.view.session.id.to_string(),
    };
    let mut response = page(ctx, StatusCode::OK, "logout.html", values)?;
    if asked.place.is_some() {
        let_forms_lead_on(response.headers_mut());
    }
    Ok(response)
}

/// Ends the browser's session; afterwards it is certain.
async fn finish(ctx: &Ctx, asked: &Asked, caller: &Caller) -> Result<Response, Problem> {
    let frames = ctx.app().frames_of(caller).await?;
    ctx.app().sign_out_by_application(caller).await?;
    signed_out(ctx, asked, frames, true)
}

/// On to the application, or the page that says that it is done; with frames the page first, and then on.
fn signed_out(ctx: &Ctx, asked: &Asked, frames: Vec<String>, ended: bool) -> Result<Response, Problem> {
    let cleared = if ended { vec![cookies::clear(cookies::SESSION)] } else { vec![] };
    // To a stranger's address only by a click, or whoever registers would have an open redirector here (RFC 9700 §4.11.2).
    let clicks = asked.client.as_ref().is_some_and(|client| client.profile.is_stranger());
    match &asked.place {
        Some(place) if frames.is_empty() && !clicks => Ok(go(place, cleared)),
        place => told(ctx, place.as_deref(), !clicks, &frames, cleared),
    }
}

/// The page after a sign-out, with frames of those who are told by the browser. `by_itself`: it goes on to the place after a while.
pub(super) fn told(
    ctx: &Ctx,
    place: Option<&str>,
    by_itself: bool,
    frames: &[String],
    cookies: Vec<String>,
) -> Result<Response, Problem> {
    let values = context! { place, frames, wait_s => by_itself.then_some(WAIT_S) };
    let mut response = page(ctx, StatusCode::OK, "signed_out.html", values)?;
    if !frames.is_empty() {
        allow_frames_from(response.headers_mut(), frames);
    }
    super::add_cookies(response.headers_mut(), cookies);
    Ok(response)
}
