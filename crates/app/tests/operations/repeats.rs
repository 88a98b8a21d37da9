//! Repeat keys: one act, told again to who asks for it again, and to nobody else.
use crate::world::{PASSWORD, World};
use portcullis_app::RepeatKey;
use portcullis_wire::{Code, Digest, SecretString};
use std::sync::atomic::Ordering;

fn key(key: &str, call: &str) -> RepeatKey {
    RepeatKey { key: key.into(), request: Digest::of(call.as_bytes()) }
}

#[tokio::test]
async fn what_current_names_is_part_of_the_call() {
    let world = World::start().await;
    let (one, other) =
        (world.sign_in(&world.ada, false).await.unwrap(), world.sign_in(&world.ada, false).await.unwrap());
    let (one, other) = (world.caller(&one).await.unwrap(), world.caller(&other).await.unwrap());
    // Two devices of one account, and a program that gives every call of a kind the same key.
    let sign_out = key("sign-out", "DELETE /v1/me/sessions/current");
    let first = world.app.end_mine(&one, one.view.session.id, Some(&sign_out)).await.unwrap();
    let again = world.app.end_mine(&one, one.view.session.id, Some(&sign_out)).await.unwrap();
    assert_eq!(again, first);
    let second = world.app.end_mine(&other, other.view.session.id, Some(&sign_out)).await;
    assert_eq!(second.unwrap_err().code(), Code::InvalidValue, "told to be signed out, and is not");

    let others = key("others", "DELETE /v1/me/sessions?except=current");
    let first = world.app.end_all_mine(&other, true, Some(&others)).await.unwrap();
    assert_eq!(world.app.end_all_mine(&other, true, Some(&others)).await.unwrap(), first);
    let third = world.sign_in(&world.ada, false).await.unwrap();
    let third = world.caller(&third).await.unwrap();
    let wrong = world.app.end_all_mine(&third, true, Some(&others)).await;
    assert_eq!(wrong.unwrap_err().code(), Code::InvalidValue, "told that the others are ended, and they are not");
}

#[tokio::test]
async fn what_is_remembered_of_a_call_gives_no_password_away() {
    let world = World::start().await;
    let call = key("new", &format!("POST /v1/admin/accounts\n{{\"password\":\"{PASSWORD}\"}}"));
    let make = || {
        let (app, admin) = (&world.app, &world.admin);
        app.admin_create_account(
            admin,
            "c@example.org",
            Some(SecretString::new(PASSWORD)),
            None,
            vec![],
            false,
            Some(&call),
        )
    };
    let made = make().await.unwrap();
    assert_eq!(make().await.unwrap().id, made.id);
    let kept = world.app.store().load_remembered("operator", "new").await.unwrap().unwrap();
    assert_ne!(kept.request, call.request, "a quick digest of the body stands in the database beside the slow hash");
}

#[tokio::test]
async fn a_call_that_is_repeated_while_the_first_is_under_way_gets_its_result() {
    let world = World::start().await;
    let call = key("new", "POST /v1/admin/accounts");
    world.held.hold.store(true, Ordering::SeqCst);
    let make = || {
        let (app, admin, call) = (world.app.clone(), world.admin.clone(), call.clone());
        async move { app.admin_create_account(&admin, "c@example.org", None, None, vec![], false, Some(&call)).await }
    };
    let slow = tokio::spawn(make());
    world.held.reached.notified().await;
    let quick = make().await.unwrap();
    world.held.release.notify_one();
    assert_eq!(slow.await.unwrap().unwrap().id, quick.id, "told that its own account is in the way");
}
