//! `/recover` and `/not-me`: a new password by a link in a mail, and "this was not me".
//!
//! Following a link changes nothing, for mail scanners follow links, too: it shows a form, and the form does. The link's secret is in
//! the path, so these pages send no path in any `Referer` ([`quiet`]); the log knows routes, not paths.
use super::page;
use crate::origin;
use crate::problem::Problem;
use crate::request::{Ctx, FormBytes, Id, Params};
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use minijinja::context;
use portcullis_app::recovery::Link;
use portcullis_app::{AppError, RepeatKey};
use portcullis_domain::Refused;
use portcullis_wire::{Code, Digest, SecretString};

pub(super) const PATH: &str = "/recover";

/// Nothing of the address goes anywhere with the next request. Not `no-referrer`: browsers would then send `Origin: null` with the
/// form, by which nobody could tell it from a foreign one.
pub(super) fn quiet(mut response: Response) -> Response {
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("strict-origin"));
    response
}

pub(super) async fn form_of(ctx: &Ctx, body: FormBytes) -> Result<Params, Problem> {
    origin::must_be_our_page(&ctx.shared, &ctx.headers)?;
    let body = body.0.ok_or_else(|| Problem::new(Code::UnsupportedMediaType))?;
    Params::oauth(&body).map_err(|_| Problem::new(Code::Malformed))
}

/// What every link that is of no use leads to, and a good one of an account that is blocked.
pub(super) fn refused(ctx: &Ctx, error: AppError) -> Result<Response, Problem> {
    match error {
        AppError::Bad(Code::NotFound, _) => page(ctx, StatusCode::NOT_FOUND, "link_gone.html", context! {}).map(quiet),
        AppError::Refused(Refused::AccountBlocked { reason, .. }) => {
            page(ctx, StatusCode::FORBIDDEN, "link_blocked.html", context! { reason }).map(quiet)
        }
        other => Err(other.into()),
    }
}

pub(super) async fn ask(ctx: Ctx) -> Result<Response, Problem> {
    let sends = ctx.app().recovers();
    page(&ctx, StatusCode::OK, "recover.html", context! { sends, sent => false })
}

/// Says the same whatever the address.
pub(super) async fn asked(ctx: Ctx, body: FormBytes) -> Result<Response, Problem> {
    let mut params = form_of(&ctx, body).await?;
    let identifier = params.take("identifier").unwrap_or_default();
    ctx.app().recover(&identifier, ctx.ip).await?;
    page(&ctx, StatusCode::OK, "recover.html", context! { sends => true, sent => true })
}

pub(super) async fn show(ctx: Ctx, Id(secret): Id<String>) -> Result<Response, Problem> {
    match ctx.app().open_link(&SecretString::new(&*secret)).await {
        Ok(link) if link.opened.resets => form(&ctx, StatusCode::OK, &secret, &link, None),
        Ok(_) => refused(&ctx, AppError::Bad(Code::NotFound, String::new())),
        Err(error) => refused(&ctx, error),
    }
}

fn form(ctx: &Ctx, status: StatusCode, secret: &str, link: &Link, error: Option<String>) -> Result<Response, Problem> {
    let values = context! { secret, email => link.account.email, error, repeat => ctx.app().repeat_text() };
    page(ctx, status, "recover_new.html", values).map(quiet)
}

pub(super) async fn choose(ctx: Ctx, Id(secret): Id<String>, body: FormBytes) -> Result<Response, Problem> {
    let mut params = form_of(&ctx, body).await?;
    let password = SecretString::new(params.take("password").unwrap_or_default());
    let again = SecretString::new(params.take("again").unwrap_or_default());
    // The form's own: sent again because its answer got lost, it is answered as it was. Nobody can guess it, so that it may be held
    // against the password: who has typed another one since must not be told that it is set.
    let key = params.take("repeat").filter(|key| (1..=64).contains(&key.len()));
    let token = SecretString::new(&*secret);
    let wrong = if password.expose() == again.expose() {
        let repeat = key.map(|key| RepeatKey { key, request: Digest::of(password.expose().as_bytes()) });
        match ctx.app().reset_password(&token, password, ctx.ip, repeat.as_ref()).await {
            Ok(_) => return page(&ctx, StatusCode::OK, "recover_done.html", context! {}).map(quiet),
            Err(AppError::Refused(Refused::InvalidValue { detail, .. })) => detail,
            Err(AppError::Refused(Refused::PasswordBreached { .. })) => {
                "This password is in a list of stolen ones, and is among the first that are tried. Please choose another one."
                    .to_owned()
            }
            Err(error) => return refused(&ctx, error),
        }
    } else {
        "The two are not the same. Please type the new password twice.".to_owned()
    };
    match ctx.app().open_link(&token).await {
        Ok(link) => form(&ctx, StatusCode::UNPROCESSABLE_ENTITY, &secret, &link, Some(wrong)),
        Err(error) => refused(&ctx, error),
    }
}

pub(super) async fn show_not_me(ctx: Ctx, Id(secret): Id<String>) -> Result<Response, Problem> {
    match ctx.app().open_not_me(&SecretString::new(&*secret)).await {
        // Said already: what remains is the new password.
        Ok(link) if link.opened.resets => form(&ctx, StatusCode::OK, &secret, &link, None),
        Ok(link) => {
            let session = link.session.as_ref().map(|view| &view.session);
            let values = context! {
                secret, email => link.account.email, before => link.opened.body.address, what => link.opened.body.template,
                about => link.is_about_a_living_session(), over => link.opened.body.session.is_some() && !link.is_about_a_living_session(),
                device => session.map(|session| session.device_name.clone()),
                address => session.and_then(|session| session.ip).map(|ip| ip.to_string()),
                at => session.map(|session| portcullis_app::mail::minute(session.created_at)),
            };
            page(&ctx, StatusCode::OK, "not_me.html", values).map(quiet)
        }
        Err(error) => refused(&ctx, error),
    }
}

pub(super) async fn not_me(ctx: Ctx, Id(secret): Id<String>, body: FormBytes) -> Result<Response, Problem> {
    let mut params = form_of(&ctx, body).await?;
    let all = params.take("all").is_some();
    match ctx.app().deny_session(&SecretString::new(&*secret), all, ctx.ip).await {
        Ok(()) => {
            // The secret is one that was found: letters, digits, `-` and `_`.
            Ok(quiet(super::go(&format!("{PATH}/{secret}"), vec![])))
        }
        Err(error) => refused(&ctx, error),
    }
}
