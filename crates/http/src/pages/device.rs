//! `/device` (RFC 8628 §3.3): where a person says yes or no to a device without a browser.
//!
//! Nothing happens by an address alone, also not by one that carries the code: whoever follows such a link signs in, sees who
//! asks and for what, and is told not to say yes to what they did not begin (RFC 8628 §5.4).
use super::authorize::{about, words};
use super::words::encoded;
use super::{devices, go, page, sign_in};
use crate::origin;
use crate::problem::Problem;
use crate::request::{Ctx, FormBytes, Params};
use axum::response::Response;
use http::StatusCode;
use minijinja::context;
use portcullis_app::oauth::DeviceQuestion;
use portcullis_app::{AppError, Caller};
use portcullis_domain::Refused;
use portcullis_domain::client::OFFLINE;
use portcullis_domain::device_code;
use portcullis_wire::{Code, Digest, b64};

pub(crate) const PATH: &str = "/device";
const UNKNOWN: &str = "There is no such code, or it counts no longer. Check it, or let the device show a new one. \
     After several wrong ones, wait a few minutes.";

/// The code of a query or form, if it can be one; with it the way back to this page.
fn code_of(params: &mut Params) -> (String, String) {
    let code = params.take("user_code").as_deref().and_then(device_code::typed).unwrap_or_default();
    let back = if code.is_empty() { PATH.to_owned() } else { format!("{PATH}?user_code={}", encoded(&code)) };
    (code, back)
}

pub(super) async fn show(ctx: Ctx) -> Result<Response, Problem> {
    let mut params =
        Params::oauth(ctx.uri.query().unwrap_or("").as_bytes()).map_err(|_| Problem::new(Code::Malformed))?;
    let (code, back) = code_of(&mut params);
    match devices::caller(&ctx, &back).await? {
        Ok(caller) => form(&ctx, StatusCode::OK, &caller, &code, None, None),
        Err(elsewhere) => Ok(elsewhere),
    }
}

fn form(
    ctx: &Ctx,
    status: StatusCode,
    caller: &Caller,
    code: &str,
    error: Option<&str>,
    done: Option<&str>,
) -> Result<Response, Problem> {
    let account = &caller.view.account;
    let who = super::who(account);
    page(ctx, status, "device.html", context! { who, code, error, done })
}

/// Looks a code up and asks.
pub(super) async fn look_up(ctx: Ctx, body: FormBytes) -> Result<Response, Problem> {
    let (caller, mut params) = match read(&ctx, body).await? {
        Ok(read) => read,
        Err(elsewhere) => return Ok(elsewhere),
    };
    let code = params.take("user_code").unwrap_or_default();
    match ctx.app().asked_by_device(&caller, &code).await {
        Ok(asked) => ask(&ctx, &caller, &asked),
        Err(AppError::Refused(Refused::NotFound)) => {
            let code = device_code::typed(&code).unwrap_or_default();
            form(&ctx, StatusCode::NOT_FOUND, &caller, &code, Some(UNKNOWN), None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whoever sends a form of ours, and what it holds.
async fn read(ctx: &Ctx, body: FormBytes) -> Result<Result<(Caller, Params), Response>, Problem> {
    origin::must_be_our_page(&ctx.shared, &ctx.headers)?;
    let body = body.0.ok_or_else(|| Problem::new(Code::UnsupportedMediaType))?;
    let params = Params::oauth(&body).map_err(|_| Problem::new(Code::Malformed))?;
    let back = code_of(&mut Params::oauth(&body).map_err(|_| Problem::new(Code::Malformed))?).1;
    Ok(devices::caller(ctx, &back).await?.map(|caller| (caller, params)))
}

fn ask(ctx: &Ctx, caller: &Caller, asked: &DeviceQuestion) -> Result<Response, Problem> {
    let (client, account) = (&asked.view.client, &caller.view.account);
    if client.profile.lacks_auth_time(&asked.view.session.session) {
        let back = format!("{PATH}?user_code={}", encoded(&asked.code));
        return Ok(go(&sign_in::first(&back, None, true), vec![]));
    }
    let asks: Vec<_> = asked.scope.iter().map(|name| context! { name, words => words(name) }).collect();
    let (first, second) = asked.code.split_at(asked.code.len() / 2);
    let values = context! {
        client => about(client),
        who => super::who(account),
        asks, offline => asked.scope.iter().any(|one| one == OFFLINE),
        code => asked.code, spelled => format!("{first}-{second}"), shown => shown_to(caller, asked),
    };
    page(ctx, StatusCode::OK, "device_ask.html", values)
}

/// What stands for the question that was shown: client, scopes and account.
fn shown_to(caller: &Caller, asked: &DeviceQuestion) -> String {
    let (client, account) = (&asked.view.client, caller.view.account.id);
    let what = format!("{} {} {} {account} {}", client.id, client.version, asked.scope.join(" "), asked.code);
    b64::encode(&Digest::of(what.as_bytes()).0)
}

/// What the person says. The code is looked up once more, and counts as a guess once more.
pub(super) async fn decide(ctx: Ctx, body: FormBytes) -> Result<Response, Problem> {
    let (caller, mut params) = match read(&ctx, body).await? {
        Ok(read) => read,
        Err(elsewhere) => return Ok(elsewhere),
    };
    let code = params.take("user_code").unwrap_or_default();
    let allow = params.take("decision").as_deref() == Some("allow");
    let gone = || form(&ctx, StatusCode::NOT_FOUND, &caller, "", Some(UNKNOWN), None);
    let asked = match ctx.app().asked_by_device(&caller, &code).await {
        Ok(asked) => asked,
        Err(AppError::Refused(Refused::NotFound)) => return gone(),
        Err(error) => return Err(error.into()),
    };
    let undated = asked.view.client.profile.lacks_auth_time(&asked.view.session.session);
    if params.take("shown").unwrap_or_default() != shown_to(&caller, &asked) || (allow && undated) {
        return ask(&ctx, &caller, &asked);
    }
    match ctx.app().answer_device(&caller, &asked, allow).await {
        Ok(()) => {
            let done = if allow {
                "Allowed. Go on at your device; it may take a few seconds."
            } else {
                "Refused. The device gets nothing."
            };
            form(&ctx, StatusCode::OK, &caller, "", None, Some(done))
        }
        Err(AppError::Refused(Refused::NotFound)) => gone(),
        Err(error) => Err(error.into()),
    }
}
