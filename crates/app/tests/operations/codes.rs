//! Codes and what comes of them, with something in between: one grant at most, and nothing that outlives an end.
use crate::application::Application;
use crate::world::World;
use portcullis_app::oauth::OAuthTokens;
use portcullis_app::{AppError, RepeatKey, Tokens};
use portcullis_wire::{Code, Digest, Rev, SecretString};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A page session of ada's, and an application.
async fn scene() -> (World, Tokens, Application) {
    let world = World::start().await;
    let mine = world.sign_in(&world.ada, true).await.unwrap();
    let theirs = Application::register(&world.app, "an app").await;
    (world, mine, theirs)
}

async fn caught_up(world: &World) {
    for _ in 0..400 {
        if world.app.hub().judges_by() == world.app.store().stamp().await.unwrap().head {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the hub does not follow the log");
}

/// No token of this answer is good for anything: not at the server, not at a service that has caught up, and not for another.
async fn assert_dead(world: &World, theirs: &Application, tokens: &OAuthTokens, at: &str) {
    caught_up(world).await;
    let token = world.app.hub().authenticate(tokens.access_token.expose()).unwrap();
    assert!(
        world.app.hub().judge_for_any(&token, &portcullis_verify::Holder::AskedAbout).is_err(),
        "{at}: at a service"
    );
    assert!(
        world.app.bearer(Some(tokens.access_token.expose()), &portcullis_verify::Holder::Bearer).await.is_err(),
        "{at}: at the server"
    );
    let refreshed = theirs.refresh(&world.app, tokens.refresh_token.as_ref().unwrap()).await;
    assert!(refreshed.is_err(), "{at}: the refresh token");
}

async fn living(world: &World, theirs: &Application) -> usize {
    world.app.store().list_grants(world.ada.id, Some(theirs.client.id), 100).await.unwrap().len()
}

/// RFC 6749 §4.1.2: redeemed once; and as it was shown again, what it gave has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_that_sixteen_redeem_at_once_gives_tokens_once() {
    for scope in ["openid read", "openid offline_access"] {
        let (world, mine, theirs) = scene().await;
        let caller = world.caller(&mine).await.unwrap();
        let code = theirs.code(&world.app, &caller, scope).await.unwrap();
        let tasks = (0..16).map(|_| {
            let (app, code, presented) = (world.app.clone(), code.clone(), theirs.presented());
            let known = theirs.itself();
            tokio::spawn(async move { app.redeem_code(&known, &code, &presented, &[]).await })
        });
        let tasks: Vec<_> = tasks.collect();
        let mut given = Vec::new();
        for task in tasks {
            match task.await.unwrap() {
                Ok(tokens) => given.push(tokens),
                Err(error) => assert_eq!(error.code(), Code::Malformed, "{error}"),
            }
        }
        assert_eq!(given.len(), 1, "{scope}");
        assert_dead(&world, &theirs, &given[0], scope).await;
        assert_eq!(living(&world, &theirs).await, 0);
        assert_eq!(world.app.my_sessions(&caller).await.unwrap().len(), 1, "nothing of it is left among the devices");
        assert!(world.caller(&mine).await.is_ok(), "the browser's session is not the application's");
    }
}

/// Only by the application that it was made for, and only what came of it.
#[tokio::test]
async fn a_code_that_is_shown_again_ends_what_it_gave_and_nothing_else() {
    let (world, mine, theirs) = scene().await;
    let caller = world.caller(&mine).await.unwrap();
    let code = theirs.code(&world.app, &caller, "openid offline_access").await.unwrap();
    let tokens = theirs.redeem(&world.app, &code).await.unwrap();
    let kept = theirs.granted(&world.app, &caller, "openid offline_access").await.unwrap();
    let strange = Application::register(&world.app, "a strange app").await;
    let head = world.app.store().stamp().await.unwrap().head;
    assert!(strange.redeem(&world.app, &code).await.is_err());
    assert_eq!(world.app.store().stamp().await.unwrap().head, head, "another application ends nothing by it");
    assert!(theirs.redeem(&world.app, &code).await.is_err());
    assert_dead(&world, &theirs, &tokens, "shown again").await;
    assert!(theirs.redeem(&world.app, &code).await.is_err());
    assert_eq!(world.app.store().stamp().await.unwrap().head, Rev(head.0 + 1), "once");
    assert!(world.app.bearer(Some(kept.access_token.expose()), &portcullis_verify::Holder::Bearer).await.is_ok());
    assert!(theirs.refresh(&world.app, kept.refresh_token.as_ref().unwrap()).await.is_ok());
}

/// What takes access away while a code is on its way.
#[derive(Debug, Clone, Copy)]
enum Between {
    Block,
    BlockAndUnblock,
    Delete,
    EndAll,
    EndThatSession,
    Everyone,
    ClientOff,
    ClientOffAndOn,
    Withdrawal,
}

const BETWEEN: [Between; 9] = [
    Between::Block,
    Between::BlockAndUnblock,
    Between::Delete,
    Between::EndAll,
    Between::EndThatSession,
    Between::Everyone,
    Between::ClientOff,
    Between::ClientOffAndOn,
    Between::Withdrawal,
];

async fn take_away(between: Between, world: &World, mine: &Tokens, theirs: &Application) {
    let (app, admin, client) = (&world.app, &world.admin, theirs.client.id);
    match between {
        Between::Block | Between::BlockAndUnblock => {
            app.admin_block(admin, world.ada.id, "test", None, None).await.unwrap();
        }
        Between::Delete => drop(app.admin_delete(admin, world.ada.id, None).await.unwrap()),
        Between::EndAll => drop(app.admin_end_account(admin, world.ada.id, None).await.unwrap()),
        Between::EndThatSession => drop(app.admin_end_session(admin, mine.session.id, None).await.unwrap()),
        Between::Everyone => drop(app.admin_end_everyone(admin, None, "test", None).await.unwrap()),
        Between::ClientOff | Between::ClientOffAndOn => {
            app.admin_set_client_disabled(admin, client, true).await.unwrap();
        }
        Between::Withdrawal => {
            app.disconnect_app(&world.caller(mine).await.unwrap(), client, None).await.unwrap();
        }
    }
    match between {
        Between::BlockAndUnblock => drop(app.admin_unblock(admin, world.ada.id, None).await.unwrap()),
        Between::ClientOffAndOn => drop(app.admin_set_client_disabled(admin, client, false).await.unwrap()),
        _ => {}
    }
}

#[tokio::test]
async fn a_redemption_that_is_overtaken_by_an_end_gives_nothing() {
    for between in BETWEEN {
        for scope in ["openid read", "openid offline_access"] {
            let (world, mine, theirs) = scene().await;
            let code = theirs.code(&world.app, &world.caller(&mine).await.unwrap(), scope).await.unwrap();
            world.held.hold.store(true, Ordering::SeqCst);
            let (app, presented, shown) = (world.app.clone(), theirs.presented(), code.clone());
            let known = theirs.itself();
            let late = tokio::spawn(async move { app.redeem_code(&known, &shown, &presented, &[]).await });
            world.held.reached.notified().await;
            take_away(between, &world, &mine, &theirs).await;
            world.held.release.notify_one();
            let error = late.await.unwrap().map(|_| ()).unwrap_err();
            assert_eq!(error.code(), Code::Malformed, "{between:?} {scope}: {error}");
            assert_eq!(living(&world, &theirs).await, 0, "{between:?} {scope}");
            assert!(theirs.redeem(&world.app, &code).await.is_err(), "{between:?} {scope}: nothing comes back");
        }
    }
}

#[tokio::test]
async fn a_code_that_is_overtaken_by_an_end_is_not_made() {
    for between in BETWEEN {
        let (world, mine, theirs) = scene().await;
        let caller = world.caller(&mine).await.unwrap();
        theirs.granted(&world.app, &caller, "openid").await.unwrap(); // so that there is something to withdraw
        world.held.hold.store(true, Ordering::SeqCst);
        let (app, client) = (world.app.clone(), theirs.client.id);
        let asked = crate::application::asked("openid read");
        let late = tokio::spawn(async move { app.grant_code(&caller, client, &asked, true, None).await });
        world.held.reached.notified().await;
        take_away(between, &world, &mine, &theirs).await;
        world.held.release.notify_one();
        let made: Result<SecretString, AppError> = late.await.unwrap();
        match made {
            // A session that lives is asked again: what it may have is decided anew.
            Ok(code) => {
                assert!(matches!(between, Between::Withdrawal | Between::ClientOffAndOn), "{between:?}");
                assert!(theirs.redeem(&world.app, &code).await.is_ok(), "{between:?}");
            }
            Err(error) => assert_eq!(error.code(), Code::Malformed, "{between:?}: {error}"),
        }
    }
}

/// A withdrawal that has looked before a redemption committed looks again.
#[tokio::test]
async fn a_withdrawal_misses_no_grant_that_was_made_meanwhile() {
    for scope in ["openid read", "openid offline_access"] {
        let (world, mine, theirs) = scene().await;
        let caller = world.caller(&mine).await.unwrap();
        let code = theirs.code(&world.app, &caller, scope).await.unwrap();
        world.held.hold.store(true, Ordering::SeqCst);
        let (app, client) = (world.app.clone(), theirs.client.id);
        let late = tokio::spawn(async move { app.disconnect_app(&caller, client, None).await });
        world.held.reached.notified().await;
        let tokens = theirs.redeem(&world.app, &code).await.unwrap();
        world.held.release.notify_one();
        late.await.unwrap().unwrap();
        assert_dead(&world, &theirs, &tokens, scope).await;
    }
}

/// Both at once, for real: whoever comes first, nothing of the application lives in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redemptions_and_a_withdrawal_at_once_leave_nothing() {
    for round in 0..12 {
        let (world, mine, theirs) = scene().await;
        let caller = world.caller(&mine).await.unwrap();
        let mut codes = Vec::new();
        for n in 0..6 {
            let scope = if n % 2 == 0 { "openid" } else { "openid offline_access" };
            codes.push(theirs.code(&world.app, &caller, scope).await.unwrap());
        }
        let redeem = |code: SecretString| {
            let (app, presented, known) = (world.app.clone(), theirs.presented(), theirs.itself());
            tokio::spawn(async move { app.redeem_code(&known, &code, &presented, &[]).await.ok() })
        };
        let first: Vec<_> = codes.drain(..3).map(redeem).collect();
        let (app, client) = (world.app.clone(), theirs.client.id);
        let withdrawn = tokio::spawn(async move { app.disconnect_app(&caller, client, None).await });
        let rest: Vec<_> = codes.drain(..).map(redeem).collect();
        withdrawn.await.unwrap().unwrap();
        for task in first.into_iter().chain(rest) {
            if let Some(tokens) = task.await.unwrap() {
                assert_dead(&world, &theirs, &tokens, &format!("round {round}")).await;
            }
        }
        assert_eq!(living(&world, &theirs).await, 0);
    }
}

/// RFC 7009: an access token ends alone, a refresh token takes its grant with it; again is no error and no entry, and of
/// another's token nothing ends.
#[tokio::test]
async fn what_is_given_up_ends_once_and_for_its_owner_only() {
    let (world, mine, theirs) = scene().await;
    let (app, caller) = (&world.app, world.caller(&mine).await.unwrap());
    let strange = Application::register(app, "a strange app").await;
    let tokens = theirs.granted(app, &caller, "openid read").await.unwrap();
    let refresh = tokens.refresh_token.clone().unwrap();
    let head = || async { app.store().stamp().await.unwrap().head.0 };
    let before = head().await;
    for token in [&tokens.access_token, &refresh] {
        app.revoke_token(&strange.itself(), None, token, None).await.unwrap();
    }
    assert_eq!(head().await, before);
    for _ in 0..2 {
        app.revoke_token(&theirs.itself(), None, &tokens.access_token, None).await.unwrap();
        caught_up(&world).await;
        assert_eq!(head().await, before + 1);
    }
    assert!(app.bearer(Some(tokens.access_token.expose()), &portcullis_verify::Holder::Bearer).await.is_err());
    let next = theirs.refresh(app, &refresh).await.unwrap();
    assert!(app.bearer(Some(next.access_token.expose()), &portcullis_verify::Holder::Bearer).await.is_ok());
    for _ in 0..2 {
        app.revoke_token(&theirs.itself(), None, next.refresh_token.as_ref().unwrap(), None).await.unwrap();
        assert_eq!(head().await, before + 2);
    }
    assert_dead(&world, &theirs, &next, "given up").await;
    assert!(world.caller(&mine).await.is_ok());
}

/// A refresh token of one application in the hands of another: refused, and nothing ends.
#[tokio::test]
async fn a_refresh_by_another_application_is_refused_and_ends_nothing() {
    let (world, mine, theirs) = scene().await;
    let (app, caller) = (&world.app, world.caller(&mine).await.unwrap());
    let strange = Application::register(app, "a strange app").await;
    for scope in ["openid", "openid offline_access"] {
        let tokens = theirs.granted(app, &caller, scope).await.unwrap();
        let refresh = tokens.refresh_token.unwrap();
        let head = app.store().stamp().await.unwrap().head;
        assert!(strange.refresh(app, &refresh).await.is_err());
        assert!(world.refresh(&refresh).await.is_err(), "nor by the endpoint of sessions");
        assert_eq!(app.store().stamp().await.unwrap().head, head);
        assert!(theirs.refresh(app, &refresh).await.is_ok());
    }
}

#[tokio::test]
async fn a_withdrawal_is_repeated_under_its_key_and_not_found_without() {
    let (world, mine, theirs) = scene().await;
    let (app, caller) = (&world.app, world.caller(&mine).await.unwrap());
    theirs.granted(app, &caller, "openid").await.unwrap();
    let key = RepeatKey { key: "w".into(), request: Digest::of(b"DELETE /v1/me/apps/x") };
    let first = app.disconnect_app(&caller, theirs.client.id, Some(&key)).await.unwrap();
    let again = app.disconnect_app(&caller, theirs.client.id, Some(&key)).await.unwrap();
    assert_eq!(again, first);
    let without = app.disconnect_app(&caller, theirs.client.id, None).await.unwrap_err();
    assert_eq!(without.code(), Code::NotFound);
    assert!(theirs.granted(app, &caller, "openid").await.is_ok(), "and may be allowed again");
}

/// An application that gets and gives up in a loop fills no verifier's memory.
#[tokio::test]
async fn a_loop_of_grants_and_revocations_fills_no_log() {
    let (world, mine, theirs) = scene().await;
    let (app, caller) = (&world.app, world.caller(&mine).await.unwrap());
    let most = portcullis_domain::kernel::MAX_ENDS_PER_ACCOUNT as usize;
    for n in 0..most {
        let tokens = theirs.granted(app, &caller, "openid").await.unwrap();
        let token = if n % 2 == 0 { tokens.refresh_token.as_ref().unwrap() } else { &tokens.access_token };
        app.revoke_token(&theirs.itself(), None, token, None).await.unwrap();
    }
    for _ in 0..8 {
        let tokens = theirs.granted(app, &caller, "openid").await.unwrap();
        app.revoke_token(&theirs.itself(), None, &tokens.access_token, None).await.unwrap();
        caught_up(&world).await;
        assert!(
            app.bearer(Some(tokens.access_token.expose()), &portcullis_verify::Holder::Bearer).await.is_err(),
            "dead all the same"
        );
    }
    let entries = app.store().read_live().await.unwrap().1;
    let ends = entries.iter().filter(|entry| entry.verb == portcullis_wire::Verb::End).count();
    assert!(ends <= most, "{ends}");
    // What lived goes on after a refresh.
    let next = world.refresh(&mine.refresh_token).await.unwrap();
    assert!(world.caller(&next).await.is_ok());
}

/// A request that was looked at before its consent was withdrawn does not bring it back.
#[tokio::test]
async fn a_withdrawal_is_not_undone_by_a_request_on_its_way() {
    let (world, mine, theirs) = scene().await;
    let caller = world.caller(&mine).await.unwrap();
    theirs.granted(&world.app, &caller, "openid read").await.unwrap();
    let asked = crate::application::asked("openid read");
    let again = || world.app.grant_code(&caller, theirs.client.id, &asked, false, None);
    again().await.unwrap();
    world.app.disconnect_app(&caller, theirs.client.id, None).await.unwrap();
    assert!(again().await.is_err(), "nobody was asked");
    assert!(world.app.my_apps(&caller).await.unwrap().is_empty());
    // Nor does one that was checked against what the client had registered before.
    let renamed = portcullis_app::oauth::ClientPatch {
        name: Some("Renamed".into()),
        ..portcullis_app::oauth::ClientPatch::default()
    };
    world.app.admin_change_client(&world.admin, theirs.client.id, renamed).await.unwrap();
    assert!(world.app.grant_code(&caller, theirs.client.id, &asked, true, None).await.is_err());
}
