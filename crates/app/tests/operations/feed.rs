//! What verifiers get, and what is said of them: at moments that only a held store shows.
use crate::world::{World, memory};
use portcullis_app::App;
use portcullis_app::hub::subscription::{Opening, Subscription};
use portcullis_app::hub::{Hub, HubSettings};
use portcullis_app::keys::{KeyRing, MasterKey, Material};
use portcullis_domain::keys::Make;
use portcullis_domain::model::{Client, ClientKind, KeyPurpose};
use portcullis_store::{Store, conformance};
use portcullis_verify::Expect;
use portcullis_wire::frame::AckRequest;
use portcullis_wire::{ClientId, Code, Epoch, InstanceId, KeyId, LogId, Rev, SecretString, Time};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A verifier with an open stream.
pub struct Verifier {
    pub client: Client,
    /// What it says to have applied.
    pub applied: Rev,
    pub instance: InstanceId,
    secret: SecretString,
    bound_ms: u64,
    stream: Subscription,
}

pub fn opening(instance: Option<(InstanceId, SecretString)>) -> Opening {
    Opening { name: "v".into(), policies: "closed".parse().unwrap(), bound_ms: None, instance, last_event_id: None }
}

impl Verifier {
    async fn of(world: &World) -> Self {
        let made = world.admin.clone();
        let made = world.app.admin_create_client(&made, "orders", ClientKind::Verifier).await.unwrap();
        Self::of_client(&world.app, made.client).await
    }

    pub async fn of_client(app: &App, client: Client) -> Self {
        Self::open(app, client, None).await
    }

    async fn open(app: &App, client: Client, instance: Option<(InstanceId, SecretString)>) -> Self {
        let mut stream = app.hub().open(&client, opening(instance)).await.unwrap();
        let hello = String::from_utf8(stream.next().await.unwrap().to_vec()).unwrap();
        let data = hello.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let hello: serde_json::Value = serde_json::from_str(data).unwrap();
        let text = |name: &str| hello[name].as_str().unwrap();
        let (instance, secret) = (text("instance").parse().unwrap(), SecretString::new(text("instance_secret")));
        let applied = Rev::ZERO;
        Self { client, applied, instance, secret, bound_ms: hello["bound_ms"].as_u64().unwrap(), stream }
    }

    /// The same instance, with a new stream at a node.
    pub async fn goes_on(&self, app: &App) -> Self {
        Self::open(app, self.client.clone(), Some((self.instance, self.secret.clone()))).await
    }

    /// The next event of its stream, as text.
    pub async fn next_event(&mut self) -> String {
        String::from_utf8(self.stream.next().await.unwrap().to_vec()).unwrap()
    }

    pub fn question(&self) -> AckRequest {
        AckRequest {
            enforced: None,
            instance: self.instance,
            instance_secret: self.secret.clone(),
            epoch: Epoch(1),
            applied: self.applied,
            position: String::new(),
            nonce: "n".into(),
            keys: None,
        }
    }

    /// Whether the server says goodbye before `limit`.
    pub async fn leaves(&mut self, limit: Duration) -> bool {
        let wait = async { while self.stream.next().await.is_some() {} };
        tokio::time::timeout(limit, wait).await.is_ok()
    }
}

#[tokio::test]
async fn a_lease_that_is_under_way_at_the_commit_is_waited_for() {
    let world = World::start().await;
    let verifier = Verifier::of(&world).await;
    // The question has come and the log was read for it; before the answer is made, something is revoked.
    world.held.hold_read.store(true, Ordering::SeqCst);
    let (app, client, question) = (world.app.clone(), verifier.client.id, verifier.question());
    let asked = tokio::spawn(async move { app.hub().acknowledge(client, &question).await });
    world.held.reached.notified().await;
    let revoked = world.app.admin_end_everyone(&world.admin, None, "test", None).await.unwrap();
    let said = world.app.hub().enforcement(&revoked);
    // The next read, which would bring the entry, takes its time.
    world.held.hold_read.store(true, Ordering::SeqCst);
    world.held.release.notify_one();
    let answer = asked.await.unwrap().unwrap();
    world.held.release.notify_one();
    // The verifier may now be fresh by a head without the entry, so that it was not enforced yet.
    assert!(answer.head >= revoked.rev || !said.counts.complete, "{said:?}, and then a lease by {answer:?}");
}

#[tokio::test]
async fn what_is_acknowledged_counts_before_its_lease_is_read() {
    let world = World::start().await;
    let mut verifier = Verifier::of(&world).await;
    let (app, client) = (world.app.clone(), verifier.client.id);
    app.hub().acknowledge(client, &verifier.question()).await.unwrap();
    let revoked = app.admin_end_everyone(&world.admin, None, "test", None).await.unwrap();
    while app.hub().head() < revoked.rev {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(!app.hub().enforcement(&revoked).counts.complete);
    verifier.applied = revoked.rev;
    // The read that the lease waits for takes its time.
    world.held.hold_read.store(true, Ordering::SeqCst);
    let question = verifier.question();
    let asked = tokio::spawn(async move { app.hub().acknowledge(client, &question).await });
    world.held.reached.notified().await;
    let heard = async {
        while !world.app.hub().enforcement(&revoked).counts.complete {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let heard = tokio::time::timeout(Duration::from_secs(1), heard).await;
    assert!(heard.is_ok() && !asked.is_finished(), "who waits waits for the lease, too");
    world.held.release.notify_one();
    assert!(asked.await.unwrap().unwrap().head >= revoked.rev);
}

#[tokio::test]
async fn a_lower_bound_is_told_to_who_follows_already() {
    let world = World::start().await;
    let mut verifier = Verifier::of(&world).await;
    assert_eq!(verifier.bound_ms, 5000);
    world.app.hub().acknowledge(verifier.client.id, &verifier.question()).await.unwrap();
    world.app.hub().set_bound(1000);
    // Leases of 5 s are counted for 5 s more and no longer: so none may be given any more.
    let refused = world.app.hub().acknowledge(verifier.client.id, &verifier.question()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InstanceGone);
    assert!(verifier.leaves(Duration::from_secs(2)).await, "the stream goes on under the old bound");
    let known = (verifier.instance, verifier.secret.clone());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let verifier = Verifier::open(&world.app, verifier.client.clone(), Some(known.clone())).await;
    assert_eq!((verifier.instance, verifier.bound_ms), (known.0, 1000));
    world.app.hub().acknowledge(verifier.client.id, &verifier.question()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(world.app.hub().why_not_ready(), None, "the log is read often enough for the lower bound");
}

#[tokio::test]
async fn a_client_is_switched_off_even_when_the_administrator_has_hung_up() {
    let world = World::start().await;
    let mut verifier = Verifier::of(&world).await;
    world.held.hold.store(true, Ordering::SeqCst);
    let (app, admin, id) = (world.app.clone(), world.admin.clone(), verifier.client.id);
    let call = tokio::spawn(async move { app.admin_set_client_disabled(&admin, id, true).await });
    world.held.reached.notified().await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    world.held.release.notify_one();
    assert!(verifier.leaves(Duration::from_secs(2)).await, "what was committed is not carried out");
}

#[tokio::test]
async fn a_client_that_is_remembered_is_refused_from_when_it_is_switched_off() {
    let world = World::start().await;
    let made = world.app.admin_create_client(&world.admin, "orders", ClientKind::Verifier).await.unwrap();
    let (id, text, secret) = (made.client.id, made.client.id.to_string(), made.secret.unwrap());
    let again = |secret: SecretString| {
        let (app, text) = (world.app.clone(), text.clone());
        async move { app.authenticate_again(&text, &secret).await.unwrap().is_some() }
    };
    for _ in 0..3 {
        assert!(again(secret.clone()).await);
        assert!(!again(SecretString::new("pcc_another")).await, "the right one was remembered");
        world.app.admin_set_client_disabled(&world.admin, id, true).await.unwrap();
        assert!(!again(secret.clone()).await && !again(secret.clone()).await);
        world.app.admin_set_client_disabled(&world.admin, id, false).await.unwrap();
    }
}

#[tokio::test]
async fn instances_have_a_limit_that_no_row_passes_and_no_start_fails_at() {
    let (store, master, log) = (Arc::new(memory()), MasterKey::generate(), LogId::from_bits(7));
    let rows = [KeyPurpose::Es256, KeyPurpose::Mac].map(|purpose| {
        let make = Make { id: KeyId(1 + purpose as u32), purpose, active_from: Some(Time(0)) };
        master.new_key(make, &Material::generate(purpose).unwrap(), log, Time(0)).unwrap()
    });
    let keys = KeyRing::open(&rows, &master, log, Time(1)).unwrap();
    let start = |max_instances| {
        let expect = Expect { issuer: "i".into(), audience: "a".into() };
        let settings = HubSettings { expect, bound_ms: 400, stream_grace_ms: 0, max_life_s: 1, max_instances };
        Hub::start(store.clone(), &keys, settings)
    };
    let hub = start(2).await.unwrap();
    let following = tokio::spawn(hub.clone().follow());
    let client = Client { kind: ClientKind::Verifier, ..conformance::client(ClientId::FIRST_PARTY) };
    let (first, second) = (hub.open(&client, opening(None)).await, hub.open(&client, opening(None)).await);
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(hub.open(&client, opening(None)).await.unwrap_err().code(), Code::Overloaded);
    assert_eq!(store.list_instances().await.unwrap().len(), 2, "what is refused leaves a row behind");
    // Who is gone, and can hold no lease any more, makes room.
    drop(second);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let third = hub.open(&client, opening(None)).await;
    assert!(third.is_ok());
    assert_eq!(store.list_instances().await.unwrap().len(), 2);
    // Of many places a client leaves some to the others.
    let many = start(8).await.unwrap();
    let following_many = tokio::spawn(many.clone().follow());
    let mut streams = Vec::new();
    for _ in 2..7 {
        streams.push(many.open(&client, opening(None)).await.unwrap());
    }
    assert_eq!(many.open(&client, opening(None)).await.unwrap_err().code(), Code::Overloaded);
    let other = Client { id: ClientId::from_bits(5), ..client.clone() };
    assert!(many.open(&other, opening(None)).await.is_ok());
    drop(streams);
    following_many.abort();
    // With a lower limit, or rows from elsewhere, all that are there count all the same.
    let again = start(1).await.unwrap();
    assert_eq!(again.instances().1.len(), 8);
    following.abort();
}

#[tokio::test]
async fn on_a_new_database_the_floor_starts_by_the_clock() {
    let world = World::start().await;
    let behind = async || {
        let stamp = world.app.store().stamp().await.unwrap();
        stamp.now.since(stamp.floor)
    };
    assert!(behind().await > 60_000, "nothing was raised yet");
    for _ in 0..50 {
        if behind().await < 60_000 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("F is {} ms behind: nothing would ever be forgotten", behind().await);
}
