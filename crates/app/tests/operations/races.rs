//! Many at once: one successor, whatever the order.
use crate::world::World;
use portcullis_wire::Code;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_refreshes_of_one_token_get_one_successor() {
    let world = World::start().await;
    let start = world.sign_in(&world.ada, false).await.unwrap();
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let (app, token) = (world.app.clone(), start.refresh_token.clone());
            tokio::spawn(async move { app.refresh(&token, crate::world::bearer()).await })
        })
        .collect();
    let mut successors = BTreeSet::new();
    let mut access = BTreeSet::new();
    for task in tasks {
        let tokens = task.await.unwrap().unwrap();
        successors.insert(tokens.refresh_token.expose().to_owned());
        access.insert(tokens.access_token.expose().to_owned());
    }
    assert_eq!(successors.len(), 1, "one successor, byte for byte");
    assert_eq!(access.len(), 64, "access tokens are each their own");
    assert!(!successors.contains(start.refresh_token.expose()));
}

#[tokio::test]
async fn a_replay_after_the_successor_was_used_ends_that_session_only() {
    let world = World::start().await;
    let (mine, other) =
        (world.sign_in(&world.ada, false).await.unwrap(), world.sign_in(&world.ada, false).await.unwrap());
    let second = world.refresh(&mine.refresh_token).await.unwrap();
    let third = world.refresh(&second.refresh_token).await.unwrap();
    // The last predecessor is a lost response; the one before it is a copy.
    assert!(world.refresh(&second.refresh_token).await.is_ok());
    assert_eq!(world.refresh(&mine.refresh_token).await.unwrap_err().code(), Code::RefreshReused);
    assert_eq!(world.refresh(&third.refresh_token).await.unwrap_err().code(), Code::SessionEnded);
    assert!(world.refresh(&other.refresh_token).await.is_ok());
    assert_eq!(world.app.my_sessions(&world.caller(&other).await.unwrap()).await.unwrap().len(), 1);
}

/// A refresh that was held up says 503, not a token that may be late; repeated, it gets the successor that was made.
#[tokio::test]
async fn a_refresh_that_was_held_up_is_repeated() {
    let mut settings = crate::world::settings();
    settings.rules.retry_window = 0; // what is late is then counted from one second
    let world = World::with(settings).await;
    let start = world.sign_in(&world.ada, false).await.unwrap();
    world.held.hold.store(true, Ordering::SeqCst);
    let (app, token) = (world.app.clone(), start.refresh_token.clone());
    let late = tokio::spawn(async move { app.refresh(&token, crate::world::bearer()).await });
    world.held.reached.notified().await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    world.held.release.notify_one();
    assert_eq!(late.await.unwrap().unwrap_err().code(), Code::Overloaded);
    let again = world.refresh(&start.refresh_token).await.unwrap();
    assert_eq!(again.session.id, start.session.id);
    assert!(world.refresh(&again.refresh_token).await.is_ok());
}

/// A row that was kept may be behind of uses: before a token is called dead for want of use, the database is asked.
#[tokio::test]
async fn nobody_idles_too_long_by_what_was_looked_at_before() {
    let world = World::start().await;
    let tokens = world.sign_in(&world.ada, false).await.unwrap();
    let lives = async || world.app.introspect(tokens.access_token.expose()).await.unwrap().is_some();
    assert!(lives().await);
    world.held.old_looks.store(true, Ordering::SeqCst);
    assert!(lives().await, "it was used, as the database knows");
    world.app.admin_end_account(&world.admin, world.ada.id, None).await.unwrap();
    assert!(!lives().await);
}
