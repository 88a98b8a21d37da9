//! A fault at the n-th operation, for every n, before and after the write: nothing false is ever said, and repeating works.
use crate::world::{bearer, memory, settings, sign_in};
use portcullis_app::keys::MasterKey;
use portcullis_app::{Admin, App};
use portcullis_store::faulty::{Faulty, Mode};
use portcullis_wire::{Code, SecretString};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Errors that a fault may show as. Never a refusal: that would sign somebody out for a broken disk.
fn is_fault(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Overloaded)
}

#[tokio::test]
async fn at_every_operation_of_a_refresh_and_a_sign_out() {
    for mode in [Mode::Before, Mode::After] {
        let mut failed_somewhere = 0;
        for n in 1..=12u64 {
            let store = Arc::new(Faulty::new(memory()));
            let mut tasks = JoinSet::new();
            let app = App::start(store.clone(), settings(), MasterKey::generate(), &mut tasks).await.unwrap();
            // The feed's reader would use up the count.
            tasks.abort_all();
            let ada = app
                .sign_up("ada@example.org", SecretString::new(crate::world::PASSWORD), None, None)
                .await
                .unwrap()
                .unwrap();
            let start = sign_in(&app, &ada, false).await.unwrap();

            store.fail_at(n, mode);
            let refreshed = app.refresh(&start.refresh_token, bearer()).await;
            if let Err(error) = &refreshed {
                assert!(is_fault(error.code()), "{mode:?} {n}: {error}");
                failed_somewhere += 1;
            }
            let tokens = match refreshed {
                Ok(tokens) => tokens,
                // A lost answer, repeated with the same token.
                Err(_) => app.refresh(&start.refresh_token, bearer()).await.unwrap(),
            };
            let caller = match app.caller(Some(tokens.access_token.expose()), None).await {
                Ok(caller) => caller,
                Err(error) => {
                    assert!(is_fault(error.code()), "{mode:?} {n}: {error}");
                    failed_somewhere += 1;
                    app.caller(Some(tokens.access_token.expose()), None).await.unwrap()
                }
            };
            let ended = match app.end_mine(&caller, tokens.session.id, None).await {
                Ok(revoked) => revoked,
                Err(error) => {
                    assert!(is_fault(error.code()), "{mode:?} {n}: {error}");
                    failed_somewhere += 1;
                    app.end_mine(&caller, tokens.session.id, None).await.unwrap()
                }
            };
            store.never_fail();
            // Success was said: it is in the database, with its audit record.
            let row = app.admin_revocation(&Admin::operator(), ended.rev).await.unwrap();
            assert_eq!(row.event.session, Some(tokens.session.id));
            let error = app.refresh(&tokens.refresh_token, bearer()).await.unwrap_err();
            assert_eq!(error.code(), Code::SessionEnded);
        }
        assert!(failed_somewhere >= 4, "{mode:?}: the faults must have happened");
    }
}
