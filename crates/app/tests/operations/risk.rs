//! What rules of risk do to sign-ins, refreshes and the rest: in the same commit, and no more than they say.
use crate::world::{PASSWORD, World, bearer, settings};
use portcullis_app::risk::Told;
use portcullis_app::sessions::Credentials;
use portcullis_app::{AppError, RepeatKey, Tokens};
use portcullis_domain::Refused;
use portcullis_domain::event::EventKind;
use portcullis_domain::keys::Wanted;
use portcullis_domain::model::{Account, SessionKind, UNPROVEN};
use portcullis_domain::refresh::How;
use portcullis_domain::risk::{ExternalKind, Hit, Judge, Outcome, Signals, Verdict};
use portcullis_domain::sign_in::SignIn;
use portcullis_store::{EventFilter, Store as _};
use portcullis_wire::{Code, Digest, SecretString};
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// Rules that say the same of each act of a kind.
struct Always {
    act: &'static str,
    outcomes: Vec<Outcome>,
    shadow: bool,
}

impl Judge for Always {
    fn judge(&self, signals: &Signals) -> Verdict {
        let hit = Hit {
            rule: "a-rule".into(),
            outcomes: self.outcomes.clone(),
            reason: "it looked strange".into(),
            shadow: self.shadow,
        };
        Verdict { version: "test 1".into(), hits: if signals.act == self.act { vec![hit] } else { vec![] } }
    }
    fn version(&self) -> &str {
        "test 1"
    }
}

/// Rules that say this of each act of that kind.
pub fn on(act: &'static str, outcomes: Vec<Outcome>) -> Box<dyn Judge> {
    Box::new(Always { act, outcomes, shadow: false })
}

fn ip(last: u8) -> Option<IpAddr> {
    Some([198, 51, last, 1].into())
}

fn how(last: u8) -> How {
    How { ip: ip(last), ..bearer() }
}

async fn sign_in_from(world: &World, account: &Account, last: u8) -> Result<Tokens, AppError> {
    let identifier = account.email.clone().unwrap();
    let credentials = Credentials { identifier, password: SecretString::new(PASSWORD), device: None };
    let request = SignIn { kind: SessionKind::App, device_name: None, user_agent: None, ip: ip(last), cookie: None };
    world.app.sign_in(credentials, request, false).await
}

/// The records of this kind about an account, by their reasons.
async fn reasons(world: &World, account: &Account, kind: EventKind) -> Vec<String> {
    let filter = EventFilter { account: Some(account.id), kind: Some(kind.as_str().into()), ..EventFilter::default() };
    let page = world.held.list_events(&filter, None, 100).await.unwrap();
    page.rows.into_iter().filter_map(|row| row.event.reason).collect()
}

async fn lives(world: &World, tokens: &Tokens) -> bool {
    let head = world.app.store().stamp().await.unwrap().head;
    for _ in 0..200 {
        if world.app.hub().judges_by() >= head {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let claims = world.app.hub().authenticate(tokens.access_token.expose()).unwrap();
    let (at_server, at_services) = (world.caller(tokens).await.is_ok(), world.app.hub().judge(&claims).is_ok());
    assert_eq!(at_server, at_services, "the server and the services agree");
    at_server
}

#[tokio::test]
async fn a_block_at_a_sign_in_is_one_commit() {
    let world = World::start().await;
    let before = sign_in_from(&world, &world.ada, 1).await.unwrap();
    world.app.set_judge(Some(on("sign_in", vec![Outcome::Notify, Outcome::Block { for_ms: Some(60_000) }])));
    let head = world.held.stamp().await.unwrap().head;
    let error = sign_in_from(&world, &world.ada, 2).await.unwrap_err();
    let AppError::Refused(Refused::AccountBlocked { reason, until }) = error else { panic!("{error:?}") };
    assert_eq!((reason.as_str(), until.is_some()), ("it looked strange", true));
    assert_eq!(world.held.stamp().await.unwrap().head.0, head.0 + 1, "one entry");
    assert!(!lives(&world, &before).await);
    let sessions = world.held.list_sessions(world.ada.id, 10).await.unwrap();
    assert!(sessions.is_empty(), "none was made: {sessions:?}");
    assert_eq!(reasons(&world, &world.ada, EventKind::AccountBlocked).await, ["it looked strange"]);
    let decided = reasons(&world, &world.ada, EventKind::RiskDecided).await;
    assert_eq!(decided, ["a-rule (block, policy test 1): it looked strange"]);
    // Whoever is let in again is, and nothing that ended comes back.
    world.app.set_judge(None);
    world.app.admin_unblock(&world.admin, world.ada.id, Some("it was her")).await.unwrap();
    assert!(sign_in_from(&world, &world.ada, 2).await.is_ok());
    assert!(!lives(&world, &before).await);
}

#[tokio::test]
async fn a_sign_in_that_a_rule_ends_leaves_nothing() {
    let world = World::start().await;
    let before = sign_in_from(&world, &world.ada, 1).await.unwrap();
    world.app.set_judge(Some(on("sign_in", vec![Outcome::EndSession])));
    let error = sign_in_from(&world, &world.ada, 2).await.unwrap_err();
    let ended = AppError::Refused(Refused::SessionEnded { reason: "risk_rule".into() });
    assert_eq!(error.to_string(), ended.to_string());
    assert_eq!(world.held.list_sessions(world.ada.id, 10).await.unwrap().len(), 1, "what was there before");
    assert!(lives(&world, &before).await);
    // Place and device stay new to the account: it is judged as before.
    assert!(sign_in_from(&world, &world.ada, 2).await.is_err());
    // A wrong password is no act: nothing is said of it.
    let credentials = Credentials {
        identifier: world.ada.email.clone().unwrap(),
        password: SecretString::new("a wrong password"),
        device: None,
    };
    let request = SignIn { kind: SessionKind::App, device_name: None, user_agent: None, ip: ip(2), cookie: None };
    let error = world.app.sign_in(credentials, request, false).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidCredentials);
}

/// What a rule refuses is no wrong guess: nobody runs dry by being right, and their prefix does not either.
#[tokio::test]
async fn a_right_password_that_a_rule_refuses_is_given_back() {
    let world = World::start().await;
    sign_in_from(&world, &world.ada, 1).await.unwrap();
    world.app.set_judge(Some(on("sign_in", vec![Outcome::EndSession])));
    for _ in 0..15 {
        let error = sign_in_from(&world, &world.ada, 2).await.unwrap_err();
        assert_eq!(error.code(), Code::SessionEnded);
    }
    world.app.set_judge(None);
    assert!(sign_in_from(&world, &world.ada, 2).await.is_ok());
}

/// A block that stands for longer than a rule's is its administrator's, with its reason; what there is ends all the same.
#[tokio::test]
async fn a_rule_shortens_no_block() {
    let world = World::start().await;
    sign_in_from(&world, &world.ada, 1).await.unwrap();
    world.app.set_judge(Some(on("external", vec![Outcome::Block { for_ms: Some(60_000) }])));
    world.app.admin_block(&world.admin, world.ada.id, "spam", None, None).await.unwrap();
    let told = Told { account: world.ada.id, kind: ExternalKind::Fraud, detail: None };
    assert!(world.app.admin_signal(&world.admin, &told, None).await.unwrap().is_some());
    let row = world.held.load_account(world.ada.id).await.unwrap().unwrap();
    let block = row.account.block_at(row.stamp.now).unwrap();
    assert_eq!((block.reason.as_str(), block.until), ("spam", None));
    // And one that stands for a shorter time is replaced.
    world.app.admin_unblock(&world.admin, world.ada.id, None).await.unwrap();
    let soon = row.stamp.now.plus(30_000);
    world.app.admin_block(&world.admin, world.ada.id, "spam", Some(soon), None).await.unwrap();
    assert!(world.app.admin_signal(&world.admin, &told, None).await.unwrap().is_some());
    let row = world.held.load_account(world.ada.id).await.unwrap().unwrap();
    let block = row.account.block_at(row.stamp.now).unwrap();
    assert!(block.reason == "it looked strange" && block.until.unwrap() > soon);
}

#[tokio::test]
async fn all_that_was_before_ends_and_the_new_session_lives() {
    let world = World::start().await;
    let (one, two) =
        (sign_in_from(&world, &world.ada, 1).await.unwrap(), sign_in_from(&world, &world.ada, 1).await.unwrap());
    let eve = sign_in_from(&world, &world.eve, 1).await.unwrap();
    world.app.set_judge(Some(on("sign_in", vec![Outcome::EndAll])));
    let new = sign_in_from(&world, &world.ada, 2).await.unwrap();
    world.app.set_judge(None);
    assert!(!lives(&world, &one).await && !lives(&world, &two).await);
    assert!(lives(&world, &new).await && lives(&world, &eve).await);
    let renewed = world.app.refresh(&new.refresh_token, how(2)).await.unwrap();
    assert!(lives(&world, &renewed).await);
    assert_eq!(world.app.refresh(&one.refresh_token, how(1)).await.unwrap_err().code(), Code::SessionEnded);
    // And the user ends it like any other.
    world.app.end_all_mine(&world.caller(&renewed).await.unwrap(), false, None).await.unwrap();
    assert!(!lives(&world, &renewed).await);
}

#[tokio::test]
async fn a_refresh_is_ended_in_its_own_commit_and_the_usual_one_is_not_looked_at() {
    let world = World::start().await;
    world.app.set_judge(Some(on("refresh", vec![Outcome::EndSession])));
    let mine = sign_in_from(&world, &world.ada, 1).await.unwrap();
    let other = sign_in_from(&world, &world.ada, 1).await.unwrap();
    let seen = async || world.held.load_risk(world.ada.id, &[]).await.unwrap().version;
    let before = seen().await;
    assert_eq!(before, 2, "both sign-ins are remembered");
    // From the network of the sign-in: nothing is asked.
    let mine = world.app.refresh(&mine.refresh_token, how(1)).await.unwrap();
    assert_eq!(seen().await, before);
    // From another one: asked, and ended.
    let error = world.app.refresh(&mine.refresh_token, how(9)).await.unwrap_err();
    assert_eq!(error.code(), Code::SessionEnded);
    assert_eq!(seen().await, before + 1);
    assert!(!lives(&world, &mine).await && lives(&world, &other).await);
    assert_eq!(world.app.refresh(&mine.refresh_token, how(1)).await.unwrap_err().code(), Code::SessionEnded);
    // Where an application's server stands says nothing of its user: nobody asks.
    let by_server = How { proven: true, ..how(9) };
    assert!(world.app.refresh(&other.refresh_token, by_server).await.is_ok());
    assert_eq!(seen().await, before + 1);
}

#[tokio::test]
async fn a_grant_remembers_its_last_network() {
    let world = World::start().await;
    world.app.set_judge(Some(on("nothing", vec![])));
    let mine = sign_in_from(&world, &world.ada, 1).await.unwrap();
    let seen = async || world.held.load_risk(world.ada.id, &[]).await.unwrap().version;
    let mut token = mine.refresh_token;
    for (network, versions) in [(1, 1), (2, 2), (2, 2), (1, 3), (1, 3)] {
        token = world.app.refresh(&token, how(network)).await.unwrap().refresh_token;
        assert_eq!(seen().await, versions, "{network}");
    }
}

#[tokio::test]
async fn a_theft_ends_the_session_once_whatever_the_rules_say() {
    for outcomes in [vec![Outcome::EndSession], vec![Outcome::EndAll], vec![Outcome::Block { for_ms: None }], vec![]] {
        let world = World::start().await;
        world.app.set_judge(Some(on("refresh", outcomes.clone())));
        let first = sign_in_from(&world, &world.ada, 1).await.unwrap();
        let other = sign_in_from(&world, &world.ada, 1).await.unwrap();
        let second = world.app.refresh(&first.refresh_token, how(1)).await.unwrap();
        world.app.refresh(&second.refresh_token, how(1)).await.unwrap();
        let error = world.app.refresh(&first.refresh_token, how(1)).await.unwrap_err();
        assert_eq!(error.code(), Code::RefreshReused, "{outcomes:?}");
        assert!(!lives(&world, &second).await);
        let more = outcomes.iter().any(|outcome| matches!(outcome, Outcome::EndAll | Outcome::Block { .. }));
        assert_eq!(lives(&world, &other).await, !more, "{outcomes:?}");
    }
}

#[tokio::test]
async fn a_fresh_proof_is_asked_for_and_given() {
    let world = World::start().await;
    let mine = sign_in_from(&world, &world.ada, 1).await.unwrap();
    world.app.set_judge(Some(on("refresh", vec![Outcome::StepUp])));
    let mine = world.app.refresh(&mine.refresh_token, how(2)).await.unwrap();
    assert_eq!(mine.session.auth_time, UNPROVEN);
    let caller = world.caller(&mine).await.unwrap();
    assert_eq!(caller.view.session.auth_time, UNPROVEN);
    let error = world.app.delete_me(&caller, None, None).await.unwrap_err();
    assert_eq!(error.code(), Code::StepUpRequired);
    assert!(lives(&world, &mine).await, "nothing else is taken");
}

#[tokio::test]
async fn no_more_are_blocked_than_may_be() {
    let mut settings = settings();
    settings.policy.max_blocks_per_minute = 1;
    let world = World::with(settings).await;
    let theirs = sign_in_from(&world, &world.eve, 1).await.unwrap();
    world.app.set_judge(Some(on("sign_in", vec![Outcome::Block { for_ms: None }, Outcome::EndAll])));
    assert_eq!(sign_in_from(&world, &world.ada, 2).await.unwrap_err().code(), Code::AccountBlocked);
    // The next one is not, and the sessions end all the same, as the rule says besides.
    assert!(sign_in_from(&world, &world.eve, 2).await.is_ok());
    assert!(!lives(&world, &theirs).await);
    assert_eq!(reasons(&world, &world.eve, EventKind::AccountBlocked).await.len(), 0);
    assert_eq!(reasons(&world, &world.eve, EventKind::RiskAlarm).await.len(), 1);
    let state = world.app.admin_rules(&world.admin).await.unwrap();
    assert_eq!((state.capped, state.version.as_deref()), (1, Some("test 1")));
    // And where the rule says nothing but a block, whoever it is about is refused, so that nobody is let in by using the cap up.
    world.app.set_judge(Some(on("sign_in", vec![Outcome::Block { for_ms: None }])));
    let mine = sign_in_from(&world, &world.eve, 2).await.unwrap_err();
    assert_eq!(mine.code(), Code::SessionEnded);
    assert_eq!(reasons(&world, &world.eve, EventKind::AccountBlocked).await.len(), 0);
    // A session ends, and no other.
    world.app.set_judge(Some(on("refresh", vec![Outcome::Block { for_ms: None }])));
    let (mine, other) =
        (sign_in_from(&world, &world.eve, 2).await.unwrap(), sign_in_from(&world, &world.eve, 2).await.unwrap());
    assert_eq!(world.app.refresh(&mine.refresh_token, how(9)).await.unwrap_err().code(), Code::SessionEnded);
    assert!(!lives(&world, &mine).await && lives(&world, &other).await);
}

/// Keeps what it is asked, and says nothing.
struct Hears(Arc<Mutex<Vec<Signals>>>);

impl Judge for Hears {
    fn judge(&self, signals: &Signals) -> Verdict {
        self.0.lock().unwrap().push(signals.clone());
        Verdict::nothing(self.version())
    }
    fn version(&self) -> &str {
        "test 2"
    }
}

/// What the rules are asked from now on.
fn heard(world: &World) -> Arc<Mutex<Vec<Signals>>> {
    let heard = Arc::default();
    world.app.set_judge(Some(Box::new(Hears(Arc::clone(&heard)))));
    heard
}

/// A new MAC key gives all networks other names. Nobody is new anywhere by that, and the usual refresh is not looked at.
#[tokio::test]
async fn another_key_makes_no_network_new() {
    let world = World::start().await;
    let heard = heard(&world);
    let mine = sign_in_from(&world, &world.ada, 1).await.unwrap();
    let other = sign_in_from(&world, &world.ada, 1).await.unwrap();
    let memory = async || world.held.load_risk(world.ada.id, &[]).await.unwrap().memory.unwrap();
    let before = memory().await;
    let key = world.app.keys().mac().id;
    crate::keys::rotated(&world, Wanted { signing: false, mac: true }).await;
    assert_ne!(world.app.keys().mac().id, key, "there is another one");
    heard.lock().unwrap().clear();
    let mine = world.app.refresh(&mine.refresh_token, how(1)).await.unwrap();
    let mine = world.app.refresh(&mine.refresh_token, how(1)).await.unwrap();
    assert_eq!(heard.lock().unwrap().len(), 0, "nothing was looked at");
    assert_eq!(memory().await, before);
    sign_in_from(&world, &world.ada, 1).await.unwrap();
    let elsewhere = world.app.refresh(&mine.refresh_token, how(2)).await.unwrap();
    world.app.refresh(&elsewhere.refresh_token, how(1)).await.unwrap();
    let said: Vec<_> = heard.lock().unwrap().iter().map(|s| (s.new_network, s.moved, s.first)).collect();
    assert_eq!(said, [(false, false, false), (true, true, false), (false, true, false)]);
    // What was written since has the new name, and a grant of before is at home by its old one.
    assert_ne!(memory().await, before);
    heard.lock().unwrap().clear();
    world.app.refresh(&other.refresh_token, how(1)).await.unwrap();
    assert_eq!(heard.lock().unwrap().len(), 0);
}

/// Those whose right password is just being looked at have guessed at nobody.
#[tokio::test]
async fn who_signs_in_at_the_same_moment_does_not_guess() {
    let world = World::start().await;
    let heard = heard(&world);
    let one = |last| sign_in_from(&world, &world.ada, last);
    let (a, b, c, d, e, f, g, h) = tokio::join!(one(1), one(1), one(1), one(1), one(1), one(1), one(1), one(1));
    assert!([a, b, c, d, e, f, g, h].iter().all(Result::is_ok));
    let most = |heard: &[Signals]| heard.iter().map(|s| (s.guesses_account, s.guesses_prefix)).max();
    assert!(heard.lock().unwrap().len() >= 8);
    assert_eq!(most(&heard.lock().unwrap()), Some((0, 0)));
    // Wrong ones count as soon as they are found wrong.
    for _ in 0..3 {
        let identifier = world.ada.email.clone().unwrap();
        let credentials = Credentials { identifier, password: SecretString::new("a wrong password"), device: None };
        let request = SignIn { kind: SessionKind::App, device_name: None, user_agent: None, ip: ip(5), cookie: None };
        world.app.sign_in(credentials, request, false).await.unwrap_err();
    }
    let (a, b, c) = tokio::join!(one(5), one(5), one(5));
    assert!([a, b, c].iter().all(Result::is_ok));
    assert_eq!(most(&heard.lock().unwrap()), Some((3, 3)));
}

/// A record that was to be written with a commit that failed is written with the next.
#[tokio::test]
async fn what_was_not_committed_was_not_told() {
    let world = World::start().await;
    let shadow = Always { act: "sign_in", outcomes: vec![Outcome::EndAll], shadow: true };
    world.app.set_judge(Some(Box::new(shadow)));
    // Two at once: one of them is decided anew, since the other has written what is remembered. Of each try something is said.
    world.held.hold.store(true, Ordering::SeqCst);
    let first = sign_in_from(&world, &world.ada, 1);
    let meanwhile = async {
        world.held.reached.notified().await;
        world.held.hold.store(false, Ordering::SeqCst);
        // What the first has decided on moves.
        let put = portcullis_domain::Change::PutMemory { account: world.ada.id, version: 0, memory: "{}".into() };
        let changes = portcullis_domain::Changes { steps: vec![put], ..portcullis_domain::Changes::default() };
        world.held.store.commit(changes).await.unwrap();
        world.held.release.notify_one();
    };
    let (first, ()) = tokio::join!(first, meanwhile);
    first.unwrap();
    assert_eq!(reasons(&world, &world.ada, EventKind::RiskShadow).await.len(), 1);
    assert_eq!(
        world.app.admin_rules(&world.admin).await.unwrap().rules[0].hits,
        1,
        "the try that was lost counts nothing"
    );
}

#[tokio::test]
async fn a_signal_that_is_repeated_ends_once() {
    let world = World::start().await;
    world.app.set_judge(Some(on("external", vec![Outcome::EndAll])));
    let before = sign_in_from(&world, &world.ada, 1).await.unwrap();
    let told = Told { account: world.ada.id, kind: ExternalKind::Fraud, detail: None };
    let repeat = RepeatKey { key: "once".into(), request: Digest::of(b"a call") };
    let ended = world.app.admin_signal(&world.admin, &told, Some(&repeat)).await.unwrap().unwrap();
    assert_eq!(ended.ended, Some(1));
    assert!(!lives(&world, &before).await);
    let since = sign_in_from(&world, &world.ada, 1).await.unwrap();
    let again = world.app.admin_signal(&world.admin, &told, Some(&repeat)).await.unwrap().unwrap();
    assert_eq!(again, ended);
    assert!(lives(&world, &since).await, "what was signed in since is not ended by the repetition");
    // A notice ends nothing, and a repetition of it does not either.
    world.app.set_judge(Some(on("external", vec![Outcome::Notify])));
    let other = RepeatKey { key: "twice".into(), request: Digest::of(b"another") };
    for _ in 0..2 {
        assert_eq!(world.app.admin_signal(&world.admin, &told, Some(&other)).await.unwrap(), None);
    }
    assert_eq!(reasons(&world, &world.ada, EventKind::RiskSignal).await.len(), 2);
    assert!(lives(&world, &since).await);
}

#[tokio::test]
async fn a_shadow_does_nothing_and_is_told_once_an_hour() {
    let world = World::start().await;
    let shadow = Always { act: "sign_in", outcomes: vec![Outcome::Block { for_ms: None }], shadow: true };
    world.app.set_judge(Some(Box::new(shadow)));
    for _ in 0..3 {
        assert!(sign_in_from(&world, &world.ada, 1).await.is_ok());
    }
    let told = reasons(&world, &world.ada, EventKind::RiskShadow).await;
    assert!((1..=2).contains(&told.len()), "an hour may have begun in between: {told:?}");
    assert_eq!(told[0], "a-rule (policy test 1): it looked strange");
    assert!(reasons(&world, &world.ada, EventKind::RiskDecided).await.is_empty());
    let state = world.app.admin_rules(&world.admin).await.unwrap();
    assert_eq!((state.rules[0].hits, state.rules[0].shadow), (3, true));
}

#[tokio::test]
async fn a_wrong_proof_in_a_session_and_a_change_are_judged() {
    let world = World::start().await;
    let mine = sign_in_from(&world, &world.ada, 1).await.unwrap();
    let change = async |tokens: &Tokens, old: &str| {
        let caller = world.caller(tokens).await.unwrap();
        let (old, new) = (SecretString::new(old), SecretString::new("another good password"));
        world.app.change_my_password(&caller, old, new, false, None).await
    };
    world.app.set_judge(Some(on("change", vec![Outcome::EndAll])));
    let error = change(&mine, PASSWORD).await.unwrap_err();
    assert_eq!(error.code(), Code::SessionEnded);
    assert!(!lives(&world, &mine).await);
    world.app.set_judge(Some(on("prove", vec![Outcome::EndSession])));
    // It was not changed.
    let again = sign_in_from(&world, &world.ada, 1).await.unwrap();
    let error = change(&again, "a wrong password").await.unwrap_err();
    assert_eq!(error.code(), Code::SessionEnded);
    assert!(!lives(&world, &again).await);
}

/// Whoever uses up the budget of somebody's network makes their right password no wrong one.
#[tokio::test]
async fn a_proof_that_was_not_looked_at_is_not_wrong() {
    let world = World::start().await;
    let mine = sign_in_from(&world, &world.ada, 1).await.unwrap();
    for _ in 0..40 {
        let identifier = world.ada.email.clone().unwrap();
        let credentials = Credentials { identifier, password: SecretString::new("a wrong password"), device: None };
        let request = SignIn { kind: SessionKind::App, device_name: None, user_agent: None, ip: None, cookie: None };
        world.app.sign_in(credentials, request, false).await.unwrap_err();
    }
    world.app.set_judge(Some(on("prove", vec![Outcome::EndSession])));
    let caller = world.caller(&mine).await.unwrap();
    let (old, new) = (SecretString::new(PASSWORD), SecretString::new("another good password"));
    let error = world.app.change_my_password(&caller, old, new, false, None).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidCredentials, "it was throttled");
    assert!(lives(&world, &mine).await);
}

#[tokio::test]
async fn a_memory_that_does_not_read_begins_anew() {
    let world = World::start().await;
    let put = portcullis_domain::Change::PutMemory { account: world.ada.id, version: 0, memory: "{\"v\": 99".into() };
    let changes = portcullis_domain::Changes { steps: vec![put], ..portcullis_domain::Changes::default() };
    world.held.commit(changes).await.unwrap();
    world.app.set_judge(Some(on("nothing", vec![])));
    sign_in_from(&world, &world.ada, 1).await.unwrap();
    let view = world.held.load_risk(world.ada.id, &[]).await.unwrap();
    assert_eq!(view.version, 2);
    assert!(view.memory.unwrap().starts_with("{\"v\":1"));
}

/// Two sign-ins at once, each of which would write what is remembered: one of them decides anew.
#[tokio::test]
async fn nothing_that_was_seen_at_once_is_lost() {
    let world = World::start().await;
    world.app.set_judge(Some(on("nothing", vec![])));
    let (one, two) = tokio::join!(sign_in_from(&world, &world.ada, 1), sign_in_from(&world, &world.ada, 2));
    assert!(one.is_ok() && two.is_ok());
    assert_eq!(world.held.load_risk(world.ada.id, &[]).await.unwrap().version, 2);
    assert!(world.app.counts().conflicts.load(Ordering::Relaxed) < 10);
}

#[tokio::test]
async fn what_is_told_of_nobody_is_not_taken() {
    let world = World::start().await;
    let told = |account| Told { account, kind: ExternalKind::DeviceLost, detail: Some("the train".into()) };
    let error =
        world.app.admin_signal(&world.admin, &told(portcullis_wire::AccountId::from_bits(1)), None).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    // Without rules it is recorded all the same.
    assert!(world.app.admin_signal(&world.admin, &told(world.ada.id), None).await.unwrap().is_none());
    assert_eq!(reasons(&world, &world.ada, EventKind::RiskSignal).await, ["device_lost: the train"]);
    world.app.admin_delete(&world.admin, world.eve.id, None).await.unwrap();
    assert_eq!(
        world.app.admin_signal(&world.admin, &told(world.eve.id), None).await.unwrap_err().code(),
        Code::NotFound
    );
}
