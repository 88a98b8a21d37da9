//! What tokens say of how their user proved who they are: never what was proven after they were asked for.
use crate::authorize::{app, asked, client, shown};
use crate::world::*;
use portcullis_domain::amr::Amr;
use portcullis_domain::authorize::grant_code;
use portcullis_domain::changes::Change;
use portcullis_domain::code::redeem;
use portcullis_domain::exchange::{self, ExchangeView, exchange};
use portcullis_domain::family::Presented;
use portcullis_domain::model::*;
use portcullis_domain::page_cookie::{self, Shown};
use portcullis_domain::proof::{self, Proof};
use portcullis_domain::refresh::{How, refresh};
use portcullis_domain::view::*;
use portcullis_wire::*;

/// How a token says it.
fn said(proof: &Proof) -> (i64, Vec<String>) {
    (proof.at.secs(), proof.amr.methods())
}

fn says(claims: &AccessClaims) -> (i64, Vec<String>) {
    (claims.auth_time, claims.amr.clone())
}

/// A browser with its cookies, each with the proof that it was given for.
struct Browser {
    session: Session,
    cookies: Vec<(Digest, Proof)>,
    now: Time,
}

impl Browser {
    fn new(amr: Amr, at: Time) -> Self {
        let cookie = Digest::of(b"0");
        let session =
            Session { kind: SessionKind::Browser, cookie: Some(cookie), auth_time: at, amr, ..view(START).session };
        let first = Proof::of(&session);
        Self { session, cookies: vec![(cookie, first)], now: START }
    }

    /// Its user proves again, by the newest cookie or the one before.
    fn prove(&mut self, from: Digest, amr: Amr) {
        let next = Digest::of(&[&from.0[..], b"after"].concat());
        let rotated = page_cookie::rotate(&self.session, from, next, self.now, &rules());
        if let Some(Change::SetCookie { cookie, old, .. }) = rotated {
            (self.session.cookie, self.session.old_cookie) = (Some(cookie), old);
        }
        (self.session.auth_time, self.session.amr) = (self.now, amr);
        self.cookies.retain(|(cookie, _)| *cookie == from);
        self.cookies.push((next, Proof::of(&self.session)));
    }

    /// As whoever shows this cookie finds it.
    fn shown(&self, cookie: Digest) -> SessionView {
        let mut view = app(self.now, None).session;
        view.session = self.session.clone();
        match page_cookie::shown(&self.session, cookie, self.now).unwrap() {
            Shown::Current => {}
            Shown::Old(old) => proof::as_shown(&mut view.session, old),
        }
        view
    }

    /// A code that was asked for with this cookie: its ticket.
    fn code(&self, cookie: Digest, offline: bool, chance: &mut Seeded) -> portcullis_domain::ticket::Ticket {
        let scope = if offline { "offline_access openid" } else { "openid read" };
        let mut asked = asked();
        asked.scope = scope.split(' ').map(String::from).collect();
        let view = AppView { session: self.shown(cookie), ..app(self.now, Some(scope)) };
        let decision = grant_code(&view, &asked, false, None, chance);
        decision.outcome.unwrap();
        match decision.changes.steps.last().cloned() {
            Some(Change::InsertTicket(ticket)) => ticket,
            other => panic!("{other:?}"),
        }
    }
}

fn a_refresh(held: &mut RefreshView, chance: &mut Seeded) -> AccessClaims {
    let text = held.grant.family.current_token(&key(), held.grant.id);
    let (presented, client) = (Presented::parse(&text).unwrap(), held.grant.client);
    let how = How { cookie: false, user_agent: None, ip: None, client, proven: true, sender: None, at_home: false };
    let decision = refresh(held, &presented, &how, &rules(), &key(), &key(), chance);
    apply(held, &decision.changes, held.stamp.now);
    decision.outcome.unwrap().claims
}

fn exchanged(held: &RefreshView, claims: &AccessClaims, chance: &mut Seeded) -> AccessClaims {
    let mut by = client();
    by.profile.scopes = vec!["openid".into(), "read".into()];
    let view = ExchangeView { subject: held.clone(), client: by.clone(), account: account() };
    exchange(&view, &by, claims, &exchange::Asked::default(), &rules(), chance).unwrap()
}

/// Browsers whose users prove again and again, by other methods each time, with the cookie that they have or the one before, while
/// codes that were made at any time come to be redeemed, and grants to be refreshed and exchanged.
#[test]
fn a_grant_keeps_the_proof_that_it_was_given_for() {
    let (mut older, mut by_old_cookie, mut tokens) = (0, 0, 0);
    for seed in 0..3000 {
        let mut chance = Seeded(seed);
        let first = [Proof { at: START, amr: Amr::default() }, Proof::unknown()][chance.below(2) as usize].clone();
        let mut browser = Browser::new(first.amr, first.at);
        let (mut codes, mut grants) = (vec![], vec![]);
        for _ in 0..24 {
            browser.now = browser.now.plus([5, 700, 3_000][chance.below(3) as usize]);
            let (cookie, proof) = browser.cookies[chance.below(browser.cookies.len() as u64) as usize].clone();
            by_old_cookie += u32::from(proof != Proof::of(&browser.session));
            match chance.below(6) {
                0 => {
                    let amr = [Amr::default(), Amr::unknown(), Amr::elsewhere(&["otp".into(), "mfa".into()])];
                    browser.prove(cookie, amr[chance.below(3) as usize].clone());
                }
                1 | 2 => codes.push((browser.code(cookie, chance.below(2) == 0, &mut chance), proof)),
                3 if !codes.is_empty() => {
                    let (ticket, proof) = codes.swap_remove(chance.below(codes.len() as u64) as usize);
                    if !ticket.is_open(Epoch(1), browser.now) {
                        continue;
                    }
                    let mut app = app(browser.now, None);
                    app.session.session = browser.session.clone();
                    let seen = TicketView { stamp: app.session.stamp, ticket, app: Some(app) };
                    let decision = redeem(&seen, None, &[], &shown(), &rules(), &key(), &mut chance);
                    let granted = decision.outcome.unwrap();
                    let id = granted.id.unwrap();
                    assert_eq!((id.auth_time, id.amr), said(&proof), "seed {seed}");
                    assert_eq!(says(&granted.issued.claims), said(&proof), "seed {seed}");
                    let made = decision.changes.steps.into_iter().find_map(|step| match step {
                        Change::InsertGrant(grant) => Some(grant),
                        _ => None,
                    });
                    grants.push((made.unwrap(), granted.issued.session, proof));
                }
                _ if !grants.is_empty() => {
                    let n = chance.below(grants.len() as u64) as usize;
                    let (grant, session, proof) = &mut grants[n];
                    if session.kind == SessionKind::Browser {
                        *session = browser.session.clone(); // as the row is by now
                    }
                    let mut held = RefreshView {
                        grant: grant.clone(),
                        session: session.clone(),
                        stamp: Stamp { horizon: browser.now.plus(3_600_000), ..stamp(browser.now) },
                        ..view(browser.now)
                    };
                    let claims = a_refresh(&mut held, &mut chance);
                    assert_eq!(says(&claims), said(proof), "seed {seed}");
                    if claims.has_scope("read") {
                        assert_eq!(says(&exchanged(&held, &claims, &mut chance)), said(proof), "seed {seed}");
                    }
                    older += u32::from(*proof != Proof::of(&browser.session));
                    tokens += 1;
                    *grant = held.grant;
                }
                _ => {}
            }
        }
    }
    assert!(older > 2000 && by_old_cookie > 2000 && tokens > 5000, "{older} {by_old_cookie} {tokens}");
}

/// Grants that were made with their session, and those of a release that kept no proof.
#[test]
fn without_a_proof_of_its_own_a_grant_has_its_sessions_and_no_later_one() {
    let RefreshView { session, grant, .. } = view(START);
    assert_eq!(proof::of_grant(&session, &grant), Proof { at: START, amr: Amr::default() });
    let before = Session { auth_time: START.minus(9_000), amr: Amr::elsewhere(&["otp".into()]), ..session.clone() };
    assert_eq!(proof::of_grant(&before, &grant), Proof::of(&before), "what a provider saw a moment before");
    let again = Session { auth_time: START.plus(1), ..session.clone() };
    assert_eq!(proof::of_grant(&again, &grant), Proof::unknown());
    let kept = Proof { at: START.minus(3), amr: Amr::unknown() };
    let grant = Grant { proof: Some(kept.clone()), ..grant };
    for session in [session, before, again] {
        assert_eq!(proof::of_grant(&session, &grant), kept);
    }
}

#[test]
fn the_cookie_before_a_proof_carries_its_own_methods() {
    let otp = Amr::elsewhere(&["otp".into()]);
    let mut browser = Browser::new(otp.clone(), START);
    let cookie = browser.cookies[0].0;
    browser.now = START.plus(60_000);
    browser.prove(cookie, Amr::default());
    assert_eq!(Proof::of(&browser.shown(cookie).session), Proof { at: START, amr: otp });
    let next = browser.session.cookie.unwrap();
    assert_eq!(Proof::of(&browser.shown(next).session), Proof { at: START.plus(60_000), amr: Amr::default() });
}
