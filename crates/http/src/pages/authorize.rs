//! `/oauth2/authorize` (RFC 6749 §3.1, OpenID Connect Core §3.1.2) and the question that it may have to ask.
//!
//! The request travels with the browser: to the sign-in page and back as `return_to`, through the question as a hidden field.
//! Each time it is checked anew, from the beginning.
use super::words::encoded;
use super::{go, let_forms_lead_on, page, sign_in};
use crate::oauth::{request_of, with_resources};
use crate::problem::{Problem, described};
use crate::request::{Ctx, FormBytes, Params};
use crate::{cookies, origin};
use axum::response::Response;
use http::StatusCode;
use minijinja::context;
use portcullis_app::{AppError, Caller};
use portcullis_domain::Refused;
use portcullis_domain::authorize::{self, Asked, Hinted, Objection, Request, Step};
use portcullis_domain::client::OFFLINE;
use portcullis_domain::model::Client;
use portcullis_domain::pushed;
use portcullis_domain::refused::OAuthError;
use portcullis_domain::view::AppView;
use portcullis_wire::Code;

pub(super) const PATH: &str = "/oauth2/authorize";

/// The mark of when a request first came; ours, not the client's.
const SEEN: &str = "portcullis_seen";
/// The longest request that is carried through the pages, in bytes.
const MAX_QUERY: usize = 6000;

/// What an answer to the client is made of.
enum Reply {
    Code(portcullis_wire::SecretString),
    Error(OAuthError, String),
}

/// A request that was read.
struct Read {
    client: Client,
    asked: Asked,
    /// The request as the browser carries it, without our own mark.
    query: String,
    seen: Option<String>,
}

pub(super) async fn show(ctx: Ctx) -> Result<Response, Problem> {
    let query = ctx.uri.query().unwrap_or("").to_owned();
    let read = match read(&ctx, &query).await? {
        Ok(read) => read,
        Err(answered) => return Ok(answered),
    };
    let (caller, view) = who(&ctx, &read).await?;
    match (step(&ctx, &read, view.as_ref()), caller, view) {
        (Step::Grant, Some(caller), _) => finish(&ctx, &read, &caller, false).await,
        (Step::Ask(scope), Some(caller), Some(view)) => ask(&ctx, &read, &caller, &view, &scope),
        (Step::Refuse(error), ..) => {
            let quiet = read.asked.prompt.none;
            let words = if quiet { "nothing could be shown" } else { "somebody else signed in than who is meant" };
            let reply = Reply::Error(error, words.into());
            unasked(&ctx, &read.client, &read.asked.redirect_uri, read.asked.state.as_deref(), reply)
        }
        (_, caller, _) => Ok(to_sign_in(&ctx, &read, caller.is_some())),
    }
}

/// The same by a form (OpenID Connect Core §3.1.2.1). A foreign page may send it, and it does nothing by itself: the browser
/// comes again with GET, and then with its cookies.
pub(super) async fn by_form(body: FormBytes) -> Result<Response, Problem> {
    let body = body.0.ok_or_else(|| Problem::new(Code::UnsupportedMediaType))?;
    let query: String =
        form_urlencoded::Serializer::new(String::new()).extend_pairs(form_urlencoded::parse(&body)).finish();
    if query.len() > MAX_QUERY {
        return Err(Problem::malformed("the request is too long"));
    }
    Ok(go(&format!("{PATH}?{query}"), vec![]))
}

/// What must happen first.
fn step(ctx: &Ctx, read: &Read, view: Option<&AppView>) -> Step {
    let hint = read.asked.id_token_hint.as_deref().zip(view);
    let hinted = match hint.map(|(hint, view)| ctx.app().hint_means(hint, view)) {
        None => Hinted::Nobody,
        Some(None) => Hinted::Unknown,
        Some(Some(true)) => Hinted::ThisOne,
        Some(Some(false)) => Hinted::Another,
    };
    let first_seen = read.seen.as_deref().and_then(|mark| ctx.app().when_first_seen(&read.query, mark));
    authorize::next(&read.asked, view, first_seen, hinted)
}

/// What the user said.
pub(super) async fn decide(ctx: Ctx, body: FormBytes) -> Result<Response, Problem> {
    origin::must_be_our_page(&ctx.shared, &ctx.headers)?;
    let body = body.0.ok_or_else(|| Problem::new(Code::UnsupportedMediaType))?;
    let mut params = Params::oauth(&body).map_err(|_| Problem::new(Code::Malformed))?;
    let query = params.take("request").unwrap_or_default();
    let read = match read(&ctx, &query).await? {
        Ok(read) => read,
        Err(answered) => return Ok(answered),
    };
    let (Some(caller), Some(view)) = who(&ctx, &read).await? else { return Ok(to_sign_in(&ctx, &read, false)) };
    if !matches!(step(&ctx, &read, Some(&view)), Step::Ask(_) | Step::Grant) {
        return Ok(to_sign_in(&ctx, &read, true));
    }
    // The answer is to what was shown, to whom it was shown.
    let shown = params.take("shown").unwrap_or_default();
    if shown != shown_to(&ctx, &read, &caller, &view) {
        return ask(&ctx, &read, &caller, &view, &read.asked.scope);
    }
    match params.take("decision").as_deref() {
        Some("allow") => finish(&ctx, &read, &caller, true).await,
        _ => Ok(back(&ctx, &read.asked, Reply::Error(OAuthError::AccessDenied, "the user said no".into()))),
    }
}

/// Reads and checks; or what is to be answered at once.
async fn read(ctx: &Ctx, query: &str) -> Result<Result<Read, Response>, Problem> {
    if query.len() > MAX_QUERY {
        return Err(Problem::malformed("the request is too long"));
    }
    let (mut params, resource) = match with_resources(query.as_bytes(), |words| words) {
        Ok(params) => params,
        Err(words) => return repeated(ctx, query, words).await.map(Err),
    };
    let client_id =
        params.take("client_id").ok_or_else(|| Problem::malformed("the parameter \"client_id\" is missing"))?;
    let unknown =
        || Problem::malformed("there is no such client: the application that sent you here is not set up correctly");
    let client = ctx.app().authorizing_client(&client_id).await?.ok_or_else(unknown)?;
    let seen = params.take(SEEN);
    let request = request_of(&mut params, resource);
    let query = without_mark(query);
    // What else stands in the query beside a pushed request does not count (RFC 9126 §4, RFC 9101 §5).
    let checked = match request.request_uri.as_deref().and_then(pushed::id_of) {
        Some(id) => {
            let first_seen = seen.as_deref().and_then(|mark| ctx.app().when_first_seen(&query, mark));
            ctx.app().pushed_request(&client, id, first_seen).await?
        }
        None => authorize::check(&request, &client, false),
    };
    match checked {
        Ok(asked) => Ok(Ok(Read { client, asked, query, seen })),
        Err(objection) => object(ctx, &client, &request, objection).map(Err),
    }
}

/// A request that says something twice. The client is told where both it and its address stand there once and go together; who
/// cannot be told by that is shown a page (RFC 6749 §3.1, §4.1.2.1).
async fn repeated(ctx: &Ctx, query: &str, words: String) -> Result<Response, Problem> {
    let once = |name: &str| {
        let mut all = form_urlencoded::parse(query.as_bytes()).filter(|(known, _)| known == name);
        all.next().filter(|_| all.next().is_none()).map(|(_, value)| value.into_owned())
    };
    let (Some(client_id), Some(uri)) = (once("client_id"), once("redirect_uri")) else {
        return Err(Problem::malformed(words));
    };
    let client = ctx.app().authorizing_client(&client_id).await?;
    let Some(client) = client.filter(|client| authorize::may_be_told(client, &uri)) else {
        return Err(Problem::malformed(words));
    };
    let state = once("state").filter(|state| !state.is_empty());
    unasked(ctx, &client, &uri, state.as_deref(), Reply::Error(OAuthError::InvalidRequest, words))
}

/// To the client where its address is known to be its own; on a page of ours otherwise (RFC 6749 §4.1.2.1).
fn object(ctx: &Ctx, client: &Client, request: &Request, objection: Objection) -> Result<Response, Problem> {
    let Objection { error, detail, redirect_uri } = objection;
    match redirect_uri {
        Some(uri) => unasked(ctx, client, &uri, request.state.as_deref(), Reply::Error(error, detail)),
        None => {
            let words =
                format!("The application that sent you here is not set up correctly: {detail} ({}).", error.as_str());
            Err(Problem::malformed(words))
        }
    }
}

/// An answer that nobody has clicked for. To a client that somebody stands behind the browser goes at once; to a stranger's address
/// only by a click, or whoever registers would have an open redirector here (RFC 9700 §4.11.2).
fn unasked(ctx: &Ctx, client: &Client, uri: &str, state: Option<&str>, reply: Reply) -> Result<Response, Problem> {
    if !client.profile.is_stranger() {
        return Ok(redirect(ctx, uri, state, reply));
    }
    let place = answer_place(ctx, uri, state, &reply);
    page(ctx, StatusCode::OK, "go_on.html", context! { place, host => destination(uri), name => client.name })
}

/// Where an address leads, in words for people: its host, or the scheme of an application on the device.
fn destination(uri: &str) -> String {
    let host = portcullis_domain::client::host_of(uri).map(str::to_owned);
    host.unwrap_or_else(|| format!("{}:", uri.split(':').next().unwrap_or_default()))
}

fn without_mark(query: &str) -> String {
    let pairs = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name != SEEN);
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// Whoever is signed in at this browser, beside the client. A session that has ended is nobody.
async fn who(ctx: &Ctx, read: &Read) -> Result<(Option<Caller>, Option<AppView>), Problem> {
    let Some(cookie) = cookies::read(&ctx.headers, cookies::SESSION) else { return Ok((None, None)) };
    let caller = match ctx.app().page_caller(&cookie, ctx.ip).await {
        Ok(caller) => caller,
        Err(AppError::Unauthenticated(_) | AppError::Refused(_)) => return Ok((None, None)),
        Err(error) => return Err(error.into()),
    };
    let view = ctx.app().app_view(&caller, read.client.id).await?;
    Ok(if view.is_some() { (Some(caller), view) } else { (None, None) })
}

/// The request with the mark of when it first came.
fn marked(ctx: &Ctx, read: &Read) -> String {
    let mark = match &read.seen {
        Some(mark) if ctx.app().when_first_seen(&read.query, mark).is_some() => mark.clone(),
        _ => ctx.app().first_seen(&read.query),
    };
    format!("{}&{SEEN}={}", read.query, encoded(&mark))
}

/// Whoever is signed in, or must have proven just now who they are, proves it anew. Somebody else signs in as always: whom another
/// provider knows already need not prove it there once more, and a provider that cannot ask for that is offered.
fn to_sign_in(ctx: &Ctx, read: &Read, signed_in: bool) -> Response {
    let place = format!("{PATH}?{}", marked(ctx, read));
    let anew = signed_in || read.asked.prompt.login || read.asked.max_age.is_some();
    go(&sign_in::first(&place, read.asked.login_hint.as_deref(), anew), vec![])
}

/// What stands for the page that was shown: client, scopes, account and session. Nobody but this server can make it.
fn shown_to(ctx: &Ctx, read: &Read, caller: &Caller, view: &AppView) -> String {
    let session = &caller.view.session;
    let scope = read.asked.scope.join(" ");
    ctx.app().shown(&format!("{} {} {scope} {} {}", view.client.id, view.client.version, session.account, session.id))
}

fn ask(ctx: &Ctx, read: &Read, caller: &Caller, view: &AppView, scope: &[String]) -> Result<Response, Problem> {
    let host = destination(&read.asked.redirect_uri);
    let account = &caller.view.account;
    let asks: Vec<_> = scope.iter().map(|name| context! { name, words => words(name) }).collect();
    let values = context! {
        client => about(&view.client),
        who => super::who(account),
        asks, host, offline => scope.iter().any(|one| one == OFFLINE),
        request => marked(ctx, read), shown => shown_to(ctx, read, caller, view),
    };
    let mut response = page(ctx, StatusCode::OK, "consent.html", values)?;
    let_forms_lead_on(response.headers_mut());
    Ok(response)
}

/// What is shown of a client that asks. Nothing of it is loaded; its links tell nobody where they were. Those of a stranger are not shown.
pub(super) fn about(client: &Client) -> minijinja::Value {
    let (profile, stranger) = (&client.profile, client.profile.is_stranger());
    let link = |uri: &Option<String>| uri.clone().filter(|_| !stranger);
    let (uri, policy, terms) = (link(&profile.client_uri), link(&profile.policy_uri), link(&profile.tos_uri));
    context! { name => client.name, uri, policy, terms, stranger }
}

/// A scope in words; those of a client's own have none.
pub(super) fn words(scope: &str) -> Option<&'static str> {
    Some(match scope {
        "openid" => "Know who you are here",
        "profile" => "See your name",
        "email" => "See your email address",
        OFFLINE => "Keep this access while you are away, until you take it back",
        _ => return None,
    })
}

async fn finish(ctx: &Ctx, read: &Read, caller: &Caller, agreed: bool) -> Result<Response, Problem> {
    match ctx.app().grant_code(caller, read.client.id, &read.asked, agreed, ctx.ip).await {
        Ok(code) => Ok(back(ctx, &read.asked, Reply::Code(code))),
        Err(AppError::Refused(Refused::OAuth { error: OAuthError::InvalidRequestUri, detail })) => {
            Err(Problem::malformed(format!("{detail}; go back to the application and begin again.")))
        }
        // What it rested on was changed meanwhile: the browser asks once more, and is shown what there is to be shown.
        Err(AppError::Refused(_)) if read.asked.prompt.none => Ok(back(
            ctx,
            &read.asked,
            Reply::Error(OAuthError::InteractionRequired, "something was changed meanwhile".into()),
        )),
        Err(AppError::Refused(_)) => Ok(go(&format!("{PATH}?{}", marked(ctx, read)), vec![])),
        Err(error) => Err(error.into()),
    }
}

fn back(ctx: &Ctx, asked: &Asked, reply: Reply) -> Response {
    redirect(ctx, &asked.redirect_uri, asked.state.as_deref(), reply)
}

/// The answer in the address's query, with `iss` (RFC 9207 §2) and `state` as it came.
fn redirect(ctx: &Ctx, uri: &str, state: Option<&str>, reply: Reply) -> Response {
    go(&answer_place(ctx, uri, state, &reply), vec![])
}

fn answer_place(ctx: &Ctx, uri: &str, state: Option<&str>, reply: &Reply) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    match reply {
        Reply::Code(code) => query.append_pair("code", code.expose()),
        Reply::Error(error, detail) => {
            query.append_pair("error", error.as_str()).append_pair("error_description", &described(detail))
        }
    };
    if let Some(state) = state {
        query.append_pair("state", state);
    }
    query.append_pair("iss", &ctx.shared.config().issuer);
    let join = if uri.contains('?') { '&' } else { '?' };
    format!("{uri}{join}{}", query.finish())
}
