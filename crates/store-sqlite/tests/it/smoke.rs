//! The main job by the rules themselves, on a file: sign up, sign in, refresh, end, and still so after opening it again.
use crate::support::{Directory, START, open};
use portcullis_domain::account::{self, Email, NewAccount};
use portcullis_domain::family::{MacKey, Presented};
use portcullis_domain::kernel::{self, By, Door, Scope};
use portcullis_domain::model::SessionKind;
use portcullis_domain::refresh::{How, refresh};
use portcullis_domain::sign_in::{SignIn, sign_in};
use portcullis_domain::{Chance, Change, Changes, Rules};
use portcullis_store::{EventFilter, Store};
use portcullis_wire::{ClientId, KeyId, Rev, SecretBytes};

struct Counting(u128);
impl Chance for Counting {
    fn bits(&mut self) -> u128 {
        self.0 += 1;
        self.0
    }
}

#[tokio::test]
async fn sign_up_sign_in_refresh_end_and_open_again() {
    let rules = Rules {
        issuer: "https://id.example".into(),
        audience: "https://id.example".into(),
        access_ttl: 300_000,
        longest_ttl: 300_000,
        idle_ttl: 86_400_000,
        absolute_ttl: 30 * 86_400_000,
        retry_window: 10_000,
        late_retry: 86_400_000,
        late_retry_at_home: 14 * 86_400_000,
        require_verified_email: false,
    };
    let (directory, mut chance) = (Directory::new(), Counting(100));
    let key = MacKey::new(KeyId(1), &SecretBytes::new([1; 32]));
    let store = open(&directory.file()).unwrap();
    let horizon = Changes { steps: vec![Change::RaiseHorizon(START.plus(400_000))], ..Changes::default() };
    store.commit(horizon).await.unwrap();

    let email = Email::parse("ada@example.org").unwrap();
    let new = NewAccount {
        email,
        password_hash: Some("h".into()),
        name: Some("n".into()),
        roles: vec!["admin".into()],
        verified: false,
    };
    let made = account::create(&store.stamp().await.unwrap(), new, &By::SYSTEM, &mut chance);
    store.commit(made.changes).await.unwrap();
    let ada = made.outcome.unwrap();

    let view = store.load_sign_in("ada@example.org", ClientId::FIRST_PARTY).await.unwrap();
    assert_eq!(view.account.as_ref(), Some(&ada));
    let how = SignIn { kind: SessionKind::App, device_name: None, user_agent: None, ip: None, cookie: None };
    let signed_in = sign_in(&view, true, &how, &rules, &key, &mut chance);
    store.commit(signed_in.changes).await.unwrap();
    let issued = signed_in.outcome.unwrap();

    let grant = issued.current.0;
    let view = store.load_refresh(grant).await.unwrap().unwrap();
    assert_eq!(view.session, issued.session);
    let presented = Presented::parse(&issued.refresh).unwrap();
    let how = How {
        cookie: false,
        user_agent: None,
        ip: None,
        client: ClientId::FIRST_PARTY,
        proven: false,
        sender: None,
        at_home: false,
    };
    let refreshed = refresh(&view, &presented, &how, &rules, &key, &key, &mut chance);
    store.commit(refreshed.changes).await.unwrap();
    assert_eq!(refreshed.outcome.unwrap().current, (grant, 2));

    let changes = kernel::end(Door::EndAll, Scope::Account(ada.id), None, &By::SYSTEM, &mut chance);
    let done = store.commit(changes).await.unwrap();
    assert_eq!((done.rev, done.ended), (Some(Rev(1)), Some(1)));

    drop(store);
    let store = open(&directory.file()).unwrap();
    let stamp = store.stamp().await.unwrap();
    assert_eq!((stamp.head, stamp.horizon), (Rev(1), START.plus(400_000)));
    assert_eq!(store.load_refresh(grant).await.unwrap().unwrap().grant.family.counter, 2);
    assert!(store.list_sessions(ada.id, 10).await.unwrap().is_empty());
    assert_eq!(store.read_live().await.unwrap().1.len(), 1);
    let events = store.list_events(&EventFilter { revocations: true, ..Default::default() }, None, 10).await.unwrap();
    assert_eq!((events.rows.len(), events.rows[0].ended), (1, Some(1)));
}
