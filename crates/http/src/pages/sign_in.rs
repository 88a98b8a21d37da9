//! `/sign-in`.
use super::words::{encoded, safe_path};
use super::{devices, go, page};
use crate::problem::Problem;
use crate::request::{Ctx, FormBytes, Params};
use crate::{cookies, origin};
use axum::response::Response;
use http::{HeaderValue, StatusCode};
use minijinja::context;
use portcullis_app::AppError;
use portcullis_app::sessions::Credentials;
use portcullis_domain::model::SessionKind;
use portcullis_domain::sign_in::SignIn;
use portcullis_domain::{Refused, client_hints};
use portcullis_wire::{Code, SecretString};

/// What a redirect to this page may say, as a word in `?notice=`: nothing of the address itself reaches the page.
const NOTICES: [(&str, &str); 9] = [
    ("signed-out", "You are signed out on this device."),
    ("all-ended", "You are signed out everywhere."),
    ("ended", "This session was ended. Please sign in again."),
    (
        "upstream-refused",
        "This sign-in looked like somebody else's, so it was refused. Please try again from a device or a network that you have used before.",
    ),
    ("upstream-denied", "You were not signed in there. You can try again, or sign in here."),
    ("upstream-failed", "Signing in that way did not work. Please try again later, or sign in here."),
    ("upstream-stale", "That took too long, or was begun in another browser. Please try again."),
    ("upstream-declined", "No account was made."),
    ("upstream-nobody", "There is no account here for you yet, and accounts are made by an administrator."),
];

/// Where to send somebody who must sign in first.
pub(super) fn address(notice: Option<&str>, back: Option<&str>) -> String {
    let mut pairs = vec![];
    pairs.extend(notice.map(|notice| format!("notice={notice}")));
    pairs.extend(back.map(|back| format!("return_to={}", encoded(back))));
    if pairs.is_empty() { "/sign-in".into() } else { format!("/sign-in?{}", pairs.join("&")) }
}

/// Where to send somebody who must sign in first, and then goes on to `back`. `anew`: also when they are signed in.
pub(super) fn first(back: &str, login_hint: Option<&str>, anew: bool) -> String {
    let hint = login_hint.map(|hint| format!("&login_hint={}", encoded(hint))).unwrap_or_default();
    format!("/sign-in?{}return_to={}{hint}", if anew { "again=1&" } else { "" }, encoded(back))
}

fn back(params: &mut Params) -> String {
    let given = params.take("return_to");
    given.as_deref().and_then(safe_path).unwrap_or(devices::PATH).to_owned()
}

pub(super) async fn show(ctx: Ctx) -> Result<Response, Problem> {
    // A page is no API: what it does not know, it ignores.
    let mut params =
        Params::oauth(ctx.uri.query().unwrap_or("").as_bytes()).map_err(|_| Problem::new(Code::Malformed))?;
    let back = back(&mut params);
    let again = params.take("again").is_some();
    if let Some(cookie) = cookies::read(&ctx.headers, cookies::SESSION)
        && !again
        && ctx.app().page_caller(&cookie, ctx.ip).await.is_ok()
    {
        return Ok(go(&back, vec![]));
    }
    let hint = params.take("login_hint").filter(|hint| hint.len() <= 254).unwrap_or_default();
    let notice = params.take("notice");
    let notice = NOTICES.iter().find(|(word, _)| Some(*word) == notice.as_deref()).map(|(_, text)| *text);
    form(&ctx, StatusCode::OK, &back, &hint, notice, None, again).await
}

async fn form(
    ctx: &Ctx,
    status: StatusCode,
    return_to: &str,
    identifier: &str,
    notice: Option<&str>,
    error: Option<String>,
    again: bool,
) -> Result<Response, Problem> {
    let query = format!("return_to={}{}", encoded(return_to), if again { "&again=1" } else { "" });
    let upstreams = ctx.app().upstreams(again);
    let upstreams: Vec<_> =
        upstreams.iter().map(|(id, name)| context! { name, place => format!("/upstream/{id}?{query}") }).collect();
    let recovers = ctx.app().recovers();
    let values = context! { return_to, identifier, notice, error, again, upstreams, recovers };
    let mut response = page(ctx, status, "sign_in.html", values)?;
    // What comes with the next request: the form, which names the device.
    let headers = response.headers_mut();
    headers.insert("accept-ch", HeaderValue::from_static(client_hints::asked_for()));
    if return_to.starts_with("/oauth2/") {
        super::let_forms_lead_on(headers);
    }
    Ok(response)
}

pub(super) async fn submit(ctx: Ctx, body: FormBytes) -> Result<Response, Problem> {
    // Before anything else: a foreign page must not sign a browser in, to an account of its choice.
    origin::must_be_our_page(&ctx.shared, &ctx.headers).map_err(|problem| {
        problem.saying(format!("Open this page at {} and sign in there.", ctx.shared.config().issuer))
    })?;
    let body = body.0.ok_or_else(|| Problem::new(Code::UnsupportedMediaType))?;
    let mut params = Params::oauth(&body).map_err(|_| Problem::new(Code::Malformed))?;
    let back = back(&mut params);
    let again = params.take("again").is_some();
    let identifier = params.take("identifier").unwrap_or_default();
    let password = SecretString::new(params.take("password").unwrap_or_default());
    let request = SignIn {
        kind: SessionKind::Browser,
        device_name: ctx.hinted_name(),
        user_agent: ctx.user_agent(),
        ip: ctx.ip,
        cookie: None,
    };
    let device = cookies::read(&ctx.headers, cookies::DEVICE);
    let credentials = Credentials { identifier: identifier.clone(), password, device };
    // Whoever is signed in here proves once more who they are: the session goes on with another cookie, and no second device
    // appears.
    let present = match cookies::read(&ctx.headers, cookies::SESSION) {
        Some(cookie) => ctx.app().page_caller(&cookie, ctx.ip).await.ok(),
        None => None,
    };
    let error = match ctx.app().page_sign_in(credentials, request, present.as_ref()).await {
        Ok(entry) => {
            let now = ctx.app().now();
            let session = cookies::set(cookies::SESSION, &entry.cookie, &entry.session, now);
            let mut answer = go(&back, vec![session, cookies::set_device(&entry.device)]);
            if back.starts_with("/oauth2/") {
                super::let_forms_lead_on(answer.headers_mut());
            }
            return Ok(answer);
        }
        Err(error) => error,
    };
    let status = StatusCode::from_u16(error.code().status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let words = match &error {
        // Told to everybody alike: whether somebody has just signed up is nobody else's business.
        AppError::Refused(Refused::InvalidCredentials) if ctx.app().settings().rules.require_verified_email => {
            "Address or password is not right, or the address is not confirmed yet: then a mail with a link is on its way to it, if there was none a short while ago. Please check all three and try again.".to_owned()
        }
        AppError::Refused(Refused::InvalidCredentials) => {
            "Address or password is not right. Please check both and try again.".to_owned()
        }
        AppError::Refused(Refused::SessionEnded { .. }) => {
            "This sign-in looked like somebody else's, so it was refused. Please try again from a device or a network that you have used before.".to_owned()
        }
        // Said only after the right password. It leads nowhere: whoever comes back to sign in would be here again.
        AppError::Refused(Refused::AccountBlocked { reason, until }) => {
            let until = until.map(|until| until.to_string());
            return page(&ctx, status, "blocked.html", context! { reason, until });
        }
        // Said to who has a session, after the right password.
        AppError::Refused(Refused::EmailNotVerified) => {
            "Your address is not confirmed yet. A mail with a link is on its way to it, if there was none a short while ago: open the link, then sign in again.".to_owned()
        }
        AppError::Overloaded => "There is a lot to do at the moment. Please try again in a few seconds.".to_owned(),
        _ => return Err(error.into()),
    };
    form(&ctx, status, &back, &identifier, None, Some(words), again).await
}
