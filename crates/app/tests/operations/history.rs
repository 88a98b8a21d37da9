//! Positions of long ago: a fork is told by them, and what that costs has a limit.
use crate::feed::opening;
use crate::world::memory;
use portcullis_app::hub::{Hub, HubSettings};
use portcullis_app::keys::{KeyRing, MasterKey, Material};
use portcullis_domain::changes::{Change, Changes, Revoke};
use portcullis_domain::keys::Make;
use portcullis_domain::model::{Client, ClientKind, Key, KeyPurpose};
use portcullis_store::faulty::Faulty;
use portcullis_store::memory::MemoryStore;
use portcullis_store::{Store, conformance};
use portcullis_verify::Expect;
use portcullis_wire::{ClientId, KeyId, LogId, Target, Time, TokenId, Verb};
use std::sync::Arc;
use std::time::Duration;

/// More than streams resume from memory, and more than is read to judge a position.
const BEYOND_MEMORY: u64 = 12_000;
const BEYOND_READING: u64 = 50_000;

struct Node {
    store: Arc<Faulty<MemoryStore>>,
    hub: Hub,
    following: tokio::task::JoinHandle<()>,
    written: u64,
}

fn client() -> Client {
    Client { name: "orders".into(), kind: ClientKind::Verifier, ..conformance::client(ClientId::from_bits(5)) }
}

impl Node {
    async fn start(rows: &[Key], master: &MasterKey, first: u64) -> Self {
        let store = Arc::new(Faulty::new(memory()));
        let steps = vec![Change::RaiseHorizon(store.now().plus(3_600_000))];
        store.commit(Changes { steps, ..Changes::default() }).await.unwrap();
        let keys = KeyRing::open(rows, master, LogId::from_bits(7), Time(1)).unwrap();
        let expect = Expect { issuer: "i".into(), audience: "a".into() };
        let (bound_ms, stream_grace_ms, max_life_s, max_instances) = (60_000, 0, 60, 9);
        let settings = HubSettings { expect, bound_ms, stream_grace_ms, max_life_s, max_instances };
        let hub = Hub::start(store.clone(), &keys, settings).await.unwrap();
        let following = tokio::spawn(hub.clone().follow());
        Self { store, hub, following, written: first }
    }

    /// Writes so many entries, and waits until they are read.
    async fn writes(&mut self, entries: u64) {
        for _ in 0..entries.div_ceil(1_000) {
            let many = entries.min(1_000);
            let steps = (0..many).map(|n| {
                let target = Target::Token(TokenId::from_bits(u128::from(self.written + n)));
                let (verb, reason) = (Verb::End, "test".into());
                Change::Revoke(Revoke { verb, target, except: None, spread_ms: None, owner: None, reason })
            });
            let steps = steps.collect();
            self.written += many;
            self.store.commit(Changes { steps, ..Changes::default() }).await.unwrap();
        }
        let head = self.store.stamp().await.unwrap().head;
        self.hub.wake();
        while self.hub.head() < head {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The name of where it is now.
    async fn position(&self) -> String {
        let mut stream = self.hub.open(&client(), opening(None)).await.unwrap();
        loop {
            let text = String::from_utf8(stream.next().await.unwrap().to_vec()).unwrap();
            if let Some(id) = text.lines().find_map(|line| line.strip_prefix("id: ")) {
                return id.to_owned();
            }
        }
    }

    /// What the server says of a position, and how often it asks its store for that.
    async fn vouches(&self, position: &str) -> (Option<bool>, u64) {
        let before = self.store.operations();
        let said = self.hub.vouches(client().id, position).await.ok();
        (said, self.store.operations() - before)
    }
}

#[tokio::test]
async fn an_old_position_costs_no_more_than_may_be_read() {
    let (master, log) = (MasterKey::generate(), LogId::from_bits(7));
    let rows = [KeyPurpose::Es256, KeyPurpose::Mac].map(|purpose| {
        let make = Make { id: KeyId(1 + purpose as u32), purpose, active_from: Some(Time(0)) };
        master.new_key(make, &Material::generate(purpose).unwrap(), log, Time(0)).unwrap()
    });
    let (mut node, mut other) = (Node::start(&rows, &master, 1).await, Node::start(&rows, &master, 1_000_000).await);
    node.writes(1).await;
    other.writes(1).await;
    let older = node.position().await;
    node.writes(1).await;
    let old = node.position().await;
    node.writes(BEYOND_MEMORY).await;
    other.writes(BEYOND_MEMORY).await;
    // Nobody else reads from here on.
    node.following.abort();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(node.vouches(&old).await, (Some(true), 2), "two reads of 10,000 at most");
    assert_eq!(node.vouches(&old).await, (Some(true), 0), "and they are remembered");
    // The same signed position at a server whose history is another one.
    let rows = other.store.list_instances().await.unwrap().len();
    let shows = portcullis_app::hub::subscription::Opening { last_event_id: Some(old.clone()), ..opening(None) };
    assert!(other.hub.open(&client(), shows).await.is_err());
    assert_eq!(other.store.list_instances().await.unwrap().len(), rows, "nothing is written for who shows it");
    assert_eq!(other.vouches(&old).await.0, None);
    assert!(other.hub.rolled_back().is_some(), "a fork is told by a position of long ago, too");

    node.following = tokio::spawn(node.hub.clone().follow());
    node.writes(BEYOND_READING).await;
    node.following.abort();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(node.vouches(&older).await, (Some(true), 0), "of what is older nobody can tell");
    let opening = portcullis_app::hub::subscription::Opening { last_event_id: Some(older), ..opening(None) };
    let mut stream = node.hub.open(&client(), opening).await.unwrap();
    stream.next().await.unwrap();
    let second = String::from_utf8(stream.next().await.unwrap().to_vec()).unwrap();
    assert!(second.contains("event: snapshot"), "{}", &second[..80]);
}
