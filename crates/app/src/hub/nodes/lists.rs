//! Which instances there are, whichever node they hang on: as each node lists its own, and as their rows say where none does.
use super::{LATE, Nodes, Other, Seen};
use crate::hub::{Hub, instance};
use crate::real;
use portcullis_feed::cluster;
use portcullis_feed::fleet::{self, Stands};
use portcullis_feed::{Mono, Policies};
use portcullis_store::StoreError;
use portcullis_wire::{ClientId, InstanceId, NodeId, Rev};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long the list of verifiers waits for the other nodes.
const LIST_PATIENCE: Duration = Duration::from_secs(2);
/// For how many milliseconds a read of the instances' rows counts, where many want to know at once.
const ROWS_COUNT_FOR: i64 = 1_000;
/// The most instances that a node lists.
const LISTED: usize = 10_000;

/// An instance as its node lists it. Members may come; a node of an older release does not read them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    id: InstanceId,
    name: String,
    client: ClientId,
    policy: String,
    connected: bool,
    leased: bool,
    applied: Option<Rev>,
    heard_ms_ago: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bound_ms: Option<i64>,
    /// Whether the report in the same row counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    counted: Option<bool>,
}

/// An instance, and the node that lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The instance.
    pub listed: fleet::Listed,
    /// The node; `None` where there is only one, or where no node lists it and it is not known on which it hung.
    pub node: Option<NodeId>,
    /// The release that the node runs; `None` where no node lists it.
    pub version: Option<String>,
    /// For how many milliseconds there has been an entry that it has not acknowledged, as far as this node saw; 0: it has all.
    pub lag_ms: Option<i64>,
}

/// The fleet as all nodes and the database know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeFleet {
    /// The head to measure lags by.
    pub head: Rev,
    /// The instances by id. Those that have a row and that no node lists are among them: not connected, and leased as long as a
    /// lease of a node that did not answer can live.
    pub instances: Vec<Placed>,
    /// Other nodes that should have listed theirs, and did not.
    pub silent: Vec<NodeId>,
}

impl Row {
    /// Whether it says the same of the same instance. When that was heard is passed over: it changes with every moment.
    pub(super) fn is_but_for_age(&self, other: &Self) -> bool {
        Self { heard_ms_ago: other.heard_ms_ago, ..self.clone() } == *other
    }
}

/// What the nodes that have spoken say of the instances that have a row.
#[derive(Debug)]
pub(in crate::hub) struct Known {
    rows: BTreeSet<InstanceId>,
    listed: Vec<Stands>,
}

impl Known {
    /// The instances of the nodes that are silent about `rev`. `own`: how this node's stand to it.
    pub(in crate::hub) fn missing(&self, own: &[Stands], rev: Rev) -> cluster::Missing {
        cluster::Missing::of(&self.rows, self.listed.iter().chain(own), rev)
    }
}

/// Somebody wants to see the fleet, until this is dropped: who asked may hang up at any moment.
struct Listing<'a>(&'a Nodes);

impl<'a> Listing<'a> {
    fn begin(nodes: &'a Nodes) -> Self {
        nodes.own().lists += 1;
        nodes.changed.notify_one();
        Self(nodes)
    }
}

impl Drop for Listing<'_> {
    fn drop(&mut self) {
        self.0.own().lists -= 1;
        self.0.changed.notify_one();
    }
}

impl Other {
    /// What it lists, unless that is too old to count: a node that died may have been listing.
    fn list(&self, now: Mono) -> Option<&[Row]> {
        self.body.as_ref()?.list.as_deref().filter(|_| now.since(self.seen) <= LATE)
    }
}

impl Hub {
    /// The whole fleet: this node's instances, those that others list within two seconds, and those that only have a row.
    ///
    /// # Errors
    /// The rows could not be read.
    pub async fn fleet(&self) -> Result<WholeFleet, StoreError> {
        let node = self.node_id();
        let Some(nodes) = self.nodes() else {
            let (head, own) = self.instances();
            let instances = own.into_iter().map(|listed| self.placed(listed, node, Some(version()))).collect();
            return Ok(WholeFleet { head, instances, silent: Vec::new() });
        };
        // The rows first: who comes meanwhile is none of them, or is listed.
        let rows = self.inner.store.list_instances().await?;
        let others = nodes.lists_of_others(LIST_PATIENCE, |other, now| !other.is_late(now)).await;
        let (head, own) = self.instances();
        let now = real::mono();
        let mut unlisted: BTreeSet<InstanceId> = rows.iter().map(|row| row.id).collect();
        cluster::strike_listed(&mut unlisted, &own.iter().map(|listed| listed.instance.id).collect(), usize::MAX);
        let mut all: Vec<Placed> = own.into_iter().map(|listed| self.placed(listed, node, Some(version()))).collect();
        let mut without_list = Vec::new();
        for (id, other) in others.iter() {
            let (Some(list), Some(body)) = (other.list(now), &other.body) else {
                without_list.push((*id, other));
                continue;
            };
            cluster::strike_listed(&mut unlisted, &list.iter().map(|row| row.id).collect(), LISTED);
            // A row is not written anew because time goes by.
            let age = now.since(other.seen).max(0);
            let rows = list.iter().cloned().filter_map(listed).map(|row| {
                let heard_ms_ago = row.heard_ms_ago.map(|ms| ms.saturating_add(age));
                fleet::Listed { heard_ms_ago, ..row }
            });
            all.extend(rows.map(|listed| self.placed(listed, Some(*id), Some(body.version.clone()))));
        }
        // One that several nodes know is where it was heard of last.
        all.sort_by_key(|one| (one.listed.instance.id, one.listed.heard_ms_ago.unwrap_or(i64::MAX)));
        all.dedup_by_key(|one| one.listed.instance.id);
        let bounded_by_ms = self.state().fleet.bounded_by_ms(now);
        let leased = without_list.iter().any(|(_, other)| !other.is_gone(now, bounded_by_ms));
        let hung_on = match without_list.as_slice() {
            [(only, _)] => Some(*only),
            _ => None,
        };
        all.extend(rows.iter().filter(|row| unlisted.contains(&row.id)).map(|row| {
            let listed =
                fleet::Listed { instance: instance(row), connected: false, leased, applied: None, heard_ms_ago: None };
            Placed { listed, node: hung_on, version: None, lag_ms: None }
        }));
        all.sort_by_key(|one| one.listed.instance.id);
        let silent = without_list.iter().filter(|(_, other)| !other.has_left()).map(|(id, _)| *id).collect();
        Ok(WholeFleet { head, instances: all, silent })
    }

    /// Instances that have a row and that no node knows, as far as all nodes say so.
    ///
    /// # Errors
    /// The rows could not be read.
    pub async fn instances_nowhere(&self) -> Result<BTreeSet<InstanceId>, StoreError> {
        let Some(nodes) = self.nodes() else { return Ok(BTreeSet::new()) };
        // The rows first: who comes meanwhile is none of them, or is listed.
        let rows = self.inner.store.list_instances().await?;
        let mut nowhere: BTreeSet<InstanceId> = rows.into_iter().map(|row| row.id).collect();
        let others = nodes.lists_of_others(LIST_PATIENCE, |_, _| true).await;
        let now = real::mono();
        for other in others.values() {
            let Some(list) = other.list(now) else { return Ok(BTreeSet::new()) };
            cluster::strike_listed(&mut nowhere, &list.iter().map(|row| row.id).collect(), LISTED);
        }
        let state = self.state();
        nowhere.retain(|id| !state.secrets.contains_key(id));
        Ok(nowhere)
    }

    /// What the nodes that have spoken about `rev` say of the instances that have a row; `None` when the rows cannot be read, or
    /// one of those nodes does not list its own in time.
    pub(in crate::hub) async fn known_of_all(&self, rev: Rev) -> Option<Known> {
        let nodes = self.nodes()?;
        let (_, committed) = self.committed_at(rev);
        let mut rows = match self.rows_since(nodes, committed).await {
            Ok(rows) => (*rows).clone(),
            Err(error) => {
                tracing::warn!(%error, "the rows of the instances could not be read");
                return None;
            }
        };
        let spoke = |other: &Other| {
            let report = other.body.as_ref().and_then(|body| body.report.as_ref());
            cluster::all_spoke(rev, &[report])
        };
        let others = nodes.lists_of_others(LIST_PATIENCE, |other, now| spoke(other) && !other.is_late(now)).await;
        let (mut listed, now) = (Vec::new(), real::mono());
        for other in others.values().filter(|other| spoke(other)) {
            let list = match other.list(now) {
                Some(list) => list,
                // It spoke, and died: its report counts, and whom it counted nobody can name.
                None if other.is_late(now) || other.has_left() => continue,
                None => return None,
            };
            if list.len() >= LISTED {
                cluster::strike_listed(&mut rows, &list.iter().map(|row| row.id).collect(), LISTED);
            }
            let stands =
                |row: &Row| Stands { id: row.id, counted: row.counted.unwrap_or(row.leased), applied: row.applied };
            listed.extend(list.iter().map(stands));
        }
        Some(Known { rows, listed })
    }

    /// Who has a row, by a read that began after this moment and not long ago: all who wait while a node is silent share it.
    async fn rows_since(&self, nodes: &Nodes, after: Mono) -> Result<Arc<BTreeSet<InstanceId>>, StoreError> {
        let mut last = nodes.instances.lock().await;
        let began = real::mono();
        let fits = |(read, _): &&(Mono, _)| *read >= after && began.since(*read) <= ROWS_COUNT_FOR;
        if let Some((_, rows)) = last.as_ref().filter(fits) {
            return Ok(rows.clone());
        }
        let rows = self.inner.store.list_instances().await?;
        let rows: Arc<BTreeSet<InstanceId>> = Arc::new(rows.into_iter().map(|row| row.id).collect());
        *last = Some((began, rows.clone()));
        Ok(rows)
    }

    /// This node's instances, for the others; `rev`: what the report beside is about.
    pub(super) fn lists(&self, rev: Option<Rev>) -> Vec<Row> {
        let (_, listed) = self.instances();
        let counted: Option<BTreeSet<InstanceId>> = rev.map(|rev| {
            let (now, committed) = self.committed_at(rev);
            let stands = self.state().fleet.stands(rev, committed, now);
            stands.iter().filter(|one| one.counted).map(|one| one.id).collect()
        });
        let row = |listed: &fleet::Listed| {
            let counted = counted.as_ref().map(|counted| counted.contains(&listed.instance.id));
            Row { counted, ..row(listed) }
        };
        listed.iter().take(LISTED).map(row).collect()
    }

    fn placed(&self, listed: fleet::Listed, node: Option<NodeId>, version: Option<String>) -> Placed {
        let (now, state) = (real::mono(), self.state());
        let behind = |applied: Rev| applied < state.publisher.head();
        let since = |applied: Rev| applied.next().and_then(|next| state.fleet.committed_at(next));
        let lag_ms = listed.applied.and_then(|applied| match behind(applied) {
            true => since(applied).map(|at| now.since(at).max(0)),
            false => Some(0),
        });
        Placed { listed, node, version, lag_ms }
    }
}

impl Nodes {
    /// The other nodes, once each that `counts` and goes on has listed its instances, or when the patience is over.
    async fn lists_of_others(
        &self,
        patience: Duration,
        counts: impl Fn(&Other, Mono) -> bool,
    ) -> Arc<BTreeMap<NodeId, Other>> {
        let _listing = Listing::begin(self);
        let mut seen = self.seen.subscribe();
        let begun = real::mono();
        let listed = |seen: &Seen| {
            let now = real::mono();
            seen.others.values().all(|other| other.has_left() || !counts(other, now) || other.list(now).is_some())
        };
        let complete = seen.wait_for(|seen| seen.began >= begun && listed(seen));
        let _ = tokio::time::timeout(patience, complete).await;
        self.seen.borrow().others.clone()
    }
}

fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

fn row(listed: &fleet::Listed) -> Row {
    let fleet::Listed { instance, connected, leased, applied, heard_ms_ago } = listed;
    Row {
        id: instance.id,
        name: instance.name.clone(),
        client: instance.client,
        policy: instance.policies.to_string(),
        connected: *connected,
        leased: *leased,
        applied: *applied,
        heard_ms_ago: *heard_ms_ago,
        bound_ms: instance.bound_ms,
        counted: None,
    }
}

fn listed(row: Row) -> Option<fleet::Listed> {
    let policies: Policies = row.policy.parse().ok()?;
    let bound_ms = row.bound_ms;
    Some(fleet::Listed {
        instance: fleet::Instance { id: row.id, name: row.name, client: row.client, policies, bound_ms },
        connected: row.connected,
        leased: row.leased,
        applied: row.applied,
        heard_ms_ago: row.heard_ms_ago,
    })
}

#[cfg(test)]
mod tests {
    use super::super::Body;
    use super::*;

    /// What the release before lists is read, and what this one lists is what that one reads.
    #[test]
    fn rows_of_the_release_before_are_read() {
        let before = r#"{"id":"ID","name":"v","client":"CLIENT","policy":"closed","connected":true,"leased":true,
            "applied":3,"heard_ms_ago":5}"#;
        let (id, client) = (InstanceId::from_bits(7), ClientId::from_bits(8));
        let before = before.replace("CLIENT", &client.to_string()).replace("ID", &id.to_string());
        let read: Row = serde_json::from_str(&before).unwrap();
        assert_eq!((read.id, read.bound_ms, read.counted), (id, None, None));
        let one = listed(read.clone()).unwrap();
        assert_eq!((one.instance.bound_ms, one.applied), (None, Some(Rev(3))));
        assert_eq!(row(&one), read);
        let told = fleet::Listed { instance: fleet::Instance { bound_ms: Some(5_000), ..one.instance }, ..one };
        assert_eq!(listed(row(&told)).unwrap(), told);
        // A member that is not known, as `bound_ms` is to the release before, is passed over.
        let later = before.replace("\"applied\"", "\"comes_later\":1,\"applied\"");
        assert_eq!(serde_json::from_str::<Row>(&later).unwrap(), read);
    }
    /// Who asks may hang up: then nobody wants the list any more, and no other node goes on writing it.
    #[tokio::test]
    async fn who_hangs_up_wants_no_list() {
        let nodes = Nodes::new(NodeId::from_bits(1), real::mono());
        let now = real::mono();
        let silent = Other { beat: 1, seen: now, known: now, body: None };
        let others = Arc::new(BTreeMap::from([(NodeId::from_bits(2), silent)]));
        nodes.seen.send_replace(Seen { began: now.plus(60_000), others });
        let asked = nodes.lists_of_others(LIST_PATIENCE, |_, _| true);
        let wants = async {
            while nodes.own().lists == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = asked => panic!("a node that lists nothing is waited for"),
            () = wants => {}
        }
        assert_eq!(nodes.own().lists, 0, "somebody who has gone is waited with");
    }

    /// Nobody writes a list anew because time goes by; for whatever else it says, at once.
    #[test]
    fn a_list_is_written_for_news_only() {
        let row = Row {
            id: InstanceId::from_bits(7),
            name: "v".into(),
            client: ClientId::from_bits(8),
            policy: "closed".into(),
            connected: true,
            leased: true,
            applied: Some(Rev(3)),
            heard_ms_ago: Some(5),
            bound_ms: None,
            counted: None,
        };
        let body = |list: Option<Vec<Row>>| Body {
            version: version(),
            asks: None,
            report: None,
            wants_list: false,
            list,
            told: None,
            rolled_back: None,
            left: false,
        };
        let written = body(Some(vec![row.clone()]));
        let later = Row { heard_ms_ago: Some(9), ..row.clone() };
        assert!(body(Some(vec![later.clone()])).says_nothing_new_after(&written));
        for news in [Row { applied: Some(Rev(4)), ..later.clone() }, Row { connected: false, ..later.clone() }] {
            assert!(!body(Some(vec![news])).says_nothing_new_after(&written));
        }
        for news in [body(None), body(Some(Vec::new())), body(Some(vec![row.clone(), later.clone()]))] {
            assert!(!news.says_nothing_new_after(&written) && news.says_nothing_new_after(&news));
        }
        assert!(!Body { wants_list: true, ..body(Some(vec![later])) }.says_nothing_new_after(&written));
    }
}
