//! `/account/devices`: where an account is signed in, and how to end that.
use super::words::ago;
use super::{go, logout, page, sign_in};
use crate::problem::Problem;
use crate::request::{Ctx, FormBytes, Params};
use crate::{cookies, origin};
use axum::response::Response;
use http::StatusCode;
use minijinja::context;
use portcullis_app::{AppError, Caller};
use portcullis_domain::Refused;
use portcullis_domain::view::SessionView;
use portcullis_wire::{Code, SessionId, Time};

pub(super) const PATH: &str = "/account/devices";

/// What an act tells on the page after it, as a word in `?done=`.
const DONE: [(&str, &str); 3] = [
    ("one", "That session has ended."),
    ("renamed", "The device has its new name."),
    ("others", "All other sessions have ended. You are signed in here only."),
];

/// The most sessions that the page shows.
const MAX_SHOWN: usize = 200;

pub(super) async fn index() -> Response {
    go(PATH, vec![])
}

/// Somebody who is signed in, or the answer that leads to signing in. Only a certain end takes the cookie away.
pub(super) async fn caller(ctx: &Ctx, path: &str) -> Result<Result<Caller, Response>, Problem> {
    let Some(cookie) = cookies::read(&ctx.headers, cookies::SESSION) else {
        return Ok(Err(go(&sign_in::address(None, Some(path)), vec![])));
    };
    match ctx.app().page_caller(&cookie, ctx.ip).await {
        Ok(caller) => Ok(Ok(caller)),
        Err(AppError::Refused(refused)) if refused.is_certain_end() => {
            let place = sign_in::address(Some("ended"), Some(path));
            Ok(Err(go(&place, vec![cookies::clear(cookies::SESSION)])))
        }
        Err(AppError::Unauthenticated(_)) => Ok(Err(go(&sign_in::address(None, Some(path)), vec![]))),
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn show(ctx: Ctx) -> Result<Response, Problem> {
    let caller = match caller(&ctx, PATH).await? {
        Ok(caller) => caller,
        Err(elsewhere) => return Ok(elsewhere),
    };
    let mut params =
        Params::oauth(ctx.uri.query().unwrap_or("").as_bytes()).map_err(|_| Problem::new(Code::Malformed))?;
    let done = params.take("done");
    let notice = DONE.iter().find(|(word, _)| Some(*word) == done.as_deref()).map(|(_, text)| *text);
    let views = ctx.app().my_sessions(&caller).await?;
    let now = caller.view.stamp.now;
    let own = caller.view.session.id;
    let (mine, others): (Vec<_>, Vec<_>) = views.iter().partition(|view| view.session.id == own);
    let more = others.len().saturating_sub(MAX_SHOWN);
    let mine = mine.first().map(|view| device(view, now));
    let others: Vec<_> = others.into_iter().take(MAX_SHOWN).map(|view| device(view, now)).collect();
    let upstreams = ctx.app().upstreams(false);
    let links = ctx.app().my_links(&caller).await?;
    let links: Vec<_> = links.iter().map(|link| super::upstream::shown(link, &upstreams, now)).collect();
    let account = &caller.view.account;
    let who = super::who(account);
    page(&ctx, StatusCode::OK, "devices.html", context! { who, mine, others, more, links, notice })
}

fn device(view: &SessionView, now: Time) -> minijinja::Value {
    let session = &view.session;
    let (seen, made) = (view.shown_used_at(), session.created_at);
    context! {
        id => session.id.to_string(), name => session.device_name, kind => session.kind.as_str(),
        ip => session.ip.map(|ip| ip.to_string()),
        seen => ago(seen, now), seen_at => seen.to_string(),
        made => ago(made, now), made_at => made.to_string(),
    }
}

/// The caller of a changing form: the request must say that it comes from our own page.
async fn actor(ctx: &Ctx) -> Result<Result<Caller, Response>, Problem> {
    origin::must_be_our_page(&ctx.shared, &ctx.headers)?;
    caller(ctx, PATH).await
}

/// The session that a form is about, and what else it holds.
fn named(body: FormBytes) -> Result<(SessionId, Params), Problem> {
    let body = body.0.ok_or_else(|| Problem::new(Code::UnsupportedMediaType))?;
    let mut params = Params::oauth(&body).map_err(|_| Problem::new(Code::Malformed))?;
    let session = params.take("session").and_then(|id| id.parse().ok()).ok_or_else(|| Problem::new(Code::NotFound))?;
    Ok((session, params))
}

pub(super) async fn end_one(ctx: Ctx, body: FormBytes) -> Result<Response, Problem> {
    let caller = match actor(&ctx).await? {
        Ok(caller) => caller,
        Err(elsewhere) => return Ok(elsewhere),
    };
    let (session, _) = named(body)?;
    ctx.app().end_mine(&caller, session, None).await?;
    Ok(if session == caller.view.session.id { left("signed-out") } else { go("/account/devices?done=one", vec![]) })
}

pub(super) async fn rename(ctx: Ctx, body: FormBytes) -> Result<Response, Problem> {
    let caller = match actor(&ctx).await? {
        Ok(caller) => caller,
        Err(elsewhere) => return Ok(elsewhere),
    };
    let (session, mut params) = named(body)?;
    let name = params.take("device_name").unwrap_or_default();
    ctx.app().rename_mine(&caller, session, &name).await?;
    Ok(go("/account/devices?done=renamed", vec![]))
}

pub(super) async fn end_others(ctx: Ctx) -> Result<Response, Problem> {
    let caller = match actor(&ctx).await? {
        Ok(caller) => caller,
        Err(elsewhere) => return Ok(elsewhere),
    };
    ctx.app().end_all_mine(&caller, true, None).await?;
    Ok(go("/account/devices?done=others", vec![]))
}

pub(super) async fn end_all(ctx: Ctx) -> Result<Response, Problem> {
    let caller = match actor(&ctx).await? {
        Ok(caller) => caller,
        Err(elsewhere) => return Ok(elsewhere),
    };
    ctx.app().end_all_mine(&caller, false, None).await?;
    Ok(left("all-ended"))
}

/// Signs this browser out. When its session has ended already, that is what was wanted.
pub(super) async fn sign_out(ctx: Ctx) -> Result<Response, Problem> {
    origin::must_be_our_page(&ctx.shared, &ctx.headers)?;
    let Some(cookie) = cookies::read(&ctx.headers, cookies::SESSION) else {
        return Ok(go(&sign_in::address(Some("signed-out"), None), vec![]));
    };
    match ctx.app().page_caller(&cookie, ctx.ip).await {
        Ok(caller) => {
            let frames = ctx.app().frames_of(&caller).await?;
            ctx.app().end_mine(&caller, caller.view.session.id, None).await?;
            if !frames.is_empty() {
                return logout::told(&ctx, None, true, &frames, vec![cookies::clear(cookies::SESSION)]);
            }
        }
        Err(AppError::Refused(Refused::SessionEnded { .. }) | AppError::Unauthenticated(_)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(left("signed-out"))
}

/// To the sign-in page, without the cookie of the session that has just ended.
fn left(notice: &str) -> Response {
    go(&sign_in::address(Some(notice), None), vec![cookies::clear(cookies::SESSION)])
}
