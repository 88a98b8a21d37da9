//! "Continue with": to another provider and back, the proof that an account is one's own, and `/account/links`.
use super::words::{ago, safe_path};
use super::{devices, go, let_forms_lead_on, page, sign_in};
use crate::problem::Problem;
use crate::request::{Ctx, FormBytes, Params};
use crate::{cookies, origin};
use axum::extract::Path;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use minijinja::context;
use portcullis_app::sessions::Credentials;
use portcullis_app::upstream::{Arrival, Arrived, Return, Visitor};
use portcullis_app::{AppError, Caller};
use portcullis_domain::Refused;
use portcullis_domain::model::SessionKind;
use portcullis_domain::sign_in::SignIn;
use portcullis_domain::upstream::Link;
use portcullis_wire::{Code, LinkId, SecretString, Time};

/// What may sign in to an account.
pub(super) const LINKS: &str = "/account/links";

/// Somebody who is signed in, if somebody is.
async fn present(ctx: &Ctx) -> Option<Caller> {
    let cookie = cookies::read(&ctx.headers, cookies::SESSION)?;
    ctx.app().page_caller(&cookie, ctx.ip).await.ok()
}

fn browser(ctx: &Ctx) -> Option<SecretString> {
    cookies::read(&ctx.headers, cookies::UPSTREAM)
}

fn marks(ctx: &Ctx) -> Option<SecretString> {
    cookies::read(&ctx.headers, cookies::DEVICE)
}

fn request(ctx: &Ctx) -> SignIn {
    SignIn {
        kind: SessionKind::Browser,
        device_name: ctx.hinted_name(),
        user_agent: ctx.user_agent(),
        ip: ctx.ip,
        cookie: None,
    }
}

fn params(text: &[u8]) -> Result<Params, Problem> {
    Params::oauth(text).map_err(|_| Problem::new(Code::Malformed))
}

/// A redirect to an address that is not ours.
fn leave(url: &str, cookie: String) -> Result<Response, Problem> {
    let mut response = go(devices::PATH, vec![cookie]);
    let place = HeaderValue::from_str(url).map_err(|_| Problem::new(Code::Unavailable))?;
    response.headers_mut().insert(header::LOCATION, place);
    Ok(response)
}

/// Sends a browser to a provider. A link, not a form: what a policy says of forms would hold for the provider's page, too.
pub(super) async fn begin(ctx: Ctx, Path(id): Path<String>) -> Result<Response, Problem> {
    let mut params = params(ctx.uri.query().unwrap_or("").as_bytes())?;
    let back = params.take("return_to");
    let back = back.as_deref().and_then(safe_path).unwrap_or(devices::PATH);
    let again = params.take("again").is_some();
    let away = ctx.app().leave_for(&id, browser(&ctx), back, again, None, ctx.ip).await?;
    leave(&away.url, cookies::set_upstream(&away.browser))
}

/// Takes a browser back.
pub(super) async fn callback(ctx: Ctx, Path(id): Path<String>) -> Result<Response, Problem> {
    let mut params = params(ctx.uri.query().unwrap_or("").as_bytes())?;
    let given = Return {
        state: params.take("state"),
        code: params.take("code").filter(|code| !code.is_empty()).map(SecretString::new),
        iss: params.take("iss"),
        error: params.take("error"),
    };
    let (browser, device, present) = (browser(&ctx), marks(&ctx), present(&ctx).await);
    let visitor = Visitor { browser: browser.as_ref(), device: device.as_ref(), present: present.as_ref() };
    match ctx.app().arrive_from(&id, given, request(&ctx), &visitor).await {
        Ok(arrived) => answer(&ctx, arrived),
        Err(error) => refused(&ctx, error),
    }
}

/// Who may not come in, although they are who they are; it leads nowhere by itself.
fn refused(ctx: &Ctx, error: AppError) -> Result<Response, Problem> {
    match error {
        AppError::Refused(Refused::AccountBlocked { reason, until }) => {
            let until = until.map(|until| until.to_string());
            page(ctx, StatusCode::FORBIDDEN, "blocked.html", context! { reason, until })
        }
        AppError::Refused(Refused::SessionEnded { .. }) => {
            Ok(go(&sign_in::address(Some("upstream-refused"), None), vec![]))
        }
        other => Err(other.into()),
    }
}

/// What came of an arrival, as the browser is told.
fn answer(ctx: &Ctx, arrived: Arrived) -> Result<Response, Problem> {
    let back = arrived.return_to.as_deref().unwrap_or(devices::PATH);
    let sorry = |notice| Ok(go(&sign_in::address(Some(notice), arrived.return_to.as_deref()), vec![]));
    match arrived.what {
        Arrival::In { cookie, session, device } => {
            let session = cookies::set(cookies::SESSION, &cookie, &session, ctx.app().now());
            let mut set = vec![session, cookies::clear(cookies::UPSTREAM)];
            set.extend(device.as_ref().map(cookies::set_device));
            Ok(go(back, set))
        }
        Arrival::GoesOn => Ok(go(back, vec![cookies::clear(cookies::UPSTREAM)])),
        Arrival::Prove { ticket, email, name } => {
            let values = context! { ticket => ticket.expose(), email, name, error => None::<String> };
            question(ctx, StatusCode::OK, "upstream_prove.html", values, back)
        }
        Arrival::Ask { ticket, email, person, name } => {
            let values = context! { ticket => ticket.expose(), email, person, name };
            question(ctx, StatusCode::OK, "upstream_new.html", values, back)
        }
        Arrival::Declined => sorry("upstream-declined"),
        Arrival::NoAccount => sorry("upstream-nobody"),
        Arrival::Denied => sorry("upstream-denied"),
        Arrival::Failed => sorry("upstream-failed"),
        Arrival::Stale => sorry("upstream-stale"),
    }
}

/// A page that asks somebody something before they go on to `back`, which may be an application's request.
fn question(
    ctx: &Ctx,
    status: StatusCode,
    template: &str,
    values: minijinja::Value,
    back: &str,
) -> Result<Response, Problem> {
    let mut response = page(ctx, status, template, values)?;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(leading_to(back, response))
}

/// What leads on to `back` by a form.
fn leading_to(back: &str, mut response: Response) -> Response {
    if back.starts_with("/oauth2/") {
        let_forms_lead_on(response.headers_mut());
    }
    response
}

/// What somebody new says to the question whether an account is to be made for them.
pub(super) async fn decide(ctx: Ctx, body: FormBytes) -> Result<Response, Problem> {
    origin::must_be_our_page(&ctx.shared, &ctx.headers)?;
    let body = body.0.ok_or_else(|| Problem::new(Code::UnsupportedMediaType))?;
    let mut params = params(&body)?;
    let ticket = SecretString::new(params.take("ticket").unwrap_or_default());
    let yes = match params.take("decision").as_deref() {
        Some("yes") => true,
        Some("no") => false,
        _ => return Err(Problem::malformed("the answer must be yes or no")),
    };
    let (browser, device, present) = (browser(&ctx), marks(&ctx), present(&ctx).await);
    let visitor = Visitor { browser: browser.as_ref(), device: device.as_ref(), present: present.as_ref() };
    let said = match ctx.app().answer_newcomer(&ticket, yes, request(&ctx), &visitor).await {
        Ok(said) => said,
        Err(error) => return refused(&ctx, error),
    };
    let back = said.return_to.clone().unwrap_or_default();
    Ok(leading_to(&back, answer(&ctx, said)?))
}

/// Whoever came from a provider proves that the account of their address is theirs: once, by its password.
pub(super) async fn confirm(ctx: Ctx, body: FormBytes) -> Result<Response, Problem> {
    origin::must_be_our_page(&ctx.shared, &ctx.headers)?;
    let body = body.0.ok_or_else(|| Problem::new(Code::UnsupportedMediaType))?;
    let mut params = params(&body)?;
    let ticket = SecretString::new(params.take("ticket").unwrap_or_default());
    let password = SecretString::new(params.take("password").unwrap_or_default());
    let waiting = ctx.app().awaiting_proof(&ticket, browser(&ctx).as_ref()).await?;
    let Some(waiting) = waiting else { return Ok(go(&sign_in::address(Some("upstream-stale"), None), vec![])) };
    let device = cookies::read(&ctx.headers, cookies::DEVICE);
    let credentials = Credentials { identifier: waiting.email.clone(), password, device };
    let present = present(&ctx).await;
    let entry = match ctx.app().page_sign_in(credentials, request(&ctx), present.as_ref()).await {
        Ok(entry) => entry,
        Err(AppError::Refused(Refused::InvalidCredentials)) => {
            let known = ctx.app().upstreams(false);
            let name = known.iter().find(|(id, _)| *id == waiting.upstream).map_or("", |(_, name)| *name);
            let error = Some("This password is not right. Please check it and try again.".to_owned());
            let values = context! { ticket => ticket.expose(), email => waiting.email, name, error };
            let status = StatusCode::UNAUTHORIZED;
            return question(&ctx, status, "upstream_prove.html", values, &waiting.return_to);
        }
        Err(error) => return refused(&ctx, error),
    };
    let session = cookies::set(cookies::SESSION, &entry.cookie, &entry.session, ctx.app().now());
    let set = vec![cookies::set_device(&entry.device), cookies::clear(cookies::UPSTREAM), session];
    let caller = ctx.app().page_entered(&entry, ctx.ip).await.map_err(Problem::from);
    // Signed in they are, whatever becomes of the link.
    let linked = match caller {
        Ok(caller) => ctx.app().link_proven(&caller, &ticket, &waiting, ctx.ip).await.map_err(Problem::from),
        Err(problem) => Err(problem),
    };
    match linked {
        Ok(()) => {
            let back = safe_path(&waiting.return_to).unwrap_or(devices::PATH);
            Ok(leading_to(back, go(back, set)))
        }
        Err(problem) => Err(problem.cookies(set)),
    }
}

/// What an act tells on the page after it.
const DONE: [(&str, &str); 2] = [
    ("removed", "It is removed: nobody signs in by it any more, and where somebody had, the session has ended."),
    ("back", "You are back. If everything went well, what you have linked stands below."),
];

pub(super) async fn links(ctx: Ctx) -> Result<Response, Problem> {
    let caller = match devices::caller(&ctx, LINKS).await? {
        Ok(caller) => caller,
        Err(elsewhere) => return Ok(elsewhere),
    };
    let mut params = params(ctx.uri.query().unwrap_or("").as_bytes())?;
    let done = params.take("done");
    let notice = DONE.iter().find(|(word, _)| Some(*word) == done.as_deref()).map(|(_, text)| *text);
    let (upstreams, now) = (ctx.app().upstreams(false), caller.view.stamp.now);
    let links = ctx.app().my_links(&caller).await?;
    let links: Vec<_> = links.iter().map(|link| shown(link, &upstreams, now)).collect();
    let upstreams: Vec<_> = upstreams.iter().map(|(id, name)| context! { id, name }).collect();
    let account = &caller.view.account;
    let who = super::who(account);
    page(&ctx, StatusCode::OK, "links.html", context! { who, links, upstreams, notice })
}

/// A link, as pages show it.
pub(super) fn shown(link: &Link, upstreams: &[(&str, &str)], now: Time) -> minijinja::Value {
    let name = upstreams.iter().find(|(id, _)| *id == link.upstream).map_or(link.issuer.as_str(), |(_, name)| name);
    context! {
        id => link.id.to_string(), name, label => link.label, closed => link.is_closed(),
        since => ago(link.created_at, now), since_at => link.created_at.to_string(),
        used => ago(link.used_at, now), used_at => link.used_at.to_string(),
    }
}

/// The caller of a form about links; who did not prove lately who they are does so first.
async fn actor(ctx: &Ctx) -> Result<Result<Caller, Response>, Problem> {
    origin::must_be_our_page(&ctx.shared, &ctx.headers)?;
    let caller = match devices::caller(ctx, LINKS).await? {
        Ok(caller) => caller,
        Err(elsewhere) => return Ok(Err(elsewhere)),
    };
    match ctx.app().recently_proven(&caller) {
        Ok(()) => Ok(Ok(caller)),
        Err(_) => Ok(Err(go(&sign_in::first(LINKS, None, true), vec![]))),
    }
}

pub(super) async fn remove(ctx: Ctx, body: FormBytes) -> Result<Response, Problem> {
    let caller = match actor(&ctx).await? {
        Ok(caller) => caller,
        Err(elsewhere) => return Ok(elsewhere),
    };
    let body = body.0.ok_or_else(|| Problem::new(Code::UnsupportedMediaType))?;
    let link: Option<LinkId> = params(&body)?.take("link").and_then(|id| id.parse().ok());
    match ctx.app().remove_my_link(&caller, link.ok_or_else(Problem::not_found)?).await {
        // Removed already: that is what was wanted.
        Ok(()) | Err(AppError::Refused(Refused::NotFound)) => Ok(go("/account/links?done=removed", vec![])),
        Err(error) => Err(error.into()),
    }
}

/// Begins the linking of somebody elsewhere to the caller's account. By a form of ours only: a link could be followed from
/// anywhere, by a browser that somebody has signed in at the provider to an account of their own.
pub(super) async fn add(ctx: Ctx, body: FormBytes) -> Result<Response, Problem> {
    let caller = match actor(&ctx).await? {
        Ok(caller) => caller,
        Err(elsewhere) => return Ok(elsewhere),
    };
    let body = body.0.ok_or_else(|| Problem::new(Code::UnsupportedMediaType))?;
    let id = params(&body)?.take("upstream").unwrap_or_default();
    let back = "/account/links?done=back";
    let away = ctx.app().leave_for(&id, browser(&ctx), back, false, Some(&caller), ctx.ip).await?;
    let known = ctx.app().upstreams(false);
    let name = known.iter().find(|(known, _)| *known == id).map_or("", |(_, name)| *name);
    // A page with a link, for the redirect that answers a form is held against the policy of the page that it was on.
    let mut response = page(&ctx, StatusCode::OK, "upstream_leave.html", context! { url => away.url, name })?;
    super::add_cookies(response.headers_mut(), vec![cookies::set_upstream(&away.browser)]);
    Ok(response)
}
