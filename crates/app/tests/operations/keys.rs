//! Keys of a running server: rotated, revoked, by everybody's order and in every order.
use crate::world::{Held, PASSWORD, World, bearer, memory, settings};
use portcullis_app::hub::subscription::Opening;
use portcullis_app::keys::MasterKey;
use portcullis_app::{App, AppError, KeySettings, RepeatKey, Settings, Tokens, real};
use portcullis_domain::keys::{State, Wanted, state};
use portcullis_domain::model::{ClientKind, Key, KeyPurpose};
use portcullis_store::EventFilter;
use portcullis_store::faulty::{Faulty, Mode};
use portcullis_store::memory::MemoryStore;
use portcullis_verify::Authentic;
use portcullis_wire::jws::{Algorithm, Compact};
use portcullis_wire::{Code, Digest, KeyId, LogId, Rev, SecretString, b64};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

const SIGNING: Wanted = Wanted { signing: true, mac: false };
const MAC: Wanted = Wanted { signing: false, mac: true };

fn quick() -> Settings {
    Settings { bound: 2_000, ..settings() }
}

fn kid(tokens: &Tokens) -> KeyId {
    Compact::parse(tokens.access_token.expose(), "at+jwt").unwrap().kid
}

/// Whether it is taken here, by the rows and by the feed. On a busy machine the node's own knowledge may be too old at a moment.
async fn lives(app: &App, tokens: &Tokens) {
    until("a verdict", async || match app.caller(Some(tokens.access_token.expose()), None).await {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.code(), Code::Unavailable, "{}", kid(tokens));
            false
        }
    })
    .await;
}

fn authentic(app: &App, tokens: &Tokens) -> Authentic {
    app.hub().authenticate(tokens.access_token.expose()).unwrap().as_ref().clone()
}

async fn rows(app: &App) -> Vec<(u32, KeyPurpose, State)> {
    let floor = app.store().stamp().await.unwrap().floor;
    let row = |key: &Key| (key.id.0, key.purpose, state(key, floor));
    app.store().list_keys().await.unwrap().iter().map(row).collect()
}

fn listed(app: &App) -> Vec<u32> {
    app.keys().public().iter().map(|jwk| jwk.kid.0).collect()
}

async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    for _ in 0..1_000 {
        if is().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} never came");
}

/// Calls again while that is what the answer says to do.
pub async fn rotated(world: &World, wanted: Wanted) {
    until("a rotation", async || match world.app.admin_rotate_keys(&world.admin, wanted, None).await {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.code(), Code::Conflict);
            false
        }
    })
    .await;
}

#[tokio::test]
async fn a_rotation_is_nothing_that_anybody_notices() {
    let world = World::with(quick()).await;
    let before = world.sign_in(&world.ada, false).await.unwrap();
    assert_eq!((kid(&before), listed(&world.app)), (KeyId(1), vec![1, 2]));
    // Not before every verifier that may be fresh knows the next key.
    let early = world.app.admin_rotate_keys(&world.admin, SIGNING, None).await.unwrap_err();
    assert!(early.detail().unwrap().contains("key_2"), "{early:?}");
    rotated(&world, SIGNING).await;
    let after = world.refresh(&before.refresh_token).await.unwrap();
    assert_eq!((kid(&after), listed(&world.app)), (KeyId(2), vec![1, 2, 4]));
    for tokens in [&before, &after] {
        lives(&world.app, tokens).await;
    }
    use {KeyPurpose::*, State::*};
    assert_eq!(
        rows(&world.app).await,
        [(1, Es256, Verifying), (2, Es256, Active), (3, Mac, Active), (4, Es256, Waiting)]
    );
    let sealed = |rows: Vec<Key>| rows.iter().map(|key| !key.sealed.expose().is_empty()).collect::<Vec<_>>();
    let sealed = sealed(world.app.store().list_keys().await.unwrap());
    assert_eq!(sealed, [false, true, true, true], "what signs no more is forgotten at once");
    let filter = EventFilter::default();
    let events = world.app.store().list_events(&filter, None, 100).await.unwrap().rows;
    let told: Vec<String> =
        events.iter().map(|row| format!("{} {:?}", row.event.kind.as_str(), row.event.reason)).collect();
    for wanted in ["key.activated Some(\"key_2\")", "key.retired Some(\"key_1\")", "key.created Some(\"key_4\")"] {
        assert!(told.iter().any(|event| event == wanted), "{wanted} in {told:?}");
    }
}

#[tokio::test]
async fn a_rotation_comes_when_it_is_due_and_once() {
    let keys = KeySettings { rotate_every: Some(3_000), ..KeySettings::default() };
    let world = World::with(Settings { keys, bound: 1_000, ..settings() }).await;
    let before = world.sign_in(&world.ada, false).await.unwrap();
    until("a rotation by schedule", async || world.app.keys().signs_with() > KeyId(1)).await;
    lives(&world.app, &before).await;
    let rows = rows(&world.app).await;
    let count = |wanted| rows.iter().filter(|row| row.1 != KeyPurpose::Mac && row.2 == wanted).count();
    assert_eq!((count(State::Active), count(State::Waiting)), (1, 1), "{rows:?}");
}

#[tokio::test]
async fn refresh_tokens_positions_and_repeated_calls_survive_a_new_mac_key() {
    let world = World::with(quick()).await;
    let tokens = world.sign_in(&world.ada, false).await.unwrap();
    let client = world.app.admin_create_client(&world.admin, "orders", ClientKind::Verifier).await.unwrap().client;
    let opening = |last_event_id| Opening {
        name: "orders".into(),
        policies: "closed".parse().unwrap(),
        bound_ms: None,
        instance: None,
        last_event_id,
    };
    let mut stream = world.app.hub().open(&client, opening(None)).await.unwrap();
    let mut position = None;
    while position.is_none() {
        let text = String::from_utf8(stream.next().await.unwrap().to_vec()).unwrap();
        position = text.lines().find_map(|line| line.strip_prefix("id: ")).map(str::to_owned);
    }
    let repeat = RepeatKey { key: "k".into(), request: Digest::of(b"call") };
    let ended = world.app.admin_end_account(&world.admin, world.eve.id, Some(&repeat)).await.unwrap();

    rotated(&world, MAC).await;
    assert_eq!(world.app.keys().mac().id, KeyId(4));
    let next = world.refresh(&tokens.refresh_token).await.unwrap();
    // The lost answer of before, and the token of after.
    assert_eq!(world.refresh(&tokens.refresh_token).await.unwrap().refresh_token.expose(), next.refresh_token.expose());
    assert!(world.refresh(&next.refresh_token).await.is_ok());
    let again = world.app.admin_end_account(&world.admin, world.eve.id, Some(&repeat)).await.unwrap();
    assert_eq!((again.rev, again.ended), (ended.rev, ended.ended));
    until("the head", async || world.app.hub().head() == ended.rev).await;
    let mut stream = world.app.hub().open(&client, opening(position)).await.unwrap();
    let frames = [stream.next().await.unwrap(), stream.next().await.unwrap(), stream.next().await.unwrap()];
    let names: Vec<String> = frames
        .iter()
        .map(|frame| String::from_utf8_lossy(frame).lines().find_map(|l| l.strip_prefix("event: ")).unwrap().to_owned())
        .collect();
    assert_eq!(names, ["hello", "keys", "entries"], "a position of the old key resumes");
}

#[tokio::test]
async fn a_revoked_key_is_dead_everywhere_and_nobody_signs_in_again() {
    let world = World::start().await;
    let (mine, other) =
        (world.sign_in(&world.ada, true).await.unwrap(), world.sign_in(&world.eve, false).await.unwrap());
    let tokens = [authentic(&world.app, &mine), authentic(&world.app, &other)];
    let revoked = world.app.admin_revoke_key(&world.admin, KeyId(1), "it was in a log", None).await.unwrap();
    assert_eq!(revoked.ended, Some(0), "no session ends");
    // At this server at once, whatever the feed knows.
    for dead in [&mine, &other] {
        assert_eq!(world.caller(dead).await.unwrap_err().code(), Code::TokenRevoked);
        assert!(world.app.introspect(dead.access_token.expose()).await.unwrap().is_none());
        let asked = world.app.caller_dead_or_alive(Some(dead.access_token.expose()), None).await;
        assert_eq!(asked.unwrap_err().code(), Code::TokenRevoked, "a thief's token signs nobody out");
    }
    assert_eq!((world.app.keys().signs_with(), listed(&world.app)), (KeyId(2), vec![2, 4]));
    // What a good client does: it refreshes, and goes on under the next key, which every service knew before.
    let next = world.refresh(&mine.refresh_token).await.unwrap();
    assert_eq!(kid(&next), KeyId(2));
    until("the entry at the feed", async || world.app.hub().head() == revoked.rev).await;
    lives(&world.app, &next).await;
    for token in &tokens {
        assert_eq!(world.app.hub().judge(token), Err(Code::TokenRevoked));
    }
    assert!(world.app.page_caller(mine.page_cookie.as_ref().unwrap(), None).await.is_ok());
    assert_eq!(world.app.my_sessions(&world.caller(&next).await.unwrap()).await.unwrap().len(), 1);
    // Repeated: the old rev.
    let again = world.app.admin_revoke_key(&world.admin, KeyId(1), "again", None).await.unwrap();
    assert_eq!((again.rev, again.ended), (revoked.rev, Some(0)));
    let row = world.app.admin_revocation(&world.admin, revoked.rev).await.unwrap();
    assert_eq!((row.event.kind.as_str(), row.ended), ("key.revoked", Some(0)));
    let reason = row.event.reason.unwrap();
    assert_eq!(reason, "key_1: it was in a log; key.activated key_2; key.created key_4");
    let filter = EventFilter { revocations: true, ..EventFilter::default() };
    assert_eq!(world.app.store().list_events(&filter, None, 10).await.unwrap().rows.len(), 1, "one act, one record");
}

#[tokio::test]
async fn every_key_can_be_revoked_and_the_server_still_signs() {
    let world = World::start().await;
    let start = world.sign_in(&world.ada, false).await.unwrap();
    // The waiting one, the one that signs, its successor, and so on: each a moment after the other.
    for key in [2, 1, 4, 5, 6, 7] {
        world.app.admin_revoke_key(&world.admin, KeyId(key), "all are out", None).await.unwrap();
        let tokens = world.sign_in(&world.ada, false).await.unwrap();
        let dead = world.app.store().list_keys().await.unwrap();
        assert!(dead.iter().any(|row| row.id == KeyId(key) && row.dead.is_some()));
        assert!(dead.iter().any(|row| row.id == kid(&tokens) && row.dead.is_none()), "{}", kid(&tokens));
        let head = world.app.store().stamp().await.unwrap().head;
        until("the entry at the feed", async || world.app.hub().head() == head).await;
        lives(&world.app, &tokens).await;
    }
    assert!(world.refresh(&start.refresh_token).await.is_ok());
    let refused = async |key| world.app.admin_revoke_key(&world.admin, KeyId(key), "r", None).await.unwrap_err();
    let mac = refused(3).await;
    assert!(mac.code() == Code::InvalidValue && mac.detail().unwrap().contains("sign everyone out"), "{mac:?}");
    assert_eq!(refused(99).await.code(), Code::NotFound);
    assert!(world.app.admin_revoke_key(&world.admin, KeyId(9), "", None).await.is_err(), "a reason is needed");
}

/// A read of the keys that was held up ends after a key has died: what it saw is old, and must not come back.
#[tokio::test]
async fn an_old_read_does_not_revive_a_dead_key() {
    let world = World::start().await;
    let tokens = world.sign_in(&world.ada, false).await.unwrap();
    // A refresh token that names a key which nobody knows makes this node read its keys anew.
    let mut strange = b64::decode(tokens.refresh_token.expose().strip_prefix("pcr_").unwrap()).unwrap();
    strange[1..5].copy_from_slice(&99u32.to_be_bytes());
    let strange = SecretString::new(format!("pcr_{}", b64::encode(&strange)));
    for key in [1, 2] {
        assert_eq!(world.app.keys().signs_with(), KeyId(key));
        tokio::time::sleep(Duration::from_millis(1_100)).await; // once a second at most
        world.held.hold_keys.store(true, Ordering::SeqCst);
        let (app, token) = (world.app.clone(), strange.clone());
        let reading = tokio::spawn(async move { app.refresh(&token, bearer()).await });
        world.held.reached.notified().await;
        let (app, admin) = (world.app.clone(), world.admin.clone());
        let revoked = tokio::spawn(async move { app.admin_revoke_key(&admin, KeyId(key), "leaked", None).await });
        // Long enough for it to pass by, if it could.
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.held.release.notify_one();
        revoked.await.unwrap().unwrap();
        assert_eq!(reading.await.unwrap().unwrap_err().code(), Code::RefreshInvalid);
        let rows = world.app.store().list_keys().await.unwrap();
        let signs = rows.iter().find(|row| row.id == world.app.keys().signs_with()).unwrap();
        assert!(signs.dead.is_none() && world.app.keys().is_dead(KeyId(key)), "{} signs", signs.id);
        assert!(kid(&world.refresh(&tokens.refresh_token).await.unwrap()) > KeyId(key));
    }
    // And the list that verifiers get has the newest.
    until("the list", async || {
        let client = world.app.admin_create_client(&world.admin, "orders", ClientKind::Verifier).await.unwrap().client;
        let mut stream = crate::feed::Verifier::of_client(&world.app, client).await;
        let told = stream.next_event().await;
        let lists = |kid| told.contains(&format!("\"kid\":\"{kid}\""));
        lists("key_4") && lists("key_5") && !lists("key_1") && !lists("key_2")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_at_once_kill_once() {
    let world = World::start().await;
    let revoke = || {
        let (app, admin) = (world.app.clone(), world.admin.clone());
        tokio::spawn(async move { app.admin_revoke_key(&admin, KeyId(1), "leaked", None).await.unwrap() })
    };
    let (first, second) = (revoke(), revoke());
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    assert_eq!(first.rev, second.rev);
    assert_eq!(rows(&world.app).await.len(), 4);
    // Under one repeat key too.
    let repeat = RepeatKey { key: "k".into(), request: Digest::of(b"call") };
    let first = world.app.admin_revoke_key(&world.admin, KeyId(2), "leaked", Some(&repeat)).await.unwrap();
    let again = world.app.admin_revoke_key(&world.admin, KeyId(2), "leaked", Some(&repeat)).await.unwrap();
    assert_eq!((first.rev, first.at), (again.rev, again.at));
}

/// Two starts on one database (a takeover) plan the same rotation: one is made.
#[tokio::test]
async fn two_servers_do_not_rotate_twice() {
    let (held, master) = (Held::new(memory()), MasterKey::generate());
    let mut tasks = JoinSet::new();
    let keys = KeySettings { rotate_every: Some(700), ..KeySettings::default() };
    let settings = Settings { keys, bound: 100, ..settings() };
    let first = App::start(held.clone(), settings.clone(), master.clone(), &mut tasks).await.unwrap();
    let second = App::start(held.clone(), settings, master, &mut tasks).await.unwrap();
    until("both have rotated", async || {
        let (one, other) = (first.keys().signs_with(), second.keys().signs_with());
        one > KeyId(1) && one == other
    })
    .await;
    tasks.shutdown().await;
    let rows = rows(&first).await;
    let count = |wanted| rows.iter().filter(|row| row.1 != KeyPurpose::Mac && row.2 == wanted).count();
    assert_eq!((count(State::Active), count(State::Waiting)), (1, 1), "{rows:?}");
}

/// A verifier that holds a lease and says nothing: a key that it may not know signs nothing until its lease has ended.
#[tokio::test]
async fn a_key_that_a_fresh_verifier_may_not_know_signs_nothing() {
    let world = World::with(Settings { bound: 3_000, ..settings() }).await;
    let before = world.sign_in(&world.ada, false).await.unwrap();
    let client = world.app.admin_create_client(&world.admin, "orders", ClientKind::Verifier).await.unwrap().client;
    let mut verifier = crate::feed::Verifier::of_client(&world.app, client).await;
    world.app.hub().acknowledge(verifier.client.id, &verifier.question()).await.unwrap();
    world.app.admin_revoke_key(&world.admin, KeyId(1), "leaked", None).await.unwrap();
    // The waiting one is as young as the server, and this verifier has not confirmed yet.
    assert_eq!(world.refresh(&before.refresh_token).await.unwrap_err().code(), Code::Overloaded);
    assert_eq!(world.sign_in(&world.eve, false).await.unwrap_err().code(), Code::Overloaded);
    // It confirms: then it knows the key, for the answer has brought it.
    let head = world.app.store().stamp().await.unwrap().head;
    let told = world.app.hub().acknowledge(verifier.client.id, &verifier.question()).await.unwrap();
    assert_eq!(told.head, head);
    assert_eq!(told.keys.unwrap().iter().map(|jwk| jwk.kid.0).collect::<Vec<_>>(), [2, 4]);
    verifier.applied = head;
    world.app.hub().acknowledge(verifier.client.id, &verifier.question()).await.unwrap();
    assert_eq!(kid(&world.refresh(&before.refresh_token).await.unwrap()), KeyId(2));
    // Who names the keys that it knows is not told them again.
    let known = Some(vec![KeyId(2), KeyId(4)]);
    let asked = portcullis_wire::frame::AckRequest { keys: known, ..verifier.question() };
    assert!(world.app.hub().acknowledge(verifier.client.id, &asked).await.unwrap().keys.is_none());
}

/// And one that never confirms: nothing is signed until B has passed, then everything goes on.
#[tokio::test]
async fn a_silent_verifier_holds_an_emergency_up_for_the_bound_at_most() {
    let world = World::with(Settings { bound: 400, ..settings() }).await;
    let client = world.app.admin_create_client(&world.admin, "orders", ClientKind::Verifier).await.unwrap().client;
    let verifier = crate::feed::Verifier::of_client(&world.app, client).await;
    world.app.hub().acknowledge(verifier.client.id, &verifier.question()).await.unwrap();
    for key in [1, 2, 4] {
        world.app.admin_revoke_key(&world.admin, KeyId(key), "leaked", None).await.unwrap();
    }
    until("a sign-in", async || match world.sign_in(&world.ada, false).await {
        Ok(tokens) => kid(&tokens) == KeyId(5),
        Err(error) => {
            assert_eq!(error.code(), Code::Overloaded);
            false
        }
    })
    .await;
}

#[tokio::test]
async fn another_algorithm_takes_over_and_back_across_starts() {
    let (held, master) = (Held::new(memory()), MasterKey::generate());
    let mut made = Vec::new();
    for (algorithm, signs) in
        [(Algorithm::Es256, 1), (Algorithm::Ed25519, 4), (Algorithm::Rs256, 6), (Algorithm::Es256, 8)]
    {
        let mut tasks = JoinSet::new();
        let keys = KeySettings { algorithm, ..KeySettings::default() };
        let settings = Settings { keys, bound: 1_000, ..settings() };
        let app = App::start(held.clone(), settings, master.clone(), &mut tasks).await.unwrap();
        if made.is_empty() {
            app.sign_up("ada@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
        }
        let ada = app.store().list_accounts(None, None, 1).await.unwrap().rows.remove(0);
        until("the algorithm", async || app.keys().signs_with() == KeyId(signs)).await;
        let tokens = crate::world::sign_in(&app, &ada, false).await.unwrap();
        let compact = Compact::parse(tokens.access_token.expose(), "at+jwt").unwrap();
        assert_eq!((compact.alg, compact.kid), (algorithm, KeyId(signs)));
        assert!(app.keys().algorithms().contains(&algorithm));
        made.push(tokens);
        until("the feed", async || {
            made.iter().all(|tokens| app.hub().authenticate(tokens.access_token.expose()).is_ok())
        })
        .await;
        for tokens in &made {
            lives(&app, tokens).await; // those of before live on
        }
        tasks.shutdown().await;
    }
}

/// A fault at the n-th operation of a revocation, for every n: success is never said of what is not written, what signs is never
/// a dead key, and the repeated call comes to the same.
#[tokio::test]
async fn at_every_operation_of_a_revocation() {
    for mode in [Mode::Before, Mode::After] {
        let mut failed_somewhere = 0;
        for n in 1..=10u64 {
            let store = Arc::new(Faulty::new(memory()));
            let mut tasks = JoinSet::new();
            let app = App::start(store.clone(), settings(), MasterKey::generate(), &mut tasks).await.unwrap();
            tasks.abort_all(); // their operations would use up the count
            app.sign_up("ada@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
            let ada = app.store().list_accounts(None, None, 1).await.unwrap().rows.remove(0);
            let admin = portcullis_app::Admin::operator();
            store.fail_at(n, mode);
            let revoked = app.admin_revoke_key(&admin, KeyId(1), "leaked", None).await;
            store.never_fail();
            let revoked: Result<_, AppError> = match revoked {
                Ok(revoked) => Ok(revoked),
                Err(error) => {
                    failed_somewhere += 1;
                    assert!(matches!(error.code(), Code::Unavailable | Code::Overloaded), "{mode:?} {n}: {error}");
                    app.admin_revoke_key(&admin, KeyId(1), "leaked", None).await
                }
            };
            assert_eq!(revoked.unwrap().rev, Rev(1), "{mode:?} {n}: one entry");
            let tokens = crate::world::sign_in(&app, &ada, false).await.unwrap();
            assert_eq!(kid(&tokens), KeyId(2));
            assert!(app.refresh(&tokens.refresh_token, bearer()).await.is_ok());
        }
        assert!(failed_somewhere >= 3, "{mode:?}: the faults must have happened");
    }
}

/// A repeat key makes one rotation of however many tries, also when the outcome of one is not known.
#[tokio::test]
async fn at_every_operation_of_a_rotation() {
    for mode in [Mode::Before, Mode::After] {
        let mut failed_somewhere = 0;
        for n in 1..=8u64 {
            let store = Arc::new(Faulty::new(memory()));
            let mut tasks = JoinSet::new();
            let app = App::start(store.clone(), settings(), MasterKey::generate(), &mut tasks).await.unwrap();
            tasks.abort_all();
            let admin = portcullis_app::Admin::operator();
            let repeat = RepeatKey { key: "k".into(), request: Digest::of(b"call") };
            store.fail_at(n, mode);
            let done = app.admin_rotate_keys(&admin, MAC, Some(&repeat)).await;
            store.never_fail();
            if let Err(error) = done {
                failed_somewhere += 1;
                assert!(matches!(error.code(), Code::Unavailable | Code::Overloaded), "{mode:?} {n}: {error}");
                app.admin_rotate_keys(&admin, MAC, Some(&repeat)).await.unwrap();
            }
            use {KeyPurpose::*, State::*};
            let all = [(1, Es256, Active), (2, Es256, Waiting), (3, Mac, Verifying), (4, Mac, Active)];
            assert_eq!(rows(&app).await, all, "{mode:?} {n}");
            assert_eq!(app.keys().mac().id, KeyId(4));
        }
        assert!(failed_somewhere >= 3, "{mode:?}: the faults must have happened");
    }
}

/// The database's clock is set, forward and back: a rotation comes early, and nobody loses anything.
#[tokio::test]
async fn a_clock_that_is_set_costs_a_rotation_at_most() {
    const DAY: i64 = 86_400_000;
    let ahead = Arc::new(AtomicI64::new(0));
    let clock = {
        let ahead = ahead.clone();
        Arc::new(move || real::wall().plus(ahead.load(Ordering::SeqCst)))
    };
    let store = Arc::new(MemoryStore::new(LogId::from_bits(7), clock));
    let mut tasks = JoinSet::new();
    let keys = KeySettings { rotate_every: Some(10 * DAY), ..KeySettings::default() };
    let settings = Settings { bound: 1_000, keys, ..settings() };
    let app = App::start(store, settings, MasterKey::generate(), &mut tasks).await.unwrap();
    let ada = app.sign_up("ada@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
    let mut tokens = crate::world::sign_in(&app, &ada, false).await.unwrap();
    assert_eq!(kid(&tokens), KeyId(1));
    // A start takes the clock as found; what comes later moves F slowly.
    until("F", async || {
        let stamp = app.store().stamp().await.unwrap();
        stamp.now.since(stamp.floor) < 60_000
    })
    .await;
    for (days, rotations) in [(12, 1), (-3, 2), (0, 2)] {
        ahead.store(days * DAY, Ordering::SeqCst);
        until("a rotation", async || {
            let rows = rows(&app).await;
            assert_eq!(rows.iter().filter(|row| row.1 == KeyPurpose::Es256 && row.2 == State::Active).count(), 1);
            rows.iter().filter(|row| row.1 == KeyPurpose::Es256).count() == 2 + rotations
        })
        .await;
        // The session lives, under the key of today. While a clock is being set an answer may be 503: then again.
        until("a token by the key of today", async || {
            match app.refresh(&tokens.refresh_token, bearer()).await {
                Ok(next) => tokens = next,
                Err(error) => assert!(matches!(error.code(), Code::Unavailable | Code::Overloaded), "{days}: {error}"),
            }
            kid(&tokens) == app.keys().signs_with()
        })
        .await;
        // What time it is reaches the judge with the next read of the log.
        until("a verdict", async || app.caller(Some(tokens.access_token.expose()), None).await.is_ok()).await;
    }
}
