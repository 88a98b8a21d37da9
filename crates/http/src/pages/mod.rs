//! The pages: `/sign-in` and `/account/devices`. HTML made here, a stylesheet, no script.
//!
//! Pages are the one place where a cookie authenticates everything, so every form is a POST whose `Origin` must be ours, the
//! content security policy allows nothing but our own stylesheet and icon and forms to ourselves, and nobody may frame them.
//! Templates are minijinja with escaping always on; a directory may override any of them, so that operators restyle without a build.
mod apps;
mod authorize;
mod device;
mod devices;
mod email;
mod logout;
mod recover;
mod sign_in;
mod upstream;
mod words;

pub(crate) use device::PATH as DEVICE;

use crate::problem::Problem;
use crate::request::{Ctx, Shared};
use crate::table::Table;
use axum::response::{Html, IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, context};
use portcullis_domain::model::Account;
use portcullis_wire::{Code, Digest, b64};
use std::path::Path;
use std::sync::Arc;

const TEMPLATES: [(&str, &str); 24] = [
    ("layout.html", include_str!("../../templates/layout.html")),
    ("sign_in.html", include_str!("../../templates/sign_in.html")),
    ("devices.html", include_str!("../../templates/devices.html")),
    ("apps.html", include_str!("../../templates/apps.html")),
    ("consent.html", include_str!("../../templates/consent.html")),
    ("device.html", include_str!("../../templates/device.html")),
    ("device_ask.html", include_str!("../../templates/device_ask.html")),
    ("logout.html", include_str!("../../templates/logout.html")),
    ("signed_out.html", include_str!("../../templates/signed_out.html")),
    ("links.html", include_str!("../../templates/links.html")),
    ("upstream_prove.html", include_str!("../../templates/upstream_prove.html")),
    ("upstream_new.html", include_str!("../../templates/upstream_new.html")),
    ("upstream_leave.html", include_str!("../../templates/upstream_leave.html")),
    ("go_on.html", include_str!("../../templates/go_on.html")),
    ("blocked.html", include_str!("../../templates/blocked.html")),
    ("problem.html", include_str!("../../templates/problem.html")),
    ("recover.html", include_str!("../../templates/recover.html")),
    ("recover_new.html", include_str!("../../templates/recover_new.html")),
    ("recover_done.html", include_str!("../../templates/recover_done.html")),
    ("link_gone.html", include_str!("../../templates/link_gone.html")),
    ("link_blocked.html", include_str!("../../templates/link_blocked.html")),
    ("not_me.html", include_str!("../../templates/not_me.html")),
    ("email.html", include_str!("../../templates/email.html")),
    ("email_done.html", include_str!("../../templates/email_done.html")),
];
const CSS: (&str, &str) = ("app.css", include_str!("../../assets/app.css"));
const ICON: (&str, &str) = ("icon.svg", include_str!("../../assets/icon.svg"));

/// Templates and assets. Cheap to clone.
#[derive(Clone)]
pub struct Pages {
    inner: Arc<Inner>,
}

struct Inner {
    templates: Environment<'static>,
    css: String,
    icon: String,
    /// Changes whenever the stylesheet or the icon does: browsers keep them for ever under this name.
    assets_version: String,
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pages").finish_non_exhaustive()
    }
}

impl Pages {
    /// The pages that came with the program.
    #[allow(
        clippy::expect_used,
        reason = "the embedded templates are part of the program; every test that makes a page loads them"
    )]
    pub fn embedded() -> Self {
        Self::build(|_, embedded| Ok(embedded.to_owned())).expect("the embedded templates parse")
    }

    /// With files of this directory in place of those of the same name: `layout.html`, `sign_in.html`, `devices.html`,
    /// `apps.html`, `consent.html`, `device.html`, `device_ask.html`, `logout.html`, `signed_out.html`, `links.html`,
    /// `upstream_prove.html`, `upstream_new.html`, `upstream_leave.html`, `go_on.html`, `blocked.html`, `problem.html`, `recover.html`, `recover_new.html`, `recover_done.html`,
    /// `link_gone.html`, `link_blocked.html`, `not_me.html`, `email.html`, `email_done.html`, `app.css`, `icon.svg`. Read once, now.
    ///
    /// # Errors
    /// Which file cannot be read or is no template, in words.
    pub fn with_overrides(directory: &Path) -> Result<Self, String> {
        if !directory.is_dir() {
            return Err(format!("{} is no directory", directory.display()));
        }
        Self::build(|name, embedded| {
            let path = directory.join(name);
            match std::fs::read_to_string(&path) {
                Ok(text) => Ok(text),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(embedded.to_owned()),
                Err(error) => Err(format!("{}: {error}", path.display())),
            }
        })
    }

    fn build(read: impl Fn(&str, &str) -> Result<String, String>) -> Result<Self, String> {
        let mut templates = Environment::new();
        templates.set_auto_escape_callback(|_| AutoEscape::Html);
        templates.set_undefined_behavior(UndefinedBehavior::Strict);
        for (name, embedded) in TEMPLATES {
            let text = read(name, embedded)?;
            templates.add_template_owned(name, text).map_err(|error| format!("{name}: {error}"))?;
        }
        let (css, icon) = (read(CSS.0, CSS.1)?, read(ICON.0, ICON.1)?);
        let assets_version = b64::encode(&Digest::of(format!("{css}{icon}").as_bytes()).0[..9]);
        Ok(Self { inner: Arc::new(Inner { templates, css, icon, assets_version }) })
    }

    fn render(&self, name: &str, values: Value) -> Result<String, Problem> {
        let assets = context! { version => self.inner.assets_version };
        let made = self.inner.templates.get_template(name).and_then(|t| t.render(context! { assets, ..values }));
        made.map_err(|error| {
            tracing::error!(%name, %error, "a template could not be rendered");
            Problem::new(Code::Unavailable)
        })
    }
}

pub(crate) fn routes(table: Table) -> Table {
    table
        .get("/sign-in", sign_in::show)
        .post("/sign-in", sign_in::submit)
        .post("/sign-out", devices::sign_out)
        .get("/account", devices::index)
        .get("/account/devices", devices::show)
        .post("/account/devices/end", devices::end_one)
        .post("/account/devices/rename", devices::rename)
        .post("/account/devices/end-others", devices::end_others)
        .post("/account/devices/end-all", devices::end_all)
        .get("/account/apps", apps::show)
        .post("/account/apps/disconnect", apps::disconnect)
        .get(upstream::LINKS, upstream::links)
        .post("/account/links/add", upstream::add)
        .post("/account/links/remove", upstream::remove)
        .get("/upstream/{id}", upstream::begin)
        .get("/upstream/{id}/callback", upstream::callback)
        .post("/upstream/confirm", upstream::confirm)
        .post("/upstream/confirm/new", upstream::decide)
        .get(authorize::PATH, authorize::show)
        .post(authorize::PATH, authorize::by_form)
        .post("/oauth2/consent", authorize::decide)
        .get(DEVICE, device::show)
        .post(DEVICE, device::look_up)
        .post("/device/answer", device::decide)
        .get(logout::PATH, logout::show)
        .post(logout::PATH, logout::by_form)
        .post(logout::CONFIRM, logout::confirm)
        .get(recover::PATH, recover::ask)
        .post(recover::PATH, recover::asked)
        .get("/recover/{link}", recover::show)
        .post("/recover/{link}", recover::choose)
        .get("/not-me/{link}", recover::show_not_me)
        .post("/not-me/{link}", recover::not_me)
        .get("/email/{link}", email::show)
        .post("/email/{link}", email::confirm)
        .get("/assets/app.css", css)
        .get("/assets/icon.svg", icon)
}

/// Whether a path is a page, so that a refusal there is one too.
pub(crate) fn is_page(path: &str) -> bool {
    matches!(
        path,
        "/sign-in"
            | "/sign-out"
            | "/account"
            | authorize::PATH
            | "/oauth2/consent"
            | DEVICE
            | "/device/answer"
            | logout::PATH
            | logout::CONFIRM
            | recover::PATH
    ) || path.starts_with("/account/")
        || path.starts_with("/recover/")
        || path.starts_with("/not-me/")
        || path.starts_with("/email/")
        || (path.starts_with("/upstream/") && !path.ends_with("/backchannel-logout"))
}

/// What every page says to the browser.
pub(crate) fn add_headers(path: &str, headers: &mut HeaderMap) {
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(POLICY));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    // Not `no-referrer`: browsers would then send `Origin: null` with our own forms.
    headers.entry(header::REFERRER_POLICY).or_insert(HeaderValue::from_static("same-origin"));
    // Not on the way of an authorization: applications open it in a window of their own, and wait for what it says.
    let opener = if path.starts_with("/oauth2/") { "unsafe-none" } else { "same-origin" };
    headers.entry("cross-origin-opener-policy").or_insert(HeaderValue::from_static(opener));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers
        .insert("permissions-policy", HeaderValue::from_static("camera=(), geolocation=(), microphone=(), payment=()"));
}

/// The content security policy of every page: our own stylesheet and icon, forms to ourselves, no frames.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Of pages with a form whose answer leads to an application. Some browsers hold every hop of the redirects after a form against
/// `form-action`, and where an application leads on to is its own affair; so there is none here. What it guards against, a form that
/// somebody smuggled in, needs a place where a page does not escape what it shows.
const LEADING_ON: &str =
    "default-src 'none'; style-src 'self'; img-src 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Lets the forms of a page lead to an application.
fn let_forms_lead_on(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(LEADING_ON));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("unsafe-none"));
}

/// Lets a page load frames from the origins of these addresses, and of no others.
fn allow_frames_from(headers: &mut HeaderMap, uris: &[String]) {
    let mut origins: Vec<String> = uris.iter().filter_map(|uri| words::origin_for_policy(uri)).collect();
    origins.sort();
    origins.dedup();
    if let Ok(value) = HeaderValue::from_str(&format!("{POLICY}; frame-src {}", origins.join(" "))) {
        headers.insert(header::CONTENT_SECURITY_POLICY, value);
    }
}

/// A refusal as a page.
pub(crate) fn problem_page(shared: &Shared, problem: &Problem, request_id: &str) -> String {
    let detail = match problem.code {
        Code::OriginRefused if problem.is_usual() => {
            "This form was not sent by a page of this site, so nothing was done. If you meant to do it, open your devices and do it there."
        }
        _ => &problem.detail,
    };
    let values = context! {
        title => problem.code.title(), detail, reason => problem.reason(),
        status => problem.code.status(), request_id, issuer => shared.config().issuer,
    };
    // A template that does not render must not hide what happened; titles and details are our own words.
    shared.config().pages.render("problem.html", values).unwrap_or_else(|_| problem.code.title().to_owned())
}

fn page(ctx: &Ctx, status: StatusCode, template: &str, values: Value) -> Result<Response, Problem> {
    let html = ctx.shared.config().pages.render(template, values)?;
    Ok((status, Html(html)).into_response())
}

/// Whoever is signed in, as pages name them. Whom another provider brought without address and name has the account's id.
fn who(account: &Account) -> Value {
    let unnamed = format!("an account without a name ({})", account.id);
    context! { email => account.email, name => account.name, unnamed }
}

/// See other, with cookies set or cleared. `place` is ours and has ASCII characters only, or the way leads to the devices.
fn go(place: &str, cookies: Vec<String>) -> Response {
    let place = HeaderValue::from_str(place).unwrap_or(HeaderValue::from_static(devices::PATH));
    let mut response = (StatusCode::SEE_OTHER, [(header::LOCATION, place)]).into_response();
    add_cookies(response.headers_mut(), cookies);
    response
}

fn add_cookies(headers: &mut HeaderMap, cookies: Vec<String>) {
    for cookie in cookies {
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            headers.append(header::SET_COOKIE, cookie);
        }
    }
}

fn asset(text: &str, kind: &'static str, versioned: bool) -> Response {
    // Under a versioned address it never changes.
    let keep = if versioned { "public, max-age=31536000, immutable" } else { "public, max-age=60" };
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, keep)];
    (headers, text.to_owned()).into_response()
}

async fn css(ctx: Ctx) -> Response {
    let pages = &ctx.shared.config().pages.inner;
    asset(&pages.css, "text/css; charset=utf-8", ctx.uri.query() == Some(&format!("v={}", pages.assets_version)))
}

async fn icon(ctx: Ctx) -> Response {
    let pages = &ctx.shared.config().pages.inner;
    asset(&pages.icon, "image/svg+xml", ctx.uri.query() == Some(&format!("v={}", pages.assets_version)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_overrides_what_it_holds() {
        let directory = portcullis_testkit::TempDir::new("pages");
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("app.css", "body { color: teal }");
        write("problem.html", "<h1>{{ title }}</h1>{{ detail }}");
        let pages = Pages::with_overrides(directory.path()).unwrap();
        assert_eq!(pages.inner.css, "body { color: teal }");
        assert_ne!(pages.inner.assets_version, Pages::embedded().inner.assets_version);
        let html = pages.render("problem.html", context! { title => "<b>", detail => "d" }).unwrap();
        assert_eq!(html, "<h1>&lt;b&gt;</h1>d");
        // A mistake is told at the start, not to the first visitor.
        write("sign_in.html", "{% if %}");
        let told = Pages::with_overrides(directory.path()).unwrap_err();
        assert!(told.starts_with("sign_in.html"), "{told}");
        assert!(Pages::with_overrides(&directory.path().join("nowhere")).is_err());
    }
}
