//! Two nodes on one database: what is ended at one is enforced at the verifiers of both, and is said to be so when it is.
use crate::application::Application;
use crate::feed::Verifier;
use crate::world::{Held, PASSWORD, bearer, memory, settings, sign_in};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use portcullis_app::high_water::{Proof, proof_path};
use portcullis_app::keys::MasterKey;
use portcullis_app::{Admin, App, AppError, real};
use portcullis_domain::Refused;
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::model::{Account, ClientKind};
use portcullis_store::memory::MemoryStore;
use portcullis_store::{NodeRow, Store};
use portcullis_wire::dpop::Call;
use portcullis_wire::{Code, Digest, NodeId, Rev, SecretString, b64};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;

struct Cluster {
    store: Arc<MemoryStore>,
    nodes: Vec<(App, JoinSet<()>)>,
    master: MasterKey,
    ada: Account,
    admin: Admin,
}

impl Cluster {
    async fn of(n: usize) -> Self {
        let (store, master) = (Arc::new(memory().shared()), MasterKey::generate());
        let mut nodes = Vec::new();
        for _ in 0..n {
            nodes.push(Self::node(&store, &master).await);
        }
        let ada =
            nodes[0].0.sign_up("ada@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
        Self { store, nodes, master, ada, admin: Admin::operator() }
    }

    async fn node(store: &Arc<MemoryStore>, master: &MasterKey) -> (App, JoinSet<()>) {
        let mut tasks = JoinSet::new();
        let app = App::start(store.clone(), settings(), master.clone(), &mut tasks).await.unwrap();
        (app, tasks)
    }

    fn app(&self, n: usize) -> &App {
        &self.nodes[n].0
    }

    /// A verifier that follows the n-th node.
    async fn verifier(&self, n: usize) -> Verifier {
        let made = self.app(0).admin_create_client(&self.admin, "orders", ClientKind::Verifier).await.unwrap();
        Verifier::of_client(self.app(n), made.client).await
    }

    async fn lease(&self, n: usize, verifier: &Verifier) -> Result<Rev, Code> {
        let answer = self.app(n).hub().acknowledge(verifier.client.id, &verifier.question()).await;
        answer.map(|answer| answer.head).map_err(|error| error.code())
    }
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn an_acknowledgement_at_one_node_counts_at_the_other() {
    let cluster = Cluster::of(2).await;
    let (mut one, mut two) = (cluster.verifier(0).await, cluster.verifier(1).await);
    cluster.lease(0, &one).await.unwrap();
    cluster.lease(1, &two).await.unwrap();
    let tokens = sign_in(cluster.app(1), &cluster.ada, false).await.unwrap();
    let ended = cluster.app(0).admin_end_session(&cluster.admin, tokens.session.id, None).await.unwrap();
    // What one node alone would say is not what is true.
    let said = cluster.app(0).hub().enforcement_now(&ended).await;
    assert!(!said.counts.complete && said.counts.pending >= 1, "{said:?}");
    // The other node asks its verifiers by itself, since somebody waits elsewhere.
    let waits = tokio::spawn({
        let app = cluster.app(0).clone();
        async move { app.hub().wait_enforced(&ended, LONG).await }
    });
    for verifier in [&mut one, &mut two] {
        while !verifier.next_event().await.contains("\"ack\":true") {}
        verifier.applied = ended.rev;
    }
    cluster.lease(0, &one).await.unwrap();
    assert!(!waits.is_finished(), "the other node's verifier has not spoken");
    let head = cluster.lease(1, &two).await.unwrap();
    assert_eq!(head, ended.rev);
    let said = waits.await.unwrap();
    assert!(said.counts.complete && said.counts.pending == 0 && said.took_ms < 5_000, "{said:?}");
    assert_eq!(said.counts.acknowledged, 2, "{said:?}");
    // Whoever is asked later says the same, also when the rows have gone cold, and the one that has said so remembers it.
    let asked = [cluster.app(1), cluster.app(0)];
    assert_eq!(asked[0].hub().enforcement_now(&ended).await.counts, said.counts);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    for app in asked {
        let now = app.hub().enforcement_now(&ended).await;
        assert_eq!(now.counts, said.counts, "it was {said:?}");
    }
    assert_eq!(cluster.app(0).hub().enforcement(&ended), said);
    // Of one that nobody has asked about yet, many at once: the newest of them is asked about.
    let next = cluster.app(0).admin_end_everyone(&cluster.admin, None, "test", None).await.unwrap();
    for (n, verifier) in [&mut one, &mut two].into_iter().enumerate() {
        verifier.applied = next.rev;
        while cluster.lease(n, verifier).await != Ok(next.rev) {}
    }
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    cluster.app(1).hub().ask_about(&[ended.rev, next.rev]).await;
    let said = cluster.app(1).hub().enforcement(&next);
    assert!(said.counts.complete && said.counts.acknowledged == 2 && said.counts.lapsed == 0, "{said:?}");
}

#[tokio::test]
async fn one_that_speaks_to_another_node_than_before_is_confirmed_there() {
    let cluster = Cluster::of(2).await;
    let mut wanders = cluster.verifier(0).await;
    cluster.lease(0, &wanders).await.unwrap();
    let tokens = sign_in(cluster.app(0), &cluster.ada, false).await.unwrap();
    let ended = cluster.app(0).admin_end_session(&cluster.admin, tokens.session.id, None).await.unwrap();
    // A balancer sends its acknowledgement to a node that has never met it.
    wanders.applied = ended.rev;
    cluster.lease(1, &wanders).await.unwrap();
    for n in [0, 1] {
        let said = cluster.app(n).hub().wait_enforced(&ended, LONG).await;
        assert!(said.counts.complete && said.took_ms < 5_000, "{n}: {said:?}");
    }
}

#[tokio::test]
async fn one_that_went_to_another_node_can_open_its_stream_there_when_the_first_forgets_it() {
    let cluster = Cluster::of(2).await;
    let wanders = cluster.verifier(0).await;
    cluster.lease(0, &wanders).await.unwrap();
    let at_two = wanders.goes_on(cluster.app(1)).await;
    cluster.lease(1, &at_two).await.unwrap();
    // The first node has not heard of it for long. Its row is the other's, too.
    drop(wanders);
    tokio::time::sleep(Duration::from_millis(5_200)).await;
    assert_eq!(cluster.app(0).hub().prune_instances(0), [at_two.instance]);
    assert!(cluster.app(0).hub().instances_nowhere().await.unwrap().is_empty(), "the other node knows it");
    // And where it was taken away all the same, it is made again: the same instance, with the same secret.
    let steps = vec![Change::RemoveInstances(vec![at_two.instance])];
    cluster.store.commit(Changes { steps, ..Changes::default() }).await.unwrap();
    let again = at_two.goes_on(cluster.app(1)).await;
    assert_eq!(again.instance, at_two.instance);
    cluster.lease(1, &again).await.unwrap();
    let rows: Vec<_> = cluster.store.list_instances().await.unwrap().into_iter().map(|row| row.id).collect();
    assert_eq!(rows, [again.instance]);
    assert_eq!(again.goes_on(cluster.app(0)).await.instance, again.instance);
}

#[tokio::test]
async fn a_row_that_no_node_knows_is_told() {
    let mut cluster = Cluster::of(2).await;
    let verifier = cluster.verifier(1).await;
    let nowhere = async |cluster: &Cluster| cluster.app(0).hub().instances_nowhere().await.unwrap();
    assert!(nowhere(&cluster).await.is_empty());
    let instance = verifier.instance;
    drop(verifier);
    let (_, mut tasks) = cluster.nodes.pop().unwrap();
    tasks.shutdown().await;
    // As long as the dead node has a row, nobody knows whom it knew.
    assert!(nowhere(&cluster).await.is_empty());
    for row in cluster.store.list_nodes().await.unwrap() {
        if Some(row.id) != cluster.app(0).hub().node_id() {
            cluster.store.remove_node(row.id, row.beat).await.unwrap();
        }
    }
    let told = async {
        while !nowhere(&cluster).await.contains(&instance) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(LONG, told).await.expect("no node knows it");
}

#[tokio::test]
async fn fifty_copies_under_one_name_are_fifty_instances() {
    let cluster = Cluster::of(2).await;
    let client = cluster.verifier(0).await.client;
    let mut copies = Vec::new();
    for n in 0..50 {
        let copy = Verifier::of_client(cluster.app(n % 2), client.clone()).await;
        cluster.lease(n % 2, &copy).await.unwrap();
        copies.push(copy);
    }
    let ids: BTreeSet<_> = copies.iter().map(|copy| copy.instance).collect();
    assert_eq!(ids.len(), 50);
    let fleet = cluster.app(1).hub().fleet().await.unwrap();
    let listed: Vec<_> = fleet.instances.iter().filter(|one| ids.contains(&one.listed.instance.id)).collect();
    assert!(listed.iter().all(|one| one.listed.instance.name == "v" && one.listed.leased), "{listed:?}");
    assert_eq!(listed.len(), 50);
    // Each of them must confirm what is ended: with one that has not, it is not enforced.
    let tokens = sign_in(cluster.app(0), &cluster.ada, false).await.unwrap();
    let ended = cluster.app(0).admin_end_session(&cluster.admin, tokens.session.id, None).await.unwrap();
    for (n, copy) in copies.iter_mut().enumerate().skip(1) {
        copy.applied = ended.rev;
        while cluster.lease(n % 2, copy).await.is_err() {}
    }
    // Until the other node has spoken all of its count as pending, too.
    loop {
        let said = cluster.app(0).hub().wait_enforced(&ended, Duration::from_millis(500)).await;
        assert!(!said.counts.complete && said.counts.pending >= 1, "{said:?}");
        if said.counts.pending == 1 {
            break;
        }
    }
    copies[0].applied = ended.rev;
    cluster.lease(0, &copies[0]).await.unwrap();
    let said = cluster.app(1).hub().wait_enforced(&ended, LONG).await;
    assert!(said.counts.complete && said.counts.acknowledged + said.counts.lapsed == 50, "{said:?}");
}

#[tokio::test]
async fn no_lease_rests_on_a_new_timeline_before_it_was_looked_at() {
    let (held, master) = (Held::new(memory().shared()), MasterKey::generate());
    let mut tasks = JoinSet::new();
    let app = App::start(held.clone(), settings(), master, &mut tasks).await.unwrap();
    let made = app.admin_create_client(&Admin::operator(), "orders", ClientKind::Verifier).await.unwrap();
    let verifier = Verifier::of_client(&app, made.client).await;
    let lease = async || app.hub().acknowledge(verifier.client.id, &verifier.question()).await;
    lease().await.unwrap();
    // A standby has taken over, and what it counts of the others cannot be read.
    held.fail_looks.store(true, Ordering::SeqCst);
    held.timeline.store(2, Ordering::SeqCst);
    for _ in 0..5 {
        assert!(lease().await.is_err(), "a lease rests on what was not looked at");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    held.fail_looks.store(false, Ordering::SeqCst);
    let again = async {
        while lease().await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(LONG, again).await.expect("it goes on by itself");
}

#[tokio::test]
async fn what_another_node_writes_while_this_one_starts_is_no_other_history() {
    let (held, master) = (Held::new(memory().shared()), MasterKey::generate());
    let mut tasks = JoinSet::new();
    let app = App::start(held.clone(), settings(), master.clone(), &mut tasks).await.unwrap();
    app.admin_end_everyone(&Admin::operator(), None, "test", None).await.unwrap();
    let folder = std::env::temp_dir().join(format!("portcullis-mark-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("high-water.json");
    app.guard_log(file.clone(), &mut tasks).await.unwrap();
    tasks.shutdown().await;
    assert!(file.exists());
    // And a proof that the database meets, which is found by the same look.
    let at = held.store.stamp().await.unwrap();
    let proof = Proof::by_position("it was lost".into(), (at.epoch, at.head), Some(at.chain), at.now);
    std::fs::write(proof_path(&file), serde_json::to_string(&proof).unwrap()).unwrap();
    held.writes_meanwhile.store(true, Ordering::SeqCst);
    let again = App::start(held.clone(), settings(), master, &mut tasks).await.unwrap();
    again.guard_log(file.clone(), &mut tasks).await.unwrap();
    assert_eq!(again.hub().rolled_back(), None);
    tasks.shutdown().await;
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_node_that_died_counts_until_its_leases_have_ended_and_not_longer() {
    let mut cluster = Cluster::of(2).await;
    let verifier = cluster.verifier(1).await;
    cluster.lease(1, &verifier).await.unwrap();
    let (_, mut tasks) = cluster.nodes.pop().unwrap();
    tasks.shutdown().await; // with a lease that nobody else knows of
    let tokens = sign_in(cluster.app(0), &cluster.ada, false).await.unwrap();
    let ended = cluster.app(0).admin_end_session(&cluster.admin, tokens.session.id, None).await.unwrap();
    let said = cluster.app(0).hub().wait_enforced(&ended, Duration::from_secs(1)).await;
    assert!(!said.counts.complete, "the dead node's verifier may still accept: {said:?}");
    let said = cluster.app(0).hub().wait_enforced(&ended, LONG).await;
    assert!(said.counts.complete && said.took_ms >= 4_000, "{said:?}");
    assert_eq!(
        (said.counts.acknowledged, said.counts.lapsed, said.counts.pending),
        (0, 1, 0),
        "true by time: {said:?}"
    );
    assert_eq!(cluster.app(0).hub().enforcement_now(&ended).await, said);
}

/// A node that is silent takes none of its verifiers off the list: their rows say that they are there.
#[tokio::test]
async fn the_verifiers_of_a_node_that_is_silent_are_shown_by_their_rows() {
    let mut cluster = Cluster::of(2).await;
    let (here, there) = (cluster.verifier(0).await, cluster.verifier(1).await);
    cluster.lease(0, &here).await.unwrap();
    cluster.lease(1, &there).await.unwrap();
    let dead = cluster.app(1).hub().node_id();
    let listed = async |cluster: &Cluster| cluster.app(0).hub().fleet().await.unwrap();
    let whole = listed(&cluster).await;
    assert!(whole.silent.is_empty() && whole.instances.iter().all(|one| one.listed.connected), "{whole:?}");
    assert!(whole.instances.iter().all(|one| one.listed.instance.bound_ms.is_some()), "{whole:?}");
    // It has listed them a moment ago; what it lists counts no longer than it shows that it lives.
    let (_, mut tasks) = cluster.nodes.pop().unwrap();
    tasks.shutdown().await;
    let until = async |so: &dyn Fn(&portcullis_app::hub::nodes::WholeFleet) -> bool| {
        let until = async {
            loop {
                let whole = listed(&cluster).await;
                assert_eq!(whole.instances.len(), 2, "none is ever left out: {whole:?}");
                if so(&whole) {
                    return whole;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(LONG, until).await.unwrap()
    };
    let whole = until(&|whole| !whole.silent.is_empty()).await;
    assert_eq!(whole.silent, dead.into_iter().collect::<Vec<_>>());
    let its = |whole: &portcullis_app::hub::nodes::WholeFleet| {
        let one = whole.instances.iter().find(|one| one.listed.instance.id == there.instance).unwrap();
        (one.listed.connected, one.listed.leased, one.listed.applied, one.node, one.listed.instance.bound_ms)
    };
    let bound_ms = Some(cluster.app(0).hub().bound_ms());
    assert_eq!(its(&whole), (false, true, None, dead, bound_ms), "{whole:?}");
    until(&|_| cluster.app(0).hub().other_nodes().unwrap().silent == 1).await;
    // When no lease of the dead one can live, its row goes, and who hung on it accepts nothing any more.
    let whole = until(&|whole| whole.silent.is_empty()).await;
    assert_eq!(its(&whole), (false, false, None, None, bound_ms), "{whole:?}");
    assert_eq!(cluster.app(0).hub().stats().nodes_lost.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_node_that_was_stopped_in_order_is_waited_for_no_longer_than_its_leases_live() {
    let mut cluster = Cluster::of(2).await;
    let verifier = cluster.verifier(1).await;
    cluster.lease(1, &verifier).await.unwrap();
    let begun = real::mono();
    let passed_ms = || real::mono().since(begun);
    let (leaves, mut tasks) = cluster.nodes.pop().unwrap();
    leaves.finish().await;
    assert!(leaves.hub().acknowledge(verifier.client.id, &verifier.question()).await.is_err(), "no more leases");
    tasks.shutdown().await;
    let tokens = sign_in(cluster.app(0), &cluster.ada, false).await.unwrap();
    let ended = cluster.app(0).admin_end_session(&cluster.admin, tokens.session.id, None).await.unwrap();
    let said = cluster.app(0).hub().wait_enforced(&ended, Duration::from_secs(1)).await;
    assert!(!said.counts.complete, "its verifier may still accept: {said:?}");
    while cluster.store.list_nodes().await.unwrap().len() > 1 {
        assert!(passed_ms() < 10_000, "a dead one's row stays for 12 s and the bound");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(passed_ms() > 4_000, "as long as its leases live");
    let said = cluster.app(0).hub().wait_enforced(&ended, LONG).await;
    assert!(said.counts.complete, "{said:?}");
}

#[tokio::test]
async fn a_node_that_says_nothing_is_not_taken_to_agree() {
    let cluster = Cluster::of(1).await;
    let verifier = cluster.verifier(0).await;
    cluster.lease(0, &verifier).await.unwrap();
    // Another node, which says nothing that can be read, and stands still.
    let mute = NodeRow { id: NodeId::from_bits(1), beat: 1, body: "in another language".into() };
    cluster.store.put_node(mute).await.unwrap();
    let tokens = sign_in(cluster.app(0), &cluster.ada, false).await.unwrap();
    let ended = cluster.app(0).admin_end_session(&cluster.admin, tokens.session.id, None).await.unwrap();
    let said = cluster.app(0).hub().wait_enforced(&ended, Duration::from_secs(1)).await;
    assert!(!said.counts.complete, "nobody knows what that node has leased");
}

#[tokio::test]
async fn what_one_node_does_counts_at_the_other_at_once() {
    let cluster = Cluster::of(2).await;
    let tokens = sign_in(cluster.app(0), &cluster.ada, false).await.unwrap();
    let next = cluster.app(1).refresh(&tokens.refresh_token, bearer()).await.unwrap();
    // The database decides, however far behind the other node's reader is.
    let caller = cluster.app(0).caller(Some(next.access_token.expose()), None).await.unwrap();
    cluster.app(0).end_mine(&caller, next.session.id, None).await.unwrap();
    let error = cluster.app(1).caller(Some(next.access_token.expose()), None).await.unwrap_err();
    assert_eq!(error.code(), Code::TokenRevoked);
    assert_eq!(cluster.app(1).refresh(&next.refresh_token, bearer()).await.unwrap_err().code(), Code::SessionEnded);
    // A client that is switched off at one node loses its stream at the other, and comes back when it is on again.
    let mut verifier = cluster.verifier(1).await;
    cluster.lease(1, &verifier).await.unwrap();
    cluster.app(0).admin_set_client_disabled(&cluster.admin, verifier.client.id, true).await.unwrap();
    assert!(verifier.leaves(LONG).await);
    assert_eq!(cluster.lease(1, &verifier).await.unwrap_err(), Code::InstanceGone);
    cluster.app(0).admin_set_client_disabled(&cluster.admin, verifier.client.id, false).await.unwrap();
    let on = cluster.store.load_client(verifier.client.id).await.unwrap().unwrap().client;
    cluster.app(1).admin_set_client_disabled(&cluster.admin, on.id, false).await.unwrap();
    let back = Verifier::of_client(cluster.app(1), on).await;
    cluster.lease(1, &back).await.unwrap();
}

#[tokio::test]
async fn the_whole_fleet_is_shown_by_any_node() {
    let mut cluster = Cluster::of(2).await;
    let (one, two) = (cluster.verifier(0).await, cluster.verifier(1).await);
    cluster.lease(0, &one).await.unwrap();
    cluster.lease(1, &two).await.unwrap();
    for n in [0, 1] {
        let all = cluster.app(n).hub().fleet().await.unwrap().instances;
        let nodes: Vec<Option<NodeId>> = all.iter().map(|one| one.node).collect();
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(nodes.contains(&cluster.app(0).hub().node_id()) && nodes.contains(&cluster.app(1).hub().node_id()));
        assert!(all.iter().all(|one| one.listed.leased && one.listed.connected && one.version.is_some()));
    }
    // Work that is done once is one node's, and another's when that one is gone.
    let leads = |cluster: &Cluster| cluster.nodes.iter().filter(|(app, _)| app.hub().leads()).count();
    assert_eq!(leads(&cluster), 1);
    let (first, _) = cluster.nodes.iter().position(|(app, _)| app.hub().leads()).map(|at| (at, ())).unwrap();
    let (_, mut tasks) = cluster.nodes.remove(first);
    tasks.shutdown().await;
    let takes_over = async {
        while leads(&cluster) == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LONG, takes_over).await.expect("another node takes over");
    let late = Cluster::node(&cluster.store, &cluster.master).await;
    assert!(late.0.hub().node_id().is_some());
}

#[tokio::test]
async fn a_node_that_cannot_show_that_it_lives_gives_no_lease() {
    let (held, master) = (Held::new(memory().shared()), MasterKey::generate());
    let mut tasks = JoinSet::new();
    let app = App::start(held.clone(), settings(), master, &mut tasks).await.unwrap();
    let made = app.admin_create_client(&Admin::operator(), "orders", ClientKind::Verifier).await.unwrap();
    let verifier = Verifier::of_client(&app, made.client).await;
    let lease = async || app.hub().acknowledge(verifier.client.id, &verifier.question()).await;
    lease().await.unwrap();
    held.fail_rows.store(true, Ordering::SeqCst);
    let fenced = async {
        while lease().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    // The others take its row away after the leases that it gave until now have ended.
    tokio::time::timeout(LONG, fenced).await.expect("it stops before the others may take it for dead");
    assert_eq!(lease().await.unwrap_err().code(), Code::Unavailable);
    held.fail_rows.store(false, Ordering::SeqCst);
    let again = async {
        while lease().await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(LONG, again).await.expect("it goes on by itself");
}

/// A DPoP proof, as a client makes it.
fn proof(key: &EcdsaKeyPair, nonce: Option<&str>, token: Option<&str>) -> String {
    let point = key.public_key().as_ref();
    let jwk = json!({ "kty": "EC", "crv": "P-256", "x": b64::encode(&point[1..33]), "y": b64::encode(&point[33..]) });
    let header = json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": jwk });
    let mut claims = json!({ "jti": "one", "htm": "POST", "htu": "https://id.example/x", "iat": real::wall().secs() });
    if let Some(nonce) = nonce {
        claims["nonce"] = nonce.into();
    }
    if let Some(token) = token {
        claims["ath"] = b64::encode(&Digest::of(token.as_bytes()).0).into();
        claims["jti"] = "another".into();
    }
    let part = |value: &serde_json::Value| b64::encode(value.to_string().as_bytes());
    let input = format!("{}.{}", part(&header), part(&claims));
    let signature = key.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
    format!("{input}.{}", b64::encode(signature.as_ref()))
}

/// Replayed across nodes (RFC 9449 §11.1, I13): a nonce of the one counts at the other, and a proof at one of them, once.
#[tokio::test]
async fn a_dpop_proof_counts_at_one_node_only() {
    let cluster = Cluster::of(2).await;
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let refused = |error: AppError| match error {
        AppError::Refused(Refused::OAuth { error, .. }) => error.as_str(),
        other => panic!("{other}"),
    };
    let (first, second) = (cluster.app(0), cluster.app(1));
    let call = Call { method: "POST", address: "https://id.example/x", token: None };
    let at_endpoint = proof(&key, Some(&first.dpop_nonce()), None);
    let known = Application::register(first, "an app").await.itself();
    let shown = |app: &App| {
        let (app, known, at_endpoint) = (app.clone(), known.clone(), at_endpoint.clone());
        async move { app.proven_for_endpoint(&known, &at_endpoint, &call, None).await }
    };
    let both = tokio::join!(shown(first), shown(second));
    let outcomes: Vec<_> = [both.0, both.1].into_iter().map(|proven| proven.map(drop).map_err(refused)).collect();
    assert!(outcomes.contains(&Ok(())) && outcomes.contains(&Err("invalid_dpop_proof")), "{outcomes:?}");
    for app in [first, second] {
        assert_eq!(shown(app).await.map(drop).map_err(refused), Err("invalid_dpop_proof"));
    }
    // At a resource of ours.
    let call = Call { token: Some("a token"), ..call };
    let at_resource = proof(&key, None, Some("a token"));
    let shown = |app: &App| app.proven_for_resource(&at_resource, &call).unwrap();
    first.use_up_proof(shown(first)).await.unwrap();
    for app in [second, first] {
        assert_eq!(app.use_up_proof(shown(app)).await.map_err(refused), Err("invalid_dpop_proof"));
    }
}
