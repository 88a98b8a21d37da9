//! Authorization requests and codes: what is objected to and where, what must happen first, and what a code still redeems.
use crate::world::*;
use portcullis_domain::authorize::{Asked, Hinted, Prompt, Request, Step, check, grant_code, next};
use portcullis_domain::changes::{Change, Expect};
use portcullis_domain::client::{Asking, GrantType, Profile};
use portcullis_domain::code::{Granted, Redeem, redeem};
use portcullis_domain::model::*;
use portcullis_domain::refresh::{How, refresh};
use portcullis_domain::refused::OAuthError;
use portcullis_domain::ticket::Used;
use portcullis_domain::view::*;
use portcullis_domain::{Cut, Refused};
use portcullis_wire::*;

const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
/// Of RFC 7636, appendix B.
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

pub fn client() -> Client {
    let profile = Profile {
        redirect_uris: vec!["https://app.example/cb".into()],
        scopes: ["email", "offline_access", "openid", "read"].map(String::from).into(),
        resources: vec!["https://api.example".into()],
        grant_types: vec![GrantType::AuthorizationCode, GrantType::RefreshToken],
        ..Profile::default()
    };
    Client {
        id: ClientId::from_bits(77),
        name: "An app".into(),
        kind: ClientKind::Confidential,
        secret: None,
        old_secret: None,
        profile,
        version: 1,
        disabled: false,
        created_at: Time(0),
        cut: Cut::default(),
    }
}

fn request() -> Request {
    Request {
        response_type: Some("code".into()),
        redirect_uri: Some("https://app.example/cb".into()),
        scope: Some("openid read".into()),
        code_challenge: Some(CHALLENGE.into()),
        code_challenge_method: Some("S256".into()),
        state: Some("s".into()),
        nonce: Some("n".into()),
        ..Request::default()
    }
}

pub fn app(now: Time, consent: Option<&str>) -> AppView {
    let RefreshView { stamp, session, account, .. } = view(now);
    let consent = consent.map(|scope| Consent {
        account: account.id,
        client: client().id,
        scope: scope.into(),
        granted_at: START,
        generation: 0,
    });
    let session = SessionView { stamp, session, account, refreshed_at: None, standing: None };
    AppView { session, client: client(), consent }
}

pub fn asked() -> Asked {
    check(&request(), &client(), false).unwrap()
}

#[test]
fn what_is_wrong_with_the_address_is_never_sent_there() {
    let other = |uri: &str| Request { redirect_uri: Some(uri.into()), ..request() };
    let off = Client { disabled: true, ..client() };
    let verifier = Client { kind: ClientKind::Verifier, ..client() };
    let built_in = Client { id: ClientId::FIRST_PARTY, ..client() };
    let none = Request { redirect_uri: None, ..request() };
    let cases = [
        (other("https://evil.example/cb"), client()),
        (other("https://app.example/cb/../x"), client()),
        (none, client()),
        (request(), off),
        (request(), verifier),
        (request(), built_in),
    ];
    for (request, client) in cases {
        let objection = check(&request, &client, false).unwrap_err();
        assert_eq!(objection.redirect_uri, None, "{request:?}");
    }
    // OAuth without OpenID, and one address only: it need not be said.
    let plain = Request { redirect_uri: None, scope: Some("read".into()), ..request() };
    assert_eq!(check(&plain, &client(), false).unwrap().redirect_uri, "https://app.example/cb");
}

#[test]
fn what_else_is_wrong_is_told_to_the_client() {
    let pushing = {
        let mut client = client();
        client.profile.require_pushed_authorization_requests = true;
        client
    };
    let machine = {
        let mut client = client();
        client.profile.grant_types = vec![GrantType::ClientCredentials];
        client
    };
    let some = |text: &str| Some(text.to_owned());
    let cases = [
        (Request { response_type: some("token"), ..request() }, client(), OAuthError::UnsupportedResponseType),
        (Request { response_type: some("code id_token"), ..request() }, client(), OAuthError::UnsupportedResponseType),
        (Request { response_type: None, ..request() }, client(), OAuthError::InvalidRequest),
        (Request { response_mode: some("fragment"), ..request() }, client(), OAuthError::InvalidRequest),
        (Request { code_challenge: None, ..request() }, client(), OAuthError::InvalidRequest),
        (Request { code_challenge_method: some("plain"), ..request() }, client(), OAuthError::InvalidRequest),
        (Request { code_challenge_method: None, ..request() }, client(), OAuthError::InvalidRequest),
        (Request { code_challenge: some("short"), ..request() }, client(), OAuthError::InvalidRequest),
        (Request { scope: some("unknown admin"), ..request() }, client(), OAuthError::InvalidScope),
        (Request { prompt: some("none login"), ..request() }, client(), OAuthError::InvalidRequest),
        (Request { prompt: some("other"), ..request() }, client(), OAuthError::InvalidRequest),
        (Request { max_age: some("-1"), ..request() }, client(), OAuthError::InvalidRequest),
        (Request { resource: vec!["https://other.example".into()], ..request() }, client(), OAuthError::InvalidTarget),
        (Request { dpop_jkt: some("x"), ..request() }, client(), OAuthError::InvalidRequest),
        (Request { request: some("jwt"), ..request() }, client(), OAuthError::RequestNotSupported),
        (Request { state: Some("s".repeat(3000)), ..request() }, client(), OAuthError::InvalidRequest),
        (request(), pushing, OAuthError::InvalidRequest),
        (request(), machine, OAuthError::UnauthorizedClient),
    ];
    for (request, client, error) in cases {
        let objection = check(&request, &client, false).unwrap_err();
        assert_eq!(
            (objection.error, objection.redirect_uri.as_deref()),
            (error, Some("https://app.example/cb")),
            "{request:?}"
        );
    }
    // Scopes that it has not are left out; a resource of its own is the audience.
    let narrow = Request { scope: Some("openid x".into()), resource: vec!["https://api.example".into()], ..request() };
    let asked = check(&narrow, &client(), false).unwrap();
    assert_eq!((asked.scope, asked.audience.as_deref()), (vec!["openid".to_owned()], Some("https://api.example")));
}

/// OpenID Connect Dynamic Client Registration §2 `default_max_age`.
#[test]
fn what_a_request_does_not_say_its_client_has_registered() {
    let age = |said: Option<&str>, usual| {
        let mut client = client();
        client.profile.default_max_age = usual;
        check(&Request { max_age: said.map(str::to_owned), ..request() }, &client, false).unwrap().max_age
    };
    assert_eq!((age(None, None), age(None, Some(60)), age(None, Some(0))), (None, Some(60_000), Some(0)));
    assert_eq!((age(Some("120"), Some(60)), age(Some("0"), Some(60))), (Some(120_000), Some(0)));
}

#[test]
fn what_must_happen_first() {
    let now = START.plus(600_000);
    let (new, known) = (app(now, None), app(now, Some("openid read")));
    let quiet = Asked { prompt: Prompt { none: true, ..Prompt::default() }, ..asked() };
    let again = Asked { prompt: Prompt { login: true, ..Prompt::default() }, ..asked() };
    let asking = Asked { prompt: Prompt { consent: true, ..Prompt::default() }, ..asked() };
    let young = Asked { max_age: Some(599_999), ..asked() };
    let old_enough = Asked { max_age: Some(600_000), ..asked() };
    let ask = || Step::Ask(vec!["openid".into(), "read".into()]);
    let refuse = Step::Refuse;
    // Nobody is signed in.
    assert_eq!(next(&asked(), None, None, Hinted::Nobody), Step::SignIn);
    assert_eq!(next(&quiet, None, None, Hinted::Nobody), refuse(OAuthError::LoginRequired));
    // Somebody is, and was asked before or not.
    assert_eq!(next(&asked(), Some(&new), None, Hinted::Nobody), ask());
    assert_eq!(next(&asked(), Some(&known), None, Hinted::Nobody), Step::Grant);
    assert_eq!(next(&asked(), Some(&app(now, Some("openid"))), None, Hinted::Nobody), ask());
    assert_eq!(next(&quiet, Some(&new), None, Hinted::Nobody), refuse(OAuthError::ConsentRequired));
    assert_eq!(next(&quiet, Some(&known), None, Hinted::Nobody), Step::Grant);
    assert_eq!(next(&asking, Some(&known), None, Hinted::Nobody), ask());
    // The sign-in is too old, or was not the one that was asked for.
    assert_eq!(next(&young, Some(&known), None, Hinted::Nobody), Step::SignIn);
    assert_eq!(next(&old_enough, Some(&known), None, Hinted::Nobody), Step::Grant);
    assert_eq!(next(&again, Some(&known), None, Hinted::Nobody), Step::SignIn);
    assert_eq!(next(&again, Some(&known), Some(START.plus(1)), Hinted::Nobody), Step::SignIn, "the sign-in was before");
    assert_eq!(next(&again, Some(&known), Some(START), Hinted::Nobody), Step::Grant, "it came after");
    // It must be known when that was, and is not.
    let mut undated = known.clone();
    undated.session.session.auth_time = UNPROVEN;
    assert_eq!(next(&asked(), Some(&undated), None, Hinted::Nobody), Step::Grant);
    undated.client.profile.require_auth_time = true;
    assert_eq!(next(&asked(), Some(&undated), Some(START), Hinted::Nobody), Step::SignIn);
    assert_eq!(next(&quiet, Some(&undated), None, Hinted::Nobody), refuse(OAuthError::LoginRequired));
    undated.session.session.auth_time = START;
    assert_eq!(next(&asked(), Some(&undated), None, Hinted::Nobody), Step::Grant);
    // Somebody else is meant.
    assert_eq!(next(&asked(), Some(&known), None, Hinted::Another), Step::SignIn);
    assert_eq!(next(&quiet, Some(&known), None, Hinted::Another), refuse(OAuthError::LoginRequired));
    assert_eq!(next(&quiet, Some(&known), None, Hinted::ThisOne), Step::Grant);
    // Who was asked to sign in and did so as somebody else is not asked for ever: the client is told.
    let other = Hinted::Another;
    assert_eq!(next(&asked(), Some(&known), Some(START.plus(1)), other), Step::SignIn, "the sign-in was before");
    assert_eq!(next(&asked(), Some(&known), Some(START), other), refuse(OAuthError::LoginRequired));
    // A hint that tells nobody signs nobody in silently; whoever signs in after it is who they are.
    assert_eq!(next(&asked(), Some(&known), None, Hinted::Unknown), Step::SignIn);
    assert_eq!(next(&quiet, Some(&known), None, Hinted::Unknown), refuse(OAuthError::LoginRequired));
    assert_eq!(next(&asked(), Some(&known), Some(START), Hinted::Unknown), Step::Grant);
    // An application of the house asks nobody.
    let mut house = new;
    house.client.profile.consent = Asking::Implied;
    assert_eq!(next(&asked(), Some(&house), None, Hinted::Nobody), Step::Grant);
    assert_eq!(next(&asking, Some(&house), None, Hinted::Nobody), ask(), "unless it wants to");
}

/// A code for `scope`, as its ticket stands right after, and its text.
fn code(now: Time, scope: &str) -> TicketView {
    let asked = Asked { scope: scope.split(' ').map(String::from).collect(), ..asked() };
    let view = app(now, Some(scope));
    let decision = grant_code(&view, &asked, false, None, &mut Seeded(5));
    let code = decision.outcome.unwrap();
    assert!(code.expose().starts_with("pca_") && code.expose().len() == 47);
    let Some(Change::InsertTicket(ticket)) = decision.changes.steps.last().cloned() else { panic!("no ticket") };
    assert!(!ticket.body.contains(code.expose()), "the database never has it");
    assert!(decision.changes.expects.contains(&Expect::Alive { session: view.session.session.id, role: None }));
    TicketView { stamp: view.session.stamp, ticket, app: Some(view) }
}

pub fn shown() -> Redeem {
    Redeem {
        client: client().id,
        proven: true,
        redirect_uri: Some("https://app.example/cb".into()),
        verifier: Some(VERIFIER.into()),
        sender: None,
        user_agent: None,
        ip: None,
    }
}

fn later(mut view: TicketView, by: i64) -> TicketView {
    let now = view.stamp.now.plus(by);
    view.stamp = Stamp { head: Rev(12), ..stamp(now) };
    if let Some(app) = &mut view.app {
        app.session.stamp = view.stamp;
    }
    view
}

fn refused(view: &TicketView, presented: &Redeem) -> (OAuthError, usize) {
    let decision = redeem(view, None, &[], presented, &rules(), &key(), &mut Seeded(6));
    match decision.outcome {
        Err(Refused::OAuth { error, .. }) => (error, decision.changes.steps.len()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_code_gives_tokens_once() {
    let view = later(code(START, "openid read"), 59_999);
    let decision = redeem(&view, None, &[], &shown(), &rules(), &key(), &mut Seeded(6));
    let Granted { issued, id, with_refresh } = decision.outcome.unwrap();
    let id = id.unwrap();
    assert!(with_refresh);
    assert_eq!((issued.claims.client_id, issued.claims.scope.as_str()), (client().id, "openid read"));
    assert_eq!(issued.claims.rev, Rev(12), "stamped by the view that it was decided on");
    assert_eq!((id.nonce.as_deref(), id.azp, id.sid), (Some("n"), client().id, issued.claims.sid));
    assert!(id.about.email.is_none(), "the scope email was not granted");
    let steps = &decision.changes.steps;
    assert!(
        matches!(&steps[..], [Change::InsertGrant(grant), Change::UseTicket { grant: Some(made), .. }]
        if grant.id == *made && grant.born == Rev(10)),
        "{steps:?}"
    );
    let born = Expect::Unborn {
        account: AccountId::from_bits(1),
        client: client().id,
        born: Rev(10),
        under: Some(SessionId::from_bits(2)),
    };
    assert!(decision.changes.expects.contains(&born));

    // A second time: what it gave ends, if it still lives.
    let mut used = view;
    used.ticket.used = Some(Used { at: START, grant: Some(GrantId::from_bits(4)) });
    assert_eq!(refused(&used, &shown()), (OAuthError::InvalidGrant, 0));
    let own = app(START, None).session.session;
    let decision = redeem(&used, Some(&own), &[], &shown(), &rules(), &key(), &mut Seeded(6));
    let ended = Target::Grant(GrantId::from_bits(4));
    assert!(matches!(&decision.changes.steps[..], [Change::Revoke(revoke)] if revoke.target == ended));
    // By another client, nothing: it must not be able to end what is not its own.
    let other = Redeem { client: ClientId::from_bits(5), ..shown() };
    let decision = redeem(&used, Some(&own), &[], &other, &rules(), &key(), &mut Seeded(6));
    assert!(decision.changes.is_empty());
}

#[test]
fn an_application_that_keeps_its_access_gets_a_session_of_its_own() {
    let view = later(code(START, "offline_access openid"), 1);
    let decision = redeem(&view, None, &[], &shown(), &rules(), &key(), &mut Seeded(6));
    let granted = decision.outcome.unwrap();
    let session = &granted.issued.session;
    assert_eq!((session.kind, session.client), (SessionKind::Connected, Some(client().id)));
    assert_ne!(session.id, SessionId::from_bits(2));
    assert_eq!(session.auth_time, START);
    assert!(matches!(&decision.changes.steps[..], [Change::InsertSession(_), Change::InsertGrant(grant), _]
        if grant.session == session.id));
    let spared = decision.changes.expects.iter().any(|expect| matches!(expect, Expect::Unborn { under: Some(_), .. }));
    assert!(!spared, "no cut that spares the browser spares it");
}

/// A rule that was worked off no longer tells what it should have killed: what is born below it is not made, and is told so
/// at once. What goes under a session that is there has nothing to do with it.
#[test]
fn a_session_of_its_own_is_not_born_below_a_rule_that_was_worked_off() {
    for (scope, born_above, gives) in
        [("offline_access openid", false, false), ("offline_access openid", true, true), ("openid read", false, true)]
    {
        let mut view = later(code(START, scope), 1);
        view.stamp.worked_off = if born_above { view.ticket.born } else { Rev(view.ticket.born.0 + 1) };
        let decision = redeem(&view, None, &[], &shown(), &rules(), &key(), &mut Seeded(6));
        assert_eq!(decision.outcome.is_ok(), gives, "{scope} {born_above}");
        if !gives {
            assert_eq!(refused(&view, &shown()), (OAuthError::InvalidGrant, 0));
        }
    }
}

#[test]
fn a_code_that_does_not_fit_gives_nothing() {
    let fresh = || later(code(START, "openid read"), 1);
    let some = |text: &str| Some(text.to_owned());
    for presented in [
        Redeem { verifier: None, ..shown() },
        Redeem { verifier: some(CHALLENGE), ..shown() },
        Redeem { verifier: some(&VERIFIER[..42]), ..shown() },
        Redeem { redirect_uri: some("https://app.example/other"), ..shown() },
        Redeem { client: ClientId::from_bits(78), ..shown() },
    ] {
        assert_eq!(refused(&fresh(), &presented), (OAuthError::InvalidGrant, 0), "{presented:?}");
    }
    assert!(
        redeem(&fresh(), None, &[], &Redeem { redirect_uri: None, ..shown() }, &rules(), &key(), &mut Seeded(6))
            .outcome
            .is_ok()
    );
    assert_eq!(refused(&later(code(START, "openid"), 60_000), &shown()).0, OAuthError::InvalidGrant, "expired");
    let dead = |change: fn(&mut TicketView)| {
        let mut view = fresh();
        change(&mut view);
        refused(&view, &shown()).0
    };
    let cut = |rev| Cut { rev: Rev(rev), except: None };
    assert_eq!(cut(11).rev, Rev(11));
    for (what, change) in [
        (
            "the account was cut",
            (|view| view.app.as_mut().unwrap().session.account.cut.rev = Rev(11)) as fn(&mut TicketView),
        ),
        ("everything was cut", |view| view.stamp.all.rev = Rev(11)),
        ("the client was cut", |view| view.app.as_mut().unwrap().client.cut.rev = Rev(11)),
        ("the client is off", |view| view.app.as_mut().unwrap().client.disabled = true),
        ("the session ended", |view| {
            view.app.as_mut().unwrap().session.session.ended =
                Some(Ended { rev: Rev(11), reason: "x".into(), at: START });
        }),
        ("the consent was withdrawn", |view| view.app.as_mut().unwrap().consent.as_mut().unwrap().generation = 1),
        ("another epoch", |view| view.stamp.epoch = Epoch(2)),
        ("the session is gone", |view| view.app = None),
        ("blocked", |view| {
            let block = Block { reason: "x".into(), actor: "system".into(), at: START, until: None };
            view.app.as_mut().unwrap().session.account.status = Status::Blocked(block);
        }),
    ] {
        assert_eq!(dead(change), OAuthError::InvalidGrant, "{what}");
    }
    // A cut that spares the browser's session spares what is under it.
    let mut spared = fresh();
    spared.app.as_mut().unwrap().session.account.cut = Cut { rev: Rev(11), except: Some(SessionId::from_bits(2)) };
    assert!(redeem(&spared, None, &[], &shown(), &rules(), &key(), &mut Seeded(6)).outcome.is_ok());
}

#[test]
fn a_refresh_token_is_its_clients_and_its_keys() {
    let now = START.plus(60_000);
    let mut view = view(now);
    view.grant.client = client().id;
    let token = |view: &RefreshView| {
        let text = view.grant.family.current_token(&key(), view.grant.id);
        portcullis_domain::family::Presented::parse(&text).unwrap()
    };
    let how = |client, sender| How {
        cookie: false,
        user_agent: None,
        ip: None,
        client,
        proven: true,
        sender,
        at_home: false,
    };
    let ask =
        |view: &RefreshView, how: How| refresh(view, &token(view), &how, &rules(), &key(), &key(), &mut Seeded(1));
    for (client, sender) in [(ClientId::FIRST_PARTY, None), (ClientId::from_bits(1), None)] {
        let decision = ask(&view, how(client, sender));
        assert_eq!(decision.outcome.unwrap_err(), Refused::RefreshInvalid);
        assert!(decision.changes.is_empty(), "nothing ends: a leaked log is no weapon");
    }
    assert!(ask(&view, how(client().id, None)).outcome.is_ok());
    let thumbprint = Digest::of(b"a key");
    view.grant.sender = Some(thumbprint);
    for wrong in [None, Some(Digest::of(b"another"))] {
        let decision = ask(&view, how(client().id, wrong));
        assert_eq!(decision.outcome.unwrap_err(), Refused::RefreshInvalid);
        assert!(decision.changes.is_empty());
    }
    let issued = ask(&view, how(client().id, Some(thumbprint))).outcome.unwrap();
    assert_eq!(issued.claims.cnf.unwrap().jkt, b64::encode(&thumbprint.0));
}
