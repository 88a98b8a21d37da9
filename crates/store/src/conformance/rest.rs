//! Clients, verifier instances, keys, the bound, repeated calls.
use super::{Backend, START, World, conflict, end, wait};
use crate::NodeRow;
use portcullis_domain::Cut;
use portcullis_domain::changes::{BoundRow, Change, Changes, Conflict, Idempotency, Revoke};
use portcullis_domain::client::Profile;
use portcullis_domain::model::{Client, ClientKind, Instance, Key, KeyPurpose};
use portcullis_wire::{
    ClientId, Digest, InstanceId, KeyId, NodeId, Rev, RunId, SecretBytes, SessionId, Target, Time, Verb,
};

pub(super) fn clients_come_back_as_they_were(backend: &dyn Backend) {
    let w = World::new(backend);
    let load = |id| wait(w.store.load_client(id)).unwrap().unwrap().client;
    for (kind, secret) in [
        (ClientKind::Verifier, Some(Digest::of(b"x"))),
        (ClientKind::Confidential, Some(Digest::of(b"y"))),
        (ClientKind::Public, None),
    ] {
        let row = Client {
            id: ClientId::from_bits(w.bits()),
            name: "Ünïcode".into(),
            kind,
            secret,
            old_secret: None,
            profile: Profile::default(),
            version: 1,
            disabled: true,
            created_at: START.plus(3),
            cut: Cut { rev: Rev(5), except: Some(SessionId::from_bits(3)) },
        };
        w.ok([Change::InsertClient(row.clone())]);
        assert_eq!(load(row.id), row);
        assert_eq!(load(row.id).secret.map(|d| d.0), secret.map(|d| d.0));
        assert_eq!(w.conflict([Change::InsertClient(row.clone())]), Conflict::Moved);
        w.ok([Change::SetClientDisabled { client: row.id, disabled: false }]);
        assert_eq!(load(row.id), Client { disabled: false, ..row });
    }
    let nobody = Change::SetClientDisabled { client: ClientId::from_bits(1), disabled: true };
    assert_eq!(w.conflict([nobody]), Conflict::Missing);
    assert_eq!(w.conflict([Change::InsertClient(load(ClientId::FIRST_PARTY))]), Conflict::Moved);
}

pub(super) fn instances_come_and_go(backend: &dyn Backend) {
    let w = World::new(backend);
    let row = |n: u128| Instance {
        id: InstanceId::from_bits(n),
        client: ClientId::from_bits(4),
        name: format!("api-{n}"),
        policy: "closed".into(),
        bound_ms: 5000,
        secret: Digest::of(&n.to_be_bytes()),
        created_at: START,
    };
    w.ok([3, 1, 2].map(|n| Change::InsertInstance(row(n))));
    assert_eq!(wait(w.store.list_instances()).unwrap(), [row(1), row(2), row(3)]);
    assert_eq!(w.conflict([Change::InsertInstance(row(1))]), Conflict::Moved);
    // Who it is stays: only name, policy and bound are a reconnect's to say.
    let wanted = Instance {
        name: "new".into(),
        policy: "open".into(),
        bound_ms: 100,
        client: ClientId::from_bits(5),
        secret: Digest::of(b"other"),
        created_at: START.plus(1),
        ..row(2)
    };
    w.ok([Change::UpdateInstance(wanted)]);
    let changed = Instance { name: "new".into(), policy: "open".into(), bound_ms: 100, ..row(2) };
    assert_eq!(wait(w.store.list_instances()).unwrap()[1], changed);
    assert_eq!(w.conflict([Change::UpdateInstance(row(9))]), Conflict::Missing);
    w.ok([Change::RemoveInstances(vec![InstanceId::from_bits(1), InstanceId::from_bits(9), InstanceId::from_bits(3)])]);
    assert_eq!(wait(w.store.list_instances()).unwrap(), [changed]);
}

/// Rows of nodes, where several share a database; where they cannot, all of it is refused.
pub(super) fn nodes_have_rows_where_they_share(backend: &dyn Backend) {
    let w = World::new(backend);
    let row = |n: u128, beat| NodeRow { id: NodeId::from_bits(n), beat, body: format!("{{\"says\":\"ü{n}\"}}") };
    if !w.store.is_shared() {
        assert!(wait(w.store.put_node(row(1, 1))).is_err() && wait(w.store.list_nodes()).is_err());
        return;
    }
    assert_eq!(wait(w.store.list_nodes()).unwrap(), []);
    for one in [row(2, 1), row(1, 1), row(2, 2)] {
        wait(w.store.put_node(one)).unwrap();
    }
    assert_eq!(wait(w.store.list_nodes()).unwrap(), [row(1, 1), row(2, 2)]);
    // A node that has spoken meanwhile is not removed.
    assert!(!wait(w.store.remove_node(NodeId::from_bits(2), 1)).unwrap());
    assert!(wait(w.store.remove_node(NodeId::from_bits(2), 2)).unwrap());
    assert!(!wait(w.store.remove_node(NodeId::from_bits(2), 2)).unwrap());
    assert_eq!(wait(w.store.list_nodes()).unwrap(), [row(1, 1)]);
    let instance = Instance {
        id: InstanceId::from_bits(7),
        client: ClientId::from_bits(4),
        name: "api".into(),
        policy: "closed".into(),
        bound_ms: 5000,
        secret: Digest::of(b"x"),
        created_at: START,
    };
    w.ok([Change::InsertInstance(instance.clone())]);
    assert_eq!(wait(w.store.load_instance(instance.id)).unwrap(), Some(instance));
    assert_eq!(wait(w.store.load_instance(InstanceId::from_bits(8))).unwrap(), None);
}

pub(super) fn keys_come_back_as_they_were(backend: &dyn Backend) {
    let w = World::new(backend);
    let row = |id, purpose| Key {
        id: KeyId(id),
        purpose,
        public_jwk: format!("{{\"kid\":{id}}}"),
        sealed: SecretBytes::new(vec![0, 255, id as u8]),
        created_at: START,
        active_from: None,
        retired_at: Some(START.plus(9)),
        dead: None,
    };
    w.ok([Change::InsertKey(row(u32::MAX, KeyPurpose::Mac)), Change::InsertKey(row(2, KeyPurpose::Es256))]);
    w.ok([Change::InsertKey(Key { dead: Some(Rev(7)), ..row(1, KeyPurpose::Mac) })]);
    assert_eq!(w.conflict([Change::InsertKey(row(2, KeyPurpose::Mac))]), Conflict::Moved);
    let show = |key: &Key| format!("{key:?} {:?}", key.sealed.expose());
    let keys = || wait(w.store.list_keys()).unwrap().iter().map(show).collect::<Vec<_>>();
    let dead = Key { dead: Some(Rev(7)), ..row(1, KeyPurpose::Mac) };
    assert_eq!(keys(), [show(&dead), show(&row(2, KeyPurpose::Es256)), show(&row(u32::MAX, KeyPurpose::Mac))]);
    let times = |key, active_from, retired_at| Change::SetKeyTimes { key: KeyId(key), active_from, retired_at };
    w.ok([times(2, Some(START), None)]);
    let changed = Key { active_from: Some(START), retired_at: None, ..row(2, KeyPurpose::Es256) };
    assert_eq!(keys()[1], show(&changed));
    assert_eq!(w.conflict([times(3, None, None)]), Conflict::Missing);
    for purpose in KeyPurpose::ALL {
        let id = 10 + *purpose as u32;
        w.ok([Change::InsertKey(row(id, *purpose))]);
        assert!(keys().contains(&show(&row(id, *purpose))));
    }
}

pub(super) fn keys_are_sealed_anew_by_one_at_a_time(backend: &dyn Backend) {
    let w = World::new(backend);
    let bytes = |n: u8| SecretBytes::new(vec![n; usize::from(n)]);
    let row = |id, sealed| Key {
        id: KeyId(id),
        purpose: KeyPurpose::Rs256,
        public_jwk: String::new(),
        sealed,
        created_at: START,
        active_from: None,
        retired_at: None,
        dead: None,
    };
    w.ok([Change::InsertKey(row(1, bytes(1))), Change::InsertKey(row(2, bytes(2)))]);
    let sealed = || wait(w.store.list_keys()).unwrap().iter().map(|key| key.sealed.expose().len()).collect::<Vec<_>>();
    let seal = |key, before, sealed| Change::SetKeySealed { key: KeyId(key), before, sealed };
    w.ok([seal(1, bytes(1), bytes(5)), seal(2, bytes(2), bytes(0))]);
    assert_eq!(sealed(), [5, 0]);
    // Whoever has not seen that changes nothing, the other key neither.
    assert_eq!(w.conflict([seal(2, bytes(0), bytes(7)), seal(1, bytes(1), bytes(6))]), Conflict::Moved);
    assert_eq!(w.conflict([seal(3, bytes(0), bytes(1))]), Conflict::Missing);
    assert_eq!(sealed(), [5, 0]);
}

pub(super) fn a_key_dies_once(backend: &dyn Backend) {
    let w = World::new(backend);
    let key = |id| Key {
        id: KeyId(id),
        purpose: KeyPurpose::Ed25519,
        public_jwk: String::new(),
        sealed: SecretBytes::new([1]),
        created_at: START,
        active_from: Some(START),
        retired_at: None,
        dead: None,
    };
    w.ok([Change::InsertKey(key(1)), Change::InsertKey(key(2))]);
    let dies = |id| {
        Change::Revoke(Revoke {
            verb: Verb::Key,
            target: Target::Key(KeyId(id)),
            except: None,
            spread_ms: None,
            owner: None,
            reason: "r".into(),
        })
    };
    let done = w.ok([dies(1)]);
    assert_eq!((done.rev, done.ended), (Some(Rev(1)), Some(0)), "no session ends with it");
    assert_eq!(w.conflict([dies(1)]), Conflict::Moved);
    // Its death is not undone by what is written to it later, nor by forgetting the entry.
    w.ok([Change::SetKeyTimes { key: KeyId(1), active_from: None, retired_at: None }]);
    w.ok([Change::RaiseFloor(Time(i64::MAX))]);
    assert!(wait(w.store.read_live()).unwrap().1.is_empty());
    let dead: Vec<_> = wait(w.store.list_keys()).unwrap().iter().map(|key| key.dead).collect();
    assert_eq!(dead, [Some(Rev(1)), None]);
    assert_eq!(w.conflict([dies(1)]), Conflict::Moved);
}

pub(super) fn the_bound_is_kept(backend: &dyn Backend) {
    let w = World::new(backend);
    for row in [
        BoundRow { current_ms: 5000, next_ms: 2000, next_from: START.plus(5000) },
        BoundRow { current_ms: 1, next_ms: i64::MAX as u64, next_from: START },
    ] {
        w.ok([Change::SetBound(row)]);
        assert_eq!(wait(w.store.load_bound()).unwrap(), Some(row));
    }
}

pub(super) fn the_run_is_kept_where_one_node_writes(backend: &dyn Backend) {
    let w = World::new(backend);
    let last = || wait(w.store.load_run()).unwrap();
    assert_eq!(last(), None);
    if w.store.is_shared() {
        return;
    }
    for run in [1, u128::MAX] {
        w.ok([Change::SetRun(RunId::from_bits(run)), Change::RaiseFloor(Time(1))]);
        assert_eq!(last(), Some(RunId::from_bits(run)));
    }
}

pub(super) fn a_repeated_call_is_remembered(backend: &dyn Backend) {
    let (w, ada, ..) = World::peopled(backend);
    let call = |actor: &str, key: &str, made: Option<&str>| Idempotency {
        actor: actor.into(),
        key: key.into(),
        request: Digest::of(key.as_bytes()),
        made: made.map(Into::into),
    };
    let act = |idempotency| Changes {
        steps: vec![end(Target::Account(ada.id), None)],
        idempotency: Some(idempotency),
        ..Changes::default()
    };
    let done = w.commit(act(call("a", "k", None))).unwrap();
    assert_eq!((done.rev, done.ended), (Some(Rev(1)), Some(1)));
    let load = |actor, key| wait(w.store.load_remembered(actor, key)).unwrap();
    let row = load("a", "k").unwrap();
    assert_eq!((row.rev, row.ended, row.made, row.at), (done.rev, done.ended, None, START));
    assert_eq!(row.request.0, Digest::of(b"k").0);

    assert_eq!(conflict(w.commit(act(call("a", "k", None)))), Conflict::Repeated);
    assert_eq!(wait(w.store.stamp()).unwrap().head, Rev(1), "and nothing was done");
    w.set(START.plus(10));
    w.commit(act(call("b", "k", None))).unwrap();
    w.commit(act(call("a", "K", Some("acc_1")))).unwrap();
    assert_eq!(load("a", "K").unwrap().made.as_deref(), Some("acc_1"));
    assert_eq!(load("b", "k").unwrap().at, START.plus(10));
    // One that writes no entry is remembered too.
    let rename = Change::SetProfile { account: ada.id, name: None, roles: vec![] };
    w.commit(Changes { steps: vec![rename], ..act(call("c", "", None)) }).unwrap();
    let row = load("c", "").unwrap();
    assert_eq!((row.rev, row.ended), (None, None));

    w.ok([Change::ForgetIdempotency(START.plus(10))]);
    assert!(load("a", "k").is_none() && load("b", "k").is_some());
    assert_eq!(w.commit(act(call("a", "k", None))).unwrap().rev, Some(Rev(4)));
}
